//! Connect, ConnectionBind and ConnectionAttempt. RFC 6062.

use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Class, Message, MessageWriter, Method, TransactionId};

use crate::allocate::{Family, Protocol};
use crate::allocation::Allocation;
use crate::auth::{Authenticated, is_known};
use crate::connection::{Connect, ConnectionId, PeerConnection, State};
use crate::permission::{check_family, peer};
use crate::quota::{Allowance, Direction};
use crate::reply::{Answer, Asked, Response};
use crate::server::{DropReason, EndReason, Output, Server};
use crate::sockets::RelayId;
use crate::{Client, MAX_REPLY, Refusal, Reply, Time};

/// How long a connection to a peer may take to be made.
const CONNECT_SECS: u32 = 30;
/// How long a connection waits for its ConnectionBind.
const BIND_SECS: u32 = 30;

/// A connection to a peer could not be made. RFC 6062 §5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectFailed;

impl Server {
    /// A Connect: refused at once, or answered when the caller has told [`Server::connected`].
    pub(crate) fn connect(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
    ) -> Result<Answer, Refusal> {
        self.end_overdue(now);
        // RFC 6062 §5.2: without a TCP allocation on this connection it is 437.
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        if allocation.protocol != Protocol::Tcp {
            return Err(Refusal::OtherProtocol);
        }
        // RFC 6062 §5.2: without XOR-PEER-ADDRESS, or with an invalid one, it is 400.
        let peer = peer(message)?;
        check_family(allocation, peer)?;
        let relay = allocation.relay_of(Family::of(peer)).ok_or(Refusal::PeerFamilyMismatch)?.id;
        let relays = relays_of(allocation);
        if let Some((connection, held)) = self.connections.of_relay(relay).find(|(_, held)| held.peer == peer)
        {
            return match &held.state {
                // The same request again must not connect again: its answer is on its way, or is given once more.
                State::Connecting { connect, .. } if connect.asked.transaction == message.transaction() => {
                    Ok(Answer::Connecting)
                }
                State::Unbound { connect: Some(transaction), .. }
                    if *transaction == message.transaction() =>
                {
                    Ok(Answer::Connected(connection))
                }
                // RFC 6062 §5.2: with a connection to this peer, pending or active, it is 446.
                _ => Err(Refusal::ConnectionExists),
            };
        }
        // RFC 6062 §5.2: a connection that policy forbids is 403.
        self.config.policy.check(peer).map_err(Refusal::PeerForbidden)?;
        if !self.has_room(relays) {
            return Err(Refusal::TooManyConnections);
        }
        let limits = self.limits_of(identity.turn_key);
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        // Without a permission it is a new peer, as often as it is connected to. Connect needs none and makes none.
        let new_peers = allocation.reserve_permissions(
            std::iter::once(peer.ip()),
            now.monotonic_ms,
            usize::MAX,
            limits.new_peers,
        )?;
        allocation.new_peers = new_peers;
        let connect =
            Connect { asked: Asked::by(message), integrity: identity.response, key: identity.key.clone() };
        // RFC 6062 §5.2: the time to connect is at least 30 seconds.
        let until_ms = now.after_secs(CONNECT_SECS);
        let state = State::Connecting { until_ms, connect: Box::new(connect) };
        let made = PeerConnection { relay, peer, state };
        let connection = self.connections.insert(self.config.worker, &mut self.rng, made);
        let connection = connection.ok_or(Refusal::TooManyConnections)?;
        Ok(Answer::Connect { connection, relay, peer: self.own_relays.local(peer) })
    }

    /// Whether the allocation with these relay sockets may have one more connection.
    fn has_room(&self, relays: [Option<RelayId>; 2]) -> bool {
        let limits = &self.config.limits;
        let held: usize =
            relays.into_iter().flatten().map(|relay| self.connections.of_relay(relay).count()).sum();
        held < limits.connections && self.connections.len() < limits.all_connections
    }

