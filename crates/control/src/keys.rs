//! The TURN keys in memory, so that minting touches no database.
//!
//! Keys are loaded at the start and added as this process makes them. A key that is not held is looked up in the
//! store, since another process may have made it. The deny feed says which keys are gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

use credentials::TurnKeyId;

use crate::rate::{Bucket, Rate};
use crate::store::{KeyRecord, SecretHash, Store, StoreError};

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
    records: HashMap<TurnKeyId, KeyRecord>,
    /// Found by the hash of their secret.
    by_secret: HashMap<SecretHash, TurnKeyId>,
    /// How many keys were dropped so far.
    drops: u64,
}

/// How many keys had been dropped when the store was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BeforeRead {
    drops: u64,
}

impl Keys {
    pub(crate) async fn load(store: Store, miss_rate: Rate) -> Result<Self, StoreError> {
        let records: HashMap<_, _> = store.key_records().await?.into_iter().collect();
        let by_secret = records.iter().map(|(uid, record)| (record.secret_hash, *uid)).collect();
        let misses = Mutex::new(Bucket::full(miss_rate, Instant::now()));
        Ok(Self { store, held: RwLock::new(Held { records, by_secret, drops: 0 }), miss_rate, misses })
    }

    pub(crate) async fn find(&self, uid: TurnKeyId) -> Result<Option<KeyRecord>, Miss> {
        if let Some(record) = self.held.read().unwrap_or_else(PoisonError::into_inner).records.get(&uid) {
            return Ok(Some(record.clone()));
        }
        self.expect_rate()?;
        let before = self.before_read();
        let record = self.store.key_record(uid).await.map_err(Miss::Store)?;
        if let Some(record) = &record {
            self.add(before, uid, record.clone());
        }
        Ok(record)
    }

    /// The key with this secret. The hash alone decides what is found, so that the time taken tells nothing.
    pub(crate) async fn find_by_secret(&self, secret: &str) -> Result<Option<TurnKeyId>, Miss> {
        let hash = SecretHash::of(secret.as_bytes());
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).by_secret.get(&hash).copied();
        if held.is_some() {
            return Ok(held);
        }
        self.expect_rate()?;
        let before = self.before_read();
        let found = self.store.key_with_secret(secret).await.map_err(Miss::Store)?;
        let Some((uid, record)) = found.filter(|(_, record)| record.secret_hash.matches(secret.as_bytes()))
        else {
            return Ok(None);
        };
        self.add(before, uid, record);
        Ok(Some(uid))
    }

    fn expect_rate(&self) -> Result<(), Miss> {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.take(self.miss_rate, Instant::now()).map_err(Miss::Busy)
    }

    /// To be taken before the store is asked, and given to [`Keys::add`].
    pub(crate) fn before_read(&self) -> BeforeRead {
        BeforeRead { drops: self.held.read().unwrap_or_else(PoisonError::into_inner).drops }
    }

    /// Holds a key that the store has, unless any was dropped in the meantime: it may have been this one. Then the
    /// next look-up asks the store again.
    pub(crate) fn add(&self, before: BeforeRead, uid: TurnKeyId, record: KeyRecord) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.drops == before.drops {
            held.by_secret.insert(record.secret_hash, uid);
            held.records.insert(uid, record);
        }
    }

    /// Forgets a deleted key.
    pub(crate) fn drop_key(&self, uid: TurnKeyId) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = held.records.remove(&uid) {
            held.by_secret.remove(&record.secret_hash);
        }
        held.drops += 1;
    }
}
