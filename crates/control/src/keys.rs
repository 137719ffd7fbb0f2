//! The TURN keys in memory, so that minting touches no database.
//!
//! Keys are loaded at the start and added as this process makes them. A key that is not held is looked up in the
//! store, since another process may have made it. The feed says which keys are gone or changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use credentials::TurnKeyId;
use tokio::time::sleep;

use crate::rate::{Bucket, Rate};
use crate::store::{KeyRecord, SecretHash, Store, StoreError, Timestamp};

const MICROS_PER_SEC: i64 = 1_000_000;

/// Why a key was not found at once.
#[derive(Debug)]
pub(crate) enum Miss {
    /// Too many look-ups of unknown keys: ask again after so many seconds.
    Busy(u64),
    /// The store failed.
    Store(StoreError),
}

#[derive(Debug)]
pub(crate) struct Keys {
    store: Store,
    held: RwLock<Held>,
    miss_rate: Rate,
    misses: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Held {
    records: HashMap<TurnKeyId, Arc<KeyRecord>>,
    /// Found by the hash of their secret.
    by_secret: HashMap<SecretHash, TurnKeyId>,
    /// How often a key was dropped or replaced so far.
    changes: u64,
    /// Before which second nothing is issued any more: keys with a revocation of what they issued until just now.
    issue_from: HashMap<TurnKeyId, u64>,
}

/// How often keys had been dropped or replaced when the store was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BeforeRead {
    changes: u64,
}

impl Keys {
    pub(crate) async fn load(store: Store, miss_rate: Rate) -> Result<Self, StoreError> {
        let mut held = Held::default();
        for (uid, record) in store.key_records().await? {
            held.hold(uid, record);
        }
        let misses = Mutex::new(Bucket::full(miss_rate, Instant::now()));
        Ok(Self { store, held: RwLock::new(held), miss_rate, misses })
    }

    pub(crate) async fn find(&self, uid: TurnKeyId) -> Result<Option<Arc<KeyRecord>>, Miss> {
        if let Some(record) = self.held.read().unwrap_or_else(PoisonError::into_inner).records.get(&uid) {
            return Ok(Some(Arc::clone(record)));
        }
        // A look-up that hardly ever happens would make each request's future several times as large.
        Box::pin(self.look_up(uid)).await
    }

    async fn look_up(&self, uid: TurnKeyId) -> Result<Option<Arc<KeyRecord>>, Miss> {
        self.expect_rate()?;
        let before = self.before_read();
        let record = self.store.key_record(uid).await.map_err(Miss::Store)?.map(Arc::new);
        if let Some(record) = &record {
            self.add(before, uid, record.as_ref().clone());
        }
        Ok(record)
    }

    /// The key with this secret. The hash alone decides what is found, so that the time taken tells nothing.
    pub(crate) async fn find_by_secret(
        &self,
        secret: &str,
        now: Timestamp,
    ) -> Result<Option<(TurnKeyId, Arc<KeyRecord>)>, Miss> {
        let hash = SecretHash::of(secret.as_bytes());
        let accepts = |(_, record): &(TurnKeyId, Arc<KeyRecord>)| record.accepts(secret, now);
        if let Some(held) = self.held.read().unwrap_or_else(PoisonError::into_inner).with_secret(&hash) {
            return Ok(Some(held).filter(accepts));
        }
        self.expect_rate()?;
        let before = self.before_read();
        let found = self.store.key_with_secret(secret).await.map_err(Miss::Store)?;
        let found = found.map(|(uid, record)| (uid, Arc::new(record)));
        let Some((uid, record)) = found.filter(accepts) else { return Ok(None) };
        self.add(before, uid, record.as_ref().clone());
        Ok(Some((uid, record)))
    }

    fn expect_rate(&self) -> Result<(), Miss> {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.take(self.miss_rate, Instant::now()).map_err(Miss::Busy)
    }

    /// To be taken before the store is asked, and given to [`Keys::add`].
    pub(crate) fn before_read(&self) -> BeforeRead {
        BeforeRead { changes: self.held.read().unwrap_or_else(PoisonError::into_inner).changes }
    }

    /// Holds a key that the store has, unless any was dropped or replaced in the meantime: it may have been this one.
    /// Then the next look-up asks the store again.
    pub(crate) fn add(&self, before: BeforeRead, uid: TurnKeyId, record: KeyRecord) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.changes == before.changes {
            held.hold(uid, record);
        }
    }

    /// Forgets a deleted key.
    pub(crate) fn drop_key(&self, uid: TurnKeyId) {
        self.replace(uid, None);
    }

    /// Holds what the store has of a key now, in place of what was held.
    pub(crate) fn replace(&self, uid: TurnKeyId, record: Option<KeyRecord>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.forget(uid);
        if let Some(record) = record {
            held.hold(uid, record);
        }
        held.changes += 1;
    }

    /// What a key issued before this second is revoked: it issues from then on.
    pub(crate) fn issue_from(&self, uid: TurnKeyId, secs: u64) {
        let now = self.store.now().unix_secs();
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.issue_from.retain(|_, from| now < *from);
        if now < secs {
            held.issue_from.insert(uid, secs);
        }
    }

    /// The time of issue of what a key mints now, in unix seconds. Where this second is revoked it waits for the next:
    /// what was issued ahead of its time would outlive a revocation that comes before it.
    pub(crate) async fn time_of_issue(&self, uid: TurnKeyId) -> u64 {
        if self.issues_from(uid) > self.store.now().unix_secs() {
            let micros = self.store.now().unix_micros().rem_euclid(MICROS_PER_SEC);
            sleep(Duration::from_micros(u64::try_from(MICROS_PER_SEC - micros).unwrap_or_default())).await;
        }
        // Of another node whose clock is ahead of this one's, it may still be later.
        self.issues_from(uid).max(self.store.now().unix_secs())
    }

    fn issues_from(&self, uid: TurnKeyId) -> u64 {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.issue_from.get(&uid).copied().unwrap_or_default()
    }
}

impl Held {
    fn hold(&mut self, uid: TurnKeyId, record: KeyRecord) {
        for hash in hashes(&record) {
            self.by_secret.insert(hash, uid);
        }
        self.records.insert(uid, Arc::new(record));
    }

    fn forget(&mut self, uid: TurnKeyId) {
        if let Some(record) = self.records.remove(&uid) {
            for hash in hashes(&record) {
                self.by_secret.remove(&hash);
            }
        }
    }

    fn with_secret(&self, hash: &SecretHash) -> Option<(TurnKeyId, Arc<KeyRecord>)> {
        let uid = *self.by_secret.get(hash)?;
        Some((uid, Arc::clone(self.records.get(&uid)?)))
    }
}

fn hashes(record: &KeyRecord) -> impl Iterator<Item = SecretHash> {
    [Some(record.secret_hash), record.former.map(|(hash, _)| hash)].into_iter().flatten()
}
