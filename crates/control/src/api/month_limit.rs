//! `/accounts/{account_id}/calls/turn_keys/{key_id}/month_limit`. The result is `null` where there is none.

use std::sync::Arc;

use axum::extract::State;

use crate::api::ApiError;
use crate::api::auth::AtKey;
use crate::api::body::Fields;
use crate::api::envelope::Success;
use crate::control::Shared;
use crate::store::{MonthLimit, MonthStatus};
use crate::upkeep;

pub(super) async fn one(
    AtKey { account, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Option<MonthStatus>>, ApiError> {
    shared.store.key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    Ok(Success::new(shared.store.month_limit(uid).await?))
}

pub(super) async fn update(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Success<Option<MonthStatus>>, ApiError> {
    set(&shared, &at, Some(&fields.month_limit()?)).await
}

pub(super) async fn clear(
    at: AtKey,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Option<MonthStatus>>, ApiError> {
    set(&shared, &at, None).await
}

/// Answers when the relays of this process have been told what follows.
async fn set(
    shared: &Shared,
    at: &AtKey,
    limit: Option<&MonthLimit>,
) -> Result<Success<Option<MonthStatus>>, ApiError> {
    if !at.store(shared).set_month_limit(&at.account, at.uid, limit).await? {
        return Err(ApiError::NoSuchKey);
    }
    upkeep::watch_limits(shared).await?;
    shared.feed.catch_up().await?;
    Ok(Success::new(shared.store.month_limit(at.uid).await?))
}
