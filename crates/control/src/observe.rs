//! Health and metrics on a listener of their own: for nodes without an API, and for those who keep them apart from it.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api::ApiError;
use crate::feed::Feed;
use crate::health::{self, Check};
use crate::metrics::{self, Metrics};
use crate::serve::{self, Answers, ServeError};
use crate::store::Store;

/// Connections of one address at once.
const CONNECTIONS_PER_ADDRESS: usize = 64;

/// What is told there.
#[derive(Clone)]
pub struct Observed {
    /// Asked whether it answers.
    pub store: Store,
    /// Asked how old it is.
    pub feed: Feed,
    /// What `/readyz` asks beside the two.
    pub checks: Vec<Check>,
    /// What `/metrics` tells.
    pub metrics: Metrics,
    /// The bearer token that `/metrics` asks for; `None`: everybody who reaches the listener may read them.
    pub metrics_token: Option<String>,
}

impl Observed {
    /// Serves `/healthz`, `/readyz` and `/metrics`, for as long as it is polled.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: TcpListener) -> Result<(), ServeError> {
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(ready))
            .route("/metrics", get(scrape))
            .fallback(async || ApiError::NoRoute)
            .with_state(Arc::new(self))
            .layer(map_response(uncached));
        let places = |address: std::net::IpAddr| (!address.is_loopback()).then_some(CONNECTIONS_PER_ADDRESS);
        let answers = Answers { router, minting: None };
        serve::serve(listener, None, (&answers, &places), std::future::pending()).await
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

async fn ready(State(observed): State<Arc<Observed>>) -> Response {
    health::answer(health::checks(&observed.store, &observed.feed, &observed.checks).await)
}

async fn scrape(State(observed): State<Arc<Observed>>, headers: HeaderMap) -> Result<Response, ApiError> {
    metrics::answer(&observed.metrics, observed.metrics_token.as_deref(), &headers)
}

async fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
