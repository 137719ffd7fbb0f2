use control::Dev;
use control::store::Store;
use credentials::TurnKeyId;

use super::server::{Server, server, server_with};
use crate::http::{Request, request};

async fn dev_server() -> Server {
    let dev = Dev { key: TurnKeyId::from_bytes([7; 16]), public_host: None };
    server_with(|config, _: &Store| config.dev = Some(dev), |store| store).await
}

fn mint() -> Request {
    request("POST", "/try/ice-servers").header("X-Turnery-Try", "1")
}

#[tokio::test]
async fn the_page_is_served_under_a_strict_policy() {
    let server = server().await;
    let home = server.send(request("GET", "/")).await;
    assert_eq!((home.status, home.header("location")), (307, Some("/dashboard")));
    for (path, kind) in [
        ("/try", "text/html; charset=utf-8"),
        ("/try/try.js", "text/javascript; charset=utf-8"),
        ("/try/try.css", "text/css; charset=utf-8"),
    ] {
        let reply = server.send(request("GET", path)).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    }
}

#[tokio::test]
async fn the_page_has_what_browser_tests_rely_on() {
    for (server, dev) in [(server().await, "false"), (dev_server().await, "true")] {
        let page = server.send(request("GET", "/try")).await.body;
        for part in [r#"id="run""#, r#"id="ice-servers""#, r#"id="mint""#, &format!(r#"data-dev="{dev}""#)] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("{{"), "everything is filled in");
        assert!(!page.contains("style=") && !page.contains("onclick"), "the policy forbids inline parts");
    }
}

#[tokio::test]
async fn minting_without_a_secret_is_for_dev_mode_only() {
    server().await.send(mint()).await.failure(404, 7003, "not in dev mode");
    let server = dev_server().await;
    let reply = server.send(mint()).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let login = &reply.json()["iceServers"][1];
    let opened = server.keyring.load().open(login["username"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(opened.claims.key, TurnKeyId::from_bytes([7; 16]));
}

#[tokio::test]
async fn minting_without_a_secret_is_for_the_page_only() {
    let server = dev_server().await;
    let table = [
        ("no header", request("POST", "/try/ice-servers")),
        ("another site", mint().header("Sec-Fetch-Site", "cross-site")),
        ("a sister site", mint().header("Sec-Fetch-Site", "same-site")),
        ("a rebound name", mint().header("Host", "evil.example:8080")),
    ];
    for (what, ask) in table {
        server.send(ask).await.failure(403, 20_022, what);
    }
    let ask = mint().header("Sec-Fetch-Site", "same-origin").header("Host", "localhost:8080");
    assert_eq!(server.send(ask).await.status, 201);
}
