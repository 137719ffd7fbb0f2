use std::collections::BTreeMap;

use crate::{CredentialId, TurnKeyId};

/// One entry of the deny feed: what is refused, and until when the refusal has to be remembered.
///
/// `until` is unix seconds: the moment after which everything it refuses has expired by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// A revoked credential.
    Credential {
        /// Which one.
        id: CredentialId,
        /// Its own expiry, unix seconds.
        until: u64,
    },
    /// A deleted TURN key: every credential it ever minted.
    Key {
        /// Which one.
        key: TurnKeyId,
        /// The last moment at which one of its credentials could expire, unix seconds.
        until: u64,
    },
}

impl Denial {
    /// Unix seconds after which the denial refuses nothing that has not expired anyway.
    pub fn until(&self) -> u64 {
        match *self {
            Self::Credential { until, .. } | Self::Key { until, .. } => until,
        }
    }
}

/// The denials in force, in memory, as a relay's worker or an API node holds them.
#[derive(Debug, Clone)]
pub struct DenySet {
    credentials: BTreeMap<CredentialId, u64>,
    keys: BTreeMap<TurnKeyId, u64>,
    capacity: usize,
}

/// The set holds as many denials as it may, and none of them has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deny set is full: it already holds {capacity} denials that are still in force")]
pub struct DenySetFull {
    /// The configured bound.
    pub capacity: usize,
}

impl DenySet {
    /// An empty set that will hold at most `capacity` denials.
    pub fn new(capacity: usize) -> Self {
        Self { credentials: BTreeMap::new(), keys: BTreeMap::new(), capacity }
    }

    /// Adds a denial; one for the same subject is extended, never shortened. `now` is unix seconds.
    ///
    /// # Errors
    /// When the set is full even after the expired entries have gone.
    pub fn insert(&mut self, denial: Denial, now: u64) -> Result<(), DenySetFull> {
        if denial.until() < now {
            return Ok(());
        }
        if self.len() >= self.capacity {
            self.purge(now);
        }
        let full = self.len() >= self.capacity;
        let held = match denial {
            Denial::Credential { id, .. } => self.credentials.get_mut(&id),
            Denial::Key { key, .. } => self.keys.get_mut(&key),
        };
        match (held, denial) {
            (Some(until), _) => *until = denial.until().max(*until),
            (None, _) if full => return Err(DenySetFull { capacity: self.capacity }),
            (None, Denial::Credential { id, until }) => _ = self.credentials.insert(id, until),
            (None, Denial::Key { key, until }) => _ = self.keys.insert(key, until),
        }
        Ok(())
    }

    /// Whether the credential `id` of `key` is refused.
    pub fn denies(&self, key: TurnKeyId, id: CredentialId) -> bool {
        self.keys.contains_key(&key) || self.credentials.contains_key(&id)
    }

    /// Whether every credential of `key` is refused.
    pub fn denies_key(&self, key: TurnKeyId) -> bool {
        self.keys.contains_key(&key)
    }

    /// Forgets what has expired by `now` (unix seconds).
    pub fn purge(&mut self, now: u64) {
        self.credentials.retain(|_, until| *until >= now);
        self.keys.retain(|_, until| *until >= now);
    }

    /// How many denials are held.
    pub fn len(&self) -> usize {
        self.credentials.len() + self.keys.len()
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(n: u8, until: u64) -> Denial {
        Denial::Credential { id: CredentialId::from_bytes([n; 16]), until }
    }

    #[test]
    fn denies_what_was_inserted_until_it_is_purged() {
        let key = TurnKeyId::from_bytes([7; 16]);
        let other = TurnKeyId::from_bytes([8; 16]);
        let id = CredentialId::from_bytes([1; 16]);
        let mut set = DenySet::new(10);
        assert_eq!(set.insert(credential(1, 100), 50), Ok(()));
        assert!(set.denies(key, id));
        assert!(!set.denies(key, CredentialId::from_bytes([2; 16])));
        assert_eq!(set.insert(Denial::Key { key: other, until: 200 }, 50), Ok(()));
        assert!(set.denies(other, CredentialId::from_bytes([2; 16])) && set.denies_key(other));
        set.purge(100);
        assert_eq!(set.len(), 2);
        set.purge(101);
        assert!(!set.denies(key, id) && set.denies_key(other));
    }

    #[test]
    fn a_full_set_makes_room_from_the_expired_and_else_says_so() {
        let mut set = DenySet::new(2);
        assert_eq!(set.insert(credential(1, 100), 0), Ok(()));
        assert_eq!(set.insert(credential(2, 300), 0), Ok(()));
        assert_eq!(set.insert(credential(3, 300), 50), Err(DenySetFull { capacity: 2 }));
        assert_eq!(set.insert(credential(2, 400), 50), Ok(()), "a known subject needs no room");
        assert_eq!(set.insert(credential(3, 300), 101), Ok(()));
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn a_denial_is_never_shortened_and_a_dead_one_not_kept() {
        let mut set = DenySet::new(2);
        assert_eq!(set.insert(credential(1, 400), 0), Ok(()));
        assert_eq!(set.insert(credential(1, 100), 0), Ok(()));
        set.purge(399);
        assert_eq!(set.len(), 1);
        assert_eq!(set.insert(credential(2, 5), 6), Ok(()));
        assert_eq!(set.len(), 1);
    }
}
