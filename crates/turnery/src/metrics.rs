//! The relay's and the process's figures, read at each scrape.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use control::Feed;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use relay::{Breakdown, Totals, Traffic};

use crate::admission::Admission;
use crate::certificates::Certificates;
use crate::relaying::RelayHandle;

/// Reads the relay's counters. A relay that has ended has none.
#[derive(Debug)]
pub(crate) struct RelayMetrics(pub(crate) RelayHandle);

impl Collector for RelayMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some((totals, breakdown)) = self.0.counters() else { return Ok(()) };
        let mut out = Encoder(encoder);
        out.gauge("allocations", "Allocations that live now", totals.allocations)?;
        out.gauge("client_connections", "Clients' stream connections open now", totals.connections)?;
        out.gauge("peer_connections", "TCP connections with peers open now", totals.peer_connections)?;
        out.gauge("dtls_sessions", "DTLS sessions open, or being begun, now", totals.sessions)?;
        relayed(&mut out, &breakdown)?;
        requests(&mut out, &totals, &breakdown)
    }
}

fn relayed(out: &mut Encoder<'_>, breakdown: &Breakdown) -> fmt::Result {
    let both = |pick: fn(&Traffic) -> [u64; 2]| -> Vec<([(&str, &str); 2], u64)> {
        let directions = |(transport, traffic): &(&'static str, Traffic)| {
            let [to_peer, to_client] = pick(traffic);
            let labels = |direction| [("direction", direction), ("transport", *transport)];
            [(labels("to_peer"), to_peer), (labels("to_client"), to_client)]
        };
        breakdown.relayed.iter().flat_map(directions).collect()
    };
    out.counters(
        "relayed_packets",
        "Packets of application data relayed, by the client's transport; data connections (RFC 6062) have none",
        &both(|it| [it.packets_to_peers, it.packets_to_clients]),
    )?;
    out.counters(
        "relayed_bytes",
        "Bytes of application data relayed, by the client's transport, to clients with TURN's headers",
        &both(|it| [it.bytes_to_peers, it.bytes_to_clients]),
    )
}

fn requests(out: &mut Encoder<'_>, totals: &Totals, breakdown: &Breakdown) -> fmt::Result {
    let by_reason = |counts: &[(&'static str, u64)]| -> Vec<_> {
        counts.iter().map(|(reason, count)| ([("reason", *reason)], *count)).collect()
    };
    out.counter("successes", "STUN requests answered with success", totals.successes)?;
    out.counters(
        "refusals",
        "STUN requests answered with an error, by reason",
        &by_reason(&breakdown.refused),
    )?;
    out.counters("drops", "Packets answered with nothing, by reason", &by_reason(&breakdown.dropped))?;
    out.counters(
        "allocations_ended",
        "Relayed addresses that are over, by reason",
        &by_reason(&breakdown.ended),
    )?;
    out.counter(
        "allocation_moves",
        "Allocations that followed their client to another worker",
        totals.moves,
    )?;
    out.counter("mailbox_drops", "Packets lost between workers: a mailbox was full", totals.mailbox_drops)?;
    out.counter(
        "reports_lost",
        "Sessions whose end is missing in usage: no room to wait",
        totals.reports_lost,
    )?;
    out.counter("gate_drops", "Datagrams that begin no DTLS session and belong to none", totals.gate_drops)?;
    out.counter("dtls_sessions_refused", "DTLS sessions refused at a bound", totals.sessions_refused)?;
    out.counter(
        "send_failures",
        "Packets that the system would not send, or a client on a stream did not read in time",
        totals.send_failures,
    )?;
    out.counter(
        "connections_refused",
        "Connections closed at a deadline or a bound",
        totals.connections_refused,
    )
}

/// What is true of the process as a whole.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    feed: Feed,
    certificates: Option<Arc<Certificates>>,
    admission: Arc<Admission>,
    started: f64,
}

impl ProcessMetrics {
    pub(crate) fn new(
        feed: Feed,
        certificates: Option<Arc<Certificates>>,
        admission: Arc<Admission>,
    ) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { feed, certificates, admission, started }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Encoder(encoder);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        build.encode(out.0.encode_descriptor("build", "What runs", None, MetricType::Info)?)?;
        out.seconds("start_time_seconds", "When the process started, in Unix time", self.started)?;
        if let Some(age) = self.feed.age() {
            out.seconds(
                "feed_age_seconds",
                "How old the last successful look at the deny feed is",
                age.as_secs_f64(),
            )?;
        }
        out.gauge(
            "feed_too_old",
            "1 while new allocations are refused because of the age of the deny feed",
            self.admission.is_stale().into(),
        )?;
        if let Some(expiry) = self.certificates.as_ref().and_then(|it| it.soonest_expiry()) {
            let encoder = out.0.encode_descriptor(
                "certificate_expiry_time_seconds",
                "When the first of the certificates in use expires, in Unix time",
                None,
                MetricType::Gauge,
            )?;
            ConstGauge::new(expiry).encode(encoder)?;
        }
        if let Some(failures) = self.certificates.as_ref().and_then(|it| it.failures()) {
            out.gauge(
                "certificate_renewal_failures",
                "Attempts to obtain a certificate that failed since the last one that did not",
                failures.into(),
            )?;
        }
        if let Some(bytes) = resident_bytes() {
            out.gauge("resident_memory_bytes", "Memory that the process occupies", bytes)?;
        }
        if let Some(open) = open_files() {
            out.gauge("open_fds", "File descriptors that are open", open)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

fn open_files() -> Option<u64> {
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: &[([(&str, &str); N], u64)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}
