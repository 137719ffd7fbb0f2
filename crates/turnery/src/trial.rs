//! What a first start makes and tells, and what `--dev` adds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use control::IceUrls;
use control::store::{Bootstrapped, NewKey, Store, TurnKey};
use credentials::{Claims, Credential, CustomIdentifier, Keyring, TurnKeyId};
use tempfile::TempDir;

use crate::announce::{self, Api, FirstStart, Trial};
use crate::config::Settings;
use crate::keyring_file::{prepare_data_dir, unix_now};

/// The key that `--dev` makes is found again by its name.
const DEV_KEY_NAME: &str = "dev";
const DEV_TTL_SECS: u32 = 86_400;

/// Makes the first account and token where there is none, with `--dev` a key, and tells of them.
pub(crate) async fn begin(
    settings: &Settings,
    (store, keyring): (&Store, &Keyring),
    (ice, data_dir): (&IceUrls, &DataDir),
    api: Api,
) -> Result<Option<DevKey>> {
    let first = bootstrap(settings, store).await?;
    let trial = if settings.dev { Some(DevKey::find_or_make(store, keyring).await?) } else { None };

    // At once: nothing that fails later may hide a token that exists.
    let token_was_given = settings.bootstrap_token.is_some();
    let first = first.as_ref().map(|made| FirstStart { made, token_was_given });
    let shown = trial.as_ref().map(|it| it.shown(ice, data_dir));
    announce::people(api, first.as_ref(), shown.as_ref())?;
    Ok(trial)
}

/// Where the data is.
pub(crate) enum DataDir {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl DataDir {
    pub(crate) fn prepare(settings: &Settings) -> Result<Self> {
        if let Some(dir) = &settings.place.data_dir {
            prepare_data_dir(dir)?;
            return Ok(Self::Kept(dir.clone()));
        }
        let made = tempfile::Builder::new().prefix("turnery-dev-").tempdir();
        Ok(Self::Temporary(made.context("cannot make a temporary data directory; give --data-dir")?))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// The key that `--dev` shows, and a credential of it.
pub(crate) struct DevKey {
    key: TurnKey,
    account: control::store::AccountId,
    /// Only of a key that was made just now.
    secret: Option<String>,
    credential: Credential,
}

impl DevKey {
    pub(crate) fn uid(&self) -> TurnKeyId {
        self.key.uid
    }

    async fn find_or_make(store: &Store, keyring: &Keyring) -> Result<Self> {
        let accounts = store.accounts().await?;
        let account = accounts.first().context("there is no account")?.id.clone();
        let found = store.keys(&account).await?.into_iter().find(|key| key.name == DEV_KEY_NAME);
        let (key, secret) = match found {
            Some(key) => (key, None),
            None => {
                let NewKey { key, secret, .. } = store.create_key(&account, DEV_KEY_NAME).await?;
                (key, Some(secret))
            }
        };
        let claims = Claims {
            key: key.uid,
            issued_at: unix_now(),
            ttl_secs: DEV_TTL_SECS,
            custom_identifier: CustomIdentifier::default(),
        };
        let credential = keyring.mint(&claims)?;
        Ok(Self { key, account, secret, credential })
    }

    fn shown<'a>(&'a self, ice: &'a IceUrls, data_dir: &'a DataDir) -> Trial<'a> {
        Trial {
            account: &self.account,
            key: &self.key,
            secret: self.secret.as_deref(),
            credential: &self.credential,
            ice,
            data_dir: data_dir.path(),
            is_temporary: matches!(data_dir, DataDir::Temporary(_)),
        }
    }
}

async fn bootstrap(settings: &Settings, store: &Store) -> Result<Option<Bootstrapped>> {
    let (account, token) = (settings.bootstrap_account.clone(), settings.bootstrap_token.clone());
    Ok(store.bootstrap(account, token).await?)
}
