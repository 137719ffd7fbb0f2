//! Two relayed addresses in one allocation: RFC 8656 §7.2 and §8.2, ADDITIONAL-ADDRESS-FAMILY.

use std::net::SocketAddr;

use credentials::Credential;
use stun::{AttributeType as A, ChannelNumber, Message, Method};
use testkit::message::{self, EVEN, FAMILY_IPV4, FAMILY_IPV6};
use turn::{Action, DropReason, EndReason, Transport};

use crate::fixture::{Fixture, Outcome, PEER, PEER6, alice, all_relayed, client, code, lifetime, udp, value};

fn both(writer: &mut stun::MessageWriter<'_>) {
    udp(writer);
    writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6);
}

/// A server on which Alice has both addresses: IPv4 first.
fn allocated() -> (Fixture, Credential, [SocketAddr; 2]) {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, both);
    let relayed = all_relayed(&reply).try_into().unwrap();
    (fixture, credential, relayed)
}

fn refresh(fixture: &mut Fixture, credential: &Credential, family: [u8; 4], secs: Option<u32>) -> Vec<u8> {
    fixture.ask(alice(), credential, Method::REFRESH, |writer| {
        writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &family);
        secs.map(|secs| writer.attribute_u32(A::LIFETIME, secs));
    })
}

/// Whether a Send indication to this peer leaves from this address.
fn sends(fixture: &mut Fixture, from: SocketAddr, peer: &str) -> bool {
    let relay = fixture.socket_of(from);
    let transaction = fixture.dice.transaction();
    let peer: SocketAddr = peer.parse().unwrap();
    let outcome = fixture.give(alice(), &message::send_indication(transaction, peer, b"data"));
    let sent = outcome == Outcome::ToPeer(peer, b"data".to_vec());
    assert!(!sent || matches!(fixture.last, Some(Action::ToPeer { relay: r, .. }) if Some(r) == relay));
    sent
}

/// Whether data of this peer to this address reaches the client.
fn hears(fixture: &mut Fixture, at: SocketAddr, peer: &str) -> bool {
    let Some(relay) = fixture.socket_of(at) else { return false };
    match fixture.hear_on(relay, peer, b"data") {
        Outcome::ToClient(client, _) => client == alice(),
        other => {
            assert_eq!(other, Outcome::Silence(DropReason::NoPermission));
            false
        }
    }
}

#[test]
fn rfc8656_7_2_both_relayed_addresses_are_in_the_answer() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let request = fixture.signed(alice(), &credential, Method::ALLOCATE, both);
    let reply = fixture.give(alice(), &request).reply();
    let ips: Vec<String> = all_relayed(&reply).iter().map(|relayed| relayed.ip().to_string()).collect();
    assert_eq!(ips, ["20.0.0.2", "2606:4700::2"]);
    assert_eq!((lifetime(&reply), value(&reply, A::ADDRESS_ERROR_CODE)), (600, None));
    assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (1, 2));
    assert_eq!(fixture.give(alice(), &request).reply(), reply, "retransmitted");
    assert_eq!(fixture.ports.taken(), 2);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 0);
    assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (0, 0));
    assert_eq!(fixture.ends, [EndReason::Deleted; 2]);
}

#[test]
fn rfc8656_7_2_even_ports_for_both() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, |writer| {
        both(writer);
        writer.attribute(A::EVEN_PORT, &EVEN);
    });
    let relayed = all_relayed(&reply);
    assert_eq!(relayed.len(), 2);
    assert!(relayed.iter().all(|relayed| relayed.port() % 2 == 0), "{relayed:?}");
}

#[test]
fn rfc8656_7_2_a_family_that_is_not_to_be_had_is_in_address_error_code() {
    for (missing, family, ip) in [("2606:4700::2", 2, "20.0.0.2"), ("20.0.0.2", 1, "2606:4700::2")] {
        let mut fixture = Fixture::configured(|config| {
            config.relay_addresses.retain(|relay| relay.public.to_string() != missing);
        });
        let credential = fixture.mint(3_600);
        let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, both);
        assert_eq!(code(&reply), 0);
        let ips: Vec<String> = all_relayed(&reply).iter().map(|relayed| relayed.ip().to_string()).collect();
        assert_eq!(ips, [ip]);
        let error = value(&reply, A::ADDRESS_ERROR_CODE).unwrap();
        assert_eq!(error[..4], [family, 0, 4, 40], "440");
        assert_eq!(fixture.ports.taken(), 1);
    }
    let mut fixture = Fixture::configured(|config| config.relay_addresses.clear());
    let credential = fixture.mint(3_600);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, both)), 440, "neither");
    // All ports of one family taken.
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    for n in 0..10 {
        fixture.allocate(client(Transport::Udp, &format!("83.0.0.1:{}", 4_000 + n)), &credential);
    }
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, both);
    assert_eq!(all_relayed(&reply)[0].ip().to_string(), "2606:4700::2");
    assert_eq!(value(&reply, A::ADDRESS_ERROR_CODE).unwrap()[..4], [1, 0, 5, 8], "508");
}

#[test]
fn rfc8656_10_2_and_11_data_passes_both_ways_on_both_families() {
    let (mut fixture, credential, [v4, v6]) = allocated();
    assert!(!sends(&mut fixture, v4, PEER) && !hears(&mut fixture, v4, PEER));
    assert!(!sends(&mut fixture, v6, PEER6) && !hears(&mut fixture, v6, PEER6));
    assert_eq!(fixture.permit(alice(), &credential, &[PEER6]), 0);
    assert!(!sends(&mut fixture, v4, PEER) && sends(&mut fixture, v6, PEER6));
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    assert!(sends(&mut fixture, v4, PEER) && hears(&mut fixture, v4, PEER));
    assert!(sends(&mut fixture, v6, PEER6) && hears(&mut fixture, v6, PEER6));
    // One request may be about both.
    let (mut fixture, credential, [v4, v6]) = allocated();
    assert_eq!(fixture.permit(alice(), &credential, &[PEER, PEER6]), 0);
    assert!(sends(&mut fixture, v4, PEER) && sends(&mut fixture, v6, PEER6));
}

