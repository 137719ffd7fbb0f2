//! `/accounts/{account_id}/calls/turn_keys/{key_id}/limits`. The result is `null` where the relays' own limits hold.

use std::sync::Arc;

use axum::extract::State;

use crate::api::ApiError;
use crate::api::auth::AtKey;
use crate::api::body::Fields;
use crate::api::envelope::Success;
use crate::control::Shared;
use crate::store::KeyLimits;

pub(super) async fn one(
    AtKey { account, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Option<KeyLimits>>, ApiError> {
    shared.store.key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    Ok(Success::new(shared.store.key_limits(uid).await?))
}

/// Sets all limits: one that is missing or null is none.
pub(super) async fn update(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Success<Option<KeyLimits>>, ApiError> {
    set(&shared, at, Some(fields.key_limits()?)).await
}

/// Lets the relays' own limits hold again.
pub(super) async fn clear(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Option<KeyLimits>>, ApiError> {
    set(&shared, at, None).await
}

/// Answers when the relays of this process have been told.
async fn set(
    shared: &Shared,
    at: AtKey,
    limits: Option<KeyLimits>,
) -> Result<Success<Option<KeyLimits>>, ApiError> {
    if !at.store(shared).set_key_limits(&at.account, at.uid, limits).await? {
        return Err(ApiError::NoSuchKey);
    }
    shared.feed.catch_up().await?;
    Ok(Success::new(limits))
}
