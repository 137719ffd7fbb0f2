use control::Rate;
use control::store::{Permission, Timestamp};
use serde_json::Value;

use super::server::{Server, server, server_with};
use crate::http::{Request, request};

async fn check(server: &Server, request: Request, status: u16, code: u64) -> String {
    let what = format!("{} {}", request.method, request.path);
    server.send(request).await.failure(status, code, &what)
}

#[tokio::test]
async fn a_key_lives_and_dies() {
    let server = server().await;
    let keys = server.keys_path();
    let token = &server.token;

    let created = server.send(request("POST", &*keys).bearer(token).body(r#"{"name":"first"}"#)).await;
    let key = created.success(201, "create");
    let (uid, secret) = (key["uid"].as_str().unwrap(), key["secret"].as_str().unwrap());
    assert!(uid.len() == 32 && uid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert!(secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert_eq!(key["key"], key["secret"]);
    assert_eq!(key["name"], "first");
    assert_eq!(key["created"], key["modified"]);
    assert!(key["created"].as_str().unwrap().ends_with('Z'));
    let bare = created.json();
    for field in ["uid", "name", "created", "modified", "key", "secret"] {
        assert_eq!(bare[field], key[field], "{field} beside the envelope");
    }

    let path = format!("{keys}/{uid}");
    let one = server.send(request("GET", &*path).bearer(token)).await;
    let shown = one.success(200, "get");
    assert_eq!(shown["uid"], uid);
    assert!(shown.get("secret").is_none() && shown.get("key").is_none(), "shown once only");

    let list = server.send(request("GET", &*keys).bearer(token)).await;
    assert_eq!(list.success(200, "list"), Value::Array(vec![shown.clone()]));
    assert_eq!(list.json()["result_info"]["total_count"], 1);
    let beyond = server.send(request("GET", format!("{keys}?page=2")).bearer(token)).await;
    assert_eq!(beyond.success(200, "page 2"), Value::Array(vec![]));

    let renamed = server.send(request("PUT", &*path).bearer(token).body(r#"{"name":"zweiter"}"#)).await;
    let renamed = renamed.success(200, "put");
    assert_eq!(renamed["name"], "zweiter");
    assert_eq!(renamed["created"], shown["created"]);
    assert_ne!(renamed["modified"], shown["modified"]);
    let kept = server.send(request("PUT", &*path).bearer(token).body("{}")).await.success(200, "put");
    assert_eq!(kept, renamed, "without a name nothing changes");

    let deleted = server.send(request("DELETE", &*path).bearer(token)).await.success(200, "delete");
    assert_eq!(deleted, renamed);
    for method in ["GET", "PUT", "DELETE"] {
        let request = request(method, &*path).bearer(token).body(r#"{"name":"x"}"#);
        check(&server, request, 404, 20_008).await;
    }
}

#[tokio::test]
async fn a_key_is_made_of_any_harmless_body() {
    let server = server().await;
    let check = async |request: Request, name: &str| {
        let key = server.send(request).await.success(201, name);
        assert_eq!(key["name"], name);
    };
    let create = || request("POST", server.keys_path()).bearer(&server.token);
    check(create(), "").await;
    check(create().body(""), "").await;
    check(create().body(" \r\n"), "").await;
    check(create().body("{}"), "").await;
    check(create().body(r#"{"other":1,"data":{"name":"no"}}"#), "").await;
    check(create().header("Content-Type", "text/plain").body(r#"{"name":"a"}"#), "a").await;
    check(create().header("User-Agent", "").body(r#"{"name":"b"}"#), "b").await;
    let long = "ü".repeat(255);
    check(create().body(format!(r#"{{"name":"{long}"}}"#)), &long).await;
}

#[tokio::test]
async fn who_is_nobody_is_refused() {
    let server = server().await;
    let past = Timestamp::from_unix_secs(1_000);
    let expired = server.token(Permission::Write, Some(past)).await;
    let deleted = server.token(Permission::Write, None).await;
    let id = server.store.token_with_text(&deleted).await.unwrap().unwrap().id;
    server.store.delete_token(&id).await.unwrap().unwrap();
    let key = format!("{}/{}", server.keys_path(), "0".repeat(32));
    let in_account = format!("/client/v4/accounts/{}/tokens/verify", server.account.id);
    let routes = [
        ("GET", server.keys_path()),
        ("POST", server.keys_path()),
        ("GET", key.clone()),
        ("PUT", key.clone()),
        ("DELETE", key),
        ("GET", "/client/v4/accounts".to_owned()),
        ("GET", "/client/v4/user/tokens/verify".to_owned()),
        ("GET", in_account),
    ];
    for (method, path) in routes {
        let ask = || request(method, &*path);
        check(&server, ask(), 400, 9106).await;
        for malformed in ["", "Bearer", "Bearer ", "Bearer a b", "Token abc", "abc", "Basic YTpi", "Bearer ä"]
        {
            let reply = server.send(ask().header("Authorization", malformed)).await;
            reply.failure(400, 6003, malformed);
            assert_eq!(reply.json()["errors"][0]["error_chain"][0]["code"], 6111);
        }
        for unknown in ["wrong", &"a".repeat(40), &expired, &deleted] {
            let message = check(&server, ask().bearer(unknown), 401, 10_000).await;
            assert_eq!(message, "Authentication error");
        }
    }
}

#[tokio::test]
async fn who_may_not_is_refused_and_nothing_changes() {
    let server = server().await;
    let reader = server.token(Permission::Read, None).await;
    let (uid, _) = server.key().await;
    let key = format!("{}/{uid}", server.keys_path());
    check(&server, request("POST", server.keys_path()).bearer(&reader), 403, 10_000).await;
    check(&server, request("PUT", &*key).bearer(&reader).body(r#"{"name":"x"}"#), 403, 10_000).await;
    check(&server, request("DELETE", &*key).bearer(&reader), 403, 10_000).await;
    for path in [&key, &server.keys_path()] {
        server.send(request("GET", path).bearer(&reader)).await.success(200, "a reader may read");
    }

    let other = server.store.create_account(None, "other").await.unwrap();
    let token = server.store.create_token(&other.id, "", Permission::Write, None, None).await.unwrap();
    let stranger = token.text.as_str();
    let nowhere = format!("/client/v4/accounts/{}", "0".repeat(32));
    for path in [&key, &server.keys_path(), &format!("{nowhere}/calls/turn_keys")] {
        check(&server, request("GET", path).bearer(stranger), 403, 10_000).await;
    }
    check(&server, request("DELETE", &*key).bearer(stranger), 403, 10_000).await;
    check(&server, request("GET", format!("{nowhere}/tokens/verify")).bearer(stranger), 403, 10_000).await;
    // The stranger's own account does not have the key either.
    let own = format!("/client/v4/accounts/{}/calls/turn_keys/{uid}", other.id);
    check(&server, request("GET", &*own).bearer(stranger), 404, 20_008).await;
    check(&server, request("DELETE", &*own).bearer(stranger), 404, 20_008).await;

    let shown = server.send(request("GET", &*key).bearer(&server.token)).await.success(200, "still there");
    assert_eq!(shown["name"], "");
}

#[tokio::test]
async fn what_leads_nowhere_is_not_found() {
    let server = server().await;
    let keys = server.keys_path();
    let paths = [
        "/nothing".to_owned(),
        "/client/v4".to_owned(),
        "/client/v4/graph".to_owned(),
        format!("{keys}/"),
        format!("{keys}/short"),
        format!("{keys}/{}", "g".repeat(32)),
        format!("{keys}/{}", "A".repeat(32)),
        format!("{keys}/{}", "0".repeat(33)),
        format!("{keys}/%ff%fe"),
        format!("{keys}/{}/more", "0".repeat(32)),
        "/client/v4/accounts/xyz/calls/turn_keys".to_owned(),
        format!("/client/v4/accounts/{}/calls/turn_keys", "0".repeat(33)),
        "/client/v4/accounts//calls/turn_keys".to_owned(),
        "/client/v4/accounts/xyz/tokens/verify".to_owned(),
    ];
    for path in paths {
        check(&server, request("GET", &*path).bearer(&server.token), 404, 7003).await;
        check(&server, request("GET", &*path), 404, 7003).await;
    }
}

#[tokio::test]
async fn a_wrong_method_is_not_allowed() {
    let server = server().await;
    let keys = server.keys_path();
    let key = format!("{keys}/{}", "0".repeat(32));
    let table = [
        (&*keys, &["PUT", "DELETE", "PATCH", "OPTIONS", "FOO"][..], "GET,HEAD,POST"),
        (&*key, &["POST", "PATCH", "OPTIONS"], "GET,HEAD,PUT,DELETE"),
        ("/client/v4/accounts", &["POST", "DELETE"], "GET,HEAD"),
        ("/client/v4/user/tokens/verify", &["POST"], "GET,HEAD"),
        ("/healthz", &["POST"], "GET,HEAD"),
    ];
    for (path, methods, allow) in table {
        for method in methods {
            let reply = server.send(request(method, path).bearer(&server.token)).await;
            reply.failure(405, 10_405, &format!("{method} {path}"));
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_wrong_body_is_named() {
    let server = server().await;
    let (uid, _) = server.key().await;
    let key = format!("{}/{uid}", server.keys_path());
    let long = format!(r#"{{"name":"{}"}}"#, "n".repeat(256));
    let huge = format!(r#"{{"name":"{}"}}"#, "n".repeat(65_536));
    let table: [(&[u8], u16, u64, &str); 12] = [
        (b"{", 400, 20_012, "JSON"),
        (b"name=x", 400, 20_012, "JSON"),
        (b"{\"name\":\"\xff\"}", 400, 20_012, "UTF-8"),
        (b"[]", 400, 20_013, "object"),
        (b"null", 400, 20_013, "object"),
        (b"\"name\"", 400, 20_013, "object"),
        (br#"{"name":1}"#, 400, 20_014, "name"),
        (br#"{"name":null}"#, 400, 20_014, "name"),
        (br#"{"name":["a"]}"#, 400, 20_014, "name"),
        (long.as_bytes(), 400, 20_015, "name"),
        (huge.as_bytes(), 413, 20_010, "65536"),
        (&b"["[..], 400, 20_012, "JSON"),
    ];
    for (method, path) in [("POST", &server.keys_path()), ("PUT", &key)] {
        for (body, status, code, word) in table {
            let message =
                check(&server, request(method, path).bearer(&server.token).body(body), status, code);
            let message = message.await;
            assert!(message.contains(word), "{message:?} names {word}");
        }
    }
}

#[tokio::test]
async fn an_account_has_no_more_keys_than_it_may() {
    let server = server_with(|_, _| {}, |store| store.with_keys_per_account(3)).await;
    let create = || request("POST", server.keys_path()).bearer(&server.token);
    let (uid, _) = server.key().await;
    // Eight at once for the two places that are left.
    let attempts: Vec<_> = (0..8)
        .map(|_| {
            let (request, addr) = (create(), server.addr);
            tokio::spawn(async move { request.send(addr).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for attempt in attempts {
        statuses.push(attempt.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 409, 409, 409, 409, 409, 409]);
    let message = check(&server, create(), 409, 20_020).await;
    assert!(message.contains('3'), "{message}");

    let delete = request("DELETE", format!("{}/{uid}", server.keys_path())).bearer(&server.token);
    server.send(delete).await.success(200, "make room");
    server.send(create()).await.success(201, "there is room again");
}

#[tokio::test]
async fn a_token_that_asks_too_often_has_to_wait() {
    let slow = Rate { per_sec: 1, burst: 3 };
    let server = server_with(|config, _| config.account_rate = slow, |store| store).await;
    let ask = || request("GET", "/client/v4/user/tokens/verify").bearer(&server.token);
    for _ in 0..3 {
        server.send(ask()).await.success(200, "within the burst");
    }
    let reply = server.send(ask()).await;
    reply.failure(429, 20_021, "beyond it");
    assert_eq!(reply.header("retry-after"), Some("1"));
    let other = server.token(Permission::Read, None).await;
    let ask = request("GET", "/client/v4/user/tokens/verify").bearer(&other);
    server.send(ask).await.success(200, "another token is not held up");
}

#[tokio::test]
async fn scripts_find_their_account_and_test_their_token() {
    let server = server().await;
    server.store.create_account(None, "other").await.unwrap();
    let reader = server.token(Permission::Read, None).await;
    let accounts = server.send(request("GET", "/client/v4/accounts?per_page=50").bearer(&reader)).await;
    let accounts = accounts.success(200, "accounts");
    assert_eq!(accounts.as_array().unwrap().len(), 1, "only the token's own");
    assert_eq!(accounts[0]["id"], server.account.id.as_str());
    assert_eq!(accounts[0]["name"], "default");
    assert!(accounts[0]["created_on"].is_string());

    let id = server.store.token_with_text(&reader).await.unwrap().unwrap().id;
    let in_account = format!("/client/v4/accounts/{}/tokens/verify", server.account.id);
    for path in ["/client/v4/user/tokens/verify", &in_account] {
        let reply = server.send(request("GET", path).bearer(&reader)).await;
        assert_eq!(reply.success(200, path), serde_json::json!({"id": id.as_str(), "status": "active"}));
    }
    let upper = format!("/client/v4/accounts/{}/tokens/verify", server.account.id.as_str().to_uppercase());
    server.send(request("GET", upper).bearer(&reader)).await.success(200, "an account id in any case");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = server().await;
    let reply = server.send(request("HEAD", server.keys_path()).bearer(&server.token)).await;
    assert_eq!((reply.status, &*reply.body), (200, ""));
    let reply = server.send(request("HEAD", server.keys_path())).await;
    assert_eq!((reply.status, &*reply.body), (400, ""));
    let health = server.send(request("GET", "/healthz")).await;
    assert_eq!((health.status, &*health.body), (200, "ok"));
}

#[tokio::test]
async fn the_server_ends_when_told_so() {
    let server = server().await;
    let addr = server.addr;
    // An idle connection does not hold it up.
    let idle = tokio::net::TcpStream::connect(addr).await.unwrap();
    request("GET", "/healthz").send(addr).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), server.stop()).await.expect("an end in time");
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    drop(idle);
}

#[tokio::test]
async fn a_body_that_is_far_too_large_is_cut_off() {
    let server = server().await;
    let huge = request("POST", server.keys_path()).bearer(&server.token).body(vec![b' '; 256 * 1024]);
    check(&server, huge, 413, 20_010).await;
}
