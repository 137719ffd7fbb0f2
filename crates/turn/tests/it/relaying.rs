//! Permissions, channels and data: RFC 8656 §9 to §12.

use std::sync::Arc;

use stun::{AttributeType as A, ChannelNumber, Class, Message, Method, address};
use testkit::message;
use turn::{Client, Command, DropReason, PeerPolicy, Transport};

use crate::fixture::{Fixture, Outcome, PEER, PEER6, alice, client, code, udp};

const CHANNEL: u16 = 0x4000;

fn channel_data(client: Client, number: u16, data: &[u8]) -> Vec<u8> {
    message::channel_data(client.five_tuple.transport, ChannelNumber::new(number).unwrap(), data)
}

/// A server on which a client has an allocation.
fn allocated(client: Client) -> (Fixture, credentials::Credential) {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(172_800);
    fixture.ask(client, &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute_u32(A::LIFETIME, 3_600);
    });
    (fixture, credential)
}

#[test]
fn rfc8656_10_2_create_permission_does_all_or_nothing() {
    let cases: [(&[&str], u16); 12] = [
        (&[PEER], 0),
        (&[PEER, "1.1.1.1:1"], 0),
        (&[], 400),
        (&[PEER6], 443),
        (&[PEER, PEER6], 443),
        (&["10.0.0.1:1"], 403),
        (&[PEER, "10.0.0.1:1"], 403),
        (&["127.0.0.1:1"], 403),
        (&["169.254.169.254:80"], 403),
        (&["224.0.0.1:1"], 403),
        (&["0.0.0.0:0"], 403),
        (&["255.255.255.255:1"], 403),
    ];
    for (peers, expected) in cases {
        let (mut fixture, credential) = allocated(alice());
        assert_eq!(fixture.permit(alice(), &credential, peers), expected, "{peers:?}");
        assert_eq!(fixture.sends(alice()), expected == 0, "{peers:?}");
        assert_eq!(fixture.hears(), expected == 0, "{peers:?}");
    }
    let (mut fixture, credential) = allocated(alice());
    let reply = fixture.ask(alice(), &credential, Method::CREATE_PERMISSION, |writer| {
        writer.xor_address(A::XOR_PEER_ADDRESS, PEER.parse().unwrap());
        writer.attribute(A::XOR_PEER_ADDRESS, &[0, 1, 2]);
    });
    assert_eq!((code(&reply), fixture.sends(alice())), (400, false));
}

#[test]
fn rfc8656_9_a_permission_is_for_an_address_and_lasts_300_seconds() {
    let (mut fixture, credential) = allocated(alice());
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.8.8:1"]), 0);
    assert!(matches!(fixture.hear("8.8.8.8:9", b"any port"), Outcome::ToClient(..)));
    assert_eq!(fixture.hear("8.8.8.9:1", b"x"), Outcome::Silence(DropReason::NoPermission));
    fixture.now_ms += 200_000;
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.8.8:2"]), 0, "refreshed");
    fixture.now_ms += 299_999;
    assert!(fixture.sends(alice()) && fixture.hears());
    fixture.now_ms += 1;
    assert!(!fixture.sends(alice()) && !fixture.hears());
}

#[test]
fn rfc8656_12_2_a_channel_and_its_peer_stay_together() {
    let (mut fixture, credential) = allocated(alice());
    for (number, peer, expected) in [
        (CHANNEL, PEER, 0),
        (CHANNEL, PEER, 0),
        (CHANNEL, "8.8.8.8:5001", 400),
        (CHANNEL, "1.1.1.1:5000", 400),
        (0x4001, PEER, 400),
        (0x4001, "8.8.8.8:5001", 0),
        (CHANNEL, "8.8.8.8:5001", 400),
        (0x4FFF, "1.1.1.1:5000", 0),
        (0x3FFF, "1.1.1.1:5001", 400),
        (0x5000, "1.1.1.1:5001", 400),
        (0x7FFF, "1.1.1.1:5001", 400),
        (0x4002, PEER6, 443),
        (0x4002, "10.0.0.1:1", 403),
        (0x4002, "20.0.0.1:3478", 403),
    ] {
        assert_eq!(fixture.bind(alice(), &credential, number, peer), expected, "{number:#x} {peer}");
    }
    // Nothing has moved.
    let to_peer = Outcome::ToPeer(PEER.parse().unwrap(), b"data".to_vec());
    assert_eq!(fixture.give(alice(), &channel_data(alice(), CHANNEL, b"data")), to_peer);
}

