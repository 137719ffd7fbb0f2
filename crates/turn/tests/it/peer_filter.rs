//! Every special-purpose prefix of the IANA registries, at its edges and one beyond, wrapped in every way in which IPv6
//! carries IPv4, by every method that can name a peer. What is expected is worked out from the registries' own table
//! (the columns "Address Block" and "Globally Reachable"), not from the server's lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use stun::{AttributeType as A, Method};
use testkit::message::{self, FAMILY_IPV6, REQUESTED_TCP};
use turn::{Command, DropReason, Limits, PeerPolicy, RelayId, Transport};

use crate::fixture::{Fixture, Outcome, alice, all_relayed, client, udp};

/// IPv4: the block, and whether it is globally reachable; then multicast, which has a registry of its own.
const V4: [(&str, u8, bool); 26] = [
    ("0.0.0.0", 8, false),
    ("0.0.0.0", 32, false),
    ("10.0.0.0", 8, false),
    ("100.64.0.0", 10, false),
    ("127.0.0.0", 8, false),
    ("169.254.0.0", 16, false),
    ("172.16.0.0", 12, false),
    ("192.0.0.0", 24, false),
    ("192.0.0.0", 29, false),
    ("192.0.0.8", 32, false),
    ("192.0.0.9", 32, true),
    ("192.0.0.10", 32, true),
    ("192.0.0.170", 32, false),
    ("192.0.0.171", 32, false),
    ("192.0.2.0", 24, false),
    ("192.31.196.0", 24, true),
    ("192.52.193.0", 24, true),
    ("192.88.99.0", 24, false),
    ("192.168.0.0", 16, false),
    ("192.175.48.0", 24, true),
    ("198.18.0.0", 15, false),
    ("198.51.100.0", 24, false),
    ("203.0.113.0", 24, false),
    ("240.0.0.0", 4, false),
    ("255.255.255.255", 32, false),
    ("224.0.0.0", 4, false),
];

/// IPv6, the same; 2000::/3 is all the global unicast space there is, and what is said to be neither is not.
const V6: [(&str, u8, bool); 27] = [
    ("2000::", 3, true),
    ("::1", 128, false),
    ("::", 128, false),
    ("::ffff:0:0", 96, false),
    ("64:ff9b::", 96, true),
    ("64:ff9b:1::", 48, false),
    ("100::", 64, false),
    ("100:0:0:1::", 64, false),
    ("2001::", 23, false),
    ("2001::", 32, false),
    ("2001:1::1", 128, true),
    ("2001:1::2", 128, true),
    ("2001:1::3", 128, true),
    ("2001:2::", 48, false),
    ("2001:3::", 32, true),
    ("2001:4:112::", 48, true),
    ("2001:10::", 28, false),
    ("2001:20::", 28, true),
    ("2001:30::", 28, true),
    ("2001:db8::", 32, false),
    ("2002::", 16, false),
    ("2620:4f:8000::", 48, true),
    ("3fff::", 20, false),
    ("5f00::", 16, false),
    ("fc00::", 7, false),
    ("fe80::", 10, false),
    ("ff00::", 8, false),
];

fn v4(text: &str) -> u128 {
    text.parse::<Ipv4Addr>().unwrap().to_bits().into()
}

fn v6(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().unwrap().to_bits()
}

/// Whether an address is global by the longest block that holds it.
fn is_global(ip: IpAddr) -> bool {
    let (bits, width, blocks, otherwise): (u128, u32, Vec<(u128, u8, bool)>, bool) = match ip {
        IpAddr::V4(ip) => (
            ip.to_bits().into(),
            32,
            V4.map(|(text, prefix, global)| (v4(text), prefix, global)).into(),
            true,
        ),
        IpAddr::V6(ip) => {
            (ip.to_bits(), 128, V6.map(|(text, prefix, global)| (v6(text), prefix, global)).into(), false)
        }
    };
    let holds = |(network, prefix): (u128, u8)| {
        let host_bits = width - u32::from(prefix);
        host_bits == 128 || bits >> host_bits == network >> host_bits
    };
    let longest = blocks.into_iter().filter(|(network, prefix, _)| holds((*network, *prefix)));
    longest.max_by_key(|(_, prefix, _)| *prefix).map_or(otherwise, |(_, _, global)| global)
}

