//! The audit log of an account.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::Value;

use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::{Moment, in_query};
use crate::dashboard::session::Visitor;
use crate::dashboard::{Frame, page};
use crate::store::{ActorKind, AuditEntry, AuditQuery, Timestamp};

/// Changes on one page.
const PAGE: u32 = 50;

/// Kinds of changes: as the log calls them, and for people.
const KINDS: [(&str, &str); 6] = [
    ("turn_key", "TURN keys"),
    ("credential", "Credentials"),
    ("shared_secret", "Shared secrets"),
    ("token", "API tokens"),
    ("webhook", "Webhooks"),
    ("account", "The account"),
];

struct Row {
    at: Moment,
    action: String,
    target: String,
    /// Whether the target is a TURN key of which there is a page.
    is_key: bool,
    details: String,
    actor: String,
    address: String,
}

#[derive(Template)]
#[template(path = "dashboard/audit.html")]
struct AuditPage {
    frame: Frame,
    kinds: [(&'static str, &'static str, bool); 6],
    target: String,
    is_filtered: bool,
    rows: Vec<Row>,
    is_first: bool,
    /// As a query, from the `?` on.
    query: String,
    next: Option<i64>,
}

pub(super) async fn list(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let form = Form::of_query(&uri);
    let action = form.filled("action").unwrap_or_default();
    let target = form.filled("target").unwrap_or_default();
    let query = AuditQuery {
        account: Some(visitor.account().clone()),
        action: Some(action.to_owned()).filter(|it| !it.is_empty()),
        target: Some(target.to_owned()).filter(|it| !it.is_empty()),
        before: form.filled("before").and_then(|text| text.parse().ok()),
        since: None,
    };
    let mut found = shared.store.audit(&query, PAGE + 1).await?;
    let is_more = found.len() > PAGE as usize;
    found.truncate(PAGE as usize);
    // Personal data, as a client's is among the sessions.
    if !visitor.may_write() {
        for entry in &mut found {
            entry.actor.address = None;
        }
    }
    let shown = AuditPage {
        frame: Frame::new(&visitor, "audit"),
        kinds: KINDS.map(|(name, label)| (name, label, name == action)),
        target: target.to_owned(),
        is_filtered: !action.is_empty() || !target.is_empty(),
        next: found.last().filter(|_| is_more).map(|last| last.seq),
        rows: found.into_iter().map(row).collect(),
        is_first: query.before.is_none(),
        query: format!("?action={}&target={}", in_query(action), in_query(target)),
    };
    Ok(page(StatusCode::OK, &shown))
}

fn row(entry: AuditEntry) -> Row {
    let who = match entry.actor.kind {
        ActorKind::Token => "API token",
        ActorKind::TurnKey => "TURN key",
        ActorKind::Cli => "command line",
        ActorKind::Dashboard => "dashboard, API token",
        ActorKind::Service => "the service",
    };
    let named = if entry.actor.name.is_empty() { entry.actor.id } else { entry.actor.name };
    let is_key = entry.action.starts_with("turn_key.") || entry.action.starts_with("credential.");
    Row {
        at: Moment { at: entry.at, now: Timestamp::now() },
        is_key: is_key && entry.target.len() == 32,
        action: entry.action,
        target: entry.target,
        details: told(&entry.details),
        actor: format!("{who} {named}").trim_end().to_owned(),
        address: entry.actor.address.map(|address| address.to_string()).unwrap_or_default(),
    }
}

/// `name: phones, overlap_secs: 60`.
fn told(details: &Value) -> String {
    let Value::Object(fields) = details else { return String::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let fields = fields.iter().filter(|(_, value)| !value.is_null());
    fields.map(|(name, value)| format!("{name}: {}", text(value))).collect::<Vec<_>>().join(", ")
}
