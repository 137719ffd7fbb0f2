//! Pauses between attempts that fail.

use std::time::Duration;

use super::secret::random_bytes;

/// How long to wait before the next attempt: any time up to twice as much as before, so that many who failed together do not
/// come again together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause is no longer than `first`, and none longer than `most`.
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(self.most);
        part_of(longest)
    }

    /// It has not failed.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random part of it, any as likely.
pub(crate) fn part_of(whole: Duration) -> Duration {
    let share = random_bytes().map_or(u16::MAX, u16::from_be_bytes);
    whole * u32::from(share) / 65_536
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_anything_up_to_twice_as_long_each_time() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut longest = [Duration::ZERO; 6];
        let mut shortest = [most; 6];
        for _ in 0..500 {
            let mut backoff = Backoff::new(first, most);
            let pauses = longest.iter_mut().zip(&mut shortest);
            for (place, (longest, shortest)) in pauses.enumerate() {
                let pause = backoff.pause();
                assert!(pause < (first * (1 << place)).min(most), "{place} {pause:?}");
                *longest = pause.max(*longest);
                *shortest = pause.min(*shortest);
            }
            backoff.reset();
            assert!(backoff.pause() < first);
        }
        for (place, (longest, shortest)) in longest.iter().zip(&shortest).enumerate() {
            let whole = (first * (1 << place)).min(most);
            assert!(*longest > whole * 9 / 10 && *shortest < whole / 10, "{place} {shortest:?} {longest:?}");
        }
    }
}
