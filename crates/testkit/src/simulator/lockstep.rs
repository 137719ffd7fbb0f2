//! The server and the model side by side: each input goes to both, and what comes out is compared.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use stun::Method;
use turn::{
    Action, Client, Command, Config, ConnectFailed, ConnectionId, EndReason, FiveTuple, HEADROOM, Icmp,
    MAX_REPLY, NonceKey, Output, Packet, Quotas, RelayId, RelayPorts, Reply, Server, Shared, TAILROOM, Time,
    WorkerId,
};

use super::letters::{About, Letter};
use super::scenario::Scenario;
use super::sockets::Sockets;
use super::{Report, Trace};
use crate::dice::Dice;
use crate::model::{Claim, Expected, Model, Place};

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

/// How a client's packet has come to a worker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    Direct,
    PassedBy(usize),
    /// From there.
    Back(usize),
}

/// What a worker has to tell because of what it was told.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Another worker this.
    pub(super) tell: Option<(usize, About)>,
    /// Another worker, if it believes that one to have the allocation, that a client is gone.
    pub(super) gone: Option<(FiveTuple, usize)>,
    /// An allocation goes to this worker, back or not.
    pub(super) depart: Option<(usize, Claim, bool)>,
    /// The client that has come gets its answer.
    pub(super) reply: Option<(Claim, Expected)>,
}

fn worker_id(worker: usize) -> WorkerId {
    WorkerId(u16::try_from(worker).unwrap_or(u16::MAX))
}

#[derive(Debug)]
pub(super) struct Lockstep {
    /// The workers; mostly one.
    servers: Vec<Server>,
    /// What each is told by the others, and when it will read it.
    pub(super) inboxes: Vec<VecDeque<(u64, Letter)>>,
    /// Workers, and clients whose old paths they have been told are over: they pass nothing on for them.
    pub(super) over: BTreeSet<(usize, FiveTuple)>,
    /// Whether nothing gets into a mailbox now.
    pub(super) mailboxes_full: bool,
    pub(super) dice: Dice,
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
        let servers = (0..scenario.workers).map(|worker| {
            let config = Config { worker: WorkerId(worker), ..scenario.config.clone() };
            Server::new(config, shared.clone(), dice.bytes())
        });
        let servers: Vec<Server> = servers.collect();
        Self {
            servers,
            inboxes: (0..scenario.workers).map(|_| VecDeque::new()).collect(),
            over: BTreeSet::new(),
            mailboxes_full: false,
            dice: Dice::new(dice.number()),
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
        self.servers.iter().filter_map(Server::poll_timeout).min()
    }

