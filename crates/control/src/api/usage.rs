//! `…/calls/turn_usage` and `…/turn_keys/{key_id}/usage`: the same numbers as over GraphQL, as JSON or CSV.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::api::ApiError;
use crate::api::auth::{AtKey, InAccount};
use crate::api::envelope::Success;
use crate::control::Shared;
use crate::store::AccountId;
use crate::store::analytics::{
    Comparison, Condition, Dimension, MAX_GROUPS, Metric, UsageGroup, UsageQuery, moment,
};
use crate::usage_table::csv;

/// A query's parameters, in their order.
pub(super) type Parameters = Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

pub(super) async fn of_account(
    InAccount { account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Parameters,
) -> Result<Response, ApiError> {
    answer(&shared, account, vec![], &headers, query).await
}

pub(super) async fn of_key(
    AtKey { account, uid, .. }: AtKey,
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Parameters,
) -> Result<Response, ApiError> {
    shared.store.key(&account, uid).await?.ok_or(ApiError::NoSuchKey)?;
    let of_key = Condition::Values { dimension: Dimension::Key, values: vec![uid.to_string()], is_in: true };
    answer(&shared, account, vec![of_key], &headers, query).await
}

async fn answer(
    shared: &Shared,
    account: AccountId,
    mut conditions: Vec<Condition>,
    headers: &HeaderMap,
    query: Parameters,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::Parameter { field: "query" })?;
    let field = |name: &str| query.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str());
    for (name, comparison) in [("since", Comparison::AtLeast), ("until", Comparison::Below)] {
        if let Some(text) = field(name) {
            let at = moment(text).map_err(|_| ApiError::Parameter { field: name })?.to_string();
            let condition = Condition::new(Dimension::Datetime, comparison, &at);
            conditions.push(condition.map_err(|_| ApiError::Parameter { field: name })?);
        }
    }
    for (name, dimension) in
        [("username", Dimension::Username), ("custom_identifier", Dimension::CustomIdentifier)]
    {
        let value = field(name).map(ToOwned::to_owned);
        conditions.extend(value.map(|value| Condition::Values {
            dimension,
            values: vec![value],
            is_in: true,
        }));
    }
    let mut dimensions = Vec::new();
    for name in field("group_by").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        let dimension = Dimension::named(name).ok_or(ApiError::Parameter { field: "group_by" })?;
        if !dimensions.contains(&dimension) {
            dimensions.push(dimension);
        }
    }
    let limit = field("limit").map_or(Some(MAX_GROUPS), |limit| limit.parse().ok());
    let limit = limit.filter(|limit| (1..=MAX_GROUPS).contains(limit));
    let limit = limit.ok_or(ApiError::Parameter { field: "limit" })?;
    let as_csv = match field("format") {
        Some("csv") => true,
        Some("json") => false,
        Some(_) => return Err(ApiError::Parameter { field: "format" }),
        None => wants_csv(headers),
    };
    let query = UsageQuery { account, dimensions, conditions, order: vec![], limit, metrics: Metric::all() };
    let groups = shared.store.usage(&query).await?;
    if as_csv {
        let kind = [(header::CONTENT_TYPE, "text/csv; charset=utf-8")];
        return Ok((kind, csv(&query.dimensions, &groups)).into_response());
    }
    let rows: Vec<Value> = groups.iter().map(|group| object(&query.dimensions, group)).collect();
    Ok(Success::new(rows).into_response())
}

fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|kind| kind.split(';').next().is_some_and(|it| it.trim() == "text/csv"))
}

/// A group as one flat object.
fn object(dimensions: &[Dimension], group: &UsageGroup) -> Value {
    let mut object = Map::new();
    for (dimension, value) in dimensions.iter().zip(&group.values) {
        object.insert(dimension.name().to_owned(), json!(value));
    }
    if let Value::Object(usage) = json!(group.usage) {
        object.extend(usage);
    }
    object.insert("sessions".to_owned(), json!(group.sessions));
    object.insert("concurrentConnectionsFiveMinutes".to_owned(), json!(group.concurrent));
    Value::Object(object)
}
