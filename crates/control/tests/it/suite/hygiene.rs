//! Request ids, rates, CORS, headers, idempotency, and connections that do not behave.

use std::net::SocketAddr;
use std::time::Duration;

use control::Rate;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::server::{Server, server, server_with};
use crate::http::{Request, request};

#[tokio::test]
async fn every_answer_has_its_requests_id_and_the_safe_headers() {
    let server = server().await;
    let ask = |path: &str| request("GET", path.to_owned());
    for (path, status) in [("/healthz", 200), ("/nothing", 404), ("/client/v4/accounts", 400), ("/try", 200)]
    {
        let reply = server.send(ask(path)).await;
        assert_eq!(reply.status, status, "{path}");
        let id = reply.header("x-request-id").expect("an id").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{path}");
        }
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let kept = server.send(ask(path).header("x-request-id", "a-1/b")).await;
        assert_eq!(kept.header("x-request-id"), Some("a-1/b"));
        let refused = server.send(ask(path).header("x-request-id", "a\"b")).await;
        assert_ne!(refused.header("x-request-id"), Some("a\"b"), "what cannot be logged is not kept");
    }
}

#[tokio::test]
async fn an_address_that_calls_too_often_has_to_wait() {
    let change = |config: &mut control::Config, _: &control::store::Store| {
        config.address_rate = Some(Rate { per_sec: 1, burst: 3 });
        // What a proxy on loopback says counts as the client's address.
        config.proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let server = server_with(change, |store| store).await;
    let from = |address: &str| request("GET", "/healthz").header("X-Forwarded-For", address);
    for address in ["198.51.100.1", "2001:db8::1"] {
        for _ in 0..3 {
            assert_eq!(server.send(from(address)).await.status, 200);
        }
        let reply = server.send(from(address)).await;
        reply.failure(429, 20_021, address);
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    server.send(from("2001:db8::ffff")).await.failure(429, 20_021, "the same /64");
    assert_eq!(server.send(from("2001:db8:0:1::1")).await.status, 200, "another /64");
    assert_eq!(server.send(from("198.51.100.2")).await.status, 200, "another address");
    for _ in 0..10 {
        assert_eq!(server.send(request("GET", "/healthz")).await.status, 200, "loopback");
    }
}

#[tokio::test]
async fn other_origins_may_call_only_when_they_are_named() {
    let preflight = |server: &Server, origin: &str| {
        request("OPTIONS", server.keys_path())
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
    };
    let allow = "access-control-allow-origin";
    let closed = server().await;
    let reply = closed.send(preflight(&closed, "https://app.example")).await;
    reply.failure(405, 10_405, "nobody is named");
    assert_eq!((reply.header(allow), reply.header("vary")), (None, None));

    let named =
        server_with(|config, _| config.cors_origins = vec!["https://app.example".to_owned()], |it| it).await;
    let reply = named.send(preflight(&named, "https://app.example")).await;
    assert_eq!((reply.status, reply.header(allow)), (204, Some("https://app.example")));
    assert!(reply.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(reply.header("access-control-allow-credentials").is_none());
    let list = request("GET", named.keys_path()).bearer(&named.token).header("Origin", "https://app.example");
    let reply = named.send(list).await;
    assert_eq!((reply.status, reply.header(allow)), (200, Some("https://app.example")));
    assert_eq!(reply.header("vary"), Some("origin"));
    for stranger in ["https://evil.example", "https://app.example.evil.example", "null"] {
        let reply = named.send(preflight(&named, stranger)).await;
        assert_eq!((reply.status, reply.header(allow)), (405, None), "{stranger}");
    }

    let open = server_with(|config, _| config.cors_origins = vec!["*".to_owned()], |it| it).await;
    assert_eq!(open.send(preflight(&open, "https://x.example")).await.header(allow), Some("*"));
}

#[tokio::test]
async fn a_request_that_is_sent_again_creates_nothing_twice() {
    let server = server().await;
    let keys = server.keys_path();
    let create = |path: &str, key: &str, body: &str| {
        request("POST", path).bearer(&server.token).header("Idempotency-Key", key).body(body)
    };
    let (first, again) = (create(&keys, "k1", r#"{"name":"a"}"#), create(&keys, "k1", r#" {"name": "a"}"#));
    let (first, again) = (server.send(first).await, server.send(again).await);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body, "the same answer, the secret and all");
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!(again.header("content-type"), Some("application/json"));
    let other = server.send(create(&keys, "k2", r#"{"name":"a"}"#)).await;
    assert_ne!(first.body, other.body);
    server.send(create(&keys, "k1", r#"{"name":"b"}"#)).await.failure(422, 20_046, "another request");
    assert_eq!(server.store.keys(&server.account.id).await.unwrap().len(), 2);

    let uid = first.json()["uid"].as_str().unwrap().to_owned();
    let secrets = format!("{keys}/{uid}/shared_secrets");
    server.send(create(&secrets, "k1", r#"{"name":"a"}"#)).await.failure(422, 20_046, "another path");
    let (one, two) = (create(&secrets, "k3", ""), create(&secrets, "k3", ""));
    assert_eq!(server.send(one).await.body, server.send(two).await.body);
    assert_eq!(server.store.shared_secrets(uid.parse().unwrap()).await.unwrap().len(), 1);

    // Eight at once make one.
    let attempts: Vec<_> = (0..8)
        .map(|_| {
            let (request, addr) = (create(&keys, "k4", "{}"), server.addr);
            tokio::spawn(async move { request.send(addr).await.body })
        })
        .collect();
    let mut bodies = Vec::new();
    for attempt in attempts {
        bodies.push(attempt.await.unwrap());
    }
    bodies.dedup();
    assert_eq!((bodies.len(), server.store.keys(&server.account.id).await.unwrap().len()), (1, 3));

    let stranger = server.token(control::store::Permission::Write, None).await;
    let theirs = request("POST", &*keys).bearer(&stranger).header("Idempotency-Key", "k4").body("{}");
    assert_ne!(server.send(theirs).await.body, bodies[0], "each token has its own");
    for wrong in ["", &"k".repeat(256)] {
        server.send(create(&keys, wrong, "")).await.failure(400, 20_039, wrong);
    }
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    let token = server.store.tokens(&server.account.id).await.unwrap().remove(0);
    assert!(server.place.holds(token.id.as_str().as_bytes()), "the search is one that finds");
    assert!(!server.place.holds(secret.as_bytes()), "sealed");
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    // Loopback is trusted as `127.0.0.1` and not limited: connections come from elsewhere than that.
    let Some(own) = own_address() else { return };
    let change = |config: &mut control::Config, _: &control::store::Store| config.connections_per_address = 3;
    let server = server_on(own, change).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(served(connect(own, server.addr).await).await.expect("within what it may"));
    }
    assert!(served(connect(own, server.addr).await).await.is_none(), "one too many is closed");
    held.pop();
    let room = async {
        while served(connect(own, server.addr).await).await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("there is room again");
}

/// An address of this machine that is not loopback; `None` where there is none.
fn own_address() -> Option<std::net::IpAddr> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    probe.connect("192.0.2.1:9").ok()?;
    Some(probe.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

async fn server_on(
    ip: std::net::IpAddr,
    configure: impl FnOnce(&mut control::Config, &control::store::Store),
) -> Server {
    super::server::server_at(SocketAddr::new(ip, 0), configure, |store| store).await
}

async fn connect(from: std::net::IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// The connection, if it is answered on and kept.
async fn served(mut stream: TcpStream) -> Option<TcpStream> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
    let mut buffer = [0; 512];
    match stream.read(&mut buffer).await {
        Ok(length) if length > 0 => Some(stream),
        _ => None,
    }
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_up_others() {
    let server = server().await;
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 10\r\n\r\n{{",
        server.keys_path(),
        server.token
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let ask = |path: String| -> Request { request("GET", path).bearer(&server.token) };
    assert_eq!(server.send(ask(server.keys_path())).await.success(200, "list"), json!([]));
}
