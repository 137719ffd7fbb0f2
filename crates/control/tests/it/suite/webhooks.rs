//! Webhooks: what receivers are told, signed, at least once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::store::usage::SessionReport;
use control::store::{Permission, Store};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::{Server, server, server_with};
use super::usage::{made_key, node, report};
use crate::http::request;

/// A receiver of webhooks, which answers with the statuses it is given, then with 200.
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn start(address: &str, statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (into, mut statuses) = (Arc::clone(&heard), statuses.iter().copied());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut text = String::new();
                while !is_whole(&text) {
                    let mut buffer = [0; 4_096];
                    let length = stream.read(&mut buffer).await.unwrap();
                    assert!(length > 0, "cut off: {text}");
                    text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
                }
                into.lock().unwrap().push(text);
                let status = statuses.next().unwrap_or(200);
                let answer =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, heard, task }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    async fn hears(&self, count: usize) -> Vec<String> {
        let all = async {
            while self.heard.lock().unwrap().len() < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("it is told");
        self.heard.lock().unwrap().clone()
    }
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.unwrap().parse().unwrap()
}

fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("{name} in {text}"))
}

fn body(text: &str) -> Value {
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn open_server() -> Server {
    server_with(|config, _| config.webhook_networks = vec!["127.0.0.0/8".parse().unwrap()], |store| store)
        .await
}

fn path(server: &Server) -> String {
    format!("/client/v4/accounts/{}/webhooks", server.account.id)
}

async fn create(server: &Server, url: &str, events: &[&str]) -> Value {
    let body = json!({ "url": url, "events": events }).to_string();
    server.send(request("POST", path(server)).bearer(&server.token).body(body)).await.success(201, "create")
}

#[tokio::test]
async fn events_are_told_signed_and_only_those_that_were_asked_for() {
    let server = open_server().await;
    let (all, deletions) =
        (Receiver::start("127.0.0.1:0", &[]).await, Receiver::start("127.0.0.1:0", &[]).await);
    let made = create(&server, &all.url(), &[]).await;
    create(&server, &deletions.url(), &["turn_key.deleted"]).await;
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));

    let (uid, _) = server.key().await;
    for (method, what) in [("POST", "/suspend"), ("POST", "/resume"), ("DELETE", "")] {
        let ask = request(method, format!("{}/{uid}{what}", server.keys_path())).bearer(&server.token);
        server.send(ask).await.success(200, what);
    }
    let heard = all.hears(4).await;
    let mut kinds: Vec<_> =
        heard.iter().map(|text| body(text)["type"].as_str().unwrap().to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, ["turn_key.created", "turn_key.deleted", "turn_key.resumed", "turn_key.suspended"]);
    let first = &heard[0];
    assert!(first.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{first}");
    assert_eq!(header(first, "host"), all.address.to_string());
    assert!(header(first, "webhook-id").starts_with("msg_"));
    assert!(header(first, "webhook-signature").starts_with("v1,"));
    let at: u64 = header(first, "webhook-timestamp").parse().unwrap();
    assert!(at.abs_diff(super::server::now()) < 60);
    assert_eq!(body(first)["data"]["target"], uid);
    assert_eq!(body(&deletions.hears(1).await[0])["type"], "turn_key.deleted");

    let shown = server.send(request("GET", path(&server)).bearer(&server.token)).await.success(200, "list");
    assert_eq!((shown.as_array().unwrap().len(), shown[0].get("secret")), (2, None), "shown once only");
    let id = made["id"].as_str().unwrap();
    let one =
        |method, what: &str| request(method, format!("{}/{id}{what}", path(&server))).bearer(&server.token);
    assert_eq!(server.send(one("POST", "/test")).await.status, 204);
    let last = all.hears(5).await[4].clone();
    assert_eq!(body(&last)["type"], "webhook.test");
    server.send(one("DELETE", "")).await.success(200, "delete");
    server.send(one("POST", "/test")).await.failure(404, 20_042, "it is gone");
}

#[tokio::test]
async fn what_fails_is_tried_again_with_the_same_id() {
    let server = open_server().await;
    let receiver = Receiver::start("127.0.0.1:0", &[500]).await;
    create(&server, &receiver.url(), &[]).await;
    server.key().await;
    let heard = receiver.hears(2).await;
    assert_eq!(header(&heard[0], "webhook-id"), header(&heard[1], "webhook-id"));
    assert_eq!(body(&heard[0]), body(&heard[1]));
    assert_ne!(header(&heard[0], "webhook-timestamp"), header(&heard[1], "webhook-timestamp"));
}

#[tokio::test]
async fn a_receiver_that_is_down_hears_of_it_when_it_is_back() {
    let server = open_server().await;
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    let (url, address) = (receiver.url(), receiver.address.to_string());
    receiver.task.abort();
    assert!(receiver.task.await.is_err());
    let made = create(&server, &url, &[]).await;
    server.key().await;
    let deliveries = format!("{}/{}/deliveries", path(&server), made["id"].as_str().unwrap());
    let waiting = async || {
        server.send(request("GET", &*deliveries).bearer(&server.token)).await.success(200, "deliveries")
    };
    let failed = async {
        while waiting().await[0]["fault"] == "" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), failed).await.expect("an attempt fails");
    assert!(waiting().await[0]["due"].is_string(), "it is tried again");
    let back = Receiver::start(&address, &[]).await;
    assert_eq!(body(&back.hears(1).await[0])["type"], "turn_key.created");
    let empty = async {
        while waiting().await != json!([]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), empty).await.expect("it has arrived");
}

