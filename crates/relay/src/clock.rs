use std::time::{Instant, SystemTime, UNIX_EPOCH};

use turn::Time;

/// Both clocks, read once per round of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn begin() -> Self {
        Self { start: Instant::now() }
    }

    /// When the monotonic clock was zero.
    pub(crate) fn start(self) -> Instant {
        self.start
    }

    pub(crate) fn now(self) -> Time {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Time { monotonic_ms: millis(self.start.elapsed()), unix_ms: millis(unix) }
    }
}
