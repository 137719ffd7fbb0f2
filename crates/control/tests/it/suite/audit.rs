//! The audit log: every change, and who made it.

use control::store::{Actor, ActorKind, AuditQuery, Permission, Store, Timestamp};
use serde_json::{Value, json};

use super::server::{Server, server, server_with};
use crate::http::request;

async fn log(server: &Server, query: &str) -> Vec<Value> {
    let path = format!("/client/v4/accounts/{}/audit?{query}", server.account.id);
    let reply = server.send(request("GET", path).bearer(&server.token)).await;
    reply.success(200, query).as_array().unwrap().clone()
}

fn actions(log: &[Value]) -> Vec<&str> {
    log.iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_change_is_told_with_who_made_it() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let key = format!("{}/{uid}", server.keys_path());
    let change = async |method, path: &str, bearer: &str, body: &str| {
        let ask = request(method, path).bearer(bearer).body(body).header("X-Request-Id", "mine-1");
        let reply = server.send(ask).await;
        assert!(reply.status < 300, "{method} {path}: {}", reply.body);
        assert_eq!(reply.header("x-request-id"), Some("mine-1"));
        reply
    };
    let token = &server.token;
    change("PUT", &key, token, r#"{"name":"web"}"#).await;
    change("PUT", &format!("{key}/limits"), token, r#"{"allocations":7}"#).await;
    let made = change("POST", &format!("{key}/shared_secrets"), token, "").await.json();
    let shared = made["result"]["id"].as_str().unwrap().to_owned();
    change("DELETE", &format!("{key}/shared_secrets/{shared}"), token, "").await;
    change("POST", &format!("{key}/suspend"), token, "").await;
    change("POST", &format!("{key}/suspend"), token, "").await;
    change("POST", &format!("{key}/resume"), token, "").await;
    let rolled = change("POST", &format!("{key}/roll"), token, r#"{"overlap_secs":60}"#).await.json();
    let revoke = format!("/v1/turn/keys/{uid}/credentials/revoke");
    change("POST", &revoke, &secret, r#"{"customIdentifier":"alice"}"#).await;
    change("DELETE", &key, token, "").await;

    let log = log(&server, "").await;
    let expected = [
        "turn_key.delete",
        "credential.revoke_many",
        "turn_key.roll",
        "turn_key.resume",
        "turn_key.suspend",
        "shared_secret.delete",
        "shared_secret.create",
        "turn_key.limits",
        "turn_key.rename",
        "turn_key.create",
        "token.create",
        "account.create",
    ];
    assert_eq!(actions(&log), expected, "newest first, and what changed nothing is none");
    for entry in &log[..9] {
        assert_eq!((&entry["target"], &entry["result"]), (&json!(uid), &json!("ok")), "{entry}");
        assert_eq!(entry["account_id"], server.account.id.as_str());
        assert_eq!(entry["actor"]["address"], "127.0.0.1");
        assert_eq!(entry["actor"]["request_id"], "mine-1");
        let kind = if entry["action"] == "credential.revoke_many" { "turn_key" } else { "token" };
        assert_eq!(entry["actor"]["kind"], kind);
    }
    let id = server.store.token_with_text(token).await.unwrap().unwrap().id;
    assert_eq!(
        (&log[0]["actor"]["id"], &log[0]["actor"]["name"]),
        (&json!(id.as_str()), &json!("bootstrap"))
    );
    assert_eq!(log[1]["actor"]["id"], uid);
    assert_eq!(log[1]["details"], json!({ "customIdentifier": "alice" }));
    assert_eq!(log[7]["details"]["limits"]["allocations"], 7);
    assert_eq!(log[11]["actor"]["kind"], "service");
    let text = serde_json::to_string(&log).unwrap();
    let secrets = [
        &secret,
        token,
        rolled["result"]["secret"].as_str().unwrap(),
        made["result"]["secret"].as_str().unwrap(),
    ];
    assert!(secrets.iter().all(|secret| !text.contains(*secret)), "never a secret");
}

#[tokio::test]
async fn the_log_is_narrowed_down_and_turned_page_by_page() {
    let server = server().await;
    let (first, _) = server.key().await;
    let before = Timestamp::now();
    let (second, _) = server.key().await;
    assert_eq!(actions(&log(&server, "action=turn_key").await), ["turn_key.create"; 2]);
    assert_eq!(actions(&log(&server, "action=token.create").await), ["token.create"]);
    assert_eq!(log(&server, "action=turn").await.len(), 0);
    assert_eq!(log(&server, "action=%25").await.len(), 0, "no wildcards");
    assert_eq!(log(&server, &format!("target={first}")).await.len(), 1);
    let since = log(&server, &format!("since={before}")).await;
    assert_eq!((since.len(), &since[0]["target"]), (1, &json!(second)));
    let path = format!("/client/v4/accounts/{}/audit", server.account.id);
    let page = server.send(request("GET", format!("{path}?per_page=3")).bearer(&server.token)).await;
    let cursor = page.json()["result_info"]["cursor"].as_i64().unwrap();
    let rest = log(&server, &format!("cursor={cursor}")).await;
    assert_eq!((page.success(200, "page").as_array().unwrap().len(), rest.len()), (3, 1));
    server
        .send(request("GET", format!("{path}?since=x")).bearer(&server.token))
        .await
        .failure(400, 20_038, "");

    let reader = server.token(Permission::Read, None).await;
    let read = server.send(request("GET", &*path).bearer(&reader)).await.success(200, "a reader may read");
    let actors: Vec<_> = read.as_array().unwrap().iter().map(|row| &row["actor"]).collect();
    assert!(!actors.is_empty() && actors.iter().all(|actor| actor["address"].is_null()), "{actors:?}");
    let other = server.store.create_account(None, "other").await.unwrap();
    let elsewhere = format!("/client/v4/accounts/{}/audit", other.id);
    server.send(request("GET", elsewhere).bearer(&server.token)).await.failure(403, 10_000, "another's");
}

#[tokio::test]
async fn other_actors_are_told_apart_and_old_rows_are_forgotten() {
    let server = server().await;
    let elsewhere = Store::open(&server.place.url()).await.unwrap();
    let cli = elsewhere.acting_as(Actor::new(ActorKind::Cli, "", "root"));
    cli.create_key(&server.account.id, "").await.unwrap();
    let all = AuditQuery::default();
    let rows = server.store.audit(&all, 10).await.unwrap();
    assert_eq!((rows[0].actor.kind, &*rows[0].actor.name), (ActorKind::Cli, "root"));
    assert_eq!(server.store.purge_audit(rows[0].at).await.unwrap(), 2);
    assert_eq!(server.store.audit(&all, 10).await.unwrap(), rows[..1]);
}

#[tokio::test]
async fn a_change_that_fails_leaves_no_row() {
    let server = server_with(|_, _| {}, |store| store.with_keys_per_account(1)).await;
    server.key().await;
    let count = async || server.store.audit(&AuditQuery::default(), 100).await.unwrap().len();
    let before = count().await;
    let again = request("POST", server.keys_path()).bearer(&server.token);
    server.send(again).await.failure(409, 20_020, "a second key");
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let server =
        server_with(|config, _| config.proxies = vec!["127.0.0.0/8".parse().unwrap()], |it| it).await;
    let create = |forwarded: &str| {
        request("POST", server.keys_path()).bearer(&server.token).header("X-Forwarded-For", forwarded)
    };
    server.send(create("203.0.113.9, 198.51.100.7")).await.success(201, "create");
    assert_eq!(log(&server, "action=turn_key").await[0]["actor"]["address"], "198.51.100.7");
}
