//! `POST /client/v4/graphql`: usage analytics.
//!
//! Scripts declare their variables with whatever type name they found somewhere: `string`, `String`, `Time`, `Date`,
//! `uint64`. A declaration says nothing that the place does not where a variable is used, so names that mean the same
//! are made one before the document is validated.

mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_graphql::parser::types::{BaseType, ExecutableDocument, Type};
use async_graphql::{Name, Request, Variables, parser};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::auth::Reader;
use crate::api::{ApiError, MAX_BODY_BYTES};
use crate::control::Shared;

#[derive(Debug, Deserialize)]
struct Asked {
    query: String,
    #[serde(default)]
    variables: Option<Value>,
    #[serde(default, rename = "operationName")]
    operation_name: Option<String>,
}

/// `errors` is always there: scripts look whether it is null.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    data: Value,
    errors: Option<Vec<Value>>,
}

pub(super) async fn graphql(
    Reader(token): Reader,
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Json<Answer>, ApiError> {
    let body = body.map_err(|_| ApiError::BodyUnreadable)?;
    if body.len() > MAX_BODY_BYTES {
        return Err(ApiError::BodyTooLarge);
    }
    let asked: Value = serde_json::from_slice(&body).map_err(|_| ApiError::BodyNotJson)?;
    if !asked.is_object() {
        return Err(ApiError::BodyNotObject);
    }
    let asked: Asked = match serde_json::from_value(asked) {
        Ok(asked) => asked,
        Err(error) => return Ok(Json(refused(&format!("the request is not one of GraphQL: {error}")))),
    };
    let mut document = match parser::parse_query(&asked.query) {
        Ok(document) => document,
        Err(error) => return Ok(Json(refused(&error.to_string()))),
    };
    rename_types(&mut document);
    let variables = Variables::from_json(asked.variables.unwrap_or_else(|| json!({})));
    let mut request = Request::new(asked.query).variables(variables);
    if let Some(name) = asked.operation_name.filter(|name| !name.is_empty()) {
        request = request.operation_name(name);
    }
    request.set_parsed_query(document);
    let request = request.data(schema::Asker::new(shared.store.clone(), token.account));
    let response = schema::SCHEMA.execute(request).await;
    let errors: Vec<Value> = response.errors.iter().map(|error| json!(error)).collect();
    let data = response.data.into_json().map_err(|_| ApiError::Internal)?;
    Ok(Json(Answer { data, errors: (!errors.is_empty()).then_some(errors) }))
}

fn refused(message: &str) -> Answer {
    Answer { data: Value::Null, errors: Some(vec![json!({ "message": message })]) }
}

/// Gives each variable's type the name that this schema has for it.
fn rename_types(document: &mut ExecutableDocument) {
    use parser::types::DocumentOperations as Operations;
    let operations: Vec<_> = match &mut document.operations {
        Operations::Single(operation) => vec![operation],
        Operations::Multiple(operations) => operations.values_mut().collect(),
    };
    for operation in operations {
        for variable in &mut operation.node.variable_definitions {
            rename(&mut variable.node.var_type.node);
        }
    }
}

fn rename(declared: &mut Type) {
    match &mut declared.base {
        BaseType::List(inner) => rename(inner),
        BaseType::Named(name) => {
            let lower = name.to_ascii_lowercase();
            let known: BTreeMap<&str, &str> = [
                ("string", "String"),
                ("time", "String"),
                ("date", "String"),
                ("datetime", "String"),
                ("id", "String"),
                ("int", "Int"),
                ("uint8", "Int"),
                ("uint16", "Int"),
                ("uint32", "Int"),
                ("uint64", "Int"),
                ("int32", "Int"),
                ("int64", "Int"),
            ]
            .into();
            let meant = known.get(lower.as_str()).copied().or_else(|| {
                let is_filter = lower.contains("filter");
                match () {
                    () if lower.contains("orderby") => Some(schema::ORDER_BY),
                    () if is_filter && lower.contains("callsturnusage") => Some(schema::GROUPS_FILTER),
                    () if is_filter => Some(schema::ACCOUNT_FILTER),
                    () => None,
                }
            });
            if let Some(meant) = meant {
                *name = Name::new(meant);
            }
        }
    }
}
