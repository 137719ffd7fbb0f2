//! RFC 6062: TCP allocations.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use stun::{AttributeType, Class, Message, Method, address};

use crate::check::{Check, check};
use crate::checks::data::pattern;
use crate::client::{Client, PATIENCE};
use crate::message::{Reply, Request, Signature, TCP, describe};
use crate::outcome::{Outcome, Verdict, ensure, fail, skip};
use crate::target::Target;
use crate::tcp_peer::{Raw, TcpPeer};

const CONNECTION_ID: AttributeType = AttributeType(0x002A);

pub(crate) const CHECKS: &[Check] = &[
    check("rfc6062-5.1-tcp-allocation", |target| allocated(target).map(drop)),
    check("rfc6062-5.1-tcp-allocation-with-dont-fragment-400", |target| {
        refused_with(target, AttributeType::DONT_FRAGMENT, &[])
    }),
    check("rfc6062-5.1-tcp-allocation-with-even-port-400", |target| {
        refused_with(target, AttributeType::EVEN_PORT, &[0])
    }),
    check("rfc6062-5.1-tcp-allocation-with-reservation-token-400", |target| {
        refused_with(target, AttributeType::RESERVATION_TOKEN, b"no token")
    }),
    check("rfc6062-5.2-connect-gives-a-connection-id", |target| Connected::open(target).map(drop)),
    check("rfc6062-5.2-connect-without-peer-400", |target| {
        allocated(target)?.refused("Connect without XOR-PEER-ADDRESS", &Request::new(Method::CONNECT), &[400])
    }),
    check("rfc6062-5.2-connect-without-allocation-437", |target| {
        allocated(target)?;
        let request = connect(SocketAddr::new(target.peer_host, 9));
        Client::challenged(target)?.refused("Connect without an allocation", &request, &[437])
    }),
    check("rfc6062-5.2-connect-on-a-udp-allocation-is-refused", |target| {
        allocated(target)?;
        let mut client = Client::allocated(target)?;
        let request = connect(SocketAddr::new(target.peer_host, 9));
        client.refused("Connect on a UDP allocation", &request, &[400, 403, 437])
    }),
    check("rfc6062-5.2-second-connect-to-a-peer-446", |target| {
        let mut connected = Connected::open(target)?;
        let request = connect(connected.peer.address()?);
        connected.client.refused("a second Connect to the same peer", &request, &[446])
    }),
    check("rfc6062-5.2-refused-connection-447", nobody_listens),
    check("rfc6062-5.2-connection-comes-from-the-relayed-address", |target| {
        let connected = Connected::open(target)?;
        let (from, relayed) = (connected.at_peer.0.peer_addr()?, connected.client.relayed());
        ensure(from == relayed, format!("the peer saw {from}, expected the relayed address {relayed}"))
    }),
    check("rfc6062-5.2-malformed-peer-400", |target| {
        let request = Request::new(Method::CONNECT).with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2]);
        allocated(target)?.refused("Connect with a malformed XOR-PEER-ADDRESS", &request, &[400])
    }),
    check("rfc6062-5.2-peer-of-another-family-443", |target| {
        let peer: SocketAddr = SocketAddr::from(([0x2620, 0xFE, 0, 0, 0, 0, 0, 0xFE], 9));
        allocated(target)?.refused("Connect to an IPv6 peer", &connect(peer), &[443])
    }),
    check("rfc6062-5.2-connect-is-an-answer-with-integrity", |target| {
        let mut client = allocated(target)?;
        let peer = TcpPeer::open(target)?;
        client.permit(peer.address()?)?;
        let reply = client.ask(&connect(peer.address()?))?;
        ensure(
            reply.is_sealed_with(&client.signature().key()),
            "Connect: expected MESSAGE-INTEGRITY in the response",
        )
    }),
    check("hardening-connect-to-the-server-itself-is-refused", |target| {
        allocated(target)?.refused(
            "Connect to the server's own listener",
            &connect(target.server),
            &[403, 447],
        )
    }),
    check("rfc6062-5.2-connect-by-another-user-441", by_another_user),
    check("rfc6062-5.4-connection-bind-and-data-both-ways", data_both_ways),
    check("rfc6062-5.4-data-that-came-before-the-bind-is-kept", early_data),
    check("rfc6062-5.4-unknown-connection-id-400", |target| {
        bind_refused(&allocated(target)?, Some([0xDE, 0xAD, 0xBE, 0xEF]), "an unknown CONNECTION-ID")
    }),
    check("rfc6062-5.4-connection-id-missing-400", |target| {
        bind_refused(&allocated(target)?, None, "no CONNECTION-ID")
    }),
    check("rfc6062-5.4-connection-id-serves-once", serves_once),
    check("rfc6062-5.4-data-behind-the-bind-is-not-lost", data_behind),
    check("hardening-connection-bind-on-the-control-connection-is-refused", |target| {
        let mut connected = Connected::open(target)?;
        let request = bind_request(connected.id);
        connected.client.refused("ConnectionBind on the control connection", &request, &[400, 403, 437, 441])
    }),
    check("rfc6062-5.3-unbound-connection-is-closed-after-30-s", |target| {
        let mut connected = Connected::open(target)?;
        connected.at_peer.expect_open("a connection that nobody has bound yet")?;
        connected.at_peer.expect_closed("nobody bound it for 30 seconds", Duration::from_secs(40))?;
        bind_refused(&connected.client, Some(connected.id), "a CONNECTION-ID that is over")
    }),
    check("rfc6062-5.4-connection-bind-by-another-user-is-refused", |target| {
        bound_by_another(target).map(drop)
    }),
    check("hardening-connection-bind-by-another-user-changes-nothing", owner_binds_still),
    check("rfc6062-5.5-client-closes-and-the-peer-is-closed", client_closes),
    check("rfc6062-5.5-peer-closes-and-the-client-is-closed", peer_closes),
    check("rfc6062-5.5-deleted-allocation-closes-its-connections", deletion_closes),
    check("rfc6062-5.3-incoming-connection-is-announced", incoming),
    check("rfc6062-5.3-incoming-connection-without-permission-is-closed", unpermitted),
];

