//! The HTTP interface: one file per resource.
//!
//! All surfaces, the account API below `/client/v4`, the credential API below `/v1` and `/turn`, speak the same failure
//! envelope: see [`envelope`] and [`error`].

mod accounts;
mod around;
mod audit;
mod auth;
mod body;
mod cors;
mod credentials;
mod envelope;
mod error;
mod fallback;
mod graphql;
mod idempotency;
mod key_limits;
mod key_state;
mod minting;
mod month_limit;
mod nodes;
mod openapi;
mod origin;
mod sessions;
mod shared_secrets;
mod tokens;
mod turn_keys;
mod turn_rest;
mod usage;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::RawPathParams;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};

pub(crate) use auth::{Bearer, bearer, expect_active};
pub(crate) use credentials::{ice_servers, of_username};
pub(crate) use error::{ApiError, MAX_NAME_CHARS};
pub(crate) use minting::Minting;
pub use openapi::text as openapi;
pub(crate) use origin::{Origin, Peer, counted_as, request_id};
pub(crate) use sessions::end_all;

use crate::control::Shared;
use crate::{acme, dashboard, health, metrics, try_page};

/// Most bytes of a request's body.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// So many bytes are read all the same: a client that is cut off while it sends may never see why.
const MAX_READ_BYTES: usize = 4 * MAX_BODY_BYTES;
/// In which time a request's body must be there and the answer made.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything this crate serves.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    const KEYS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys";
    const KEY: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}";
    const LIMITS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/limits";
    const MONTH: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/month_limit";
    const STATUS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/status";
    const ROLL: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/roll";
    const SUSPEND: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/suspend";
    const RESUME: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/resume";
    const REVOCATIONS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/revocations";
    const SECRETS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/shared_secrets";
    const SECRET: &str =
        "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/shared_secrets/{secret_id}";

    const SESSIONS: &str = "/client/v4/accounts/{account_id}/calls/turn_sessions";
    const SESSION: &str = "/client/v4/accounts/{account_id}/calls/turn_sessions/{session_id}";
    const KEY_SESSIONS: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/sessions";
    const USAGE: &str = "/client/v4/accounts/{account_id}/calls/turn_usage";
    const KEY_USAGE: &str = "/client/v4/accounts/{account_id}/calls/turn_keys/{key_id}/usage";

    Router::new()
        .route("/client/v4/accounts", get(accounts::list))
        .route("/client/v4/user/tokens/verify", get(tokens::verify))
        .route("/client/v4/accounts/{account_id}/tokens/verify", get(tokens::verify_in_account))
        .route(KEYS, get(turn_keys::list).post(turn_keys::create))
        .route(KEY, get(turn_keys::one).put(turn_keys::update).delete(turn_keys::delete))
        .route(SECRETS, get(shared_secrets::list).post(shared_secrets::create))
        .route(LIMITS, get(key_limits::one).put(key_limits::update).delete(key_limits::clear))
        .route(MONTH, get(month_limit::one).put(month_limit::update).delete(month_limit::clear))
        .route(STATUS, get(key_state::show))
        .route(ROLL, post(key_state::roll))
        .route(SUSPEND, post(key_state::suspend))
        .route(RESUME, post(key_state::resume))
        .route(REVOCATIONS, get(key_state::revocations))
        .route("/client/v4/accounts/{account_id}/audit", get(audit::list))
        .route("/client/v4/accounts/{account_id}/calls/turn_nodes", get(nodes::list))
        .route("/client/v4/accounts/{account_id}/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/client/v4/accounts/{account_id}/webhooks/{webhook_id}", delete(webhooks::delete))
        .route("/client/v4/accounts/{account_id}/webhooks/{webhook_id}/test", post(webhooks::test))
        .route("/client/v4/accounts/{account_id}/webhooks/{webhook_id}/deliveries", get(webhooks::deliveries))
        .route("/client/v4/accounts/{account_id}/webhooks/{webhook_id}/redeliver", post(webhooks::redeliver))
        .route(SECRET, delete(shared_secrets::delete))
        .route(USAGE, get(usage::of_account))
        .route(KEY_USAGE, get(usage::of_key))
        .route(SESSIONS, get(sessions::list).delete(sessions::delete_all))
        .route(KEY_SESSIONS, get(sessions::list_of_key).delete(sessions::delete_all_of_key))
        .route(SESSION, delete(sessions::delete))
        .route("/client/v4/graphql", post(graphql::graphql))
        .route("/turn", get(turn_rest::credential))
        .route(credentials::GENERATE, post(credentials::generate))
        .route(credentials::GENERATE_ICE_SERVERS, post(credentials::generate_ice_servers))
        .route("/v1/turn/keys/{key_id}/credentials/revoke", post(credentials::revoke_in_body))
        .route("/v1/turn/keys/{key_id}/credentials/{username}/revoke", post(credentials::revoke_in_path))
        .route(
            "/v1/turn/keys/{key_id}/credentials/username/{username}/revoke",
            post(credentials::revoke_in_path),
        )
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::scrape))
        .merge(openapi::routes())
        .merge(dashboard::routes())
        .route(acme::PATH, get(acme::answer_at_api))
        .merge(try_page::routes(&shared))
        .fallback(fallback::no_route)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .with_state(Arc::clone(&shared))
        .layer(from_fn_with_state(shared, around::routed))
}

/// The path's parameter `name` as a `T`. An id that cannot be one is a path that leads nowhere.
fn path_param<T: std::str::FromStr>(params: &RawPathParams, name: &str) -> Result<T, ApiError> {
    params
        .iter()
        .find(|(param, _)| *param == name)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or(ApiError::NoRoute)
}
