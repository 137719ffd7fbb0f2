//! RFC 8656 §7: Allocate.

use std::collections::HashSet;

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{IPV4, IPV6, Request, TCP, UDP, UNKNOWN_REQUIRED};
use crate::outcome::{Outcome, ensure, fail, skip};
use crate::path::Path;
use crate::target::{Target, Transport};

const DEFAULT_SECS: u32 = 600;
const MAX_SECS: u32 = 3_600;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-7.2-success-has-relayed-and-mapped-address-and-lifetime", success_attributes),
    check("rfc8656-7.2-mapped-address-is-the-clients", mapped_address),
    check("rfc8656-7.2-relayed-port-is-dynamic", dynamic_port),
    check("rfc8656-7.2-relayed-address-is-ipv4-unless-asked", |target| {
        let client = Client::allocated(target)?;
        ensure(client.relayed().is_ipv4(), format!("expected an IPv4 relay, got {}", client.relayed()))
    }),
    check("rfc8656-7.2-each-5-tuple-has-its-own-relayed-address", own_addresses),
    check("rfc8656-7.2-transport-missing-400", |target| {
        refused(target, "Allocate without REQUESTED-TRANSPORT", &Request::new(Method::ALLOCATE), &[400])
    }),
    check("rfc8656-7.2-transport-malformed-400", |target| {
        malformed(target, AttributeType::REQUESTED_TRANSPORT, &[&[17], &[17, 0, 0], &[17, 0, 0, 0, 0], &[]])
    }),
    check("rfc8656-7.2-transport-unsupported-442", |target| {
        for protocol in [0, 1, 33, 99, 132, 255] {
            let request = transport([protocol, 0, 0, 0]);
            refused(target, &format!("Allocate for IP protocol {protocol}"), &request, &[442])?;
        }
        Ok(())
    }),
    check("rfc8656-18.8-reserved-bits-of-transport-are-ignored", |target| {
        Client::challenged(target)?.allocate(&transport([17, 0xA5, 0x5A, 0xFF])).map(drop)
    }),
    check("rfc6062-5.1-tcp-allocation-over-udp-400", |target| {
        target.needs(Transport::Udp)?;
        // A server without RFC 6062 does not support the transport at all.
        refused(target, "Allocate for TCP over UDP", &transport(TCP), &[400, 442])
    }),
    check("rfc8656-7.2-unknown-required-attribute-420", unknown_required),
    check("rfc8656-7.2-family-unsupported-440", |target| {
        for family in [0, 3, 255] {
            let request = family_request([family, 0, 0, 0]);
            refused(target, &format!("Allocate for address family {family}"), &request, &[440])?;
        }
        Ok(())
    }),
    check("rfc8656-7.2-family-malformed-is-refused", |target| {
        malformed(target, AttributeType::REQUESTED_ADDRESS_FAMILY, &[&[1], &[1, 0, 0], &[1, 0, 0, 0, 0]])
    }),
    check("rfc8656-7.2-family-ipv4", |target| {
        let mut client = Client::challenged(target)?;
        client.allocate(&family_request(IPV4))?;
        ensure(client.relayed().is_ipv4(), format!("expected an IPv4 relay, got {}", client.relayed()))
    }),
    check("rfc8656-7.2-family-ipv6", family_ipv6),
    check("rfc8656-7.2-both-family-attributes-400", |target| {
        let request = family_request(IPV4).with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6);
        refused(target, "Allocate with REQUESTED- and ADDITIONAL-ADDRESS-FAMILY", &request, &[400])
    }),
    check("rfc8656-7.2-additional-family-ipv4-400", |target| {
        let request = Request::allocate().with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV4);
        refused(target, "Allocate with ADDITIONAL-ADDRESS-FAMILY for IPv4", &request, &[400])
    }),
    check("rfc8656-7.2-additional-family-gives-both-or-says-why-not", dual),
    check("rfc8656-7.2-dont-fragment-is-accepted-or-420", dont_fragment),
    check("rfc8656-7.2-lifetime-default", |target| {
        granted(target, &Request::allocate(), DEFAULT_SECS, "no LIFETIME")
    }),
    check("rfc8656-7.2-lifetime-zero-is-the-default", |target| {
        granted(target, &Request::allocate().lifetime(0), DEFAULT_SECS, "LIFETIME 0")
    }),
    check("rfc8656-7.2-lifetime-below-the-default-is-the-default", |target| {
        granted(target, &Request::allocate().lifetime(1), DEFAULT_SECS, "LIFETIME 1")
    }),
    check("rfc8656-7.2-lifetime-between-default-and-maximum-is-granted", |target| {
        granted(target, &Request::allocate().lifetime(1_234), 1_234, "LIFETIME 1234")
    }),
    check("rfc8656-7.2-lifetime-above-the-maximum-is-the-maximum", |target| long(target, 86_400)),
    check("rfc8656-7.2-lifetime-near-overflow-is-the-maximum", |target| {
        [u32::MAX, u32::MAX / 1_000 + 1, 1 << 31].into_iter().try_for_each(|secs| long(target, secs))
    }),
    check("rfc8656-7.2-lifetime-malformed-400", |target| {
        malformed(target, AttributeType::LIFETIME, &[&[], &[0, 0, 7], &[0, 0, 0, 0, 7], &[0; 8]])
    }),
    check("rfc8656-7.2-retransmitted-allocate-same-answer", retransmitted),
    check("rfc8656-7.2-retransmitted-after-others-same-answer", retransmitted_later),
    check("rfc8656-7.2-second-allocate-437", second_allocate),
    check("rfc8656-7.2-second-allocate-leaves-the-first-alone", second_leaves_first),
    check("rfc8656-7.2-failed-allocate-leaves-the-5-tuple-free", failed_leaves_free),
];

