//! The description of the HTTP interface (OpenAPI 3.1): `/openapi.json`, and `/reference`, a page for people.
//!
//! One line of [`operations`] for each method of each path, and one schema for each type that is sent; `docs/openapi.json`
//! is the same text, held so by a test.

mod operations;
mod schemas;

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::control::Shared;
use operations::{Answer, Operation, Permit, operations};

const PAGE: &str = include_str!("../../../assets/reference.html");
const STYLE: &str = include_str!("../../../assets/reference.css");
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
const INTRODUCTION: &str = "Turnery's account API (below `/client/v4`) and credential API (below `/v1` and `/turn`). \
    Bodies are JSON whatever `Content-Type` says, and unknown fields are ignored. Every answer has an `X-Request-Id`; \
    every failure has the same envelope.";

pub(super) fn routes() -> Router<Arc<Shared>> {
    let json = || asset("application/json", "", text());
    let page = || asset("text/html; charset=utf-8", POLICY, page());
    Router::new()
        .route("/openapi.json", get(async move || json()))
        .route("/reference", get(async move || page()))
        .route(
            "/reference/reference.css",
            get(async || asset("text/css; charset=utf-8", POLICY, STYLE.to_owned())),
        )
}

fn asset(content_type: &'static str, policy: &'static str, body: String) -> impl IntoResponse {
    let mut response =
        ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response();
    if !policy.is_empty() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    response
}

/// The description as JSON, with a line's end behind it.
pub fn text() -> String {
    let document = document();
    let read: Result<utoipa::openapi::OpenApi, _> = serde_json::from_value(document.clone());
    debug_assert!(read.is_ok(), "it is no OpenAPI document: {:?}", read.err());
    // The keys of objects are in the order of the alphabet, so the text is always the same.
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    format!("{text}\n")
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(operation.method.to_owned(), described(&operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Turnery",
            "description": INTRODUCTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas::schemas(),
            "securitySchemes": {
                "apiToken": { "type": "http", "scheme": "bearer", "description": "An API token of the account" },
                "turnKeySecret": { "type": "http", "scheme": "bearer", "description": "The TURN key's secret" },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for (status, answer) in &operation.answers {
        let described = match answer {
            Answer::Json(name) => json!({
                "description": "Done",
                "content": { "application/json": { "schema": reference(name) } },
            }),
            Answer::JsonOr(name, other) => json!({
                "description": "Done",
                "content": {
                    "application/json": { "schema": reference(name) },
                    *other: { "schema": { "type": "string" } },
                },
            }),
            Answer::Other(content_type) => json!({
                "description": "Done",
                "content": { *content_type: { "schema": { "type": "string" } } },
            }),
            Answer::Nothing(description) => json!({ "description": description }),
        };
        responses.insert(status.to_string(), described);
    }
    for status in operation.failures() {
        let failure = json!({
            "description": failure(status),
            "content": { "application/json": { "schema": reference("Failure") } },
        });
        responses.insert(status.to_string(), failure);
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": responses,
        "security": match operation.permit {
            Permit::Token => json!([{ "apiToken": [] }]),
            Permit::Secret => json!([{ "turnKeySecret": [] }]),
            Permit::Anyone => json!([]),
        },
    });
    let parameters: Vec<Value> = operation.parameters();
    if let Some(fields) = described.as_object_mut() {
        if !parameters.is_empty() {
            fields.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(body) = operation.body {
            let content = json!({ "application/json": { "schema": reference(body) } });
            fields.insert("requestBody".to_owned(), json!({ "required": false, "content": content }));
        }
    }
    described
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn failure(status: u16) -> &'static str {
    match status {
        400 => "The request is wrong: the message says what",
        401 => "The API token or secret is not good",
        403 => "It may not do this",
        404 => "There is no such thing",
        408 => "The request took too long to arrive or to be answered",
        409 => "There are as many as there may be, or it is there already",
        413 => "The body is too long",
        422 => "The Idempotency-Key came with another request before",
        429 => "Too many requests: wait as Retry-After says",
        _ => "The server's fault: its log says more",
    }
}

/// The page for people.
fn page() -> String {
    let mut list = String::new();
    let mut tag = "";
    for operation in operations() {
        if operation.tag != tag {
            tag = operation.tag;
            // Writing to a string cannot fail.
            let _ = writeln!(list, "<h2>{}</h2>", escaped(tag));
        }
        let answers: Vec<String> = operation.answers.iter().map(|(status, _)| status.to_string()).collect();
        let failures: Vec<String> = operation.failures().iter().map(u16::to_string).collect();
        let _ = writeln!(
            list,
            "<article id=\"{id}\"><h3><b>{method}</b> <code>{path}</code></h3><p>{summary}</p>\
             <p class=\"hint\">{permit}. Answers {answers}; refusals {failures}.{body}</p></article>",
            id = operation.id,
            method = operation.method.to_uppercase(),
            path = escaped(operation.path),
            summary = escaped(operation.summary),
            permit = operation.permit.describe(),
            answers = answers.join(", "),
            failures = failures.join(", "),
            body = operation.body.map(schemas::fields_of).unwrap_or_default(),
        );
    }
    PAGE.replace("{{operations}}", &list)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
