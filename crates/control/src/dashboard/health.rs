//! Whether this node works, and what it is.

use std::fmt;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::Shared;
use crate::dashboard::format::{Moment, grouped, short_bytes, span};
use crate::dashboard::session::Visitor;
use crate::dashboard::{Frame, page};
use crate::health::{HOLDS, of_api};
use crate::store::{KnownNode, NodeState, Timestamp};

/// What the dashboard tells of the process that it runs in.
#[derive(Clone, Default)]
pub struct About {
    /// What runs.
    pub version: &'static str,
    /// What the node is called.
    pub node: String,
    /// What is listened on, as URLs.
    pub listeners: Vec<String>,
    certificate_expiry: Option<Arc<dyn Fn() -> Option<i64> + Send + Sync>>,
}

impl About {
    /// How to ask when the first of the certificates in use expires, in Unix time. It is asked for each page and must not
    /// block.
    pub fn ask_certificate_expiry(&mut self, ask: impl Fn() -> Option<i64> + Send + Sync + 'static) {
        self.certificate_expiry = Some(Arc::new(ask));
    }
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("About")
            .field("version", &self.version)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

struct Row {
    name: &'static str,
    meaning: &'static str,
    outcome: &'static str,
    holds: bool,
}

/// A node of the deployment.
struct NodeRow {
    name: String,
    state: &'static str,
    is_good: bool,
    version: String,
    role: String,
    place: String,
    allocations: String,
    traffic: String,
    cpu: String,
    feed: String,
    seen: Moment,
}

#[derive(Template)]
#[template(path = "dashboard/health.html")]
struct HealthPage {
    frame: Frame,
    checks: Vec<Row>,
    is_ready: bool,
    version: &'static str,
    node: String,
    listeners: Vec<String>,
    urls: Vec<String>,
    /// Empty where the store does not say.
    nodes: Vec<NodeRow>,
    started: Moment,
    uptime: String,
    certificate: Option<Moment>,
    /// What an operator should know of the certificate.
    certificate_word: &'static str,
    now: Moment,
}

pub(super) async fn show(visitor: Visitor, State(shared): State<Arc<Shared>>) -> Response {
    const SOON_SECS: u64 = 14 * 86_400;
    let rows: Vec<Row> = of_api(&shared).await.into_iter().map(row).collect();
    let now = Timestamp::now();
    let moment = |at| Moment { at, now };
    let about = &shared.config.about;
    let expiry = about.certificate_expiry.as_ref().and_then(|ask| ask());
    let expiry = expiry.map(|secs| Timestamp::from_unix_secs(u64::try_from(secs).unwrap_or(0)));
    let certificate_word = match expiry {
        Some(at) if at <= now => "expired",
        Some(at) if at.unix_secs() < now.unix_secs() + SOON_SECS => "renew soon",
        _ => "good",
    };
    let urls = shared.config.ice.stun.iter().chain(&shared.config.ice.turn).cloned().collect();
    let nodes = shared.store.nodes().await.unwrap_or_default();
    let shown = HealthPage {
        frame: Frame::new(&visitor, "health"),
        is_ready: rows.iter().all(|row| row.holds),
        checks: rows,
        version: about.version,
        node: about.node.clone(),
        listeners: about.listeners.clone(),
        urls,
        nodes: nodes.into_iter().map(|node| node_row(node, now)).collect(),
        started: moment(shared.started),
        uptime: span(now.unix_secs().saturating_sub(shared.started.unix_secs())),
        certificate: expiry.map(moment),
        certificate_word,
        now: moment(now),
    };
    page(StatusCode::OK, &shown)
}

fn row((name, outcome): (&'static str, &'static str)) -> Row {
    let meaning = match name {
        "store" => "The database answers.",
        "feed" => "Revocations of other nodes are read, at most 10 s late.",
        "relay" => "Every worker runs.",
        "admission" => "New allocations are taken: the node is not about to end, and hears what is revoked.",
        _ => "",
    };
    Row { name, meaning, outcome, holds: outcome == HOLDS }
}

fn node_row(node: KnownNode, now: Timestamp) -> NodeRow {
    let KnownNode { name, state, seen_ms_ago, report, .. } = node;
    let place = [report.city, report.code, report.country, report.region];
    let place: Vec<String> = place.into_iter().filter(|part| !part.is_empty()).collect();
    let allocations = match report.redirect_above {
        Some(most) => format!("{} of {}", grouped(report.allocations), grouped(most)),
        None => grouped(report.allocations),
    };
    let feed_age = report.feed_age_ms.map(|ms| format!(", {} ms old", grouped(ms)));
    NodeRow {
        name,
        state: state.name(),
        is_good: matches!(state, NodeState::Up | NodeState::Full),
        version: report.version,
        role: report.role,
        place: place.join(", "),
        allocations,
        traffic: format!("{}/s", short_bytes(report.bytes_per_second)),
        cpu: format!("{}.{} %", report.cpu_permille / 10, report.cpu_permille % 10),
        feed: format!("{}{}", report.feed_position, feed_age.unwrap_or_default()),
        // How long ago that is, is the database's word; this clock may be another.
        seen: Moment { at: now.minus_secs(seen_ms_ago / 1_000), now },
    }
}
