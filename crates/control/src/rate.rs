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
    buckets: Mutex<HashMap<K, Bucket>>,
}

/// From so many buckets on, the full ones are thrown away before another is made: a full one says nothing.
const SWEEP_AT: usize = 10_000;

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::new(HashMap::new()) }
    }

    /// As [`Bucket::take`], from the bucket of `key`.
    pub(crate) fn take(&self, key: &K, now: Instant) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(key) && buckets.len() >= SWEEP_AT {
            buckets.retain(|_, bucket| {
                bucket.fill(self.rate, now);
                !bucket.is_full(self.rate)
            });
        }
        buckets.entry(key.clone()).or_insert_with(|| Bucket::full(self.rate, now)).take(self.rate, now)
    }
}

#[cfg(test)]
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
}
