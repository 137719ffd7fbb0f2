//! Every type that is sent.

use serde_json::{Map, Value, json};
use utoipa::PartialSchema;

use super::reference;
use crate::api::MAX_BODY_BYTES;
use crate::store::usage::{Session, Usage};
use crate::store::{
    Account, AuditEntry, Delivery, EVENTS, KeyLimits, KeyState, KnownNode, MAX_OVERLAP_SECS, MAX_THRESHOLDS,
    MonthAction, MonthBytes, MonthStatus, NodeReport, NodeState, Revoked, Stop, StoredSecret, TurnKey,
    Webhook,
};

/// By their names.
pub(super) fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| _ = all.insert(name.to_owned(), schema);
    add("TurnKey", schema::<TurnKey>());
    add("Limits", schema::<KeyLimits>());
    add("MonthStatus", schema::<MonthStatus>());
    add("MonthBytes", schema::<MonthBytes>());
    add("MonthAction", schema::<MonthAction>());
    add("Stop", schema::<Stop>());
    add("KeyState", schema::<KeyState>());
    add("SharedSecret", schema::<StoredSecret>());
    add("Revoked", schema::<Revoked>());
    add("Account", schema::<Account>());
    add("AuditEntry", schema::<AuditEntry>());
    add("Node", schema::<KnownNode>());
    add("NodeReport", schema::<NodeReport>());
    add("NodeState", schema::<NodeState>());
    add("Usage", schema::<Usage>());
    add("Session", schema::<Session>());
    add("Webhook", schema::<Webhook>());
    add("Delivery", schema::<Delivery>());
    for (name, of) in [
        ("TurnKeys", "TurnKey"),
        ("SharedSecrets", "SharedSecret"),
        ("Accounts", "Account"),
        ("Revocations", "Revoked"),
        ("Audit", "AuditEntry"),
        ("Nodes", "Node"),
        ("Sessions", "Session"),
        ("Webhooks", "Webhook"),
        ("Deliveries", "Delivery"),
    ] {
        add(name, envelope(&json!({ "type": "array", "items": reference(of) }), true));
    }
    for (name, of) in [
        ("OneTurnKey", reference("TurnKey")),
        ("OneLimits", json!({ "oneOf": [reference("Limits"), { "type": "null" }] })),
        ("OneMonthLimit", json!({ "oneOf": [reference("MonthStatus"), { "type": "null" }] })),
        ("OneKeyState", reference("KeyState")),
        ("OneSharedSecret", reference("SharedSecret")),
        ("OneSession", reference("Session")),
        ("EndedSessions", object(&[("orders", json!({ "type": "integer", "minimum": 0 }))])),
        ("UsageRows", json!({ "type": "array", "items": reference("UsageRow") })),
        ("RolledTurnKey", reference("TurnKeyWithSecret")),
        ("AddedSharedSecret", added_secret()),
        ("OneWebhook", reference("Webhook")),
        ("CreatedWebhook", json!({ "allOf": [reference("Webhook"), object(&[("secret", text())])] })),
        ("Redelivered", object(&[("count", json!({ "type": "integer", "minimum": 0 }))])),
        ("VerifiedToken", object(&[("id", text()), ("status", json!({ "type": "string" }))])),
    ] {
        add(name, envelope(&of, false));
    }
    add("TurnKeyWithSecret", with_secret());
    let created = envelope(&reference("TurnKeyWithSecret"), false);
    add("CreatedTurnKey", json!({ "allOf": [created, reference("TurnKeyWithSecret")] }));
    add("Failure", failure());
    add("Any", json!({ "type": "object" }));
    bodies(&mut add);
    answers(&mut add);
    figures(&mut add);
    all
}

fn bodies(add: &mut impl FnMut(&str, Value)) {
    let optional = |fields: Value| json!({ "type": "object", "properties": fields });
    add("Name", optional(json!({ "name": { "type": "string", "maxLength": 255 } })));
    let overlap = json!({ "type": "integer", "minimum": 0, "maximum": MAX_OVERLAP_SECS, "default": 0 });
    add("Roll", optional(json!({ "overlap_secs": overlap })));
    let events = json!({ "type": "array", "items": { "type": "string", "enum": EVENTS } });
    let url = json!({ "type": "string", "format": "uri", "maxLength": 2_048 });
    add(
        "NewWebhook",
        json!({ "type": "object", "properties": { "url": url, "events": events }, "required": ["url"] }),
    );
    add(
        "Redelivery",
        optional(json!({ "event": { "type": "string", "description": "Its webhook-id; all if none" } })),
    );
    let percent = json!({ "type": "integer", "minimum": 1, "maximum": 99 });
    let fields = json!({
        "bytes": { "type": "integer", "minimum": 1, "maximum": 1_u64 << 53 },
        "counts": { "type": "string", "enum": ["egress", "total"], "default": "egress" },
        "action": { "type": "string", "enum": ["refuse", "cut", "notify"], "default": "refuse" },
        "notify_at": { "type": "array", "items": percent, "maxItems": MAX_THRESHOLDS, "default": [80] },
    });
    add("MonthLimit", json!({ "type": "object", "properties": fields, "required": ["bytes"] }));
    let secret = json!({ "type": "string", "minLength": 16, "maxLength": 256, "pattern": "^[ -~]+$" });
    add("NewSharedSecret", optional(json!({ "secret": secret })));
    let fields = json!({
        "ttl": { "type": "integer", "minimum": 1, "maximum": 172_800, "default": 86_400,
                 "description": "Seconds for which it is good" },
        "customIdentifier": { "type": "string", "maxLength": 128,
                              "description": "Whom it is for, at most 128 bytes of UTF-8" },
    });
    add("NewCredential", optional(fields));
    let moment = json!({ "oneOf": [
        { "type": "string", "format": "date-time" },
        { "type": "integer", "minimum": 0, "description": "Unix seconds" },
    ] });
    let forms = json!({
        "type": "object",
        "description": "Exactly one of the three",
        "properties": {
            "username": { "type": "string", "minLength": 1 },
            "customIdentifier": { "type": "string", "maxLength": 128 },
            "issuedBefore": moment,
        },
        "minProperties": 1,
    });
    add("Revocation", forms);
}

