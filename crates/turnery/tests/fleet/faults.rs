//! What may happen to a fleet: nothing that was acknowledged is lost, usage is exact, and what relays goes on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{Key, Minted, TOKEN, keys_path, revoke_path};
use crate::flows::Flows;
use crate::nodes::{Fleet, Plan, until};
use crate::{alone, given};

/// So many flows at each node.
const FLOWS_EACH: usize = 4;
const NODES: usize = 5;
const FLOWS: usize = FLOWS_EACH * NODES;
const INTERVAL: Duration = Duration::from_millis(10);

/// A fleet with traffic at each node.
fn busy(plan: &Plan) -> (Fleet, Flows, Key, Vec<Minted>) {
    let fleet = Fleet::start(plan);
    let key = fleet.node(0).create_key();
    let flows = Flows::new(FLOWS, INTERVAL);
    let minted: Vec<Minted> = (0..FLOWS).map(|index| fleet.node(index % 2).mint(&key, 600)).collect();
    for (index, minted) in minted.iter().enumerate() {
        flows.put(index, Fleet::client(index % NODES, minted));
    }
    flows.expect_alive(0..FLOWS);
    (fleet, flows, key, minted)
}

fn usual() -> Plan {
    Plan { apis: 2, relays: 3, ..Plan::default() }
}

/// That everything that arrived at the peer is in the books, and nothing else.
fn expect_exact_usage(fleet: &Fleet, flows: &Flows, key: &Key) {
    flows.settle();
    let relayed = flows.count();
    let begun = Instant::now();
    until("usage is recorded", || fleet.ingress_packets(0, key) >= relayed);
    println!("usage of {relayed} packets was complete after {:?}", begun.elapsed());
    assert_eq!(fleet.ingress_packets(1, key), relayed);
}

#[test]
fn the_database_is_killed_under_load_and_comes_back() {
    let _alone = alone();
    let (fleet, flows, key, minted) = busy(&usual());
    fleet.node(0).ask("POST", &revoke_path(&key, &minted[0]), &key.secret, None, 204);
    fleet.cluster.kill();
    std::thread::sleep(Duration::from_secs(3));
    // What is known is enough to mint, and to let in whoever has that.
    let fresh = fleet.node(1).mint(&key, 600);
    assert_eq!(Fleet::refusal(3, &fresh), None);
    fleet.cluster.start_again();
    let begun = Instant::now();
    // An answer of the first try may be lost; the second finds it done.
    let path = revoke_path(&key, &minted[1]);
    until("a revocation is taken", || {
        fleet.node(0).http("POST", &path, &key.secret, None).is_ok_and(|it| it.0 == 204)
    });
    until("it is heard of everywhere", || {
        (0..NODES).all(|index| Fleet::refusal(index, &minted[1]) == Some(401))
    });
    println!("the fleet was whole {:?} after the database", begun.elapsed());
    for index in 0..NODES {
        assert_eq!(
            Fleet::refusal(index, &minted[0]),
            Some(401),
            "acknowledged before the database was killed"
        );
    }
    flows.expect_alive(2..FLOWS);
    flows.expect_never_stalled(2..FLOWS);
    expect_exact_usage(&fleet, &flows, &key);
}

#[test]
fn a_node_is_cut_off_and_comes_back() {
    let _alone = alone();
    let (fleet, flows, key, minted) = busy(&usual());
    let (cut, secs) = (2, given("TURNERY_FLEET_CUT_SECS", 20));
    fleet.network.cut_off(cut, true);
    let away = Instant::now();
    // Flow 7 is at the node that is cut off, and so is flow 2.
    fleet.node(0).ask("POST", &revoke_path(&key, &minted[cut]), &key.secret, None, 204);
    fleet.until_state(0, cut, "lost");
    std::thread::sleep(Duration::from_secs(secs as u64).saturating_sub(away.elapsed()));
    flows.expect_alive((0..FLOWS).filter(|index| *index != cut));
    fleet.network.cut_off(cut, false);
    let begun = Instant::now();
    until("it hears what was revoked meanwhile", || Fleet::refusal(cut, &minted[cut]) == Some(401));
    println!(
        "what was revoked {:?} ago was heard {:?} after the way was back",
        away.elapsed(),
        begun.elapsed()
    );
    fleet.until_state(0, cut, "up");
    flows.expect_never_stalled((0..FLOWS).filter(|index| *index != cut));
    expect_exact_usage(&fleet, &flows, &key);
}

/// How much a killed node may take along: what its workers and its books had not handed on.
const UNTOLD: Duration = Duration::from_secs(8);

#[test]
fn a_node_is_killed() {
    let _alone = alone();
    let (mut fleet, flows, key, minted) = busy(&usual());
    let killed = 2;
    let here: Vec<usize> = (0..FLOWS).filter(|index| index % NODES == killed).collect();
    std::thread::sleep(UNTOLD);
    let told: u64 = here.iter().map(|index| flows.count_of(*index)).sum();
    std::thread::sleep(UNTOLD);
    fleet.kill(killed);
    flows.expect_alive((0..FLOWS).filter(|index| index % NODES != killed));
    fleet.until_state(1, killed, "lost");
    flows.settle();
    let all = flows.count();
    let lost: u64 = here.iter().map(|index| flows.count_of(*index)).sum();
    let untold = lost - told;
    until("the others' usage is recorded", || fleet.ingress_packets(0, &key) + untold >= all);
    // Less may be lost than could be: the rest of it is on its way.
    std::thread::sleep(UNTOLD);
    let recorded = fleet.ingress_packets(0, &key);
    println!("of {lost} packets at the killed node {} are not in the books", all - recorded);
    assert!(recorded <= all, "nothing counts twice: {recorded} of {all}");
    fleet.start_node(killed);
    assert_eq!(Fleet::refusal(killed, &minted[killed]), None, "what it knew is in the store");
    until("its sessions are known to be over", || {
        let path = format!("/client/v4/accounts/{}/calls/turn_sessions", crate::fixture::ACCOUNT);
        let sessions = fleet.node(0).ask("GET", &path, TOKEN, None, 200);
        sessions["result"].as_array().unwrap().is_empty()
    });
    assert_eq!(fleet.ingress_packets(0, &key), recorded);
}

