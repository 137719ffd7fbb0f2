//! Calls from other origins' pages. None may, unless the configuration names the origin: a browser asks first, and is
//! told nothing. Cookies are never let through, so an origin that is allowed gains only what its token or secret gives.

use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
const ASKED_WITH: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, x-request-id");
const SHOWN: HeaderValue = HeaderValue::from_static("x-request-id, retry-after, idempotency-replayed");
/// How long a browser may remember the answer, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// What `answer` says, with what a browser has to be told when a page of one of `origins` asks.
pub(super) async fn answered<B, F: Future<Output = Response>>(
    origins: &[String],
    request: Request<B>,
    answer: impl FnOnce(Request<B>) -> F,
) -> Response {
    if origins.is_empty() {
        return answer(request).await;
    }
    let allowed = allowed(origins, request.headers());
    let asks_first = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &allowed {
        Some(_) if asks_first => StatusCode::NO_CONTENT.into_response(),
        _ => answer(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN);
        if asks_first {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ASKED_WITH);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }
    response
}

/// What an allowed origin is answered.
fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if origins.iter().any(|it| it == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    origins.iter().any(|it| it.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}
