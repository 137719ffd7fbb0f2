//! What a worker does for TCP allocations: peers' connections, data connections, and those that belong to another
//! worker. RFC 6062.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use turn::{ConnectFailed, ConnectionId, FiveTuple, RelayId, Time, Transport, WorkerId};

use super::{ACCEPT_PAUSE_MS, Token, Worker};
use crate::link::{Frames, Link};
use crate::mailbox::Letter;
use crate::splice::{Moved, Progress, Room, Side};
use crate::sys::Event;
use crate::tls::MAX_RECORD;

/// Connections taken from a relay socket before its worker looks at other sockets again.
const ACCEPTS_PER_ROUND: usize = 16;

/// What becomes of a client's connection after a request.
#[derive(Debug)]
pub(super) enum Passage {
    /// It gets the answer, which lies there, and carries data from then on.
    Bind(ConnectionId, Range<usize>),
    HandOver(WorkerId),
}

/// What became of a client's connection that was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    GoesOn,
    Broken,
    /// TLS has begun, and has to go on.
    Secured,
    /// It is no longer among the connections.
    Gone,
    /// The same: it is one side of this pair.
    Bound(usize),
}

impl Worker {
    /// Begins to connect to a peer.
    pub(super) fn connect_to_peer(
        &mut self,
        now: Time,
        connection: ConnectionId,
        relay: RelayId,
        peer: SocketAddr,
    ) {
        let local = self
            .relays
            .socket(relay)
            .map_or(Err(io::ErrorKind::NotFound.into()), socket2::Socket::local_addr);
        let begun = local.and_then(|local| self.splices.connect(connection, &local, peer, &self.epoll));
        if let Err(error) = begun {
            tracing::debug!(%error, "cannot connect to a peer");
            self.server.connected(now, connection, Err(ConnectFailed));
        }
    }

    /// Accepts what peers have connected to a relayed address; those without a permission are closed at once.
    pub(super) fn accept_peers(&mut self, now: Time, relay: RelayId) {
        for _ in 0..ACCEPTS_PER_ROUND {
            let Some(socket) = self.relays.socket(relay) else { return };
            let accepted = socket.accept().and_then(|(stream, from)| {
                stream.set_nonblocking(true)?;
                stream.set_tcp_nodelay(true)?;
                let from = from.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok((TcpStream::from(stream), from))
            });
            match accepted {
                Ok((stream, from)) => self.hold_peer(now, relay, stream, from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a peer's connection");
                    if self.epoll.remove(socket).is_ok() {
                        let at = now.monotonic_ms + ACCEPT_PAUSE_MS;
                        self.paused.push((at, Token::RelayListener(relay)));
                    }
                    return;
                }
            }
        }
    }

    fn hold_peer(&mut self, now: Time, relay: RelayId, stream: TcpStream, from: SocketAddr) {
        match self.server.accepted(now, relay, from) {
            Ok(connection) => {
                if self.splices.hold(connection, stream).is_err() {
                    self.server.disconnected(connection);
                }
            }
            Err(reason) => {
                tracing::trace!(?reason, "a peer's connection is closed");
                self.counters.connections_refused.add(1);
            }
        }
    }

    /// Does what a peer's or a data connection's event allows.
    pub(super) fn serve_pair(&mut self, now: Time, index: u32, side: Side, event: Event) {
        let mut buffer = mem::take(&mut self.stream_buffer);
        self.move_data(now, index as usize, Some((side, event)), &mut buffer);
        self.stream_buffer = buffer;
    }

    pub(super) fn move_data(
        &mut self,
        now: Time,
        index: usize,
        event: Option<(Side, Event)>,
        buffer: &mut [u8],
    ) {
        let Some(buffer) = buffer.get_mut(..MAX_RECORD) else { return };
        let Self { splices, server, epoll, records, .. } = self;
        let mut room = Room { buffer, records, now_ms: now.monotonic_ms };
        let mut pass = |connection, direction, bytes| server.relayed(now, connection, direction, bytes);
        match splices.ready(index, event, epoll, &mut room, &mut pass) {
            Progress::Connected(connection, result) => self.server.connected(now, connection, result),
            Progress::Nothing => {}
            Progress::Moved(connection, moved) => self.count_moved(connection, moved),
            Progress::Over(connection, moved) => {
                self.count_moved(connection, moved);
                self.server.disconnected(connection);
            }
        }
    }