    pub(super) fn workers(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn server(&mut self, worker: usize) -> &mut Server {
        self.servers.get_mut(worker).expect("there is such a worker")
    }

    pub(super) fn count_feature(&mut self, used: bool, name: &'static str) {
        if used {
            *self.report.features.entry(name).or_default() += 1;
        }
    }

    pub(super) fn client_packet(
        &mut self,
        now: Time,
        worker: usize,
        client: Client,
        bytes: &[u8],
    ) -> Result<Sent, String> {
        self.client_packet_by(now, (worker, Route::Direct), client, bytes)
    }

    /// A client's packet as it reaches a worker.
    pub(super) fn client_packet_by(
        &mut self,
        now: Time,
        (worker, route): (usize, Route),
        client: Client,
        bytes: &[u8],
    ) -> Result<Sent, String> {
        self.report.steps += 1;
        self.model.hear_at(worker);
        let in_use = (!self.sockets.failing).then_some(self.sockets.in_use);
        self.sockets.opened.clear();
        let mut buffer = surrounded(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let server = self.servers.get_mut(worker).ok_or("no such worker")?;
        let (to, from) = (&mut packet, &mut self.sockets);
        let action = match route {
            Route::Direct => server.from_client(now, client, to, from),
            Route::PassedBy(other) => server.passed(now, worker_id(other), client, to, from),
            Route::Back(other) => server.passed_back(now, worker_id(other), client, to, from),
        };
        let output = packet.bytes().to_vec();
        let opened = std::mem::take(&mut self.sockets.opened);
        let who = format!("{:?} {}", client.five_tuple.transport, client.five_tuple.client);
        self.note(now, &format!("client {who} at {worker} {route:?}: {}", brief(bytes)), action, &output);
        if let Action::Pass(to) = action {
            self.pass(now, (worker, route), client, (to, bytes))?;
            self.take_outputs(now, worker, None, Due::default())?;
            self.verify(now, false)?;
            return Ok(Sent::Nothing);
        }
        let expected = self.model.from_client(now, client, bytes, in_use);
        let admitted = self.model.check(now, Some(client), &expected, (bytes, action, &output), &opened)?;
        self.report.allocations += u64::from(admitted);
        for feature in expected.features() {
            *self.report.features.entry(feature).or_default() += 1;
        }
        let mut due = Due::default();
        if let Expected::Asked { claim } = expected {
            due.tell = Some((claim.owner, About::Claim(*claim)));
        }
        if let Some((home, client)) = self.model.take_over() {
            due.tell = Some((home, About::Over(client)));
            self.count_feature(true, "old_path_over");
        }
        // Answering takes nothing but what the request itself ends.
        self.take_outputs(now, worker, None, due)?;
        self.verify(now, false)?;
        Ok(self.sent(action, Some(client), output))
    }

    /// A worker without the client's allocation may believe that another one has it.
    fn pass(
        &mut self,
        now: Time,
        (worker, route): (usize, Route),
        client: Client,
        (to, bytes): (WorkerId, &[u8]),
    ) -> Result<(), String> {
        let to = usize::from(to.0);
        let may = match route {
            Route::Direct => {
                let is_over = self.over.contains(&(worker, client.five_tuple));
                to != worker && to < self.servers.len() && !is_over
            }
            Route::PassedBy(from) => to == from,
            Route::Back(from) => to != worker && to != from,
        };
        let held = match route {
            Route::PassedBy(_) => self.model.holds_living(now, client),
            _ => self.model.holds(client),
        };
        if !may || held {
            return Err(format!("passed to {to}"));
        }
        let is_back = matches!(route, Route::PassedBy(_));
        self.count_feature(true, if is_back { "passed_back" } else { "passed" });
        let bytes = bytes.to_vec();
        let _ = self.post(now, to, Letter::FromClient { from: worker, client, bytes, is_back });
        Ok(())
    }

    pub(super) fn peer_packet(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Result<Sent, String> {
        let Some(worker) = self.worker_of(relay) else { return Ok(Sent::Nothing) };
        self.report.steps += 1;
        let expected = self.model.from_peer(now, relay, peer, bytes);
        let mut buffer = surrounded(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server(worker).from_peer(now, relay, peer, &mut packet);
        let output = packet.bytes().to_vec();
        self.note(now, &format!("peer {peer} to {relay:?}: {} bytes", bytes.len()), action, &output);
        self.model.check(now, None, &expected, (bytes, action, &output), &[])?;
        self.verify(now, false)?;
        Ok(self.sent(action, None, output))
    }

    pub(super) fn peer_error(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
    ) -> Result<Sent, String> {
        let Some(worker) = self.worker_of(relay) else { return Ok(Sent::Nothing) };
        self.report.steps += 1;
        let expected = self.model.from_peer_error(now, relay, peer, icmp);
        let mut buffer = surrounded(&[]);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM);
        let action = self.server(worker).from_peer_error(now, relay, peer, icmp, &mut packet);
        let output = packet.bytes().to_vec();
        self.note(now, &format!("error about {peer} on {relay:?}: {icmp:?}"), action, &output);
        self.model.check(now, None, &expected, (&[], action, &output), &[])?;
        for feature in expected.features() {
            *self.report.features.entry(feature).or_default() += 1;
        }
        self.verify(now, false)?;
        Ok(self.sent(action, None, output))
    }

    /// `command` has been told to the model already.
    pub(super) fn command(&mut self, now: Time, command: &Command) -> Result<(), String> {
        self.report.steps += 1;
        let name = match command {
            Command::Keyring(_) => "another keyring".to_owned(),
            Command::Policy(_) => "another policy".to_owned(),
            other => format!("{other:?}"),
        };
        self.trace.record(format!("{} command: {name}", now.monotonic_ms), &[]);
        for worker in 0..self.servers.len() {
            self.server(worker).command(now, command.clone()).map_err(|e| e.to_string())?;
            self.take_outputs(now, worker, None, Due::default())?;
        }
        self.verify(now, false)
    }

    /// A client's connection to a worker is closed.
    pub(super) fn client_gone(
        &mut self,
        now: Time,
        worker: usize,
        five_tuple: FiveTuple,
    ) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} gone from {worker}: {five_tuple:?}", now.monotonic_ms), &[]);
        self.model.hear_at(worker);
        let mut due = Due::default();
        if !self.model.gone(&five_tuple, worker) {
            due.gone = Some((five_tuple, worker));
        }
        self.server(worker).command(now, Command::ClientGone(five_tuple)).map_err(|e| e.to_string())?;
        self.take_outputs(now, worker, Some(five_tuple), due)?;
        self.verify(now, false)?;
        let mut here = self.model.allocations().filter(|held| held.place == Place::At(worker));
        let left = here.find(|held| held.mobile.is_none() && held.is_at(&five_tuple));
        left.map_or(Ok(()), |left| Err(format!("its client is gone: {left:?}")))
    }

    pub(super) fn handle_timeout(&mut self, now: Time) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} timeout", now.monotonic_ms), &[]);
        for worker in 0..self.servers.len() {
            self.server(worker).handle_timeout(now);
            self.take_outputs(now, worker, None, Due::default())?;
            self.have_reported(now, worker)?;
        }
        self.model.swept(now);
        self.verify(now, true)
    }

    /// Everything has been closed.
    pub(super) fn check_empty(&self) -> Result<(), String> {
        let (open, timeout) = (self.sockets.all(), self.poll_timeout());
        if open.is_empty()
            && timeout.is_none()
            && self.ports.taken() == 0
            && self.quotas.held() == 0
            && self.servers.iter().all(|server| server.allocation_count() == 0)
            && self.inboxes.iter().all(VecDeque::is_empty)
            && self.servers.iter().all(|server| server.connection_count() == 0)
        {
            Ok(())
        } else {
            Err(format!("left at the end: sockets {open:?}, {} ports, timer {timeout:?}", self.ports.taken()))
        }
    }

    /// The worker that has a relay socket, if it is not under way.
    fn worker_of(&mut self, relay: RelayId) -> Option<usize> {
        let place = self.model.allocation(relay)?.place;
        let Place::At(worker) = place else { return None };
        self.model.hear_at(worker);
        Some(worker)
    }

    /// Takes what a worker has to tell, which is what is due, and closes sockets.
    pub(super) fn take_outputs(
        &mut self,
        now: Time,
        worker: usize,
        gone: Option<FiveTuple>,
        mut due: Due,
    ) -> Result<(), String> {
        self.model.hear_at(worker);
        while let Some(output) = self.server(worker).poll_output() {
            self.take(now, (worker, gone), output, &mut due)?;
        }
        let Due { tell, depart, reply, gone: _ } = due;
        if tell.is_some() || depart.is_some() || reply.is_some() {
            return Err(format!("nothing came of it: {tell:?}, {depart:?}, {reply:?}"));
        }
        Ok(())
    }

    /// An allocation is over.
    fn end(
        &mut self,
        now: Time,
        (client, relay, reason): (Client, RelayId, EndReason),
        gone: Option<FiveTuple>,
    ) -> Result<(), String> {
        let who = (client.five_tuple.transport, client.five_tuple.client);
        self.trace.record(format!("{} ended {who:?} {relay:?} {reason:?}", now.monotonic_ms), &[]);
        *self.report.ends.entry(reason.label()).or_default() += 1;
        self.model.ended(now, client, relay, reason, gone)?;
        if !self.sockets.close(relay) {
            return Err(format!("{relay:?} is not open"));
        }
        Ok(())
    }

    /// Compares what can be seen from outside.
    pub(super) fn verify(&mut self, now: Time, swept: bool) -> Result<(), String> {
        self.model.check_ends(now, swept)?;
        let connections = self.servers.iter().map(Server::connection_count).sum::<usize>();
        let links = (connections, self.model.links().count());
        if links.0 != links.1 {
            return Err(format!("connections with peers are {}, not {}", links.0, links.1));
        }
        let listening = self.model.allocations().filter(|held| held.tcp).flat_map(|held| &held.relays);
        if !listening.map(|relay| relay.id).eq(self.sockets.listening_in(self.model.relays())) {
            return Err("another kind of relay socket".to_owned());
        }
        for held in self.model.allocations() {
            let (Place::At(worker), [relay, ..]) = (held.place, &held.relays[..]) else { continue };
            let counted = self.servers.get(worker).and_then(|server| server.usage(relay.id));
            if counted != Some(held.usage()) {
                return Err(format!("the server has counted {counted:?} for {held:?}"));
            }
        }
        let under_way = self.travellers();
        for (worker, server) in self.servers.iter().enumerate() {
            let (has, wanted) = (server.allocation_count(), self.model.count_at(worker));
            if has != wanted || under_way != self.model.count_under_way() {
                return Err(format!(
                    "worker {worker} has {has} allocations, not {wanted}; {under_way} travel"
                ));
            }
        }
        let allocations = self.servers.iter().map(Server::allocation_count).sum::<usize>() + under_way;
        let (sockets, held) = (self.sockets.all().len(), self.quotas.held());
        let by_credentials = self.quotas.held_by_credentials();
        let counts = [allocations, self.ports.taken(), sockets, held, by_credentials];
        let (relays, reserved) = (self.model.relays().count(), self.model.reservations().count());
        let allocations = self.model.allocations().count();
        let held = allocations + reserved;
        let wanted = [allocations, relays + reserved, relays, held, held];
        if counts != wanted {
            return Err(format!("allocations, ports, sockets and quotas are {counts:?}, not {wanted:?}"));
        }
        let first = self.model.timeout();
        if self.poll_timeout() != first {
            return Err(format!("the timer is {:?}, not {first:?}", self.poll_timeout()));
        }
        Ok(())
    }

    fn take(
        &mut self,
        now: Time,
        (worker, gone): (usize, Option<FiveTuple>),
        output: Output,
        due: &mut Due,
    ) -> Result<(), String> {
        match output {
            Output::Ended { client, relay, port, reason } => {
                self.end(now, (client, relay, reason), gone)?;
                drop(port);
            }
            Output::Report(report) => {
                self.trace.record(format!("{} {report:?}", now.monotonic_ms), &[]);
                self.model.reported(&report)?;
            }
            Output::Message { client, reply, message } => self.tell(now, client, reply, message)?,
            Output::Disconnect { connection, reason } => {
                self.trace.record(format!("{} closed {connection:?} {reason:?}", now.monotonic_ms), &[]);
                *self.report.ends.entry(reason.label()).or_default() += 1;
                self.model.closed(now, connection, reason, gone)?;
            }
            Output::Tell { to, note } => {
                let to = usize::from(to.0);
                let gone = due.gone.take().map(|(client, at)| (to, About::Gone(client, at)));
                let (wanted, about) = due.tell.take().or(gone).unwrap_or((to, About::Other));
                if wanted != to || to == worker {
                    return Err(format!("a note to {to}, not {wanted}"));
                }
                let _ = self.post(now, to, Letter::Note { note, about });
            }
            Output::Depart { to, traveller } => {
                self.send_off(now, (worker, to), traveller, due.depart.take())?;
            }
            Output::Reply { client, reply, bytes } => {
                let Some((claim, expected)) = due.reply.take() else { return Err("a reply".to_owned()) };
                if client != claim.client {
                    return Err(format!("a late reply to {client:?}"));
                }
                let action = Action::Reply(reply);
                self.note(now, "late", action, &bytes);
                let input = (&claim.packet[..], action, &bytes[..]);
                self.model.check(now, Some(client), &expected, input, &[])?;
                expected.features().into_iter().for_each(|feature| self.count_feature(true, feature));
                self.told.push((client, bytes));
            }
        }
        Ok(())
    }

    /// A client is told something that is no answer to what was given just now.
    fn tell(
        &mut self,
        now: Time,
        client: Client,
        reply: Option<Reply>,
        message: Vec<u8>,
    ) -> Result<(), String> {
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
        let worker = usize::from(connection.worker().0);
        self.model.connected(now, connection, works);
        self.server(worker).connected(now, connection, if works { Ok(()) } else { Err(ConnectFailed) });
        self.take_outputs(now, worker, None, Due::default())?;
        self.verify(now, false)
    }

    /// A peer has connected to a relayed address.
    pub(super) fn accepted(&mut self, now: Time, relay: RelayId, peer: SocketAddr) -> Result<(), String> {
        let Some(worker) = self.worker_of(relay) else { return Ok(()) };
        self.report.steps += 1;
        let given = self.server(worker).accepted(now, relay, peer);
        self.trace.record(format!("{} {peer} connected to {relay:?}: {given:?}", now.monotonic_ms), &[]);
        self.model.accepted(now, (relay, peer), given.ok())?;
        self.take_outputs(now, worker, None, Due::default())?;
        self.verify(now, false)
    }

    /// A worker goes through its allocations, or through some of them, to report them.
    fn have_reported(&mut self, now: Time, worker: usize) -> Result<(), String> {
        if self.dice.permille(500) {
            self.server(worker).report(now, 2, false);
            return self.take_outputs(now, worker, None, Due::default());
        }
        // To the end, and once more from the beginning.
        for _ in 0..2 {
            if !self.server(worker).report(now, usize::MAX, true) {
                return Err("reports end before the table does".to_owned());
            }
            self.take_outputs(now, worker, None, Due::default())?;
        }
        self.model.check_reported(worker)
    }

    /// Bytes went through a connection with a peer.
    pub(super) fn transferred(
        &mut self,
        now: Time,
        (connection, relay): (ConnectionId, RelayId),
        (to_peer, to_client): (u64, u64),
    ) -> Result<(), String> {
        self.report.steps += 1;
        self.count_feature(true, "transferred");
        self.model.transferred(relay, to_peer, to_client);
        self.server(usize::from(connection.worker().0)).transferred(connection, to_peer, to_client);
        self.verify(now, false)
    }

    /// A connection with a peer was closed from outside.
    pub(super) fn disconnected(&mut self, now: Time, connection: ConnectionId) -> Result<(), String> {
        self.report.steps += 1;
        self.trace.record(format!("{} disconnected {connection:?}", now.monotonic_ms), &[]);
        let worker = usize::from(connection.worker().0);
        self.model.disconnected(connection);
        self.server(worker).disconnected(connection);
        self.take_outputs(now, worker, None, Due::default())?;
        self.verify(now, false)
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
