//! The commands that change what is stored. A running service need not be told: it reads the same store, follows the
//! deny feed, and watches the keyring.

mod audit;
mod certificates;
mod copy;
mod keyring;
mod keys;
mod limits;
mod month;
mod nodes;
mod secrets;
mod usage;
mod webhooks;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use control::store::{AccountId, Actor, ActorKind, ApiToken, Store, TurnKey};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{AccountCommand, AuditCommand, KeyCommand, Output, Owner, TokenCommand, WebhookCommand};
use crate::config::Place;
use crate::keyring_file::prepare_data_dir;
use crate::keyring_source::KeyringSource;
use crate::table::{printable, table};

pub(crate) use certificates::certificates;
pub(crate) use copy::store;
pub(crate) use keyring::{keyring, new_key};
pub(crate) use nodes::nodes;
pub(crate) use usage::{sessions, usage};

const STORE_NAME: &str = "turnery.db";

impl Place {
    /// The store's URL.
    pub(crate) fn store_url(&self, data_dir: &Path) -> String {
        let default = || format!("sqlite:{}", data_dir.join(STORE_NAME).display());
        self.store.clone().unwrap_or_else(default)
    }

    fn dir(&self) -> Result<PathBuf> {
        self.data_dir.clone().context("where the data is is not known: give --data-dir")
    }

    /// Where the keyring is.
    fn keyring(&self) -> Result<KeyringSource> {
        KeyringSource::of(self, &self.dir()?)
    }

    /// Whether there is a store, as far as that can be seen from outside.
    fn has_store(&self) -> Result<bool> {
        let url = self.store_url(&self.dir()?);
        Ok(url
            .strip_prefix("sqlite:")
            .is_none_or(|path| Path::new(path.strip_prefix("//").unwrap_or(path)).exists()))
    }

    /// Opens the store, which must exist: a mistyped path would otherwise be an empty store.
    async fn open_store(&self) -> Result<Store> {
        let url = self.store_url(&self.dir()?);
        expect_file(&url)?;
        Ok(Store::open(&url).await?.acting_as(operator()))
    }

    async fn open_or_create_store(&self) -> Result<Store> {
        let dir = self.dir()?;
        prepare_data_dir(&dir)?;
        Ok(Store::open(&self.store_url(&dir)).await?.acting_as(operator()))
    }
}

/// That the file of a store in SQLite exists.
fn expect_file(url: &str) -> Result<()> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        ensure!(
            path.exists(),
            "there is no store {}; `turnery serve` and `turnery account create` make one, or name the right \
             --data-dir",
            path.display()
        );
    }
    Ok(())
}

/// Whoever is at the command line, for the audit log.
fn operator() -> Actor {
    let user = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty() && user.len() <= 255);
    Actor::new(ActorKind::Cli, "", user("SUDO_USER").or_else(|| user("USER")).unwrap_or_default())
}

pub(crate) async fn account(place: &Place, command: AccountCommand) -> Result<()> {
    match command {
        AccountCommand::List { output } => {
            let accounts = place.open_store().await?.accounts().await?;
            let rows: Vec<_> = accounts
                .iter()
                .map(|it| [it.id.to_string(), it.created_on.to_string(), printable(&it.name)])
                .collect();
            output.show(&accounts, || table(["ID", "CREATED", "NAME"], &rows, "There is no account."))
        }
        AccountCommand::Create { name, id, output } => {
            let store = place.open_or_create_store().await?;
            let made = store.create_account(id, &name).await?;
            output.show(&made, || format!("account  {}\n", made.id))
        }
        AccountCommand::Delete { id, output } => {
            let gone = place.open_store().await?.delete_account(&id).await?;
            let gone = gone.with_context(|| format!("there is no account {id}"))?;
            output.show(&gone, || format!("Deleted account {} with its tokens and keys.\n", gone.id))
        }
    }
}

pub(crate) async fn token(place: &Place, command: TokenCommand) -> Result<()> {
    let store = place.open_store().await?;
    match command {
        TokenCommand::List { owner, output } => {
            let tokens = store.tokens(&owner.resolve(&store).await?).await?;
            let rows: Vec<_> = tokens.iter().map(token_row).collect();
            let headings = ["ID", "PERMISSION", "CREATED", "EXPIRES", "STATUS", "NAME"];
            output.show(&tokens, || table(headings, &rows, "The account has no API token."))
        }
        TokenCommand::Create { name, permission, expires, owner, output } => {
            let account = owner.resolve(&store).await?;
            let made = store.create_token(&account, &name, permission, expires, None).await?;
            let text = made.text.as_str();
            output.show(&with(&made.token, &[("token", text)])?, || {
                format!(
                    "id          {}\naccount     {account}\npermission  {permission}\ntoken       {text}\n\n\
                     The token is shown this once and can never be read again.\n",
                    made.token.id
                )
            })
        }
        TokenCommand::Delete { id, output } => {
            let gone = store.delete_token(&id).await?;
            let gone = gone.with_context(|| format!("there is no API token {id}"))?;
            output.show(&gone, || format!("Deleted API token {}.\n", gone.id))
        }
    }
}

