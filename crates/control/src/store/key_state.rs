//! What a TURN key is at the moment: its secrets, and whether it is suspended.

use credentials::TurnKeyId;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit::Change;
use super::{
    AccountId, Answer, Backend, KeyLimits, KeyRecord, NewKey, SecretHash, Stop, Store, StoreError, Timestamp,
    TurnKey, secret,
};

/// The longest time for which a rolled key's former secret may stay good, in seconds: 30 days.
pub const MAX_OVERLAP_SECS: u32 = 2_592_000;

/// What a TURN key is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyState {
    /// Whether it mints nothing and its credentials are refused, until it is resumed.
    pub suspended: bool,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub suspended_since: Option<Timestamp>,
    /// Until when the secret from before the last roll is good; `None` where it is not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub former_secret_until: Option<Timestamp>,
    /// What its monthly limit does to it: `refuse` or `cut`; `None` while it does nothing.
    pub stopped: Option<Stop>,
}

/// All that the feed tells of a TURN key, but for its shared secrets.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) record: KeyRecord,
    pub(crate) limits: Option<KeyLimits>,
}

impl Store {
    /// Gives a TURN key another secret. The one it had stays good for `overlap_secs`, at most [`MAX_OVERLAP_SECS`]; the
    /// one before that is void at once. `None` when the account has no such key.
    pub async fn roll_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        overlap_secs: u32,
    ) -> Result<Option<NewKey>, StoreError> {
        self.roll_key_once(account, uid, overlap_secs, |_| Ok(None)).await
    }

    /// The same, and keeps what it is answered with.
    ///
    /// # Errors
    /// [`StoreError::AnsweredAlready`] when there is such an answer; then the key keeps its secret.
    pub async fn roll_key_once(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        overlap_secs: u32,
        answer: impl Fn(&NewKey) -> Result<Option<Answer>, StoreError>,
    ) -> Result<Option<NewKey>, StoreError> {
        let secret = secret::key_secret()?;
        let hash = SecretHash::of(secret.as_bytes());
        let now = Timestamp::now();
        let former_until =
            (overlap_secs > 0).then(|| now.plus_secs(overlap_secs.min(MAX_OVERLAP_SECS).into()));
        let note = self.note(Change::KeyRolled, Some(account), &uid, json!({ "overlap_secs": overlap_secs }));
        let made = |(key, record): Rolled| NewKey { key, record, secret: secret.clone() };
        let keep = |rolled: &Rolled| answer(&made(rolled.clone()));
        let with = (&note, &keep);
        let rolled = on_backend!(self, db => db.roll_key(account, uid, (&hash, now, former_until), with))?;
        Ok(rolled.map(made))
    }

    /// Suspends a TURN key, or resumes it. Doing it again changes nothing. `None` when the account has no such key.
    pub async fn suspend_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        suspended: bool,
    ) -> Result<Option<KeyState>, StoreError> {
        let change = if suspended { Change::KeySuspended } else { Change::KeyResumed };
        let note = self.note(change, Some(account), &uid, json!({}));
        on_backend!(self, db => db.suspend_key(account, uid, suspended, &note))?;
        self.key_state(account, uid).await
    }

    /// What a TURN key is at the moment. `None` when the account has no such key.
    pub async fn key_state(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
    ) -> Result<Option<KeyState>, StoreError> {
        let state = on_backend!(self, db => db.key_state(account, uid))?;
        let now = Timestamp::now();
        Ok(state.map(|mut state| {
            state.former_secret_until = state.former_secret_until.filter(|until| now < *until);
            state
        }))
    }

    /// What the feed tells of a TURN key. `None` when there is no such key.
    pub(crate) async fn key_settings(&self, uid: TurnKeyId) -> Result<Option<Settings>, StoreError> {
        on_backend!(self, db => db.key_settings(uid))
    }
}

impl KeyRecord {
    /// Whether this is the key's secret, or the former one that is still good.
    pub fn accepts(&self, secret: &str, now: Timestamp) -> bool {
        let is_former =
            |(hash, until): &(SecretHash, Timestamp)| now < *until && hash.matches(secret.as_bytes());
        self.secret_hash.matches(secret.as_bytes()) || self.former.as_ref().is_some_and(is_former)
    }
}

/// A key and what the credential API must know of it.
pub(super) type Rolled = (TurnKey, KeyRecord);
