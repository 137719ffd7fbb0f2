//! Webhooks: where the account is told of events, and what has not arrived there.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};

use crate::api::ApiError;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::{Moment, sentence};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::{Delivery, EVENTS, Timestamp, Webhook};
use crate::webhooks::Target;

/// Deliveries on one page.
const PAGE: u32 = 50;
/// Deliveries of a webhook that are counted in the list.
const COUNTED: u32 = 1_000;

struct Row {
    id: String,
    url: String,
    events: String,
    created: Moment,
    /// How many deliveries were given up; the greatest number stands for as many or more.
    dead: String,
    has_dead: bool,
}

#[derive(Template)]
#[template(path = "dashboard/webhooks.html")]
struct WebhooksPage {
    frame: Frame,
    rows: Vec<Row>,
    events: [&'static str; EVENTS.len()],
    url: String,
    /// A webhook's address that was just made, and its secret.
    made: Option<(String, String)>,
}

async fn row(shared: &Shared, webhook: Webhook) -> Result<Row, Fault> {
    let dead = shared.store.deliveries(&webhook.id, true, 0, COUNTED).await?.len();
    let more = if dead == COUNTED as usize { " or more" } else { "" };
    Ok(Row {
        id: webhook.id,
        url: webhook.url,
        events: if webhook.events.is_empty() { "all events".to_owned() } else { webhook.events.join(", ") },
        created: Moment { at: webhook.created, now: Timestamp::now() },
        dead: format!("{dead}{more}"),
        has_dead: dead > 0,
    })
}

/// There are few of them in an account.
async fn webhooks_page(shared: &Shared, visitor: &Visitor) -> Result<WebhooksPage, Fault> {
    let mut rows = Vec::new();
    for webhook in shared.store.webhooks(visitor.account()).await? {
        rows.push(row(shared, webhook).await?);
    }
    let frame = Frame::new(visitor, "webhooks");
    Ok(WebhooksPage { frame, rows, events: EVENTS, url: String::new(), made: None })
}

pub(super) async fn list(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let mut shown = webhooks_page(&shared, &visitor).await?;
    shown.frame = shown.frame.having_done(Form::of_query(&uri).text("done"));
    Ok(page(StatusCode::OK, &shown))
}

/// Makes a webhook, and shows its secret this once.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let url = form.filled("url").unwrap_or_default();
    let events: Vec<String> = form.all("event").map(ToOwned::to_owned).collect();
    let is_known =
        events.len() <= EVENTS.len() && events.iter().all(|event| EVENTS.contains(&event.as_str()));
    if !is_known || url.parse::<Target>().is_err() {
        let mut shown = webhooks_page(&shared, &visitor).await?;
        url.clone_into(&mut shown.url);
        let fault = if is_known { ApiError::WebhookUrl } else { ApiError::Events };
        shown.frame = shown.frame.saying(sentence(&fault.message()));
        return Ok(page(StatusCode::BAD_REQUEST, &shown));
    }
    let keyring = shared.keyring.load_full();
    let made = visitor.store(&shared).create_webhook(&keyring, visitor.account(), url, &events).await?;
    let mut shown = webhooks_page(&shared, &visitor).await?;
    shown.made = Some((made.webhook.url, made.secret));
    Ok(page(StatusCode::CREATED, &shown))
}

struct Waiting {
    event: String,
    created: Moment,
    attempts: u32,
    due: Option<Moment>,
    fault: String,
}

impl From<Delivery> for Waiting {
    fn from(delivery: Delivery) -> Self {
        let now = Timestamp::now();
        let moment = |at| Moment { at, now };
        Self {
            event: delivery.event,
            created: moment(delivery.created),
            attempts: delivery.attempts,
            due: delivery.due.map(moment),
            fault: delivery.fault,
        }
    }
}

#[derive(Template)]
#[template(path = "dashboard/webhook.html")]
struct WebhookPage {
    frame: Frame,
    webhook: Row,
    /// Whether only what was given up is shown.
    dead_only: bool,
    waiting: Vec<Waiting>,
    is_first: bool,
    next: Option<i64>,
}

/// The visitor's account's webhook with the form's id.
async fn find(shared: &Shared, visitor: &Visitor, form: &Form) -> Result<Webhook, Fault> {
    let id = form.text("id").unwrap_or_default();
    let all = shared.store.webhooks(visitor.account()).await?;
    Ok(all.into_iter().find(|webhook| webhook.id == id).ok_or(ApiError::NoSuchWebhook)?)
}

pub(super) async fn show(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let form = Form::of_query(&uri);
    let webhook = find(&shared, &visitor, &form).await?;
    let dead_only = form.text("state") == Some("dead");
    let after = form.filled("after").and_then(|text| text.parse().ok());
    let mut found = shared.store.deliveries(&webhook.id, dead_only, after.unwrap_or(0), PAGE + 1).await?;
    let is_more = found.len() > PAGE as usize;
    found.truncate(PAGE as usize);
    let shown = WebhookPage {
        frame: Frame::new(&visitor, "webhooks").having_done(form.text("done")),
        webhook: row(&shared, webhook).await?,
        dead_only,
        next: found.last().filter(|_| is_more).map(|last| last.seq),
        waiting: found.into_iter().map(Waiting::from).collect(),
        is_first: after.is_none(),
    };
    Ok(page(StatusCode::OK, &shown))
}

/// Has what was given up delivered again.
pub(super) async fn redeliver(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let webhook = find(&shared, &visitor, &form).await?;
    visitor.store(&shared).redeliver(visitor.account(), &webhook.id, None).await?;
    Ok(done(&webhook, "redelivered"))
}

/// Tells the webhook an event of no other meaning.
pub(super) async fn test(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let webhook = find(&shared, &visitor, &form).await?;
    visitor.store(&shared).test_webhook(visitor.account(), &webhook.id).await?;
    Ok(done(&webhook, "tested"))
}

/// Deletes a webhook and what has not arrived there.
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let webhook = find(&shared, &visitor, &form).await?;
    if form.text("sure") != Some("yes") {
        return Err(Fault::Invalid(
            "Delete: tick the box to say that you mean it. Nothing was deleted.".to_owned(),
        ));
    }
    visitor.store(&shared).delete_webhook(visitor.account(), &webhook.id).await?;
    Ok(Redirect::to("/dashboard/webhooks?done=webhook-deleted").into_response())
}

fn done(webhook: &Webhook, done: &str) -> Response {
    Redirect::to(&format!("/dashboard/webhooks/one?id={}&done={done}", webhook.id)).into_response()
}