fn transport(value: [u8; 4]) -> Request {
    Request::new(Method::ALLOCATE).with(AttributeType::REQUESTED_TRANSPORT, value)
}

fn family_request(value: [u8; 4]) -> Request {
    Request::allocate().with(AttributeType::REQUESTED_ADDRESS_FAMILY, value)
}

fn refused(target: &Target, what: &str, request: &Request, codes: &[u16]) -> Outcome {
    Client::challenged(target)?.refused(what, request, codes)
}

fn malformed(target: &Target, kind: AttributeType, values: &[&[u8]]) -> Outcome {
    for value in values {
        let request = match kind {
            AttributeType::REQUESTED_TRANSPORT => Request::new(Method::ALLOCATE),
            _ => transport(UDP),
        };
        let what = format!("Allocate with {kind:?} of {} bytes", value.len());
        // A value that cannot be read may count as a family that is not supported.
        let codes = if kind == AttributeType::REQUESTED_ADDRESS_FAMILY { &[400, 440][..] } else { &[400] };
        refused(target, &what, &request.with(kind, value), codes)?;
    }
    Ok(())
}

fn success_attributes(target: &Target) -> Outcome {
    let reply = Client::challenged(target)?.allocate(&Request::allocate())?;
    let wanted =
        [AttributeType::XOR_RELAYED_ADDRESS, AttributeType::XOR_MAPPED_ADDRESS, AttributeType::LIFETIME];
    let missing: Vec<_> = wanted.into_iter().filter(|kind| !reply.has(*kind)).collect();
    ensure(missing.is_empty(), format!("Allocate success: expected {missing:?} in it, got none"))?;
    let token = reply.has(AttributeType::RESERVATION_TOKEN);
    ensure(!token, "Allocate success: RESERVATION-TOKEN came although no port was to be reserved")
}

fn mapped_address(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let binding = client.answer(&Request::new(Method::BINDING).bytes())?;
    let reply = client.allocate(&Request::allocate())?;
    let mapped = |reply: &crate::message::Reply| reply.address(AttributeType::XOR_MAPPED_ADDRESS);
    let (said, expected) = (mapped(&reply), mapped(&binding));
    ensure(said == expected && said.is_some(), format!("Allocate: expected {expected:?}, got {said:?}"))
}

fn dynamic_port(target: &Target) -> Outcome {
    for _ in 0..4 {
        let port = Client::allocated(target)?.relayed().port();
        ensure(port >= 49_152, format!("expected a relayed port of 49152 to 65535, got {port}"))?;
    }
    Ok(())
}

fn own_addresses(target: &Target) -> Outcome {
    let clients: Vec<Client<'_>> = (0..6).map(|_| Client::allocated(target)).collect::<Result<_, _>>()?;
    let different: HashSet<_> = clients.iter().map(Client::relayed).collect();
    ensure(different.len() == clients.len(), "expected six relayed addresses, some were given twice")
}

