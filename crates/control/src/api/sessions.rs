//! `…/calls/turn_sessions` and `…/turn_keys/{key_id}/sessions`: what relays now, and the end of it.
//!
//! A client's address is personal data: only a token with Calls Write is shown it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawPathParams, State};
use axum::response::{IntoResponse, Response};
use credentials::{MAX_CUSTOM_IDENTIFIER_BYTES, TurnKeyId};
use serde::Serialize;

use crate::api::auth::{AtKey, InAccount};
use crate::api::envelope::Success;
use crate::api::usage::Parameters;
use crate::api::{ApiError, path_param};
use crate::control::Shared;
use crate::store::usage::{Session, SessionCursor, SessionFilter, SessionId, SessionOrder};
use crate::store::{AccountId, Permission, Store};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

/// A page of sessions, newest first. `cursor` leads to the next and is null on the last.
#[derive(Debug, Serialize)]
struct Page {
    #[serde(flatten)]
    success: Success<Vec<Session>>,
    result_info: Info,
}

#[derive(Debug, Serialize)]
struct Info {
    count: usize,
    cursor: Option<String>,
}

/// What a request to end sessions has led to.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    /// Of how many credentials, keys or pairs of key and customIdentifier all sessions end.
    orders: usize,
}

fn parameters(query: Parameters) -> Result<Vec<(String, String)>, ApiError> {
    Ok(query.map_err(|_| ApiError::Parameter { field: "query" })?.0)
}

fn field<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
}

fn key(query: &[(String, String)]) -> Result<Option<TurnKeyId>, ApiError> {
    let key = field(query, "key").map(str::parse).transpose();
    key.map_err(|_| ApiError::Parameter { field: "key" })
}

pub(super) async fn list(
    InAccount { account, caller, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    query: Parameters,
) -> Result<Response, ApiError> {
    let query = parameters(query)?;
    let key = key(&query)?;
    page(&shared, account, caller.0.permission, key, &query).await
}

pub(super) async fn list_of_key(
    InAccount { account, caller, .. }: InAccount,
    params: RawPathParams,
    State(shared): State<Arc<Shared>>,
    query: Parameters,
) -> Result<Response, ApiError> {
    let uid: TurnKeyId = path_param(&params, "key_id")?;
    shared.store.key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    page(&shared, account, caller.0.permission, Some(uid), &parameters(query)?).await
}

async fn page(
    shared: &Shared,
    account: AccountId,
    permission: Permission,
    key: Option<TurnKeyId>,
    query: &[(String, String)],
) -> Result<Response, ApiError> {
    let limit = field(query, "limit").map_or(Some(DEFAULT_LIMIT), |limit| limit.parse().ok());
    let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
    let limit = limit.ok_or(ApiError::Parameter { field: "limit" })?;
    let after = field(query, "cursor").filter(|text| !text.is_empty());
    let after: Option<SessionCursor> =
        after.map(str::parse).transpose().map_err(|_| ApiError::Parameter { field: "cursor" })?;
    let text = |name: &str| field(query, name).map(ToOwned::to_owned);
    let (custom_identifier, username) = (text("custom_identifier"), text("username"));
    // One more says whether there is another page.
    let filter = SessionFilter { account, key, custom_identifier, username, limit: limit + 1, after };
    let mut sessions = shared.store.sessions(&filter).await?;
    let is_more = sessions.len() > limit as usize;
    sessions.truncate(limit as usize);
    let last = sessions.last().filter(|_| is_more);
    let cursor = last.map(|last| SessionCursor { started: last.started, id: last.id }.to_string());
    if permission < Permission::Write {
        for session in &mut sessions {
            session.client_address = None;
        }
    }
    let result_info = Info { count: sessions.len(), cursor };
    Ok(Json(Page { success: Success::new(sessions), result_info }).into_response())
}

/// Ends one session.
pub(super) async fn delete(
    caller: InAccount,
    params: RawPathParams,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Session>, ApiError> {
    let id: SessionId = path_param(&params, "session_id")?;
    let found = shared.store.session(&caller.account, id).await?.filter(|session| session.ended.is_none());
    let session = found.ok_or(ApiError::NoSuchSession)?;
    let order = SessionOrder::Session(session.key_id, id);
    caller.store(&shared).order_ends(&caller.account, &[order]).await?;
    shared.feed.catch_up().await?;
    Ok(Success::new(session))
}

/// Ends all of a username, or of a key's customIdentifier, or of a key.
pub(super) async fn delete_all(
    caller: InAccount,
    State(shared): State<Arc<Shared>>,
    query: Parameters,
) -> Result<Success<Ended>, ApiError> {
    let query = parameters(query)?;
    end_all(&shared, &caller.store(&shared), &caller.account, key(&query)?, &query).await
}

/// The same of one key.
pub(super) async fn delete_all_of_key(
    AtKey { caller, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
    query: Parameters,
) -> Result<Success<Ended>, ApiError> {
    let query = parameters(query)?;
    end_all(&shared, &caller.store(&shared), &caller.account, Some(uid), &query).await
}

/// Orders are given through `store`.
pub(crate) async fn end_all(
    shared: &Shared,
    store: &Store,
    account: &AccountId,
    key: Option<TurnKeyId>,
    query: &[(String, String)],
) -> Result<Success<Ended>, ApiError> {
    let (username, custom) = (field(query, "username"), field(query, "custom_identifier"));
    if let Some(key) = key {
        shared.store.key(account, key).await?.ok_or(ApiError::NoSuchKey)?;
    }
    let orders: Vec<_> = match (username, custom, key) {
        (Some(_), Some(_), _) => return Err(ApiError::Parameter { field: "custom_identifier" }),
        (Some(username), None, key) => {
            let mut found = shared.store.credential_of_user(account, username).await?;
            found.retain(|(of, _)| key.is_none_or(|key| key == *of));
            found.into_iter().map(|(key, id)| SessionOrder::Credential(key, id)).collect()
        }
        (None, Some(custom), _) if custom.len() > MAX_CUSTOM_IDENTIFIER_BYTES => {
            return Err(ApiError::Parameter { field: "custom_identifier" });
        }
        (None, Some(custom), key) => {
            let keys = match key {
                Some(key) => vec![key],
                None => shared.store.keys(account).await?.iter().map(|key| key.uid).collect(),
            };
            let order = |key| SessionOrder::CustomIdentifier(key, custom.to_owned());
            keys.into_iter().map(order).collect()
        }
        (None, None, Some(key)) => vec![SessionOrder::Key(key)],
        // Nobody ends everything by leaving something out.
        (None, None, None) => return Err(ApiError::Parameter { field: "key" }),
    };
    store.order_ends(account, &orders).await?;
    shared.feed.catch_up().await?;
    Ok(Success::new(Ended { orders: orders.len() }))
}