    /// Tells what came of an [`Action::Connect`](crate::Action::Connect). The answer to the client follows as an output;
    /// nothing does when the connection has ended before. RFC 6062 §5.2.
    pub fn connected(&mut self, now: Time, connection: ConnectionId, result: Result<(), ConnectFailed>) {
        self.end_overdue(now);
        let Some(held) = self.connections.entry(connection) else { return };
        let State::Connecting { connect, .. } = &held.state else { return };
        let Some(client) = self.allocations.of_relay(held.relay, now.monotonic_ms).map(|held| held.client)
        else {
            return;
        };
        if result.is_err() {
            // RFC 6062 §5.2: when the connection fails or takes too long, it is 447.
            return self.disconnect(client, connection, None);
        }
        let transaction = connect.asked.transaction;
        // RFC 6062 §5.2: without a ConnectionBind within 30 seconds the peer connection is closed.
        let state = State::Unbound { until_ms: now.after_secs(BIND_SECS), connect: Some(transaction) };
        if let Some(State::Connecting { connect, .. }) = self.connections.set_state(connection, state) {
            self.answer(client, &connect, Ok(Answer::Connected(connection)));
        }
    }

    /// A peer has connected to a relay socket. The connection's name, by which the client is told of it in an output; or
    /// why it has to be closed. RFC 6062 §5.3.
    ///
    /// # Errors
    /// When nobody may connect from there.
    pub fn accepted(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
    ) -> Result<ConnectionId, DropReason> {
        self.end_overdue(now);
        let peer = self.own_relays.public(peer);
        let allocation = self.allocations.of_relay(relay, now.monotonic_ms);
        let allocation = allocation.filter(|allocation| allocation.protocol == Protocol::Tcp);
        let allocation = allocation.ok_or(DropReason::NoAllocation)?;
        // RFC 6062 §5.3: without a permission for the peer the connection is closed at once.
        if !allocation.permits(peer.ip(), now.monotonic_ms) {
            return Err(DropReason::NoPermission);
        }
        let (client, relays) = (allocation.client, relays_of(allocation));
        self.config.policy.check(peer).map_err(|_| DropReason::PeerForbidden)?;
        if !self.has_room(relays) {
            return Err(DropReason::TooManyConnections);
        }
        // RFC 6062 §5.3: without a ConnectionBind within 30 seconds the peer connection is closed.
        let state = State::Unbound { until_ms: now.after_secs(BIND_SECS), connect: None };
        let made = PeerConnection { relay, peer, state };
        let connection = self.connections.insert(self.config.worker, &mut self.rng, made);
        let connection = connection.ok_or(DropReason::TooManyConnections)?;
        self.attempt(client, connection, peer);
        Ok(connection)
    }

    /// RFC 6062 §5.3: the client gets a ConnectionAttempt indication with XOR-PEER-ADDRESS and CONNECTION-ID.
    fn attempt(&mut self, client: Client, connection: ConnectionId, peer: SocketAddr) {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let transaction = TransactionId::from_bytes(transaction);
        let mut buffer = [0; MAX_REPLY];
        let written =
            MessageWriter::new(&mut buffer, Class::Indication, Method::CONNECTION_ATTEMPT, transaction)
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                .attribute_u32(AttributeType::CONNECTION_ID, connection.0)
                .finish();
        self.tell(client, None, written.ok().and_then(|length| buffer.get(..length)));
    }

    /// A ConnectionBind: the client's connection that it came on becomes a data connection.
    pub(crate) fn connection_bind(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
    ) -> Result<Answer, Refusal> {
        // RFC 6062 §5.4: over anything but TCP or TLS it is 400.
        if !client.five_tuple.transport.is_stream() {
            return Err(Refusal::TransportMismatch);
        }
        // RFC 6062 §4.3: the data connection is another one than the control connection.
        if self.allocations.holds(&client.five_tuple) {
            return Err(Refusal::NoDataConnection);
        }
        let id = message.attribute(AttributeType::CONNECTION_ID).ok_or(Refusal::ConnectionMissing)?;
        let id = <[u8; 4]>::try_from(id).map_err(|_| Refusal::MalformedAttribute)?;
        let connection = ConnectionId(u32::from_be_bytes(id));
        // RFC 6062 §5.4: a CONNECTION-ID that names no connection that waits is 400.
        if connection.worker().0 >= self.config.workers {
            return Err(Refusal::ConnectionUnknown);
        }
        if connection.worker() != self.config.worker {
            return Ok(Answer::HandOver(connection.worker()));
        }
        self.end_overdue(now);
        let held = self.connections.entry(connection).ok_or(Refusal::ConnectionUnknown)?;
        let allocation = self.allocations.of_relay(held.relay, now.monotonic_ms);
        let allocation = allocation.ok_or(Refusal::ConnectionUnknown)?;
        // RFC 6062 §4.3: the credential is that of the control connection.
        if allocation.credential != identity.credential {
            return Err(Refusal::WrongCredentials);
        }
        if !matches!(held.state, State::Unbound { .. }) {
            return Err(Refusal::ConnectionUnknown);
        }
        self.connections.set_state(connection, State::Bound);
        Ok(Answer::Bound(connection))
    }

