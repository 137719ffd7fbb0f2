//! Live sessions, and the end of them. A client's address is shown to tokens with Calls Write only.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use credentials::TurnKeyId;

use crate::api::{self, ApiError};
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::{Bytes, Moment, in_query};
use crate::dashboard::keys::shown_name;
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::Timestamp;
use crate::store::usage::{Session, SessionCursor, SessionFilter, SessionId, SessionOrder};

/// Sessions on one page.
const PAGE: u32 = 50;

struct Row {
    id: SessionId,
    key: TurnKeyId,
    key_name: String,
    custom_identifier: String,
    username: String,
    node: String,
    transport: String,
    relays: &'static str,
    client: Option<String>,
    relayed: String,
    started: Moment,
    egress: Bytes,
    ingress: Bytes,
}

/// Which sessions are shown: the fields of a link or a form.
#[derive(Default)]
struct Filter {
    key: Option<TurnKeyId>,
    custom_identifier: Option<String>,
    username: Option<String>,
}

impl Filter {
    fn read(form: &Form) -> Result<Self, Fault> {
        let key = form.filled("key").map(str::parse).transpose();
        let key = key.map_err(|_| {
            Fault::Invalid("key: it is no key id. Follow a link of the list of keys instead.".to_owned())
        })?;
        let text = |name| form.text(name).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        Ok(Self { key, custom_identifier: text("custom_identifier"), username: text("username") })
    }

    fn is_empty(&self) -> bool {
        self.key.is_none() && self.custom_identifier.is_none() && self.username.is_none()
    }

