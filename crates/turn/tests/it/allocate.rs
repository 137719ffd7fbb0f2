//! Allocate and Refresh: RFC 8656 §7 and §8.

use std::collections::BTreeSet;

use stun::{AttributeType as A, Method};
use testkit::message::{FAMILY_IPV4, FAMILY_IPV6, REQUESTED_UDP};
use turn::{EndReason, Limits, OpenError, Transport};

use crate::fixture::{Fixture, alice, client, code, lifetime, relayed, udp};

#[test]
fn rfc8656_7_2_what_is_asked_for_decides_the_answer() {
    type Attributes = &'static [(A, &'static [u8])];
    let over = |transport, attributes: Attributes| {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        let client = client(transport, "81.0.0.1:4000");
        code(&fixture.ask(client, &credential, Method::ALLOCATE, |writer| {
            for (kind, value) in attributes {
                writer.attribute(*kind, value);
            }
        }))
    };
    let cases: [(Attributes, u16); 13] = [
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP)], 0),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV4)], 0),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV6)], 0),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])], 440),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::REQUESTED_ADDRESS_FAMILY, &[1])], 400),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::LIFETIME, &[0, 0, 1])], 400),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A(0xC001), b"optional")], 0),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A(0x7ABC), b"unknown")], 420),
        (&[(A::REQUESTED_TRANSPORT, &[99, 0, 0, 0])], 442),
        (&[(A::REQUESTED_TRANSPORT, &[17])], 400),
        (&[], 400),
        // The first of several counts.
        (&[(A::REQUESTED_TRANSPORT, &[99, 0, 0, 0]), (A::REQUESTED_TRANSPORT, &REQUESTED_UDP)], 442),
        (&[(A::REQUESTED_TRANSPORT, &REQUESTED_UDP), (A::REQUESTED_TRANSPORT, &[99, 0, 0, 0])], 0),
    ];
    for (attributes, expected) in cases {
        assert_eq!(over(Transport::Udp, attributes), expected, "UDP {attributes:?}");
        assert_eq!(over(Transport::Tcp, attributes), expected, "TCP {attributes:?}");
    }
}

#[test]
fn rfc8656_7_2_the_relayed_address_is_of_the_family_asked_for() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    assert_eq!(fixture.allocate(alice(), &credential).ip().to_string(), "20.0.0.2");
    let bob = client(Transport::Udp, "82.0.0.1:4000");
    let reply = fixture.ask(bob, &credential, Method::ALLOCATE, |writer| {
        writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_UDP);
        writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV6);
    });
    assert_eq!(relayed(&reply).ip().to_string(), "2606:4700::2");
}

#[test]
fn a_port_is_found_among_those_of_other_programs() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.sockets.in_use = (50_000..50_008).collect();
    for _ in 0..100 {
        assert!(fixture.allocate(alice(), &credential).port() >= 50_008);
        assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 0);
    }
    fixture.sockets.in_use = (50_000..50_010).collect();
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 508);
    assert_eq!(fixture.ports.taken(), 0);
}

#[test]
fn rfc8656_7_2_lifetimes_are_clamped_and_end_with_the_credential() {
    for (ttl, asked, granted) in [
        (7_200, None, 600),
        (7_200, Some(0), 600),
        (7_200, Some(1), 600),
        (7_200, Some(599), 600),
        (7_200, Some(601), 601),
        (7_200, Some(3_600), 3_600),
        (7_200, Some(3_601), 3_600),
        (7_200, Some(1 << 31), 3_600),
        (7_200, Some(u32::MAX), 3_600),
        (300, None, 300),
        (300, Some(3_600), 300),
        (700, Some(u32::MAX), 700),
        (700, Some(650), 650),
    ] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(ttl);
        let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, |writer| {
            udp(writer);
            asked.map(|secs| writer.attribute_u32(A::LIFETIME, secs));
        });
        assert_eq!(lifetime(&reply), granted, "Allocate {ttl} {asked:?}");
        // RFC 8656 §8.2: the same for Refresh, but for zero.
        if asked != Some(0) {
            let reply = fixture.ask(alice(), &credential, Method::REFRESH, |writer| {
                asked.map(|secs| writer.attribute_u32(A::LIFETIME, secs));
            });
            assert_eq!(lifetime(&reply), granted, "Refresh {ttl} {asked:?}");
        }
        assert_eq!(fixture.server.poll_timeout(), Some(fixture.now_ms + u64::from(granted) * 1_000));
    }
}

