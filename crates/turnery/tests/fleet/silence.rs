//! Nodes that hear nothing of their database: cut off from it, or held up by one that takes connections and says nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::alone;
use crate::fixture::{Key, Minted, http, revoke_path};
use crate::flows::Flows;
use crate::network::Network;
use crate::nodes::{Fleet, Plan, until};
use crate::steady::hosts;

const INTERVAL: Duration = Duration::from_millis(10);
const NODES: usize = 3;

/// What a node says of itself at `/readyz`.
fn ready(index: usize) -> (u16, serde_json::Value) {
    let (status, body) =
        http(&format!("http://{}:8080/readyz", Network::address(index)), "GET", "", None).unwrap();
    (status, body["checks"].clone())
}

fn metric(index: usize, name: &str) -> String {
    let url = format!("http://{}:8080/metrics", Network::address(index));
    let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim().to_owned()
}

/// What asking for a credential is answered with.
fn mints(fleet: &Fleet, index: usize, key: &Key) -> u16 {
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    fleet.node(index).http("POST", &path, &key.secret, Some("{}")).unwrap().0
}

/// A key, a credential for each node, and a client there that relays.
fn with_a_client_at_each_node(fleet: &Fleet) -> (Key, Vec<Minted>, Flows) {
    let key = fleet.node(0).create_key();
    until("the key is known", || mints(fleet, 1, &key) == 201);
    let minted: Vec<_> = (0..NODES).map(|_| fleet.node(0).mint(&key, 600)).collect();
    let flows = Flows::new(NODES, INTERVAL);
    for (index, minted) in minted.iter().enumerate() {
        flows.put(index, Fleet::client(index, minted));
    }
    flows.expect_alive(0..NODES);
    (key, minted, flows)
}

/// A node with an API and one without are cut off, longer than either may be behind.
#[test]
fn who_is_cut_off_for_too_long_allocates_nothing_new_and_goes_on_with_what_there_is() {
    let _alone = alone();
    let more = vec!["--refuse-when-feed-older-than", "5"];
    let fleet = Fleet::start(&Plan { apis: 2, relays: 1, more, ..Plan::default() });
    let (key, _, flows) = with_a_client_at_each_node(&fleet);
    for index in 1..NODES {
        fleet.network.cut_off(index, true);
    }
    let revoked = fleet.node(0).mint(&key, 600);
    let fresh = fleet.node(1).mint(&key, 600);
    assert_eq!(Fleet::refusal(2, &fresh), None, "not for long yet");
    fleet.node(0).ask("POST", &revoke_path(&key, &revoked), &key.secret, None, 204);
    let (status, body) = fleet.node(1).http("POST", &revoke_path(&key, &fresh), &key.secret, None).unwrap();
    assert_eq!((status, &body["errors"][0]["code"]), (503, &20_051.into()), "{body}");
    for index in 1..NODES {
        until("what is new is refused", || Fleet::refusal(index, &fresh) == Some(508));
        let (status, checks) = ready(index);
        assert_eq!((status, &checks["admission"]), (503, &"fails".into()), "{checks}");
        assert_eq!(metric(index, "turnery_feed_too_old "), "1");
        let refused = metric(index, "turnery_refusals_total{reason=\"denials_stale\"} ");
        assert_ne!(refused, "0");
    }
    assert_eq!((Fleet::refusal(0, &fresh), Fleet::refusal(0, &revoked)), (None, Some(401)));
    assert_eq!(mints(&fleet, 1, &key), 201, "what is minted is good where it is used");
    for index in 0..NODES {
        let mut client = flows.take(index).unwrap();
        client.refresh(600).unwrap();
        flows.put_back(index, client);
    }
    flows.expect_alive(0..NODES);
    for index in 1..NODES {
        fleet.network.cut_off(index, false);
    }
    for index in 1..NODES {
        until("what is new is taken again", || Fleet::refusal(index, &fresh).is_none());
        assert_eq!(Fleet::refusal(index, &revoked), Some(401), "and what was revoked is known");
        assert_eq!(ready(index).1["admission"], "ok");
        assert_eq!(metric(index, "turnery_feed_too_old "), "0");
    }
    fleet.node(1).ask("POST", &revoke_path(&key, &fresh), &key.secret, None, 204);
    flows.expect_never_stalled(0..NODES);
}

