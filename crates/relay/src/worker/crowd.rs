//! Memory that a crowd of clients took, given back to the system once most of them have gone: the allocator would keep
//! what is freed for the next ones.

use super::Worker;
use crate::sys;

/// How many clients of a worker are a crowd. Fewer need little, and giving back takes a walk through the heap.
const CROWD: usize = 1_024;

/// How many clients there have been.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// At once, since memory was given back last.
    most: usize,
}

impl Crowd {
    /// Whether most of a crowd has gone, now that there are this many.
    fn has_gone(&mut self, there: usize) -> bool {
        self.most = self.most.max(there);
        let has_gone = self.most >= CROWD && there <= self.most / 4;
        if has_gone {
            self.most = there;
        }
        has_gone
    }
}

impl Worker {
    /// Gives back what clients took who are no longer there.
    pub(super) fn give_back(&mut self) {
        let there = self.connections.len() + self.sessions.len() + self.server.allocation_count();
        if self.crowd.has_gone(there) {
            self.connections.shrink();
            sys::give_back_memory();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_gone_once() {
        let mut crowd = Crowd::default();
        let gone = [0, 1_023, 0, 1_024, 257, 256, 255, 0, 5_000, 1_250, 1_250].map(|n| crowd.has_gone(n));
        assert_eq!(
            gone,
            [false, false, false, false, false, true, false, false, false, true, false],
            "each crowd once, and only a crowd"
        );
    }
}
