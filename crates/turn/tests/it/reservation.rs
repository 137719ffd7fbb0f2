//! EVEN-PORT and RESERVATION-TOKEN: RFC 8656 §7.2, §18.7 and §18.10.

use std::net::SocketAddr;

use credentials::Credential;
use stun::{AttributeType as A, Method};
use testkit::message::{EVEN, EVEN_AND_NEXT, FAMILY_IPV4, FAMILY_IPV6};
use turn::{Client, Limits, OpenError, Transport};

use crate::fixture::{Fixture, alice, client, code, relayed, udp, value};

type Attributes<'a> = &'a [(A, &'a [u8])];

fn bob() -> Client {
    client(Transport::Udp, "82.0.0.1:4000")
}

/// The reply to an Allocate with these attributes more.
fn ask(fixture: &mut Fixture, client: Client, credential: &Credential, attributes: &[(A, &[u8])]) -> Vec<u8> {
    fixture.ask(client, credential, Method::ALLOCATE, |writer| {
        udp(writer);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
    })
}

/// Alice's allocation with a port reserved: its relayed address and the token.
fn reserve(fixture: &mut Fixture, credential: &Credential) -> (SocketAddr, Vec<u8>) {
    let reply = ask(fixture, alice(), credential, &[(A::EVEN_PORT, &EVEN_AND_NEXT)]);
    (relayed(&reply), value(&reply, A::RESERVATION_TOKEN).unwrap())
}

fn claim(fixture: &mut Fixture, client: Client, credential: &Credential, token: &[u8]) -> Vec<u8> {
    ask(fixture, client, credential, &[(A::RESERVATION_TOKEN, token)])
}

#[test]
fn rfc8656_7_2_an_even_port_is_even_and_without_the_r_bit_nothing_is_reserved() {
    for family in [FAMILY_IPV4, FAMILY_IPV6] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        let mut codes = vec![];
        for n in 0..6 {
            let client = client(Transport::Udp, &format!("81.0.0.1:{}", 4_000 + n));
            let attributes: [(A, &[u8]); 2] = [(A::EVEN_PORT, &EVEN), (A::REQUESTED_ADDRESS_FAMILY, &family)];
            let reply = ask(&mut fixture, client, &credential, &attributes);
            codes.push(code(&reply));
            if code(&reply) == 0 {
                assert_eq!(relayed(&reply).port() % 2, 0);
                assert_eq!(value(&reply, A::RESERVATION_TOKEN), None);
            }
        }
        // Five of ten ports are even.
        assert_eq!((codes, fixture.ports.taken()), (vec![0, 0, 0, 0, 0, 508], 5));
        assert_eq!(code(&ask(&mut fixture, alice(), &credential, &[])), 437);
        assert_eq!(code(&ask(&mut fixture, bob(), &credential, &[])), 0, "the odd ones are free");
    }
}

#[test]
fn rfc8656_7_2_the_r_bit_reserves_the_next_port_for_one_allocate() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (first, token) = reserve(&mut fixture, &credential);
    assert_eq!((first.port() % 2, token.len(), fixture.ports.taken()), (0, 8, 2));
    let reply = claim(&mut fixture, bob(), &credential, &token);
    assert_eq!(relayed(&reply), SocketAddr::new(first.ip(), first.port() + 1));
    assert_eq!(value(&reply, A::RESERVATION_TOKEN), None);
    assert_eq!(fixture.ports.taken(), 2);
    let carol = client(Transport::Udp, "83.0.0.1:4000");
    assert_eq!(code(&claim(&mut fixture, carol, &credential, &token)), 508, "a second time");
    // Its time passes and leaves the allocation alone; its end returns the port.
    fixture.now_ms += 30_000;
    fixture.timeout();
    assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (2, 2));
    assert_eq!(code(&fixture.refresh(bob(), &credential, 0)), 0);
    assert_eq!(fixture.ports.taken(), 1);
}

