//! What Prometheus and its kind scrape: this side's own figures, and those that the binary registers for the relay.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use subtle::ConstantTimeEq;

use crate::api::{ApiError, Bearer, bearer};
use crate::control::Shared;

/// The format that is answered with: OpenMetrics 1.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
}

/// What a request was, told by the route and never by the path: paths are the caller's to make up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: Verb,
    route: Path,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: Verb,
    route: Path,
    status: u16,
}

/// A method of those that routes have; a caller can make up others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Verb(Option<Method>);

impl Verb {
    fn of(method: &Method) -> Self {
        let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        Self((known.contains(method) || method == Method::OPTIONS).then(|| method.clone()))
    }
}

impl EncodeLabelValue for Verb {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.as_ref().map_or("other", Method::as_str).encode(encoder)
    }
}

/// A route as the router writes it.
#[derive(Debug, Clone)]
pub(crate) enum Path {
    /// What the router found; nothing where a path leads nowhere.
    Matched(Option<MatchedPath>),
    /// What needed no router.
    Known(&'static str),
}

impl Path {
    fn as_str(&self) -> &str {
        match self {
            Self::Matched(Some(path)) => path.as_str(),
            Self::Matched(None) => "other",
            Self::Known(path) => path,
        }
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Path {}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl EncodeLabelValue for Path {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::default();
        // Half a millisecond to a bit more than eight seconds.
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_5, 2.0, 15));
        let seconds = Family::new_with_constructor(buckets);
        let mut registry = Registry::with_prefix("turnery");
        registry.register("http_requests", "Requests answered, by route", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to its answer",
            seconds.clone(),
        );
        Self { registry: Arc::new(Mutex::new(registry)), requests, seconds }
    }
}

impl Metrics {
    /// Adds figures that are made at each scrape. Their names get the prefix `turnery_`.
    pub fn register(&self, collector: impl Collector) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(Box::new(collector));
    }

    /// Counts a request that has been answered, and the time it took.
    pub(crate) fn count(&self, Asked { route, at }: Asked, status: StatusCode) {
        self.seconds.get_or_create(&route).observe(at.elapsed().as_secs_f64());
        let Route { method, route } = route;
        self.requests.get_or_create(&Answered { method, route, status: status.as_u16() }).inc();
    }

    /// All metrics, as OpenMetrics 1.0 text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // A string takes all that is written.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// `GET /metrics`.
pub(crate) async fn scrape(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&shared.config.metrics, shared.config.metrics_token.as_deref(), request.headers())
}

/// All metrics, for whoever has the token, if one is asked for.
pub(crate) fn answer(
    metrics: &Metrics,
    token: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(token) = token {
        let given = match bearer(headers) {
            Bearer::Missing => return Err(ApiError::NoCredentials),
            Bearer::Malformed => return Err(ApiError::MalformedAuthorization),
            Bearer::Token(given) => given,
        };
        if !bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
            return Err(ApiError::UnknownToken);
        }
    }
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], metrics.text()).into_response())
}

/// A request of which nothing but its answer is still to be counted.
#[derive(Debug)]
pub(crate) struct Asked {
    route: Route,
    at: Instant,
}

impl Asked {
    /// A request that has just come.
    pub(crate) fn now(method: &Method, route: Path) -> Self {
        Self { route: Route { method: Verb::of(method), route }, at: Instant::now() }
    }
}
