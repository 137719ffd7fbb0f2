//! What a TURN key has revoked, and revoking more.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use credentials::{CustomIdentifier, TurnKeyId};

use crate::api::{self, ApiError};
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::Moment;
use crate::dashboard::keys::{self, KeyPath};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::{Revocation, Revoked, Timestamp};

/// Revocations on one page.
const PAGE: u32 = 50;

struct Row {
    what: &'static str,
    /// Of which credential or whom.
    whose: String,
    issued_before: Option<Moment>,
    created: Moment,
    until: Moment,
}

#[derive(Template)]
#[template(path = "dashboard/revocations.html")]
struct RevocationsPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
    rows: Vec<Row>,
    is_first: bool,
    next: Option<i64>,
    /// What the fields hold.
    username: String,
    custom_identifier: String,
}

async fn revocations_page(
    shared: &Shared,
    visitor: &Visitor,
    uid: TurnKeyId,
    form: &Form,
) -> Result<RevocationsPage, Fault> {
    let key = keys::find(shared, visitor, uid).await?;
    let before = form.filled("before").and_then(|text| text.parse().ok());
    let mut found = shared.store.revocations(uid, before, PAGE + 1).await?;
    let is_more = found.len() > PAGE as usize;
    found.truncate(PAGE as usize);
    let field = |name| form.filled(name).unwrap_or_default().to_owned();
    Ok(RevocationsPage {
        frame: Frame::new(visitor, "keys").having_done(form.text("done")),
        uid,
        key_name: keys::shown_name(&key.name).to_owned(),
        next: found.last().filter(|_| is_more).map(|last| last.seq),
        rows: found.into_iter().map(row).collect(),
        is_first: before.is_none(),
        username: field("username"),
        custom_identifier: field("custom_identifier"),
    })
}

fn row(revoked: Revoked) -> Row {
    let now = Timestamp::now();
    let moment = |at| Moment { at, now };
    let identifier = revoked.identifier.filter(|it| !it.is_empty());
    let (what, whose) = match (revoked.kind, revoked.credential_id, identifier) {
        ("credential", Some(id), Some(identifier)) => ("One credential", format!("{identifier}, {id}")),
        ("credential", Some(id), None) => ("One credential", id),
        ("custom_identifier", _, identifier) => {
            ("All of a custom identifier", identifier.unwrap_or_else(|| "(none)".to_owned()))
        }
        ("key", ..) => ("The whole key", String::new()),
        (_, _, _) => ("All of the key", String::new()),
    };
    Row {
        what,
        whose,
        issued_before: revoked.issued_before.map(moment),
        created: moment(revoked.created),
        until: moment(revoked.until),
    }
}

pub(super) async fn list(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let shown = revocations_page(&shared, &visitor, uid, &Form::of_query(&uri)).await?;
    Ok(page(StatusCode::OK, &shown))
}

/// Answers when the denial is durable and the relays of this process have been told.
pub(super) async fn revoke(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    keys::find(&shared, &visitor, uid).await?;
    let revocation = match read(&shared, uid, &form).await {
        Ok(revocation) => revocation,
        Err(Fault::Invalid(alert)) => {
            let mut shown = revocations_page(&shared, &visitor, uid, &form).await?;
            shown.frame = shown.frame.saying(alert);
            return Ok(page(StatusCode::BAD_REQUEST, &shown));
        }
        Err(fault) => return Err(fault),
    };
    visitor.store(&shared).revoke_of(visitor.account(), uid, &revocation).await?;
    shared.feed.catch_up().await?;
    Ok(Redirect::to(&format!("/dashboard/keys/{uid}/revocations?done=revoked")).into_response())
}

async fn read(shared: &Shared, uid: TurnKeyId, form: &Form) -> Result<Revocation, Fault> {
    let invalid = |text: &str| Fault::Invalid(text.to_owned());
    match form.text("what") {
        Some("credential") => {
            let username = form.filled("username");
            let username =
                username.ok_or_else(|| invalid("Username: it is empty. Paste the credential's username."))?;
            api::of_username(shared, uid, username).await.map_err(|error| match error {
                ApiError::NoSuchCredential => {
                    invalid("Username: it is no credential of this key. Paste all of it, and look whether it is this key's.")
                }
                error => Fault::Api(error),
            })
        }
        Some("custom_identifier") => {
            let identifier = form.custom_identifier().map_err(Fault::Invalid)?;
            if identifier == CustomIdentifier::default() {
                return Err(invalid(
                    "Custom identifier: it is empty. Give the one whose credentials are revoked.",
                ));
            }
            Ok(Revocation::Identifier(identifier))
        }
        Some("all") if form.text("sure") == Some("yes") => {
            Ok(Revocation::IssuedBefore(Timestamp::now().unix_secs() + 1))
        }
        Some("all") => {
            Err(invalid("Everything issued until now: tick the box to say that you mean all of them."))
        }
        _ => Err(invalid("What: there is no such choice. Send one of the forms of this page.")),
    }
}