#[test]
fn rfc8656_7_2_a_pair_needs_two_free_ports() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let mut codes = vec![];
    for n in 0..6 {
        let client = client(Transport::Udp, &format!("81.0.0.1:{}", 4_000 + n));
        codes.push(code(&ask(&mut fixture, client, &credential, &[(A::EVEN_PORT, &EVEN_AND_NEXT)])));
    }
    assert_eq!((codes, fixture.ports.taken()), (vec![0, 0, 0, 0, 0, 508], 10));
    assert_eq!(code(&ask(&mut fixture, bob(), &credential, &[])), 508, "reserved ports are not for others");
    fixture.now_ms += 30_000;
    fixture.timeout();
    assert_eq!(fixture.ports.taken(), 5);
}

#[test]
fn rfc8656_7_2_a_reservation_lasts_30_seconds() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (_, token) = reserve(&mut fixture, &credential);
    assert_eq!(fixture.server.poll_timeout(), Some(fixture.now_ms + 30_000));
    fixture.now_ms += 29_999;
    fixture.timeout();
    assert_eq!(fixture.ports.taken(), 2);
    let mut other = fixture.sibling();
    let reply = claim(&mut other, bob(), &credential, &token);
    assert_eq!(code(&reply), 0, "just in time");

    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (_, token) = reserve(&mut fixture, &credential);
    fixture.now_ms += 30_000;
    fixture.timeout();
    assert_eq!(fixture.ports.taken(), 1, "the port is back");
    assert_eq!(code(&claim(&mut fixture, bob(), &credential, &token)), 508);
    assert_eq!(fixture.server.allocation_count(), 1);
}

#[test]
fn rfc8656_7_2_a_reservation_outlives_its_allocation_and_is_over_on_time() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (first, token) = reserve(&mut fixture, &credential);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 0);
    assert_eq!(fixture.ports.taken(), 1);
    let reply = claim(&mut fixture, alice(), &credential, &token);
    assert_eq!(relayed(&reply).port(), first.port() + 1);
}

#[test]
fn only_the_credential_that_reserved_a_port_may_claim_it() {
    let mut fixture = Fixture::new();
    let (credential, other) = (fixture.mint(3_600), fixture.mint(3_600));
    let (_, token) = reserve(&mut fixture, &credential);
    assert_eq!(code(&claim(&mut fixture, bob(), &other, &token)), 508);
    assert_eq!(code(&claim(&mut fixture, bob(), &credential, &token)), 0, "and it is still there");
}

#[test]
fn a_reservation_is_claimed_through_any_worker_once() {
    let mut one = Fixture::new();
    let mut two = one.sibling();
    let credential = one.mint(3_600);
    let (first, token) = reserve(&mut one, &credential);
    let reply = claim(&mut two, bob(), &credential, &token);
    assert_eq!(relayed(&reply), SocketAddr::new(first.ip(), first.port() + 1));
    assert_eq!((one.server.allocation_count(), two.server.allocation_count()), (1, 1));
    let carol = client(Transport::Udp, "83.0.0.1:4000");
    assert_eq!(code(&claim(&mut one, carol, &credential, &token)), 508);
    one.now_ms += 30_000;
    one.timeout();
    assert_eq!(one.ports.taken(), 2);
    assert_eq!(code(&two.refresh(bob(), &credential, 0)), 0);
    assert_eq!(one.ports.taken(), 1);
}

