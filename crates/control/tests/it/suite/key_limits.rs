//! What a TURN key may use: set over HTTP, heard by relays.

use std::sync::{Arc, Mutex};

use control::store::{KeyLimits, Permission};
use control::{KeySettings, News};
use serde_json::json;

use super::server::server;
use crate::http::request;

#[tokio::test]
async fn limits_are_set_shown_and_taken_away_and_relays_hear_before_the_answer() {
    let server = server().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let on = move |news: &News| {
        if let News::Settings(KeySettings { limits, .. }) = news {
            into.lock().unwrap().push(*limits);
        }
    };
    server.control.feed().subscribe(on).await.unwrap();
    let (uid, _) = server.key().await;
    let path = format!("{}/{uid}/limits", server.keys_path());
    let ask = |method| request(method, &*path).bearer(&server.token);
    let all = KeyLimits::FIELDS.map(|(field, max)| (field.to_owned(), json!(max)));
    let all = serde_json::Value::Object(all.into_iter().collect());
    assert_eq!(server.send(ask("GET")).await.success(200, "none"), json!(null));
    for body in [json!({ "allocations": 7, "channels": null, "other": [] }), json!({}), all] {
        let put = server.send(ask("PUT").body(body.to_string())).await.success(200, "put");
        for (field, _) in KeyLimits::FIELDS {
            assert_eq!(put[field], body[field], "{field}");
        }
        assert_eq!(server.send(ask("GET")).await.success(200, "get"), put);
        assert_eq!(*heard.lock().unwrap().last().unwrap(), Some(serde_json::from_value(put).unwrap()));
    }
    assert_eq!(server.send(ask("DELETE")).await.success(200, "delete"), json!(null));
    assert_eq!(server.send(ask("GET")).await.success(200, "none"), json!(null));
    assert_eq!(*heard.lock().unwrap().last().unwrap(), None);
    assert_eq!(heard.lock().unwrap().len(), 4, "each change once");
}

#[tokio::test]
async fn wrong_limits_and_callers_are_refused() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let reader = server.token(Permission::Read, None).await;
    let other = server.store.create_account(None, "other").await.unwrap();
    let foreign = server.store.create_key(&other.id, "").await.unwrap().key.uid.to_string();
    let at = |uid: &str| format!("{}/{uid}/limits", server.keys_path());
    let fail = async |request: crate::http::Request, status, code| {
        let what = format!("{} {} {:?}", request.method, request.path, request.body);
        server.send(request).await.failure(status, code, &what)
    };
    for method in ["GET", "PUT", "DELETE"] {
        let ask = |uid: &str| request(method, at(uid)).body("{}");
        fail(ask(&uid), 400, 9106).await;
        fail(ask(&uid).header("Authorization", "x"), 400, 6003).await;
        fail(ask(&uid).bearer(&secret), 401, 10_000).await;
        fail(ask(&foreign).bearer(&server.token), 404, 20_008).await;
        fail(ask(&"0".repeat(32)).bearer(&server.token), 404, 20_008).await;
        fail(ask("short").bearer(&server.token), 404, 7003).await;
        if method != "GET" {
            fail(ask(&uid).bearer(&reader), 403, 10_000).await;
        }
        let elsewhere = at(&uid).replace(server.account.id.as_str(), other.id.as_str());
        fail(request(method, elsewhere).bearer(&server.token), 403, 10_000).await;
    }
    fail(request("POST", at(&uid)).bearer(&server.token), 405, 10_405).await;
    for (field, max) in KeyLimits::FIELDS {
        for value in [json!(0), json!(-1), json!(1.5), json!("5"), json!([]), json!(max + 1)] {
            let body = json!({ field: value }).to_string();
            let message = fail(request("PUT", at(&uid)).bearer(&server.token).body(body), 400, 20_031).await;
            assert!(message.starts_with(field) && message.contains(&max.to_string()), "{message}");
        }
    }
    fail(request("PUT", at(&uid)).bearer(&server.token).body("{"), 400, 20_012).await;
    let none = server.send(request("GET", at(&uid)).bearer(&reader)).await.success(200, "nothing changed");
    assert_eq!(none, json!(null));
}