#[test]
fn rfc5766_11_channel_numbers_up_to_0x7fff_are_accepted_unless_strict() {
    let mut fixture = Fixture::configured(|config| config.strict_channels = false);
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    for (n, number) in (1..).zip([0x4000, 0x4FFF, 0x5000, 0x6000, 0x7FFF]) {
        let peer = format!("8.8.8.8:{n}");
        assert_eq!(fixture.bind(alice(), &credential, number, &peer), 0, "{number:#x}");
        let packet = channel_data(alice(), number, b"data");
        let to_peer = Outcome::ToPeer(peer.parse().unwrap(), b"data".to_vec());
        assert_eq!(fixture.give(alice(), &packet), to_peer, "{number:#x}");
        assert_eq!(fixture.hear(&peer, b"data"), Outcome::ToClient(alice(), packet), "{number:#x}");
    }
    for number in [0, 0x3FFF, 0x8000, 0xFFFF] {
        assert_eq!(fixture.bind(alice(), &credential, number, "8.8.8.8:9"), 400, "{number:#x}");
    }
    let strict = allocated(alice());
    let (mut fixture, credential) = strict;
    for number in [0x5000, 0x7FFF] {
        assert_eq!(fixture.bind(alice(), &credential, number, PEER), 400, "{number:#x}");
    }
}

#[test]
fn rfc8656_12_2_missing_and_malformed_attributes_are_400() {
    let (mut fixture, credential) = allocated(alice());
    let peer = PEER.parse().unwrap();
    let mut check = |fill: &dyn Fn(&mut stun::MessageWriter<'_>)| {
        code(&fixture.ask(alice(), &credential, Method::CHANNEL_BIND, fill))
    };
    assert_eq!(check(&|_| {}), 400);
    assert_eq!(
        check(&|w| {
            w.xor_address(A::XOR_PEER_ADDRESS, peer);
        }),
        400
    );
    assert_eq!(
        check(&|w| {
            w.attribute(A::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
        }),
        400
    );
    assert_eq!(
        check(&|w| {
            w.attribute(A::CHANNEL_NUMBER, &[0x40, 0]).xor_address(A::XOR_PEER_ADDRESS, peer);
        }),
        400
    );
}

#[test]
fn rfc8656_12_a_channel_lasts_600_seconds_and_brings_a_permission() {
    let (mut fixture, credential) = allocated(alice());
    assert_eq!(fixture.bind(alice(), &credential, CHANNEL, PEER), 0);
    fixture.now_ms += 299_999;
    assert!(matches!(fixture.hear(PEER, b"x"), Outcome::ToClient(_, bytes) if bytes[0] == 0x40));
    fixture.now_ms += 1;
    assert!(!fixture.hears(), "the permission is over, the channel is not");
    fixture.now_ms += 299_999;
    let packet = channel_data(alice(), CHANNEL, b"data");
    assert!(matches!(fixture.give(alice(), &packet), Outcome::ToPeer(..)));
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    fixture.now_ms += 1;
    assert_eq!(fixture.give(alice(), &packet), Outcome::Silence(DropReason::NoChannel));
    assert!(matches!(fixture.hear(PEER, b"x"), Outcome::ToClient(_, bytes) if bytes[0] == 0));
    // And both are free for others.
    assert_eq!(fixture.bind(alice(), &credential, CHANNEL, "1.1.1.1:1"), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4001, PEER), 0);
}

#[test]
fn rfc8656_12_6_channel_data_is_relayed_or_dropped_in_silence() {
    let (mut fixture, credential) = allocated(alice());
    assert_eq!(fixture.bind(alice(), &credential, CHANNEL, PEER), 0);
    let peer = PEER.parse().unwrap();
    for (packet, expected) in [
        (&[0x40, 0, 0, 2, b'h', b'i'][..], Outcome::ToPeer(peer, b"hi".to_vec())),
        (&[0x40, 0, 0, 2, b'h', b'i', 0, 0], Outcome::ToPeer(peer, b"hi".to_vec())),
        (&[0x40, 0, 0, 0], Outcome::ToPeer(peer, vec![])),
        (&[0x40, 0, 0, 3, b'h', b'i'], Outcome::Silence(DropReason::MalformedChannelData)),
        (&[0x40, 0, 0], Outcome::Silence(DropReason::MalformedChannelData)),
        (&[0x40, 1, 0, 0], Outcome::Silence(DropReason::NoChannel)),
        (&[0x50, 0, 0, 0], Outcome::Silence(DropReason::NoChannel)),
        (&[0x80, 0, 0, 0], Outcome::Silence(DropReason::NotStun)),
    ] {
        assert_eq!(fixture.give(alice(), packet), expected, "{packet:?}");
    }
    let stranger = client(Transport::Udp, "81.0.0.1:4001");
    let outcome = fixture.give(stranger, &[0x40, 0, 0, 0]);
    assert_eq!(outcome, Outcome::Silence(DropReason::NoAllocation));
}