    /// Lets data connections go on that were held until now because a rate was used up.
    pub(super) fn resume_pairs(&mut self, now: Time) {
        let mut buffer = mem::take(&mut self.stream_buffer);
        // Whatever is held again is so for a millisecond at least.
        while let Some(index) = self.splices.resumed(now.monotonic_ms) {
            self.move_data(now, index, None, &mut buffer);
        }
        self.stream_buffer = buffer;
    }

    fn count_moved(&mut self, connection: ConnectionId, moved: Moved) {
        self.server.transferred(connection, moved.to_peer, moved.to_client);
        self.counters.spliced(Transport::Tcp, moved.to_peer, moved.to_client);
    }

    /// Takes a client's connection away from the framed ones. `bytes`: the request, which is `request` long, and what
    /// was read behind it.
    pub(super) fn hand_on(
        &mut self,
        now: Time,
        id: usize,
        passage: Passage,
        bytes: &[u8],
        request: usize,
    ) -> Read {
        self.end_run();
        // Its number may soon be another's.
        self.broken.retain(|broken| *broken != id);
        match passage {
            Passage::Bind(connection, response) => {
                let limit = self.connections.limits.outbound_bytes;
                let response = Frames::one(self.batch.bytes(response));
                let written = self
                    .connections
                    .entry(id)
                    .map(|connection| connection.write(response, limit, &mut self.records));
                let written = written.is_some_and(|written| written.is_ok());
                let Some((_, link)) = self.connections.detach(id) else { return Read::Gone };
                let data = bytes.get(request..).unwrap_or_default();
                let bound = if written {
                    self.splices.bind(connection, link, data, &self.epoll, now.monotonic_ms)
                } else {
                    Err(io::ErrorKind::BrokenPipe.into())
                };
                match bound {
                    Ok(index) => Read::Bound(index),
                    Err(error) => {
                        tracing::debug!(%error, "a data connection is lost");
                        self.splices.close(connection);
                        self.server.disconnected(connection);
                        Read::Gone
                    }
                }
            }
            Passage::HandOver(worker) => {
                let Some((client, link)) = self.connections.detach(id) else { return Read::Gone };
                // Whoever does not read answers does not get another worker's time.
                let passed = !link.is_waiting() && self.epoll.remove(&link).is_ok();
                let letter = Letter::Connection { link: Box::new(link), client, bytes: bytes.to_vec() };
                if !passed || self.colleagues.post(worker, letter).is_err() {
                    self.counters.connections_refused.add(1);
                }
                Read::Gone
            }
        }
    }

    /// Takes over what another worker accepted.
    pub(super) fn adopt(&mut self, now: Time, link: Link, client: FiveTuple, bytes: &[u8]) {
        match self.connections.adopt(link, client, &self.epoll, now.monotonic_ms) {
            Some(id) => {
                let read = self.handle_frames(now, id, bytes);
                let mut buffer = mem::take(&mut self.stream_buffer);
                self.settle_read(now, id, read, &mut buffer);
                self.stream_buffer = buffer;
            }
            None => self.counters.connections_refused.add(1),
        }
    }

    pub(super) fn settle_read(&mut self, now: Time, id: usize, read: Read, buffer: &mut [u8]) {
        match read {
            Read::GoesOn | Read::Secured | Read::Gone => {}
            Read::Broken => self.broken.push(id),
            Read::Bound(index) => self.move_data(now, index, None, buffer),
        }
    }

    /// Closes pairs whose deadline has passed, and forgets those that are closed.
    pub(super) fn close_pairs(&mut self, now: Time) {
        while let Some(connection) = self.splices.overdue(now.monotonic_ms) {
            self.counters.connections_refused.add(1);
            self.splices.close(connection);
            self.server.disconnected(connection);
        }
    }

    /// After the outputs are taken: forgets what is closed.
    pub(super) fn sweep_pairs(&mut self) {
        self.splices.sweep();
        self.counters.peer_connections.set(self.splices.len() as u64);
        self.counters.rate_holds.set(self.splices.hold_count());
    }
}
