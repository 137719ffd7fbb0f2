//! The description of the interface is that of the interface.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::http::request;
use crate::sqlite::suite::server::server;

/// The checked-in copy. `TURNERY_WRITE_OPENAPI=1` writes it anew.
const FILE: &str = "../../docs/openapi.json";

#[test]
fn the_checked_in_description_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("TURNERY_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, control::openapi()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == control::openapi(),
        "docs/openapi.json differs: TURNERY_WRITE_OPENAPI=1 cargo test --workspace --test it openapi"
    );
}

#[test]
fn what_is_referred_to_is_there_and_names_are_not_used_twice() {
    let text = control::openapi();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(schemas.contains_key(name), "{name}");
    }
    let mut ids = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{}", operation["operationId"]);
        }
    }
}

/// A method that no path has is answered with those that it has.
#[tokio::test]
async fn the_described_methods_are_those_that_are_routed() {
    let server = server().await;
    let document: Value = serde_json::from_str(&control::openapi()).unwrap();
    let fill = |path: &str| {
        let id = "0".repeat(32);
        ["account_id", "key_id", "secret_id", "webhook_id", "session_id", "username", "id"]
            .iter()
            .fold(path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), &id))
    };
    for (path, item) in document["paths"].as_object().unwrap() {
        let reply = server.send(request("PATCH", fill(path))).await;
        assert_eq!(reply.status, 405, "{path}");
        let allow: BTreeSet<String> = reply
            .header("allow")
            .unwrap()
            .split(',')
            .map(str::to_ascii_lowercase)
            .filter(|it| it != "head")
            .collect();
        let described: BTreeSet<String> = item.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allow, described, "{path}");
    }
}

#[test]
fn every_path_in_the_routers_is_described() {
    let document: Value = serde_json::from_str(&control::openapi()).unwrap();
    let described = document["paths"].as_object().unwrap();
    let source = include_str!("../../src/api/mod.rs");
    let paths = source.split('"').filter(|text| text.starts_with("/client/v4/") || text.starts_with("/v1/"));
    let mut count = 0;
    for path in paths {
        assert!(described.contains_key(path), "{path} is not in api/openapi/operations.rs");
        count += 1;
    }
    assert!(count >= 15, "the routes are elsewhere now: {count}");
}

#[tokio::test]
async fn the_reference_is_served_by_itself() {
    let server = server().await;
    let json = server.send(request("GET", "/openapi.json")).await;
    assert_eq!((json.status, json.header("content-type")), (200, Some("application/json")));
    assert_eq!(json.body, control::openapi());
    let page = server.send(request("GET", "/reference")).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("script-src"), "{policy}");
    assert!(page.body.contains("generate-ice-servers") && !page.body.contains("{{"), "{}", page.body);
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "nothing from elsewhere");
    let style = server.send(request("GET", "/reference/reference.css")).await;
    assert_eq!((style.status, style.header("content-type")), (200, Some("text/css; charset=utf-8")));
}
