//! A monthly limit cuts a key, and a webhook tells of it, also when its receiver was down and the process was killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use turn::Transport;

use crate::fixture::{
    ACCOUNT, LONG, LOOPBACK, Minted, Server, TOKEN, echo_peer, keys_path, known, relays, signal,
    start_command, text,
};

const LIMIT_BYTES: u64 = 200_000;
/// In which time a key is cut: the promise.
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// What a receiver was told.
struct Told {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// That the signature is right, as another implementation reckons it.
    fn expect_signed_by(&self, secret: &str) {
        let script = "key=$(printf %s \"$0\" | base64 -d | od -An -tx1 -v | tr -d ' \\n'); \
                      openssl dgst -sha256 -mac HMAC -macopt \"hexkey:$key\" -binary | base64";
        let secret = secret.strip_prefix("whsec_").unwrap();
        let mut child = Command::new("sh")
            .args(["-c", script, secret])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        child.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(self.signature, format!("v1,{}", String::from_utf8(output.stdout).unwrap().trim()));
    }
}

/// A receiver here that takes everything; it ends with the test's process.
fn receiver(address: SocketAddr) -> Receiver<Told> {
    let listener = TcpListener::bind(address).unwrap();
    let (sender, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = sender.send(take(stream.unwrap()).expect("it is told whole"));
        }
    });
    told
}

/// One event, which is answered; `None` where the other end hangs up.
fn take(stream: impl Read + Write) -> Option<Told> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let value = head.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.unwrap_or_default().to_owned()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    reader.get_mut().write_all(b"HTTP/1.1 204 Heard\r\n\r\n").ok()?;
    Some(Told {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: String::from_utf8(body).unwrap(),
    })
}

/// Waits until a delivery of this kind has failed.
fn wait_for_fault(server: &Server, deliveries: &str, kind: &str) {
    let deadline = Instant::now() + LONG;
    loop {
        let waiting = server.ask("GET", deliveries, TOKEN, None, 200)["result"].clone();
        let failed = |it: &Value| it["type"] == kind && it["fault"] != "";
        if waiting.as_array().unwrap().iter().any(failed) {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// For how long the receiver is down after the cut.
fn down_for() -> Duration {
    let secs = std::env::var("TURNERY_RECEIVER_DOWN_SECS").ok().map(|secs| secs.parse().unwrap());
    Duration::from_secs(secs.unwrap_or(2))
}

#[test]
fn a_key_beyond_its_month_is_cut_and_its_operator_told() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&LOOPBACK[..], &["--webhook-network", "127.0.0.0/8"]].concat();
    let mut server = start_command(known(dir.path(), &args));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let webhooks = format!("/client/v4/accounts/{ACCOUNT}/webhooks");
    let asked = json!({ "url": format!("http://{address}/"), "events":
        ["turn_key.limit_reached", "session.ended"] });
    let made = server.ask("POST", &webhooks, TOKEN, Some(&asked.to_string()), 201)["result"].clone();
    let deliveries = format!("{webhooks}/{}/deliveries", text(&made["id"]));
    let key = server.create_key();
    let month = format!("{}/{}/month_limit", keys_path(), key.uid);
    let limit = json!({ "bytes": LIMIT_BYTES, "action": "cut" }).to_string();
    server.ask("PUT", &month, TOKEN, Some(&limit), 200);

    let minted = server.mint(&key, 3_600);
    let mut client = server.client(Transport::Udp, &minted);
    let peer = echo_peer();
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    let (mut egress, mut crossed, mut last) = (0, None, Instant::now());
    loop {
        client.send_to(peer, &[7; 996]).unwrap();
        let Some(_) = client.recv(Duration::from_secs(1)).unwrap() else { break };
        (egress, last) = (egress + 1_000, Instant::now());
        if egress >= LIMIT_BYTES {
            let since = *crossed.get_or_insert(last);
            assert!(since.elapsed() < CUT_WITHIN, "{}", server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let took = last - crossed.expect("no traffic ends before the limit");
    assert_eq!(server.refusal(Transport::Udp, &minted), Some(401));
    let generate = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let refused = server.ask("POST", &generate, &key.secret, None, 403);
    assert_eq!(refused["errors"][0]["code"], 20_049);

    // What could not be delivered survives the process, and so does the cut.
    wait_for_fault(&server, &deliveries, "turn_key.limit_reached");
    let down = Instant::now();
    signal(&server.child, "KILL");
    server.child.wait(LONG).expect("what is killed ends");
    let server = start_command(known(dir.path(), &args));
    server.ask("POST", &generate, &key.secret, None, 403);
    std::thread::sleep(down_for().saturating_sub(down.elapsed()));
    let (up, told) = (Instant::now(), receiver(address));
    let mut kinds = Vec::new();
    while !["turn_key.limit_reached", "session.ended"].iter().all(|kind| kinds.contains(&(*kind).to_owned()))
    {
        let told = told.recv_timeout(LONG + down_for()).expect("it is told");
        told.expect_signed_by(&text(&made["secret"]));
        assert_eq!(told.json()["data"]["target"], key.uid);
        kinds.push(text(&told.json()["type"]));
    }
    println!("cut after {took:?}; told {:?} after a receiver was back from {:?}", up.elapsed(), up - down);

    server.ask("DELETE", &month, TOKEN, None, 200);
    relays(&mut server.client(Transport::Udp, &minted));
    what_relays_goes_on_where_only_new_is_refused(&server, &minted, &month);
}

fn what_relays_goes_on_where_only_new_is_refused(server: &Server, minted: &Minted, month: &str) {
    let mut client = server.client(Transport::Tcp, minted);
    let peer = echo_peer();
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    server.ask("PUT", month, TOKEN, Some(r#"{"bytes":1}"#), 200);
    let begun = Instant::now();
    while server.refusal(Transport::Udp, minted) != Some(486) {
        assert!(begun.elapsed() < Duration::from_secs(1), "{}", server.log());
    }
    client.send_to(peer, b"there and back").unwrap();
    assert!(client.recv(LONG).unwrap().is_some());
    client.refresh(600).unwrap();
}

#[test]
fn a_webhook_is_told_within_tls_by_who_trusts_its_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let (sender, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let _ = sender.send(take(StreamOwned::new(tls, stream.unwrap())));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, made.cert.pem()).unwrap();
    let args = [&LOOPBACK[..], &["--webhook-network", "127.0.0.0/8"]].concat();
    let asked = json!({ "url": url }).to_string();
    for trusts in [true, false] {
        let data = dir.path().join(if trusts { "a" } else { "b" });
        let mut command = known(&data, &args);
        if trusts {
            command.env("SSL_CERT_FILE", &trusted);
        }
        let server = start_command(command);
        let webhooks = format!("/client/v4/accounts/{ACCOUNT}/webhooks");
        server.ask("POST", &webhooks, TOKEN, Some(&asked), 201);
        server.create_key();
        let told = told.recv_timeout(LONG).expect("it is tried");
        assert_eq!(told.is_some(), trusts, "{}", server.log());
    }
}