fn answers(add: &mut impl FnMut(&str, Value)) {
    let urls = json!({ "type": "array", "items": text() });
    let login = [("urls", urls.clone()), ("username", text()), ("credential", text())];
    let generated = |servers: Value| {
        let time = json!({ "type": "string", "format": "date-time" });
        object(&[("iceServers", servers), ("expiresAt", time), ("ttl", json!({ "type": "integer" }))])
    };
    add("IceServer", generated(object(&login)));
    let server = json!({
        "type": "object",
        "properties": { "urls": urls, "username": text(), "credential": text() },
        "required": ["urls"],
    });
    add("IceServers", generated(json!({ "type": "array", "items": server })));
    let rest =
        [("username", text()), ("password", text()), ("ttl", json!({ "type": "integer" })), ("uris", urls)];
    add("TurnRest", object(&rest));
}

/// Usage, and whether the service works.
fn figures(add: &mut impl FnMut(&str, Value)) {
    let count = json!({ "type": "integer", "minimum": 0 });
    let more = [("sessions", count), ("concurrentConnectionsFiveMinutes", json!({ "type": "number" }))];
    add("UsageRow", json!({ "allOf": [reference("Usage"), object(&more)] }));
    let question = json!({
        "type": "object",
        "properties": {
            "query": text(),
            "variables": { "type": ["object", "null"] },
            "operationName": { "type": ["string", "null"] },
        },
        "required": ["query"],
    });
    add("GraphQlRequest", question);
    let faults = json!({ "type": ["array", "null"], "items": { "type": "object" } });
    add("GraphQlAnswer", object(&[("data", json!({ "type": ["object", "null"] })), ("errors", faults)]));
    let checks = json!({ "type": "object", "additionalProperties": text() });
    let status = json!({ "type": "string", "enum": ["ready", "not ready"] });
    add("Readiness", object(&[("status", status), ("checks", checks)]));
}

fn schema<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).unwrap_or_default()
}

fn text() -> Value {
    json!({ "type": "string" })
}

/// An object with these fields, all of which are there.
fn object(fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": names })
}

fn envelope(result: &Value, is_list: bool) -> Value {
    let none = json!({ "type": "array", "maxItems": 0, "items": {} });
    let mut fields = vec![
        ("result", result.clone()),
        ("success", json!({ "type": "boolean", "const": true })),
        ("errors", none.clone()),
        ("messages", none),
    ];
    if is_list {
        fields.push(("result_info", json!({ "type": "object" })));
    }
    object(&fields)
}

fn with_secret() -> Value {
    let secret = json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" });
    json!({ "allOf": [reference("TurnKey"), object(&[("key", secret.clone()), ("secret", secret)])] })
}

fn added_secret() -> Value {
    json!({ "allOf": [reference("SharedSecret"), object(&[("secret", text())])] })
}

fn failure() -> Value {
    let fault = object(&[("code", json!({ "type": "integer", "minimum": 1_000 })), ("message", text())]);
    object(&[
        ("result", json!({ "type": "null" })),
        ("success", json!({ "type": "boolean", "const": false })),
        ("errors", json!({ "type": "array", "minItems": 1, "maxItems": 1, "items": fault })),
        ("messages", json!({ "type": "array", "maxItems": 0, "items": {} })),
    ])
}

/// The fields of a request's body, in words.
pub(super) fn fields_of(name: &str) -> String {
    let all = schemas();
    let fields = all.get(name).and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    let names: Vec<String> = fields
        .into_iter()
        .flat_map(|fields| fields.keys())
        .map(|field| format!("<code>{field}</code>"))
        .collect();
    format!(" Body, at most {MAX_BODY_BYTES} bytes: {}.", names.join(", "))
}
