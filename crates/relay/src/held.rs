//! Flows of data connections that are not read for a while, because a rate is used up.

use std::collections::BTreeSet;

use turn::Direction;

/// Flows that may be asked about again in one millisecond, on average: what is held longer is in nobody's way.
const ASKS_PER_MS: usize = 64;

/// What holds a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// When it is asked about again, in monotonic milliseconds.
    pub(crate) until_ms: u64,
    /// Its place among those that wait: it keeps it until it has read something, or those before it would always win.
    pub(crate) turn: u64,
}

/// The flows that are held, the next to go on first; at most two of each pair.
#[derive(Debug, Default)]
pub(crate) struct Held {
    order: BTreeSet<(u64, u64, usize, Direction)>,
    turns: u64,
}

impl Held {
    /// Holds one more flow until this moment, or longer: all of them together are not asked about too often.
    pub(crate) fn insert(
        &mut self,
        (index, direction): (usize, Direction),
        (until_ms, now_ms): (u64, u64),
        turn: Option<u64>,
    ) -> Hold {
        let turn = turn.unwrap_or_else(|| {
            self.turns += 1;
            self.turns
        });
        let rest_ms = 1 + (self.order.len() / ASKS_PER_MS) as u64;
        let until_ms = until_ms.max(now_ms.saturating_add(rest_ms));
        self.order.insert((until_ms, turn, index, direction));
        Hold { until_ms, turn }
    }

    pub(crate) fn remove(&mut self, (index, direction): (usize, Direction), hold: Hold) {
        self.order.remove(&(hold.until_ms, hold.turn, index, direction));
    }

    /// When the next one may go on.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.order.first().map(|(until_ms, ..)| *until_ms)
    }

    /// One that may go on.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<(usize, Direction)> {
        self.next_ms().filter(|until_ms| *until_ms <= now_ms)?;
        self.order.pop_first().map(|(_, _, index, way)| (index, way))
    }

    /// All of them, in their order.
    pub(crate) fn pop_all(&mut self) -> impl Iterator<Item = (usize, Direction)> + use<> {
        std::mem::take(&mut self.order).into_iter().map(|(_, _, index, way)| (index, way))
    }

    /// How often a flow was held, from when it was read to when it is read again.
    pub(crate) fn count(&self) -> u64 {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Direction = Direction::ToPeer;

    #[test]
    fn who_waits_longest_goes_first() {
        let mut held = Held::default();
        let first = held.insert((0, WAY), (100, 50), None);
        let second = held.insert((1, WAY), (100, 50), None);
        assert_eq!((held.next_ms(), held.pop(99)), (Some(100), None));
        assert_eq!(held.pop(100), Some((0, WAY)));
        // It has read something, and waits behind the other, which has not.
        held.insert((0, WAY), (120, 100), None);
        assert_eq!(held.pop(100), Some((1, WAY)));
        assert_eq!(held.insert((1, WAY), (120, 100), Some(second.turn)).turn, second.turn);
        assert_eq!((held.pop(120), held.pop(120), held.pop(120)), (Some((1, WAY)), Some((0, WAY)), None));
        assert!(first.turn < second.turn);
        assert_eq!(held.count(), 3);
    }

    #[test]
    fn many_are_not_asked_about_more_often_than_few() {
        let mut held = Held::default();
        let mut asked = 0;
        for index in 0..10_000 {
            held.insert((index, WAY), (0, 0), None);
        }
        for now_ms in 0..1_000 {
            while let Some((index, way)) = held.pop(now_ms) {
                asked += 1;
                // The rate is used up for ever.
                held.insert((index, way), (now_ms, now_ms), None);
            }
        }
        assert!((32_000..=66_000).contains(&asked), "{asked} in a second");
        assert_eq!(held.pop_all().count(), 10_000);
        assert_eq!(held.next_ms(), None);
    }
}
