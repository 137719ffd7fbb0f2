use std::time::{Duration, Instant};

use control::Rate;
use control::store::Timestamp;
use credentials::{Claims, CustomIdentifier, TurnKeyId};
use serde_json::{Value, json};

use super::server::{Server, config, now, server, server_with};
use crate::http::{Reply, Request, request};

fn path(uid: &str, rest: &str) -> String {
    format!("/v1/turn/keys/{uid}/credentials/{rest}")
}

async fn check(server: &Server, request: Request, status: u16, code: u64) -> String {
    let what = format!("{} {} {:?}", request.method, request.path, request.body);
    server.send(request).await.failure(status, code, &what)
}

async fn generate(server: &Server, (uid, secret): &(String, String), body: &str) -> Value {
    let ask = request("POST", path(uid, "generate")).bearer(secret).body(body);
    let reply = server.send(ask).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply.json()
}

async fn username(server: &Server, key: &(String, String)) -> String {
    generate(server, key, "").await["iceServers"]["username"].as_str().unwrap().to_owned()
}

fn opened(server: &Server, username: &Value, credential: &Value) -> Claims {
    let username = username.as_str().unwrap();
    let keyring = server.keyring.load();
    assert_eq!(keyring.password(username.as_bytes()).unwrap(), credential.as_str().unwrap());
    keyring.open(username.as_bytes()).unwrap().claims
}