/// The ways of carrying an IPv4 address in an IPv6 one.
fn wrapped(ip: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(ip.to_bits());
    [
        // IPv4-mapped and -compatible: RFC 4291 §2.5.5; IPv4-translated: RFC 2765.
        v6("::ffff:0:0") | bits,
        bits,
        v6("::ffff:0:0:0") | bits,
        // NAT64: RFC 6052 §2.1 and RFC 8215.
        v6("64:ff9b::") | bits,
        v6("64:ff9b:1::") | bits,
        // 6to4, RFC 3056; Teredo, RFC 4380 §4, with a server that is global.
        v6("2002::") | bits << 80,
        v6("2001:0:808:808::") | (bits ^ 0xFFFF_FFFF),
        // ISATAP, RFC 5214 §6.1, behind a global prefix.
        v6("2606:4700:0:1:0:5efe::") | bits,
        v6("2606:4700:0:1:200:5efe::") | bits,
    ]
    .map(Ipv6Addr::from_bits)
    .into()
}

/// What the table says of a peer, wrapped or not.
fn is_allowed(ip: IpAddr) -> bool {
    let carried = match ip {
        IpAddr::V4(_) => vec![],
        IpAddr::V6(outer) => {
            let bits = outer.to_bits();
            let inner =
                [bits, bits >> 80, !bits].map(|bits| Ipv4Addr::from_bits((bits & 0xFFFF_FFFF) as u32));
            inner.into_iter().filter(|inner| is_carrier(outer, *inner)).collect()
        }
    };
    is_global(ip) && carried.into_iter().all(|inner| is_global(inner.into()))
}

/// Whether `outer` carries `inner`, whatever its prefix is where any will do (ISATAP) or its other parts are free.
fn is_carrier(outer: Ipv6Addr, inner: Ipv4Addr) -> bool {
    let [mapped, compatible, translated, nat64, local, ..] = wrapped(inner)[..] else { unreachable!() };
    let (o, i) = (outer.to_bits(), u128::from(inner.to_bits()));
    let special = o <= 1;
    (!special && [mapped, compatible, translated, nat64].contains(&outer))
        || (o >> 80 == local.to_bits() >> 80 && o & 0xFFFF_FFFF == i)
        || (o >> 112 == 0x2002 && o >> 80 & 0xFFFF_FFFF == i)
        || (o >> 96 == 0x2001_0000 && o & 0xFFFF_FFFF == i ^ 0xFFFF_FFFF)
        || (matches!(o >> 32 & 0xFFFF_FFFF, 0x5efe | 0x0200_5efe) && o & 0xFFFF_FFFF == i)
}

/// The first and last address of each block, and those beside it.
fn edges() -> Vec<IpAddr> {
    let mut all = vec![];
    for (text, prefix, _) in V4 {
        let (first, last) = (v4(text), v4(text) | (u128::from(u32::MAX) >> prefix));
        for bits in [first, last, first.wrapping_sub(1), last + 1] {
            if let Ok(bits) = u32::try_from(bits) {
                let ip = Ipv4Addr::from_bits(bits);
                all.push(IpAddr::V4(ip));
                all.extend(wrapped(ip).into_iter().map(IpAddr::V6));
            }
        }
    }
    for (text, prefix, _) in V6 {
        let first = v6(text);
        let last = first | u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let edges = [Some(first), Some(last), first.checked_sub(1), last.checked_add(1)];
        all.extend(edges.into_iter().flatten().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
    }
    all
}

/// Room for every edge in one allocation.
fn fixture() -> Fixture {
    Fixture::configured(|config| {
        config.limits = Limits { permissions: 10_000, channels: 10_000, ..Limits::default() };
    })
}

fn both(writer: &mut stun::MessageWriter<'_>) {
    udp(writer);
    writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6);
}

