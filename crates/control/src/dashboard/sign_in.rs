//! Signing in with an API token, and out.

use std::sync::Arc;
use std::time::Instant;

use askama::Template;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};

use crate::api::{Origin, counted_as};
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::session::{self, AnySubmitted};
use crate::dashboard::{HOME, page};
use crate::store::Timestamp;

#[derive(Template)]
#[template(path = "dashboard/sign_in.html")]
struct SignInPage<'a> {
    next: &'a str,
    notice: Option<&'static str>,
    alert: Option<&'static str>,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Fault> {
    let query = Form::of_query(&uri);
    let next = own_path(query.text("next"));
    let held = session::secret(&headers, &shared);
    if let Some(secret) = &held
        && shared.store.signed_in(secret).await?.is_some()
    {
        return Ok(Redirect::to(next.unwrap_or(HOME)).into_response());
    }
    let notice = match query.text("done") {
        Some("signed-out") => Some("You are signed out."),
        _ if held.is_some() => {
            Some("Your sign-in is over: it has expired, or its API token has ended. Sign in again.")
        }
        _ => None,
    };
    Ok(page(StatusCode::OK, &SignInPage { next: next.unwrap_or_default(), notice, alert: None }))
}

pub(super) async fn sign_in(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    let headers = request.headers().clone();
    session::expect_own_page(&headers)?;
    let (mut parts, body) = request.into_parts();
    let Ok(origin) = Origin::from_request_parts(&mut parts, &shared).await;
    let address = origin.address.map(counted_as);
    shared.sign_in_rates.take(&address, Instant::now()).map_err(Fault::TooOften)?;
    let form = Form::from_request(Request::from_parts(parts, body), &shared).await?;
    let next = own_path(form.text("next"));
    let text = form.filled("token").unwrap_or_default();
    let token = shared.store.token_with_text(text).await?;
    let Some(token) = token.filter(|token| token.is_active(Timestamp::now())) else {
        let alert = Some(
            "API token: it is not known here, or it has expired. Paste all of it, or make one with `turnery token \
             create` on the server.",
        );
        let form = SignInPage { next: next.unwrap_or_default(), notice: None, alert };
        return Ok(page(StatusCode::UNAUTHORIZED, &form));
    };
    // Another sign-in of this browser ends: there is one cookie.
    if let Some(former) = session::secret(&headers, &shared) {
        shared.store.sign_out(&former).await?;
    }
    let made = shared.store.sign_in(&token.id, session::LIFETIME_SECS).await?;
    let mut response = Redirect::to(next.unwrap_or(HOME)).into_response();
    response
        .headers_mut()
        .extend(session::cookie(&headers, &shared, Some(&made)).map(|it| (header::SET_COOKIE, it)));
    Ok(response)
}

pub(super) async fn sign_out(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    submitted: AnySubmitted,
) -> Result<Response, Fault> {
    drop(submitted);
    if let Some(secret) = session::secret(&headers, &shared) {
        shared.store.sign_out(&secret).await?;
    }
    let mut response = Redirect::to("/dashboard/sign-in?done=signed-out").into_response();
    response
        .headers_mut()
        .extend(session::cookie(&headers, &shared, None).map(|it| (header::SET_COOKIE, it)));
    Ok(response)
}

/// A path of the dashboard, and of nobody else's.
fn own_path(next: Option<&str>) -> Option<&str> {
    let is_own = |next: &&str| {
        next.starts_with("/dashboard/") && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
    };
    next.filter(is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_the_dashboard_only() {
        let check = |next: &str, own: bool| assert_eq!(own_path(Some(next)).is_some(), own, "{next}");
        check("/dashboard/keys?page=2", true);
        check("/dashboard", false);
        check("/", false);
        check("//evil.example/dashboard/", false);
        check("https://evil.example/dashboard/", false);
        check("/dashboard/\\evil.example", false);
        check("/dashboard/a\r\nX: y", false);
        check("/dashboard.evil.example/", false);
    }
}
