/// The present, as the caller's clocks say: given with every call, never asked for.
///
/// The server's timers run on the monotonic clock; a credential's expiry is compared with the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Milliseconds since any fixed moment; never goes back.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

impl Time {
    /// Whole seconds since 1970.
    pub fn unix_secs(self) -> u64 {
        self.unix_ms / 1_000
    }

    /// The monotonic moment `secs` from now.
    pub(crate) fn after_secs(self, secs: u32) -> u64 {
        self.monotonic_ms.saturating_add(u64::from(secs) * 1_000)
    }

    /// The monotonic moment of a wall-clock moment, by what both clocks say now; the present if it has passed.
    pub(crate) fn monotonic_at_unix_secs(self, unix_secs: u64) -> u64 {
        let ahead_ms = unix_secs.saturating_mul(1_000).saturating_sub(self.unix_ms);
        self.monotonic_ms.saturating_add(ahead_ms)
    }
}
