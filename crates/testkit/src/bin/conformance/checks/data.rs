//! RFC 8656 §11: Send and Data indications.

use std::net::SocketAddr;

use stun::{AttributeType, Class, Message, Method, address};

use crate::check::{Check, check};
use crate::checks::permission::{ipv6_peer, malformed_peers};
use crate::client::{Client, PATIENCE};
use crate::message::{Request, UNKNOWN_OPTIONAL, UNKNOWN_REQUIRED, describe};
use crate::outcome::{Outcome, Verdict, ensure, fail};
use crate::path::Path;
use crate::target::{Target, Transport};

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-11.2-send-reaches-the-peer-unchanged", send_unchanged),
    check("rfc8656-11.2-peer-sees-the-relayed-address", peer_sees_relayed),
    check("rfc8656-11.2-send-without-permission-is-dropped", |target| {
        let mut path = Path::open(target)?;
        path.send(b"unpermitted")?;
        path.peer.expect_nothing("Send without a permission")
    }),
    check("rfc8656-11.2-send-needs-no-allocation-of-another", send_without_allocation),
    check("rfc8656-11.2-send-is-never-answered", |target| {
        let mut path = Path::permitted(target)?;
        let bytes = Request::send(path.at, b"no answer").bytes();
        path.client.silent("a Send indication", &bytes)
    }),
    check("rfc8656-11.2-send-without-data-is-dropped", |target| {
        dropped(target, |at| indication().peer(at), "Send without DATA")
    }),
    check("rfc8656-11.2-send-without-peer-is-dropped", |target| {
        dropped(target, |_| indication().with(AttributeType::DATA, b"whom?"), "Send without XOR-PEER-ADDRESS")
    }),
    check("rfc8656-11.2-send-with-malformed-peer-is-dropped", send_malformed_peer),
    check("rfc8656-11.2-send-to-another-family-is-dropped", |target| {
        dropped(target, |_| Request::send(ipv6_peer(), b"x"), "Send to IPv6 from an IPv4 relay")
    }),
    check("rfc8656-11.2-send-with-unknown-required-attribute-is-dropped", |target| {
        dropped(
            target,
            |at| Request::send(at, b"x").with(UNKNOWN_REQUIRED, b"x"),
            "Send with an unknown attribute",
        )
    }),
    check("rfc8656-11.2-send-with-unknown-optional-attribute-goes-through", |target| {
        let mut path = Path::permitted(target)?;
        let request = Request::send(path.at, b"optional").with(UNKNOWN_OPTIONAL, b"x");
        path.client.send(&request.bytes())?;
        path.peer.expect("Send with an unknown optional attribute", b"optional").map(drop)
    }),
    check("rfc8656-11.2-send-with-dont-fragment-goes-as-allocate-said", send_dont_fragment),
    check("rfc8656-11.2-empty-data-makes-an-empty-datagram", |target| to_peer(target, &[0])),
    check("rfc8656-11.2-every-length-to-the-peer", |target| to_peer(target, &[1, 2, 3, 4, 5, 7, 9, 1_200])),
    check("rfc8656-11.2-large-data-to-the-peer", |target| to_peer(target, &[2_000, 9_000])),
    check("rfc8656-11.2-largest-data-to-the-peer-whole-or-not-at-all", largest_to_peer),
    check("rfc8656-11.5-a-closed-port-is-told-with-icmp", closed_port),
    check("rfc8656-11.3-data-from-the-peer-arrives-unchanged", |target| from_peer(target, &[11])),
    check("rfc8656-11.3-data-without-permission-is-dropped", |target| {
        let mut path = Path::open(target)?;
        path.peer_sends(b"unpermitted")?;
        path.client.expect_nothing("a datagram without a permission")
    }),
    check("rfc8656-11.3-send-alone-makes-no-permission", send_makes_none),
    check("rfc8656-11.3-empty-datagram-makes-empty-data", |target| from_peer(target, &[0])),
    check("rfc8656-11.3-every-length-from-the-peer", |target| {
        from_peer(target, &[1, 2, 3, 4, 5, 7, 9, 1_200])
    }),
    check("rfc8656-11.3-large-data-from-the-peer", |target| from_peer(target, &[2_000, 9_000])),
    check("rfc8656-11.3-largest-data-from-the-peer-whole-or-not-at-all", largest_from_peer),
    check("rfc8656-11.3-data-indication-has-what-it-needs", data_indication_form),
    check("rfc8656-11-order-is-kept", order_is_kept),
    check("rfc8656-11-relay-to-relay", relay_to_relay),
];

