//! What allocations relay, told to whoever keeps the books.

use turn::{Report, Time};

use super::Worker;

/// How often each allocation is looked at, in milliseconds.
pub(super) const INTERVAL_MS: u64 = 5_000;
/// Places of the allocation table that are looked at in one round, and the pause before the next, in milliseconds: the
/// whole of a full table takes two seconds and a half.
const PLACES_PER_ROUND: usize = 512;
const PAUSE_MS: u64 = 20;

/// When reports are due.
#[derive(Debug, Default)]
pub(super) struct Reporting {
    due_ms: u64,
    /// When the walk through the table began.
    began_ms: Option<u64>,
}

impl Worker {
    /// When the next reports are due, in monotonic milliseconds: never without allocations.
    pub(super) fn reports_due(&self) -> Option<u64> {
        (self.server.allocation_count() > 0).then_some(self.reporting.due_ms)
    }

    /// Has the server report what is due.
    pub(super) fn report(&mut self, now: Time) {
        if self.reports_due().is_none_or(|due_ms| now.monotonic_ms < due_ms) {
            return;
        }
        let began_ms = *self.reporting.began_ms.get_or_insert(now.monotonic_ms);
        self.reporting.due_ms = now.monotonic_ms + PAUSE_MS;
        if self.server.report(now, PLACES_PER_ROUND) {
            self.reporting = Reporting { due_ms: began_ms + INTERVAL_MS, began_ms: None };
        }
    }

    pub(super) fn put_out(&self, report: Box<Report>) {
        let is_over = report.ended.is_some();
        if !self.outbox.put(report) && is_over {
            self.counters.reports_lost.add(1);
            tracing::error!("too many sessions have ended and wait to be recorded: one is not");
        }
    }

    /// The last that is said: of every allocation that lives.
    pub(super) fn end_all(&mut self) {
        let now = self.clock.now();
        self.server.stop(now);
        self.take_outputs(now);
    }
}