#[test]
fn rfc8656_11_2_send_is_relayed_or_dropped_in_silence() {
    let (mut fixture, credential) = allocated(alice());
    assert_eq!(fixture.permit(alice(), &credential, &[PEER, "20.0.0.1:1"]), 0);
    let id = fixture.dice.transaction();
    let peer = PEER.parse().unwrap();
    let mut send = |fill: &dyn Fn(&mut stun::MessageWriter<'_>)| {
        let packet = message::write(Class::Indication, Method::SEND, id, |writer| fill(writer));
        fixture.give(alice(), &packet)
    };
    let to = |peer: &str| peer.parse::<std::net::SocketAddr>().unwrap();
    let ok = send(&|w| {
        w.xor_address(A::XOR_PEER_ADDRESS, peer).attribute(A::DATA, b"data");
    });
    assert_eq!(ok, Outcome::ToPeer(peer, b"data".to_vec()));
    let empty = send(&|w| {
        w.attribute(A::DATA, b"").xor_address(A::XOR_PEER_ADDRESS, peer);
    });
    assert_eq!(empty, Outcome::ToPeer(peer, vec![]));
    for (reason, outcome) in [
        (
            DropReason::MissingAttribute,
            send(&|w| {
                w.xor_address(A::XOR_PEER_ADDRESS, peer);
            }),
        ),
        (
            DropReason::MissingAttribute,
            send(&|w| {
                w.attribute(A::DATA, b"data");
            }),
        ),
        (
            DropReason::UnknownAttribute,
            send(&|w| {
                w.xor_address(A::XOR_PEER_ADDRESS, peer).attribute(A::DATA, b"d").attribute(A(0x7ABC), b"");
            }),
        ),
        (
            DropReason::NoPermission,
            send(&|w| {
                w.xor_address(A::XOR_PEER_ADDRESS, to("8.8.8.9:1")).attribute(A::DATA, b"d");
            }),
        ),
        (
            DropReason::NoPermission,
            send(&|w| {
                w.xor_address(A::XOR_PEER_ADDRESS, to(PEER6)).attribute(A::DATA, b"d");
            }),
        ),
        // The address is permitted, its port is the server's own.
        (
            DropReason::PeerForbidden,
            send(&|w| {
                w.xor_address(A::XOR_PEER_ADDRESS, to("20.0.0.1:3478")).attribute(A::DATA, b"d");
            }),
        ),
    ] {
        assert_eq!(outcome, Outcome::Silence(reason));
    }
}

#[test]
fn rfc8656_11_3_a_peers_data_comes_with_its_address_or_through_its_channel() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let client = client(transport, "81.0.0.1:4000");
        let (mut fixture, credential) = allocated(client);
        assert_eq!(fixture.bind(client, &credential, CHANNEL, PEER), 0);
        let padding: &[u8] = if transport.is_stream() { &[0, 0, 0] } else { &[] };
        let expected = [&[0x40, 0, 0, 5], &b"hello"[..], padding].concat();
        assert_eq!(fixture.hear(PEER, b"hello"), Outcome::ToClient(client, expected));

        let Outcome::ToClient(to, bytes) = fixture.hear("8.8.8.8:5001", b"hello") else { panic!() };
        let indication = Message::parse(&bytes).unwrap();
        assert_eq!((to, indication.class(), indication.method()), (client, Class::Indication, Method::DATA));
        assert_eq!(indication.attribute(A::DATA), Some(&b"hello"[..]));
        let from = indication.attribute(A::XOR_PEER_ADDRESS).unwrap();
        let from = address::decode_xor(from, indication.transaction());
        assert_eq!(from, Some("8.8.8.8:5001".parse().unwrap()));
        assert_eq!(bytes[bytes.len() - 3..], [0, 0, 0], "padding is zero");
    }
}

#[test]
fn the_longest_datagrams_pass_whole_or_not_at_all() {
    let client = client(Transport::Tcp, "81.0.0.1:4000");
    let (mut fixture, credential) = allocated(client);
    assert_eq!(fixture.bind(client, &credential, CHANNEL, PEER), 0);
    let data = fixture.dice.data(65_507);
    let peer = PEER.parse().unwrap();
    let packet = channel_data(client, CHANNEL, &data);
    assert_eq!(fixture.give(client, &packet), Outcome::ToPeer(peer, data.clone()));
    let send = message::send_indication(fixture.dice.transaction(), peer, &data);
    assert_eq!(fixture.give(client, &send), Outcome::ToPeer(peer, data.clone()));
    assert_eq!(fixture.hear(PEER, &data), Outcome::ToClient(client, packet));
    let Outcome::ToClient(_, bytes) = fixture.hear("8.8.8.8:5001", &data) else { panic!() };
    assert_eq!(Message::parse(&bytes).unwrap().attribute(A::DATA), Some(&data[..]));
    let too_long = vec![0; 65_536];
    assert_eq!(fixture.hear(PEER, &too_long), Outcome::Silence(DropReason::NoRoom));
    assert_eq!(fixture.hear("8.8.8.8:5001", &too_long), Outcome::Silence(DropReason::NoRoom));
}

#[test]
fn a_new_policy_holds_for_what_is_asked_for_from_then_on() {
    let (mut fixture, credential) = allocated(alice());
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    let policy = PeerPolicy::new(vec![], vec!["8.8.8.0/24".parse().unwrap()]);
    fixture.command(Command::Policy(Arc::new(policy)));
    assert!(!fixture.sends(alice()));
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 403);
    assert_eq!(fixture.bind(alice(), &credential, CHANNEL, PEER), 403);
}
