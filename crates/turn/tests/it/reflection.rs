//! What a spoofed packet can have sent to its victim: sizes, with the default realm.

use stun::Method;
use testkit::message;
use turn::Transport;

use crate::fixture::{Fixture, alice, client};

/// Reply bytes for each request byte, in tenths, rounded up.
fn factor(request: &[u8], reply: &[u8]) -> usize {
    (reply.len() * 10).div_ceil(request.len())
}

#[test]
fn binding_over_ipv4_gives_back_no_more_than_1_6_times() {
    let mut fixture = Fixture::new();
    let request = message::request(Method::BINDING, fixture.dice.transaction(), |_| {});
    let reply = fixture.give(alice(), &request).reply();
    assert!(factor(&request, &reply) <= 16, "{} of {}", reply.len(), request.len());
}

#[test]
fn binding_over_ipv6_gives_back_no_more_than_2_2_times() {
    let mut fixture = Fixture::new();
    let request = message::request(Method::BINDING, fixture.dice.transaction(), |_| {});
    let reply = fixture.give(client(Transport::Udp, "[2a00::1]:4000"), &request).reply();
    assert!(factor(&request, &reply) <= 22, "{} of {}", reply.len(), request.len());
}

#[test]
fn the_challenge_gives_back_no_more_than_3_4_times() {
    let mut fixture = Fixture::new();
    let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |_| {});
    let reply = fixture.give(alice(), &request).reply();
    assert!(factor(&request, &reply) <= 34, "{} of {}", reply.len(), request.len());
}

#[test]
fn a_stranger_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    for _ in 0..1_000 {
        let port = 1_024 + fixture.dice.index(60_000);
        let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |_| {});
        fixture.give(client(Transport::Udp, &format!("81.0.0.1:{port}")), &request).reply();
    }
    assert_eq!((fixture.server.allocation_count(), fixture.server.poll_timeout()), (0, None));
}
