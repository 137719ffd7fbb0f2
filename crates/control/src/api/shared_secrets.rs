//! `/accounts/{account_id}/calls/turn_keys/{key_id}/shared_secrets`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, RawQuery, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use credentials::{SecretText, SharedSecretId};

use crate::api::auth::AtKey;
use crate::api::body::Fields;
use crate::api::envelope::{List, Success};
use crate::api::idempotency::IdempotencyKey;
use crate::api::{ApiError, path_param};
use crate::control::Shared;
use crate::store::{NewSharedSecret, StoredSecret};

/// A caller as [`AtKey`], and the shared secret that the path names. It need not exist.
pub(super) struct AtSecret {
    at: AtKey,
    id: SharedSecretId,
}

impl FromRequestParts<Arc<Shared>> for AtSecret {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, shared).await.map_err(|_| ApiError::NoRoute)?;
        let id = path_param(&params, "secret_id")?;
        Ok(Self { at: AtKey::from_request_parts(parts, shared).await?, id })
    }
}

pub(super) async fn list(
    AtKey { account, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<StoredSecret>, ApiError> {
    shared.store.key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    Ok(List::new(shared.store.shared_secrets(uid).await?, query.as_deref()))
}

/// Answers when the relays of this process know the secret. It is shown this once.
pub(super) async fn create(
    at: AtKey,
    key: IdempotencyKey,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let given = fields.secret()?;
    let once = key.of(&shared, &at.caller, &fields);
    if let Some(response) = once.before().await? {
        return Ok(response);
    }
    let text = match given {
        Some(text) => text,
        None => SecretText::generate().map_err(|error| {
            tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "no shared secret was made");
            ApiError::Internal
        })?,
    };
    let keyring = shared.keyring.load_full();
    let keep = |made: &NewSharedSecret| once.kept(&Success::new(made));
    let made = at.store(&shared).add_shared_secret_once(&keyring, &at.account, at.uid, (text, keep)).await;
    let made = match made {
        Ok(None) => return Err(ApiError::NoSuchKey),
        Ok(Some(made)) => Ok((StatusCode::CREATED, Success::new(made)).into_response()),
        Err(error) => Err(error),
    };
    shared.feed.catch_up().await?;
    once.answer(made).await
}

/// Answers when the secret is gone for good and the relays of this process have been told.
pub(super) async fn delete(
    AtSecret { at, id }: AtSecret,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<StoredSecret>, ApiError> {
    let Some(gone) = at.store(&shared).remove_shared_secret(&at.account, at.uid, id).await? else {
        let key = shared.store.key(&at.account, at.uid).await?;
        return Err(key.map_or(ApiError::NoSuchKey, |_| ApiError::NoSuchSharedSecret));
    };
    shared.feed.catch_up().await?;
    Ok(Success::new(gone))
}