#[test]
fn rfc8656_21_2_every_edge_by_every_request() {
    let mut fixture = fixture();
    let credential = fixture.mint(3_600);
    assert_eq!(all_relayed(&fixture.ask(alice(), &credential, Method::ALLOCATE, both)).len(), 2);
    let mut counts = [0; 2];
    for (ip, number) in edges().into_iter().zip(0x4000u16..) {
        let expected = if is_allowed(ip) { 0 } else { 403 };
        counts[usize::from(expected == 0)] += 1;
        let peer = SocketAddr::new(ip, 5_000).to_string();
        assert_eq!(fixture.permit(alice(), &credential, &[&peer]), expected, "CreatePermission {peer}");
        // A peer that stands in two blocks' edges keeps its first channel.
        let bound = fixture.bind(alice(), &credential, number, &peer);
        assert!(bound == expected || (expected, bound) == (0, 400), "ChannelBind {peer}: {bound}");
        // Beside a good address in one request it is no better.
        let both = [crate::fixture::PEER, &peer];
        assert_eq!(fixture.permit(alice(), &credential, &both), expected, "CreatePermission {both:?}");
    }
    assert!(counts[0] > 800 && counts[1] > 100, "refused and allowed: {counts:?}");
}

fn both_over_tcp(writer: &mut stun::MessageWriter<'_>) {
    writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_TCP);
    writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6);
}

/// Connect, and peers that connect: with a permission from a time at which all was allowed.
#[test]
fn rfc6062_5_2_every_edge_by_connect_and_from_peers() {
    let everything = || ["0.0.0.0/0", "::/0"].map(|cidr| cidr.parse().unwrap()).to_vec();
    let mut fixture = Fixture::configured(|config| {
        config.limits =
            Limits { permissions: 10_000, connections: 10_000, all_connections: 10_000, ..Limits::default() };
    });
    let (credential, control) = (fixture.mint(3_600), client(Transport::Tcp, "81.0.0.1:4000"));
    let relayed = all_relayed(&fixture.ask(control, &credential, Method::ALLOCATE, both_over_tcp));
    assert_eq!(relayed.len(), 2);
    fixture.command(Command::Policy(Arc::new(PeerPolicy::new(everything(), vec![]))));
    for ip in edges() {
        let peer = SocketAddr::new(ip, 5_000).to_string();
        assert_eq!(fixture.permit(control, &credential, &[&peer]), 0, "{peer} while all is allowed");
    }
    fixture.command(Command::Policy(Arc::new(PeerPolicy::default())));
    let mut counts = [0; 2];
    let mut seen = BTreeSet::new();
    for ip in edges() {
        let is_new = seen.insert(ip);
        let peer = SocketAddr::new(ip, 5_000);
        let relay: RelayId =
            relayed.iter().find(|a| a.is_ipv4() == ip.is_ipv4()).and_then(|a| fixture.socket_of(*a)).unwrap();
        let request = fixture.signed(control, &credential, Method::CONNECT, |writer| {
            writer.xor_address(A::XOR_PEER_ADDRESS, peer);
        });
        let connect = fixture.give(control, &request);
        // From another port: one peer can be connected to once.
        let (now, from) = (fixture.now(), SocketAddr::new(ip, 6_000));
        let accepted = fixture.server.accepted(now, relay, from);
        counts[usize::from(is_allowed(ip))] += 1;
        if !is_allowed(ip) {
            assert_eq!(connect.code(), 403, "{peer}");
            assert_eq!(accepted, Err(DropReason::PeerForbidden), "{peer}");
        } else if is_new {
            assert!(
                matches!(connect, Outcome::Connect(_, via, to) if (via, to) == (relay, peer)),
                "{peer}: {connect:?}"
            );
            assert!(accepted.is_ok(), "{peer}: {accepted:?}");
        } else {
            // It stands in two blocks' edges.
            assert_eq!(connect.code(), 446, "{peer}");
        }
        fixture.drain();
    }
    assert!(counts[0] > 800 && counts[1] > 100, "refused and allowed: {counts:?}");
}

