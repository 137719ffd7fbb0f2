//! All nodes are restarted one by one, as for a new version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::fixture::{Key, Minted, signal};
use crate::flows::Flows;
use crate::network::Network;
use crate::nodes::{Fleet, Plan, until};
use crate::{alone, given};

const NODES: usize = 5;
/// The first of them have an API.
const APIS: usize = 2;
const INTERVAL: Duration = Duration::from_millis(500);

/// Says so when it is dropped, also by a failure.
pub(crate) struct Ended<'d>(pub(crate) &'d AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks all nodes with an API for a credential, as something before them would: the first that answers.
fn mint_anywhere(urls: &[String], secret: &str) -> bool {
    urls.iter().any(|url| crate::fixture::http(url, "POST", secret, Some("{}")).is_ok_and(|it| it.0 == 201))
}

#[test]
fn a_rolling_restart_is_not_noticed_by_a_thousand_clients() {
    let _alone = alone();
    let count = given("TURNERY_FLEET_ALLOCATIONS", 1_000);
    let plan = Plan { apis: APIS, relays: NODES - APIS, more: vec!["--drain-secs", "30"], ..Plan::default() };
    let mut fleet = Fleet::start(&plan);
    let key = fleet.node(0).create_key();
    let minted: Vec<Minted> = (0..count).map(|_| fleet.node(0).mint(&key, 3_600)).collect();
    let flows = Flows::new(count, INTERVAL);
    let mut places: Vec<usize> = (0..count).map(|index| index % NODES).collect();
    for (index, minted) in minted.iter().enumerate() {
        flows.put(index, Fleet::client(places[index], minted));
    }
    for index in 0..NODES {
        fleet.until_state(0, index, "up");
    }
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let urls: Vec<String> =
        (0..2).map(|index| format!("http://{}:8080{path}", Network::address(index))).collect();
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let redirects = std::thread::scope(|scope| {
        let ended = Ended(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(mint_anywhere(&urls, &key.secret), "no API answers");
                answers.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let redirects: usize =
            (0..NODES).map(|index| restart(&mut fleet, index, (&flows, &key, &minted), &mut places)).sum();
        drop(ended);
        redirects
    });
    flows.expect_alive(0..count);
    flows.expect_never_paused(0..count, 6 * INTERVAL);
    println!("{redirects} redirects, {} credentials minted meanwhile", answers.load(Ordering::Relaxed));
    flows.settle();
    let relayed = flows.count();
    until("usage is recorded", || fleet.ingress_packets(0, &key) >= relayed);
    assert_eq!(fleet.ingress_packets(0, &key), relayed);
}

/// Restarts one node; its clients go where it sends them. How many it sent elsewhere.
fn restart(
    fleet: &mut Fleet,
    index: usize,
    (flows, key, minted): (&Flows, &Key, &[Minted]),
    places: &mut [usize],
) -> usize {
    signal(&fleet.node(index).child, "TERM");
    let other = usize::from(index == 0);
    fleet.until_state(other, index, "draining");
    until("it sends clients elsewhere", || Fleet::refusal(index, &minted[0]) == Some(300));
    let health = format!("http://{}:8080/readyz", Network::address(index));
    let (status, body) = crate::fixture::http(&health, "GET", "", None).unwrap();
    assert_eq!((status, &body["checks"]["admission"]), (503, &"fails".into()), "{body}");
    if index < APIS {
        // Its API goes on: what it mints is good at the others.
        let fresh = fleet.node(index).mint(key, 600);
        assert_eq!(Fleet::refusal(NODES - 1, &fresh), None);
    }
    let here: Vec<usize> = (0..places.len()).filter(|flow| places[*flow] == index).collect();
    for flow in &here {
        let to = redirected(index, &minted[*flow]);
        assert_ne!(to, index);
        let old = flows.take(*flow).unwrap();
        flows.put(*flow, Fleet::client(to, &minted[*flow]));
        places[*flow] = to;
        drop(old_ended(old));
    }
    // Nobody is left, so it does not wait for long.
    let node = fleet.nodes[index].take().unwrap();
    let (status, log) = node.end_by_itself();
    assert!(status.success(), "{log}");
    fleet.start_node(index);
    fleet.until_state(other, index, "up");
    here.len()
}

/// Gives an allocation back.
fn old_ended(mut client: testkit::client::BlockingClient) -> Result<u32, testkit::client::Error> {
    client.refresh(0)
}

/// Which node a node that drains names.
fn redirected(index: usize, minted: &Minted) -> usize {
    let mut client = Fleet::client(index, minted);
    let error = client.allocate().unwrap_err();
    assert_eq!(error.code(), Some(300), "{error}");
    let named = client.client().alternate().expect("ALTERNATE-SERVER");
    (0..NODES).find(|node| Fleet::turn_address(*node) == named).expect("a node of the fleet")
}