#[test]
fn rfc8656_7_2_attributes_that_exclude_each_other_are_400() {
    let token: &[u8] = &[7; 8];
    let cases: [(Attributes<'_>, u16); 15] = [
        (&[(A::RESERVATION_TOKEN, token)], 508),
        (&[(A::RESERVATION_TOKEN, token), (A::EVEN_PORT, &EVEN)], 400),
        (&[(A::RESERVATION_TOKEN, token), (A::EVEN_PORT, &EVEN_AND_NEXT)], 400),
        (&[(A::RESERVATION_TOKEN, token), (A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV4)], 400),
        (&[(A::RESERVATION_TOKEN, token), (A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV6)], 400),
        (&[(A::RESERVATION_TOKEN, token), (A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6)], 400),
        (&[(A::RESERVATION_TOKEN, &[7; 7])], 400),
        (&[(A::RESERVATION_TOKEN, &[7; 9])], 400),
        (&[(A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV4), (A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6)], 400),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6), (A::EVEN_PORT, &EVEN_AND_NEXT)], 400),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV4)], 400),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, &[3, 0, 0, 0])], 400),
        (&[(A::ADDITIONAL_ADDRESS_FAMILY, &[2])], 400),
        (&[(A::EVEN_PORT, &[])], 400),
        (&[(A::EVEN_PORT, &[0x80, 0])], 400),
    ];
    for (attributes, expected) in cases {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        assert_eq!(code(&ask(&mut fixture, alice(), &credential, attributes)), expected, "{attributes:?}");
        assert_eq!((fixture.ports.taken(), fixture.server.poll_timeout()), (0, None), "{attributes:?}");
    }
    // A token that is good for nothing here is not used up.
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (_, token) = reserve(&mut fixture, &credential);
    let contradicting: [(A, &[u8]); 2] = [(A::RESERVATION_TOKEN, &token), (A::EVEN_PORT, &EVEN)];
    assert_eq!(code(&ask(&mut fixture, bob(), &credential, &contradicting)), 400);
    assert_eq!(code(&claim(&mut fixture, alice(), &credential, &token)), 437);
    assert_eq!(code(&claim(&mut fixture, bob(), &credential, &token)), 0);
}

#[test]
fn rfc8656_7_2_a_retransmitted_allocate_gets_the_same_token_again() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let request = fixture.signed(alice(), &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::EVEN_PORT, &EVEN_AND_NEXT);
    });
    let first = fixture.give(alice(), &request).reply();
    let token = value(&first, A::RESERVATION_TOKEN).unwrap();
    fixture.now_ms += 5_000;
    assert_eq!(fixture.give(alice(), &request).reply(), first);
    assert_eq!(fixture.ports.taken(), 2);

    let request = fixture.signed(bob(), &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::RESERVATION_TOKEN, &token);
    });
    let second = fixture.give(bob(), &request).reply();
    assert_eq!(code(&second), 0);
    assert_eq!(fixture.give(bob(), &request).reply(), second, "although the token is used up");
}

#[test]
fn a_reservation_whose_port_cannot_be_opened_is_gone_and_its_port_is_back() {
    for failure in [OpenError::InUse, OpenError::Failed] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        let (_, token) = reserve(&mut fixture, &credential);
        fixture.sockets.failure = Some(failure);
        assert_eq!(code(&claim(&mut fixture, bob(), &credential, &token)), 508, "{failure:?}");
        assert_eq!(fixture.ports.taken(), 1);
    }
}

#[test]
fn rfc8656_7_2_a_port_that_cannot_be_reserved_is_508() {
    let mut fixture = Fixture::with(Limits { reservations: 2, ..Limits::default() });
    let mut sibling = fixture.sibling();
    let credential = fixture.mint(3_600);
    let nth = |n: u16| client(Transport::Udp, &format!("83.0.0.1:{n}"));
    let pair: Attributes<'_> = &[(A::EVEN_PORT, &EVEN_AND_NEXT)];
    let (_, token) = reserve(&mut fixture, &credential);
    assert_eq!(code(&ask(&mut sibling, nth(1), &credential, pair)), 0);
    for n in 2..4 {
        assert_eq!(code(&ask(&mut fixture, nth(n), &credential, pair)), 508, "as many as may be");
        assert_eq!(fixture.ports.taken(), 4, "and nothing is taken");
    }
    assert_eq!(code(&ask(&mut fixture, nth(2), &credential, &[(A::EVEN_PORT, &EVEN)])), 0);
    // One that is claimed has a timer still.
    assert_eq!(code(&claim(&mut fixture, nth(3), &credential, &token)), 0);
    assert_eq!(code(&ask(&mut fixture, nth(4), &credential, pair)), 508);
    fixture.now_ms += 30_000;
    fixture.timeout();
    assert_eq!(code(&ask(&mut fixture, nth(4), &credential, pair)), 0);
    // A socket that cannot be opened leaves the room for others.
    sibling.now_ms += 30_000;
    sibling.timeout();
    sibling.sockets.failure = Some(OpenError::Failed);
    assert_eq!(code(&ask(&mut sibling, nth(5), &credential, pair)), 508);
    sibling.sockets.failure = None;
    assert_eq!(code(&ask(&mut sibling, nth(5), &credential, pair)), 0);
}
