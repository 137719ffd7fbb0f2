//! What clients are told of datagrams that did not arrive: RFC 8656 §11.5 and §18.13.

use std::net::SocketAddr;

use stun::{AttributeType as A, Class, Message, Method, address};
use turn::{Action, DropReason, HEADROOM, Icmp, MAX_REPLY, Packet, RelayId, TAILROOM, Transport};

use crate::fixture::{Fixture, PEER, PEER6, alice, client, udp};

const UNREACHABLE: Icmp = Icmp { kind: 3, code: 3, data: 0 };

/// Tells the server of an error; what it does, and what the client would get.
fn complain(fixture: &mut Fixture, relay: RelayId, peer: &str, icmp: Icmp) -> (Action, Vec<u8>) {
    let mut buffer = vec![0xA5; HEADROOM + MAX_REPLY + TAILROOM];
    let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM);
    let peer = peer.parse().unwrap();
    let action = fixture.server.from_peer_error(fixture.now(), relay, peer, icmp, &mut packet);
    (action, packet.bytes().to_vec())
}

fn permitted() -> Fixture {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    fixture
}

#[test]
fn rfc8656_11_5_the_client_gets_a_data_indication_with_icmp_and_without_data() {
    let mut fixture = permitted();
    // A permission is for all ports of its address.
    for peer in [PEER, "8.8.8.8:9"] {
        let (action, told) = complain(&mut fixture, RelayId(0), peer, UNREACHABLE);
        assert_eq!(action, Action::ToClient(alice()));
        let message = Message::parse(&told).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        let about =
            address::decode_xor(message.attribute(A::XOR_PEER_ADDRESS).unwrap(), message.transaction());
        assert_eq!(about, Some(peer.parse::<SocketAddr>().unwrap()));
        assert_eq!(message.attribute(A::ICMP), Some(&[0, 0, 3, 3, 0, 0, 0, 0][..]));
        assert_eq!(message.attributes().count(), 2);
    }
}

#[test]
fn rfc8656_11_5_only_some_kinds_are_relayed_and_only_about_permitted_peers() {
    let mut fixture = permitted();
    for kind in 0..=255 {
        let (action, _) = complain(&mut fixture, RelayId(0), PEER, Icmp { kind, ..UNREACHABLE });
        let relayed = matches!(action, Action::ToClient(_));
        assert_eq!(relayed, kind == 3 || kind == 11, "{kind}");
        assert!(relayed || action == Action::Drop(DropReason::IcmpNotRelayed));
    }
    let mut why = |relay, peer| complain(&mut fixture, RelayId(relay), peer, UNREACHABLE).0;
    assert_eq!(why(0, "9.9.9.9:5000"), Action::Drop(DropReason::NoPermission));
    assert_eq!(why(7, PEER), Action::Drop(DropReason::NoAllocation));
    fixture.now_ms += 300_000;
    let (late, _) = complain(&mut fixture, RelayId(0), PEER, UNREACHABLE);
    assert_eq!(late, Action::Drop(DropReason::NoPermission));
}

#[test]
fn rfc8656_18_13_error_data_is_the_mtu_and_else_zero() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let alice = client(Transport::Udp, "81.0.0.1:4000");
    let reply = fixture.ask(alice, &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &testkit::message::FAMILY_IPV6);
    });
    let relays = crate::fixture::all_relayed(&reply);
    let socket = |v4: bool| relays.iter().find(|relayed| relayed.is_ipv4() == v4).copied().unwrap();
    let (four, six) = (fixture.socket_of(socket(true)).unwrap(), fixture.socket_of(socket(false)).unwrap());
    assert_eq!(fixture.permit(alice, &credential, &[PEER, PEER6]), 0);
    for (relay, peer, kind, code, data) in [
        (four, PEER, 3, 4, [0, 0, 5, 220]),
        (four, PEER, 3, 1, [0; 4]),
        (four, PEER, 11, 4, [0; 4]),
        (six, PEER6, 2, 0, [0, 0, 5, 220]),
        (six, PEER6, 1, 4, [0; 4]),
        (six, PEER6, 3, 4, [0; 4]),
    ] {
        let (_, told) = complain(&mut fixture, relay, peer, Icmp { kind, code, data: 1_500 });
        let value = Message::parse(&told).unwrap().attribute(A::ICMP).unwrap().to_vec();
        assert_eq!(value, [&[0, 0, kind, code][..], &data].concat(), "{peer} {kind} {code}");
    }
    for kind in [0, 4, 11, 128] {
        let (action, _) = complain(&mut fixture, six, PEER6, Icmp { kind, ..UNREACHABLE });
        assert_eq!(action, Action::Drop(DropReason::IcmpNotRelayed), "{kind}");
    }
}

#[test]
fn a_client_is_told_of_16_errors_in_a_second() {
    let mut fixture = permitted();
    for _ in 0..2 {
        for _ in 0..16 {
            assert_eq!(complain(&mut fixture, RelayId(0), PEER, UNREACHABLE).0, Action::ToClient(alice()));
        }
        fixture.now_ms += 999;
        let (action, _) = complain(&mut fixture, RelayId(0), PEER, UNREACHABLE);
        assert_eq!(action, Action::Drop(DropReason::TooManyErrors));
        fixture.now_ms += 1;
    }
}
