//! What holds while nothing is wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::{Key, Minted, revoke_path};
use crate::flows::Flows;
use crate::network::Network;
use crate::nodes::{Fleet, Plan, until};
use crate::{alone, given};

/// Revoked one after the other while all of them send.
const AT_ONCE: usize = 20;
const INTERVAL: Duration = Duration::from_millis(3);
/// Between two revocations.
const PAUSE: Duration = Duration::from_millis(20);
/// What is promised.
const WITHIN: Duration = Duration::from_secs(1);

/// How long after the answer traffic ended, for each of so many revocations, sorted. Credentials are minted at one node,
/// revoked at another, and used at a third.
fn trials(fleet: &Fleet, key: &Key, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < count {
        let flows = Flows::new(AT_ONCE, INTERVAL);
        let minted: Vec<Minted> = (0..AT_ONCE).map(|index| fleet.node(index % 2).mint(key, 600)).collect();
        for (index, minted) in minted.iter().enumerate() {
            flows.put(index, Fleet::client(2 + index % 3, minted));
        }
        flows.expect_alive(0..AT_ONCE);
        let answered: Vec<Instant> = (0..AT_ONCE)
            .map(|index| {
                let path = revoke_path(key, &minted[index]);
                fleet.node((index + 1) % 2).ask("POST", &path, &key.secret, None, 204);
                let answered = Instant::now();
                std::thread::sleep(PAUSE);
                answered
            })
            .collect();
        // What has not ended by then is later than the promise in any case.
        std::thread::sleep(WITHIN + WITHIN / 2);
        times.extend((0..AT_ONCE).map(|index| flows.last(index).saturating_duration_since(answered[index])));
    }
    times.sort_unstable();
    times
}

fn check(what: &str, plan: &Plan) {
    let _alone = alone();
    let fleet = Fleet::start(plan);
    let key = fleet.node(0).create_key();
    until("the key is known", || fleet.node(1).http("GET", "/readyz", "", None).unwrap().0 == 200);
    let times = trials(&fleet, &key, given("TURNERY_FLEET_TRIALS", 40));
    let at = |permille: usize| times[(times.len() * permille).div_ceil(1_000) - 1];
    println!(
        "{what}: {} revocations, traffic ended after p50 {:?}, p99 {:?}, at most {:?}",
        times.len(),
        at(500),
        at(990),
        at(1_000)
    );
    assert!(at(990) < WITHIN, "{what}: {:?}", at(990));
    // What has not ended at all was looked at when half as long again had passed.
    assert!(at(1_000) < WITHIN + WITHIN / 4, "{what}: {:?}", at(1_000));
}

#[test]
fn a_revocation_at_one_node_ends_traffic_at_another() {
    check("told by the database", &Plan { apis: 2, relays: 3, ..Plan::default() });
}

#[test]
fn a_revocation_arrives_in_time_where_the_database_tells_nobody() {
    check("found by looking", &Plan { apis: 2, relays: 3, is_silent: true, ..Plan::default() });
}

#[test]
fn a_credential_is_good_everywhere_at_once_and_everybody_knows_the_nodes() {
    let _alone = alone();
    let fleet = Fleet::usual();
    let key = fleet.node(0).create_key();
    let minted = fleet.node(1).mint(&key, 600);
    for index in 0..5 {
        assert_eq!(Fleet::refusal(index, &minted), None, "node {index}");
    }
    for asked in 0..2 {
        for index in 0..5 {
            fleet.until_state(asked, index, "up");
        }
    }
    for index in 0..5 {
        let base = format!("http://{}:8080", Network::address(index));
        let (status, body) = crate::fixture::http(&format!("{base}/readyz"), "GET", "", None).unwrap();
        assert_eq!((status, &body["checks"]["feed"]), (200, &"ok".into()), "node {index}: {body}");
    }
}

/// The hosts that so many credentials are handed out with.
pub(crate) fn hosts(fleet: &Fleet, key: &Key, count: usize) -> BTreeSet<String> {
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let host = |_| {
        let made = fleet.node(1).ask("POST", &path, &key.secret, Some("{}"), 201);
        let urls = made["iceServers"]["urls"].as_array().unwrap().clone();
        let turn = urls.iter().map(|url| url.as_str().unwrap()).find(|url| url.starts_with("turn:")).unwrap();
        turn.split(':').nth(1).unwrap().to_owned()
    };
    (0..count).map(host).collect()
}

