//! Rolling a key's secret, suspending it, and revoking many of its credentials at once.

use std::sync::{Arc, Mutex};

use control::News;
use control::store::{Permission, Store, Timestamp};
use credentials::{CustomIdentifier, Denial, IdentifierId, TurnKeyId};
use serde_json::{Value, json};

use super::server::{Server, now, server};
use crate::http::{Request, request};

type Key = (String, String);

fn generate((uid, secret): &Key) -> Request {
    request("POST", format!("/v1/turn/keys/{uid}/credentials/generate")).bearer(secret)
}

fn revoke((uid, secret): &Key, body: &Value) -> Request {
    request("POST", format!("/v1/turn/keys/{uid}/credentials/revoke")).bearer(secret).body(body.to_string())
}

fn at(server: &Server, uid: &str, what: &str) -> String {
    format!("{}/{uid}/{what}", server.keys_path())
}

async fn post(server: &Server, uid: &str, what: &str, body: &str) -> Value {
    let ask = request("POST", at(server, uid, what)).bearer(&server.token).body(body);
    server.send(ask).await.success(200, what)
}

async fn state(server: &Server, uid: &str) -> Value {
    server.send(request("GET", at(server, uid, "status")).bearer(&server.token)).await.success(200, "status")
}

#[tokio::test]
async fn a_rolled_secret_stays_good_for_the_overlap_only() {
    let server = server().await;
    let key = server.key().await;
    let status = async |secret: &str| server.send(generate(&(key.0.clone(), secret.to_owned()))).await.status;
    let get_turn = async |secret: &str| {
        server.send(request("GET", format!("/turn?service=turn&key={secret}"))).await.status
    };
    assert_eq!(state(&server, &key.0).await["former_secret_until"], json!(null));

    let rolled = post(&server, &key.0, "roll", r#"{"overlap_secs":2}"#).await;
    let second = rolled["secret"].as_str().unwrap();
    assert_eq!((rolled["key"].as_str(), second.len()), (Some(second), 64));
    assert_eq!(rolled["uid"], key.0);
    assert_ne!(second, key.1);
    for secret in [&*key.1, second] {
        assert_eq!((status(secret).await, get_turn(secret).await), (201, 200), "both are good");
    }
    let until: Timestamp =
        state(&server, &key.0).await["former_secret_until"].as_str().unwrap().parse().unwrap();
    while Timestamp::now() <= until {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!((status(&key.1).await, get_turn(&key.1).await), (401, 401), "the overlap is over");
    assert_eq!((status(second).await, get_turn(second).await), (201, 200));
    assert_eq!(state(&server, &key.0).await["former_secret_until"], json!(null));

    let third = post(&server, &key.0, "roll", "").await["secret"].as_str().unwrap().to_owned();
    assert_eq!((status(second).await, get_turn(second).await), (401, 401), "at once without an overlap");
    assert_eq!((status(&third).await, get_turn(&third).await), (201, 200));
    // Another process asks the store.
    let elsewhere = Store::open(&server.place.url()).await.unwrap();
    assert!(elsewhere.key_with_secret(second).await.unwrap().is_none());
    let made = elsewhere.roll_key(&server.account.id, key.0.parse().unwrap(), 60).await.unwrap().unwrap();
    let known = async { while status(&made.secret).await != 201 {} };
    tokio::time::timeout(std::time::Duration::from_secs(5), known).await.expect("the feed tells it");
    assert_eq!(status(&third).await, 201, "the former one still");
    assert!(elsewhere.key_with_secret(&third).await.unwrap().is_some());
}

#[tokio::test]
async fn a_roll_that_is_sent_again_rolls_once() {
    let server = server().await;
    let key = server.key().await;
    let roll = async |name: &str, body: &str| {
        let ask = request("POST", at(&server, &key.0, "roll")).bearer(&server.token);
        server.send(ask.header("Idempotency-Key", name).body(body)).await
    };
    let first = roll("once", r#"{"overlap_secs":60}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    let again = roll("once", r#"{"overlap_secs":60}"#).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(again.json(), first.json());
    assert_eq!(roll("once", "").await.status, 422, "it is another request");
    let secret = first.json()["result"]["secret"].as_str().unwrap().to_owned();
    let minted = server.send(generate(&(key.0.clone(), secret))).await;
    assert_eq!(minted.status, 201, "it is the secret that is in force");
    assert_eq!(server.send(generate(&key)).await.status, 201, "and the former one is the first");
}

#[tokio::test]
async fn a_suspended_key_mints_nothing_and_relays_hear_before_the_answer() {
    let server = server().await;
    let key = server.key().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let on = move |news: &News| {
        if let News::Settings(settings) = news {
            into.lock().unwrap().push(settings.suspended);
        }
    };
    server.control.feed().subscribe(on).await.unwrap();
    for round in 1..=2 {
        for suspended in [true, false] {
            for _ in 0..2 {
                let now = post(&server, &key.0, if suspended { "suspend" } else { "resume" }, "").await;
                assert_eq!(
                    (now["suspended"].as_bool(), now["suspended_since"].is_string()),
                    (Some(suspended), suspended)
                );
                assert_eq!(state(&server, &key.0).await, now);
            }
            assert_eq!(heard.lock().unwrap().last(), Some(&suspended));
            let reply = server.send(generate(&key)).await;
            let rest = server.send(request("GET", "/turn?service=turn").bearer(&key.1)).await;
            if suspended {
                assert!(reply.failure(403, 20_032, "mint").contains("suspended"));
                rest.failure(403, 20_032, "mint");
            } else {
                assert_eq!((reply.status, rest.status), (201, 200));
            }
        }
        assert_eq!(heard.lock().unwrap().len(), 2 * round, "each change once");
    }
    let denials = server.store.denials_after(0, 10).await.unwrap();
    assert!(denials.is_empty(), "a suspension is no denial");
    // What is revoked of a suspended key is revoked all the same.
    post(&server, &key.0, "suspend", "").await;
    assert_eq!(server.send(revoke(&key, &json!({ "customIdentifier": "x" }))).await.status, 204);
}

#[tokio::test]
async fn who_may_not_is_refused() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let reader = server.token(Permission::Read, None).await;
    let unknown = "0".repeat(32);
    for (method, what) in
        [("GET", "status"), ("GET", "revocations"), ("POST", "roll"), ("POST", "suspend"), ("POST", "resume")]
    {
        let fail = async |request: Request, status, code| {
            server.send(request).await.failure(status, code, what);
        };
        let ask = |uid: &str| request(method, at(&server, uid, what));
        fail(ask(&uid), 400, 9106).await;
        fail(ask(&uid).bearer(&secret), 401, 10_000).await;
        fail(ask(&unknown).bearer(&server.token), 404, 20_008).await;
        fail(ask("x").bearer(&server.token), 404, 7003).await;
        fail(request("PUT", at(&server, &uid, what)).bearer(&server.token), 405, 10_405).await;
        let by_reader = server.send(ask(&uid).bearer(&reader)).await.status;
        assert_eq!(by_reader, if method == "GET" { 200 } else { 403 }, "{what}");
    }
    for body in [r#"{"overlap_secs":-1}"#, r#"{"overlap_secs":2592001}"#, r#"{"overlap_secs":"1"}"#] {
        let ask = request("POST", at(&server, &uid, "roll")).bearer(&server.token).body(body);
        assert!(server.send(ask).await.failure(400, 20_033, body).contains("2592000"));
    }
    assert_eq!(server.send(generate(&(uid, secret))).await.status, 201, "nothing changed");
}

#[tokio::test]
async fn many_are_revoked_at_once_and_what_is_minted_next_is_good() {
    let server = server().await;
    let key = server.key().await;
    let uid: TurnKeyId = key.0.parse().unwrap();
    let subject = |minted: &Value| {
        let username = minted["iceServers"]["username"].as_str().unwrap();
        let opened = server.keyring.load().open(username.as_bytes()).unwrap();
        credentials::Subject { key: uid, credential: opened.id, issued: Some(opened.claims.issued()) }
    };
    let mint = async |identifier: &str| {
        let body = json!({ "customIdentifier": identifier }).to_string();
        server.send(generate(&key).body(body)).await.json()
    };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let on = move |news: &News| {
        if let News::Denied(denial) = news {
            into.lock().unwrap().push(*denial);
        }
    };
    server.control.feed().subscribe(on).await.unwrap();

    let (alice, bob) = (subject(&mint("alice").await), subject(&mint("bob").await));
    assert_eq!(server.send(revoke(&key, &json!({ "customIdentifier": "alice" }))).await.status, 204);
    let rule = *heard.lock().unwrap().last().expect("relays hear before the answer");
    let named = IdentifierId::of(uid, &CustomIdentifier::try_from("alice").unwrap());
    assert!(matches!(rule, Denial::Identifier { key, identifier, .. } if (key, identifier) == (uid, named)));
    assert!(rule.until() >= now() + 172_800, "the longest lived has expired by then");
    assert!(rule.covers(&alice) && !rule.covers(&bob));
    let again = subject(&mint("alice").await);
    assert!(!rule.covers(&again), "minted right after it, and good");
    assert!(again.issued.unwrap().at <= now(), "nothing is issued ahead of its time");
    assert_eq!(server.send(revoke(&key, &json!({ "customIdentifier": "alice" }))).await.status, 204);
    assert!(heard.lock().unwrap().last().unwrap().covers(&again), "until she is revoked again");

    for issued_before in
        [json!(now() + 500), json!(Timestamp::now()), json!("2026-01-01T00:00:00.5Z"), json!(0)]
    {
        assert_eq!(server.send(revoke(&key, &json!({ "issuedBefore": issued_before }))).await.status, 204);
    }
    let rules: Vec<_> = heard.lock().unwrap()[2..].to_vec();
    let Denial::Issued { before, .. } = rules[0] else { panic!("{rules:?}") };
    assert!(rules[0].covers(&bob) && before <= now() + 1, "nothing is issued later than now");
    assert!(!rules[0].covers(&subject(&mint("bob").await)), "minted in the same second, and good");
    assert!(rules.len() <= 2, "an earlier moment changes nothing: {rules:?}");

    let list = request("GET", at(&server, &key.0, "revocations")).bearer(&server.token);
    let list = server.send(list).await.success(200, "list");
    let kinds: Vec<_> = list.as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["issued_before", "custom_identifier"]);
    assert_eq!((&list[1]["customIdentifier"], &list[1]["credential_id"]), (&json!("alice"), &json!(null)));
    assert!(list[0]["issuedBefore"].is_string() && list[0]["until"].is_string());
}

#[tokio::test]
async fn a_wrong_revocation_is_named() {
    let server = server().await;
    let key = server.key().await;
    let long = "i".repeat(129);
    for (body, code) in [
        (json!({}), 20_019),
        (json!({ "username": "" }), 20_019),
        (json!({ "username": "a", "customIdentifier": "b" }), 20_034),
        (json!({ "customIdentifier": "b", "issuedBefore": 1 }), 20_034),
        (json!({ "customIdentifier": 1 }), 20_017),
        (json!({ "customIdentifier": long }), 20_018),
        (json!({ "issuedBefore": "yesterday" }), 20_035),
        (json!({ "issuedBefore": -1 }), 20_035),
        (json!({ "issuedBefore": 1.5 }), 20_035),
        (json!({ "issuedBefore": null }), 20_035),
        (json!({ "issuedBefore": "1969-01-01T00:00:00Z" }), 20_035),
    ] {
        server.send(revoke(&key, &body)).await.failure(400, code, &body.to_string());
    }
    assert!(server.store.denials_after(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn revocations_are_listed_in_pages() {
    let server = server().await;
    let key = server.key().await;
    for n in 0..5 {
        let body = json!({ "customIdentifier": format!("u{n}") });
        assert_eq!(server.send(revoke(&key, &body)).await.status, 204);
    }
    let username = server.send(generate(&key)).await.json()["iceServers"]["username"].clone();
    assert_eq!(server.send(revoke(&key, &json!({ "username": username }))).await.status, 204);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{}?per_page=4{cursor}", at(&server, &key.0, "revocations"));
        let reply = server.send(request("GET", path).bearer(&server.token)).await;
        seen.extend(reply.success(200, "page").as_array().unwrap().clone());
        let Some(next) = reply.json()["result_info"]["cursor"].as_i64() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 6);
    assert_eq!((&seen[0]["kind"], &seen[5]["customIdentifier"]), (&json!("credential"), &json!("u0")));
    for query in ["per_page=0", "per_page=1001", "per_page=x", "cursor=x"] {
        let path = format!("{}?{query}", at(&server, &key.0, "revocations"));
        server.send(request("GET", path).bearer(&server.token)).await.failure(400, 20_037, query);
    }
}
