//! What ACME authorities are answered over HTTP. RFC 8555 §8.3.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::api::ApiError;
use crate::control::Shared;

/// Most connections at once of those who come for answers alone, and how long each has.
const MAX_CONNECTIONS: usize = 512;
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// RFC 8555 §8.3: where the authority looks.
pub(crate) const PATH: &str = "/.well-known/acme-challenge/{token}";

/// Answers by token. Empty by default; cheap to clone, and the clones are one.
#[derive(Debug, Clone, Default)]
pub struct HttpChallenges(Arc<ArcSwap<BTreeMap<String, Vec<u8>>>>);

impl HttpChallenges {
    /// Answers so from now on, and nothing else.
    pub fn set(&self, answers: BTreeMap<String, Vec<u8>>) {
        self.0.store(Arc::new(answers));
    }

    /// Serves the answers and nothing else, for as long as it is polled.
    pub async fn serve(&self, listener: TcpListener) -> ! {
        let router = Router::new().route(PATH, get(answer)).with_state(self.clone());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no connection was accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let router = TowerToHyperService::new(router.clone());
            let connection =
                http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), router);
            tokio::spawn(async move {
                // Whether it got its answer is its own matter.
                let _ = timeout(DEADLINE, connection).await;
                drop(place);
            });
        }
    }

    fn answer(&self, token: &str) -> Option<Response> {
        let answer = self.0.load().get(token)?.clone();
        Some(([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response())
    }
}

async fn answer(State(challenges): State<HttpChallenges>, Path(token): Path<String>) -> Response {
    challenges.answer(&token).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// The same at the API, whose other answers have their own form.
pub(crate) async fn answer_at_api(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
) -> Result<Response, ApiError> {
    shared.config.challenges.answer(&token).ok_or(ApiError::NoRoute)
}
