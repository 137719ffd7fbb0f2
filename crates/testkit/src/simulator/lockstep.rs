//! The server and the model side by side: each input goes to both, and what comes out is compared.

use std::net::SocketAddr;
use std::sync::Arc;

use stun::Method;
use turn::{
    Action, Client, Command, ConnectFailed, ConnectionId, EndReason, FiveTuple, HEADROOM, Icmp, MAX_REPLY,
    NonceKey, Output, Packet, Quotas, RelayId, RelayPorts, Reply, Server, Shared, TAILROOM, Time,
};

use super::scenario::Scenario;
use super::sockets::Sockets;
use super::{Report, Trace};
use crate::dice::Dice;
use crate::model::Model;

/// What the buffer is filled with before a packet is put into it: nothing of it may get out.
const FILL: u8 = 0xA5;

/// What has to be sent after an input.
#[derive(Debug)]
pub(super) enum Sent {
    Nothing,
    ToClient(Client, Vec<u8>),
    ToPeer { from: SocketAddr, peer: SocketAddr, bytes: Vec<u8> },
    ToRelay { relay: RelayId, from: SocketAddr, bytes: Vec<u8> },
}

#[derive(Debug)]
pub(super) struct Lockstep {
    server: Server,
    pub(super) model: Model,
    ports: Arc<RelayPorts>,
    quotas: Arc<Quotas>,
    pub(super) sockets: Sockets,
    pub(super) trace: Trace,
    pub(super) report: Report,
    /// What clients are told in outputs, to be sent.
    pub(super) told: Vec<(Client, Vec<u8>)>,
}

