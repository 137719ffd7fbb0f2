//! What allocations relay, told to whoever keeps the books.

use turn::{Report, Time};

use super::Worker;

/// How often each allocation is looked at, in milliseconds, while anything happens; and how often thoroughly, though
/// nothing does.
const INTERVAL_MS: u64 = 5_000;
const THOROUGH_INTERVAL_MS: u64 = 60_000;
/// Places of the allocation table that are looked at in one round, and the pause before the next, in milliseconds: the
/// whole of a full table takes two seconds and a half.
const PLACES_PER_ROUND: usize = 512;
const PAUSE_MS: u64 = 20;

/// When reports are due.
#[derive(Debug, Default)]
pub(super) struct Reporting {
    due_ms: u64,
    thorough_due_ms: u64,
    walk: Option<Walk>,
    /// Whether anything has happened since the last walk began: if nothing has, nothing was relayed.
    is_stirred: bool,
}

/// A walk through the table.
#[derive(Debug, Clone, Copy)]
struct Walk {
    began_ms: u64,
    is_thorough: bool,
}

impl Reporting {
    /// Something may have changed what there is to report.
    pub(super) fn stir(&mut self) {
        self.is_stirred = true;
    }
}

impl Worker {
    /// When the next reports are due, in monotonic milliseconds: never without allocations.
    pub(super) fn reports_due(&self) -> Option<u64> {
        let Reporting { due_ms, thorough_due_ms, walk, is_stirred } = self.reporting;
        let is_at_it = walk.is_some() || is_stirred;
        let due_ms = if is_at_it { due_ms } else { due_ms.max(thorough_due_ms) };
        (self.server.allocation_count() > 0).then_some(due_ms)
    }

    /// Has the server report what is due.
    pub(super) fn report(&mut self, now: Time) {
        if self.reports_due().is_none_or(|due_ms| now.monotonic_ms < due_ms) {
            return;
        }
        let reporting = &mut self.reporting;
        let walk = *reporting.walk.get_or_insert_with(|| {
            reporting.is_stirred = false;
            Walk { began_ms: now.monotonic_ms, is_thorough: reporting.thorough_due_ms <= now.monotonic_ms }
        });
        reporting.due_ms = now.monotonic_ms + PAUSE_MS;
        if self.server.report(now, PLACES_PER_ROUND, walk.is_thorough) {
            reporting.walk = None;
            reporting.due_ms = walk.began_ms + INTERVAL_MS;
            if walk.is_thorough {
                reporting.thorough_due_ms = walk.began_ms + THOROUGH_INTERVAL_MS;
            }
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
