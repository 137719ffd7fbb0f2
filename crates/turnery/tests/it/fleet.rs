//! Nodes that share a PostgreSQL store.

use std::time::Instant;

use serde_json::Value;
use testkit::postgres::cluster;
use turn::Transport;

use crate::fixture::{
    ACCOUNT, LONG, LOOPBACK, Server, TOKEN, known, relays, revoke_path, serve_in, start_command,
};

const GUIDE: &str = include_str!("../../../../docs/fleet.md");

/// The statements that the guide has a relay's role made with.
fn documented_grants() -> &'static str {
    GUIDE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap()
}

fn sessions(server: &Server) -> Vec<Value> {
    let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_sessions");
    server.ask("GET", &path, TOKEN, None, 200)["result"].as_array().unwrap().clone()
}

/// Asks again and again, until it is so.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_relay_without_an_api_needs_only_the_documented_rights() {
    let url = cluster().database();
    let database = url.rsplit('/').next().unwrap();
    let whole_dir = tempfile::tempdir().unwrap();
    let whole = start_command(known(whole_dir.path(), &[&LOOPBACK[..], &["--store", &url]].concat()));
    cluster().sql(database, documented_grants());
    let own_url = cluster().url("turnery_relay", database);
    let relay_dir = tempfile::tempdir().unwrap();
    let keyring = std::fs::read_to_string(whole_dir.path().join("keyring.toml")).unwrap();
    let args = ["--store", &own_url, "--role", "relay", "--node-name", "edge", "--log", "trace"];
    let mut command = serve_in(relay_dir.path(), &[&LOOPBACK[..], &args].concat());
    command.env("TURNERY_KEYRING", &keyring);
    let relay = start_command(command);
    assert_eq!(relay.api, "none");

    let key = whole.create_key();
    let minted = whole.mint(&key, 600);
    let mut client = relay.client(Transport::Udp, &minted);
    relays(&mut client);
    until("its session is known to all", || sessions(&whole).iter().any(|it| it["node"] == "edge"));
    whole.ask("POST", &revoke_path(&key, &minted), &key.secret, None, 204);
    until("it is refused", || relay.refusal(Transport::Udp, &minted).is_some());
    until("its end is known to all", || sessions(&whole).is_empty());
    let (status, log) = relay.end();
    assert!(status.success(), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("permission denied"), "{log}");
    let secret = keyring.split("secret = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(!log.contains(&secret[..32]), "the keyring is logged");
    assert_eq!(std::fs::read_dir(relay_dir.path()).unwrap().count(), 0, "nor is it written down");
}
