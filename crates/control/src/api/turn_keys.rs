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
use crate::control::Shared;
use crate::store::{NewKey, TurnKey};

/// The key object with its secret, which some callers read as `key` and others as `secret`.
#[derive(Debug, Serialize)]
struct Created {
    #[serde(flatten)]
    key_object: TurnKey,
    key: String,
    secret: String,
}

/// The key's fields stand beside the envelope too: some callers decode the bare object.
#[derive(Debug, Serialize)]
struct CreatedBody<'a> {
    #[serde(flatten)]
    envelope: Success<&'a Created>,
    #[serde(flatten)]
    bare: &'a Created,
}

pub(super) async fn list(
    InAccount { account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<TurnKey>, ApiError> {
    Ok(List::new(shared.store.keys(&account).await?, query.as_deref()))
}

pub(super) async fn create(
    InAccount { account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let name = fields.name()?.unwrap_or_default();
    let before = shared.keys.before_read();
    let NewKey { key, record, secret } = shared.store.create_key(&account, name).await?;
    shared.keys.add(before, key.uid, record);
    let created = Created { key_object: key, key: secret.clone(), secret };
    let body = CreatedBody { envelope: Success::new(&created), bare: &created };
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

pub(super) async fn one(
    AtKey { account, uid }: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<TurnKey>, ApiError> {
    shared.store.key(&account, uid).await?.map(Success::new).ok_or(ApiError::NoSuchKey)
}

/// Renames the key; without a name it stays as it is.
pub(super) async fn update(
    AtKey { account, uid }: AtKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Success<TurnKey>, ApiError> {
    let key = match fields.name()? {
        Some(name) => shared.store.rename_key(&account, uid, name).await?,
        None => shared.store.key(&account, uid).await?,
    };
    key.map(Success::new).ok_or(ApiError::NoSuchKey)
}

/// Answers when the key is gone for good and the relays of this process have been told.
pub(super) async fn delete(
    AtKey { account, uid }: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<TurnKey>, ApiError> {
    let key = shared.store.delete_key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    Ok(Success::new(key))
}