#[tokio::test]
async fn who_does_not_hear_what_is_revoked_mints_nothing() {
    let server = server_with(|config, _| config.mint_feed_max_age = Duration::ZERO, |store| store).await;
    let (uid, secret) = server.key().await;
    let generate = request("POST", format!("/v1/turn/keys/{uid}/credentials/generate")).bearer(&secret);
    let reply = server.send(generate).await;
    reply.failure(503, 20_052, "it may be deleted by now");
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn minting_ends_when_nothing_was_heard_for_that_long_and_begins_again() {
    assert_eq!(config().mint_feed_max_age, Duration::from_mins(30), "as docs/fleet.md has it");
    let most = Duration::from_secs(3);
    let server = server_with(|config, _| config.mint_feed_max_age = most, |store| store).await;
    let (uid, secret) = server.key().await;
    let mint = async || server.send(request("POST", path(&uid, "generate")).bearer(&secret)).await;
    // What is heard is as old as the question.
    let heard = Instant::now();
    server.control.feed().catch_up().await.unwrap();
    server.place.execute("ALTER TABLE denials RENAME TO away").await;
    let refused = loop {
        let reply = mint().await;
        if reply.status != 201 {
            break reply;
        }
        assert!(heard.elapsed() < 10 * most, "it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(heard.elapsed() >= most, "{:?}", heard.elapsed());
    refused.failure(503, 20_052, "it may be deleted by now");
    server.place.execute("ALTER TABLE away RENAME TO denials").await;
    while mint().await.status != 201 {
        assert!(heard.elapsed() < 20 * most, "it does not begin again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn both_forms_hand_out_the_urls_with_one_credential() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let stun = json!(["stun:turn.example:3478"]);
    let turn = json!(["turn:turn.example:3478?transport=udp", "turn:turn.example:3478?transport=tcp"]);

    let reply = server.send(request("POST", path(&uid, "generate-ice-servers")).bearer(&secret)).await;
    assert_eq!((reply.status, reply.header("cache-control")), (201, Some("no-store")));
    let json = reply.json();
    let servers = json["iceServers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    assert_eq!(servers[0], json!({"urls": stun}));
    assert_eq!(servers[1]["urls"], turn);
    let claims = opened(&server, &servers[1]["username"], &servers[1]["credential"]);
    assert_eq!((claims.key.to_string(), claims.ttl_secs), (uid.clone(), 86_400));
    assert_eq!(json["ttl"], 86_400);
    let expires_at: Timestamp = json["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires_at.unix_secs(), claims.expires_at());
    assert!(claims.issued_at.abs_diff(now()) < 5);

    let body = r#"{"ttl":60,"customIdentifier":"ü"}"#;
    let json = generate(&server, &(uid, secret), body).await;
    let one = &json["iceServers"];
    assert_eq!(one["urls"].as_array().unwrap().len(), 3);
    assert_eq!(one["urls"][0], stun[0]);
    let claims = opened(&server, &one["username"], &one["credential"]);
    assert_eq!((claims.ttl_secs, claims.custom_identifier.as_str()), (60, "ü"));
}

#[tokio::test]
async fn without_udp_there_is_no_stun() {
    let tcp = control::IceUrls::new("turn.example", &[(control::IceTransport::Tcp, 3478)]);
    let server = server_with(|config, _| config.ice = tcp, |store| store).await;
    let (uid, secret) = server.key().await;
    let reply = server.send(request("POST", path(&uid, "generate-ice-servers")).bearer(&secret)).await;
    let json = reply.json();
    assert_eq!(json["iceServers"].as_array().unwrap().len(), 1);
    assert!(json["iceServers"][0]["credential"].is_string());
}

#[tokio::test]
async fn a_credential_is_minted_of_any_harmless_body() {
    let server = server().await;
    let key = server.key().await;
    let table = [
        ("", 86_400),
        (" ", 86_400),
        ("{}", 86_400),
        (r#"{"data":{"ttl":5}}"#, 86_400),
        (r#"{"ttl":1,"x":[]}"#, 1),
        (r#"{"ttl":172800}"#, 172_800),
        (r#"{"customIdentifier":""}"#, 86_400),
    ];
    for (body, ttl) in table {
        assert_eq!(generate(&server, &key, body).await["ttl"], ttl, "{body}");
    }
    let longest = "i".repeat(128);
    generate(&server, &key, &format!(r#"{{"customIdentifier":"{longest}"}}"#)).await;
    for (name, value) in [("authorization", "bearer"), ("AUTHORIZATION", "BEARER")] {
        let ask = request("POST", path(&key.0, "generate")).header(name, &format!("{value} {}", key.1));
        assert_eq!(server.send(ask.header("Content-Type", "a/b")).await.status, 201, "{name} {value}");
    }
}

#[tokio::test]
async fn a_wrong_body_is_named() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let long = format!(r#"{{"customIdentifier":"{}"}}"#, "ü".repeat(65));
    let huge = " ".repeat(65_537);
    let table = [
        (r#"{"ttl":0}"#, 400, 20_016, "172800"),
        (r#"{"ttl":-1}"#, 400, 20_016, "172800"),
        (r#"{"ttl":172801}"#, 400, 20_016, "172800"),
        (r#"{"ttl":1e30}"#, 400, 20_016, "172800"),
        (r#"{"ttl":4294967297}"#, 400, 20_016, "172800"),
        (r#"{"ttl":1.5}"#, 400, 20_016, "172800"),
        (r#"{"ttl":60.0}"#, 400, 20_016, "172800"),
        (r#"{"ttl":"60"}"#, 400, 20_016, "172800"),
        (r#"{"ttl":null}"#, 400, 20_016, "172800"),
        (r#"{"ttl":true}"#, 400, 20_016, "172800"),
        (r#"{"customIdentifier":7}"#, 400, 20_017, "customIdentifier"),
        (r#"{"customIdentifier":null}"#, 400, 20_017, "customIdentifier"),
        (long.as_str(), 400, 20_018, "128"),
        ("{", 400, 20_012, "JSON"),
        ("[]", 400, 20_013, "object"),
        (huge.as_str(), 413, 20_010, "65536"),
    ];
    for form in ["generate", "generate-ice-servers"] {
        for (body, status, code, word) in table {
            let ask = request("POST", path(&uid, form)).bearer(&secret).body(body);
            let message = check(&server, ask, status, code).await;
            assert!(message.contains(word), "{message:?} names {word}");
        }
    }
}

/// A path as everybody writes it takes a shorter way than one that is percent-encoded.
#[tokio::test]
async fn the_answer_is_the_same_however_the_path_is_spelled() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let huge = " ".repeat(65_537);
    let unreadable = "x".repeat(300_000);
    let bodies = ["", r#"{"ttl":60,"customIdentifier":"ü"}"#, r#"{"ttl":0}"#, "[]", "{", &huge, &unreadable];
    let unknown = "ab".repeat(16);
    for form in ["generate", "generate-ice-servers"] {
        for (uid, secret) in [(&uid, secret.as_str()), (&uid, "wrong"), (&uid, ""), (&unknown, &secret)] {
            for body in bodies {
                let mut seen = Vec::new();
                let encoded = format!("%{:02x}{}", uid.as_bytes()[0], &uid[1..]);
                for uid in [uid, &encoded] {
                    let ask = request("POST", path(uid, form)).bearer(secret).body(body);
                    let reply = server.send(ask.header("X-Request-Id", "the-same")).await;
                    let mut json = reply.json();
                    // Of what differs each time, only that it is there.
                    if reply.status == 201 {
                        let login = match form {
                            "generate" => &mut json["iceServers"],
                            _ => &mut json["iceServers"][1],
                        };
                        for field in ["username", "credential"] {
                            assert!(login[field].take().is_string(), "{form} {body}");
                        }
                        assert!(json["expiresAt"].take().is_string(), "{form} {body}");
                    }
                    seen.push((reply.status, reply.header_names(), json));
                }
                assert_eq!(seen[0], seen[1], "{form} {uid} {secret} {} bytes", body.len());
            }
        }
    }
}

#[tokio::test]
async fn only_the_keys_holder_is_answered() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let (_, other_secret) = server.key().await;
    let unknown = "0".repeat(32);
    for rest in ["generate", "generate-ice-servers", "revoke", "abc/revoke", "username/abc/revoke"] {
        let ask = |uid: &str| request("POST", path(uid, rest));
        check(&server, ask(&uid), 401, 10_000).await;
        check(&server, ask(&uid).header("Authorization", &secret), 401, 10_000).await;
        for wrong in ["wrong", &other_secret, &server.token, &secret.to_uppercase()] {
            check(&server, ask(&uid).bearer(wrong), 401, 10_000).await;
        }
        check(&server, ask(&unknown).bearer(&secret), 404, 20_008).await;
        check(&server, ask("short").bearer(&secret), 404, 7003).await;
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            check(&server, request(method, path(&uid, rest)).bearer(&secret), 405, 10_405).await;
        }
    }
    for rest in ["", "nothing", "generate/", "a/b/revoke"] {
        check(&server, request("POST", path(&uid, rest)).bearer(&secret), 404, 7003).await;
    }
}

/// The three forms of the call.
fn revocations((uid, secret): &(String, String), username: &str) -> [Request; 3] {
    [
        request("POST", path(uid, &format!("{username}/revoke"))).bearer(secret),
        request("POST", path(uid, &format!("username/{username}/revoke"))).bearer(secret),
        request("POST", path(uid, "revoke")).bearer(secret).body(json!({ "username": username }).to_string()),
    ]
}

fn assert_empty_204(reply: &Reply) {
    assert_eq!((reply.status, &*reply.body), (204, ""));
}

#[tokio::test]
async fn each_form_revokes_once() {
    let server = server().await;
    let key = server.key().await;
    for form in 0..3 {
        let username = username(&server, &key).await;
        let id = server.keyring.load().open(username.as_bytes()).unwrap().id;
        let [first, second, third] = revocations(&key, &username);
        let mut forms = vec![first, second, third];
        forms.rotate_left(form);
        for request in forms {
            assert_empty_204(&server.send(request).await);
        }
        let denials = server.store.denials_after(0, 100).await.unwrap();
        let last = denials.last().unwrap().denial;
        assert!(matches!(last, credentials::Denial::Credential { id: denied, .. } if denied == id));
        assert_eq!(denials.len(), form + 1, "again changes nothing");
    }
}

#[tokio::test]
async fn an_expired_credential_may_be_revoked() {
    let server = server().await;
    let key = server.key().await;
    let uid: TurnKeyId = key.0.parse().unwrap();
    let claims = Claims {
        key: uid,
        issued_at: now() - 100,
        ttl_secs: 10,
        custom_identifier: CustomIdentifier::default(),
    };
    let expired = server.keyring.load().mint(&claims).unwrap().username;
    for request in revocations(&key, &expired) {
        assert_empty_204(&server.send(request).await);
    }
    assert!(server.store.denials_after(0, 100).await.unwrap().is_empty(), "nothing to remember");
}

#[tokio::test]
async fn what_is_not_the_keys_credential_is_not_revoked() {
    let server = server().await;
    let (key, other) = (server.key().await, server.key().await);
    let foreign = username(&server, &other).await;
    let forged = format!("{}0", &foreign[..foreign.len() - 1]);
    let forged = if forged == foreign { format!("{}1", &foreign[..foreign.len() - 1]) } else { forged };
    for username in [&*foreign, &*forged, "abc", "1700000000:user", "username", "%C3%BC"] {
        for request in revocations(&key, username) {
            check(&server, request, 404, 20_009).await;
        }
    }
    check(&server, request("POST", path(&key.0, "%ff/revoke")).bearer(&key.1), 404, 7003).await;
    for body in ["", "{}", r#"{"username":""}"#, r#"{"username":1}"#, r#"{"username":null}"#] {
        let ask = request("POST", path(&key.0, "revoke")).bearer(&key.1).body(body);
        check(&server, ask, 400, 20_019).await;
    }
    assert!(server.store.denials_after(0, 100).await.unwrap().is_empty(), "nothing changed");
}

#[tokio::test]
async fn a_deleted_key_mints_no_more() {
    let server = server().await;
    let key = server.key().await;
    username(&server, &key).await;
    let delete = request("DELETE", format!("{}/{}", server.keys_path(), key.0)).bearer(&server.token);
    server.send(delete).await.success(200, "delete");
    check(&server, request("POST", path(&key.0, "generate")).bearer(&key.1), 404, 20_008).await;
}

#[tokio::test]
async fn keys_of_another_process_are_found_and_forgotten() {
    let server = server().await;
    let elsewhere = control::store::Store::open(&server.place.url()).await.unwrap();
    let made = elsewhere.create_key(&server.account.id, "").await.unwrap();
    let key = (made.key.uid.to_string(), made.secret.clone());
    username(&server, &key).await;
    elsewhere.delete_key(&server.account.id, made.key.uid).await.unwrap().unwrap();
    let gone = async {
        loop {
            let ask = request("POST", path(&key.0, "generate")).bearer(&key.1);
            if server.send(ask).await.status == 404 {
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.expect("forgotten soon");
}

#[tokio::test]
async fn unknown_keys_cannot_keep_the_store_busy() {
    let few = Rate { per_sec: 1, burst: 3 };
    let server = server_with(|config, _| config.unknown_key_rate = few, |store| store).await;
    let key = server.key().await;
    let ask = |n: u32| request("POST", path(&format!("{n:032x}"), "generate")).bearer(&key.1);
    for n in 0..3 {
        check(&server, ask(n), 404, 20_008).await;
    }
    let reply = server.send(ask(3)).await;
    reply.failure(429, 20_021, "a fourth at once");
    assert_eq!(reply.header("retry-after"), Some("1"));
    username(&server, &key).await;
}

#[tokio::test]
async fn minting_touches_no_database() {
    let server = server().await;
    let key = server.key().await;
    server.store.close().await;
    username(&server, &key).await;
    let list = server.send(request("GET", server.keys_path()).bearer(&server.token)).await;
    list.failure(503, 20_051, "what needs the store says so");
    assert_eq!(list.header("retry-after"), Some("2"));
}
