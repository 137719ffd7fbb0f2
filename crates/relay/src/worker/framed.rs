//! What a worker does for clients on streams: their bytes are cut into frames, and frames are written to them.

use std::mem;
use std::ops::Range;

use stun::Kind;
use stun::framing::{self, Frame};
use turn::{Client, Command, MAX_REPLY, Server, Time};

use super::Worker;
use super::tcp::Read;
use crate::batch::Place;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::link::{Frames, Written};
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
        // What of `rest` lies in a slot.
        let mut placed = Place::default();
        loop {
            match framing::next(rest) {
                Ok(Frame::Complete { length }) => {
                    let Some((_, behind)) = rest.split_at_checked(length) else { return Read::Broken };
                    completed = true;
                    let Some((place, after)) = self.place_frame(placed, rest, length) else {
                        return Read::Broken;
                    };
                    placed = after;
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

    /// Where the first frame of what was read, which is `length` long, lies in the buffers, and what lies behind it. As
    /// much as a slot holds is put there at once, and the frames are where they are, as the packets of a train.
    fn place_frame(&mut self, placed: Place, read: &[u8], length: usize) -> Option<(Place, Place)> {
        let whole = if placed.len() >= length {
            self.make_room();
            placed
        } else {
            if self.batch.is_full() {
                self.flush();
            }
            self.make_room();
            self.batch.put(read)?
        };
        let (place, behind) = whole.split(length)?;
        // ChannelData only shrinks; a request's answer may need more room than the frames behind leave it.
        let is_data = Kind::of(self.batch.peek(place)) == Kind::ChannelData;
        Some((if is_data { place } else { self.batch.with_room(place, MAX_REPLY) }, behind))
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

/// Most frames, and bytes of them, that are written together.
const MAX_RUN: usize = 64;
const MAX_RUN_BYTES: usize = 1 << 16;

/// Frames for one client on a stream that came one after the other: they are written in one call.
#[derive(Debug)]
pub(super) struct Run {
    /// Whose they are, unless there are none.
    client: Option<Client>,
    bytes: Vec<u8>,
    /// Where the frames that others follow end.
    cuts: Vec<usize>,
}

impl Run {
    pub(super) fn new() -> Self {
        Self { client: None, bytes: Vec::with_capacity(MAX_RUN_BYTES), cuts: Vec::with_capacity(MAX_RUN) }
    }

    fn takes(&self, client: &Client, length: usize) -> bool {
        let has_room = self.cuts.len() + 1 < MAX_RUN && self.bytes.len() + length <= MAX_RUN_BYTES;
        has_room && self.client.as_ref() == Some(client)
    }
}

impl Worker {
    /// Sends a frame to a client on a stream, together with what follows for the same one.
    pub(super) fn send_in_run(&mut self, client: &Client, range: Range<usize>) {
        if !self.run.takes(client, range.len()) {
            self.end_run();
        }
        if let Some(end) = self.run.client.map(|_| self.run.bytes.len()) {
            self.run.cuts.push(end);
            return self.run.bytes.extend_from_slice(self.batch.bytes(range));
        }
        let Some((_, connection)) = self.connections.of_client(client) else {
            let home = Connections::home_of(client);
            return self.send_to_foreign_client(home, client, self.batch.bytes(range));
        };
        // What has to wait does so, or is lost, frame by frame.
        let alone = connection.link.is_waiting() || range.len() > MAX_RUN_BYTES;
        let Self { connections, batch, run, server, records, epoll, broken, counters, .. } = self;
        let frame = batch.bytes(range);
        if alone {
            let to = (&*server, connections, &*epoll);
            return write_frames(client, Frames::one(frame), to, records, broken, counters);
        }
        run.client = Some(*client);
        run.bytes.extend_from_slice(frame);
    }

    /// Writes the frames that were gathered.
    pub(super) fn end_run(&mut self) {
        let Self { connections, run, server, records, epoll, broken, counters, .. } = self;
        let Some(client) = run.client.take() else { return };
        let frames = Frames { bytes: &run.bytes, cuts: &run.cuts };
        write_frames(&client, frames, (&*server, connections, &*epoll), records, broken, counters);
        run.bytes.clear();
        run.cuts.clear();
    }
}

/// Sends whole frames to a client on a stream, or queues them, or loses them.
pub(super) fn write_frames(
    client: &Client,
    frames: Frames<'_>,
    (server, connections, epoll): (&Server, &mut Connections, &Epoll),
    records: &mut Records,
    broken: &mut Vec<usize>,
    counters: &Counters,
) {
    let limit = connections.limits.outbound_bytes;
    let Some((id, connection)) = connections.of_client(client) else { return };
    match connection.write(frames, limit, records) {
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
        Ok(Written::Dropped) => counters.send_failures.add(frames.count() as u64),
        Err(_) => broken.push(id),
    }
}
