//! One worker: a loop around one TURN server, waiting on epoll only.

mod crowd;
mod dtls;
mod framed;
mod moves;
mod tcp;
mod token;
mod usage;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use stun::Kind;
use stun::framing;
use turn::{Action, Client, FiveTuple, MAX_REPLY, Output, RelayId, Reply, Server, Time, Transport, WorkerId};

use crate::batch::{Batch, Depth, Place, SLOTS};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::dtls::{Gate, Sessions};
use crate::link::Frames;
use crate::mailbox::{Colleagues, Inbox, Letter};
use crate::reports::Outbox;
use crate::splice::{Side, Splices};
use crate::stream::{Connections, StreamListener};
use crate::sys::{Epoll, Event, Interest, Taken, take_error};
use crate::tls::Records;
use crate::udp::{Opener, Relays, UdpListener, send_whole};

pub(crate) use moves::Move;
pub(crate) use token::Token;

use crowd::Crowd;
use framed::{HANDSHAKES_PER_ROUND, Run, write_frames};
use tcp::Passage;
use usage::Reporting;

/// Room for the longest frame, begun in an earlier read, and as much again.
const STREAM_BUFFER: usize = 2 * (framing::MAX_FRAME + 1);

/// How long a listener is left alone when nothing can be accepted, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// ICMP errors taken from a relay socket before its worker looks at other sockets again.
const ERRORS_PER_ROUND: usize = 64;

/// The listeners of one worker.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) udp: Vec<UdpListener>,
    pub(crate) tcp: Vec<StreamListener>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    server: Server,
    sockets: Sockets,
    relays: Relays,
    connections: Connections,
    splices: Splices,
    gate: Gate,
    sessions: Sessions,
    /// The session that is polled at this moment.
    driven: Option<usize>,
    /// Sessions that sending has shown to be over.
    broken_sessions: Vec<usize>,
    /// Connections that a write has shown to be dead.
    broken: Vec<usize>,
    /// TCP listeners, of clients or relayed addresses, left alone until a moment, in its order.
    paused: Vec<(u64, Token)>,
    batch: Batch,
    /// Of relay sockets.
    depth: Depth,
    stream_buffer: Box<[u8]>,
    records: Records,
    run: Run,
    /// Steps of handshakes that may still be taken in this round.
    handshakes_left: u32,
    epoll: Epoll,
    clock: Clock,
    inbox: Inbox,
    colleagues: Colleagues,
    /// Packets for other workers, which follow the allocations that they are for.
    passing: Vec<(WorkerId, Letter)>,
    counters: Arc<Counters>,
    outbox: Arc<Outbox>,
    reporting: Reporting,
    crowd: Crowd,
    stopping: bool,
}

