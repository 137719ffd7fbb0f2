//! The limits of a TURN key.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use credentials::TurnKeyId;
use serde_json::{Map, Value};

use crate::api::ApiError;
use crate::control::Shared;
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::keys::{self, KeyPath};
use crate::dashboard::session::{Submitted, Visitor};
use crate::dashboard::{Frame, page};
use crate::store::KeyLimits;

/// A limit, as the form has it.
pub(super) struct Field {
    /// As the API calls it.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    hint: &'static str,
}

const fn field(name: &'static str, label: &'static str, hint: &'static str) -> Field {
    Field { name, label, hint }
}

pub(super) const FIELDS: [Field; 9] = [
    field("allocations", "Allocations at once", "of the whole key; one more gets error 486"),
    field("allocations_per_credential", "Allocations of one credential", "at once; one more gets error 486"),
    field("permissions", "Permissions of one allocation", "peers that it lets in at once, up to 128"),
    field("channels", "Channels of one allocation", "at once, up to 128"),
    field("new_peers_per_second", "New peers per second", "of one allocation"),
    field(
        "allocation_packets_per_second",
        "Packets per second, one allocation",
        "each way; more are dropped",
    ),
    field(
        "allocation_bits_per_second",
        "Bits per second, one allocation",
        "each way, such as 10M; more are dropped",
    ),
    field("key_packets_per_second", "Packets per second, whole key", "each way; more are dropped"),
    field("key_bits_per_second", "Bits per second, whole key", "each way, such as 100M; more are dropped"),
];

/// Those that are set, by their names.
pub(super) fn values(limits: &KeyLimits) -> Vec<(String, u64)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(limits) else { return Vec::new() };
    fields.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}

struct Input {
    field: &'static Field,
    value: String,
}

#[derive(Template)]
#[template(path = "dashboard/limits.html")]
struct LimitsPage {
    frame: Frame,
    uid: TurnKeyId,
    key_name: String,
    inputs: Vec<Input>,
    is_set: bool,
}

async fn limits_page(
    shared: &Shared,
    visitor: &Visitor,
    uid: TurnKeyId,
    given: Option<&Form>,
) -> Result<LimitsPage, Fault> {
    let key = keys::find(shared, visitor, uid).await?;
    let limits = shared.store.key_limits(uid).await?;
    let set = limits.as_ref().map(values).unwrap_or_default();
    let value = |field: &Field| match given {
        Some(form) => form.filled(field.name).unwrap_or_default().to_owned(),
        None => {
            set.iter().find(|(name, _)| name == field.name).map(|(_, it)| it.to_string()).unwrap_or_default()
        }
    };
    let inputs = FIELDS.iter().map(|field| Input { field, value: value(field) }).collect();
    let key_name = keys::shown_name(&key.name).to_owned();
    Ok(LimitsPage { frame: Frame::new(visitor, "keys"), uid, key_name, inputs, is_set: limits.is_some() })
}

pub(super) async fn show(
    visitor: Visitor,
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let mut shown = limits_page(&shared, &visitor, uid, None).await?;
    shown.frame = shown.frame.having_done(Form::of_query(&uri).text("done"));
    Ok(page(StatusCode::OK, &shown))
}

/// Sets all of them: what is left empty is no limit.
pub(super) async fn set(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, form }: Submitted,
) -> Result<Response, Fault> {
    match read(&form) {
        Ok(limits) => store(&shared, &visitor, uid, Some(limits), "limits").await,
        Err(alert) => {
            let mut shown = limits_page(&shared, &visitor, uid, Some(&form)).await?;
            shown.frame = shown.frame.saying(alert);
            Ok(page(StatusCode::BAD_REQUEST, &shown))
        }
    }
}

/// Lets the relays' own limits hold again.
pub(super) async fn clear(
    KeyPath(uid): KeyPath,
    State(shared): State<Arc<Shared>>,
    Submitted { visitor, .. }: Submitted,
) -> Result<Response, Fault> {
    store(&shared, &visitor, uid, None, "limits-cleared").await
}

async fn store(
    shared: &Shared,
    visitor: &Visitor,
    uid: TurnKeyId,
    limits: Option<KeyLimits>,
    done: &str,
) -> Result<Response, Fault> {
    if !visitor.store(shared).set_key_limits(visitor.account(), uid, limits).await? {
        return Err(ApiError::NoSuchKey.into());
    }
    shared.feed.catch_up().await?;
    Ok(Redirect::to(&format!("/dashboard/keys/{uid}?done={done}")).into_response())
}

fn read(form: &Form) -> Result<KeyLimits, String> {
    let mut limits = Map::new();
    for (name, max) in KeyLimits::FIELDS {
        let label = FIELDS.iter().find(|field| field.name == name).map_or(name, |field| field.label);
        if let Some(value) = form.number(name, label, max)? {
            limits.insert(name.to_owned(), value.into());
        }
    }
    serde_json::from_value(Value::Object(limits)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_has_every_limit() {
        let mut own: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
        let mut all: Vec<&str> = KeyLimits::FIELDS.iter().map(|(name, _)| *name).collect();
        own.sort_unstable();
        all.sort_unstable();
        assert_eq!(own, all);
    }
}