#[tokio::test]
async fn what_is_given_up_is_listed_and_delivered_again_on_demand() {
    let change = |config: &mut control::Config, _: &Store| {
        config.webhook_networks = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhook_lifetime_secs = 1;
    };
    let server = server_with(change, |store| store).await;
    let receiver = Receiver::start("127.0.0.1:0", &[503, 302]).await;
    let made = create(&server, &receiver.url(), &[]).await;
    let webhook = format!("{}/{}", path(&server), made["id"].as_str().unwrap());
    server.key().await;
    server.key().await;
    let dead = async || {
        let ask = request("GET", format!("{webhook}/deliveries?state=dead")).bearer(&server.token);
        server.send(ask).await.success(200, "dead").as_array().unwrap().clone()
    };
    let both = async {
        while dead().await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("both are given up");
    let dead_now = dead().await;
    assert!(dead_now.iter().all(|it| it["due"] == Value::Null && it["attempts"] == 1), "{dead_now:?}");
    let mut faults: Vec<_> = dead_now.iter().map(|it| it["fault"].as_str().unwrap()).collect();
    faults.sort_unstable();
    assert_eq!(faults, ["it answered 302", "it answered 503"], "a redirection is not followed");

    let again = async |body: Value| {
        let ask = request("POST", format!("{webhook}/redeliver")).bearer(&server.token);
        server.send(ask.body(body.to_string())).await.success(200, "redeliver")["count"].clone()
    };
    assert_eq!(again(json!({ "event": "msg_none" })).await, 0);
    assert_eq!(again(json!({ "event": dead_now[1]["event"] })).await, 1);
    let heard = receiver.hears(3).await;
    assert_eq!(header(&heard[2], "webhook-id"), dead_now[1]["event"]);
    assert_eq!(again(json!({})).await, 1);
    assert_eq!(header(&receiver.hears(4).await[3], "webhook-id"), dead_now[0]["event"]);
    let wrong = request("GET", format!("{webhook}/deliveries?state=x")).bearer(&server.token);
    server.send(wrong).await.failure(400, 20_040, "no such state");
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_up_no_other() {
    let server = open_server().await;
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    for _ in 0..3 {
        create(&server, &format!("http://{}/", hole.local_addr().unwrap()), &[]).await;
    }
    create(&server, &receiver.url(), &[]).await;
    let begun = Instant::now();
    for _ in 0..40 {
        server.store.create_key(&server.account.id, "").await.unwrap();
    }
    receiver.hears(40).await;
    assert!(begun.elapsed() < Duration::from_secs(9), "no attempt into the hole is over yet");
}

#[tokio::test]
async fn the_end_of_a_session_is_told_once_and_to_its_own_account() {
    let server = open_server().await;
    let (key, node) = (made_key(&server).await, node("a"));
    let ended = |id: u8| SessionReport {
        ended: Some("expired"),
        ..report(id, key, 2, "2026-03-01T10:01:00Z", id.into())
    };
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    create(&server, &receiver.url(), &["session.ended"]).await;
    let other = server.store.create_account(None, "other").await.unwrap();
    let others = Receiver::start("127.0.0.1:0", &[]).await;
    let keyring = server.keyring.load_full();
    server.store.create_webhook(&keyring, &other.id, &others.url(), &[]).await.unwrap();
    server.store.record_usage(&node, &[ended(2)]).await.unwrap();
    receiver.hears(1).await;
    server.store.record_usage(&node, &[ended(2), ended(3)]).await.unwrap();
    let heard = receiver.hears(2).await;
    let mut ids: Vec<_> = heard.iter().map(|it| body(it)["data"]["details"]["id"].clone()).collect();
    ids.sort_by_key(Value::to_string);
    assert_eq!(ids, [json!("02".repeat(16)), json!("03".repeat(16))]);
    let told = body(&heard[0]);
    assert_eq!(told["type"], "session.ended");
    assert_eq!(told["data"]["target"], key.to_string());
    assert_eq!(told["data"]["details"]["endReason"], "expired");
    assert_eq!(told["data"]["details"].get("clientAddress"), None);
    assert!(others.heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn private_receivers_and_wrong_requests_are_refused() {
    let server = server().await;
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    let made = create(&server, &receiver.url(), &[]).await;
    server.key().await;
    let deliveries = format!("{}/{}/deliveries", path(&server), made["id"].as_str().unwrap());
    let fault = async {
        loop {
            let list = server.send(request("GET", &*deliveries).bearer(&server.token)).await;
            let fault = list.success(200, "deliveries")[0]["fault"].as_str().unwrap().to_owned();
            if !fault.is_empty() {
                return fault;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let fault = tokio::time::timeout(Duration::from_secs(10), fault).await.expect("an attempt fails");
    assert!(fault.contains("--webhook-network"), "{fault}");
    assert!(receiver.heard.lock().unwrap().is_empty());

    let post = |body: &str| request("POST", path(&server)).bearer(&server.token).body(body);
    for (body, code) in [
        ("{}", 20_043),
        (r#"{"url":1}"#, 20_043),
        (r#"{"url":"ftp://a/"}"#, 20_043),
        (r#"{"url":"https://u:p@a/"}"#, 20_043),
        (r#"{"url":"https://a/","events":["x"]}"#, 20_044),
        (r#"{"url":"https://a/","events":"turn_key.created"}"#, 20_044),
    ] {
        server.send(post(body)).await.failure(400, code, body);
    }
    let reader = server.token(Permission::Read, None).await;
    let by_reader = request("POST", path(&server)).bearer(&reader).body(r#"{"url":"https://a/"}"#);
    server.send(by_reader).await.failure(403, 10_000, "a reader");
    for _ in 1..20 {
        server.send(post(r#"{"url":"https://a.example/"}"#)).await.success(201, "within the limit");
    }
    server.send(post(r#"{"url":"https://a.example/"}"#)).await.failure(409, 20_045, "one too many");
}