#[test]
fn rfc8656_12_2_channels_to_both_families() {
    let (mut fixture, credential, [v4, v6]) = allocated();
    for (number, peer, from) in [(0x4000, PEER, v4), (0x4001, PEER6, v6)] {
        assert_eq!(fixture.bind(alice(), &credential, number, peer), 0);
        let channel = ChannelNumber::new(number).unwrap();
        let packet = message::channel_data(Transport::Udp, channel, b"data");
        let to_peer = Outcome::ToPeer(peer.parse().unwrap(), b"data".to_vec());
        assert_eq!(fixture.give(alice(), &packet), to_peer);
        let relay = fixture.socket_of(from).unwrap();
        assert!(matches!(fixture.last, Some(Action::ToPeer { relay: r, .. }) if r == relay));
        assert_eq!(fixture.hear_on(relay, peer, b"data"), Outcome::ToClient(alice(), packet));
    }
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, PEER6), 400);
    assert_eq!(fixture.bind(alice(), &credential, 0x4001, PEER), 400);
}

#[test]
fn rfc8656_8_2_a_refresh_with_a_family_and_zero_deletes_only_that_address() {
    for first_is_v4 in [true, false] {
        let (mut fixture, credential, [v4, v6]) = allocated();
        for (number, peer) in [(0x4000, PEER), (0x4001, PEER6)] {
            assert_eq!(fixture.bind(alice(), &credential, number, peer), 0);
        }
        let (gone, left) = if first_is_v4 { (FAMILY_IPV4, FAMILY_IPV6) } else { (FAMILY_IPV6, FAMILY_IPV4) };
        assert_eq!(lifetime(&refresh(&mut fixture, &credential, gone, Some(0))), 0);
        assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (1, 1));
        assert_eq!(fixture.ends, [EndReason::Deleted]);
        assert_eq!(sends(&mut fixture, v4, PEER), !first_is_v4);
        assert_eq!(hears(&mut fixture, v4, PEER), !first_is_v4);
        assert_eq!(sends(&mut fixture, v6, PEER6), first_is_v4);
        assert_eq!(hears(&mut fixture, v6, PEER6), first_is_v4);
        for (number, is_left) in [(0x4000, !first_is_v4), (0x4001, first_is_v4)] {
            let channel = ChannelNumber::new(number).unwrap();
            let packet = message::channel_data(Transport::Udp, channel, b"data");
            assert_eq!(matches!(fixture.give(alice(), &packet), Outcome::ToPeer(..)), is_left, "{number:#x}");
        }
        // RFC 8656 §8.2, §10.2: the deleted family is now one that the allocation does not have.
        assert_eq!(code(&refresh(&mut fixture, &credential, gone, Some(0))), 443);
        assert_eq!(code(&refresh(&mut fixture, &credential, gone, None)), 443);
        let peer = if first_is_v4 { PEER } else { PEER6 };
        assert_eq!(fixture.permit(alice(), &credential, &[peer]), 443);
        assert_eq!(fixture.bind(alice(), &credential, 0x4002, peer), 443);
        // The rest is refreshed, and deleted, as any allocation.
        assert_eq!(lifetime(&refresh(&mut fixture, &credential, left, Some(700))), 700);
        assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 437);
        assert_eq!(lifetime(&refresh(&mut fixture, &credential, left, Some(0))), 0);
        assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (0, 0));
    }
}

#[test]
fn rfc8656_8_2_a_refresh_with_a_family_and_a_lifetime_keeps_both() {
    let (mut fixture, credential, [v4, v6]) = allocated();
    assert_eq!(lifetime(&refresh(&mut fixture, &credential, FAMILY_IPV6, Some(900))), 900);
    assert_eq!(fixture.permit(alice(), &credential, &[PEER, PEER6]), 0);
    assert!(sends(&mut fixture, v4, PEER) && sends(&mut fixture, v6, PEER6));
    fixture.now_ms += 900_000;
    fixture.timeout();
    assert_eq!(fixture.ends, [EndReason::Expired; 2]);
    assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (0, 0));
}

#[test]
fn rfc8656_11_2_dont_fragment_reaches_the_socket() {
    let (mut fixture, credential, _) = allocated();
    assert_eq!(fixture.permit(alice(), &credential, &[PEER, PEER6]), 0);
    for peer in [PEER, PEER6] {
        for asked in [true, false] {
            let packet =
                message::write(stun::Class::Indication, Method::SEND, fixture.dice.transaction(), |writer| {
                    writer.xor_address(A::XOR_PEER_ADDRESS, peer.parse().unwrap());
                    writer.attribute(A::DATA, b"data");
                    if asked {
                        writer.attribute(A::DONT_FRAGMENT, &[]);
                    }
                });
            assert!(matches!(fixture.give(alice(), &packet), Outcome::ToPeer(..)));
            let Some(Action::ToPeer { dont_fragment, .. }) = fixture.last else { panic!() };
            assert_eq!(dont_fragment, asked, "{peer}");
        }
    }
    // RFC 8656 §7.2: an Allocate may ask whether it is supported.
    let bob = client(Transport::Udp, "82.0.0.1:4000");
    let reply = fixture.ask(bob, &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::DONT_FRAGMENT, &[]);
    });
    assert_eq!(code(&reply), 0);
    assert!(Message::parse(&reply).unwrap().attribute(A::UNKNOWN_ATTRIBUTES).is_none());
}
