//! The books: what the relay reports of sessions is recorded in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use control::store::usage::{
    Node, REPORTS_AT_ONCE, Retention, SessionId, SessionOrder, SessionReport, Usage,
};
use control::store::{Store, Timestamp};
use relay::Reports;
use tokio::time::{MissedTickBehavior, interval, sleep};
use turn::{Ending, Report, Transport};

/// How often reports are taken from the relay.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often old usage is tidied up.
const TIDY_INTERVAL: Duration = Duration::from_mins(1);

/// Who keeps the books of this process.
pub(crate) struct Books {
    pub(crate) store: Store,
    pub(crate) node: Node,
    /// What was taken from the relay and is not recorded yet. Nothing more is taken until it is: it waits there, the
    /// newest report of a session in the place of older ones.
    backlog: BTreeMap<SessionId, SessionReport>,
    /// How many reports are recorded at once: fewer while the store does not take so many in time.
    at_once: usize,
    failed: bool,
}

impl Books {
    pub(crate) fn new(store: Store, node: Node) -> Self {
        Self { store, node, backlog: BTreeMap::new(), at_once: REPORTS_AT_ONCE, failed: false }
    }

    /// Records what `take` gives, so many at most at a time, again and again.
    pub(crate) async fn keep(&mut self, take: impl Fn(usize) -> Reports) -> ! {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.record().await;
            // As many as are recorded at once: in the store's words they take several times the room.
            while self.backlog.is_empty() {
                let reports = take(REPORTS_AT_ONCE);
                if reports.is_empty() {
                    break;
                }
                self.add(reports);
                self.record().await;
            }
        }
    }

    pub(crate) fn add(&mut self, reports: Reports) {
        for report in reports {
            let report = session_report(&report);
            let is_newer = |held: &SessionReport| held.sequence < report.sequence;
            if self.backlog.get(&report.id).is_none_or(is_newer) {
                self.backlog.insert(report.id, report);
            }
        }
    }

    /// Records what waits, as far as the store takes it.
    pub(crate) async fn record(&mut self) {
        while !self.backlog.is_empty() {
            let batch: Vec<SessionReport> = self.backlog.values().take(self.at_once).cloned().collect();
            match self.store.record_usage(&self.node, &batch).await {
                Ok(()) => {
                    for report in &batch {
                        self.backlog.remove(&report.id);
                    }
                    self.at_once = (self.at_once * 2).min(REPORTS_AT_ONCE);
                }
                Err(error) => {
                    self.at_once = (self.at_once / 2).max(1);
                    if !self.failed {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "usage cannot be recorded; it waits until it can be"
                        );
                    }
                    self.failed = true;
                    return;
                }
            }
        }
        if std::mem::take(&mut self.failed) {
            tracing::info!("usage is recorded again");
        }
    }
}

/// Tidies old usage up, again and again. Where there is much to do, nobody waits for it.
pub(crate) async fn tidy(store: &Store, retention: Retention) -> ! {
    loop {
        sleep(TIDY_INTERVAL).await;
        loop {
            match store.tidy_usage(&retention).await {
                // There is more to do: soon.
                Ok(false) => sleep(INTERVAL).await,
                Ok(true) => break,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "old usage is not tidied up");
                    break;
                }
            }
        }
    }
}

fn moment(unix_ms: u64) -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(unix_ms).unwrap_or(i64::MAX).saturating_mul(1_000))
}

/// A report in the store's words.
fn session_report(report: &Report) -> SessionReport {
    let session = &report.session;
    let turn::Usage { ingress, egress } = report.usage;
    SessionReport {
        id: SessionId(session.id.0),
        turn_key: session.turn_key,
        credential: session.credential,
        username: session.username.clone(),
        custom_identifier: session.custom_identifier.clone(),
        transport: match report.client.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Dtls => "dtls",
        },
        client: report.client.client,
        relayed: report.relayed,
        relays_tcp: session.relays_tcp,
        started: moment(session.started.unix_ms),
        at: moment(report.at.unix_ms),
        expires: moment(report.expires_unix_ms),
        sequence: report.sequence,
        usage: Usage {
            egress_bytes: egress.bytes,
            egress_packets: egress.packets,
            ingress_bytes: ingress.bytes,
            ingress_packets: ingress.packets,
        },
        ended: report.ended.map(turn::EndReason::label),
    }
}

/// An order to end sessions in the relay's words.
pub(crate) fn ending(order: &SessionOrder) -> Ending {
    match order {
        SessionOrder::Session(_, id) => Ending::Session(turn::SessionId(id.0)),
        SessionOrder::Credential(_, id) => Ending::Credential(*id),
        SessionOrder::Key(key) => Ending::Key(*key),
        SessionOrder::CustomIdentifier(key, text) => {
            Ending::CustomIdentifier { turn_key: *key, custom_identifier: text.as_str().into() }
        }
    }
}
