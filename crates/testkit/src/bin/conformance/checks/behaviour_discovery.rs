//! RFC 5780: NAT behaviour discovery, which needs a server with two addresses.

use std::net::{SocketAddr, UdpSocket};

use stun::{AttributeType, Method, address};

use crate::check::{Check, check};
use crate::client::{Client, PATIENCE};
use crate::message::{Reply, Request};
use crate::outcome::{Outcome, Verdict, ensure, fail, skip};
use crate::target::{Target, Transport};

const CHANGE_REQUEST: AttributeType = AttributeType(0x0003);
const RESPONSE_PORT: AttributeType = AttributeType(0x0027);
const RESPONSE_ORIGIN: AttributeType = AttributeType(0x802B);
const OTHER_ADDRESS: AttributeType = AttributeType(0x802C);
const CHANGE_PORT: u8 = 2;
const CHANGE_BOTH: u8 = 6;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc5780-7.4-other-address-differs-in-both", |target| {
        let (other, _) = offered(target)?;
        let both = other.ip() != target.server.ip() && other.port() != target.server.port();
        ensure(
            both,
            format!("OTHER-ADDRESS: expected another address and port than {}, got {other}", target.server),
        )
    }),
    check("rfc5780-7.3-response-origin-is-where-it-came-from", |target| {
        let (_, reply) = offered(target)?;
        let origin = plain_address(&reply, RESPONSE_ORIGIN);
        ensure(
            origin == Some(target.server),
            format!("RESPONSE-ORIGIN: expected {}, got {origin:?}", target.server),
        )
    }),
    check("rfc5780-7.2-change-port", |target| {
        let (other, _) = offered(target)?;
        from(target, CHANGE_PORT, SocketAddr::new(target.server.ip(), other.port()))
    }),
    check("rfc5780-7.2-change-address-and-port", |target| {
        let (other, _) = offered(target)?;
        from(target, CHANGE_BOTH, other)
    }),
    check("rfc5780-7.2-no-change-comes-from-where-it-was-sent", |target| {
        offered(target)?;
        from(target, 0, target.server)
    }),
    check("rfc5780-7.5-response-port", response_port),
    check("rfc5780-6.1-change-request-without-a-second-address-420", |target| {
        if offered(target).is_ok() {
            return skip("a second address is offered");
        }
        let reply = Client::open(target)?.answer(&change_request(CHANGE_BOTH).bytes())?;
        reply.refused("CHANGE-REQUEST to a server without a second address", &[420])
    }),
];

fn change_request(flags: u8) -> Request {
    Request::new(Method::BINDING).with(CHANGE_REQUEST, [0, 0, 0, flags])
}

fn plain_address(reply: &Reply, kind: AttributeType) -> Option<SocketAddr> {
    address::decode(reply.attribute(kind)?)
}

/// The server's other address, if it says so, and the response that did.
fn offered(target: &Target) -> Result<(SocketAddr, Reply), Verdict> {
    target.needs(Transport::Udp)?;
    let reply = Client::open(target)?.answer(&Request::new(Method::BINDING).bytes())?;
    match plain_address(&reply, OTHER_ADDRESS) {
        Some(other) => Ok((other, reply)),
        None => skip("no second address is offered: no OTHER-ADDRESS"),
    }
}

/// A Binding response comes from this address.
fn from(target: &Target, flags: u8, expected: SocketAddr) -> Outcome {
    let any = if target.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = change_request(flags);
    socket.send_to(&request.bytes(), target.server)?;
    let mut buffer = [0; 1_500];
    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
        return fail(format!("CHANGE-REQUEST {flags}: expected an answer from {expected}, got none"));
    };
    let reply = Reply::new(buffer.get(..length).unwrap_or_default().to_vec())?;
    reply.success(&format!("Binding with CHANGE-REQUEST {flags}"))?;
    ensure(
        from == expected,
        format!("CHANGE-REQUEST {flags}: expected an answer from {expected}, got it from {from}"),
    )?;
    let origin = plain_address(&reply, RESPONSE_ORIGIN);
    ensure(origin == Some(from), format!("RESPONSE-ORIGIN: expected {from}, got {origin:?}"))
}

fn response_port(target: &Target) -> Outcome {
    offered(target)?;
    let listening = UdpSocket::bind("0.0.0.0:0")?;
    listening.set_read_timeout(Some(PATIENCE))?;
    let [high, low] = listening.local_addr()?.port().to_be_bytes();
    let request = Request::new(Method::BINDING).with(RESPONSE_PORT, [high, low, 0, 0]);
    let mut client = Client::open(target)?;
    client.send(&request.bytes())?;
    if let crate::link::Arrival::Frame(frame) = client.link.receive(crate::client::SILENCE)? {
        // RFC 5780 §7.5: a server need not take part; then the attribute is unknown to it.
        let reply = Reply::new(frame)?;
        return if reply.code() == Some(420) {
            skip("RESPONSE-PORT is not offered: 420")
        } else {
            fail(format!("RESPONSE-PORT: expected the answer on the other port, got {reply} on this one"))
        };
    }
    let mut buffer = [0; 1_500];
    ensure(
        listening.recv_from(&mut buffer).is_ok(),
        "RESPONSE-PORT: expected the answer on that port, got none",
    )
}
