//! Who looks at the dashboard.
//!
//! A cookie holds a random secret, of which the store has the hash, and the store knows the API token that it was made
//! with: the token itself never comes back to the browser. Each request asks the store, so a token that is deleted,
//! disabled or expired is the end of its sign-ins at once, and a sign-out holds at every node.
//!
//! A change needs three things of a request: it comes from a page of ours (`Sec-Fetch-Site`, or `Origin` where the browser
//! sends no such header), the cookie, which is `SameSite=Strict`, and the token of the form, which is made from the cookie.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::api::Origin;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::store::{AccountId, ActorKind, ApiToken, NewSignIn, Permission, Store};

/// How long a sign-in lasts.
pub(super) const LIFETIME_SECS: u32 = 12 * 3_600;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whoever has signed in.
pub(super) struct Visitor {
    pub(super) token: ApiToken,
    secret: String,
    origin: Origin,
}

impl Visitor {
    pub(super) fn account(&self) -> &AccountId {
        &self.token.account
    }

    pub(super) fn may_write(&self) -> bool {
        self.token.permission >= Permission::Write
    }

    /// What the forms of this sign-in carry. It does not give the cookie away, nor what the store has of it.
    pub(super) fn csrf(&self) -> String {
        hex::encode(Sha256::digest(format!("form {}", self.secret)))
    }

    /// The store, for changes of this visitor.
    pub(super) fn store(&self, shared: &Shared) -> Store {
        let ApiToken { id, name, .. } = &self.token;
        shared.store.acting_as(self.origin.actor(ActorKind::Dashboard, id.as_str(), name))
    }
}

impl FromRequestParts<Arc<Shared>> for Visitor {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Fault> {
        let signed_out = || {
            let wanted = parts.uri.path_and_query().filter(|_| parts.method == Method::GET);
            Fault::SignedOut { next: wanted.map(ToString::to_string) }
        };
        let secret = secret(&parts.headers, shared).ok_or_else(signed_out)?;
        let token = shared.store.signed_in(&secret).await?.ok_or_else(signed_out)?;
        shared.account_rates.take(&token.id, Instant::now()).map_err(Fault::TooOften)?;
        let Ok(origin) = Origin::from_request_parts(parts, shared).await;
        Ok(Self { token, secret, origin })
    }
}

/// A form that a visitor with Calls Write has sent from a page of ours.
pub(super) struct Submitted {
    pub(super) visitor: Visitor,
    pub(super) form: Form,
}

impl FromRequest<Arc<Shared>> for Submitted {
    type Rejection = Fault;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Fault> {
        let submitted = AnySubmitted::from_request(request, shared).await?;
        if !submitted.visitor.may_write() {
            return Err(Fault::ReadOnly);
        }
        Ok(Self { visitor: submitted.visitor, form: submitted.form })
    }
}

/// The same of a visitor with whatever rights.
pub(super) struct AnySubmitted {
    pub(super) visitor: Visitor,
    pub(super) form: Form,
}

impl FromRequest<Arc<Shared>> for AnySubmitted {
    type Rejection = Fault;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Fault> {
        expect_own_page(request.headers())?;
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, shared).await?;
        let form = Form::from_request(Request::from_parts(parts, body), shared).await?;
        let given = form.text("csrf").unwrap_or_default();
        if !bool::from(given.as_bytes().ct_eq(visitor.csrf().as_bytes())) {
            return Err(Fault::Stale);
        }
        Ok(Self { visitor, form })
    }
}

/// That a request was made by a page of this origin. A browser that says nothing of it is too old to be safe.
pub(super) fn expect_own_page(headers: &HeaderMap) -> Result<(), Fault> {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // `none`: what the user did, as to load a page again.
        return if site == "same-origin" || site == "none" { Ok(()) } else { Err(Fault::Foreign) };
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let own = [text(FORWARDED_HOST), text(header::HOST)];
    let is_own =
        origin.is_some_and(|origin| own.iter().flatten().any(|own| own.eq_ignore_ascii_case(origin)));
    if is_own { Ok(()) } else { Err(Fault::Foreign) }
}

/// Whether the browser speaks TLS, with this process or with a proxy before it. Who lies about it harms his own cookie.
fn is_https(headers: &HeaderMap, shared: &Shared) -> bool {
    let forwarded = headers.get(FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().starts_with(b"https"));
    shared.config.https || forwarded
}

/// With TLS the cookie's name binds it to this very host (RFC 6265bis, `__Host-`).
fn cookie_name(https: bool) -> &'static str {
    if https { "__Host-turnery-dashboard" } else { "turnery-dashboard" }
}

/// What the cookie holds.
pub(super) fn secret(headers: &HeaderMap, shared: &Shared) -> Option<String> {
    let name = cookie_name(is_https(headers, shared));
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.into_iter().find(|(it, _)| *it == name)?;
    let is_one = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
    is_one.then(|| value.to_owned())
}

/// The cookie of a sign-in, or what takes it away.
pub(super) fn cookie(
    headers: &HeaderMap,
    shared: &Shared,
    sign_in: Option<&NewSignIn>,
) -> Option<HeaderValue> {
    let https = is_https(headers, shared);
    let (value, age) = sign_in.map_or(("", 0), |it| (it.secret.as_str(), LIFETIME_SECS));
    let name = cookie_name(https);
    let secure = if https { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_the_same_origin_may_change_anything() {
        let check = |lines: &[(&'static str, &'static str)], own: bool| {
            let headers: HeaderMap = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            assert_eq!(expect_own_page(&headers).is_ok(), own, "{lines:?}");
        };
        let host = ("host", "turn.example:8080");
        check(&[host, ("sec-fetch-site", "same-origin")], true);
        check(&[host, ("sec-fetch-site", "none")], true);
        check(&[host, ("sec-fetch-site", "same-site")], false);
        check(&[host, ("sec-fetch-site", "cross-site")], false);
        check(&[host, ("sec-fetch-site", "cross-site"), ("origin", "http://turn.example:8080")], false);
        check(&[host, ("origin", "http://turn.example:8080")], true);
        check(&[host, ("origin", "https://TURN.example:8080")], true);
        check(&[host, ("origin", "http://turn.example")], false);
        check(&[host, ("origin", "http://evil.example:8080")], false);
        check(&[host, ("origin", "null")], false);
        check(&[host], false);
        check(
            &[("host", "10.0.0.1"), ("x-forwarded-host", "turn.example"), ("origin", "https://turn.example")],
            true,
        );
    }
}
