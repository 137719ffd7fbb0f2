//! The TURN keys in memory, so that minting touches no database.
//!
//! Keys are loaded at the start and added as this process makes them. A key that is not held is looked up in the
//! store, since another process may have made it. The deny feed says which keys are gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

use credentials::TurnKeyId;

use crate::rate::{Bucket, Rate};
use crate::store::{KeyRecord, Store, StoreError};

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
        let records = store.key_records().await?.into_iter().collect();
        let misses = Mutex::new(Bucket::full(miss_rate, Instant::now()));
        Ok(Self { store, held: RwLock::new(Held { records, drops: 0 }), miss_rate, misses })
    }

    pub(crate) async fn find(&self, uid: TurnKeyId) -> Result<Option<KeyRecord>, Miss> {
        if let Some(record) = self.held.read().unwrap_or_else(PoisonError::into_inner).records.get(&uid) {
            return Ok(Some(record.clone()));
        }
        self.misses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(self.miss_rate, Instant::now())
            .map_err(Miss::Busy)?;
        let before = self.before_read();
        let record = self.store.key_record(uid).await.map_err(Miss::Store)?;
        if let Some(record) = &record {
            self.add(before, uid, record.clone());
        }
        Ok(record)
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
            held.records.insert(uid, record);
        }
    }

    /// Forgets a deleted key.
    pub(crate) fn drop_key(&self, uid: TurnKeyId) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.records.remove(&uid);
        held.drops += 1;
    }
}
