//! What a server gives to those it does not know. Not from an RFC: a server may answer more and still conform,
//! but then it serves as an amplifier, and tells scanners what it is.

use std::collections::HashSet;
use std::net::SocketAddr;

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Request, Signature};
use crate::outcome::{Outcome, ensure};
use crate::target::{Target, Transport};

pub(crate) const CHECKS: &[Check] = &[
    check("hardening-binding-gives-back-at-most-1.6-times", |target| {
        amplification(target, &Request::new(Method::BINDING), 16, 22)
    }),
    check("hardening-challenge-gives-back-at-most-3.4-times", |target| {
        amplification(target, &Request::new(Method::ALLOCATE), 34, 34)
    }),
    check("hardening-refresh-of-a-stranger-is-silent", |target| {
        silent(target, &Request::refresh(600))?;
        silent(target, &Request::refresh(0))
    }),
    check("hardening-create-permission-of-a-stranger-is-silent", |target| {
        silent(target, &Request::permission(&[SocketAddr::new(target.peer_host, 9)]))
    }),
    check("hardening-channel-bind-of-a-stranger-is-silent", |target| {
        silent(target, &Request::channel_bind(0x4000, SocketAddr::new(target.peer_host, 9)))
    }),
    check("hardening-connect-of-a-stranger-is-silent", |target| {
        silent(target, &Request::new(Method::CONNECT).peer(SocketAddr::new(target.peer_host, 9)))
    }),
    check("hardening-no-software-in-the-challenge", |target| {
        let reply = Client::open(target)?.answer(&Request::allocate().bytes())?;
        ensure(
            !reply.has(AttributeType::SOFTWARE),
            "401 to a stranger: expected no SOFTWARE, it tells what to attack",
        )
    }),
    check("hardening-no-software-in-a-binding-response", |target| {
        let reply = Client::open(target)?.answer(&Request::new(Method::BINDING).bytes())?;
        ensure(
            !reply.has(AttributeType::SOFTWARE),
            "Binding response: expected no SOFTWARE, it only costs bytes",
        )
    }),
    check("hardening-no-reason-phrase-in-the-challenge", |target| {
        let reply = Client::open(target)?.answer(&Request::allocate().bytes())?;
        let reason = reply.reason();
        ensure(reason.is_empty(), format!("401 to a stranger: expected no reason phrase, got {reason:?}"))
    }),
    check("hardening-nonce-differs-from-client-to-client", nonce_differs),
    check("hardening-nonce-of-another-client-438", nonce_of_another),
    check("hardening-nothing-is-echoed", nothing_is_echoed),
    check("hardening-unknown-user-and-wrong-password-look-alike", look_alike),
    check("hardening-transaction-ids-of-indications-are-random", random_indications),
];

/// Tenths of the request's bytes that may come back, to IPv4 and to IPv6.
fn amplification(target: &Target, request: &Request, v4: usize, v6: usize) -> Outcome {
    target.needs(Transport::Udp)?;
    let request = request.bytes();
    let reply = Client::open(target)?.answer(&request)?;
    let tenths = (reply.bytes().len() * 10).div_ceil(request.len());
    let allowed = if target.server.is_ipv4() { v4 } else { v6 };
    ensure(
        tenths <= allowed,
        format!(
            "{} bytes for {}: expected no more than {allowed} tenths",
            reply.bytes().len(),
            request.len()
        ),
    )
}

fn silent(target: &Target, request: &Request) -> Outcome {
    let mut client = Client::open(target)?;
    client.silent(&format!("{:?} without integrity from an unknown source", request.method), &request.bytes())
}

fn nonce_differs(target: &Target) -> Outcome {
    let mut nonces = HashSet::new();
    for _ in 0..4 {
        nonces.insert(Client::challenged(target)?.signature().nonce);
    }
    ensure(nonces.len() == 4, format!("four clients: expected four nonces, got {}", nonces.len()))
}

fn nonce_of_another(target: &Target) -> Outcome {
    let other = Client::challenged(target)?.signature();
    let mut client = Client::challenged(target)?;
    let stolen = Signature { nonce: other.nonce, ..client.signature() };
    let reply = client.answer(&Request::allocate().signed(&stolen))?;
    if reply.code().is_none() {
        client.adopt(&reply)?;
    }
    reply.refused("Allocate with a nonce issued to another client", &[438])
}

fn nothing_is_echoed(target: &Target) -> Outcome {
    const MARK: &[u8] = b"do-not-repeat-me";
    let requests = [
        Request::new(Method::BINDING).with(AttributeType::SOFTWARE, MARK),
        Request::new(Method::BINDING).with(AttributeType(0x7FF1), MARK),
        Request::allocate().with(AttributeType::USERNAME, MARK).with(AttributeType::REALM, MARK),
        Request::allocate().with(AttributeType::SOFTWARE, MARK).with(AttributeType::NONCE, MARK),
    ];
    for request in requests {
        let reply = Client::open(target)?.answer(&request.bytes())?;
        let echoed = reply.bytes().windows(MARK.len()).any(|window| window == MARK);
        ensure(!echoed, format!("{reply}: expected none of the request's values in it"))?;
    }
    Ok(())
}

fn look_alike(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let signature = client.signature();
    let unknown = Signature { username: vec![b'z'; signature.username.len()], ..signature.clone() };
    let wrong = Signature { password: b"wrong".to_vec(), ..signature };
    let one = client.answer(&Request::allocate().signed(&unknown))?;
    let other = client.answer(&Request::allocate().signed(&wrong))?;
    let shape = |reply: &crate::message::Reply| {
        let kinds: Vec<_> = reply.message().attributes().map(|attribute| attribute.kind).collect();
        (reply.code(), reply.bytes().len(), kinds)
    };
    ensure(shape(&one) == shape(&other), format!("expected the same answer to both, got {one} and {other}"))
}

fn random_indications(target: &Target) -> Outcome {
    let mut path = crate::path::Path::permitted(target)?;
    let mut ids = HashSet::new();
    for _ in 0..4 {
        path.peer_sends(b"x")?;
        let frame = path.client.next_frame(crate::client::PATIENCE)?.unwrap_or_default();
        ids.insert(frame.get(8..20).unwrap_or_default().to_vec());
    }
    ensure(ids.len() == 4, format!("four Data indications: expected four transaction ids, got {}", ids.len()))
}
