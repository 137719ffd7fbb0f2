//! A credential to try out: minted here, run by the try page.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use credentials::TurnKeyId;

use crate::api::{self, ApiError};
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::format::in_query;
use crate::dashboard::keys::{self, KeyPath};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};

/// Good for as long as somebody looks at it, and a little longer.
const TTL_SECS: u32 = 3_600;

#[derive(Template)]
#[template(path = "dashboard/mint.html")]
struct MintPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
    custom_identifier: String,
    ttl: String,
    /// The answer of the credential API, and the try page's address with it.
    minted: Option<(String, String)>,
}

async fn mint_page(shared: &Shared, visitor: &Visitor, uid: TurnKeyId) -> Result<MintPage, Fault> {
    let key = keys::find(shared, visitor, uid).await?;
    Ok(MintPage {
        frame: Frame::new(visitor, "keys"),
        uid,
        key_name: keys::shown_name(&key.name).to_owned(),
        custom_identifier: "dashboard-test".to_owned(),
        ttl: TTL_SECS.to_string(),
        minted: None,
    })
}

pub(super) async fn show(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
) -> Result<Response, Fault> {
    Ok(page(StatusCode::OK, &mint_page(&shared, &visitor, uid).await?))
}

pub(super) async fn mint(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let mut shown = mint_page(&shared, &visitor, uid).await?;
    if let Some(key) = shared.keys.find(uid).await.map_err(ApiError::from)? {
        api::expect_active(key.suspended, key.stopped)?;
    }
    form.filled("custom_identifier").unwrap_or_default().clone_into(&mut shown.custom_identifier);
    form.filled("ttl").unwrap_or_default().clone_into(&mut shown.ttl);
    let ttl = form.number("ttl", "Lifetime", credentials::MAX_TTL_SECS.into());
    let fields = ttl.and_then(|ttl| Ok((ttl, form.custom_identifier()?)));
    let (ttl, custom_identifier) = match fields {
        Ok(fields) => fields,
        Err(alert) => {
            shown.frame = shown.frame.saying(alert);
            return Ok(page(StatusCode::BAD_REQUEST, &shown));
        }
    };
    let ttl = ttl.and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or(TTL_SECS);
    let urls = shared.urls.next();
    let made = api::ice_servers(&shared, &urls, uid, ttl, custom_identifier).await?;
    let json = serde_json::to_value(&made).and_then(|made| serde_json::to_string_pretty(&made));
    let json = json.map_err(|_| ApiError::Internal)?;
    // Behind `#`: no server hears of it.
    let link = format!("/try#ice-servers={}", in_query(&json));
    shown.minted = Some((json, link));
    Ok(page(StatusCode::CREATED, &shown))
}
