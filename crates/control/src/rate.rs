//! Token buckets.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run, per second. At least 1.
    pub per_sec: u32,
    /// At once, after a pause. At least 1.
    pub burst: u32,
}

/// One bucket, which holds up to [`Rate::burst`] tokens.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: f64::from(rate.burst.max(1)), filled: now }
    }

    /// Takes a token, or says how many whole seconds to wait for one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), u64> {
        self.fill(rate, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // With at least one token a second, the next is never more than a second away.
        Err(1)
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let gained =
            now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(rate.per_sec.max(1));
        self.tokens = (self.tokens + gained).min(f64::from(rate.burst.max(1)));
        self.filled = now;
    }

    fn is_full(&self, rate: Rate) -> bool {
        self.tokens >= f64::from(rate.burst.max(1))
    }
}

/// A bucket for each key.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    buckets: HashMap<K, Bucket>,
    /// From so many on the full ones are thrown away before another is made: a full one says nothing.
    sweep_at: usize,
    /// Of all keys that find no room.
    others: Bucket,
}

/// The first time at which full buckets are thrown away; then whenever there are twice as many as were left.
const SWEEP_AT: usize = 10_000;
/// Most buckets at once.
const MAX_BUCKETS: usize = 100_000;

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let others = Bucket::full(rate, Instant::now());
        Self { rate, held: Mutex::new(Held { buckets: HashMap::new(), sweep_at: SWEEP_AT, others }) }
    }

    /// As [`Bucket::take`], from the bucket of `key`.
    pub(crate) fn take(&self, key: &K, now: Instant) -> Result<(), u64> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { buckets, sweep_at, others } = &mut *held;
        if let Some(bucket) = buckets.get_mut(key) {
            return bucket.take(self.rate, now);
        }
        if buckets.len() >= *sweep_at {
            buckets.retain(|_, bucket| {
                bucket.fill(self.rate, now);
                !bucket.is_full(self.rate)
            });
            *sweep_at = SWEEP_AT.max(2 * buckets.len()).min(MAX_BUCKETS);
        }
        if buckets.len() >= MAX_BUCKETS {
            return others.take(self.rate, now);
        }
        let mut bucket = Bucket::full(self.rate, now);
        let taken = bucket.take(self.rate, now);
        buckets.insert(key.clone(), bucket);
        taken
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { per_sec: 2, burst: 3 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(RATE, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, start), Ok(()));
        }
        assert_eq!(bucket.take(RATE, start), Err(1));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(RATE, later), Ok(()));
        assert_eq!(bucket.take(RATE, later), Err(1));
    }

    #[test]
    fn each_key_has_its_own_bucket() {
        let now = Instant::now();
        let buckets = Buckets::new(Rate { per_sec: 1, burst: 1 });
        assert_eq!(buckets.take(&"a", now), Ok(()));
        assert_eq!(buckets.take(&"a", now), Err(1));
        assert_eq!(buckets.take(&"b", now), Ok(()));
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_make_room() {
        let start = Instant::now();
        let rate = Rate { per_sec: 1, burst: 1 };
        let buckets = Buckets::new(rate);
        let count = || buckets.held.lock().unwrap().buckets.len();
        for key in 0..MAX_BUCKETS + 10 {
            let taken = buckets.take(&key, start);
            assert_eq!(taken.is_ok(), key <= MAX_BUCKETS, "those without a bucket share one: {key}");
        }
        assert_eq!(count(), MAX_BUCKETS);
        let later = start + Duration::from_secs(2);
        assert_eq!(buckets.take(&usize::MAX, later), Ok(()));
        assert_eq!(count(), 1);
    }
}
