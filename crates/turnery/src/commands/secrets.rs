//! `turnery key secret`, and what a rotation of the keyring means for shared secrets.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use control::store::{Store, StoredSecret};
use credentials::{MAX_SECRET_BYTES, SecretText};
use zeroize::Zeroizing;

use crate::cli::SecretCommand;
use crate::config::{Place, fault};
use crate::keyring_file::KeyringFile;
use crate::keyring_store;
use crate::table::table;

pub(super) async fn secret(place: &Place, store: &Store, command: SecretCommand) -> Result<()> {
    match command {
        SecretCommand::List { uid, owner, output } => {
            let account = owner.resolve(store).await?;
            let key = store.key(&account, uid).await?;
            key.with_context(|| format!("account {account} has no TURN key {uid}"))?;
            let secrets = store.shared_secrets(uid).await?;
            let row = |it: &StoredSecret| [it.id.to_string(), it.created.to_string()];
            let rows: Vec<_> = secrets.iter().map(row).collect();
            output.show(&secrets, || table(["ID", "CREATED"], &rows, "The TURN key has no shared secret."))
        }
        SecretCommand::Add { uid, secret_file, generate: _, owner, output } => {
            let account = owner.resolve(store).await?;
            let text = match &secret_file {
                Some(path) => read(path)?,
                None => SecretText::generate()?,
            };
            let keyring = place.keyring()?.open(store).await?;
            let made = store.add_shared_secret(&keyring, &account, uid, text).await?;
            let made = made.with_context(|| format!("account {account} has no TURN key {uid}"))?;
            output.show(&made, || {
                format!(
                    "id      {}\nsecret  {}\n\nThe secret is shown this once and can never be read again.\n",
                    made.id,
                    made.text.as_str()
                )
            })
        }
        SecretCommand::Remove { uid, id, owner, output } => {
            let account = owner.resolve(store).await?;
            let gone = store.remove_shared_secret(&account, uid, id).await?;
            let gone = gone.with_context(|| {
                format!("account {account} has no TURN key {uid} with a shared secret {id}")
            })?;
            output
                .show(&gone, || format!("Removed shared secret {id}; usernames made with it are refused.\n"))
        }
    }
}

/// The secret in a file, or on standard input for `-`; a line's end behind it is none of it.
fn read(path: &Path) -> Result<SecretText> {
    let failed = |error| anyhow!("cannot read the secret from {}: {}", path.display(), fault(&error));
    let mut text = Zeroizing::new(String::new());
    // One line of the longest secret and a little more, so that a longer one is told apart.
    let limit = MAX_SECRET_BYTES as u64 + 3;
    let length = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(failed)?
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(limit).read_to_string(&mut text).map_err(failed)?
    };
    ensure!(length > 0, "there is no secret in {}", path.display());
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    line.parse().with_context(|| format!("the secret in {} cannot be used", path.display()))
}

/// Before a rotation, which drops old keys of the keyring: seals with the current one, which stays, what they have
/// sealed. A deployment without a store yet has no shared secrets.
pub(super) async fn reseal(place: &Place, file: &KeyringFile) -> Result<()> {
    if file.stamp().is_none() || !place.has_store()? {
        return Ok(());
    }
    // A keyring that cannot be read is refused, or made anew, by the rotation itself.
    let Ok(keyring) = file.open() else { return Ok(()) };
    let store = place.open_store().await?;
    ensure!(
        keyring_store::beside(&store).await?.is_none(),
        "the keyring is in the store, too, where nodes would not hear of this: give --keyring-in-store, or delete the row of \
         sealed_keyring to have it in files"
    );
    let resealed = keyring_store::reseal(&store, &keyring).await;
    store.close().await;
    resealed
}