impl Lockstep {
    pub(super) fn new(dice: &mut Dice, scenario: &Scenario, keyring: Arc<credentials::Keyring>) -> Self {
        let locals = scenario.config.relay_addresses.iter().map(|relay| relay.local);
        let ports = RelayPorts::new(scenario.ports, locals);
        let nonces = NonceKey::new(dice.bytes());
        let shared = Shared::new(keyring, nonces, ports);
        let (ports, quotas) = (Arc::clone(&shared.ports), Arc::clone(&shared.quotas));
        Self {
            server: Server::new(scenario.config.clone(), shared, dice.bytes()),
            model: Model::new(scenario.rules(), [1]),
            ports,
            quotas,
            sockets: Sockets::default(),
            trace: Trace::default(),
            report: Report::default(),
            told: Vec::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.server.poll_timeout()
    }

    pub(super) fn client_packet(&mut self, now: Time, client: Client, bytes: &[u8]) -> Result<Sent, String> {
        self.report.steps += 1;
        let in_use = (!self.sockets.failing).then_some(self.sockets.in_use);
        let expected = self.model.from_client(now, client, bytes, in_use);
        self.sockets.opened.clear();
        let mut buffer = surrounded(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.from_client(now, client, &mut packet, &mut self.sockets);
        let output = packet.bytes().to_vec();
        let opened = std::mem::take(&mut self.sockets.opened);
        let who = format!("{:?} {}", client.five_tuple.transport, client.five_tuple.client);
        self.note(now, &format!("client {who}: {}", brief(bytes)), action, &output);
        let admitted = self.model.check(now, Some(client), &expected, (bytes, action, &output), &opened)?;
        self.report.allocations += u64::from(admitted);
        for feature in expected.features() {
            *self.report.features.entry(feature).or_default() += 1;
        }
        // Answering takes nothing but what the request itself ends.
        self.drain(now, None, false)?;
        Ok(self.sent(action, Some(client), output))
    }

    pub(super) fn peer_packet(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Result<Sent, String> {
        self.report.steps += 1;
        let expected = self.model.from_peer(now, relay, peer, bytes);
        let mut buffer = surrounded(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.from_peer(now, relay, peer, &mut packet);
        let output = packet.bytes().to_vec();
        self.note(now, &format!("peer {peer} to {relay:?}: {} bytes", bytes.len()), action, &output);
        self.model.check(now, None, &expected, (bytes, action, &output), &[])?;
        self.drain(now, None, false)?;
        Ok(self.sent(action, None, output))
    }

    pub(super) fn peer_error(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
    ) -> Result<Sent, String> {
        self.report.steps += 1;
        let expected = self.model.from_peer_error(now, relay, peer, icmp);
        let mut buffer = surrounded(&[]);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM);
        let action = self.server.from_peer_error(now, relay, peer, icmp, &mut packet);
        let output = packet.bytes().to_vec();
        self.note(now, &format!("error about {peer} on {relay:?}: {icmp:?}"), action, &output);
        self.model.check(now, None, &expected, (&[], action, &output), &[])?;
        for feature in expected.features() {
            *self.report.features.entry(feature).or_default() += 1;
        }
        self.drain(now, None, false)?;
        Ok(self.sent(action, None, output))
    }

    /// `command` has been told to the model already.
    pub(super) fn command(&mut self, now: Time, command: Command) -> Result<(), String> {
        self.report.steps += 1;
        let gone = if let Command::ClientGone(five_tuple) = &command { Some(*five_tuple) } else { None };
        let name = match &command {
            Command::Keyring(_) => "another keyring".to_owned(),
            Command::Policy(_) => "another policy".to_owned(),
            other => format!("{other:?}"),
        };
        self.trace.record(format!("{} command: {name}", now.monotonic_ms), &[]);
        self.server.command(now, command).map_err(|e| e.to_string())?;
        self.drain(now, gone, false)?;
        let left = gone.and_then(|gone| {
            self.model.allocations().find(|allocation| allocation.client.five_tuple == gone)
        });
        left.map_or(Ok(()), |left| Err(format!("its client is gone: {left:?}")))
    }

    pub(super) fn handle_timeout(&mut self, now: Time) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} timeout", now.monotonic_ms), &[]);
        self.server.handle_timeout(now);
        self.model.swept(now);
        self.drain(now, None, true)
    }

    /// Everything has been closed.
    pub(super) fn check_empty(&self) -> Result<(), String> {
        let (open, timeout) = (self.sockets.all(), self.server.poll_timeout());
        if open.is_empty()
            && timeout.is_none()
            && self.ports.taken() == 0
            && self.quotas.held() == 0
            && self.server.allocation_count() == 0
            && self.server.connection_count() == 0
        {
            Ok(())
        } else {
            Err(format!("left at the end: sockets {open:?}, {} ports, timer {timeout:?}", self.ports.taken()))
        }
    }

    /// Takes what the server has to tell, closes sockets, and compares what can be seen from outside.
    fn drain(&mut self, now: Time, gone: Option<FiveTuple>, swept: bool) -> Result<(), String> {
        while let Some(output) = self.server.poll_output() {
            self.take(now, output, gone)?;
        }
        self.model.check_ends(now, swept)?;
        let links = (self.server.connection_count(), self.model.links().count());
        if links.0 != links.1 {
            return Err(format!("connections with peers are {}, not {}", links.0, links.1));
        }
        let listening = self.model.allocations().filter(|held| held.tcp).flat_map(|held| &held.relays);
        if !listening.map(|relay| relay.id).eq(self.sockets.listening_in(self.model.relays())) {
            return Err("another kind of relay socket".to_owned());
        }
        let (sockets, held) = (self.sockets.all().len(), self.quotas.held());
        let by_credentials = self.quotas.held_by_credentials();
        let counts = [self.server.allocation_count(), self.ports.taken(), sockets, held, by_credentials];
        let (relays, reserved) = (self.model.relays().count(), self.model.reservations().count());
        let allocations = self.model.allocations().count();
        let held = allocations + reserved;
        let wanted = [allocations, relays + reserved, relays, held, held];
        if counts != wanted {
            return Err(format!("allocations, ports, sockets and quotas are {counts:?}, not {wanted:?}"));
        }
        let first = self.model.timeout();
        if self.server.poll_timeout() != first {
            return Err(format!("the timer is {:?}, not {first:?}", self.server.poll_timeout()));
        }
        Ok(())
    }

    fn take(&mut self, now: Time, output: Output, gone: Option<FiveTuple>) -> Result<(), String> {
        match output {
            Output::Ended { client, relay, port, reason } => {
                let who = (client.five_tuple.transport, client.five_tuple.client);
                self.trace.record(format!("{} ended {who:?} {relay:?} {reason:?}", now.monotonic_ms), &[]);
                *self.report.ends.entry(reason_name(reason)).or_default() += 1;
                self.model.ended(now, client, relay, reason, gone)?;
                if !self.sockets.close(relay) {
                    return Err(format!("{relay:?} is not open"));
                }
                drop(port);
            }
            Output::Message { client, reply, message } => {
                self.trace.record(format!("{} told {client:?} {reply:?}", now.monotonic_ms), &message);
                match reply {
                    Some(Reply::Refused(refusal)) => {
                        *self.report.refusals.entry(refusal.code().code()).or_default() += 1;
                    }
                    Some(Reply::Success(Method(method))) => {
                        *self.report.successes.entry(method).or_default() += 1;
                    }
                    None => *self.report.features.entry("attempted").or_default() += 1,
                }
                self.model.told(client, reply, &message)?;
                self.told.push((client, message));
            }
            Output::Disconnect { connection, reason } => {
                self.trace.record(format!("{} closed {connection:?} {reason:?}", now.monotonic_ms), &[]);
                *self.report.ends.entry(reason_name(reason)).or_default() += 1;
                self.model.closed(now, connection, reason, gone)?;
            }
            Output::Tell { .. } | Output::Depart { .. } | Output::Reply { .. } => {
                return Err(format!("{output:?}, and there is no other worker"));
            }
        }
        Ok(())
    }

    /// What came of a connection to a peer.
    pub(super) fn connected(
        &mut self,
        now: Time,
        connection: ConnectionId,
        works: bool,
    ) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} connected {connection:?} {works}", now.monotonic_ms), &[]);
        self.model.connected(now, connection, works);
        self.server.connected(now, connection, if works { Ok(()) } else { Err(ConnectFailed) });
        self.drain(now, None, false)
    }

    /// A peer has connected to a relayed address.
    pub(super) fn accepted(&mut self, now: Time, relay: RelayId, peer: SocketAddr) -> Result<(), String> {
        self.report.steps += 1;
        let given = self.server.accepted(now, relay, peer);
        self.trace.record(format!("{} {peer} connected to {relay:?}: {given:?}", now.monotonic_ms), &[]);
        self.model.accepted(now, (relay, peer), given.ok())?;
        self.drain(now, None, false)
    }

    /// A connection with a peer was closed from outside.
    pub(super) fn disconnected(&mut self, now: Time, connection: ConnectionId) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} disconnected {connection:?}", now.monotonic_ms), &[]);
        self.model.disconnected(connection);
        self.server.disconnected(connection);
        self.drain(now, None, false)
    }

    fn sent(&self, action: Action, sender: Option<Client>, output: Vec<u8>) -> Sent {
        match (action, sender) {
            (Action::Reply(_) | Action::Bind(_), Some(client))
            | (Action::ReplyElsewhere(_, client) | Action::ToClient(client), _) => {
                Sent::ToClient(client, output)
            }
            (Action::ToPeer { relay, peer, .. }, _) => {
                match self.model.relays().find(|held| held.id == relay) {
                    Some(held) => Sent::ToPeer { from: held.address, peer, bytes: output },
                    None => Sent::Nothing,
                }
            }
            (Action::ToRelay { relay, from }, _) => Sent::ToRelay { relay, from, bytes: output },
            (
                Action::Drop(_)
                | Action::Reply(_)
                | Action::Bind(_)
                | Action::Connect { .. }
                | Action::HandOver(_)
                | Action::Pass(_)
                | Action::Later,
                _,
            ) => Sent::Nothing,
        }
    }

    fn note(&mut self, now: Time, input: &str, action: Action, output: &[u8]) {
        match action {
            Action::Drop(reason) => {
                self.report.silences += 1;
                *self.report.reasons.entry(format!("{reason:?}")).or_default() += 1;
            }
            Action::Reply(Reply::Refused(refusal)) | Action::ReplyElsewhere(Reply::Refused(refusal), _) => {
                *self.report.reasons.entry(format!("{refusal:?}")).or_default() += 1;
                *self.report.refusals.entry(refusal.code().code()).or_default() += 1;
            }
            Action::Reply(Reply::Success(Method(method)))
            | Action::ReplyElsewhere(Reply::Success(Method(method)), _) => {
                *self.report.successes.entry(method).or_default() += 1;
            }
            Action::Bind(_) => {
                *self.report.successes.entry(Method::CONNECTION_BIND.0).or_default() += 1;
            }
            Action::ToPeer { .. } | Action::ToRelay { .. } => self.report.to_peers += 1,
            Action::ToClient(_) => self.report.to_clients += 1,
            Action::Connect { .. } | Action::HandOver(_) | Action::Pass(_) | Action::Later => {}
        }
        self.trace.record(format!("{} {input} -> {action:?}", now.monotonic_ms), output);
    }
}

fn surrounded(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![FILL; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(HEADROOM + bytes.len().max(MAX_REPLY) + TAILROOM, FILL);
    buffer
}

fn brief(bytes: &[u8]) -> String {
    match stun::Message::parse(bytes) {
        Ok(message) => format!("{message:?}"),
        Err(error) => {
            format!("{} bytes from {:02x?} ({error})", bytes.len(), bytes.get(..4).unwrap_or(bytes))
        }
    }
}

fn reason_name(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Deleted => "deleted",
        EndReason::Expired => "expired",
        EndReason::Denied => "denied",
        EndReason::ClientGone => "client_gone",
        EndReason::TimedOut => "timed_out",
        EndReason::PeerForbidden => "peer_forbidden",
    }
}
