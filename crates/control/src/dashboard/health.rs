//! Whether this node works, and what it is.

use std::fmt;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::Shared;
use crate::dashboard::format::{Moment, span};
use crate::dashboard::session::Visitor;
use crate::dashboard::{Frame, page};
use crate::health::{HOLDS, checks};
use crate::store::Timestamp;

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
    started: Moment,
    uptime: String,
    certificate: Option<Moment>,
    /// What an operator should know of the certificate.
    certificate_word: &'static str,
    now: Moment,
}

pub(super) async fn show(visitor: Visitor, State(shared): State<Arc<Shared>>) -> Response {
    const SOON_SECS: u64 = 14 * 86_400;
    let rows: Vec<Row> = checks(&shared).await.into_iter().map(row).collect();
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
    let shown = HealthPage {
        frame: Frame::new(&visitor, "health"),
        is_ready: rows.iter().all(|row| row.holds),
        checks: rows,
        version: about.version,
        node: about.node.clone(),
        listeners: about.listeners.clone(),
        urls,
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
        _ => "",
    };
    Row { name, meaning, outcome, holds: outcome == HOLDS }
}
