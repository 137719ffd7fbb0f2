//! `/dashboard`: the account at a screen. Pages are made here, whole, and work without script; the script that there is
//! copies, refreshes and nothing else.
//!
//! Who has signed in acts with exactly the rights of an API token: see [`session`].

mod audit;
mod chart;
mod fault;
mod form;
mod format;
mod health;
mod keys;
mod limits;
mod month;
mod range;
mod revocations;
mod session;
mod sessions;
mod sign_in;
mod state;
mod tokens;
mod trial;
mod usage;
mod webhooks;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

pub use health::About;

use crate::control::Shared;
use fault::Fault;
use session::Visitor;

const SCRIPT: &str = include_str!("../../assets/dashboard.js");
const STYLE: &str = include_str!("../../assets/dashboard.css");

/// Where everything begins.
const HOME: &str = "/dashboard/keys";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/dashboard", get(async || Redirect::to(HOME)))
        .route("/dashboard/", get(async || Redirect::to(HOME)))
        .route("/dashboard/dashboard.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/dashboard/dashboard.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/dashboard/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/dashboard/sign-out", post(sign_in::sign_out))
        .route("/dashboard/keys", get(keys::list).post(keys::create))
        .route("/dashboard/keys/{key_id}", get(keys::show))
        .route("/dashboard/keys/{key_id}/rename", post(keys::rename))
        .route("/dashboard/keys/{key_id}/delete", get(keys::ask_to_delete).post(keys::delete))
        .route("/dashboard/keys/{key_id}/limits", get(limits::show).post(limits::set))
        .route("/dashboard/keys/{key_id}/limits/clear", post(limits::clear))
        .route("/dashboard/keys/{key_id}/month", get(month::show).post(month::set))
        .route("/dashboard/keys/{key_id}/month/clear", post(month::clear))
        .route("/dashboard/keys/{key_id}/mint", get(trial::show).post(trial::mint))
        .route("/dashboard/keys/{key_id}/roll", get(state::ask_to_roll).post(state::roll))
        .route("/dashboard/keys/{key_id}/suspend", get(state::ask_to_suspend).post(state::suspend))
        .route("/dashboard/keys/{key_id}/resume", post(state::resume))
        .route("/dashboard/keys/{key_id}/revocations", get(revocations::list).post(revocations::revoke))
        .route("/dashboard/tokens", get(tokens::list).post(tokens::create))
        .route("/dashboard/tokens/delete", get(tokens::ask_to_delete).post(tokens::delete))
        .route("/dashboard/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/dashboard/webhooks/one", get(webhooks::show))
        .route("/dashboard/webhooks/test", post(webhooks::test))
        .route("/dashboard/webhooks/redeliver", post(webhooks::redeliver))
        .route("/dashboard/webhooks/delete", post(webhooks::delete))
        .route("/dashboard/audit", get(audit::list))
        .route("/dashboard/sessions", get(sessions::list))
        .route("/dashboard/sessions/end", get(sessions::ask_to_end).post(sessions::end))
        .route("/dashboard/usage", get(usage::show))
        .route("/dashboard/usage.csv", get(usage::download))
        .route("/dashboard/health", get(health::show))
        .route("/dashboard/{*rest}", get(nothing_here))
        .layer(axum::middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");
    const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Not `no-referrer`: with that, browsers hide where a form was sent from.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (OPENER, "same-origin"),
        (PERMISSIONS, "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn asset(content_type: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

async fn nothing_here(_: Visitor) -> Fault {
    Fault::NotFound
}

/// The parts of the dashboard: name, path and label.
const PARTS: [(&str, &str, &str); 7] = [
    ("keys", "/dashboard/keys", "Keys"),
    ("sessions", "/dashboard/sessions", "Sessions"),
    ("usage", "/dashboard/usage", "Usage"),
    ("tokens", "/dashboard/tokens", "Tokens"),
    ("webhooks", "/dashboard/webhooks", "Webhooks"),
    ("audit", "/dashboard/audit", "Audit log"),
    ("health", "/dashboard/health", "Health"),
];

/// What every page of somebody who has signed in shows.
struct Frame {
    account: String,
    token_name: String,
    permission: &'static str,
    may_write: bool,
    csrf: String,
    /// Which part of the dashboard this is.
    here: &'static str,
    /// What has just been done.
    notice: Option<&'static str>,
    /// What could not be done, and how it can.
    alert: Option<String>,
}

impl Frame {
    fn new(visitor: &Visitor, here: &'static str) -> Self {
        Self {
            account: visitor.token.account.to_string(),
            token_name: visitor.token.name.clone(),
            permission: visitor.token.permission.name(),
            may_write: visitor.may_write(),
            csrf: visitor.csrf(),
            here,
            notice: None,
            alert: None,
        }
    }

    /// Says what the query's `done` names.
    fn having_done(mut self, done: Option<&str>) -> Self {
        const DONE: [(&str, &str); 15] = [
            ("renamed", "The key has its new name."),
            ("limits", "The limits are set. Relays know them within a second."),
            ("limits-cleared", "The key has no limits of its own any more: those of the relay hold."),
            (
                "deleted",
                "The key is deleted. Its credentials are refused, and what relayed on them has ended.",
            ),
            ("session-ended", "The session is being ended: it is gone from this list within seconds."),
            ("sessions-ended", "The sessions are being ended: they are gone from this list within seconds."),
            ("suspended", "The key is suspended: it mints nothing, and its credentials are refused."),
            ("resumed", "The key is resumed: it mints again, and its credentials are good again."),
            ("token-deleted", "The API token is deleted, and whoever had signed in with it is signed out."),
            ("tested", "A test event is on its way."),
            ("redelivered", "What was given up is tried again, for another day."),
            ("webhook-deleted", "The webhook is deleted."),
            ("month-limit", "The monthly limit is set."),
            ("month-limit-cleared", "The key has no monthly limit any more."),
            ("revoked", "The credentials are revoked. What relayed on them ends within a second."),
        ];
        self.notice = DONE.iter().find(|(code, _)| Some(*code) == done).map(|(_, text)| *text);
        self
    }

    fn saying(mut self, alert: impl Into<String>) -> Self {
        self.alert = Some(alert.into());
        self
    }
}

/// A page, with this status.
fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(request = %crate::api::request_id(), %error, "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