/// Send, and what peers send: with a permission from a time at which all was allowed.
#[test]
fn rfc8656_21_2_every_edge_in_both_directions_of_data() {
    let everything = || ["0.0.0.0/0", "::/0"].map(|cidr| cidr.parse().unwrap()).to_vec();
    let mut fixture = fixture();
    let credential = fixture.mint(3_600);
    let relayed = all_relayed(&fixture.ask(alice(), &credential, Method::ALLOCATE, both));
    fixture.command(Command::Policy(Arc::new(PeerPolicy::new(everything(), vec![]))));
    for ip in edges() {
        let peer = SocketAddr::new(ip, 5_000).to_string();
        assert_eq!(fixture.permit(alice(), &credential, &[&peer]), 0, "{peer} while all is allowed");
    }
    fixture.command(Command::Policy(Arc::new(PeerPolicy::default())));
    for ip in edges() {
        let peer = SocketAddr::new(ip, 5_000);
        let relay: RelayId =
            relayed.iter().find(|a| a.is_ipv4() == ip.is_ipv4()).and_then(|a| fixture.socket_of(*a)).unwrap();
        let packet = message::send_indication(fixture.dice.transaction(), peer, b"data");
        let sent = fixture.give(alice(), &packet);
        let heard = fixture.hear_on(relay, &peer.to_string(), b"data");
        if is_allowed(ip) {
            assert_eq!(sent, Outcome::ToPeer(peer, b"data".to_vec()));
            assert!(matches!(heard, Outcome::ToClient(..)), "{peer}: {heard:?}");
        } else {
            assert_eq!(sent, Outcome::Silence(DropReason::PeerForbidden), "{peer}");
            assert_eq!(heard, Outcome::Silence(DropReason::PeerForbidden), "{peer}");
        }
    }
}

/// Where an operator allows all of IPv6, what is carried inside still decides.
#[test]
fn an_allowed_wrapping_is_no_way_around() {
    let policy = PeerPolicy::new(vec!["::/0".parse().unwrap()], vec![]);
    for ip in edges().into_iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }) {
        for outer in wrapped(ip) {
            // :: and ::1 carry nothing.
            let expected = outer.to_bits() <= 1 || is_global(ip.into());
            assert_eq!(policy.check(SocketAddr::new(outer.into(), 1)).is_ok(), expected, "{outer} with {ip}");
        }
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let near = || prop::sample::select(edges());
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        // Inside 2000::/3, where most of the table lies.
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits >> 3 | 1 << 125))),
        (any::<u32>(), 0usize..9).prop_map(|(bits, way)| IpAddr::V6(wrapped(Ipv4Addr::from_bits(bits))[way])),
        (near(), any::<u16>()).prop_map(|(ip, low)| match ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ u32::from(low))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ u128::from(low))),
        }),
        (near(), 0u32..128).prop_map(|(ip, bit)| match ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ 1 << (bit % 32))),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ 1 << bit)),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rfc8656_21_2_random_addresses(ip in any_address(), port in 1u16..) {
        let policy = PeerPolicy::default();
        prop_assert_eq!(policy.check(SocketAddr::new(ip, port)).is_ok(), is_allowed(ip), "{}", ip);
        prop_assert_eq!(policy.check_address(ip).is_ok(), is_allowed(ip), "{}", ip);
    }
}

#[test]
fn the_tables_own_reading_is_right() {
    for (ip, global) in [
        ("8.8.8.8", true),
        ("192.0.0.9", true),
        ("192.0.0.11", false),
        ("2001:db8::1", false),
        ("2001:4:112::1", true),
        ("2001:5::1", false),
        ("2606:4700::1", true),
        ("4000::1", false),
    ] {
        assert_eq!(is_global(ip.parse().unwrap()), global, "{ip}");
    }
    assert!(!is_allowed("2606:4700::5efe:10.0.0.1".parse().unwrap()));
    assert!(is_allowed("64:ff9b::8.8.8.8".parse().unwrap()));
}
