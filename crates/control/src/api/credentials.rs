//! `/v1/turn/keys/{key_id}/credentials`: minting and revoking. Minting touches no database.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::{
    Claims, CredentialId, CustomIdentifier, MAX_USERNAME_LIFETIME_SECS, TimeLimited, TurnKeyId,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::ApiError;
use crate::api::auth::KeyHolder;
use crate::api::body::{Fields, Revoke};
use crate::control::Shared;
use crate::ice::WrittenUrls;
use crate::store::{Revocation, Timestamp};

/// Nearly all answers are shorter, and written without moving.
const USUAL_ANSWER_BYTES: usize = 1_024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer of the `generate` calls.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Generated<T> {
    ice_servers: T,
    expires_at: Timestamp,
    ttl: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct IceServer<'a> {
    urls: &'a RawValue,
    #[serde(flatten)]
    login: Option<Login>,
}

#[derive(Debug, Serialize)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) credential: String,
}

impl<T: Serialize> IntoResponse for Generated<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(USUAL_ANSWER_BYTES);
        if let Err(error) = serde_json::to_writer(&mut body, &self) {
            tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "an answer could not be written");
            return ApiError::Internal.into_response();
        }
        (StatusCode::CREATED, [(header::CONTENT_TYPE, JSON)], body).into_response()
    }
}

/// How an answer says the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As one object, with the URLs of STUN and TURN together.
    One,
    /// As a list: STUN by itself, TURN with the credential.
    List,
}

pub(super) const GENERATE: &str = "/v1/turn/keys/{key_id}/credentials/generate";
pub(super) const GENERATE_ICE_SERVERS: &str = "/v1/turn/keys/{key_id}/credentials/generate-ice-servers";

pub(super) async fn generate_ice_servers(
    holder: KeyHolder,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    minted(&shared, &holder, &fields, Form::List).await
}

pub(super) async fn generate(
    holder: KeyHolder,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    minted(&shared, &holder, &fields, Form::One).await
}

/// The answer to a key's holder.
pub(super) async fn minted(
    shared: &Shared,
    holder: &KeyHolder,
    fields: &Fields,
    form: Form,
) -> Result<Response, ApiError> {
    holder.expect_active()?;
    let (ttl, custom_identifier) = (fields.ttl_secs()?, fields.custom_identifier()?);
    let urls = shared.urls.next();
    if form == Form::List {
        return Ok(ice_servers(shared, &urls, holder.key, ttl, custom_identifier).await?.into_response());
    }
    let (login, expires_at) = mint(shared, holder.key, ttl, custom_identifier).await?;
    let ice_servers = IceServer { urls: &urls.all, login: Some(login) };
    Ok(Generated { ice_servers, expires_at, ttl }.into_response())
}

/// A fresh credential with its URLs, in the array form.
pub(crate) async fn ice_servers<'u>(
    shared: &Shared,
    urls: &'u WrittenUrls,
    key: TurnKeyId,
    ttl_secs: u32,
    custom_identifier: CustomIdentifier,
) -> Result<Generated<Vec<IceServer<'u>>>, ApiError> {
    let (login, expires_at) = mint(shared, key, ttl_secs, custom_identifier).await?;
    let stun = urls.stun.as_deref().map(|urls| IceServer { urls, login: None });
    let turn = IceServer { urls: &urls.turn, login: Some(login) };
    Ok(Generated { ice_servers: stun.into_iter().chain([turn]).collect(), expires_at, ttl: ttl_secs })
}

pub(super) async fn mint(
    shared: &Shared,
    key: TurnKeyId,
    ttl_secs: u32,
    custom_identifier: CustomIdentifier,
) -> Result<(Login, Timestamp), ApiError> {
    expect_feed(shared)?;
    let claims = Claims { key, issued_at: shared.keys.time_of_issue(key).await, ttl_secs, custom_identifier };
    let minted = shared.keyring.load().mint(&claims).map_err(|error| {
        tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "minting failed");
        ApiError::Internal
    })?;
    let login = Login { username: minted.username, credential: minted.password };
    Ok((login, Timestamp::from_unix_secs(minted.expires_at)))
}

/// That it is known what is revoked, or was a short while ago: the key may be deleted by now.
pub(super) fn expect_feed(shared: &Shared) -> Result<(), ApiError> {
    match shared.feed.age() {
        Some(age) if age <= shared.config.mint_feed_max_age => Ok(()),
        _ => Err(ApiError::CutOff),
    }
}

pub(super) async fn revoke_in_path(
    holder: KeyHolder,
    State(shared): State<Arc<Shared>>,
) -> Result<StatusCode, ApiError> {
    let username = holder.username.as_deref().ok_or(ApiError::NoSuchCredential)?;
    let revocation = of_username(&shared, holder.key, username).await?;
    revoke(&shared, &holder, &revocation).await
}

/// One credential, or many at once.
pub(super) async fn revoke_in_body(
    holder: KeyHolder,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<StatusCode, ApiError> {
    let revocation = match fields.revocation()? {
        Revoke::Username(username) => of_username(&shared, holder.key, username).await?,
        Revoke::Identifier(identifier) => Revocation::Identifier(identifier),
        Revoke::IssuedBefore(secs) => Revocation::IssuedBefore(secs),
    };
    revoke(&shared, &holder, &revocation).await
}

/// Answers when the denial is durable and the relays of this process have been told.
async fn revoke(
    shared: &Shared,
    holder: &KeyHolder,
    revocation: &Revocation,
) -> Result<StatusCode, ApiError> {
    holder.store(shared).revoke_of(holder.account(), holder.key, revocation).await?;
    shared.feed.catch_up().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The credential of a TURN key that has this username.
pub(crate) async fn of_username(
    shared: &Shared,
    key: TurnKeyId,
    username: &str,
) -> Result<Revocation, ApiError> {
    let opened = shared.keyring.load().open(username.as_bytes()).ok();
    match opened {
        Some(opened) if opened.claims.key == key => Ok(Revocation::Credential {
            id: opened.id,
            until: opened.claims.expires_at(),
            identifier: opened.claims.custom_identifier,
        }),
        Some(_) => Err(ApiError::NoSuchCredential),
        None => {
            let (id, until) = time_limited(shared, key, username).await?;
            Ok(Revocation::Credential { id, until, identifier: CustomIdentifier::default() })
        }
    }
}

/// A time-limited username's id and expiry. Nobody knows which ones were minted: any of its form can be revoked where
/// the key has a shared secret, and one whose expiry no relay would ever accept is none.
async fn time_limited(
    shared: &Shared,
    key: TurnKeyId,
    username: &str,
) -> Result<(CredentialId, u64), ApiError> {
    let username = TimeLimited::parse(username.as_bytes()).ok_or(ApiError::NoSuchCredential)?;
    let farthest = Timestamp::now().unix_secs() + u64::from(MAX_USERNAME_LIFETIME_SECS);
    if username.expires_at > farthest || shared.store.shared_secrets(key).await?.is_empty() {
        return Err(ApiError::NoSuchCredential);
    }
    Ok((username.id(key), username.expires_at))
}
