//! What requests with an `Idempotency-Key` were answered. Who asks again is answered the same for a day.

use super::{Backend, Store, StoreError, Timestamp};

/// For how long an answer is kept, in seconds: a day.
pub const ANSWER_LIFETIME_SECS: u64 = 86_400;
/// Most answers kept for one API token.
pub const MAX_ANSWERS: u32 = 10_000;

/// An answer to be kept with the change that it tells of.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whose: an API token's id.
    pub scope: String,
    /// SHA-256 of the key that the caller chose.
    pub key_hash: [u8; 32],
    /// SHA-256 of what was asked.
    pub request_hash: [u8; 32],
    /// The answer, sealed by the keyring: it may hold a secret.
    pub sealed: Vec<u8>,
}

impl Store {
    /// The answer that is kept for a caller's key.
    pub async fn answer(&self, scope: &str, key_hash: &[u8; 32]) -> Result<Option<Answer>, StoreError> {
        let oldest = Timestamp::now().minus_secs(ANSWER_LIFETIME_SECS);
        on_backend!(self, db => db.answer(scope, key_hash, oldest))
    }

    /// Forgets answers from before a moment; says how many.
    pub async fn purge_answers(&self, before: Timestamp) -> Result<u64, StoreError> {
        on_backend_for_long!(self, db => db.purge_answers(before))
    }
}
