//! Token buckets, each one number: the moment, in nanoseconds, at which it was empty or would have been. A bucket of
//! zero is full, so that no clock is asked when one is made.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_SEC: u64 = 1_000_000_000;
/// The most that a full bucket holds beyond its burst, so that rounding takes no unit from it.
const MAX_SLACK_NS: u64 = 10_000;
/// The longest burst, in seconds of its rate.
const MAX_BURST_SECS: u64 = 60;

/// What a bucket is filled with and how much fits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Units a second.
    rate: u64,
    /// How long an empty bucket takes to fill.
    burst_ns: u64,
}

impl Pace {
    /// A bucket that holds what comes in one second.
    pub(crate) fn per_second(rate: u64) -> Self {
        Self { rate, burst_ns: NANOS_PER_SEC }
    }

    /// When a bucket of [`Pace::per_second`] is full again, in monotonic milliseconds rounded up; whatever the rate, and
    /// zero for one that never was used.
    pub(crate) fn is_full_at_ms(bucket: u64) -> u64 {
        let full_ns = bucket.saturating_add(NANOS_PER_SEC + MAX_SLACK_NS);
        if bucket == 0 { 0 } else { full_ns.div_ceil(NANOS_PER_MS).saturating_sub(MAX_BURST_SECS * 1_000) }
    }

    /// A bucket that holds `burst` units, at most those of a minute.
    pub(crate) fn with_burst(rate: u64, burst: u64) -> Self {
        let nanos = burst.saturating_mul(NANOS_PER_SEC).checked_div(rate).unwrap_or(0);
        Self { rate, burst_ns: nanos.min(MAX_BURST_SECS * NANOS_PER_SEC) }
    }

    /// The bucket after this many units are taken from it, `None` when they are not in it. What is more than a full
    /// bucket is taken from a full one, which is then in debt.
    pub(crate) fn take(self, bucket: u64, now_ms: u64, units: u64) -> Option<u64> {
        let cost = self.cost(units)?;
        let emptied = self.emptied(bucket, now_ms);
        let has_enough = emptied.saturating_add(cost.min(self.burst_ns)) <= nanos(now_ms);
        has_enough.then(|| emptied.saturating_add(cost))
    }

    /// The same of what is not taken from a bucket that never holds so much.
    pub(crate) fn take_whole(self, bucket: u64, now_ms: u64, units: u64) -> Option<u64> {
        let fits = self.cost(units).is_some_and(|cost| cost <= self.burst_ns);
        fits.then(|| self.take(bucket, now_ms, units)).flatten()
    }

    /// How long it takes until so much has come in, rounded up by less than a nanosecond; `None`: for ever.
    fn cost(self, units: u64) -> Option<u64> {
        let rate = NonZero::new(self.rate)?;
        Some(units.saturating_mul(NANOS_PER_SEC).div_ceil(rate.get()))
    }

    /// The bucket without what has overflowed by now.
    fn emptied(self, bucket: u64, now_ms: u64) -> u64 {
        let full_ns = self.burst_ns + self.rate.min(MAX_SLACK_NS);
        bucket.max(nanos(now_ms).saturating_sub(full_ns))
    }

    /// The bucket after this many units are taken from it, whether or not they are in it: it may be in debt then.
    pub(crate) fn charge(self, bucket: u64, now_ms: u64, units: u64) -> u64 {
        // What costs for ever is held back before, and what was not is forgotten.
        self.cost(units).map_or(bucket, |cost| self.emptied(bucket, now_ms).saturating_add(cost))
    }

