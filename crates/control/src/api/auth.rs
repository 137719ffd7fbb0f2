//! Who asks, and whether they may.
//!
//! What is refused first: a path that leads nowhere, then the caller, then the body.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use credentials::TurnKeyId;

use crate::api::origin::Origin;
use crate::api::{ApiError, path_param};
use crate::control::Shared;
use crate::store::{AccountId, ActorKind, ApiToken, KeyRecord, Permission, Stop, Store, Timestamp};

/// Somebody with an API token that is good for the request's method.
pub(super) struct Caller(pub(super) ApiToken);

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let needed = match parts.method {
            Method::GET | Method::HEAD => Permission::Read,
            _ => Permission::Write,
        };
        token(parts, shared, needed).await.map(Self)
    }
}

async fn token(parts: &Parts, shared: &Shared, needed: Permission) -> Result<ApiToken, ApiError> {
    let text = match bearer(&parts.headers) {
        Bearer::Missing => return Err(ApiError::NoCredentials),
        Bearer::Malformed => return Err(ApiError::MalformedAuthorization),
        Bearer::Token(text) => text,
    };
    let token = shared.store.token_with_text(text).await?;
    let token = token.filter(|it| it.is_active(Timestamp::now())).ok_or(ApiError::UnknownToken)?;
    shared
        .account_rates
        .take(&token.id, Instant::now())
        .map_err(|retry_after_secs| ApiError::RateLimited { retry_after_secs })?;
    if token.permission < needed {
        return Err(ApiError::LacksPermission);
    }
    Ok(token)
}

/// Somebody with an API token, for what is only read, whatever the method.
pub(super) struct Reader(pub(super) ApiToken);

impl FromRequestParts<Arc<Shared>> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        token(parts, shared, Permission::Read).await.map(Self)
    }
}

/// A caller in the account that the path names, which is the caller's own.
pub(super) struct InAccount {
    pub(super) caller: Caller,
    pub(super) account: AccountId,
    origin: Origin,
}

impl InAccount {
    /// The API token's id.
    pub(super) fn token_id(&self) -> &str {
        let Caller(token) = &self.caller;
        token.id.as_str()
    }

    /// The store, for changes of this caller.
    pub(super) fn store(&self, shared: &Shared) -> Store {
        let Caller(token) = &self.caller;
        shared.store.acting_as(self.origin.actor(ActorKind::Token, token.id.as_str(), &token.name))
    }
}

impl FromRequestParts<Arc<Shared>> for InAccount {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let params = path_params(parts, shared).await?;
        let account: AccountId = path_param(&params, "account_id")?;
        let caller = Caller::from_request_parts(parts, shared).await?;
        if caller.0.account != account {
            return Err(ApiError::ForeignAccount);
        }
        let Ok(origin) = Origin::from_request_parts(parts, shared).await;
        Ok(Self { caller, account, origin })
    }
}

/// A caller as [`InAccount`], and the TURN key that the path names. The key need not exist.
pub(super) struct AtKey {
    pub(super) account: AccountId,
    pub(super) uid: TurnKeyId,
    pub(super) caller: InAccount,
}

impl AtKey {
    /// The store, for changes of this caller.
    pub(super) fn store(&self, shared: &Shared) -> Store {
        self.caller.store(shared)
    }
}

impl FromRequestParts<Arc<Shared>> for AtKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let params = path_params(parts, shared).await?;
        let uid = path_param(&params, "key_id")?;
        let caller = InAccount::from_request_parts(parts, shared).await?;
        Ok(Self { account: caller.account.clone(), uid, caller })
    }
}

/// Somebody who holds the secret of the TURN key that the path names.
pub(super) struct KeyHolder {
    pub(super) key: TurnKeyId,
    record: Arc<KeyRecord>,
    origin: Origin,
    /// The path's `username`, where it has one.
    pub(super) username: Option<String>,
}

/// That a key may mint.
pub(crate) fn expect_active(suspended: bool, stopped: Option<Stop>) -> Result<(), ApiError> {
    match (suspended, stopped) {
        (true, _) => Err(ApiError::KeySuspended),
        (false, Some(_)) => Err(ApiError::MonthLimitReached),
        (false, None) => Ok(()),
    }
}

impl KeyHolder {
    /// Whoever sent these headers, if they hold the key's secret.
    pub(super) async fn of(
        shared: &Shared,
        key: TurnKeyId,
        headers: &HeaderMap,
        origin: Origin,
    ) -> Result<Self, ApiError> {
        let Bearer::Token(secret) = bearer(headers) else { return Err(ApiError::NoSecret) };
        let record = shared.keys.find(key).await?.ok_or(ApiError::NoSuchKey)?;
        if !record.accepts(secret, Timestamp::now()) {
            return Err(ApiError::WrongSecret);
        }
        Ok(Self { key, record, origin, username: None })
    }

    /// The account that the key belongs to.
    pub(super) fn account(&self) -> &AccountId {
        &self.record.account
    }

    /// That the key may mint.
    pub(crate) fn expect_active(&self) -> Result<(), ApiError> {
        expect_active(self.record.suspended, self.record.stopped)
    }

    /// The store, for changes of whoever this is.
    pub(super) fn store(&self, shared: &Shared) -> Store {
        shared.store.acting_as(self.origin.actor(ActorKind::TurnKey, self.key.to_string(), ""))
    }
}

impl FromRequestParts<Arc<Shared>> for KeyHolder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let params = path_params(parts, shared).await?;
        let key = path_param(&params, "key_id")?;
        let username = path_param(&params, "username").ok();
        let Ok(origin) = Origin::from_request_parts(parts, shared).await;
        let holder = Self::of(shared, key, &parts.headers, origin).await?;
        Ok(Self { username, ..holder })
    }
}

/// A path that is no UTF-8 has no parameters.
async fn path_params(parts: &mut Parts, shared: &Arc<Shared>) -> Result<RawPathParams, ApiError> {
    RawPathParams::from_request_parts(parts, shared).await.map_err(|_| ApiError::NoRoute)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bearer<'a> {
    Missing,
    Malformed,
    Token(&'a str),
}

/// What the `Authorization` header says. RFC 6750 §2.1: `Bearer` and a b64token; RFC 9110 §11.1: the word in any
/// case, then spaces.
pub(crate) fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Bearer::Missing };
    let parsed = value.to_str().ok().and_then(|text| text.split_once(' '));
    match parsed {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && values.next().is_none() => {
            let token = token.trim_matches(' ');
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
            if token.is_empty() || !token.bytes().all(allowed) {
                return Bearer::Malformed;
            }
            Bearer::Token(token)
        }
        _ => Bearer::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_authorization_header_is_read() {
        let check = |values: &[&'static str], want: Bearer<'_>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(bearer(&headers), want, "{values:?}");
        };
        check(&[], Bearer::Missing);
        check(&["Bearer abc-_9"], Bearer::Token("abc-_9"));
        check(&["bEARER  abc"], Bearer::Token("abc"));
        check(&["Bearer"], Bearer::Malformed);
        check(&["Bearer "], Bearer::Malformed);
        check(&["Bearer a b"], Bearer::Malformed);
        check(&["Basic abc"], Bearer::Malformed);
        check(&["abc"], Bearer::Malformed);
        check(&[""], Bearer::Malformed);
        check(&["Bearer a", "Bearer b"], Bearer::Malformed);
    }
}