fn indication() -> Request {
    Request::of_class(Class::Indication, Method::SEND)
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..=u8::MAX).map(|byte| byte.wrapping_mul(31).wrapping_add(7)).cycle().take(length).collect()
}

fn send_unchanged(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    path.send(b"exactly these bytes")?;
    path.peer.expect("Send", b"exactly these bytes").map(drop)
}

fn peer_sees_relayed(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    path.send(b"from where?")?;
    let from = path.peer.expect("Send", b"from where?")?;
    ensure(from == path.relayed(), format!("expected data from {}, got it from {from}", path.relayed()))
}

fn send_without_allocation(target: &Target) -> Outcome {
    let path = Path::permitted(target)?;
    let mut stranger = Client::open(target)?;
    stranger.send(&Request::send(path.at, b"x").bytes())?;
    path.peer.expect_nothing("Send by a client without an allocation")
}

fn dropped(target: &Target, request: fn(SocketAddr) -> Request, what: &str) -> Outcome {
    let mut path = Path::permitted(target)?;
    let bytes = request(path.at).bytes();
    path.client.silent(what, &bytes)?;
    path.peer.expect_nothing(what)?;
    path.still_relays(what)
}

fn send_malformed_peer(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    for value in malformed_peers() {
        let request = indication().with(AttributeType::XOR_PEER_ADDRESS, value);
        path.client.send(&request.with(AttributeType::DATA, b"x").bytes())?;
    }
    path.peer.expect_nothing("Send with a malformed peer")?;
    path.still_relays("after Sends with malformed peers")
}

/// RFC 8656 §7.2: a server that cannot set DF refuses it in Allocate, and then it is unknown in Send as well.
fn send_dont_fragment(target: &Target) -> Outcome {
    let mut asking = Client::challenged(target)?;
    let reply = asking.ask(&Request::allocate().with(AttributeType::DONT_FRAGMENT, []))?;
    let supported = reply.code().is_none();
    if supported {
        asking.adopt(&reply)?;
    }
    let mut path = Path::permitted(target)?;
    let request = Request::send(path.at, b"whole").with(AttributeType::DONT_FRAGMENT, []);
    path.client.send(&request.bytes())?;
    if supported {
        path.peer.expect("Send with DONT-FRAGMENT, which Allocate accepted", b"whole").map(drop)
    } else {
        path.peer.expect_nothing("Send with DONT-FRAGMENT, which Allocate refused")
    }
}

fn to_peer(target: &Target, lengths: &[usize]) -> Outcome {
    let mut path = Path::permitted(target)?;
    for length in lengths {
        let data = pattern(*length);
        path.send(&data)?;
        path.peer.expect(&format!("Send of {length} bytes"), &data)?;
    }
    Ok(())
}

fn from_peer(target: &Target, lengths: &[usize]) -> Outcome {
    let mut path = Path::permitted(target)?;
    for length in lengths {
        let data = pattern(*length);
        path.peer_sends(&data)?;
        path.client.expect_data(&format!("a datagram of {length} bytes"), path.at, &data)?;
    }
    Ok(())
}

fn largest_to_peer(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    for length in [30_000, 65_000, 65_400] {
        let data = pattern(length);
        path.send(&data)?;
        if let Some((got, _)) = path.peer.receive(std::time::Duration::from_secs(1))? {
            ensure(
                got == data,
                format!("Send of {length} bytes: expected all or nothing, got {}", got.len()),
            )?;
        }
    }
    path.still_relays("after the largest Sends")
}

fn largest_from_peer(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    for length in [30_000, 65_000, 65_400, 65_507] {
        let data = pattern(length);
        path.peer_sends(&data)?;
        let frame = path.client.next_frame(std::time::Duration::from_secs(1))?;
        if let Some((_, got)) = frame.as_deref().and_then(crate::message::read_data) {
            let whole = got == data;
            ensure(
                whole,
                format!("{length} bytes from the peer: expected all or nothing, got {}", got.len()),
            )?;
        } else if let Some(frame) = frame {
            return fail(format!("{length} bytes from the peer: got {}", crate::message::describe(&frame)));
        }
    }
    path.still_relays("after the largest datagrams")
}

