//! Nodes that share a PostgreSQL store.

use std::time::Instant;

use serde_json::Value;
use testkit::postgres::cluster;
use turn::Transport;

use crate::fixture::{
    ACCOUNT, LONG, LOOPBACK, Server, TOKEN, known, relays, revoke_path, serve_in, start_command,
};

const GUIDE: &str = include_str!("../../../../docs/fleet.md");

/// The statements that the guide has a relay's role made with, and those for a role of each relay's own.
fn documented_grants() -> [&'static str; 2] {
    [1, 2].map(|block| GUIDE.split("```sql\n").nth(block).unwrap().split("```").next().unwrap())
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
    let [grants, own_rows] = documented_grants();
    cluster().sql(database, grants);
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

    its_own_row_is_all_that_a_relay_writes(&whole, (database, own_rows), (relay_dir.path(), &keyring));
}

/// With the roles that the guide has for relays that are not to write for each other.
fn its_own_row_is_all_that_a_relay_writes(
    whole: &Server,
    (database, statements): (&str, &str),
    (dir, keyring): (&std::path::Path, &str),
) {
    cluster().sql(database, statements);
    let own_url = cluster().url("lisbon-1", database);
    let args = ["--store", &own_url, "--role", "relay", "--node-name", "lisbon-1"];
    let mut command = serve_in(dir, &[&LOOPBACK[..], &args].concat());
    command.env("TURNERY_KEYRING", keyring);
    let relay = start_command(command);
    let minted = whole.mint(&whole.create_key(), 600);
    relays(&mut relay.client(Transport::Udp, &minted));
    until("it is known to all", || {
        let nodes = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_nodes");
        let nodes = whole.ask("GET", &nodes, TOKEN, None, 200);
        nodes["result"].as_array().unwrap().iter().any(|it| it["name"] == "lisbon-1" && it["state"] == "up")
    });
    let as_it = |sql: &str| cluster().sql(database, &format!("SET ROLE \"lisbon-1\"; {sql}"));
    assert!(as_it("SELECT name FROM nodes").lines().count() >= 3, "all are seen");
    let changed = as_it("UPDATE nodes SET about = about RETURNING name");
    assert_eq!(changed, "lisbon-1");
    as_it(
        "DO $$ BEGIN INSERT INTO nodes VALUES ('another', 0, '{}'); RAISE 'it was let in'; \
         EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
    );
    let (status, log) = relay.end();
    assert!(status.success() && !log.contains("not told of this one"), "{log}");
}
