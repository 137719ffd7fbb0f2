//! What one measurement saw.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use testkit::pinned;

use crate::subject::Server;

/// How long things take, and how many of them there are at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Under load, before anything counts.
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
    /// How long nothing may come back before as much is sent again.
    pub(crate) stall: Duration,
    /// How long nothing may come back at the end before what is missing counts as lost.
    pub(crate) patience: Duration,
}

/// Figures of one subject in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Packets, cycles or requests that came back meanwhile.
    pub(crate) count: u64,
    /// Of all the server's threads, meanwhile.
    pub(crate) cpu_ns: u64,
    /// Of the whole load, its beginning and end included: `sent` = `received` + `lost`.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// How often nothing came back any more, and everything was sent again.
    pub(crate) stalls: u64,
    /// Packets that came after a later one of their flow.
    pub(crate) reordered: u64,
    /// What came and is not what was sent: cut, merged, of another flow, an error.
    pub(crate) wrong: u64,
    /// Which part of the time the load found nothing to do: near 0 it is what was measured.
    pub(crate) load_idle: f64,
    /// Cores that were busy meanwhile for neither server nor load: near 0, or the figures are worth little.
    pub(crate) elsewhere: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
}

#[expect(clippy::struct_field_names, reason = "a unit comes last")]
/// Microseconds from when a packet should have been sent to when the system had it for its receiver.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
    /// How late the load itself sent, which is within the figures above.
    pub(crate) sent_late_p99_us: f64,
}

impl Latency {
    /// Whether it is the server that was measured, and not the load.
    pub(crate) fn is_sound(&self) -> bool {
        self.sent_late_p99_us <= self.p99_us / 2.0
    }
}

/// What idle allocations take.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) allocations: usize,
    /// Bytes of the server that are resident without, and with, allocations.
    pub(crate) resident_before: u64,
    pub(crate) resident_after: u64,
    /// Bytes of slab that the system holds more of, all of it taken together, the server's sockets first.
    pub(crate) kernel_grown: u64,
}

impl Memory {
    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
    pub(crate) fn resident_per_allocation(&self) -> f64 {
        self.resident_after.saturating_sub(self.resident_before) as f64 / self.allocations as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
    pub(crate) fn kernel_per_allocation(&self) -> f64 {
        self.kernel_grown as f64 / self.allocations as f64
    }
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn per_sec(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / self.count as f64 / 1e3
    }

    /// Of one core, 1 is all of it.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn cpu_share(&self) -> f64 {
        self.cpu_ns as f64 / 1e9 / self.seconds
    }
}

/// What is counted while a load runs.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) reordered: u64,
    pub(crate) wrong: u64,
    pub(crate) stalls: u64,
    idle: Duration,
    last: Instant,
    /// When something came last.
    pub(crate) heard: Instant,
}

impl Tally {
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        let (sent, received, reordered, wrong, stalls) = (0, 0, 0, 0, 0);
        Self { sent, received, reordered, wrong, stalls, idle: Duration::ZERO, last: now, heard: now }
    }

    /// When the sockets were last looked at.
    pub(crate) fn last_look(&self) -> Instant {
        self.last
    }

    /// Tells of a look at the sockets that found something, or nothing.
    pub(crate) fn looked(&mut self, now: Instant, found: bool) {
        if found {
            self.heard = now;
        } else {
            self.idle += now - self.last;
        }
        self.last = now;
    }
}

/// The time that counts, cut out of a load's whole run.
#[derive(Debug)]
pub(crate) struct Stretch {
    pace: Pace,
    begun: Instant,
    from: Option<From>,
}

/// How things stood when what counts began.
#[derive(Debug)]
struct From {
    at: Instant,
    received: u64,
    idle: Duration,
    cpu_ns: u64,
    own_ns: u64,
    busy_ns: u64,
}

impl Stretch {
    pub(crate) fn begin(pace: Pace) -> Self {
        Self { pace, begun: Instant::now(), from: None }
    }

    /// Asked at every turn; the sample when the time is over.
    pub(crate) fn over(
        &mut self,
        now: Instant,
        tally: &Tally,
        server: &Server,
    ) -> anyhow::Result<Option<Sample>> {
        let since = now - self.begun;
        match self.from {
            None if since >= self.pace.warm => {
                self.from = Some(From {
                    at: Instant::now(),
                    received: tally.received,
                    idle: tally.idle,
                    cpu_ns: server.cpu_ns()?,
                    own_ns: pinned::cpu_ns(std::process::id())?,
                    busy_ns: pinned::busy_ns()?,
                });
                Ok(None)
            }
            Some(ref from) if since >= self.pace.warm + self.pace.measured => {
                let cpu_ns = server.cpu_ns()? - from.cpu_ns;
                let own_ns = pinned::cpu_ns(std::process::id())? - from.own_ns;
                let others_ns = (pinned::busy_ns()? - from.busy_ns).saturating_sub(cpu_ns + own_ns);
                let time = from.at.elapsed();
                Ok(Some(Sample {
                    seconds: time.as_secs_f64(),
                    count: tally.received - from.received,
                    cpu_ns,
                    load_idle: tally.idle.saturating_sub(from.idle).as_secs_f64() / time.as_secs_f64(),
                    elsewhere: Duration::from_nanos(others_ns).as_secs_f64() / time.as_secs_f64(),
                    ..Sample::default()
                }))
            }
            _ => Ok(None),
        }
    }
}

impl Sample {
    /// Adds what is known after the last packet.
    pub(crate) fn close(&mut self, tally: &Tally) {
        self.sent = tally.sent;
        self.received = tally.received;
        self.lost = tally.sent.saturating_sub(tally.received);
        self.reordered = tally.reordered;
        self.wrong = tally.wrong;
        self.stalls = tally.stalls;
    }
}

/// Delays in nanoseconds, up to a minute, to three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// What delays come to.
#[expect(clippy::cast_precision_loss, reason = "a minute of nanoseconds is far below 2^52")]
pub(crate) fn latency(delays: &Histogram<u64>, late: &Histogram<u64>) -> Latency {
    let micros = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1e3;
    Latency {
        p50_us: micros(delays, 0.5),
        p99_us: micros(delays, 0.99),
        p99_9_us: micros(delays, 0.999),
        max_us: delays.max() as f64 / 1e3,
        sent_late_p99_us: micros(late, 0.99),
    }
}