/// The database takes what a relay says of itself, and does not let it read what is revoked.
#[test]
fn who_does_not_hear_what_is_revoked_is_given_no_clients_while_he_says_that_he_is_there() {
    let _alone = alone();
    let more = vec!["--refuse-when-feed-older-than", "5", "--steering", "node"];
    let fleet = Fleet::start(&Plan { apis: 2, relays: 1, more, ..Plan::default() });
    let key = fleet.node(1).create_key();
    let minted = fleet.node(1).mint(&key, 600);
    let all: BTreeSet<String> = (0..NODES).map(|index| Network::address(index).to_string()).collect();
    until("every node is handed out", || hosts(&fleet, &key, 40) == all);
    assert_eq!(Fleet::refusal(2, &minted), None);
    fleet.cluster.sql("fleet", "REVOKE SELECT ON denials FROM turnery_relay");
    fleet.until_state(0, 2, "stale");
    until("who comes there is sent on", || Fleet::refusal(2, &minted) == Some(300));
    let others: BTreeSet<String> =
        all.iter().filter(|host| **host != Network::address(2).to_string()).cloned().collect();
    until("it is handed out to nobody", || hosts(&fleet, &key, 40) == others);
    fleet.cluster.sql("fleet", "GRANT SELECT ON denials TO turnery_relay");
    fleet.until_state(0, 2, "up");
    until("it takes clients again", || Fleet::refusal(2, &minted).is_none());
    until("every node is handed out again", || hosts(&fleet, &key, 40) == all);
}

/// How long a client may wait that needs nothing of the database.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The same for a caller that needs something of it: longer than waiting for a connection, and asking on it.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn a_database_that_takes_connections_and_says_nothing_holds_up_nobody() {
    let _alone = alone();
    let fleet = Fleet::start(&Plan { apis: 2, relays: 1, ..Plan::default() });
    let (key, minted, flows) = with_a_client_at_each_node(&fleet);
    fleet.proxy.hang(true);
    let begun = Instant::now();
    // Longer than a call may take: connections that were open are given up, and new ones are made, which hang, too.
    while begun.elapsed() < Duration::from_secs(14) {
        let round = Instant::now();
        let fresh = fleet.node(1).mint(&key, 600);
        for index in 0..NODES {
            assert_eq!(Fleet::refusal(index, &fresh), None, "node {index}");
        }
        assert!(round.elapsed() < AT_ONCE, "minting and allocating took {:?}", round.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    let asked = Instant::now();
    let (status, body) =
        fleet.node(0).http("POST", &revoke_path(&key, &minted[0]), &key.secret, None).unwrap();
    println!("a revocation was refused after {:?}", asked.elapsed());
    assert_eq!((status, &body["errors"][0]["code"]), (503, &20_051.into()), "{body}");
    assert!(asked.elapsed() < REFUSED_WITHIN, "{:?}", asked.elapsed());
    let (status, checks) = ready(2);
    assert_eq!((status, &checks["feed"]), (503, &"is behind".into()), "{checks}");
    fleet.proxy.hang(false);
    let back = Instant::now();
    let path = revoke_path(&key, &minted[0]);
    until("a revocation is taken", || {
        fleet.node(0).http("POST", &path, &key.secret, None).is_ok_and(|it| it.0 == 204)
    });
    until("it is heard of everywhere", || {
        (0..NODES).all(|index| Fleet::refusal(index, &minted[0]) == Some(401))
    });
    println!("the fleet was whole {:?} after the database", back.elapsed());
    flows.expect_never_stalled(1..NODES);
}