impl Worker {
    pub(crate) fn new(
        server: Server,
        sockets: Sockets,
        (connections, sessions): (Connections, Sessions),
        clock: Clock,
        (inbox, colleagues): (Inbox, Colleagues),
        (counters, outbox): (Arc<Counters>, Arc<Outbox>),
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&*inbox.wake, Token::Wake.pack(), Interest::Read)?;
        Ok(Self {
            server,
            sockets,
            relays: Relays::default(),
            splices: Splices::new(connections.limits),
            connections,
            gate: Gate::new()?,
            sessions,
            driven: None,
            broken_sessions: Vec::new(),
            broken: Vec::new(),
            paused: Vec::new(),
            batch: Batch::new(),
            depth: Depth::default(),
            stream_buffer: vec![0; STREAM_BUFFER].into(),
            records: Records::new(),
            run: Run::new(),
            handshakes_left: HANDSHAKES_PER_ROUND,
            epoll,
            clock,
            inbox,
            colleagues,
            passing: Vec::new(),
            counters,
            outbox,
            reporting: Reporting::default(),
            crowd: Crowd::default(),
            stopping: false,
        })
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        while !self.stopping {
            self.epoll.wait(&mut events, self.timeout_ms())?;
            let now = self.clock.now();
            self.sessions.now_ms = now.monotonic_ms;
            if !events.is_empty() || self.splices.len() > 0 {
                self.reporting.stir();
            }
            for event in &events {
                self.ready(now, *event)?;
            }
            self.resume_pairs(now);
            self.tend_sessions(now);
            self.resume_handshakes(now);
            self.flush();
            self.server.handle_timeout(now);
            self.report(now);
            self.close_connections(now);
            self.close_pairs(now);
            self.take_outputs(now);
            self.give_back();
            self.pass_on();
            self.resume_accepting(now)?;
        }
        self.end_all();
        self.end_sessions(self.clock.now());
        Ok(())
    }

    /// Looks at the listeners from now on.
    fn admit(&mut self) -> io::Result<()> {
        for (listener, index) in self.sockets.udp.iter().zip(0..) {
            self.epoll.add(listener, Token::Udp(index).pack(), Interest::Read)?;
        }
        for (listener, index) in self.sockets.tcp.iter().zip(0..) {
            self.epoll.add(&listener.socket, Token::Tcp(index).pack(), Interest::Read)?;
        }
        Ok(())
    }

    /// Looks again at listeners that were left alone because nothing could be accepted.
    fn resume_accepting(&mut self, now: Time) -> io::Result<()> {
        while let Some((at, token)) = self.paused.first().copied()
            && at <= now.monotonic_ms
        {
            self.paused.remove(0);
            match token {
                Token::Tcp(index) => {
                    if let Some(listener) = self.sockets.tcp.get(index as usize) {
                        self.epoll.add(&listener.socket, token.pack(), Interest::Read)?;
                    }
                }
                Token::RelayListener(relay) => {
                    // Another one may have its number by now; that one is looked at already.
                    let _ =
                        self.relays.socket(relay).map(|s| self.epoll.add(s, token.pack(), Interest::Read));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Milliseconds until something is due.
    fn timeout_ms(&self) -> Option<u64> {
        if self.connections.has_line() {
            return Some(0);
        }
        let resume = self.paused.first().map(|(at, _)| *at);
        let checks = [self.connections.next_check(), self.splices.next_check(), self.sessions.next_due()];
        let due = [self.server.poll_timeout(), self.reports_due(), resume].into_iter().chain(checks);
        let due = due.flatten().min()?;
        Some(due.saturating_sub(self.clock.now().monotonic_ms))
    }

    fn ready(&mut self, now: Time, event: Event) -> io::Result<()> {
        match Token::unpack(event.token) {
            Token::Wake => self.read_inbox(now)?,
            Token::Udp(index) => self.read_listener(now, index),
            Token::Relay(relay) => {
                if event.failed {
                    self.read_errors(now, relay);
                }
                self.read_relay(now, relay);
            }
            Token::Tcp(index) => {
                if let Some(listener) = self.sockets.tcp.get(index as usize) {
                    let accepted = self.connections.accept(listener, &self.epoll, now.monotonic_ms);
                    self.counters.connections_refused.add(accepted.refused as u64);
                    self.counters.connections.set(self.connections.len() as u64);
                    if accepted.is_starved && self.epoll.remove(&listener.socket).is_ok() {
                        self.paused.push((now.monotonic_ms + ACCEPT_PAUSE_MS, Token::Tcp(index)));
                    }
                }
            }
            // It waits for nothing but its turn, and is gone.
            Token::Connection(index) if event.hung && self.connections.is_in_line(index as usize) => {
                self.broken.push(index as usize);
            }
            Token::Connection(index) => {
                if event.writable {
                    self.flush_connection(index as usize);
                }
                self.read_connection(now, index as usize);
            }
            Token::RelayListener(relay) => self.accept_peers(now, relay),
            Token::Peer(index) => self.serve_pair(now, index, Side::Peer, event),
            Token::Data(index) => self.serve_pair(now, index, Side::Client, event),
        }
        Ok(())
    }

    fn read_listener(&mut self, now: Time, index: u32) {
        if self.batch.is_full() {
            self.flush();
        }
        let Some(listener) = self.sockets.udp.get(index as usize) else { return };
        let (address, takes) = (listener.address, listener.takes);
        // An error is one of an earlier datagram; what else is wrong shows when nothing arrives.
        let _ = self.batch.receive(listener, SLOTS);
        let mut next = 0;
        while let Some((slot, received)) = self.batch.received(next) {
            next += 1;
            let server = received.destination.map_or(address, |ip| SocketAddr::new(ip, address.port()));
            let five_tuple = FiveTuple { transport: Transport::Udp, client: received.from, server };
            let client = Client { five_tuple, via: index };
            for place in Batch::packets(slot, &received) {
                self.make_room();
                match Kind::of(self.batch.peek(place)) {
                    Kind::Tls if takes.secured => self.read_dtls(now, client, place),
                    _ if !takes.plain => self.counters.drop_at_the_gate(),
                    kind => {
                        // ChannelData only shrinks; a request's answer may need more room than a train leaves it.
                        let is_data = kind == Kind::ChannelData;
                        let place = if is_data { place } else { self.batch.with_room(place, MAX_REPLY) };
                        self.handle_client_packet(now, client, place);
                    }
                }
            }
        }
    }

    fn read_relay(&mut self, now: Time, relay: RelayId) {
        if self.batch.is_full() {
            self.flush();
        }
        let Some(socket) = self.relays.socket(relay) else { return };
        if let Ok(count) = self.batch.receive(socket, self.depth.most()) {
            self.depth.found(count);
        }
        let mut next = 0;
        while let Some((slot, received)) = self.batch.received(next) {
            next += 1;
            for place in Batch::packets(slot, &received) {
                self.make_room();
                let place = self.batch.with_room(place, 0);
                self.handle_peer_packet(now, relay, received.from, place);
            }
        }
    }

    /// Tells the client what the network said of its datagrams.
    fn read_errors(&mut self, now: Time, relay: RelayId) {
        for _ in 0..ERRORS_PER_ROUND {
            let Some(socket) = self.relays.socket(relay) else { return };
            let (peer, icmp) = match take_error(socket) {
                Ok(Taken::Icmp(peer, icmp)) => (peer, icmp),
                Ok(Taken::Other) => continue,
                Ok(Taken::Nothing) | Err(_) => return,
            };
            if self.batch.is_full() {
                self.flush();
            }
            self.make_room();
            let Some(place) = self.batch.put(&[]) else { return };
            let (mut packet, base) = self.batch.packet(place);
            let action = self.server.from_peer_error(now, relay, peer, icmp, &mut packet);
            let range = packet.range();
            self.act(action, None, base + range.start..base + range.end);
        }
    }

    /// Handles a packet; what becomes of the connection that it came on, where that does not stay what it was.
    fn handle_client_packet(&mut self, now: Time, client: Client, place: Place) -> Option<Passage> {
        let (mut packet, base) = self.batch.packet(place);
        let mut opener = Opener { relays: &mut self.relays, epoll: &self.epoll };
        let action = self.server.from_client(now, client, &mut packet, &mut opener);
        let range = packet.range();
        self.act_for_client(now, client, (action, place), base + range.start..base + range.end)
    }

    fn act_for_client(
        &mut self,
        now: Time,
        client: Client,
        (action, place): (Action, Place),
        range: Range<usize>,
    ) -> Option<Passage> {
        match action {
            Action::ToRelay { relay, from } => {
                self.counters.to_peer(client.five_tuple.transport, range.len() as u64);
                let place = self.batch.with_room(place.narrowed(&range), 0);
                self.handle_peer_packet(now, relay, from, place);
                None
            }
            Action::Connect { connection, relay, peer } => {
                self.connect_to_peer(now, connection, relay, peer);
                None
            }
            Action::Bind(connection) => {
                self.counters.successes.add(1);
                Some(Passage::Bind(connection, range))
            }
            Action::HandOver(worker) => Some(Passage::HandOver(worker)),
            action => {
                self.act(action, Some(client), range);
                None
            }
        }
    }

    fn handle_peer_packet(&mut self, now: Time, relay: RelayId, from: SocketAddr, place: Place) {
        let (mut packet, base) = self.batch.packet(place);
        let action = self.server.from_peer(now, relay, from, &mut packet);
        let range = packet.range();
        self.act(action, None, base + range.start..base + range.end);
    }

    fn act(&mut self, action: Action, from: Option<Client>, range: Range<usize>) {
        let bytes = range.len() as u64;
        match (action, from) {
            (Action::Reply(reply), Some(client)) | (Action::ReplyElsewhere(reply, client), _) => {
                self.count(reply);
                self.send_to_client(&client, range);
            }
            (Action::Pass(worker), Some(client)) => self.pass(worker, client, range, false),
            (Action::ToPeer { relay, peer, dont_fragment }, Some(client)) => {
                if let Some(socket) = self.relays.socket(relay) {
                    self.counters.to_peer(client.five_tuple.transport, bytes);
                    if dont_fragment {
                        // Behind what was queued before it.
                        let failed = self.batch.send_queued();
                        self.counters.send_failures.add(failed as u64);
                        let sent = send_whole(socket, self.batch.bytes(range), peer);
                        self.counters.send_failures.add(u64::from(sent.is_err()));
                    } else {
                        let socket = std::os::fd::AsRawFd::as_raw_fd(socket);
                        self.batch.send(socket, range, peer, None);
                    }
                }
            }
            (Action::ToClient(client), _) => {
                self.counters.to_client(client.five_tuple.transport, bytes);
                self.send_to_client(&client, range);
            }
            (Action::Drop(reason), _) => {
                tracing::trace!(?reason, "dropped");
                self.counters.drop_for(reason);
            }
            // The others are what a client sent, and are seen to before it comes here.
            (
                Action::Later
                | Action::ToRelay { .. }
                | Action::Connect { .. }
                | Action::Bind(_)
                | Action::HandOver(_),
                _,
            )
            | (Action::Reply(_) | Action::Pass(_) | Action::ToPeer { .. }, None) => {}
        }
    }

    fn count(&self, reply: Reply) {
        match reply {
            Reply::Success(_) => self.counters.successes.add(1),
            Reply::Refused(refusal) => {
                self.counters.refusals.add(1);
                self.counters.refused.add(refusal.index());
            }
        }
    }

    fn send_to_client(&mut self, client: &Client, range: Range<usize>) {
        match client.five_tuple.transport {
            Transport::Udp => {
                let Some(listener) = self.sockets.udp.get(client.via as usize) else { return };
                let source = listener.is_wildcard.then(|| client.five_tuple.server.ip());
                self.batch.send(listener.raw_fd(), range, client.five_tuple.client, source);
            }
            Transport::Dtls => self.send_in_record(client, range),
            Transport::Tcp | Transport::Tls => self.send_in_run(client, range),
        }
    }

    /// Sends what is queued when there may be no room for what one more packet brings.
    fn make_room(&mut self) {
        if self.batch.is_crowded() {
            let failed = self.batch.send_queued();
            self.counters.send_failures.add(failed as u64);
        }
    }

    fn flush(&mut self) {
        // Before the answers leave: whoever has one finds its effect counted.
        self.counters.allocations.set(self.server.allocation_count() as u64);
        self.end_run();
        let failed = self.batch.flush();
        self.counters.send_failures.add(failed as u64);
    }

    /// Does what the server wants done: after the flush, for packets to send may refer to sockets that it closes.
    fn take_outputs(&mut self, now: Time) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Ended { client, relay, port, reason } => {
                    if let Some(socket) = self.relays.close(relay) {
                        self.batch.forget(socket);
                    }
                    drop(port);
                    self.counters.ended.add(reason.index());
                    tracing::debug!(?reason, transport = ?client.five_tuple.transport, "allocation ended");
                }
                Output::Report(report) => self.put_out(report),
                Output::Tell { to, note } => self.tell(to, note),
                Output::Depart { to, traveller } => self.depart(now, to, traveller),
                Output::Reply { client, reply, bytes } => {
                    self.reply_late(&client, reply, &bytes);
                    self.flush();
                }
                Output::Message { client, reply, message } => {
                    if let Some(reply) = reply {
                        self.count(reply);
                    }
                    let Self { server, connections, records, epoll, broken, counters, .. } = self;
                    let frames = Frames::one(&message);
                    write_frames(&client, frames, (server, connections, epoll), records, broken, counters);
                }
                Output::Disconnect { connection, reason } => {
                    self.splices.close(connection);
                    tracing::debug!(?reason, "a peer's connection ended");
                }
            }
        }
        self.sweep_pairs();
        self.counters.allocations.set(self.server.allocation_count() as u64);
    }
}
