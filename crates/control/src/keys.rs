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

/// Anyone may ask for a key that does not exist: such look-ups are bounded for all callers together.
const MISSES: Rate = Rate { per_sec: 500, burst: 1_000 };

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
    misses: Mutex<Bucket>,
}

#[derive(Debug, Default)]
struct Held {
    records: HashMap<TurnKeyId, KeyRecord>,
    /// How many keys were dropped so far. A look-up that began before a drop must not put the key back.
    drops: u64,
}

impl Keys {
    pub(crate) async fn load(store: Store) -> Result<Self, StoreError> {
        let records = store.key_records().await?.into_iter().collect();
        let misses = Mutex::new(Bucket::full(MISSES, Instant::now()));
        Ok(Self { store, held: RwLock::new(Held { records, drops: 0 }), misses })
    }

    pub(crate) async fn find(&self, uid: TurnKeyId) -> Result<Option<KeyRecord>, Miss> {
        let drops = {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = held.records.get(&uid) {
                return Ok(Some(record.clone()));
            }
            held.drops
        };
        let taken = self.misses.lock().unwrap_or_else(PoisonError::into_inner).take(MISSES, Instant::now());
        taken.map_err(Miss::Busy)?;
        let record = self.store.key_record(uid).await.map_err(Miss::Store)?;
        if let Some(record) = &record {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if held.drops == drops {
                held.records.insert(uid, record.clone());
            }
        }
        Ok(record)
    }

    pub(crate) fn drop_key(&self, uid: TurnKeyId) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.records.remove(&uid);
        held.drops += 1;
    }
}