#[test]
fn a_full_node_sends_clients_elsewhere_and_is_handed_out_to_nobody() {
    let _alone = alone();
    let more = vec!["--redirect-above", "2", "--steering", "node"];
    let fleet = Fleet::start(&Plan { apis: 2, relays: 3, more, ..Plan::default() });
    let key = fleet.node(1).create_key();
    let minted = fleet.node(1).mint(&key, 600);
    let all: BTreeSet<String> = (0..5).map(|index| Network::address(index).to_string()).collect();
    until("every node is handed out", || hosts(&fleet, &key, 40) == all);
    let mut first = [Fleet::client(2, &minted), Fleet::client(2, &minted)];
    for client in &mut first {
        until("it is served", || client.allocate().is_ok());
    }
    until("the node is full", || Fleet::refusal(2, &minted) == Some(300));
    let mut sent = Fleet::client(2, &minted);
    assert_eq!(sent.allocate().unwrap_err().code(), Some(300));
    let to = sent.client().alternate().unwrap();
    let index = (0..5).find(|index| Fleet::turn_address(*index) == to).unwrap();
    assert_ne!(index, 2);
    assert_eq!(Fleet::refusal(index, &minted), None, "who is sent there is served");
    fleet.until_state(1, 2, "full");
    let others: BTreeSet<String> =
        all.iter().filter(|host| **host != Network::address(2).to_string()).cloned().collect();
    until("it is handed out to nobody", || hosts(&fleet, &key, 40) == others);
    for client in &mut first {
        client.refresh(0).unwrap();
    }
    until("it takes clients again", || Fleet::refusal(2, &minted).is_none());
    until("every node is handed out again", || hosts(&fleet, &key, 40) == all);
}

/// Gives all nodes the keyring of the first, as the guide says, and waits until they have read it.
fn distribute(fleet: &Fleet, times: usize) {
    for index in 1..5 {
        let beside = fleet.keyring(index).with_extension("new");
        std::fs::copy(fleet.keyring(0), &beside).unwrap();
        std::fs::rename(beside, fleet.keyring(index)).unwrap();
    }
    let reread = |index: usize| fleet.node(index).log().matches("the keyring was read again").count();
    for index in 0..5 {
        until("the keyring was read", || reread(index) == times);
    }
}

#[test]
fn the_keyring_is_rotated_and_no_credential_is_refused() {
    let _alone = alone();
    let fleet = Fleet::usual();
    let key = fleet.node(0).create_key();
    until("the key is known", || fleet.node(1).http("GET", "/readyz", "", None).unwrap().0 == 200);
    let first = fleet.node(1).mint(&key, 600);
    let (done, tried) = (AtomicBool::new(false), AtomicU64::new(0));
    let keyring = |verb: &str| {
        let dir = fleet.keyring(0).parent().unwrap().to_str().unwrap().to_owned();
        let store = format!("postgres://turnery_fleet@{}/fleet", fleet.proxy.address);
        let args = ["keyring", verb, "--data-dir", &dir, "--store", &store];
        let output = crate::fixture::finish(crate::fixture::turnery(&args));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::thread::scope(|scope| {
        let ended = crate::rolling::Ended(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = usize::try_from(tried.fetch_add(1, Ordering::Relaxed)).unwrap();
                let minted = fleet.node(round % 2).mint(&key, 600);
                assert_eq!(Fleet::refusal(round % 5, &minted), None, "round {round}");
            }
        });
        keyring("prepare");
        distribute(&fleet, 1);
        keyring("rotate");
        distribute(&fleet, 2);
        let before = tried.load(Ordering::Relaxed);
        until("more are tried", || tried.load(Ordering::Relaxed) > before + 10);
        drop(ended);
    });
    let last = fleet.node(1).mint(&key, 600);
    assert_ne!(first.username[..2], last.username[..2], "another key seals");
    for index in 0..5 {
        assert_eq!(
            (Fleet::refusal(index, &first), Fleet::refusal(index, &last)),
            (None, None),
            "node {index}"
        );
    }
}
