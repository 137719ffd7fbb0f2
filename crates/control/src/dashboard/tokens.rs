//! API tokens: what signs in here and what calls the account API.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};

use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::Moment;
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::{ApiToken, Permission, Timestamp, TokenId};

/// Tokens on one page.
const PAGE: usize = 50;
/// Most tokens of an account that are made here.
const MAX_TOKENS: usize = 1_000;

/// How long a new token may be good, in days: a field's value, the days, the label.
const LIFETIMES: [(&str, Option<u64>, &str); 5] = [
    ("90", Some(90), "90 days"),
    ("1", Some(1), "a day"),
    ("30", Some(30), "30 days"),
    ("365", Some(365), "a year"),
    ("", None, "until it is deleted"),
];

struct Row {
    id: TokenId,
    name: String,
    permission: &'static str,
    created: Moment,
    expires: Option<Moment>,
    is_active: bool,
    /// Whether the visitor has signed in with it.
    is_own: bool,
}

fn row(token: ApiToken, visitor: &Visitor) -> Row {
    let now = Timestamp::now();
    let moment = |at| Moment { at, now };
    Row {
        is_active: token.is_active(now),
        is_own: token.id == visitor.token.id,
        name: if token.name.is_empty() { "(no name)".to_owned() } else { token.name },
        permission: token.permission.name(),
        created: moment(token.created_on),
        expires: token.expires_on.map(moment),
        id: token.id,
    }
}

#[derive(Template)]
#[template(path = "dashboard/tokens.html")]
struct TokensPage {
    frame: Frame,
    rows: Vec<Row>,
    total: usize,
    /// Counted from one.
    page: usize,
    pages: usize,
    name: String,
    /// When the visitor's own token ends, and with it those made here.
    own_end: Option<Moment>,
    lifetimes: [(&'static str, &'static str); 5],
    /// A token that was just made, and its text.
    made: Option<(Row, String)>,
}

async fn tokens_page(shared: &Shared, visitor: &Visitor, asked: usize) -> Result<TokensPage, Fault> {
    let mut tokens = shared.store.tokens(visitor.account()).await?;
    tokens.reverse();
    let total = tokens.len();
    let pages = total.div_ceil(PAGE).max(1);
    let page = asked.clamp(1, pages);
    let rows = tokens.into_iter().skip((page - 1) * PAGE).take(PAGE).map(|it| row(it, visitor)).collect();
    let now = Timestamp::now();
    Ok(TokensPage {
        frame: Frame::new(visitor, "tokens"),
        rows,
        total,
        page,
        pages,
        name: String::new(),
        own_end: visitor.token.expires_on.map(|at| Moment { at, now }),
        lifetimes: LIFETIMES.map(|(value, _, label)| (value, label)),
        made: None,
    })
}

pub(super) async fn list(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let query = Form::of_query(&uri);
    let asked = query.text("page").and_then(|page| page.parse().ok()).unwrap_or(1);
    let mut shown = tokens_page(&shared, &visitor, asked).await?;
    shown.frame = shown.frame.having_done(query.text("done"));
    Ok(page(StatusCode::OK, &shown))
}

/// Makes a token, which lasts no longer than the one that made it, and shows its text this once.
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let mut shown = tokens_page(&shared, &visitor, 1).await?;
    let (name, permission, expires_on) = match read(&form, shown.total) {
        Ok(fields) => fields,
        Err(alert) => {
            form.filled("name").unwrap_or_default().clone_into(&mut shown.name);
            shown.frame = shown.frame.saying(alert);
            return Ok(page(StatusCode::BAD_REQUEST, &shown));
        }
    };
    let expires_on = expires_on.into_iter().chain(visitor.token.expires_on).min();
    let store = visitor.store(&shared);
    let made = store.create_token(visitor.account(), name, permission, expires_on, None).await?;
    let mut shown = tokens_page(&shared, &visitor, 1).await?;
    shown.made = Some((row(made.token, &visitor), made.text.as_str().to_owned()));
    Ok(page(StatusCode::CREATED, &shown))
}

fn read(form: &Form, total: usize) -> Result<(&str, Permission, Option<Timestamp>), String> {
    if total >= MAX_TOKENS {
        return Err(format!(
            "The account has {total} API tokens, and {MAX_TOKENS} may be made here. Delete one first."
        ));
    }
    let permission: Permission = form
        .text("permission")
        .and_then(|text| text.parse().ok())
        .ok_or("Permission: there is no such choice. Choose one of the list.")?;
    let lifetime = form.text("days").and_then(|text| LIFETIMES.iter().find(|(value, ..)| *value == text));
    let (_, days, _) = lifetime.ok_or("Good for: there is no such choice. Choose one of the list.")?;
    Ok((form.name()?, permission, days.map(|days| Timestamp::now().plus_secs(days * 86_400))))
}

#[derive(Template)]
#[template(path = "dashboard/token_delete.html")]
struct DeletePage {
    frame: Frame,
    token: Row,
}

/// The visitor's account's token with this id.
async fn find(shared: &Shared, visitor: &Visitor, form: &Form) -> Result<ApiToken, Fault> {
    let id: TokenId = form.text("id").and_then(|id| id.parse().ok()).ok_or(Fault::NotFound)?;
    let tokens = shared.store.tokens(visitor.account()).await?;
    tokens.into_iter().find(|token| token.id == id).ok_or(Fault::NotFound)
}

pub(super) async fn ask_to_delete(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let token = row(find(&shared, &visitor, &Form::of_query(&uri)).await?, &visitor);
    Ok(page(StatusCode::OK, &DeletePage { frame: Frame::new(&visitor, "tokens"), token }))
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    let token = find(&shared, &visitor, &form).await?;
    visitor.store(&shared).delete_token(&token.id).await?.ok_or(Fault::NotFound)?;
    Ok(Redirect::to("/dashboard/tokens?done=token-deleted").into_response())
}