fn connect(peer: SocketAddr) -> Request {
    Request::new(Method::CONNECT).peer(peer)
}

fn tcp_request() -> Request {
    Request::new(Method::ALLOCATE).with(AttributeType::REQUESTED_TRANSPORT, TCP)
}

/// A client with a TCP allocation.
fn allocated(target: &Target) -> Result<Client<'_>, Verdict> {
    target.needs_a_stream()?;
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&tcp_request())?;
    match reply.code() {
        // RFC 6062 is an extension: without it, TCP is a transport that is not supported.
        Some(442) => skip("TCP allocations are not offered: 442"),
        _ => client.adopt(&reply).map(|()| client),
    }
}

fn refused_with(target: &Target, kind: AttributeType, value: &[u8]) -> Outcome {
    allocated(target)?;
    let request = tcp_request().with(kind, value);
    Client::challenged(target)?.refused(&format!("Allocate for TCP with {kind:?}"), &request, &[400])
}

/// A peer that the server has connected to.
struct Connected<'t> {
    client: Client<'t>,
    peer: TcpPeer,
    at_peer: Raw,
    id: [u8; 4],
}

impl<'t> Connected<'t> {
    fn open(target: &'t Target) -> Result<Self, Verdict> {
        let mut client = allocated(target)?;
        let peer = TcpPeer::open(target)?;
        client.permit(peer.address()?)?;
        let reply = client.succeed(&connect(peer.address()?))?;
        let at_peer = peer.accept()?;
        match reply.attribute(CONNECTION_ID).and_then(|value| value.try_into().ok()) {
            Some(id) => Ok(Self { client, peer, at_peer, id }),
            None => fail("Connect: expected CONNECTION-ID of 4 bytes in the response, got none"),
        }
    }
}

fn bind_request(id: [u8; 4]) -> Request {
    Request::new(Method::CONNECTION_BIND).with(CONNECTION_ID, id)
}

/// Sends a ConnectionBind from a new connection.
fn try_bind<'t>(
    target: &'t Target,
    signature: Signature,
    request: &Request,
) -> Result<(Client<'t>, Reply), Verdict> {
    let mut client = Client::open(target)?;
    let reply = client.ask_anew(signature, request)?;
    Ok((client, reply))
}

/// Opens the data connection of this id.
fn bound(control: &Client<'_>, id: [u8; 4]) -> Result<Raw, Verdict> {
    let (mut client, reply) = try_bind(control.target, control.signature(), &bind_request(id))?;
    reply.success("ConnectionBind")?;
    let (stream, unread) = client.link.raw_stream()?;
    Ok(Raw(stream, unread))
}

fn bind_refused(control: &Client<'_>, id: Option<[u8; 4]>, what: &str) -> Outcome {
    let request = id.map_or_else(|| Request::new(Method::CONNECTION_BIND), bind_request);
    let (_, reply) = try_bind(control.target, control.signature(), &request)?;
    reply.refused(&format!("ConnectionBind with {what}"), &[400])
}

fn nobody_listens(target: &Target) -> Outcome {
    let mut client = allocated(target)?;
    let listener = TcpListener::bind(SocketAddr::new(target.peer_host, 0))?;
    let at = listener.local_addr()?;
    drop(listener);
    client.permit(at)?;
    client.refused("Connect to a port where nobody listens", &connect(at), &[447])
}

fn by_another_user(target: &Target) -> Outcome {
    let other = target.other()?;
    let mut client = allocated(target)?;
    let peer = TcpPeer::open(target)?;
    client.permit(peer.address()?)?;
    let signature = client.signature_of(other);
    let reply = client.answer(&connect(peer.address()?).signed(&signature))?;
    reply.refused("Connect by a user who did not allocate", &[441])
}

