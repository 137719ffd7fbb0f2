//! TURN keys: all of them, and one.

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use credentials::TurnKeyId;

use crate::api::ApiError;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::Moment;
use crate::dashboard::month::Progress;
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::{KeyLimits, NewKey, Timestamp, TurnKey};

/// Keys on one page.
const PAGE: usize = 50;

/// The TURN key that the path names. It need not exist.
pub(super) struct KeyPath(pub(super) TurnKeyId);

impl FromRequestParts<Arc<Shared>> for KeyPath {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Fault> {
        let params = RawPathParams::from_request_parts(parts, shared).await.map_err(|_| Fault::NotFound)?;
        let uid = params.iter().find(|(name, _)| *name == "key_id").and_then(|(_, value)| value.parse().ok());
        uid.map(Self).ok_or(Fault::NotFound)
    }
}

/// The key, if it is the visitor's.
pub(super) async fn find(shared: &Shared, visitor: &Visitor, uid: TurnKeyId) -> Result<TurnKey, Fault> {
    Ok(shared.store.key(visitor.account(), uid).await?.ok_or(ApiError::NoSuchKey)?)
}

/// What a key is called where it has no name.
pub(super) fn shown_name(name: &str) -> &str {
    if name.is_empty() { "(no name)" } else { name }
}

struct Row {
    uid: TurnKeyId,
    name: String,
    created: Moment,
    modified: Moment,
    suspended: bool,
}

impl From<TurnKey> for Row {
    fn from(key: TurnKey) -> Self {
        let now = Timestamp::now();
        let moment = |at| Moment { at, now };
        Self {
            uid: key.uid,
            name: shown_name(&key.name).to_owned(),
            created: moment(key.created),
            modified: moment(key.modified),
            suspended: false,
        }
    }
}

#[derive(Template)]
#[template(path = "dashboard/keys.html")]
struct KeysPage {
    frame: Frame,
    rows: Vec<Row>,
    total: usize,
    /// Counted from one.
    page: usize,
    pages: usize,
    /// What the name's field holds.
    name: String,
    /// A key that was just made, and its secret.
    made: Option<(Row, String)>,
}

async fn keys_page(shared: &Shared, visitor: &Visitor, asked: usize) -> Result<KeysPage, Fault> {
    let mut keys = shared.store.keys(visitor.account()).await?;
    // The newest first: it is the one that is looked for.
    keys.reverse();
    let total = keys.len();
    let pages = total.div_ceil(PAGE).max(1);
    let page = asked.clamp(1, pages);
    let mut rows: Vec<Row> = keys.into_iter().skip((page - 1) * PAGE).take(PAGE).map(Row::from).collect();
    for row in &mut rows {
        // Keys are in memory; where one is not and the store is busy, the list is worth more than this of it.
        row.suspended = shared.keys.find(row.uid).await.ok().flatten().is_some_and(|key| key.suspended);
    }
    let frame = Frame::new(visitor, "keys");
    Ok(KeysPage { frame, rows, total, page, pages, name: String::new(), made: None })
}

pub(super) async fn list(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let query = Form::of_query(&uri);
    let asked = query.text("page").and_then(|page| page.parse().ok()).unwrap_or(1);
    let mut shown = keys_page(&shared, &visitor, asked).await?;
    shown.frame = shown.frame.having_done(query.text("done"));
    Ok(page(StatusCode::OK, &shown))
}

/// Makes a key, and shows its secret this once.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let name = match form.name() {
        Ok(name) => name,
        Err(alert) => {
            let mut shown = keys_page(&shared, &visitor, 1).await?;
            form.filled("name").unwrap_or_default().clone_into(&mut shown.name);
            shown.frame = shown.frame.saying(alert);
            return Ok(page(StatusCode::BAD_REQUEST, &shown));
        }
    };
    let before = shared.keys.before_read();
    let NewKey { key, record, secret } = visitor.store(&shared).create_key(visitor.account(), name).await?;
    shared.keys.add(before, key.uid, record);
    let mut shown = keys_page(&shared, &visitor, 1).await?;
    shown.made = Some((Row::from(key), secret));
    Ok(page(StatusCode::CREATED, &shown))
}

#[derive(Template)]
#[template(path = "dashboard/key.html")]
struct KeyPage {
    frame: Frame,
    key: Row,
    /// What the name's field holds.
    name: String,
    limits: Vec<(&'static str, String)>,
    month: Option<Progress>,
    suspended_since: Option<Moment>,
    /// Until when the secret from before the last roll is good.
    former: Option<Moment>,
}

async fn key_page(shared: &Shared, visitor: &Visitor, uid: TurnKeyId) -> Result<KeyPage, Fault> {
    let key = find(shared, visitor, uid).await?;
    let limits = shared.store.key_limits(uid).await?;
    let state = shared.store.key_state(visitor.account(), uid).await?.ok_or(ApiError::NoSuchKey)?;
    let now = Timestamp::now();
    let moment = |at| Moment { at, now };
    Ok(KeyPage {
        frame: Frame::new(visitor, "keys"),
        name: key.name.clone(),
        key: Row { suspended: state.suspended, ..Row::from(key) },
        month: shared.store.month_limit(uid).await?.as_ref().map(Progress::new),
        suspended_since: state.suspended_since.filter(|_| state.suspended).map(moment),
        former: state.former_secret_until.map(moment),
        limits: limits.as_ref().map(shown_limits).unwrap_or_default(),
    })
}

/// The limits that are set, with their labels.
fn shown_limits(limits: &KeyLimits) -> Vec<(&'static str, String)> {
    let values = super::limits::values(limits);
    let set = super::limits::FIELDS.iter().filter_map(|field| {
        let (_, value) = values.iter().find(|(name, _)| *name == field.name)?;
        Some((field.label, super::format::grouped(*value)))
    });
    set.collect()
}

pub(super) async fn show(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let mut shown = key_page(&shared, &visitor, uid).await?;
    shown.frame = shown.frame.having_done(Form::of_query(&uri).text("done"));
    Ok(page(StatusCode::OK, &shown))
}

pub(super) async fn rename(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    match form.name() {
        Ok(name) => {
            let renamed = visitor.store(&shared).rename_key(visitor.account(), uid, name).await?;
            renamed.ok_or(ApiError::NoSuchKey)?;
            Ok(Redirect::to(&format!("/dashboard/keys/{uid}?done=renamed")).into_response())
        }
        Err(alert) => {
            let mut shown = key_page(&shared, &visitor, uid).await?;
            form.filled("name").unwrap_or_default().clone_into(&mut shown.name);
            shown.frame = shown.frame.saying(alert);
            Ok(page(StatusCode::BAD_REQUEST, &shown))
        }
    }
}

#[derive(Template)]
#[template(path = "dashboard/key_delete.html")]
struct DeletePage {
    frame: Frame,
    key: Row,
}

pub(super) async fn ask_to_delete(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
) -> Result<Response, Fault> {
    let key = Row::from(find(&shared, &visitor, uid).await?);
    Ok(page(StatusCode::OK, &DeletePage { frame: Frame::new(&visitor, "keys"), key }))
}

/// Answers when the key is gone for good and the relays of this process have been told.
pub(super) async fn delete(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, .. }: Submitted,
) -> Result<Response, Fault> {
    let deleted = visitor.store(&shared).delete_key(visitor.account(), uid).await?;
    deleted.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    Ok(Redirect::to("/dashboard/keys?done=deleted").into_response())
}
