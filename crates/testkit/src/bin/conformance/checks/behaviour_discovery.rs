//! RFC 5780: NAT behaviour discovery, which needs a server with two addresses.

use std::net::{SocketAddr, UdpSocket};

use stun::{AttributeType as A, Method, address};

use crate::check::{Check, check};
use crate::client::{Client, PATIENCE};
use crate::message::{Reply, Request};
use crate::outcome::{Outcome, Verdict, ensure, fail, skip};
use crate::target::{Target, Transport};

const CHANGE_PORT: u8 = 2;
const CHANGE_ADDRESS: u8 = 4;
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
        let origin = plain_address(&reply, A::RESPONSE_ORIGIN);
        ensure(
            origin == Some(target.server),
            format!("RESPONSE-ORIGIN: expected {}, got {origin:?}", target.server),
        )
    }),
    check("rfc5780-7.2-change-port", |target| {
        let (other, _) = offered(target)?;
        from(target, CHANGE_PORT, SocketAddr::new(target.server.ip(), other.port()))
    }),
    check("rfc5780-7.2-change-address", |target| {
        let (other, _) = offered(target)?;
        from(target, CHANGE_ADDRESS, SocketAddr::new(other.ip(), target.server.port()))
    }),
    check("rfc5780-7.2-change-address-and-port", |target| {
        let (other, _) = offered(target)?;
        from(target, CHANGE_BOTH, other)
    }),
    check("rfc5780-7.2-no-change-comes-from-where-it-was-sent", |target| {
        offered(target)?;
        from(target, 0, target.server)
    }),
    check("rfc5780-6.1-the-other-address-answers-from-this-one", |target| {
        let (other, _) = offered(target)?;
        from_to(other, CHANGE_BOTH, target.server)
    }),
    check("rfc5780-6.1-both-mapped-addresses", |target| {
        let (_, reply) = offered(target)?;
        let (plain, xored) = (plain_address(&reply, A::MAPPED_ADDRESS), reply.address(A::XOR_MAPPED_ADDRESS));
        let both = plain.is_some() && plain == xored;
        ensure(
            both,
            format!("expected MAPPED-ADDRESS and XOR-MAPPED-ADDRESS alike, got {plain:?}, {xored:?}"),
        )
    }),
    check("rfc5780-6.1-padding-is-answered-with-padding", |target| {
        offered(target)?;
        let request = Request::new(Method::BINDING).with(A::PADDING, [0; 1_500]);
        let reply = Client::open(target)?.answer(&request.bytes())?;
        if reply.code() == Some(420) {
            return skip("PADDING is not offered: 420");
        }
        ensure(reply.has(A::PADDING), format!("expected PADDING in the answer, got {reply} without it"))
    }),
    check("hardening-a-short-padding-is-not-answered-with-a-long-one", |target| {
        offered(target)?;
        let request = Request::new(Method::BINDING).with(A::PADDING, [0; 4]);
        let reply = Client::open(target)?.answer(&request.bytes())?;
        let (asked, got) = (request.bytes().len(), reply.bytes().len());
        ensure(got < 8 * asked, format!("expected less than 8 times {asked} bytes, got {got}"))
    }),
    check("rfc5780-6.1-padding-and-response-port-400", |target| {
        offered(target)?;
        let request = Request::new(Method::BINDING).with(A::PADDING, [0; 64]);
        let reply = Client::open(target)?.answer(&request.with(A::RESPONSE_PORT, [0x20, 0, 0, 0]).bytes())?;
        reply.refused("PADDING beside RESPONSE-PORT", &[400, 420])
    }),
    check("rfc5780-7.2-change-request-of-the-wrong-length-400", |target| {
        offered(target)?;
        let request = Request::new(Method::BINDING).with(A::CHANGE_REQUEST, [6; 3]);
        Client::open(target)?.answer(&request.bytes())?.refused("CHANGE-REQUEST of three bytes", &[400])
    }),
    check("rfc5780-7.2-change-request-belongs-to-binding", |target| {
        offered(target)?;
        let mut client = Client::challenged(target)?;
        let reply = client.ask(&Request::allocate().with(A::CHANGE_REQUEST, [0; 4]))?;
        reply.refused("CHANGE-REQUEST in an Allocate", &[420])
    }),
    check("rfc5780-6.1-change-request-on-a-stream-420", |target| {
        target.needs_a_stream()?;
        let reply = Client::open(target)?.answer(&change_request(CHANGE_BOTH).bytes())?;
        reply.refused("CHANGE-REQUEST over TCP, where no answer can come from elsewhere", &[420])
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
    Request::new(Method::BINDING).with(A::CHANGE_REQUEST, [0, 0, 0, flags])
}

fn plain_address(reply: &Reply, kind: A) -> Option<SocketAddr> {
    address::decode(reply.attribute(kind)?)
}

/// The server's other address, if it says so, and the response that did.
fn offered(target: &Target) -> Result<(SocketAddr, Reply), Verdict> {
    target.needs(Transport::Udp)?;
    let reply = Client::open(target)?.answer(&Request::new(Method::BINDING).bytes())?;
    match plain_address(&reply, A::OTHER_ADDRESS) {
        Some(other) => Ok((other, reply)),
        None => skip("no second address is offered: no OTHER-ADDRESS"),
    }
}

/// A Binding response comes from this address.
fn from(target: &Target, flags: u8, expected: SocketAddr) -> Outcome {
    from_to(target.server, flags, expected)
}

/// The same of a Binding request to any address.
fn from_to(server: SocketAddr, flags: u8, expected: SocketAddr) -> Outcome {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let request = change_request(flags);
    socket.send_to(&request.bytes(), server)?;
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
    let origin = plain_address(&reply, A::RESPONSE_ORIGIN);
    ensure(origin == Some(from), format!("RESPONSE-ORIGIN: expected {from}, got {origin:?}"))
}

fn response_port(target: &Target) -> Outcome {
    offered(target)?;
    let listening = UdpSocket::bind("0.0.0.0:0")?;
    listening.set_read_timeout(Some(PATIENCE))?;
    let [high, low] = listening.local_addr()?.port().to_be_bytes();
    let request = Request::new(Method::BINDING).with(A::RESPONSE_PORT, [high, low, 0, 0]);
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
