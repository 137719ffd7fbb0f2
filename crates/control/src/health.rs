//! Whether this process works: for load balancers, supervisors and people.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::control::Shared;
use crate::feed::Feed;
use crate::store::Store;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long ago the feed may have read the store: revocations made elsewhere are heard that late.
const FEED_MAX_AGE: Duration = Duration::from_secs(10);

/// Something that has to hold for the process to be ready, beyond what this crate knows of.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    holds: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Check {
    /// `name` is what `/readyz` calls it. `holds` is asked at each request and must not block.
    pub fn new(name: &'static str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { name, holds: Arc::new(holds) }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// A check's name, and what it comes to.
pub(crate) type Checked = (&'static str, &'static str);

/// What a check comes to where it holds.
pub(crate) const HOLDS: &str = "ok";

/// Every check by its name, and what it comes to: [`HOLDS`], or what is wrong.
pub(crate) async fn checks(store: &Store, feed: &Feed, more: &[Check]) -> Vec<Checked> {
    // What every node may ask, also one without an API.
    let store = match timeout(STORE_TIMEOUT, store.expect_feed()).await {
        Ok(Ok(())) => HOLDS,
        Ok(Err(_)) => "fails",
        Err(_) => "does not answer",
    };
    let feed = match feed.age() {
        Some(age) if age <= FEED_MAX_AGE => HOLDS,
        _ => "is behind",
    };
    let own = [("store", store), ("feed", feed)];
    let given = more.iter().map(|it| (it.name, if (it.holds)() { HOLDS } else { "fails" }));
    own.into_iter().chain(given).collect()
}

/// `GET /readyz`: 200 when all checks hold, else 503; which ones is in the body either way.
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    answer(of_api(&shared).await)
}

/// The checks of a process with an API.
pub(crate) async fn of_api(shared: &Shared) -> Vec<Checked> {
    checks(&shared.store, &shared.feed, &shared.config.checks).await
}

pub(crate) fn answer(checks: Vec<Checked>) -> Response {
    let is_ready = checks.iter().all(|(_, outcome)| *outcome == HOLDS);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let checks: Map<String, Value> =
        checks.into_iter().map(|(name, outcome)| (name.to_owned(), outcome.into())).collect();
    let word = if is_ready { "ready" } else { "not ready" };
    (status, Json(json!({ "status": word, "checks": checks }))).into_response()
}
