//! Shared secrets of TURN keys: sealed before they reach the database, opened by who holds the keyring.

use credentials::{Keyring, SecretText, SharedSecret, SharedSecretId, TurnKeyId};
use serde_json::json;
use subtle::ConstantTimeEq;

use super::audit::Change;
use super::{
    AccountId, Answer, Backend, NewSharedSecret, Resealed, SettingChange, Store, StoreError, StoredSecret,
    Timestamp, secret,
};

impl Store {
    /// Gives a TURN key another shared secret, to be kept sealed. `None` when the account has no such key.
    pub async fn add_shared_secret(
        &self,
        keyring: &Keyring,
        account: &AccountId,
        key: TurnKeyId,
        text: SecretText,
    ) -> Result<Option<NewSharedSecret>, StoreError> {
        self.add_shared_secret_once(keyring, account, key, (text, |_| Ok(None))).await
    }

    /// The same, and keeps what it is answered with.
    ///
    /// # Errors
    /// [`StoreError::AnsweredAlready`] when there is such an answer; then nothing is added.
    pub async fn add_shared_secret_once(
        &self,
        keyring: &Keyring,
        account: &AccountId,
        key: TurnKeyId,
        (text, answer): (SecretText, impl FnOnce(&NewSharedSecret) -> Result<Option<Answer>, StoreError>),
    ) -> Result<Option<NewSharedSecret>, StoreError> {
        let secret = SharedSecret { id: SharedSecretId::from_bytes(secret::random_bytes()?), text };
        let sealed = keyring.seal_shared_secret(key, &secret).map_err(|_| StoreError::Seal)?;
        let stored = StoredSecret { id: secret.id, key, sealed, created: Timestamp::now() };
        // Two keys with the same secret could not be told apart.
        let is_same = |other: &StoredSecret| {
            let other = other.open(keyring);
            other.is_ok_and(|it| it.text.as_str().as_bytes().ct_eq(secret.text.as_str().as_bytes()).into())
        };
        let check = |all: &[StoredSecret]| {
            if all.iter().any(is_same) { Err(StoreError::SharedSecretExists) } else { Ok(()) }
        };
        let details = json!({ "shared_secret": stored.id.to_string() });
        let note = self.note(Change::SharedSecretAdded, Some(account), &key, details);
        let made = NewSharedSecret { id: secret.id, created: stored.created, text: secret.text.clone() };
        let with = (&note, answer(&made)?);
        let is_made = on_backend!(self, db => db.insert_shared_secret(account, &stored, check, with))?;
        Ok(is_made.then_some(made))
    }

    /// A TURN key's shared secrets, oldest first; none also where there is no such key.
    pub async fn shared_secrets(&self, key: TurnKeyId) -> Result<Vec<StoredSecret>, StoreError> {
        on_backend!(self, db => db.shared_secrets(key))
    }

    /// Takes a shared secret from a TURN key. `None` when the account has no such key or the key no such secret.
    pub async fn remove_shared_secret(
        &self,
        account: &AccountId,
        key: TurnKeyId,
        id: SharedSecretId,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let details = json!({ "shared_secret": id.to_string() });
        let note = self.note(Change::SharedSecretRemoved, Some(account), &key, details);
        on_backend!(self, db => db.delete_shared_secret(account, key, id, &note))
    }

    /// Seals with the keyring's current key what an older one has sealed, for that one will retire: shared secrets, and
    /// the secrets of webhooks. Those that the keyring cannot open stay as they are.
    pub async fn reseal_shared_secrets(&self, keyring: &Keyring) -> Result<Resealed, StoreError> {
        let mut resealed = Resealed::default();
        let again = |stored: &StoredSecret| {
            if keyring.sealed_currently(&stored.sealed) {
                return None;
            }
            let opened = stored.open(keyring).ok();
            let sealed = opened.and_then(|secret| keyring.seal_shared_secret(stored.key, &secret).ok());
            *if sealed.is_some() { &mut resealed.count } else { &mut resealed.unreadable } += 1;
            sealed
        };
        on_backend!(self, db => db.reseal_shared_secrets(again))?;
        self.reseal_webhooks(keyring).await?;
        Ok(resealed)
    }

    /// The first `limit` changes of keys' settings after `seq`; of each key the last one only.
    pub async fn setting_changes_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<SettingChange>, StoreError> {
        on_backend!(self, db => db.setting_changes_after(seq, limit))
    }
}
