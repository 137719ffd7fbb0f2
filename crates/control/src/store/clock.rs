use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::Timestamp;

const MICROS_PER_SEC: i64 = 1_000_000;
/// From how far apart on it is worth a word.
const TOLERANCE_MICROS: i64 = 5 * MICROS_PER_SEC;

/// What time it is at the database, for all processes that share it: their own clocks may be apart, and what one issues
/// another may revoke by the time of its issue.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// How far this process's clock is ahead of the system's.
    own_ahead: i64,
    learned: Arc<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    /// How far the database's clock is ahead of this process's.
    ahead: AtomicI64,
    is_far: AtomicBool,
}

impl Clock {
    pub(super) fn ahead(secs: i64) -> Self {
        Self { own_ahead: secs.saturating_mul(MICROS_PER_SEC), learned: Arc::default() }
    }

    /// This process's time, in microseconds of unix time.
    pub(super) fn own(&self) -> i64 {
        Timestamp::now().unix_micros().saturating_add(self.own_ahead)
    }

    pub(super) fn now(&self) -> Timestamp {
        let ahead = self.learned.ahead.load(Ordering::Relaxed);
        Timestamp::from_unix_micros(self.own().saturating_add(ahead))
    }

    /// Learns that it was `now` at the database at some moment of `asked`, by this process's own time. What was known stays
    /// as far as it may be so.
    pub(super) fn learn(&self, now: i64, asked: RangeInclusive<i64>) {
        let (least, most) = (now.saturating_sub(*asked.end()), now.saturating_sub(*asked.start()));
        let known = self.learned.ahead.load(Ordering::Relaxed);
        // The clock may have been set back meanwhile.
        let ahead = known.max(least).min(most.max(least));
        self.learned.ahead.store(ahead, Ordering::Relaxed);
        let is_far = ahead.saturating_abs() > TOLERANCE_MICROS;
        if is_far && !self.learned.is_far.swap(is_far, Ordering::Relaxed) {
            tracing::warn!(
                secs = ahead / MICROS_PER_SEC,
                "the store's clock is not this machine's: keep both in step"
            );
        }
        self.learned.is_far.store(is_far, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_time_is_learned_as_exactly_as_it_was_heard() {
        let clock = Clock::default();
        let check = |now: i64, asked: RangeInclusive<i64>, ahead: i64| {
            clock.learn(now, asked);
            assert_eq!(clock.learned.ahead.load(Ordering::Relaxed), ahead);
        };
        check(1_000, 995..=1_010, 0);
        check(2_000, 1_000..=1_100, 900);
        check(3_000, 2_050..=2_060, 940);
        check(9_000, 1_000..=9_000, 940);
        check(10_000, 10_500..=10_600, -500);
    }
}
