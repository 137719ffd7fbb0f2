//! What a TURN key is at the moment: rolling its secret, suspending it, and what it has revoked.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::ApiError;
use crate::api::auth::AtKey;
use crate::api::body::Fields;
use crate::api::envelope::{Page, Success};
use crate::api::idempotency::IdempotencyKey;
use crate::api::turn_keys::WithSecret;
use crate::control::Shared;
use crate::store::{KeyState, NewKey, Revoked};

pub(super) async fn show(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<KeyState>, ApiError> {
    shared.store.key_state(&at.account, at.uid).await?.map(Success::new).ok_or(ApiError::NoSuchKey)
}

/// Answers when this process knows the new secret, which is shown this once.
pub(super) async fn roll(
    at: AtKey,
    key: IdempotencyKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let overlap_secs = fields.overlap_secs()?;
    let once = key.of(&shared, &at.caller, &fields).with_ok();
    if let Some(response) = once.before().await? {
        return Ok(response);
    }
    let keep = |made: &NewKey| once.kept(&Success::new(WithSecret::new(made.clone())));
    let made = match at.store(&shared).roll_key_once(&at.account, at.uid, overlap_secs, keep).await {
        Ok(None) => return Err(ApiError::NoSuchKey),
        Ok(Some(made)) => Ok((StatusCode::OK, Success::new(WithSecret::new(made))).into_response()),
        Err(error) => Err(error),
    };
    let response = once.answer(made).await?;
    shared.feed.catch_up().await?;
    Ok(response)
}

pub(super) async fn suspend(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<KeyState>, ApiError> {
    set(&shared, at, true).await
}

pub(super) async fn resume(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<KeyState>, ApiError> {
    set(&shared, at, false).await
}

/// Answers when the relays of this process have been told.
async fn set(shared: &Shared, at: AtKey, suspended: bool) -> Result<Success<KeyState>, ApiError> {
    let state = at.store(shared).suspend_key(&at.account, at.uid, suspended).await?;
    let state = state.ok_or(ApiError::NoSuchKey)?;
    shared.feed.catch_up().await?;
    Ok(Success::new(state))
}

/// The revocations that are in force, newest first.
pub(super) async fn revocations(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Page<Revoked>, ApiError> {
    shared.store.key(&at.account, at.uid).await?.ok_or(ApiError::NoSuchKey)?;
    let asked = Page::asked(query.as_deref())?;
    let rows = shared.store.revocations(at.uid, asked.cursor, asked.limit()).await?;
    Ok(asked.page(rows, |row| row.seq))
}