#[test]
fn rfc8656_7_2_a_retransmitted_allocate_is_answered_again_and_another_one_with_437() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let request = fixture.signed(alice(), &credential, Method::ALLOCATE, udp);
    let first = fixture.give(alice(), &request).reply();
    fixture.now_ms += 5_000;
    assert_eq!(fixture.give(alice(), &request).reply(), first);
    assert_eq!(fixture.server.allocation_count(), 1);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 437);
    let other = fixture.mint(3_600);
    assert_eq!(code(&fixture.ask(alice(), &other, Method::ALLOCATE, udp)), 437);
    // The same packet from elsewhere is not a retransmission.
    let bob = client(Transport::Udp, "81.0.0.1:4001");
    assert_eq!(fixture.give(bob, &request).code(), 438);
    assert_eq!(fixture.ports.taken(), 1);
}

#[test]
fn rfc8656_8_2_a_lifetime_of_zero_frees_the_five_tuple() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(lifetime(&fixture.refresh(alice(), &credential, 0)), 0);
    assert_eq!((fixture.ends.clone(), fixture.ports.taken()), (vec![EndReason::Deleted], 0));
    assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 437);
    let other = fixture.mint(3_600);
    fixture.allocate(alice(), &other);
    assert_eq!(fixture.server.allocation_count(), 1);
}

#[test]
fn rfc8656_8_2_a_refresh_for_another_family_is_443() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    for (family, expected) in [(FAMILY_IPV4, 0), (FAMILY_IPV6, 443), ([9, 0, 0, 0], 443)] {
        let reply = fixture.ask(alice(), &credential, Method::REFRESH, |writer| {
            writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &family);
        });
        assert_eq!(code(&reply), expected, "{family:?}");
    }
}

#[test]
fn rfc8656_5_without_an_allocation_it_is_437() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    for round in ["never", "expired"] {
        assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 437, "{round}");
        assert_eq!(fixture.permit(alice(), &credential, &["8.8.8.8:1"]), 437, "{round}");
        assert_eq!(fixture.bind(alice(), &credential, 0x4000, "8.8.8.8:1"), 437, "{round}");
        fixture.allocate(alice(), &credential);
        // The timer has not been looked at yet.
        fixture.now_ms += 600_000;
    }
}

#[test]
fn rfc8656_5_expiry_is_exact_to_the_millisecond() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    fixture.now_ms += 599_999;
    fixture.timeout();
    assert_eq!(fixture.server.allocation_count(), 1);
    fixture.now_ms += 1;
    fixture.timeout();
    assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (0, 0));
    assert_eq!(fixture.ends, [EndReason::Expired]);
}

#[test]
fn rfc8656_7_2_what_cannot_be_given_is_508() {
    let mut fixture = Fixture::with(Limits { allocations: 2, ..Limits::default() });
    let credential = fixture.mint(3_600);
    let clients = |count: u16| (0..count).map(|n| client(Transport::Udp, &format!("81.0.0.1:{}", 4_000 + n)));
    let ask = |fixture: &mut Fixture, client| code(&fixture.ask(client, &credential, Method::ALLOCATE, udp));
    let codes: Vec<u16> = clients(3).map(|client| ask(&mut fixture, client)).collect();
    assert_eq!(codes, [0, 0, 508], "as many as may be");

    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let mut seen = BTreeSet::new();
    for client in clients(10) {
        seen.insert(fixture.allocate(client, &credential).port());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (50_000..=50_009).collect::<Vec<_>>());
    let eleventh = client(Transport::Udp, "82.0.0.1:1");
    assert_eq!(code(&fixture.ask(eleventh, &credential, Method::ALLOCATE, udp)), 508, "no port");

    for failure in [OpenError::InUse, OpenError::Failed] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        fixture.sockets.failure = Some(failure);
        assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 508, "{failure:?}");
        assert_eq!(fixture.ports.taken(), 0);
    }
}
