//! What a worker does for clients on streams: their bytes are cut into frames, and frames are written to them.

use std::mem;

use stun::framing::{self, Frame};
use turn::{Client, Command, Server, Time};

use super::Worker;
use super::tcp::Read;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::link::Written;
use crate::stream::{Connections, Front, Refused};
use crate::sys::{Epoll, Interest};
use crate::tls::Records;

/// Steps of handshakes that a worker takes before it looks at other sockets again: a millisecond or two of signing.
pub(super) const HANDSHAKES_PER_ROUND: u32 = 4;

impl Worker {
    pub(super) fn flush_connection(&mut self, id: usize) {
        let Some(connection) = self.connections.entry(id) else { return };
        let token = Connections::token(&connection.client).pack();
        match connection.link.flush() {
            Ok(false) => {}
            Ok(true) if self.epoll.modify(connection, token, Interest::Read).is_ok() => {}
            Ok(true) | Err(_) => self.broken.push(id),
        }
    }

    /// Reads from a connection, or has it wait: handshakes are work, and established traffic goes on beside them.
    pub(super) fn read_connection(&mut self, now: Time, id: usize) {
        let is_shaking = self.connections.is_shaking_hands(id);
        if is_shaking && (self.handshakes_left == 0 || self.connections.has_line()) {
            if self.connections.line_up(id, &self.epoll).is_err() {
                self.broken.push(id);
            }
            return;
        }
        self.read_now(now, id);
    }

    /// Takes the next step of handshakes that wait for their turn.
    pub(super) fn resume_handshakes(&mut self, now: Time) {
        while self.handshakes_left > 0
            && let Some(id) = self.connections.next_in_line(&self.epoll)
        {
            self.read_now(now, id);
        }
        self.handshakes_left = HANDSHAKES_PER_ROUND;
    }

    fn read_now(&mut self, now: Time, id: usize) {
        let mut buffer = mem::take(&mut self.stream_buffer);
        let Self { server, connections, records, epoll, .. } = self;
        let mut was_shaking = false;
        let read = connections.entry(id).map(|connection| {
            was_shaking = connection.link.is_shaking_hands();
            let is_stranger = !server.has_allocation(&connection.client.five_tuple);
            let read = connection.read(&mut buffer, is_stranger, records, now.monotonic_ms);
            if connection.link.is_secured() && connection.link.is_waiting() {
                let token = Connections::token(&connection.client).pack();
                epoll.modify(connection, token, Interest::ReadWrite)?;
            }
            read
        });
        self.handshakes_left -= u32::from(was_shaking);
        let read = match read {
            None => Read::Gone,
            Some(Ok(Some(length))) => self.handle_frames(now, id, buffer.get(..length).unwrap_or_default()),
            Some(Ok(None) | Err(_)) => Read::Broken,
        };
        let limit = self.connections.limits.outbound_bytes;
        let is_over = |connection: &mut Connection| {
            // Who asks and asks but does not read the answers of TLS itself has no other bound.
            connection.link.is_ended() || (connection.link.is_secured() && connection.link.waiting() > limit)
        };
        let read = match read {
            Read::GoesOn if self.connections.entry(id).is_some_and(is_over) => Read::Broken,
            read => read,
        };
        self.settle_read(now, id, read, &mut buffer);
        self.stream_buffer = buffer;
        if read == Read::Secured {
            self.read_connection(now, id);
        }
    }

    /// Handles every whole frame of what was read, and keeps the rest.
    pub(super) fn handle_frames(&mut self, now: Time, id: usize, mut rest: &[u8]) -> Read {
        match self.connections.read_front(id, rest, now.monotonic_ms) {
            Ok(Front::Frames(behind)) => rest = behind,
            Ok(Front::Incomplete) => return Read::GoesOn,
            Ok(Front::Tls(hello)) if self.connections.secure(id, hello, now.monotonic_ms).is_ok() => {
                return Read::Secured;
            }
            Ok(Front::Tls(_)) | Err(Refused) => {
                self.counters.connections_refused.add(1);
                return Read::Broken;
            }
        }
        let Some(client) = self.connections.entry(id).map(|connection| connection.client) else {
            return Read::Gone;
        };
        let mut completed = false;
        loop {
            match framing::next(rest) {
                Ok(Frame::Complete { length }) => {
                    let Some((frame, behind)) = rest.split_at_checked(length) else { return Read::Broken };
                    completed = true;
                    if self.batch.is_full() {
                        self.flush();
                    }
                    let Some(place) = self.batch.put(frame) else { return Read::Broken };
                    if let Some(connection) = self.connections.entry(id) {
                        connection.heard_ms = now.monotonic_ms;
                    }
                    if let Some(passage) = self.handle_client_packet(now, client, place) {
                        return self.hand_on(now, id, passage, rest, length);
                    }
                    rest = behind;
                }
                Ok(Frame::Incomplete { needed }) => {
                    let bounded = needed <= self.connections.limits.unallocated_frame_bytes;
                    if !bounded && !self.server.has_allocation(&client.five_tuple) {
                        return Read::Broken;
                    }
                    if let Some(connection) = self.connections.entry(id) {
                        connection.keep(rest, completed, now.monotonic_ms);
                    }
                    return Read::GoesOn;
                }
                Err(framing::NotAFrame) => return Read::Broken,
            }
        }
    }

    pub(super) fn close_connections(&mut self, now: Time) {
        let server = &self.server;
        while let Some(id) =
            self.connections.overdue(now.monotonic_ms, |five_tuple| server.has_allocation(five_tuple))
        {
            self.counters.connections_refused.add(1);
            self.broken.push(id);
        }
        while let Some(id) = self.broken.pop() {
            if let Some(five_tuple) = self.connections.close(id) {
                // It cannot fail: only a denial can.
                let _ = self.server.command(now, Command::ClientGone(five_tuple));
            }
        }
        self.counters.connections.set(self.connections.len() as u64);
    }
}

/// Sends a whole frame to a client on a stream, or queues it, or loses it.
pub(super) fn write_frame(
    client: &Client,
    frame: &[u8],
    (server, connections, epoll): (&Server, &mut Connections, &Epoll),
    records: &mut Records,
    broken: &mut Vec<usize>,
    counters: &Counters,
) {
    let limit = connections.limits.outbound_bytes;
    let Some((id, connection)) = connections.of_client(client) else { return };
    match connection.write(frame, limit, records) {
        Ok(Written::Sent) => {}
        // A stranger who does not read is not worth a buffer.
        Ok(Written::Waits | Written::Dropped) if !server.has_allocation(&client.five_tuple) => {
            broken.push(id);
        }
        Ok(Written::Waits) => {
            let token = Connections::token(client).pack();
            if epoll.modify(connection, token, Interest::ReadWrite).is_err() {
                broken.push(id);
            }
        }
        Ok(Written::Dropped) => counters.send_failures.add(1),
        Err(_) => broken.push(id),
    }
}
