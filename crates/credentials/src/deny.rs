use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::{CredentialId, IdentifierId, TurnKeyId};

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
    /// Every sealed credential that a TURN key issued before a moment.
    Issued {
        /// Whose.
        key: TurnKeyId,
        /// Unix seconds; what was issued at this very second is good.
        before: u64,
        /// The last moment at which one of them could expire, unix seconds.
        until: u64,
    },
    /// Those of them that are for one customIdentifier.
    Identifier {
        /// Whose.
        key: TurnKeyId,
        /// For whom.
        identifier: IdentifierId,
        /// Unix seconds; what was issued at this very second is good.
        before: u64,
        /// The last moment at which one of them could expire, unix seconds.
        until: u64,
    },
}

/// What a denial is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The credential's TURN key.
    pub key: TurnKeyId,
    /// The credential.
    pub credential: CredentialId,
    /// Of a sealed one; a time-limited username does not say when it was made.
    pub issued: Option<Issued>,
}

/// When a sealed credential was issued, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    /// Unix seconds.
    pub at: u64,
    /// For whom.
    pub identifier: IdentifierId,
}

impl Denial {
    /// Unix seconds after which the denial refuses nothing that has not expired anyway.
    pub fn until(&self) -> u64 {
        match *self {
            Self::Credential { until, .. }
            | Self::Key { until, .. }
            | Self::Issued { until, .. }
            | Self::Identifier { until, .. } => until,
        }
    }

    /// The TURN key whose credentials it refuses; `None` where it names a credential.
    pub fn key(&self) -> Option<TurnKeyId> {
        match *self {
            Self::Credential { .. } => None,
            Self::Key { key, .. } | Self::Issued { key, .. } | Self::Identifier { key, .. } => Some(key),
        }
    }

    /// Whether it refuses this one.
    pub fn covers(&self, subject: &Subject) -> bool {
        let issued_before = |before| subject.issued.is_some_and(|issued| issued.at < before);
        match *self {
            Self::Credential { id, .. } => id == subject.credential,
            Self::Key { key, .. } => key == subject.key,
            Self::Issued { key, before, .. } => key == subject.key && issued_before(before),
            Self::Identifier { key, identifier, before, .. } => {
                key == subject.key
                    && issued_before(before)
                    && subject.issued.is_some_and(|issued| issued.identifier == identifier)
            }
        }
    }
}

/// The denials in force, in memory, as a relay's worker or an API node holds them.
#[derive(Debug, Clone)]
pub struct DenySet {
    credentials: BTreeMap<CredentialId, u64>,
    keys: BTreeMap<TurnKeyId, u64>,
    issued: BTreeMap<TurnKeyId, Rule>,
    identifiers: BTreeMap<(TurnKeyId, IdentifierId), Rule>,
    capacity: usize,
}

