//! Which shared secret a time-limited username was signed with. draft-uberti-behave-turn-rest-00.

use std::collections::BTreeMap;
use std::sync::Arc;

use credentials::{SharedSecret, SharedSecretId, TurnKeyId};

use crate::Time;
use crate::pace::Pace;

/// What trials may cost in a second, in [`blocks`], for requests with a nonce that was issued to their sender. A block
/// took 35 to 95 ns where it was measured, in a release build on a core with SHA instructions, with requests of 88 to 2,032
/// bytes: up to a fifth of that core.
const ANSWERED_PER_SEC: u64 = 2_000_000;
/// And at once.
const ANSWERED_BURST: u64 = 200_000;
/// The same for all others, whose source may be spoofed.
const ANYONE_PER_SEC: u64 = 200_000;
/// Enough for the longest request and a thousand secrets.
const ANYONE_BURST: u64 = 64_000;

/// The longest request that secrets are tried for, in bytes. What a client has to say takes less than half of
/// that.
pub(crate) const MAX_TRIED_BYTES: usize = 2_048;
/// What of a trial does not grow with the request: the first and last blocks of two HMACs and of the key, a secret of
/// 256 bytes, a realm of 127.
const FIXED_BLOCKS: u64 = 16;

/// At most how many blocks of 64 bytes one trial hashes: the username twice, for the password and for the key, and the
/// message once.
pub(crate) fn blocks(message_bytes: usize, username_bytes: usize) -> u64 {
    FIXED_BLOCKS + (message_bytes as u64 + 2 * username_bytes as u64) / 64
}

/// Whose budget a trial is paid from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payer {
    /// Senders with a valid nonce: they got the answer that it came with, so their source is their own.
    Answered,
    /// All others. They cannot use up what the first need.
    Anyone,
}

/// One secret of one TURN key.
pub(crate) type SecretRef = (TurnKeyId, SharedSecretId);

/// The shared secrets of every TURN key.
///
/// A username does not say which secret it was signed with, so all are tried. What that costs is paid from two budgets,
/// by the blocks that are hashed, for whoever sends the request has not proven that he has a credential.
#[derive(Debug, Default)]
pub(crate) struct SharedSecrets {
    by_key: BTreeMap<TurnKeyId, Arc<[SharedSecret]>>,
    count: u64,
    answered: u64,
    anyone: u64,
}

impl SharedSecrets {
    /// Gives a TURN key these secrets in place of those it had.
    pub(crate) fn set(&mut self, key: TurnKeyId, secrets: Arc<[SharedSecret]>) {
        if secrets.is_empty() {
            self.by_key.remove(&key);
        } else {
            self.by_key.insert(key, secrets);
        }
        self.count = self.by_key.values().map(|secrets| secrets.len() as u64).sum();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(crate) fn secret(&self, (key, id): SecretRef) -> Option<&SharedSecret> {
        self.by_key.get(&key)?.iter().find(|secret| secret.id == id)
    }

    /// All of them, in an order that is always the same.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TurnKeyId, &SharedSecret)> {
        self.by_key.iter().flat_map(|(key, secrets)| secrets.iter().map(|secret| (*key, secret)))
    }

    /// Pays for trying all of them, with so many blocks each; whether the budget had that much.
    pub(crate) fn spend(&mut self, now: Time, payer: Payer, blocks: u64) -> bool {
        let (budget, pace) = match payer {
            Payer::Answered => (&mut self.answered, Pace::with_burst(ANSWERED_PER_SEC, ANSWERED_BURST)),
            Payer::Anyone => (&mut self.anyone, Pace::with_burst(ANYONE_PER_SEC, ANYONE_BURST)),
        };
        let left = pace.take(*budget, now.monotonic_ms, self.count.saturating_mul(blocks));
        *budget = left.unwrap_or(*budget);
        left.is_some()
    }
}
