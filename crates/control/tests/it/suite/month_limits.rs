//! Monthly limits: told, enforced, lifted.

use std::sync::{Arc, Mutex};

use control::store::{AuditQuery, MonthAction, MonthBytes, MonthLimit, Permission, Stop, Store, Timestamp};
use control::{KeySettings, News};
use serde_json::{Value, json};

use super::Place;
use super::server::{Server, server};
use super::usage::{node, report};
use crate::http::{Reply, request};

async fn put(server: &Server, uid: &str, body: &Value) -> Reply {
    let path = format!("{}/{uid}/month_limit", server.keys_path());
    server.send(request("PUT", path).bearer(&server.token).body(body.to_string())).await
}

async fn mint(server: &Server, uid: &str, secret: &str) -> Reply {
    let path = format!("/v1/turn/keys/{uid}/credentials/generate");
    server.send(request("POST", path).bearer(secret)).await
}

/// What the log says of limits, oldest first, without what is not always the same.
async fn noted(store: &Store) -> Vec<(String, Value)> {
    let query = AuditQuery { action: Some("turn_key".to_owned()), ..AuditQuery::default() };
    let rows = store.audit(&query, 100).await.unwrap().into_iter().rev();
    let rows = rows.filter(|row| row.action.starts_with("turn_key.limit_"));
    rows.map(|row| (row.action, row.details["percent"].clone())).collect()
}

#[tokio::test]
async fn a_limit_is_told_and_enforced_and_lifted_when_it_is_raised() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let key = uid.parse().unwrap();
    let told = Arc::new(Mutex::new((false, false)));
    let hears = Arc::clone(&told);
    let hear = move |news: &News| {
        if let News::Settings(KeySettings { suspended, refuses_new, .. }) = news {
            *hears.lock().unwrap() = (*suspended, *refuses_new);
        }
    };
    server.control.feed().subscribe(hear).await.unwrap();
    let (node, now) = (node("a"), Timestamp::now().to_string());
    let relayed = async |sequence, bytes| {
        server.store.record_usage(&node, &[report(1, key, sequence, &now, bytes)]).await.unwrap();
        server.store.watch_month_limits().await.unwrap();
        server.control.feed().catch_up().await.unwrap();
    };
    let limit = put(&server, &uid, &json!({ "bytes": 1_000, "notify_at": [50, 80] })).await;
    let shown = limit.success(200, "set");
    assert_eq!((&shown["action"], &shown["counts"]), (&json!("refuse"), &json!("egress")));
    relayed(1, 850).await;
    assert_eq!(noted(&server.store).await, [("turn_key.limit_neared".to_owned(), json!(80))]);
    mint(&server, &uid, &secret).await;
    relayed(2, 1_000).await;
    assert_eq!(noted(&server.store).await[1..], [("turn_key.limit_reached".to_owned(), json!(100))]);
    assert_eq!(*told.lock().unwrap(), (false, true));
    mint(&server, &uid, &secret).await.failure(403, 20_049, "nothing is minted");
    relayed(3, 1_100).await;
    assert_eq!(noted(&server.store).await.len(), 2, "once");

    let get = request("GET", format!("{}/{uid}/month_limit", server.keys_path())).bearer(&server.token);
    let shown = server.send(get).await.success(200, "shown");
    assert_eq!((&shown["used_bytes"], shown["month"].as_str()), (&json!(1_100), now.get(..7)));
    assert!(shown["reached"].is_string());
    put(&server, &uid, &json!({ "bytes": 1_000, "action": "cut" })).await.success(200, "another action");
    assert_eq!(*told.lock().unwrap(), (true, false), "in force at once");
    put(&server, &uid, &json!({ "bytes": 1_000, "action": "notify" })).await.success(200, "and another");
    assert_eq!(*told.lock().unwrap(), (false, false));
    put(&server, &uid, &json!({ "bytes": 1_000, "action": "cut" })).await.success(200, "back");
    put(&server, &uid, &json!({ "bytes": 5_000, "action": "cut" })).await.success(200, "raised");
    assert_eq!(*told.lock().unwrap(), (false, false));
    assert_eq!(noted(&server.store).await[2..], [("turn_key.limit_lifted".to_owned(), Value::Null)]);
    assert_eq!(mint(&server, &uid, &secret).await.status, 201);
    // With what came from the client it is 3,300.
    put(&server, &uid, &json!({ "bytes": 3_300, "counts": "total", "action": "cut" })).await;
    assert_eq!(*told.lock().unwrap(), (true, false));
    let clear = request("DELETE", format!("{}/{uid}/month_limit", server.keys_path()));
    assert_eq!(server.send(clear.bearer(&server.token)).await.success(200, "cleared"), Value::Null);
    assert_eq!(*told.lock().unwrap(), (false, false));
    assert_eq!(noted(&server.store).await.len(), 5);
}

