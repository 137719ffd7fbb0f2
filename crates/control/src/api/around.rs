//! What happens around every request, whatever answers it.
//!
//! It is one layer, for a router boxes and copies each of its layers for every request.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::api::origin::{self, Origin};
use crate::api::{ApiError, REQUEST_TIMEOUT, cors};
use crate::control::Shared;
use crate::metrics::Asked;

/// Gives a request its id, which the answer and the log say, counts it, and answers whatever becomes of it.
pub(super) async fn answered(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let asked = Asked::now(&request);
    let origin = Origin::of(&request, &shared);
    let id = HeaderValue::from_str(&origin.request_id);
    let request_id = Arc::clone(&origin.request_id);
    let answer = async {
        let method = request.method().clone();
        let response = match origin::admit(&shared, origin.address) {
            Err(refusal) => refusal.into_response(),
            Ok(()) => {
                request.extensions_mut().insert(origin);
                cors::answered(&shared.config.cors_origins, request, |request| in_time(request, next)).await
            }
        };
        tracing::debug!(request = %origin::request_id(), %method, status = response.status().as_u16(), "answered");
        response
    };
    let mut response = origin::within(request_id, answer).await;
    add_common_headers(&mut response);
    if let Ok(id) = id {
        response.headers_mut().insert(origin::REQUEST_ID, id);
    }
    shared.config.metrics.count(asked, response.status());
    response
}

/// The answer, or that it takes too long, or that there is none.
async fn in_time(request: Request, next: Next) -> Response {
    match timeout(REQUEST_TIMEOUT, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => panicked(&*panic),
        Err(_) => ApiError::TimedOut.into_response(),
    }
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
