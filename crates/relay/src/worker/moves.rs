//! Between workers: allocations that follow their clients, and the packets that still take the old way. RFC 8016.

use std::io;
use std::ops::Range;

use socket2::Socket;
use turn::{Action, Client, Command, Note, RelayId, Reply, Time, Traveller, WorkerId};

use super::Worker;
use crate::batch::Place;
use crate::mailbox::{Letter, Message};
use crate::udp::Opener;

/// An allocation and what it owns, on its way: closed and given back, in this order, if it never arrives.
#[derive(Debug)]
pub(crate) struct Move {
    sockets: Vec<Socket>,
    traveller: Box<Traveller>,
}

impl Worker {
    pub(super) fn read_inbox(&mut self, now: Time) -> io::Result<()> {
        for message in self.inbox.round() {
            match message {
                Message::Stop => self.stopping = true,
                Message::Admit => self.admit()?,
                Message::Letter(letter) => self.read_letter(now, letter),
                Message::Command(command) => {
                    let limits_change = matches!(command, Command::KeyLimits { .. });
                    if let Err(error) = self.server.command(now, command) {
                        tracing::error!(%error, "a command was not carried out in full");
                    }
                    if limits_change {
                        self.splices.reconsider(now.monotonic_ms);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_letter(&mut self, now: Time, letter: Letter) {
        match letter {
            Letter::Note(note) => self.server.told(now, note),
            Letter::Move(moved) => {
                if let Some(traveller) = self.take_in(now, moved) {
                    self.counters.moves.add(1);
                    self.server.arrived(now, traveller);
                }
            }
            Letter::FromClient { from, client, parcel, is_back } => {
                if let Some(place) = self.put(parcel.bytes()) {
                    let (mut packet, base) = self.batch.packet(place);
                    let mut opener = Opener { relays: &mut self.relays, epoll: &self.epoll };
                    let action = if is_back {
                        self.server.passed_back(now, from, client, &mut packet, &mut opener)
                    } else {
                        self.server.passed(now, from, client, &mut packet, &mut opener)
                    };
                    let range = packet.range();
                    let range = base + range.start..base + range.end;
                    match action {
                        Action::Pass(to) if !is_back => self.pass(to, client, range, true),
                        // What moves has no data connections, so nothing becomes of the connection it came on.
                        action => _ = self.act_for_client(now, client, (action, place), range),
                    }
                }
            }
            Letter::Connection { link, client, bytes } => self.adopt(now, *link, client, &bytes),
            // Whoever sends it has not heard yet that the connection is closed, or never will.
            Letter::ToClient { from, client, .. } if !self.has_connection(&client) => {
                self.counters.send_failures.add(1);
                self.server.unreachable(&client.five_tuple, from);
            }
            Letter::ToClient { client, parcel, .. } => self.send_bytes_to_client(&client, parcel.bytes()),
        }
    }

    /// Whether a client's connection or session is here.
    fn has_connection(&mut self, client: &Client) -> bool {
        self.connections.of_client(client).is_some() || self.sessions.of_client(client).is_some()
    }

    /// A note that cannot be posted is lost: see [`turn::Note`].
    pub(super) fn tell(&self, to: WorkerId, note: Note) {
        if self.colleagues.post(to, Letter::Note(note)).is_err() {
            tracing::debug!(worker = to.0, "a worker's mailbox is full: a note is lost");
        }
    }

    /// Sends an allocation with its sockets to another worker, or keeps it.
    pub(super) fn depart(&mut self, now: Time, to: WorkerId, mut traveller: Box<Traveller>) {
        let taken = traveller.relays_mut().filter_map(|relay| self.take_socket(*relay));
        let sockets: Vec<Socket> = taken.collect();
        let Err(letter) = self.colleagues.post(to, Letter::Move(Move { sockets, traveller })) else {
            return;
        };
        if let Letter::Move(moved) = letter
            && let Some(traveller) = self.take_in(now, moved)
        {
            self.server.returned(now, traveller);
        }
    }

    fn take_socket(&mut self, relay: RelayId) -> Option<Socket> {
        let socket = self.relays.take(relay)?;
        // It is told of here no longer, and another worker may close it before this one knows.
        let _ = self.epoll.remove(&socket);
        self.batch.forget(std::os::fd::AsRawFd::as_raw_fd(&socket));
        Some(socket)
    }

    /// Makes the sockets this worker's own. What cannot be waited for is closed, and the allocation with it.
    fn take_in(&mut self, now: Time, moved: Move) -> Option<Box<Traveller>> {
        let Move { sockets, mut traveller } = moved;
        let mut opener = Opener { relays: &mut self.relays, epoll: &self.epoll };
        let mut numbers = Vec::new();
        for socket in sockets {
            match opener.adopt(socket) {
                Ok(number) => numbers.push(number),
                Err(error) => {
                    tracing::error!(%error, "an allocation is lost on its way to another worker");
                    for number in numbers {
                        drop(self.relays.take(number));
                    }
                    self.put_out(traveller.lost(now));
                    return None;
                }
            }
        }
        traveller.relays_mut().zip(numbers).for_each(|(relay, number)| *relay = number);
        Some(traveller)
    }

    /// A client's packet for an allocation that another worker has: slower than the packet lane, and soon over.
    pub(super) fn pass(&mut self, to: WorkerId, client: Client, range: Range<usize>, is_back: bool) {
        let Some(parcel) = self.colleagues.parcel(to, self.batch.bytes(range)) else {
            self.counters.drop_for_mailbox();
            return;
        };
        let from = self.server.worker();
        self.passing.push((to, Letter::FromClient { from, client, parcel, is_back }));
    }

    /// Posts what is to be passed: after the outputs, for among them may be the very allocations.
    pub(super) fn pass_on(&mut self) {
        for (to, letter) in self.passing.drain(..) {
            if self.colleagues.post(to, letter).is_err() {
                self.counters.drop_for_mailbox();
            }
        }
    }

    /// For a client whose connection or session another worker has.
    pub(super) fn send_to_foreign_client(&self, to: WorkerId, client: &Client, bytes: &[u8]) {
        if to == self.server.worker() {
            return;
        }
        let parcel = self.colleagues.parcel(to, bytes);
        let from = self.server.worker();
        let letter = parcel.map(|parcel| Letter::ToClient { from, client: *client, parcel });
        if letter.is_none_or(|letter| self.colleagues.post(to, letter).is_err()) {
            self.counters.send_failures.add(1);
        }
    }

    /// The response to a request that another worker had to be asked about.
    pub(super) fn reply_late(&mut self, client: &Client, reply: Reply, bytes: &[u8]) {
        self.count(reply);
        self.send_bytes_to_client(client, bytes);
    }

    fn send_bytes_to_client(&mut self, client: &Client, bytes: &[u8]) {
        if let Some(place) = self.put(bytes) {
            let (packet, base) = self.batch.packet(place);
            let range = packet.range();
            self.send_to_client(client, base + range.start..base + range.end);
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Option<Place> {
        if self.batch.is_full() {
            self.flush();
        }
        self.batch.put(bytes)
    }
}
