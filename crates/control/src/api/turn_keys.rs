//! `/accounts/{account_id}/calls/turn_keys`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::ApiError;
use crate::api::auth::{AtKey, InAccount};
use crate::api::body::Fields;
use crate::api::envelope::{List, Success};
use crate::api::idempotency::IdempotencyKey;
use crate::control::Shared;
use crate::store::{NewKey, TurnKey};

/// The key object with its secret, which some callers read as `key` and others as `secret`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WithSecret {
    #[serde(flatten)]
    key_object: TurnKey,
    key: String,
    secret: String,
}

impl WithSecret {
    pub(super) fn new(NewKey { key, secret, .. }: NewKey) -> Self {
        Self { key_object: key, key: secret.clone(), secret }
    }
}

/// The key's fields stand beside the envelope too: some callers decode the bare object.
#[derive(Debug, Serialize)]
struct CreatedBody {
    #[serde(flatten)]
    envelope: Success<WithSecret>,
    #[serde(flatten)]
    bare: WithSecret,
}

pub(super) async fn list(
    InAccount { account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<TurnKey>, ApiError> {
    Ok(List::new(shared.store.keys(&account).await?, query.as_deref()))
}

pub(super) async fn create(
    caller: InAccount,
    key: IdempotencyKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let name = fields.name()?.unwrap_or_default();
    let once = key.of(&shared, &caller, &fields);
    if let Some(response) = once.before().await? {
        return Ok(response);
    }
    let before = shared.keys.before_read();
    let body = |made: &NewKey| {
        let created = WithSecret::new(made.clone());
        CreatedBody { envelope: Success::new(created.clone()), bare: created }
    };
    let keep = |made: &NewKey| once.kept(&body(made));
    let made = caller.store(&shared).create_key_once(&caller.account, name, keep).await;
    let response = made.map(|made| {
        shared.keys.add(before, made.key.uid, made.record.clone());
        (StatusCode::CREATED, Json(body(&made))).into_response()
    });
    once.answer(response).await
}

pub(super) async fn one(
    AtKey { account, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<TurnKey>, ApiError> {
    shared.store.key(&account, uid).await?.map(Success::new).ok_or(ApiError::NoSuchKey)
}

/// Renames the key; without a name it stays as it is.
pub(super) async fn update(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Success<TurnKey>, ApiError> {
    let key = match fields.name()? {
        Some(name) => at.store(&shared).rename_key(&at.account, at.uid, name).await?,
        None => shared.store.key(&at.account, at.uid).await?,
    };
    key.map(Success::new).ok_or(ApiError::NoSuchKey)
}

/// Answers when the key is gone for good and the relays of this process have been told.
pub(super) async fn delete(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<TurnKey>, ApiError> {
    let key = at.store(&shared).delete_key(&at.account, at.uid).await?.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    Ok(Success::new(key))
}