#[test]
fn the_database_is_slow() {
    let _alone = alone();
    let (fleet, flows, key, minted) = busy(&usual());
    fleet.proxy.delay(Duration::from_millis(30));
    let begun = Instant::now();
    fleet.node(0).ask("POST", &revoke_path(&key, &minted[0]), &key.secret, None, 204);
    let answered = begun.elapsed();
    until("it is heard of", || (0..NODES).all(|index| Fleet::refusal(index, &minted[0]) == Some(401)));
    println!(
        "with 60 ms for each question: answered after {answered:?}, heard of everywhere after {:?}",
        begun.elapsed()
    );
    let fresh = fleet.node(1).mint(&key, 600);
    assert_eq!(Fleet::refusal(4, &fresh), None);
    flows.expect_alive(1..FLOWS);
    flows.expect_never_stalled(1..FLOWS);
    expect_exact_usage(&fleet, &flows, &key);
}

#[test]
fn two_nodes_change_the_same_key_at_once() {
    let _alone = alone();
    let (fleet, flows, _, _) = busy(&usual());
    let key = fleet.node(0).create_key();
    let path = |what: &str| format!("{}/{}/{what}", keys_path(), key.uid);
    let race = |round: u64| {
        std::thread::scope(|scope| {
            for asked in 0..2_u64 {
                let (fleet, path) = (&fleet, &path);
                // The test's namespace is its thread's, and that of the threads it starts.
                scope.spawn(move || {
                    let node = fleet.node(usize::try_from(asked).unwrap());
                    for step in 0..5 {
                        let name = json!({ "name": format!("{asked}-{step}") }).to_string();
                        node.ask("PUT", path("").trim_end_matches('/'), TOKEN, Some(&name), 200);
                        let limits = json!({ "allocations": 1 + round + asked + step }).to_string();
                        node.ask("PUT", &path("limits"), TOKEN, Some(&limits), 200);
                        let verb =
                            if (round + asked + step).is_multiple_of(2) { "suspend" } else { "resume" };
                        node.ask("POST", &path(verb), TOKEN, None, 200);
                    }
                });
            }
        });
    };
    for round in 0..4 {
        race(round);
        let both =
            |what: &str| [0, 1].map(|asked| fleet.node(asked).ask("GET", &path(what), TOKEN, None, 200));
        let [here, there] = both("status");
        assert_eq!(here["result"], there["result"]);
        let suspended = here["result"]["suspended"].as_bool().unwrap();
        let minting = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
        let mints = |asked: usize| {
            fleet.node(asked).http("POST", &minting, &key.secret, Some("{}")).unwrap().0 == 201
        };
        until("both nodes have the last word", || (0..2).all(|asked| mints(asked) != suspended));
    }
    fleet.node(0).ask("POST", &path("resume"), TOKEN, None, 200);
    fleet.node(1).ask("PUT", &path("limits"), TOKEN, Some(r#"{"allocations":1}"#), 200);
    until("minting is resumed", || {
        let minting = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
        fleet.node(0).http("POST", &minting, &key.secret, Some("{}")).unwrap().0 == 201
    });
    let minted = fleet.node(0).mint(&key, 600);
    for index in 0..NODES {
        until("the last limit holds", || {
            let mut first = Fleet::client(index, &minted);
            let first_done = first.allocate().is_ok();
            let second = Fleet::refusal(index, &minted);
            let _ = first.refresh(0);
            first_done && second == Some(486)
        });
    }
    flows.expect_never_stalled(0..FLOWS);
}

const SKEWS: [i64; NODES] = [30, -30, 0, 30, -30];

#[test]
fn clocks_are_half_a_minute_apart() {
    let _alone = alone();
    let (fleet, flows, key, minted) = busy(&Plan { skews: SKEWS.to_vec(), ..usual() });
    for asked in 0..2 {
        for index in 0..NODES {
            fleet.until_state(asked, index, "up");
        }
    }
    for (index, skew) in SKEWS.into_iter().enumerate() {
        let own = fleet.own_clock(index);
        assert!((own - skew).abs() <= 10, "node {index} is {own} s ahead and not {skew}");
    }
    // One minted at each API node, revoked at the other; each at every relay.
    for (index, minted) in minted.iter().enumerate().take(4) {
        fleet.node((index + 1) % 2).ask("POST", &revoke_path(&key, minted), &key.secret, None, 204);
        let answered = Instant::now();
        // A flow that goes on has its last packet half a second past the bound.
        std::thread::sleep(Duration::from_millis(1_500));
        let late = flows.last(index).saturating_duration_since(answered);
        assert!(late < Duration::from_secs(1), "flow {index} went on for {late:?}");
        for at in 0..NODES {
            assert_eq!(Fleet::refusal(at, minted), Some(401), "node {at}");
        }
    }
    flows.expect_never_stalled(4..FLOWS);
    expect_exact_usage(&fleet, &flows, &key);
}