/// What was issued `before` this is refused `until` that.
#[derive(Debug, Clone, Copy)]
struct Rule {
    before: u64,
    until: u64,
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
        Self {
            credentials: BTreeMap::new(),
            keys: BTreeMap::new(),
            issued: BTreeMap::new(),
            identifiers: BTreeMap::new(),
            capacity,
        }
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
        let room = self.len() < self.capacity;
        let held = match denial {
            Denial::Credential { id, until } => later(self.credentials.entry(id), until, room),
            Denial::Key { key, until } => later(self.keys.entry(key), until, room),
            Denial::Issued { key, before, until } => {
                extended(self.issued.entry(key), Rule { before, until }, room)
            }
            Denial::Identifier { key, identifier, before, until } => {
                extended(self.identifiers.entry((key, identifier)), Rule { before, until }, room)
            }
        };
        if held { Ok(()) } else { Err(DenySetFull { capacity: self.capacity }) }
    }

    /// Whether a credential is refused.
    pub fn denies(&self, subject: &Subject) -> bool {
        let by_rule = subject.issued.is_some_and(|Issued { at, identifier }| {
            let refuses = |rule: Option<&Rule>| rule.is_some_and(|rule| at < rule.before);
            refuses(self.issued.get(&subject.key))
                || refuses(self.identifiers.get(&(subject.key, identifier)))
        });
        by_rule || self.keys.contains_key(&subject.key) || self.credentials.contains_key(&subject.credential)
    }

    /// Whether every credential of `key` is refused.
    pub fn denies_key(&self, key: TurnKeyId) -> bool {
        self.keys.contains_key(&key)
    }

    /// Forgets what has expired by `now` (unix seconds).
    pub fn purge(&mut self, now: u64) {
        self.credentials.retain(|_, until| *until >= now);
        self.keys.retain(|_, until| *until >= now);
        self.issued.retain(|_, rule| rule.until >= now);
        self.identifiers.retain(|_, rule| rule.until >= now);
    }

    /// How many denials are held.
    pub fn len(&self) -> usize {
        self.credentials.len() + self.keys.len() + self.issued.len() + self.identifiers.len()
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Holds the later of both moments; whether there was one, or room.
fn later<K: Ord>(entry: Entry<'_, K, u64>, until: u64, room: bool) -> bool {
    match entry {
        Entry::Occupied(mut held) => *held.get_mut() = until.max(*held.get()),
        Entry::Vacant(free) if room => _ = free.insert(until),
        Entry::Vacant(_) => return false,
    }
    true
}

/// Holds what both refuse, for as long as the longer; whether there was one, or room.
fn extended<K: Ord>(entry: Entry<'_, K, Rule>, rule: Rule, room: bool) -> bool {
    match entry {
        Entry::Occupied(mut held) => {
            let Rule { before, until } = *held.get();
            *held.get_mut() = Rule { before: rule.before.max(before), until: rule.until.max(until) };
        }
        Entry::Vacant(free) if room => _ = free.insert(rule),
        Entry::Vacant(_) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: TurnKeyId = TurnKeyId::from_bytes([7; 16]);
    const OTHER: TurnKeyId = TurnKeyId::from_bytes([8; 16]);

    fn credential(n: u8, until: u64) -> Denial {
        Denial::Credential { id: CredentialId::from_bytes([n; 16]), until }
    }

    fn subject(key: TurnKeyId, n: u8) -> Subject {
        Subject { key, credential: CredentialId::from_bytes([n; 16]), issued: None }
    }

    fn identifier(n: u8) -> IdentifierId {
        IdentifierId::from_bytes([n; 16])
    }

    /// As `covers` and the set have it, which must be the same.
    fn denies(denial: Denial, subject: &Subject) -> bool {
        let mut set = DenySet::new(1);
        assert_eq!(set.insert(denial, 0), Ok(()));
        assert_eq!(set.denies(subject), denial.covers(subject), "{denial:?} {subject:?}");
        denial.covers(subject)
    }

    #[test]
    fn denies_what_was_inserted_until_it_is_purged() {
        let mut set = DenySet::new(10);
        assert_eq!(set.insert(credential(1, 100), 50), Ok(()));
        assert!(set.denies(&subject(KEY, 1)));
        assert!(!set.denies(&subject(KEY, 2)));
        assert_eq!(set.insert(Denial::Key { key: OTHER, until: 200 }, 50), Ok(()));
        assert!(set.denies(&subject(OTHER, 2)) && set.denies_key(OTHER));
        set.purge(100);
        assert_eq!(set.len(), 2);
        set.purge(101);
        assert!(!set.denies(&subject(KEY, 1)) && set.denies_key(OTHER));
    }

    #[test]
    fn a_rule_covers_what_its_key_issued_before() {
        let of = |key, at, n| Subject {
            issued: Some(Issued { at, identifier: identifier(n) }),
            ..subject(key, 1)
        };
        let issued = Denial::Issued { key: KEY, before: 100, until: 500 };
        let alice = Denial::Identifier { key: KEY, identifier: identifier(1), before: 100, until: 500 };
        for (who, by_issued, by_identifier) in [
            (of(KEY, 99, 1), true, true),
            (of(KEY, 99, 2), true, false),
            (of(KEY, 100, 1), false, false),
            (of(KEY, 101, 1), false, false),
            (of(OTHER, 99, 1), false, false),
            (subject(KEY, 1), false, false),
        ] {
            assert_eq!(denies(issued, &who), by_issued, "{who:?}");
            assert_eq!(denies(alice, &who), by_identifier, "{who:?}");
        }
        assert_eq!((issued.key(), credential(1, 1).key()), (Some(KEY), None));
    }

    #[test]
    fn rules_of_one_subject_are_one_and_expire() {
        let mut set = DenySet::new(2);
        let rule = |before, until| Denial::Issued { key: KEY, before, until };
        let alice = |before, until| Denial::Identifier { key: KEY, identifier: identifier(1), before, until };
        for denial in [rule(100, 500), rule(50, 600), rule(200, 300), alice(10, 90), alice(20, 80)] {
            assert_eq!(set.insert(denial, 0), Ok(()));
        }
        assert_eq!(set.len(), 2);
        assert_eq!(set.insert(rule(300, 310), 20), Ok(()), "a known subject needs no room");
        assert_eq!(set.insert(credential(1, 900), 90), Err(DenySetFull { capacity: 2 }));
        assert_eq!(set.insert(credential(1, 900), 91), Ok(()), "the identifier's rule has expired");
        set.purge(600);
        let at = |at| Subject { issued: Some(Issued { at, identifier: identifier(3) }), ..subject(KEY, 9) };
        assert!(set.denies(&at(299)) && !set.denies(&at(300)));
        set.purge(601);
        assert!(!set.denies(&at(0)));
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