    /// Bytes were read from one side of a data connection, to be sent to the other; with none of them it is only asked.
    /// How much may be read next: the limits on rates slow a stream down, since none of it can be dropped. Ask again
    /// after [`crate::Command::KeyLimits`]. RFC 6062 §3.
    pub fn relayed(
        &mut self,
        now: Time,
        connection: ConnectionId,
        direction: Direction,
        bytes: usize,
    ) -> Allowance {
        let bound = self.connections.entry(connection).filter(|held| matches!(held.state, State::Bound));
        let allocation = bound.and_then(|held| self.allocations.of_relay(held.relay, now.monotonic_ms));
        // What is over relays nothing any more, closed or not.
        let over = Allowance::Until(u64::MAX);
        allocation.map_or(over, |held| held.stream(direction, now.monotonic_ms, bytes))
    }

    /// A connection with a peer, or the data connection it was bound to, is closed. RFC 6062 §3.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        self.connections.remove(connection);
    }

    /// How many connections with peers there are, those included that are being made.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Ends connections that took too long to be made or bound.
    pub(crate) fn end_overdue(&mut self, now: Time) {
        while let Some((at, connection)) = self.connections.next_due()
            && at <= now.monotonic_ms
        {
            self.end_connection(connection, EndReason::TimedOut);
        }
    }

    /// Ends the connections whose peers may no longer be reached.
    pub(crate) fn end_forbidden(&mut self) {
        let policy = &self.config.policy;
        for connection in self.connections.to_peers(|peer| policy.check(peer).is_err()) {
            self.end_connection(connection, EndReason::PeerForbidden);
        }
    }

    /// RFC 6062 §5.5: the data connections end with their allocation.
    pub(crate) fn end_connections(&mut self, client: Client, relay: RelayId, reason: EndReason) {
        let connections: Vec<ConnectionId> = self.connections.of_relay(relay).map(|(id, _)| id).collect();
        for connection in connections {
            self.disconnect(client, connection, Some(reason));
        }
    }

    fn end_connection(&mut self, connection: ConnectionId, reason: EndReason) {
        let relay = self.connections.entry(connection).map(|held| held.relay);
        match relay.and_then(|relay| self.allocations.client_of(relay)) {
            Some(client) => self.disconnect(client, connection, Some(reason)),
            None => drop(self.connections.remove(connection)),
        }
    }

    /// Forgets a connection; with a reason: the caller has to close it. A Connect that waits for it is answered with 447.
    fn disconnect(&mut self, client: Client, connection: ConnectionId, reason: Option<EndReason>) {
        let Some(held) = self.connections.remove(connection) else { return };
        if let State::Connecting { connect, .. } = held.state {
            self.answer(client, &connect, Err(Refusal::ConnectFailed));
        }
        self.outputs.extend(reason.map(|reason| Output::Disconnect { connection, reason }));
    }

    /// Answers a Connect.
    fn answer(&mut self, client: Client, connect: &Connect, outcome: Result<Answer, Refusal>) {
        let mut buffer = [0; MAX_REPLY];
        let response = Response {
            asked: connect.asked,
            request: None,
            client: client.five_tuple.client,
            key: Some((connect.integrity, &connect.key)),
            realm: &self.config.realm,
            nonce: None,
            offers_algorithms: false,
            known: is_known,
            alternate_domain: None,
        };
        let written = response.write(outcome, &mut buffer);
        let reply = outcome.map_or_else(Reply::Refused, |_| Reply::Success(Method::CONNECT));
        self.tell(client, Some(reply), written.ok().and_then(|length| buffer.get(..length)));
    }

    fn tell(&mut self, client: Client, reply: Option<Reply>, message: Option<&[u8]>) {
        let message = message.map(<[u8]>::to_vec);
        self.outputs.extend(message.map(|message| Output::Message { client, reply, message }));
    }
}

fn relays_of(allocation: &Allocation) -> [Option<RelayId>; 2] {
    let mut relays = allocation.relays().map(|relay| relay.id);
    [relays.next(), relays.next()]
}
