//! The keyring in the store, of a whole fleet.

use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::alone;
use crate::fixture::{Minted, finish, turnery};
use crate::nodes::{Fleet, Plan, until};
use crate::rolling::Ended;

const NODES: usize = 5;
/// Which has no API.
const CUT_OFF: usize = 3;

fn rotate(fleet: &Fleet) -> Output {
    let store = format!("postgres://turnery_fleet@{}/fleet", fleet.proxy.address);
    let key = fleet.sealing_key();
    let (dir, key) = (key.parent().unwrap().to_str().unwrap(), key.to_str().unwrap());
    let place = ["--store", &store, "--data-dir", dir, "--keyring-in-store", "--keyring-key-file", key];
    let output = finish(turnery(&[&["keyring", "rotate"][..], &place].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn expect_good(minted: &Minted, nodes: impl IntoIterator<Item = usize>) {
    for index in nodes {
        assert_eq!(Fleet::refusal(index, minted), None, "node {index}");
    }
}

#[test]
fn a_rotation_in_the_store_waits_for_all_that_are_heard_of() {
    let _alone = alone();
    let fleet = Fleet::start(&Plan { apis: 2, relays: 3, is_keyring_in_store: true, ..Plan::default() });
    let key = fleet.node(0).create_key();
    until("the key is known", || fleet.node(1).http("GET", "/readyz", "", None).unwrap().0 == 200);
    let first = fleet.node(1).mint(&key, 600);
    for index in 0..NODES {
        fleet.until_state(0, index, "up");
    }
    let (done, tried, is_cut) = (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(false));
    let said = std::thread::scope(|scope| {
        let ended = Ended(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = usize::try_from(tried.fetch_add(1, Ordering::Relaxed)).unwrap();
                let minted = fleet.node(round % 2).mint(&key, 600);
                let at = round % NODES;
                if at != CUT_OFF || !is_cut.load(Ordering::Relaxed) {
                    assert_eq!(Fleet::refusal(at, &minted), None, "round {round}, node {at}");
                }
            }
        });
        let waited = String::from_utf8(rotate(&fleet).stderr).unwrap();
        assert!(waited.contains("node0") && waited.contains("node4"), "{waited}");
        is_cut.store(true, Ordering::Relaxed);
        fleet.network.cut_off(CUT_OFF, true);
        let said = String::from_utf8(rotate(&fleet).stderr).unwrap();
        until("the new key seals", || fleet.node(0).mint(&key, 60).username.starts_with("03"));
        drop(ended);
        said
    });
    println!("{} credentials minted and used", tried.load(Ordering::Relaxed));
    assert!(said.contains("nothing is heard of them: node3"), "{said}");
    let last = fleet.node(0).mint(&key, 600);
    assert!(first.username.starts_with("01"));
    expect_good(&first, 0..NODES);
    expect_good(&last, [0, 1, 2, 4]);
    assert_eq!(Fleet::refusal(CUT_OFF, &last), Some(401), "it cannot know the key");
    fleet.network.cut_off(CUT_OFF, false);
    until("it knows the key", || Fleet::refusal(CUT_OFF, &last).is_none());
}
