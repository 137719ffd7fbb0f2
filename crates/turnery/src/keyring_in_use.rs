//! The keyring that this process uses, and what happens when it changes.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use control::store::{Store, StoreError};
use credentials::Keyring;
use tokio::sync::Mutex;
use turn::Command;

use crate::config::Role;
use crate::keyring_source::{KeyringSource, Mark, Read};
use crate::relaying::RelayHandle;

/// The keyring that this process uses.
pub(crate) struct KeyringInUse {
    source: KeyringSource,
    store: Store,
    relay: RelayHandle,
    role: Role,
    keyring: Arc<ArcSwap<Keyring>>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// What was looked at last, whether it could be used or not.
    mark: Option<Mark>,
    /// Which version of the store's keyring is in use, if it is from there.
    version: Option<u64>,
    /// Whether it was told that it cannot be read now, and is tried again.
    is_told: bool,
}

impl Seen {
    fn new(mark: Option<Mark>) -> Self {
        let version = match mark {
            Some(Mark::Store(mark)) => Some(mark.version),
            Some(Mark::File(_)) | None => None,
        };
        Self { mark, version, is_told: false }
    }
}

impl KeyringInUse {
    pub(crate) fn new(
        (source, store, relay): (KeyringSource, Store, RelayHandle),
        role: Role,
        (keyring, mark): Read,
    ) -> Self {
        let keyring = Arc::new(ArcSwap::from_pointee(keyring));
        Self { source, store, relay, role, keyring, seen: Mutex::new(Seen::new(mark)) }
    }

    /// For those who seal and open.
    pub(crate) fn shared(&self) -> Arc<ArcSwap<Keyring>> {
        Arc::clone(&self.keyring)
    }

    pub(crate) fn is_in_store(&self) -> bool {
        matches!(self.source, KeyringSource::Store(_))
    }

    /// Which version of the store's keyring it is, if it is from there.
    pub(crate) async fn version(&self) -> Option<u64> {
        self.seen.lock().await.version
    }

    /// Puts the keyring to use if it has changed, or somebody has asked that it be read: whether it is another then. What
    /// cannot be read is logged, and what is in use stays.
    pub(crate) async fn look(&self, asked: bool) -> bool {
        let mut seen = self.seen.lock().await;
        let mark = self.source.mark(&self.store);
        if mark == seen.mark && !asked {
            return false;
        }
        match self.read(&mut seen).await {
            Ok(is_another) => is_another,
            Err(error) => {
                // A store that does not answer is asked again; what cannot be used, not before it changes.
                let is_tried_again = error.is::<StoreError>();
                if asked || !(seen.is_told && is_tried_again) {
                    tracing::error!("{error:#}; the keyring in use stays");
                }
                seen.is_told = is_tried_again;
                if !is_tried_again {
                    seen.mark = mark;
                }
                false
            }
        }
    }

    /// The same for a node that starts, which does not go on without what it cannot read.
    pub(crate) async fn look_or_fail(&self) -> Result<bool> {
        let mut seen = self.seen.lock().await;
        if self.source.mark(&self.store) == seen.mark {
            return Ok(false);
        }
        self.read(&mut seen).await
    }

    async fn read(&self, seen: &mut Seen) -> Result<bool> {
        let (keyring, mark) = self.source.read(&self.store).await?;
        let after = Seen::new(mark);
        if let Some(version) = after.version {
            ensure!(
                keyring.shares_key_with(&self.keyring.load()),
                "the keyring in the store, its version {version}, has no key of the one in use, and all credentials would be \
                 refused: restore the row of sealed_keyring, or start this node again if that is the right one"
            );
        }
        let before = std::mem::replace(seen, after);
        Ok(self.put_to_use(keyring) || before.version != seen.version)
    }

    fn put_to_use(&self, keyring: Keyring) -> bool {
        if **self.keyring.load() == keyring {
            return false;
        }
        let keyring = Arc::new(keyring);
        // The relay first: what is minted with the new key must be known to it.
        self.relay.command(&Command::Keyring(Arc::clone(&keyring)));
        self.keyring.store(keyring);
        tracing::info!("the keyring was read again");
        true
    }

    /// Seals again what is stored, with the key that seals now.
    pub(crate) async fn reseal(&self) {
        if self.role == Role::All
            && let Err(error) = reseal(&self.store, &self.keyring.load_full()).await
        {
            tracing::error!("{error:#}; they are sealed again at the next start or change of the keyring");
        }
    }
}

/// Seals shared secrets, and what belongs to certificates, with the current key before the one that sealed them leaves
/// the keyring.
pub(crate) async fn reseal(store: &Store, keyring: &Keyring) -> Result<()> {
    // What cannot be opened is obtained anew by who needs it.
    store.reseal_acme(keyring).await.context("cannot seal the certificates' keys again")?;
    let resealed = store.reseal_shared_secrets(keyring).await.context("cannot seal shared secrets again")?;
    if resealed.unreadable > 0 {
        tracing::error!(
            count = resealed.unreadable,
            "shared secrets were sealed with a key that is not in the keyring; restore it, or remove them"
        );
    }
    Ok(())
}