#[tokio::test]
async fn the_next_month_begins_anew() {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    let account = store.create_account(None, "").await.unwrap().id;
    let key = store.create_key(&account, "").await.unwrap().key.uid;
    let limit =
        MonthLimit { bytes: 1_000, counts: MonthBytes::Egress, action: MonthAction::Cut, notify_at: vec![] };
    assert!(store.set_month_limit(&account, key, Some(&limit)).await.unwrap());
    let stopped = async || store.key_state(&account, key).await.unwrap().unwrap().stopped;
    let watch = async |at: &str| store.watch_month_limits_at(at.parse().unwrap()).await.unwrap();
    store.record_usage(&node("a"), &[report(1, key, 1, "2026-03-31T23:59:50Z", 1_000)]).await.unwrap();
    assert_eq!((watch("2026-03-31T23:59:59Z").await, stopped().await), (1, Some(Stop::Cut)));
    assert_eq!((watch("2026-03-31T23:59:59Z").await, stopped().await), (0, Some(Stop::Cut)));
    assert_eq!((watch("2026-04-01T00:00:00Z").await, stopped().await), (1, None));
    store.record_usage(&node("a"), &[report(1, key, 2, "2026-04-01T00:00:05Z", 1_999)]).await.unwrap();
    assert_eq!((watch("2026-04-01T00:00:06Z").await, stopped().await), (0, None), "999 are this month's");
    store.record_usage(&node("a"), &[report(1, key, 3, "2026-04-01T00:00:10Z", 2_000)]).await.unwrap();
    assert_eq!((watch("2026-04-01T00:00:11Z").await, stopped().await), (1, Some(Stop::Cut)));
    // Another process sees what is held, and a deleted key's limit is gone.
    let again = Store::open(&place.url()).await.unwrap();
    assert_eq!(again.watch_month_limits_at("2026-04-01T00:00:12Z".parse().unwrap()).await.unwrap(), 0);
    store.delete_key(&account, key).await.unwrap();
    assert_eq!(again.watch_month_limits_at("2026-05-01T00:00:00Z".parse().unwrap()).await.unwrap(), 0);
    assert!(store.month_limit(key).await.unwrap().is_none());
}

#[tokio::test]
async fn what_cannot_be_a_limit_is_named() {
    let server = server().await;
    let (uid, _) = server.key().await;
    for (body, word) in [
        (json!({}), "bytes"),
        (json!({ "bytes": 0 }), "bytes"),
        (json!({ "bytes": 9_007_199_254_740_993_u64 }), "bytes"),
        (json!({ "bytes": "1" }), "bytes"),
        (json!({ "bytes": 1, "counts": "ingress" }), "counts"),
        (json!({ "bytes": 1, "action": null }), "action"),
        (json!({ "bytes": 1, "action": "explode" }), "action"),
        (json!({ "bytes": 1, "notify_at": 80 }), "notify_at"),
        (json!({ "bytes": 1, "notify_at": [100] }), "notify_at"),
        (json!({ "bytes": 1, "notify_at": vec![1; 11] }), "notify_at"),
    ] {
        let message = put(&server, &uid, &body).await.failure(400, 20_050, &body.to_string());
        assert!(message.starts_with(word), "{body}: {message}");
    }
    put(&server, &"0".repeat(32), &json!({ "bytes": 1 })).await.failure(404, 20_008, "no such key");
    let reader = server.token(Permission::Read, None).await;
    let path = format!("{}/{uid}/month_limit", server.keys_path());
    server.send(request("GET", &*path).bearer(&reader)).await.success(200, "read");
    let by_reader = request("PUT", path).bearer(&reader).body(r#"{"bytes":1}"#);
    server.send(by_reader).await.failure(403, 10_000, "a reader");
}
