//! Sign-ins to the dashboard: each stands for an API token, for some hours.

use std::fmt;

use super::{ApiToken, Backend, SecretHash, Store, StoreError, Timestamp, TokenId, secret};

/// Most sign-ins of one API token at once: the oldest go first.
pub const MAX_SIGN_INS_OF_TOKEN: u32 = 100;

/// A sign-in that was just made.
#[derive(Clone)]
pub struct NewSignIn {
    /// What the browser keeps, 64 lower-case hex digits; only its hash is stored. It tells nothing of the API token.
    pub secret: String,
    /// When it is over.
    pub until: Timestamp,
}

impl fmt::Debug for NewSignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSignIn").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Store {
    /// Signs in with an API token, for so many seconds. Forgets sign-ins that are over.
    pub async fn sign_in(&self, token: &TokenId, lifetime_secs: u32) -> Result<NewSignIn, StoreError> {
        let secret = secret::key_secret()?;
        let hash = SecretHash::of(secret.as_bytes());
        let now = Timestamp::now();
        let until = Timestamp::from_unix_micros(now.unix_micros() + i64::from(lifetime_secs) * 1_000_000);
        on_backend!(self, db => db.insert_sign_in(token, &hash, now, until))?;
        Ok(NewSignIn { secret, until })
    }

    /// The API token of a sign-in that is not over, as long as that is good itself.
    pub async fn signed_in(&self, secret: &str) -> Result<Option<ApiToken>, StoreError> {
        let now = Timestamp::now();
        let hash = SecretHash::of(secret.as_bytes());
        let token = on_backend!(self, db => db.token_signed_in(&hash, now))?;
        Ok(token.filter(|token| token.is_active(now)))
    }

    /// Ends a sign-in.
    pub async fn sign_out(&self, secret: &str) -> Result<(), StoreError> {
        let hash = SecretHash::of(secret.as_bytes());
        on_backend!(self, db => db.delete_sign_in(&hash))
    }
}
