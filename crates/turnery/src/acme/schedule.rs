//! When a certificate is renewed, and when a failed attempt is made again. Times are Unix seconds.

use std::hash::{BuildHasher, RandomState};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Why an attempt failed, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody answered: soon it may be better, and asking costs nobody anything.
    Unreachable,
    /// The authority said no, or could not find the answer. Let's Encrypt bears five of these in an hour.
    Refused,
    /// The authority asked for patience.
    TooMany,
}

/// How long to wait after so many failures, 1 or more, of which this was the last; longer by up to a half, so that many
/// do not come together.
pub(super) fn pause_secs(cause: Cause, failures: u32, random: u64) -> i64 {
    let (first, most) = match cause {
        Cause::Unreachable => (10, HOUR),
        Cause::Refused => (5 * MINUTE, 6 * HOUR),
        Cause::TooMany => (HOUR, DAY),
    };
    let doubled = first << failures.saturating_sub(1).min(16);
    let pause = doubled.min(most);
    pause + below(random, pause / 2)
}

/// When a certificate that was obtained now is to be renewed: when two thirds of its time are over, or up to a fiftieth
/// of it earlier.
pub(super) fn renewal(now: i64, not_after: i64, random: u64) -> i64 {
    let lifetime = (not_after - now).max(0);
    not_after - lifetime / 3 - below(random, lifetime / 50)
}

/// The same where the authority suggests a time: any within its window, at once if that is over, and not so late that
/// no attempt could fail.
pub(super) fn suggested(
    now: i64,
    (start, end): (i64, i64),
    (not_before, not_after): (i64, i64),
    random: u64,
) -> i64 {
    // RFC 9773 §4.2: a time within the window is chosen uniformly; one in the past is now.
    let chosen = start + below(random, (end - start).max(0));
    let latest = not_after - (not_after - not_before) / 10;
    chosen.min(latest).max(now)
}

/// How long an authority's wish when to be asked again is heeded: an hour to a day.
pub(super) fn question_secs(wish_secs: u64) -> i64 {
    i64::try_from(wish_secs).unwrap_or(DAY).clamp(HOUR, DAY)
}

/// From 0 to this, both included.
fn below(random: u64, most: i64) -> i64 {
    let most = u64::try_from(most).unwrap_or(0);
    i64::try_from(random % (most + 1)).unwrap_or(0)
}

/// Another number each time, good enough to spread things in time.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_authority_is_never_hammered() {
        for (cause, first, most) in
            [(Cause::Unreachable, 10, HOUR), (Cause::Refused, 300, 6 * HOUR), (Cause::TooMany, HOUR, DAY)]
        {
            for random in [0, 1, 12_345, u64::MAX] {
                let pauses: Vec<i64> = (1..100).map(|n| pause_secs(cause, n, random)).collect();
                assert!((first..=first * 3 / 2).contains(&pauses[0]), "{cause:?} {}", pauses[0]);
                assert!((most..=most * 3 / 2).contains(pauses.last().unwrap()), "{cause:?}");
            }
            let pauses: Vec<i64> = (1..100).map(|n| pause_secs(cause, n, 0)).collect();
            assert!(pauses.windows(2).all(|two| two[0] <= two[1]), "{cause:?}");
        }
        // Let's Encrypt: five failed validations of a name in an hour.
        let mut at = 0;
        let tries = (1..20).take_while(|n| {
            at += pause_secs(Cause::Refused, *n, 0);
            at <= HOUR
        });
        assert!(tries.count() < 5, "beside the first");
    }

    #[test]
    fn renewal_is_at_two_thirds_or_when_the_authority_says() {
        let ninety_days = renewal(0, 90 * DAY, 0);
        assert_eq!(ninety_days, 60 * DAY);
        for random in 0..100 {
            let at = renewal(1_000, 1_000 + 90 * DAY, random * 7_919);
            assert!((58 * DAY..=60 * DAY).contains(&(at - 1_000)), "{at}");
            let at = suggested(0, (10 * DAY, 20 * DAY), (0, 90 * DAY), random * 7_919);
            assert!((10 * DAY..=20 * DAY).contains(&at));
        }
        assert_eq!(renewal(100, 50, 7), 50, "what has expired is due");
        assert_eq!(suggested(1_000, (0, 10), (0, 90 * DAY), 3), 1_000, "a window in the past");
        assert_eq!(suggested(0, (95 * DAY, 99 * DAY), (0, 90 * DAY), 3), 81 * DAY, "one too late");
        assert_eq!((question_secs(0), question_secs(7_200), question_secs(u64::MAX)), (HOUR, 7_200, DAY));
        assert_ne!(random(), random());
    }
}
