//! `GET /turn`: a credential as the TURN REST convention hands it out (draft-uberti-behave-turn-rest-00 §2).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use credentials::{CustomIdentifier, MAX_CUSTOM_IDENTIFIER_BYTES, TimeLimited, TurnKeyId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::ApiError;
use crate::api::auth::{Bearer, bearer, expect_active};
use crate::api::credentials::mint;
use crate::control::Shared;
use crate::store::Timestamp;

const TTL_SECS: u32 = 86_400;

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    username: String,
    password: String,
    ttl: u32,
    uris: Box<RawValue>,
}

/// The key is the TURN key's secret, as `key` in the query or as `Authorization: Bearer`.
pub(super) async fn credential(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Answer>, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::Service)?;
    let field = |name: &str| query.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
    let secret = match bearer(&headers) {
        Bearer::Token(secret) => secret,
        Bearer::Missing => field("key").ok_or(ApiError::NoSecret)?,
        Bearer::Malformed => return Err(ApiError::NoSecret),
    };
    let found = shared.keys.find_by_secret(secret, Timestamp::now()).await?;
    let (key, record) = found.ok_or(ApiError::WrongSecret)?;
    if field("service") != Some("turn") {
        return Err(ApiError::Service);
    }
    expect_active(record.suspended, record.stopped)?;
    let user = field("username").unwrap_or_default();
    if user.len() > MAX_CUSTOM_IDENTIFIER_BYTES {
        return Err(ApiError::UserTooLong);
    }
    let (username, password) = login(&shared, key, user).await?;
    Ok(Json(Answer { username, password, ttl: TTL_SECS, uris: shared.urls.next().turn.clone() }))
}

/// Signed with the key's newest shared secret; sealed where it has none.
async fn login(shared: &Shared, key: TurnKeyId, user: &str) -> Result<(String, String), ApiError> {
    let keyring = shared.keyring.load_full();
    let secrets = shared.store.shared_secrets(key).await?;
    let Some(newest) = secrets.iter().rev().find_map(|secret| secret.open(&keyring).ok()) else {
        let identifier = CustomIdentifier::try_from(user).map_err(|_| ApiError::UserTooLong)?;
        let (login, _) = mint(shared, key, TTL_SECS, identifier).await?;
        return Ok((login.username, login.credential));
    };
    let expires_at = Timestamp::now().unix_secs() + u64::from(TTL_SECS);
    let username = if user.is_empty() { expires_at.to_string() } else { format!("{expires_at}:{user}") };
    let time_limited = TimeLimited::parse(username.as_bytes()).ok_or(ApiError::Internal)?;
    let password = time_limited.password(&newest.text).iter().map(|byte| char::from(*byte)).collect();
    Ok((username, password))
}
