//! Which shared secret a time-limited username was signed with. draft-uberti-behave-turn-rest-00.

use std::collections::BTreeMap;
use std::sync::Arc;

use credentials::{SharedSecret, SharedSecretId, TurnKeyId};

use crate::Time;

/// How often in a second a secret may be tried, in the long run: a fraction of a core, whoever asks.
const TRIALS_PER_SEC: u64 = 200_000;
/// How often at once. With more secrets than this none could be tried.
const TRIALS_BURST: u64 = 20_000;

/// One secret of one TURN key.
pub(crate) type SecretRef = (TurnKeyId, SharedSecretId);

/// The shared secrets of every TURN key.
///
/// A username does not say which secret it was signed with, so all are tried. What that costs is paid from a budget,
/// for whoever sends the request has proven nothing yet.
#[derive(Debug, Default)]
pub(crate) struct SharedSecrets {
    by_key: BTreeMap<TurnKeyId, Arc<[SharedSecret]>>,
    count: u64,
    /// What was spent and has not grown back.
    spent: u64,
    /// Up to when that is counted, in monotonic milliseconds.
    grown_ms: u64,
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

    /// Pays for trying all of them; whether the budget had that much.
    pub(crate) fn spend(&mut self, now: Time) -> bool {
        let elapsed_ms = now.monotonic_ms.saturating_sub(self.grown_ms);
        self.spent = self.spent.saturating_sub(elapsed_ms.saturating_mul(TRIALS_PER_SEC / 1_000));
        self.grown_ms = now.monotonic_ms;
        let affordable = self.spent + self.count <= TRIALS_BURST;
        if affordable {
            self.spent += self.count;
        }
        affordable
    }
}
