//! `/try`: a page that tries every ICE URL by itself, in the visitor's browser.
//!
//! In dev mode it can mint for itself. That route gives credentials to whoever asks, so it exists in dev mode only
//! and answers the page alone: a header that no other site can send without asking first, and a host that no other
//! site can name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use credentials::CustomIdentifier;

use crate::api::{self, ApiError};
use crate::control::{Dev, Shared};

const HTML: &str = include_str!("../assets/try.html");
const SCRIPT: &str = include_str!("../assets/try.js");
const STYLE: &str = include_str!("../assets/try.css");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page sends it; another origin may not without a preflight, which nobody answers.
const PAGE_HEADER: HeaderName = HeaderName::from_static("x-turnery-try");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const DEV_TTL_SECS: u32 = 3_600;

pub(crate) fn routes(shared: &Shared) -> Router<Arc<Shared>> {
    let html = HTML.replace("{{dev}}", if shared.config.dev.is_some() { "true" } else { "false" });
    let routes = Router::new()
        .route("/", get(async || Redirect::temporary("/dashboard")))
        .route("/try", get(async || asset("text/html; charset=utf-8", html)))
        .route("/try/try.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/try/try.css", get(async || asset("text/css; charset=utf-8", STYLE)));
    match shared.config.dev {
        Some(_) => routes.route("/try/ice-servers", post(mint)),
        None => routes,
    }
}

fn asset(content_type: &'static str, body: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, body).into_response()
}

async fn mint(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, ApiError> {
    // The route exists in dev mode only.
    let dev = shared.config.dev.as_ref().ok_or(ApiError::NoRoute)?;
    if !is_from_the_page(&headers, dev) {
        return Err(ApiError::ForeignOrigin);
    }
    let urls = shared.urls.next();
    let generated =
        api::ice_servers(&shared, &urls, dev.key, DEV_TTL_SECS, CustomIdentifier::default()).await?;
    Ok(generated.into_response())
}

fn is_from_the_page(headers: &HeaderMap, dev: &Dev) -> bool {
    let same_site = headers.get(SEC_FETCH_SITE).is_none_or(|site| site == "same-origin");
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    headers.contains_key(PAGE_HEADER) && same_site && host.is_some_and(|host| is_own_host(host, dev))
}

/// Whether `host`, perhaps with a port, is not a name that somebody else may have pointed here.
fn is_own_host(host: &str, dev: &Dev) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || dev.public_host.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use credentials::TurnKeyId;

    use super::*;

    #[test]
    fn only_hosts_that_cannot_be_rebound_are_our_own() {
        let dev = Dev { key: TurnKeyId::from_bytes([0; 16]), public_host: Some("turn.example".to_owned()) };
        let check = |host: &str, own: bool| assert_eq!(is_own_host(host, &dev), own, "{host}");
        check("127.0.0.1:8080", true);
        check("127.0.0.1", true);
        check("[::1]:8080", true);
        check("[::1]", true);
        check("localhost:8080", true);
        check("Turn.Example:8080", true);
        check("evil.example:8080", false);
        check("127.0.0.1.evil.example", false);
        check("", false);
    }
}