    /// As a query, from the `?` on.
    fn query(&self) -> String {
        let pairs = self.pairs();
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", in_query(value)));
        format!("?{}", pairs.collect::<Vec<_>>().join("&"))
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let key = self.key.map(|key| key.to_string());
        [
            ("key", key),
            ("custom_identifier", self.custom_identifier.clone()),
            ("username", self.username.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

#[derive(Template)]
#[template(path = "dashboard/sessions.html")]
struct SessionsPage {
    frame: Frame,
    rows: Vec<Row>,
    keys: Vec<(TurnKeyId, String)>,
    key: String,
    custom_identifier: String,
    username: String,
    is_filtered: bool,
    /// As a query, from the `?` on.
    query: String,
    is_first: bool,
    /// Leads to the next page.
    next: Option<String>,
    now: Moment,
}

pub(super) async fn list(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let form = Form::of_query(&uri);
    let filter = Filter::read(&form)?;
    let after = form.filled("cursor").map(str::parse::<SessionCursor>).transpose();
    let after = after.map_err(|_| {
        Fault::Invalid("cursor: it is not one of ours. Begin with the first page.".to_owned())
    })?;
    let names: HashMap<TurnKeyId, String> =
        shared.store.keys(visitor.account()).await?.into_iter().map(|key| (key.uid, key.name)).collect();
    let sessions = find(&shared, &visitor, &filter, PAGE + 1, after).await?;
    let is_more = sessions.len() > PAGE as usize;
    let sessions: Vec<Session> = sessions.into_iter().take(PAGE as usize).collect();
    let last = sessions.last().filter(|_| is_more);
    let next = last.map(|last| {
        let cursor = SessionCursor { started: last.started, id: last.id };
        format!("/dashboard/sessions{}&cursor={}", filter.query(), in_query(&cursor.to_string()))
    });
    let now = Timestamp::now();
    let rows = sessions.into_iter().map(|session| row(session, &names, visitor.may_write(), now)).collect();
    let mut keys: Vec<(TurnKeyId, String)> =
        names.iter().map(|(uid, name)| (*uid, shown_name(name).to_owned())).collect();
    keys.sort_by(|one, other| one.1.cmp(&other.1).then(one.0.cmp(&other.0)));
    let shown = SessionsPage {
        frame: Frame::new(&visitor, "sessions").having_done(form.text("done")),
        rows,
        keys,
        key: filter.key.map(|key| key.to_string()).unwrap_or_default(),
        is_filtered: !filter.is_empty(),
        query: filter.query(),
        custom_identifier: filter.custom_identifier.unwrap_or_default(),
        username: filter.username.unwrap_or_default(),
        is_first: after.is_none(),
        next,
        now: Moment { at: now, now },
    };
    Ok(page(StatusCode::OK, &shown))
}

async fn find(
    shared: &Shared,
    visitor: &Visitor,
    filter: &Filter,
    limit: u32,
    after: Option<SessionCursor>,
) -> Result<Vec<Session>, Fault> {
    let filter = SessionFilter {
        account: visitor.account().clone(),
        key: filter.key,
        custom_identifier: filter.custom_identifier.clone(),
        username: filter.username.clone(),
        limit,
        after,
    };
    Ok(shared.store.sessions(&filter).await?)
}

fn row(session: Session, names: &HashMap<TurnKeyId, String>, may_write: bool, now: Timestamp) -> Row {
    let key_name = names.get(&session.key_id).map_or("(deleted)", |name| shown_name(name)).to_owned();
    Row {
        id: session.id,
        key: session.key_id,
        key_name,
        custom_identifier: session.custom_identifier,
        username: session.username,
        node: session.node,
        transport: session.transport.to_uppercase(),
        relays: if session.relays == "tcp" { "TCP" } else { "UDP" },
        client: session.client_address.filter(|_| may_write),
        relayed: session.relay_addresses.join(", "),
        started: Moment { at: session.started, now },
        egress: Bytes(session.usage.egress_bytes),
        ingress: Bytes(session.usage.ingress_bytes),
    }
}

#[derive(Template)]
#[template(path = "dashboard/sessions_end.html")]
struct EndPage {
    frame: Frame,
    /// What is ended, in words.
    whose: String,
    fields: Vec<(String, String)>,
    count: usize,
    is_more: bool,
    query: String,
}

/// Asks whether all sessions of a filter shall end.
pub(super) async fn ask_to_end(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    const COUNTED: u32 = 1_000;
    let filter = Filter::read(&Form::of_query(&uri))?;
    let whose = match (&filter.username, &filter.custom_identifier, filter.key) {
        (Some(_), Some(_), _) | (None, None, None) => {
            return Err(Fault::Invalid(
                "Choose a key, a custom identifier or a username, and not both of the latter, whose sessions shall end."
                    .to_owned(),
            ));
        }
        (Some(username), None, _) => format!("the credential {username}"),
        (None, Some(custom), None) => format!("the custom identifier “{custom}”"),
        (None, Some(custom), Some(key)) => format!("the custom identifier “{custom}” of key {key}"),
        (None, None, Some(key)) => {
            let found = super::keys::find(&shared, &visitor, key).await?;
            format!("the key “{}”", shown_name(&found.name))
        }
    };
    let count = find(&shared, &visitor, &filter, COUNTED, None).await?.len();
    let shown = EndPage {
        frame: Frame::new(&visitor, "sessions"),
        whose,
        fields: filter.pairs(),
        count,
        is_more: count == COUNTED as usize,
        query: filter.query(),
    };
    Ok(page(StatusCode::OK, &shown))
}

/// Ends one session, or all of a filter.
pub(super) async fn end(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let filter = Filter::read(&form)?;
    let back = filter.query();
    let Some(session) = form.filled("session") else {
        api::end_all(&shared, &visitor.store(&shared), visitor.account(), filter.key, &filter.pairs())
            .await?;
        return Ok(Redirect::to("/dashboard/sessions?done=sessions-ended").into_response());
    };
    let id: SessionId = session.parse().map_err(|_| ApiError::NoSuchSession)?;
    let found = shared.store.session(visitor.account(), id).await?.filter(|session| session.ended.is_none());
    let session = found.ok_or(ApiError::NoSuchSession)?;
    let order = SessionOrder::Session(session.key_id, id);
    visitor.store(&shared).order_ends(visitor.account(), &[order]).await?;
    shared.feed.catch_up().await?;
    Ok(Redirect::to(&format!("/dashboard/sessions{back}&done=session-ended")).into_response())
}
