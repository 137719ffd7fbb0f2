//! What a worker does for clients on streams: their bytes are cut into frames, and frames are written to them.

use std::mem;

use stun::framing::{self, Frame};
use turn::{Client, Command, Server, Time};

use super::tcp::Read;
use super::{STREAM_BUFFER, Worker};
use crate::connection::Written;
use crate::counters::Counters;
use crate::splice::CHUNK;
use crate::stream::{Connections, Refused};
use crate::sys::{Epoll, Interest};

impl Worker {
    pub(super) fn flush_connection(&mut self, id: usize) {
        let Some(connection) = self.connections.entry(id) else { return };
        let token = Connections::token(&connection.client).pack();
        match connection.flush() {
            Ok(false) => {}
            Ok(true) if self.epoll.modify(connection, token, Interest::Read).is_ok() => {}
            Ok(true) | Err(_) => self.broken.push(id),
        }
    }

    pub(super) fn read_connection(&mut self, now: Time, id: usize) {
        let mut buffer = mem::take(&mut self.stream_buffer);
        let server = &self.server;
        let read = self.connections.entry(id).map(|connection| {
            // What comes behind a ConnectionBind may have to wait for the peer: no more of it than of other data.
            let is_stranger = !server.has_allocation(&connection.client.five_tuple);
            let most = if is_stranger { CHUNK } else { STREAM_BUFFER };
            connection.read(buffer.get_mut(..most).unwrap_or_default())
        });
        let read = match read {
            None => Read::Gone,
            Some(Ok(Some(length))) => self.handle_frames(now, id, buffer.get(..length).unwrap_or_default()),
            Some(Ok(None) | Err(_)) => Read::Broken,
        };
        self.settle_read(now, id, read, &mut buffer);
        self.stream_buffer = buffer;
    }

    /// Handles every whole frame of what was read, and keeps the rest.
    pub(super) fn handle_frames(&mut self, now: Time, id: usize, mut rest: &[u8]) -> Read {
        match self.connections.read_front(id, rest, now.monotonic_ms) {
            Ok(Some(behind)) => rest = behind,
            // The rest of a proxy's header has to come first.
            Ok(None) => return Read::GoesOn,
            Err(Refused) => {
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
    broken: &mut Vec<usize>,
    counters: &Counters,
) {
    let limit = connections.limits.outbound_bytes;
    let Some((id, connection)) = connections.of_client(client) else { return };
    match connection.write(frame, limit) {
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
