//! What a TURN key is at the moment: rolling its secret, suspending and resuming it.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use credentials::TurnKeyId;

use crate::api::ApiError;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::format::Moment;
use crate::dashboard::keys::{self, KeyPath};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::Timestamp;

/// For how long the former secret may stay good, in seconds.
const OVERLAPS: [(&str, u32, &str); 5] = [
    ("0", 0, "not at all"),
    ("3600", 3_600, "for an hour"),
    ("86400", 86_400, "for a day"),
    ("604800", 604_800, "for a week"),
    ("2592000", 2_592_000, "for 30 days"),
];

/// The choice that is made unless another is.
const USUAL_OVERLAP: &str = "86400";

#[derive(Template)]
#[template(path = "dashboard/roll.html")]
struct RollPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
    overlaps: [(&'static str, &'static str, bool); 5],
    /// Until when the former secret is good.
    former: Option<Moment>,
    /// The new secret.
    made: Option<String>,
}

async fn roll_page(shared: &Shared, visitor: &Visitor, uid: TurnKeyId) -> Result<RollPage, Fault> {
    let key = keys::find(shared, visitor, uid).await?;
    let state = shared.store.key_state(visitor.account(), uid).await?.ok_or(ApiError::NoSuchKey)?;
    let now = Timestamp::now();
    Ok(RollPage {
        frame: Frame::new(visitor, "keys"),
        uid,
        key_name: keys::shown_name(&key.name).to_owned(),
        overlaps: OVERLAPS.map(|(value, _, label)| (value, label, value == USUAL_OVERLAP)),
        former: state.former_secret_until.map(|at| Moment { at, now }),
        made: None,
    })
}

pub(super) async fn ask_to_roll(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
) -> Result<Response, Fault> {
    Ok(page(StatusCode::OK, &roll_page(&shared, &visitor, uid).await?))
}

/// Answers when this process knows the new secret, which is shown this once.
pub(super) async fn roll(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let asked = form.text("overlap").unwrap_or_default();
    let Some((_, overlap_secs, _)) = OVERLAPS.iter().find(|(value, ..)| *value == asked) else {
        let mut shown = roll_page(&shared, &visitor, uid).await?;
        shown.frame = shown.frame.saying("Former secret: there is no such choice. Choose one of the list.");
        return Ok(page(StatusCode::BAD_REQUEST, &shown));
    };
    let made = visitor.store(&shared).roll_key(visitor.account(), uid, *overlap_secs).await?;
    let made = made.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    let mut shown = roll_page(&shared, &visitor, uid).await?;
    shown.made = Some(made.secret);
    Ok(page(StatusCode::OK, &shown))
}

#[derive(Template)]
#[template(path = "dashboard/suspend.html")]
struct SuspendPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
}

pub(super) async fn ask_to_suspend(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
) -> Result<Response, Fault> {
    let key = keys::find(&shared, &visitor, uid).await?;
    let key_name = keys::shown_name(&key.name).to_owned();
    Ok(page(StatusCode::OK, &SuspendPage { frame: Frame::new(&visitor, "keys"), uid, key_name }))
}

pub(super) async fn suspend(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, .. }: Submitted,
) -> Result<Response, Fault> {
    set(&shared, &visitor, uid, true).await
}

pub(super) async fn resume(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, .. }: Submitted,
) -> Result<Response, Fault> {
    set(&shared, &visitor, uid, false).await
}

/// Answers when the relays of this process have been told.
async fn set(shared: &Shared, visitor: &Visitor, uid: TurnKeyId, suspended: bool) -> Result<Response, Fault> {
    let state = visitor.store(shared).suspend_key(visitor.account(), uid, suspended).await?;
    state.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    let done = if suspended { "suspended" } else { "resumed" };
    Ok(Redirect::to(&format!("/dashboard/keys/{uid}?done={done}")).into_response())
}