fn data_both_ways(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    let mut data = bound(&connected.client, connected.id)?;
    for length in [1, 5, 4_000, 100_000] {
        let bytes = pattern(length);
        data.send(&bytes)?;
        connected.at_peer.expect("data to the peer", &bytes)?;
        connected.at_peer.send(&bytes)?;
        data.expect("data from the peer", &bytes)?;
    }
    Ok(())
}

fn early_data(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    connected.at_peer.send(b"I spoke first")?;
    std::thread::sleep(Duration::from_millis(100));
    bound(&connected.client, connected.id)?.expect("data sent before the ConnectionBind", b"I spoke first")
}

/// The data comes in the same write as the request.
fn data_behind(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    let mut client = Client::challenged(target)?;
    let mut bytes = bind_request(connected.id).signed(&client.signature());
    bytes.extend_from_slice(&pattern(3_000));
    client.send(&bytes)?;
    connected.at_peer.expect("data behind the ConnectionBind", &pattern(3_000))
}

fn serves_once(target: &Target) -> Outcome {
    let connected = Connected::open(target)?;
    let _data = bound(&connected.client, connected.id)?;
    bind_refused(&connected.client, Some(connected.id), "a CONNECTION-ID that is bound already")
}

/// Another user tries to bind the connection; the client and the connection's id.
fn bound_by_another(target: &Target) -> Result<Connected<'_>, Verdict> {
    let other = target.other()?;
    let connected = Connected::open(target)?;
    let signature = connected.client.signature_of(other);
    match try_bind(target, signature, &bind_request(connected.id)) {
        Ok((_, reply)) => reply.refused("ConnectionBind by a user who did not allocate", &[400, 401, 441])?,
        // No answer at all gives nothing away either.
        Err(Verdict::Failed(_)) => {}
        Err(other) => return Err(other),
    }
    Ok(connected)
}

fn owner_binds_still(target: &Target) -> Outcome {
    let connected = bound_by_another(target)?;
    match bound(&connected.client, connected.id) {
        Err(Verdict::Failed(why)) => fail(format!("the owner's ConnectionBind after another user's: {why}")),
        other => other.map(drop),
    }
}

fn client_closes(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    drop(bound(&connected.client, connected.id)?);
    connected.at_peer.expect_closed("the client closed its data connection", PATIENCE)
}

fn peer_closes(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    let mut data = bound(&connected.client, connected.id)?;
    connected.at_peer.send(b"farewell")?;
    drop(connected.at_peer);
    data.expect("data before the peer closed", b"farewell")?;
    data.expect_closed("the peer closed", PATIENCE)
}

fn deletion_closes(target: &Target) -> Outcome {
    let mut connected = Connected::open(target)?;
    let mut data = bound(&connected.client, connected.id)?;
    connected.client.delete()?;
    data.expect_closed("the allocation was deleted", PATIENCE)?;
    connected.at_peer.expect_closed("the allocation was deleted", PATIENCE)
}

fn incoming(target: &Target) -> Outcome {
    let mut client = allocated(target)?;
    client.permit(SocketAddr::new(target.peer_host, 9))?;
    let mut peer = Raw::connect(client.relayed())?;
    let from = peer.0.local_addr()?;
    let Some(frame) = client.next_frame(PATIENCE)? else {
        return fail("a peer connected: expected ConnectionAttempt, got nothing");
    };
    let Ok(message) = Message::parse(&frame) else {
        return fail(format!("a peer connected: expected ConnectionAttempt, got {}", describe(&frame)));
    };
    let is = (message.class(), message.method()) == (Class::Indication, Method::CONNECTION_ATTEMPT);
    ensure(is, format!("a peer connected: expected ConnectionAttempt, got {}", describe(&frame)))?;
    let said = message
        .attribute(AttributeType::XOR_PEER_ADDRESS)
        .and_then(|value| address::decode_xor(value, message.transaction()));
    ensure(said == Some(from), format!("ConnectionAttempt: expected peer {from}, got {said:?}"))?;
    let Some(id) = message.attribute(CONNECTION_ID).and_then(|value| value.try_into().ok()) else {
        return fail("ConnectionAttempt: expected CONNECTION-ID of 4 bytes, got none");
    };
    let mut data = bound(&client, id)?;
    peer.send(b"hello")?;
    data.expect("data from a peer that connected", b"hello")?;
    data.send(b"welcome")?;
    peer.expect("data to a peer that connected", b"welcome")?;
    peer.expect_open("after data went both ways")
}

fn unpermitted(target: &Target) -> Outcome {
    let mut client = allocated(target)?;
    // Refusing the connection in the first place would do as well.
    if let Ok(mut peer) = Raw::connect(client.relayed()) {
        peer.expect_closed("a peer without a permission connected", PATIENCE)?;
    }
    client.expect_nothing("a peer without a permission connected")
}
