//! The deployment's keyring, where the store has it: sealed before it reaches the database, whose own it never opens.

use std::sync::{Arc, Mutex, PoisonError};

use credentials::{Keyring, SealedKeyringError, SealingKey};
use serde_json::json;

use super::audit::{Change, Note};
use super::{Backend, Store, StoreError, Timestamp};

/// Which keyring the store has. After a restore a number may come again, but not at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyringMark {
    /// How many there were, with this one.
    pub version: u64,
    /// When it came, by the database's clock.
    pub changed: Timestamp,
}

/// The keyring that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKeyring {
    /// Which it is.
    pub mark: KeyringMark,
    pub(super) sealed: Vec<u8>,
}

/// What is done with the keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyringChange {
    /// It has a key more that will seal.
    Prepared,
    /// Another of its keys seals.
    Rotated,
    /// Another key seals it, and nothing else.
    Resealed,
}

/// What the feed saw last, of a store whose keyring is followed.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenKeyring(Option<Arc<Mutex<Option<KeyringMark>>>>);

impl SealedKeyring {
    /// Opens it.
    ///
    /// # Errors
    /// When another key has sealed it.
    pub fn open(&self, key: &SealingKey) -> Result<Keyring, SealedKeyringError> {
        key.open(self.mark.version, &self.sealed)
    }
}

impl SeenKeyring {
    pub(super) fn is_followed(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn see(&self, mark: Option<KeyringMark>) {
        if let Some(seen) = &self.0 {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        }
    }
}

impl Store {
    /// The same store, with a feed that also looks which keyring it has.
    #[must_use]
    pub fn following_keyring(mut self) -> Self {
        self.seen_keyring = SeenKeyring(Some(Arc::default()));
        self
    }

    /// Which keyring the feed saw when it looked last; asks nobody. `None` before that, and where there is none.
    pub fn seen_keyring(&self) -> Option<KeyringMark> {
        *self.seen_keyring.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyring that the store has.
    pub async fn keyring(&self) -> Result<Option<SealedKeyring>, StoreError> {
        on_backend!(self, db => db.keyring())
    }

    /// Whether there is anything, for good, that can only be opened with the keyring that has sealed it.
    pub async fn holds_sealed(&self) -> Result<bool, StoreError> {
        on_backend!(self, db => db.holds_sealed())
    }

    /// Gives the store a keyring where it has none. The one that it has then, which may be another's.
    pub async fn make_keyring(
        &self,
        key: &SealingKey,
        keyring: &Keyring,
    ) -> Result<SealedKeyring, StoreError> {
        let sealed = seal(key, keyring, 1)?;
        let note = self.keyring_note(Change::KeyringMade, keyring, 1);
        on_backend!(self, db => db.make_keyring(&sealed, &note))
    }

    /// Puts a keyring in the place of the one with this version. `false` where that is not there any more: then nothing is
    /// done.
    pub async fn change_keyring(
        &self,
        from: u64,
        change: KeyringChange,
        (key, keyring): (&SealingKey, &Keyring),
    ) -> Result<bool, StoreError> {
        let version = from.saturating_add(1);
        let sealed = seal(key, keyring, version)?;
        let change = match change {
            KeyringChange::Prepared => Change::KeyringPrepared,
            KeyringChange::Rotated => Change::KeyringRotated,
            KeyringChange::Resealed => Change::KeyringResealed,
        };
        let note = self.keyring_note(change, keyring, version);
        on_backend!(self, db => db.change_keyring((from, version), &sealed, &note))
    }

    fn keyring_note(&self, change: Change, keyring: &Keyring, version: u64) -> Note {
        let keys: Vec<u8> = keyring.key_ids().map(|(id, _)| id).collect();
        self.note(change, None, &version, json!({ "keys": keys }))
    }
}

fn seal(key: &SealingKey, keyring: &Keyring, version: u64) -> Result<Vec<u8>, StoreError> {
    key.seal(keyring, version).map_err(|_| StoreError::Seal)
}