    /// The same of a bucket that others take from, too.
    pub(crate) fn charge_shared(self, bucket: &AtomicU64, now_ms: u64, units: u64) {
        let charge = |held| Some(self.charge(held, now_ms, units));
        // It never is without an answer.
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge);
    }

    /// Until when a bucket is in debt, in monotonic milliseconds rounded up; `None` when it is not. With a rate of zero
    /// it is for ever.
    pub(crate) fn in_debt_until_ms(self, bucket: u64, now_ms: u64) -> Option<u64> {
        if self.rate == 0 {
            return Some(u64::MAX);
        }
        let until_ms = || bucket.div_ceil(NANOS_PER_MS).saturating_sub(MAX_BURST_SECS * 1_000);
        (bucket > nanos(now_ms)).then(until_ms)
    }

    /// The same of a bucket that others take from, too; whether it had enough.
    pub(crate) fn take_shared(self, bucket: &AtomicU64, now_ms: u64, units: u64) -> bool {
        let take = |held| self.take(held, now_ms, units);
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Counted from a minute before the clock's zero: what is zero is full even then.
fn nanos(now_ms: u64) -> u64 {
    now_ms.saturating_add(MAX_BURST_SECS * 1_000).saturating_mul(NANOS_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        for start_ms in [0, 5, 1_000_000] {
            let pace = Pace::with_burst(10, 30);
            let bucket = AtomicU64::new(0);
            let taken =
                |at_ms: u64| (0..100_u64).filter(|_| pace.take_shared(&bucket, start_ms + at_ms, 1)).count();
            assert_eq!(taken(0), 30, "full at {start_ms}");
            assert_eq!((taken(99), taken(100), taken(100)), (0, 1, 0));
            assert_eq!(taken(1_100), 10);
            assert_eq!(taken(100_000), 30, "and no more than full");
        }
    }

    #[test]
    fn rounding_takes_nothing_from_a_burst() {
        for rate in (1..200).chain([999, 1_001, 7_777]) {
            let bucket = AtomicU64::new(0);
            assert!(Pace::per_second(rate).take_whole(0, 0, rate).is_some());
            assert!(Pace::per_second(rate).take_whole(0, 0, rate + 1).is_none());
            let taken = (0..2 * rate).filter(|_| Pace::per_second(rate).take_shared(&bucket, 0, 1)).count();
            assert_eq!(taken as u64, rate);
        }
    }

    #[test]
    fn more_than_a_bucket_holds_needs_a_full_one_and_leaves_debt() {
        let pace = Pace::per_second(1_000);
        let bucket = pace.take(0, 0, 3_000).unwrap();
        assert_eq!(pace.take(bucket, 2_000, 1), None);
        assert_eq!(pace.take(bucket, 2_001, 1), Some(bucket + 1_000_000));
        assert!(pace.take(bucket, 2_999, 3_000).is_none() && pace.take(bucket, 3_000, 3_000).is_some());
    }

    #[test]
    fn a_bucket_is_full_when_it_says_so() {
        for (rate, units) in [(1, 3), (10, 7), (999, 1), (7_777, 7_777), (20_000, 1)] {
            let pace = Pace::per_second(rate);
            let full = pace.take(0, 500, rate).unwrap();
            assert_eq!(Pace::is_full_at_ms(0), 0);
            let bucket = pace.take(0, 500, units).unwrap();
            let at_ms = Pace::is_full_at_ms(bucket);
            assert_eq!(pace.take(bucket, at_ms, rate), pace.take(0, at_ms, rate), "{rate} {units}");
            assert!(at_ms <= 502 + units.div_ceil(rate) * 1_000);
            assert!(pace.take(full, 501, rate).is_none());
        }
        assert!(Pace::is_full_at_ms(u64::MAX) > 0);
    }

    #[test]
    fn a_debt_is_paid_back_at_the_rate() {
        for now_ms in [0, 5, 1_000_000] {
            let pace = Pace::per_second(1_000);
            let full = pace.charge(0, now_ms, 1_000);
            assert_eq!(pace.in_debt_until_ms(full, now_ms), None, "all of it, and no more");
            // Bought with the slack of a full bucket, which is less than a unit.
            let owing = pace.charge(full, now_ms, 250);
            assert_eq!(pace.in_debt_until_ms(owing, now_ms), Some(now_ms + 250));
            assert_eq!(pace.in_debt_until_ms(owing, now_ms + 249), Some(now_ms + 250));
            assert_eq!(pace.in_debt_until_ms(owing, now_ms + 250), None);
            assert_eq!(pace.take(owing, now_ms + 250, 1), None, "out of debt is not in credit");
            let shared = AtomicU64::new(0);
            pace.charge_shared(&shared, now_ms, 1_000);
            pace.charge_shared(&shared, now_ms, 250);
            assert_eq!(shared.into_inner(), owing);
        }
        let none = Pace::per_second(0);
        assert_eq!((none.charge(7, 5, 1), none.in_debt_until_ms(7, 5)), (7, Some(u64::MAX)));
        assert!(Pace::per_second(1).in_debt_until_ms(u64::MAX, 5).is_some());
    }

    #[test]
    fn extremes_are_no_fault() {
        assert_eq!(Pace::per_second(0).take(0, 5, 1), None);
        assert!(Pace::per_second(u64::MAX).take(0, 5, 524_280).is_some());
        assert_eq!(Pace::with_burst(0, 10).take(0, 5, 1), None);
        assert!(Pace::with_burst(u64::MAX, u64::MAX).take(0, 5, u64::MAX).is_some());
        assert!(Pace::per_second(1).take(0, u64::MAX, 1).is_some());
        // A rounded cost is off by less than a nanosecond.
        let pace = Pace::per_second(7_000_000_000);
        assert_eq!(pace.take(0, 0, 1), pace.take(0, 0, 7));
    }
}