fn send_makes_none(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    path.send(b"knock")?;
    path.peer_sends(b"who is there")?;
    path.client.expect_nothing("after a Send without a permission")
}

fn data_indication_form(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    path.peer_sends(b"odd")?;
    let Some(frame) = path.client.next_frame(crate::client::PATIENCE)? else {
        return fail("expected a Data indication, got nothing");
    };
    let reply = crate::message::Reply::new(frame)?;
    let message = reply.message();
    let is_data = (message.class(), message.method()) == (Class::Indication, Method::DATA);
    ensure(is_data, format!("expected a Data indication, got {reply}"))?;
    let kinds: Vec<AttributeType> = message.attributes().map(|attribute| attribute.kind).collect();
    for needed in [AttributeType::XOR_PEER_ADDRESS, AttributeType::DATA] {
        ensure(
            kinds.contains(&needed),
            format!("Data indication: expected {needed:?} in it, got {kinds:?}"),
        )?;
    }
    let sealed = kinds.contains(&AttributeType::MESSAGE_INTEGRITY);
    ensure(!sealed, "Data indication: expected no MESSAGE-INTEGRITY, indications are not authenticated")
}

fn order_is_kept(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    for number in 0..40_u8 {
        path.send(&[number])?;
    }
    for number in 0..40_u8 {
        path.peer.expect(&format!("the {number}th of 40 Sends"), &[number])?;
    }
    for number in 0..40_u8 {
        path.peer_sends(&[number])?;
    }
    for number in 0..40_u8 {
        path.client.expect_data(&format!("the {number}th of 40 datagrams"), path.at, &[number])?;
    }
    Ok(())
}

fn two_clients(target: &Target) -> Result<(Client<'_>, Client<'_>), Verdict> {
    let (mut a, mut b) = (Client::allocated(target)?, Client::allocated(target)?);
    a.permit(b.relayed())?;
    b.permit(a.relayed())?;
    Ok((a, b))
}

fn relay_to_relay(target: &Target) -> Outcome {
    let (mut a, mut b) = two_clients(target)?;
    a.send(&Request::send(b.relayed(), b"from a").bytes())?;
    b.expect_data("from relay to relay", a.relayed(), b"from a")?;
    b.send(&Request::send(a.relayed(), b"from b").bytes())?;
    a.expect_data("from relay to relay", b.relayed(), b"from b")?;
    // And by the same rules: nothing passes without the receiver's permission.
    let mut c = Client::allocated(target)?;
    if target.transport == Transport::Udp {
        a.send(&Request::send(c.relayed(), b"unasked").bytes())?;
    }
    c.expect_nothing("from relay to relay without a permission")
}

/// A datagram to a port that nobody listens on brings a Data indication with ICMP and without DATA.
fn closed_port(target: &Target) -> Outcome {
    let Path { mut client, peer, at } = Path::permitted(target)?;
    drop(peer);
    client.send(&Request::send(at, b"anybody?").bytes())?;
    let Some(frame) = client.next_frame(PATIENCE)? else {
        return fail("a closed port: expected a Data indication with ICMP, got nothing");
    };
    let told = Message::parse(&frame).ok().filter(|message| message.method() == Method::DATA);
    let Some(told) = told else {
        return fail(format!("a closed port: expected a Data indication, got {}", describe(&frame)));
    };
    let value = |kind| told.attribute(kind);
    let about = value(AttributeType::XOR_PEER_ADDRESS);
    let about = about.and_then(|value| address::decode_xor(value, told.transaction()));
    ensure(about == Some(at), format!("XOR-PEER-ADDRESS: expected {at}, got {about:?}"))?;
    let expected: [u8; 8] = if at.is_ipv4() { [0, 0, 3, 3, 0, 0, 0, 0] } else { [0, 0, 1, 4, 0, 0, 0, 0] };
    let icmp = value(AttributeType::ICMP);
    ensure(icmp == Some(&expected), format!("ICMP: expected {expected:?}, got {icmp:?}"))?;
    ensure(value(AttributeType::DATA).is_none(), "expected no DATA beside ICMP")
}
