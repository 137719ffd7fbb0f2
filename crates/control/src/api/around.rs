//! What happens around every request, whatever answers it.
//!
//! For the router it is one layer, for a router boxes and copies each of its layers for every request.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{self, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::api::origin::{self, Origin, Peer};
use crate::api::{ApiError, MAX_READ_BYTES, REQUEST_TIMEOUT, cors};
use crate::control::Shared;
use crate::metrics::{Asked, Path};

/// What the router's handlers say.
pub(super) async fn routed(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let path = Path::Matched(request.extensions().get::<MatchedPath>().cloned());
    DefaultBodyLimit::max(MAX_READ_BYTES).apply(&mut request);
    answered(&shared, peer, path, request, |mut request, origin| {
        request.extensions_mut().insert(origin);
        next.run(request)
    })
    .await
}

/// Gives a request its id, which the answer and the log say, counts it as one of `path`, and answers whatever becomes of
/// it.
pub(super) async fn answered<B, F: Future<Output = Response>>(
    shared: &Shared,
    peer: Option<Peer>,
    path: Path,
    request: http::Request<B>,
    answer: impl FnOnce(http::Request<B>, Origin) -> F,
) -> Response {
    let asked = Asked::now(request.method(), path);
    let origin = Origin::of(peer, request.headers(), shared);
    let request_id = Arc::clone(&origin.request_id);
    let id = HeaderValue::from_str(&request_id);
    // Written here and not ahead: a future that is moved is held twice.
    let mut response = origin::within(request_id, async {
        let method = tracing::enabled!(tracing::Level::DEBUG).then(|| request.method().clone());
        let response = match origin::admit(shared, origin.address) {
            Err(refusal) => refusal.into_response(),
            Ok(()) => {
                let answer = |request| in_time(answer(request, origin));
                cors::answered(&shared.config.cors_origins, request, answer).await
            }
        };
        if let Some(method) = method {
            tracing::debug!(request = %origin::request_id(), %method, status = response.status().as_u16(), "answered");
        }
        response
    })
    .await;
    add_common_headers(&mut response);
    if let Ok(id) = id {
        response.headers_mut().insert(origin::REQUEST_ID, id);
    }
    shared.config.metrics.count(asked, response.status());
    response
}

/// The answer, or that it takes too long, or that there is none.
fn in_time(answer: impl Future<Output = Response>) -> impl Future<Output = Response> {
    timeout(REQUEST_TIMEOUT, AssertUnwindSafe(answer).catch_unwind()).map(|done| match done {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => panicked(&*panic),
        Err(_) => ApiError::TimedOut.into_response(),
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of unknown kind");
    tracing::error!(request = %origin::request_id(), panic = text, "a request handler panicked");
    ApiError::Internal.into_response()
}

/// How many headers every answer gets, its id, date and length included.
const COMMON_HEADERS: usize = 8;

/// Answers hold secrets, and none of them is a document to guess the type of.
fn add_common_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.reserve(COMMON_HEADERS);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // A page says what it needs itself.
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_to_the_log_only() {
        for panic in [Box::new("secret") as Box<dyn Any + Send>, Box::new("secret".to_owned()), Box::new(1)] {
            let response = panicked(&*panic);
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.starts_with(r#"{"result":null,"success":false,"errors":[{"code":20500,"#), "{body}");
            assert!(!body.contains("secret"), "{body}");
        }
    }
}
