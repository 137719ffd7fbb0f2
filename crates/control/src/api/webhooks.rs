//! `/accounts/{account_id}/webhooks`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, RawQuery, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::auth::InAccount;
use crate::api::body::Fields;
use crate::api::envelope::{List, Page, Success, parameter};
use crate::api::{ApiError, path_param};
use crate::control::Shared;
use crate::store::{Delivery, Webhook};

/// A caller as [`InAccount`], and the webhook that the path names. It need not exist.
pub(super) struct AtWebhook {
    caller: InAccount,
    id: String,
}

impl FromRequestParts<Arc<Shared>> for AtWebhook {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, shared).await.map_err(|_| ApiError::NoRoute)?;
        let id: String = path_param(&params, "webhook_id")?;
        let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_id {
            return Err(ApiError::NoRoute);
        }
        Ok(Self { caller: InAccount::from_request_parts(parts, shared).await?, id })
    }
}

/// How many were put back into the queue.
#[derive(Debug, Serialize)]
pub(super) struct Redelivered {
    count: u64,
}

pub(super) async fn list(
    InAccount { account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<Webhook>, ApiError> {
    Ok(List::new(shared.store.webhooks(&account).await?, query.as_deref()))
}

/// The secret is shown this once.
pub(super) async fn create(
    caller: InAccount,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (url, events) = (fields.webhook_url()?, fields.events()?);
    let keyring = shared.keyring.load_full();
    let made = caller.store(&shared).create_webhook(&keyring, &caller.account, url, &events).await?;
    Ok((StatusCode::CREATED, Success::new(made)).into_response())
}

pub(super) async fn delete(
    AtWebhook { caller, id }: AtWebhook,
    State(shared): State<Arc<Shared>>,
) -> Result<Success<Webhook>, ApiError> {
    let gone = caller.store(&shared).delete_webhook(&caller.account, &id).await?;
    gone.map(Success::new).ok_or(ApiError::NoSuchWebhook)
}

/// Tells the webhook an event of no other meaning.
pub(super) async fn test(
    AtWebhook { caller, id }: AtWebhook,
    State(shared): State<Arc<Shared>>,
) -> Result<StatusCode, ApiError> {
    let is_there = caller.store(&shared).test_webhook(&caller.account, &id).await?;
    if is_there { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::NoSuchWebhook) }
}

/// What has not arrived: what waits, and what was given up.
pub(super) async fn deliveries(
    AtWebhook { caller, id }: AtWebhook,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Page<Delivery>, ApiError> {
    find(&shared, &caller, &id).await?;
    let query = query.as_deref();
    let asked = Page::asked(query)?;
    let dead = match parameter(query, "state").as_deref() {
        None | Some("") => false,
        Some("dead") => true,
        Some(_) => return Err(ApiError::Parameter { field: "state" }),
    };
    let rows = shared.store.deliveries(&id, dead, asked.cursor.unwrap_or(0), asked.limit()).await?;
    Ok(asked.page(rows, |row| row.seq))
}

/// Has what was given up tried again: all, or the event that is named.
pub(super) async fn redeliver(
    AtWebhook { caller, id }: AtWebhook,
    State(shared): State<Arc<Shared>>,
    fields: Fields,
) -> Result<Success<Redelivered>, ApiError> {
    let event = fields.event()?;
    find(&shared, &caller, &id).await?;
    let count = caller.store(&shared).redeliver(&caller.account, &id, event).await?;
    Ok(Success::new(Redelivered { count }))
}

async fn find(shared: &Shared, caller: &InAccount, id: &str) -> Result<(), ApiError> {
    let all = shared.store.webhooks(&caller.account).await?;
    if all.iter().any(|it| it.id == id) { Ok(()) } else { Err(ApiError::NoSuchWebhook) }
}