fn unknown_required(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&Request::allocate().with(UNKNOWN_REQUIRED, b"x"))?;
    reply.refused("Allocate with an unknown comprehension-required attribute", &[420])?;
    let listed = reply.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap_or_default();
    ensure(listed.starts_with(&[0x7F, 0xF1]), format!("UNKNOWN-ATTRIBUTES: expected 0x7FF1, got {listed:x?}"))
}

fn family_ipv6(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&family_request(IPV6))?;
    if reply.code() == Some(440) {
        return skip("no IPv6 relay is offered: 440");
    }
    client.adopt(&reply)?;
    ensure(client.relayed().is_ipv6(), format!("expected an IPv6 relay, got {}", client.relayed()))
}

fn dual(target: &Target) -> Outcome {
    let request = Request::allocate().with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6);
    let reply = Client::challenged(target)?.allocate(&request)?;
    let relayed = reply.addresses(AttributeType::XOR_RELAYED_ADDRESS);
    let families = |v4: usize, v6: usize| {
        let count = relayed.iter().filter(|at| at.is_ipv4()).count();
        (count, relayed.len() - count) == (v4, v6)
    };
    // RFC 8656 §18.12: family, reserved, and the error's class and number.
    match reply.attribute(AttributeType::ADDRESS_ERROR_CODE) {
        None => ensure(
            families(1, 1),
            format!("expected an IPv4 and an IPv6 relay, or ADDRESS-ERROR-CODE; got {relayed:?}"),
        ),
        Some(&[2, _, 4, 40, ..] | &[2, _, 5, 8, ..]) => {
            ensure(families(1, 0), format!("ADDRESS-ERROR-CODE and yet {relayed:?}"))
        }
        Some(other) => fail(format!("ADDRESS-ERROR-CODE: expected IPv6 with 440 or 508, got {other:x?}")),
    }
}

fn dont_fragment(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&Request::allocate().with(AttributeType::DONT_FRAGMENT, []))?;
    if reply.code() != Some(420) {
        return client.adopt(&reply);
    }
    let listed = reply.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap_or_default();
    ensure(
        listed.starts_with(&[0, 0x1A]),
        format!("420: expected DONT-FRAGMENT in the list, got {listed:x?}"),
    )
}

fn granted(target: &Target, request: &Request, expected: u32, what: &str) -> Outcome {
    let secs = Client::challenged(target)?.allocate(request)?.lifetime()?;
    ensure(secs == expected, format!("Allocate with {what}: expected {expected} s granted, got {secs} s"))
}

fn long(target: &Target, asked: u32) -> Outcome {
    let secs = Client::challenged(target)?.allocate(&Request::allocate().lifetime(asked))?.lifetime()?;
    let fits = (DEFAULT_SECS..=MAX_SECS).contains(&secs);
    ensure(fits, format!("LIFETIME {asked}: expected no more than the recommended 3600 s, got {secs} s"))
}

fn retransmitted(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let request = Request::allocate().lifetime(900);
    let first = client.allocate(&request)?;
    let second = client.ask(&request)?;
    second.success("a retransmitted Allocate")?;
    for kind in [AttributeType::XOR_RELAYED_ADDRESS, AttributeType::LIFETIME] {
        let same = first.attribute(kind) == second.attribute(kind);
        ensure(same, format!("a retransmitted Allocate: expected the same {kind:?}"))?;
    }
    Ok(())
}

fn retransmitted_later(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let request = Request::allocate();
    let first = client.allocate(&request)?;
    client.permit(std::net::SocketAddr::new(target.peer_host, 9))?;
    client.refused("an Allocate on a live 5-tuple", &Request::allocate(), &[437])?;
    let again = client.ask(&request)?;
    again.success("an Allocate retransmitted after other requests")?;
    let kind = AttributeType::XOR_RELAYED_ADDRESS;
    ensure(first.attribute(kind) == again.attribute(kind), "expected the same relayed address again")
}

fn second_allocate(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    client.refused("a second Allocate on a live 5-tuple", &Request::allocate(), &[437])
}

fn second_leaves_first(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    path.client.refused("a second Allocate", &Request::allocate(), &[437])?;
    path.still_relays("after a second Allocate was refused")
}

fn failed_leaves_free(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    client.refused("Allocate for IP protocol 99", &transport([99, 0, 0, 0]), &[442, 400])?;
    client.refused("Allocate without REQUESTED-TRANSPORT", &Request::new(Method::ALLOCATE), &[400])?;
    client.refused("Refresh after refused Allocates", &Request::refresh(600), &[437])?;
    client.allocate(&Request::allocate()).map(drop)
}
