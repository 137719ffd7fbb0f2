//! What the service tells of itself: metrics, readiness, log, manual.

#![allow(clippy::float_cmp, reason = "counts are whole")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use turn::Transport;

use crate::fixture::{
    LONG, LOOPBACK, Server, finish, keys_path, known, relays, start, start_command, turnery,
};

/// A scrape: status, content type and text.
pub(crate) fn scrape(server: &Server, path: &str, bearer: Option<&str>) -> (u16, String, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.get(format!("{}{path}", server.api));
    if let Some(bearer) = bearer {
        request = request.header("Authorization", format!("Bearer {bearer}"));
    }
    let mut response = request.call().unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), kind, response.body_mut().read_to_string().unwrap())
}

/// Each series, as it is written, with its value.
pub(crate) fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn what_is_relayed_refused_and_dropped_is_told() {
    let server = start();
    let key = server.create_key();
    let mut udp = server.client(Transport::Udp, &server.mint(&key, 60));
    let mut tcp = server.client(Transport::Tcp, &server.mint(&key, 60));
    relays(&mut udp);
    relays(&mut tcp);
    let stray = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stray.send_to(b"\xffneither", server.listener(Transport::Udp)).unwrap();
    udp.refresh(0).unwrap();

    for _ in 0..3 {
        let (status, _, _) = scrape(&server, "/made/up", None);
        assert_eq!(status, 404);
    }
    // Its relayed address is closed after the answer has left.
    let ended = "turnery_allocations_ended_total{reason=\"deleted\"} 1\n";
    let deadline = Instant::now() + LONG;
    while !scrape(&server, "/metrics", None).2.contains(ended) {
        assert!(Instant::now() < deadline, "no end is counted");
    }
    let (status, kind, text) = scrape(&server, "/metrics", None);
    assert_eq!((status, &*kind), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let series = series(&text);
    let value = |name: &str| *series.get(name).unwrap_or_else(|| panic!("{name} in\n{text}"));
    // Through a channel and as an indication: 14 bytes each; back with 4 bytes before it, and 36 around it.
    for (transport, padding) in [("udp", 0.0), ("tcp", 2.0)] {
        let of = |name: &str, direction: &str| {
            value(&format!(
                "turnery_relayed_{name}_total{{direction=\"{direction}\",transport=\"{transport}\"}}"
            ))
        };
        assert_eq!((of("packets", "to_peer"), of("bytes", "to_peer")), (2.0, 28.0), "{transport}");
        assert_eq!(of("packets", "to_client"), 2.0, "{transport}");
        let bytes = of("bytes", "to_client");
        assert!(bytes > 28.0 && bytes <= 28.0 + 4.0 + 40.0 + padding, "{transport}: {bytes}");
    }
    assert_eq!(value("turnery_refusals_total{reason=\"unauthenticated\"}"), 2.0);
    assert_eq!(value("turnery_drops_total{reason=\"not_stun\"}"), 1.0);
    assert_eq!((value("turnery_allocations"), value("turnery_client_connections")), (1.0, 1.0));
    assert_eq!(value("turnery_http_requests_total{method=\"GET\",route=\"other\",status=\"404\"}"), 3.0);
    let mints = "turnery_http_requests_total{method=\"POST\",\
                 route=\"/v1/turn/keys/{key_id}/credentials/generate\",status=\"201\"}";
    assert_eq!(value(mints), 2.0);
    assert_eq!(value("turnery_build_info{version=\"0.1.0\"}"), 1.0);
    assert!(value("turnery_feed_age_seconds") < 10.0 && value("turnery_resident_memory_bytes") > 1e6);
    assert!(!text.contains(&key.uid) && !text.contains("/made/up"), "nothing of a caller's own: {text}");
}

#[test]
fn dashboards_and_alerts_ask_for_what_is_there() {
    let server = start();
    // A route is there once it was asked for.
    scrape(&server, "/metrics", None);
    let (_, _, text) = scrape(&server, "/metrics", None);
    let told: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib");
    let mut asked = BTreeSet::new();
    for file in ["grafana/turnery.json", "prometheus/turnery.rules.yml"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = text.split(|c| !is_name(c)).filter(|word| word.starts_with("turnery_"));
        let count = asked.len();
        asked.extend(names.map(str::to_owned));
        assert!(asked.len() > count, "{file} names metrics");
    }
    for name in asked {
        let family =
            ["_total", "_bucket", "_count", "_sum", "_info"].iter().find_map(|end| name.strip_suffix(end));
        assert!(told.contains(&*name) || family.is_some_and(|it| told.contains(it)), "{name}: {told:?}");
    }
    let dashboard = fs::read_to_string(root.join("grafana/turnery.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

#[test]
fn metrics_ask_for_their_token_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "a-token-for-the-scraper\n").unwrap();
    let more = [&LOOPBACK[..], &["--metrics-token-file", file.to_str().unwrap()]].concat();
    let server = start_command(known(dir.path(), &more));
    assert_eq!(scrape(&server, "/metrics", None).0, 400);
    assert_eq!(scrape(&server, "/metrics", Some("a-token-for-the-scrapes")).0, 401);
    assert_eq!(scrape(&server, "/metrics", Some("a-token-for-the-scraper")).0, 200);
    assert_eq!(scrape(&server, "/readyz", None).0, 200, "asks for nothing");

    fs::write(&file, "short").unwrap();
    let other = tempfile::tempdir().unwrap();
    let output = finish(known(other.path(), &more));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("--metrics-token-file"), "{told}");
}

#[test]
fn readiness_names_its_checks() {
    let server = start();
    let json = server.ask("GET", "/readyz", "", None, 200);
    assert_eq!(json["status"], "ready");
    for check in ["store", "feed", "relay"] {
        assert_eq!(json["checks"][check], "ok", "{json}");
    }
}

#[test]
fn the_log_can_be_json() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &[&LOOPBACK[..], &["--log-format", "json"]].concat()));
    server.ask("GET", &keys_path(), crate::fixture::TOKEN, None, 200);
    let (_, log) = server.end();
    assert!(!log.is_empty());
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let ready = lines.iter().find(|line| line["message"] == "ready").expect("a line when it is ready");
    assert_eq!((&ready["level"], &ready["target"]), (&"INFO".into(), &"turnery::serve".into()));
    assert!(ready["timestamp"].is_string() && ready["workers"].is_number(), "{ready}");
}

#[test]
fn shells_and_man_get_their_files() {
    for shell in ["bash", "zsh", "fish"] {
        let output = finish(turnery(&["completions", shell]));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("relay-address"), "{shell}: {script}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = finish(turnery(&["man", dir.path().to_str().unwrap()]));
    assert!(output.status.success());
    for page in ["turnery.1", "turnery-serve.1", "turnery-key-create.1"] {
        assert!(fs::read_to_string(dir.path().join(page)).unwrap().contains(".TH"), "{page}");
    }
    assert!(!finish(turnery(&["man", "/no/such/directory"])).status.success());
}
