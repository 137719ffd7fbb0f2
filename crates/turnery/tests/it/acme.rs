//! Certificates from an ACME authority: Pebble, Let's Encrypt's own for tests, each time one's own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::tls;
use turn::Transport;

use crate::fixture::{ACCOUNT, LONG, Running, Server, TOKEN, echo_peer, finish, start_command, turnery};

const NAME: &str = "turn.example.org";
const YEAR_SECS: u32 = 365 * 86_400;
/// An outer bound: an attempt that a nonce was refused too often in is made again after 10 to 15 s.
const ISSUED: Duration = Duration::from_mins(1);

/// An authority with its DNS, at an address of its own.
struct Pebble {
    ip: String,
    dir: TempDir,
    dns: Option<Running>,
    ca: Option<Running>,
}

impl Pebble {
    /// `n` is this test's own. Nothing runs yet.
    fn new(n: u8) -> Self {
        let pid = std::process::id();
        let ip = format!("127.{}.{}.{n}", 64 + pid / 250 % 180, pid % 250);
        let dir = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(dir.path().join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let authority = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![ip.clone()]).unwrap();
        fs::write(dir.path().join("ca.pem"), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        fs::write(dir.path().join("ca.key"), key.serialize_pem()).unwrap();
        Self { ip, dir, dns: None, ca: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts both and waits until they answer.
    fn start(&mut self, external_account: bool, lifetime_secs: u32) {
        let ip = &self.ip;
        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-defaultIPv4", ip]);
        dns.args(["-dns01", &format!("{ip}:8053"), "-management", &format!("{ip}:8055")]);
        self.dns = Some(quiet(dns, Stdio::null()));
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("{ip}:14000"),
            "managementListenAddress": "",
            "certificate": self.path("ca.pem"),
            "privateKey": self.path("ca.key"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "certificateValidityPeriod": lifetime_secs,
            "externalAccountBindingRequired": external_account,
            "externalAccountMACKeys": { "kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" },
        }});
        fs::write(self.path("pebble.json"), config.to_string()).unwrap();
        let mut ca = Command::new("pebble");
        ca.arg("-config").arg(self.path("pebble.json"));
        ca.args(["-strict=false", "-dnsserver", &format!("{ip}:8053")]);
        // Answers are looked at without a pause, every time anew, and good nonces are refused as they are in earnest.
        ca.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_WFE_NONCEREJECT", "15")]);
        self.ca = Some(quiet(ca, fs::File::create(self.path("log")).unwrap().into()));
        for port in [14_000, 8_055] {
            let begun = Instant::now();
            while TcpStream::connect((ip.as_str(), port)).is_err() {
                assert!(begun.elapsed() < LONG, "nothing answers at {ip}:{port}: {}", self.log());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn stop(&mut self) {
        (self.ca, self.dns) = (None, None);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How often it has issued a certificate.
    fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// `turnery serve` that asks this authority.
    fn serve(&self, data: &Path, more: &[&str]) -> Command {
        let directory = format!("https://{}:14000/dir", self.ip);
        let root = self.path("root.pem");
        let mut command = turnery(&["serve", "--data-dir", data.to_str().unwrap()]);
        command.args(["--api-listen", "127.0.0.1:0", "--turn-listen", "udp://127.0.0.1:0"]);
        command.args(["--relay-address", "127.0.0.1", "--allow-peer", "127.0.0.0/8"]);
        command.args(["--acme-domain", NAME, "--acme-accept-terms", "--acme-email", "admin@example.org"]);
        command.args(["--acme-directory", &directory, "--acme-root-ca", root.to_str().unwrap()]);
        command.args(more);
        command.env("TURNERY_BOOTSTRAP_ACCOUNT", ACCOUNT).env("TURNERY_BOOTSTRAP_TOKEN", TOKEN);
        command
    }
}

fn quiet(mut command: Command, out: Stdio) -> Running {
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
    Running(command.spawn().expect("Pebble is missing: apt-get install pebble"))
}

/// What `turnery certificates --json` says of the one that there is.
fn status(data: &Path, more: &[&str]) -> Value {
    let args = ["certificates", "--json", "--data-dir", data.to_str().unwrap()];
    let output = finish(turnery(&[&args[..], more].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    all[0].clone()
}

fn shown(server: &Server) -> Vec<u8> {
    tls::connect(server.listener(Transport::Tls)).unwrap().certificate.unwrap().to_vec()
}

/// Waits for a certificate that differs, and lets nothing else be shown meanwhile.
fn another(server: &Server, before: &[u8]) -> Vec<u8> {
    let begun = Instant::now();
    loop {
        let now = shown(server);
        if now != before {
            return now;
        }
        assert!(begun.elapsed() < ISSUED, "no other certificate: {}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn tls_alpn_01_issues_and_a_live_session_survives_the_renewal() {
    let mut pebble = Pebble::new(1);
    // Renewed after two thirds of that.
    pebble.start(false, 24);
    let data = tempfile::tempdir().unwrap();
    let listen = format!("tls://{}:5001", pebble.ip);
    let more = ["--turn-listen", &listen, "--acme-challenge", "tls-alpn-01"];
    let server = start_command(pebble.serve(data.path(), &more));
    let placeholder = shown(&server);
    let first = another(&server, &placeholder);
    let told = status(data.path(), &[]);
    assert!(told["issuer"].as_str().unwrap().starts_with("Pebble Intermediate"), "{told}");
    assert_eq!(told["names"], serde_json::json!([NAME]));
    assert!(told["lastError"].is_null() && told["nextRenewal"].is_string(), "{told}");
    // The name is what URLs have, for that is what the certificate is good for.
    let key = server.create_key();
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let ice = server.ask("POST", &path, &key.secret, Some("{\"ttl\":600}"), 201).to_string();
    assert!(ice.contains(&format!("turns:{NAME}:5001")), "{ice}");

    let minted = server.mint(&key, 600);
    let peer = echo_peer();
    let mut client = server.client(Transport::Tls, &minted);
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    let begun = Instant::now();
    let mut rounds = 0;
    let second = loop {
        client.send_to(peer, b"through a renewal").unwrap();
        let (_, back) = client.recv(LONG).unwrap().expect("an echo");
        assert_eq!(back, b"through a renewal");
        rounds += 1;
        // An ordinary client never sees the answer to the challenge.
        let now = shown(&server);
        if now != first {
            break now;
        }
        assert!(begun.elapsed() < ISSUED, "no renewal: {}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(rounds > 1 && second != placeholder && pebble.issued() >= 2, "{}", pebble.log());
    client.send_to(peer, b"and after it").unwrap();
    assert_eq!(client.recv(LONG).unwrap().expect("an echo").1, b"and after it");
    client.refresh(600).unwrap();
}

#[test]
fn http_01_issues_once_for_two_processes_with_one_store_and_a_restart_asks_nobody() {
    let mut pebble = Pebble::new(2);
    pebble.start(false, YEAR_SECS);
    let data = tempfile::tempdir().unwrap();
    let answers = format!("{}:5002", pebble.ip);
    let common = ["--turn-listen", "tls://127.0.0.1:0", "--acme-challenge", "http-01", "--acme-http-listen"];
    // The authority comes to one of them, whichever has the order.
    let one =
        start_command(pebble.serve(data.path(), &[&common[..], &[&answers, "--node-name", "a"]].concat()));
    let two =
        start_command(pebble.serve(data.path(), &[&common[..], &["none", "--node-name", "b"]].concat()));
    let (at_one, at_two) = (shown(&one), shown(&two));
    let first = another(&one, &at_one);
    assert_eq!(another(&two, &at_two), first);
    let nothing = over_http(&answers, "/.well-known/acme-challenge/unknown");
    assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
    assert!(over_http(&answers, "/client/v4/accounts").starts_with("HTTP/1.1 404"));
    status(data.path(), &["--renew"]);
    let second = another(&two, &first);
    assert_eq!(another(&one, &first), second);
    let asked = one.log().matches("a certificate is asked for").count()
        + two.log().matches("a certificate is asked for").count();
    let failed = one.log().matches("no certificate:").count() + two.log().matches("no certificate:").count();
    assert_eq!(asked, 2 + failed, "{}\n{}", one.log(), two.log());
    // On a busy machine the authority may issue what nobody fetches in time.
    let issued = pebble.issued();
    assert!((2..=asked).contains(&issued), "{issued}: {}\n{}\n{}", pebble.log(), one.log(), two.log());

    drop((one.end(), two.end()));
    pebble.stop();
    let again = start_command(pebble.serve(data.path(), &[&common[..], &["none"]].concat()));
    assert_eq!(shown(&again), second);
    // Some looks at what is due later.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!((shown(&again), status(data.path(), &[])["failures"].as_u64()), (second, Some(0)));
    assert!(!again.log().contains("a certificate is asked for"), "{}", again.log());
}

/// What is answered over plain HTTP.
fn over_http(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A hook that writes what it is told down and speaks to the DNS of the authority, unless `broken` is there.
fn hook(pebble: &Pebble) -> PathBuf {
    let script = r#"#!/bin/bash
echo "$1 $2 $3" >>"DIR/hook.log"
if [ -e "DIR/broken" ]; then echo "no such zone" >&2; exit 3; fi
path=/set-txt; body="{\"host\":\"$3.\",\"value\":\"$4\"}"
if [ "$1" = cleanup ]; then path=/clear-txt; body="{\"host\":\"$3.\"}"; fi
exec 3<>"/dev/tcp/IP/8055"
printf 'POST %s HTTP/1.1\r\nHost: dns\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' $path ${#body} "$body" >&3
read -r answer <&3
case "$answer" in *" 200 "*) ;; *) echo "$answer" >&2; exit 4 ;; esac
"#;
    let path = pebble.path("hook");
    let script = script.replace("DIR", pebble.dir.path().to_str().unwrap()).replace("IP", &pebble.ip);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn dns_01_issues_through_the_hook_and_a_failure_is_told() {
    let mut pebble = Pebble::new(3);
    pebble.start(true, YEAR_SECS);
    let data = tempfile::tempdir().unwrap();
    let hook = hook(&pebble);
    fs::write(pebble.path("broken"), "").unwrap();
    fs::write(pebble.path("eab"), "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n")
        .unwrap();
    let eab = pebble.path("eab");
    let more = [
        "--turn-listen",
        "tls://127.0.0.1:0",
        "--acme-domain",
        "*.turn.example.org",
        "--acme-challenge",
        "dns-01",
        "--acme-dns-hook",
        hook.to_str().unwrap(),
        "--acme-eab-key-id",
        "kid-1",
        "--acme-eab-key-file",
        eab.to_str().unwrap(),
    ];
    let server = start_command(pebble.serve(data.path(), &more));
    let placeholder = shown(&server);
    let begun = Instant::now();
    let told = loop {
        let told = status(data.path(), &[]);
        if told["lastError"].as_str().is_some_and(|it| it.contains("hook")) {
            break told;
        }
        assert!(begun.elapsed() < ISSUED, "no failure: {told}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let error = told["lastError"].as_str().unwrap();
    assert!(error.contains("exit status: 3: no such zone") && error.contains("hook set"), "{error}");
    assert!(told["nextTry"].is_string() && told["issuer"].is_null(), "{told}");
    // Minutes would pass; whoever has repaired it says so.
    fs::remove_file(pebble.path("broken")).unwrap();
    status(data.path(), &["--renew"]);
    another(&server, &placeholder);
    let told = status(data.path(), &[]);
    assert_eq!(told["names"], serde_json::json!(["*.turn.example.org", NAME]));
    assert!(told["lastError"].is_null() && told["failures"] == 0, "{told}");
    let (_, log) = server.end();
    let hooked = fs::read_to_string(pebble.path("hook.log")).unwrap();
    // Two names, one record each, with one name in the DNS; whatever was set is cleaned up.
    let count = |line: &str| hooked.lines().filter(|it| *it == line).count();
    let (set, cleaned) = (
        count("set turn.example.org _acme-challenge.turn.example.org"),
        count("cleanup turn.example.org _acme-challenge.turn.example.org"),
    );
    assert!(set >= 3 && set == cleaned, "{hooked}\n{log}");
}

#[test]
fn an_authority_that_is_down_holds_nothing_up_and_is_asked_again() {
    let mut pebble = Pebble::new(4);
    let data = tempfile::tempdir().unwrap();
    let listen = format!("tls://{}:5001", pebble.ip);
    let server = start_command(pebble.serve(data.path(), &["--turn-listen", &listen]));
    let placeholder = shown(&server);
    let begun = Instant::now();
    let told = loop {
        let told = status(data.path(), &[]);
        if told["failures"].as_u64().unwrap() > 0 {
            break told;
        }
        assert!(begun.elapsed() < ISSUED, "no failure: {told}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let error = told["lastError"].as_str().unwrap();
    for part in [&format!("https://{}:14000/dir", pebble.ip), "refused", "--acme-directory", "--acme-root-ca"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let metrics = over_http(server.api.trim_start_matches("http://"), "/metrics");
    assert!(metrics.contains("turnery_certificate_renewal_failures "), "{metrics}");
    assert!(!metrics.contains("turnery_certificate_expiry_time_seconds "), "{metrics}");
    assert!(server.log().contains("no certificate: "), "{}", server.log());
    pebble.start(false, YEAR_SECS);
    another(&server, &placeholder);
    assert_eq!(status(data.path(), &[])["failures"], 0);
    let metrics = over_http(server.api.trim_start_matches("http://"), "/metrics");
    assert!(metrics.contains("turnery_certificate_expiry_time_seconds "), "{metrics}");
}
