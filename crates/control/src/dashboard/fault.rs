//! Every way in which the dashboard says no, as a page.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

use crate::api::ApiError;
use crate::dashboard::{format, page};
use crate::store::StoreError;

/// A refusal.
#[derive(Debug)]
pub(super) enum Fault {
    /// Nobody is signed in, or not any more.
    SignedOut {
        /// What was to be seen.
        next: Option<String>,
    },
    /// A page of somebody else has sent the form.
    Foreign,
    /// The form is not of this sign-in.
    Stale,
    /// The API token may only read.
    ReadOnly,
    /// The form cannot be read.
    Unreadable(StatusCode),
    /// Nothing is here.
    NotFound,
    /// A field or a link is not what it has to be.
    Invalid(String),
    /// Asked too often: come back in so many seconds.
    TooOften(u64),
    /// What the APIs say no to, too.
    Api(ApiError),
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Api(error.into())
    }
}

#[derive(Template)]
#[template(path = "dashboard/fault.html")]
struct FaultPage {
    title: &'static str,
    text: String,
}

impl Fault {
    /// What could not be done, and how it can.
    fn told(self) -> (StatusCode, &'static str, String) {
        let (status, title, text) = match self {
            Self::SignedOut { .. } => (StatusCode::UNAUTHORIZED, "Signed out", "Sign in again."),
            Self::Foreign => (
                StatusCode::FORBIDDEN,
                "Not sent from the dashboard",
                "Another site asked for this change, or the browser did not say who did. Nothing was changed. Open the \
                 dashboard and do it there.",
            ),
            Self::Stale => (
                StatusCode::FORBIDDEN,
                "The form is out of date",
                "It belongs to an earlier sign-in. Nothing was changed. Go back, load the page again, and repeat it.",
            ),
            Self::ReadOnly => (
                StatusCode::FORBIDDEN,
                "This API token may only read",
                "Nothing was changed. Sign in with a token that has Calls Write.",
            ),
            Self::Unreadable(status) => {
                (status, "The form could not be read", "Nothing was changed. Go back and send it again.")
            }
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "Nothing is here",
                "The address is wrong, or what was here is gone. The dashboard's menu leads to what there is.",
            ),
            Self::Invalid(text) => return (StatusCode::BAD_REQUEST, "That does not fit", text),
            Self::TooOften(secs) => {
                let text = format!("Too many requests. Wait {secs} s and try again.");
                return (StatusCode::TOO_MANY_REQUESTS, "A moment, please", text);
            }
            Self::Api(error) => {
                return (error.status(), "That could not be done", format::sentence(&error.message()));
            }
        };
        (status, title, text.to_owned())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        if let Self::SignedOut { next } = &self {
            let next = next.as_deref().map(|next| format!("?next={}", format::in_query(next)));
            return Redirect::to(&format!("/dashboard/sign-in{}", next.unwrap_or_default())).into_response();
        }
        let wait = if let Self::TooOften(secs) = self { Some(secs) } else { None };
        let (status, title, text) = self.told();
        let mut response = page(status, &FaultPage { title, text });
        if let Some(secs) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}
