//! `Idempotency-Key`: a request that creates something, or rolls a secret, sent again with the same key, is answered the same and creates
//! nothing (draft-ietf-httpapi-idempotency-key-header). The answer may hold a secret that is shown once, so it is kept
//! sealed by the keyring, in the transaction of what it tells of, for a day.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::api::ApiError;
use crate::api::auth::InAccount;
use crate::api::body::Fields;
use crate::control::Shared;
use crate::store::{Answer, StoreError};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Set in an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_BYTES: usize = 255;

/// The key that a request came with, if it did, and what it asks.
#[derive(Debug)]
pub(super) struct IdempotencyKey {
    key: Option<String>,
    asked: String,
}

impl FromRequestParts<Arc<Shared>> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(HEADER).iter();
        let key = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => {
                let text = value.to_str().ok().filter(|text| (1..=MAX_KEY_BYTES).contains(&text.len()));
                Some(text.ok_or(ApiError::IdempotencyKey)?.to_owned())
            }
            (Some(_), Some(_)) => return Err(ApiError::IdempotencyKey),
        };
        Ok(Self { key, asked: format!("{} {}", parts.method, parts.uri.path()) })
    }
}

/// A request that is answered once.
pub(super) struct Once<'a> {
    shared: &'a Shared,
    scope: &'a str,
    /// The hashes of the key and of what was asked; `None` where there is no key.
    hashes: Option<([u8; 32], [u8; 32])>,
    /// What it is answered with.
    status: StatusCode,
}

impl IdempotencyKey {
    /// The same request is one of the same API token, with the same key, method, path and fields.
    pub(super) fn of<'a>(&self, shared: &'a Shared, caller: &'a InAccount, fields: &Fields) -> Once<'a> {
        let hashes = self.key.as_ref().map(|key| {
            let mut request = Sha256::new();
            request.update(&self.asked);
            request.update([0]);
            request.update(fields.to_bytes());
            (Sha256::digest(key).into(), request.finalize().into())
        });
        Once { shared, scope: caller.token_id(), hashes, status: StatusCode::CREATED }
    }
}

impl Once<'_> {
    /// The same, answered with 200: it changes something that is there.
    pub(super) fn with_ok(self) -> Self {
        Self { status: StatusCode::OK, ..self }
    }

    /// The answer that was given before, if one was.
    pub(super) async fn before(&self) -> Result<Option<Response>, ApiError> {
        let Some((key_hash, request_hash)) = &self.hashes else { return Ok(None) };
        let Some(answer) = self.shared.store.answer(self.scope, key_hash).await? else { return Ok(None) };
        if answer.request_hash != *request_hash {
            return Err(ApiError::IdempotencyKeyReused);
        }
        let context = context(self.scope, key_hash);
        let body = self.shared.keyring.load().open_text(&context, &answer.sealed).map_err(|error| {
            tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "a kept answer cannot be opened");
            ApiError::Internal
        })?;
        let mut response = json(self.status, Bytes::copy_from_slice(&body));
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(response))
    }

    /// The answer to be kept, where there is a key.
    pub(super) fn kept(&self, body: &impl Serialize) -> Result<Option<Answer>, StoreError> {
        let Some((key_hash, request_hash)) = self.hashes else { return Ok(None) };
        let text = serde_json::to_vec(body).map_err(|_| StoreError::Seal)?;
        let context = context(self.scope, &key_hash);
        let sealed = self.shared.keyring.load().seal_text(&context, &text).map_err(|_| StoreError::Seal)?;
        Ok(Some(Answer { scope: self.scope.to_owned(), key_hash, request_hash, sealed }))
    }

    /// What came of it; where the same request was quicker, what that was answered.
    pub(super) async fn answer(&self, made: Result<Response, StoreError>) -> Result<Response, ApiError> {
        match made {
            Err(StoreError::AnsweredAlready) => self.before().await?.ok_or(ApiError::Internal),
            made => Ok(made?),
        }
    }
}

fn context(scope: &str, key_hash: &[u8; 32]) -> Vec<u8> {
    [scope.as_bytes(), b" ", key_hash].concat()
}

fn json(status: StatusCode, body: Bytes) -> Response {
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json, body).into_response()
}
