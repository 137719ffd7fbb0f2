//! What a TURN key may relay in a month.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use credentials::TurnKeyId;

use crate::api::ApiError;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::{Bytes, Moment};
use crate::dashboard::keys::{self, KeyPath};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::{MAX_THRESHOLDS, MonthLimit, MonthStatus, Timestamp};
use crate::upkeep;

/// The greatest limit, in bytes.
const MAX_BYTES: u64 = 1 << 53;

/// What happens at the limit: as the API calls it, and for people.
const ACTIONS: [(&str, &str); 3] =
    [("refuse", "refuse what is new"), ("cut", "also end what relays"), ("notify", "only tell")];

/// Which bytes count.
const COUNTED: [(&str, &str); 2] = [("egress", "bytes to clients"), ("total", "bytes to and from clients")];

/// How far a month has come.
pub(super) struct Progress {
    pub(super) month: String,
    pub(super) used: Bytes,
    pub(super) limit: Bytes,
    /// 0 to 100.
    pub(super) percent: u64,
    pub(super) reached: Option<Moment>,
    pub(super) action: &'static str,
}

impl Progress {
    pub(super) fn new(status: &MonthStatus) -> Self {
        let limit = status.limit.bytes.max(1);
        let percent = u128::from(status.used_bytes) * 100 / u128::from(limit);
        let action = name(&status.limit.action);
        Self {
            month: status.month.clone(),
            used: Bytes(status.used_bytes),
            limit: Bytes(limit),
            percent: u64::try_from(percent.min(100)).unwrap_or(100),
            reached: status.reached.map(|at| Moment { at, now: Timestamp::now() }),
            action: ACTIONS.iter().find(|(it, _)| *it == action).map_or("", |(_, label)| label),
        }
    }
}

/// As the API writes it.
fn name(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[derive(Template)]
#[template(path = "dashboard/month.html")]
struct MonthPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
    progress: Option<Progress>,
    bytes: String,
    actions: [(&'static str, &'static str, bool); 3],
    counts: [(&'static str, &'static str, bool); 2],
    notify_at: String,
}

async fn month_page(
    shared: &Shared,
    visitor: &Visitor,
    uid: TurnKeyId,
    given: Option<&Form>,
) -> Result<MonthPage, Fault> {
    let key = keys::find(shared, visitor, uid).await?;
    let status = shared.store.month_limit(uid).await?;
    let limit = status.as_ref().map(|status| &status.limit);
    let field = |name: &str, held: Option<String>, usual: &str| match given {
        Some(form) => form.text(name).unwrap_or_default().to_owned(),
        None => held.unwrap_or_else(|| usual.to_owned()),
    };
    let action = field("action", limit.map(|it| name(&it.action)), "refuse");
    let counts = field("counts", limit.map(|it| name(&it.counts)), "egress");
    let percents = |it: &MonthLimit| it.notify_at.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    Ok(MonthPage {
        frame: Frame::new(visitor, "keys"),
        uid,
        key_name: keys::shown_name(&key.name).to_owned(),
        bytes: field("bytes", limit.map(|it| it.bytes.to_string()), ""),
        actions: ACTIONS.map(|(value, label)| (value, label, value == action)),
        counts: COUNTED.map(|(value, label)| (value, label, value == counts)),
        notify_at: field("notify_at", limit.map(percents), "80"),
        progress: status.as_ref().map(Progress::new),
    })
}

pub(super) async fn show(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
) -> Result<Response, Fault> {
    Ok(page(StatusCode::OK, &month_page(&shared, &visitor, uid, None).await?))
}

pub(super) async fn set(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    match read(&form) {
        Ok(limit) => store(&shared, &visitor, uid, Some(&limit), "month-limit").await,
        Err(alert) => {
            let mut shown = month_page(&shared, &visitor, uid, Some(&form)).await?;
            shown.frame = shown.frame.saying(alert);
            Ok(page(StatusCode::BAD_REQUEST, &shown))
        }
    }
}

pub(super) async fn clear(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, .. }: Submitted,
) -> Result<Response, Fault> {
    store(&shared, &visitor, uid, None, "month-limit-cleared").await
}

/// Answers when the relays of this process have been told what follows.
async fn store(
    shared: &Shared,
    visitor: &Visitor,
    uid: TurnKeyId,
    limit: Option<&MonthLimit>,
    done: &str,
) -> Result<Response, Fault> {
    if !visitor.store(shared).set_month_limit(visitor.account(), uid, limit).await? {
        return Err(ApiError::NoSuchKey.into());
    }
    upkeep::watch_limits(shared).await?;
    shared.feed.catch_up().await?;
    Ok(Redirect::to(&format!("/dashboard/keys/{uid}?done={done}")).into_response())
}

fn read(form: &Form) -> Result<MonthLimit, String> {
    let bytes = form.number("bytes", "Bytes in a month", MAX_BYTES)?;
    let bytes = bytes.ok_or("Bytes in a month: it is empty. Give a number, such as 500G.")?;
    let chosen = |field: &str| format!("{field}: there is no such choice. Choose one of the list.");
    let action = form.text("action").and_then(|text| text.parse().ok());
    let counts = form.text("counts").and_then(|text| text.parse().ok());
    let percent = |text: &str| text.trim().parse::<u8>().ok().filter(|percent| (1..=99).contains(percent));
    let list = form.filled("notify_at").unwrap_or_default().split(',').filter(|text| !text.trim().is_empty());
    let notify_at: Option<Vec<u8>> = list.map(percent).collect();
    let notify_at = notify_at.filter(|list| list.len() <= MAX_THRESHOLDS).ok_or_else(|| {
        format!("Tell at: give up to {MAX_THRESHOLDS} percentages from 1 to 99 with commas between, such as 50, 80.")
    })?;
    Ok(MonthLimit {
        bytes,
        counts: counts.ok_or_else(|| chosen("Counted"))?,
        action: action.ok_or_else(|| chosen("At the limit"))?,
        notify_at,
    })
}