fn token_row(token: &ApiToken) -> [String; 6] {
    [
        token.id.to_string(),
        token.permission.to_string(),
        token.created_on.to_string(),
        token.expires_on.map_or_else(|| "never".to_owned(), |time| time.to_string()),
        match token.status {
            control::store::TokenStatus::Active => "active".to_owned(),
            control::store::TokenStatus::Disabled => "disabled".to_owned(),
        },
        printable(&token.name),
    ]
}

pub(crate) async fn key(place: &Place, command: KeyCommand) -> Result<()> {
    let store = place.open_store().await?;
    match command {
        KeyCommand::Limits { uid, change, owner, output } => {
            limits::limits(&store, uid, &change, (owner, output)).await
        }
        KeyCommand::MonthLimit { uid, change, owner, output } => {
            month::limit(&store, uid, change, (owner, output)).await
        }
        KeyCommand::Roll { uid, overlap_secs, owner, output } => {
            keys::roll(&store, uid, overlap_secs, (owner, output)).await
        }
        KeyCommand::Suspend { uid, owner, output } => keys::suspend(&store, uid, true, (owner, output)).await,
        KeyCommand::Resume { uid, owner, output } => keys::suspend(&store, uid, false, (owner, output)).await,
        KeyCommand::Status { uid, owner, output } => keys::status(&store, uid, (owner, output)).await,
        KeyCommand::Revocations { uid, owner, output } => {
            keys::revocations(&store, uid, (owner, output)).await
        }
        KeyCommand::Secret(command) => secrets::secret(place, &store, command).await,
        KeyCommand::List { owner, output } => {
            let keys = store.keys(&owner.resolve(&store).await?).await?;
            let row = |it: &TurnKey| {
                [it.uid.to_string(), it.created.to_string(), it.modified.to_string(), printable(&it.name)]
            };
            let rows: Vec<_> = keys.iter().map(row).collect();
            let headings = ["UID", "CREATED", "MODIFIED", "NAME"];
            output.show(&keys, || table(headings, &rows, "The account has no TURN key."))
        }
        KeyCommand::Create { name, owner, output } => {
            let account = owner.resolve(&store).await?;
            let made = store.create_key(&account, &name).await?;
            let secret = made.secret.as_str();
            // As in the API's answer, the secret stands under both of its names.
            output.show(&with(&made.key, &[("key", secret), ("secret", secret)])?, || {
                format!(
                    "uid     {}\nsecret  {secret}\n\nThe secret is shown this once and can never be read again.\n",
                    made.key.uid
                )
            })
        }
        KeyCommand::Rename { uid, name, owner, output } => {
            let account = owner.resolve(&store).await?;
            let key = store.rename_key(&account, uid, &name).await?;
            let key = key.with_context(|| format!("account {account} has no TURN key {uid}"))?;
            output.show(&key, || format!("TURN key {uid} is now called {:?}.\n", key.name))
        }
        KeyCommand::Delete { uid, owner, output } => {
            let account = owner.resolve(&store).await?;
            let gone = store.delete_key(&account, uid).await?;
            let gone = gone.with_context(|| format!("account {account} has no TURN key {uid}"))?;
            output.show(&gone, || format!("Deleted TURN key {uid}; its credentials are refused.\n"))
        }
    }
}

pub(crate) async fn audit(place: &Place, command: AuditCommand) -> Result<()> {
    audit::audit(&place.open_store().await?, command).await
}

pub(crate) async fn webhook(place: &Place, command: WebhookCommand) -> Result<()> {
    webhooks::webhook(place, &place.open_store().await?, command).await
}

impl Owner {
    async fn resolve(&self, store: &Store) -> Result<AccountId> {
        if let Some(id) = &self.account {
            let account = store.account(id).await?;
            return Ok(account.with_context(|| format!("there is no account {id}"))?.id);
        }
        match store.accounts().await?.as_slice() {
            [only] => Ok(only.id.clone()),
            [] => bail!("there is no account; `turnery account create` makes one"),
            several => bail!(
                "there are {} accounts: say which with --account (`turnery account list` shows them)",
                several.len()
            ),
        }
    }
}

impl Output {
    fn show(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let shown = if self.json { format!("{}\n", serde_json::to_string(json)?) } else { text() };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(shown.as_bytes()).and_then(|()| stdout.flush()).context("cannot write the outcome")
    }
}

/// An object with more fields.
fn with(object: &impl Serialize, fields: &[(&str, &str)]) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    let map = value.as_object_mut().context("not an object")?;
    map.extend(fields.iter().map(|(name, text)| ((*name).to_owned(), json!(text))));
    Ok(value)
}
