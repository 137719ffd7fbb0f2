//! The buffers of one worker: datagrams of many sockets are received into slots, rewritten there, and sent from
//! there in few calls.
//!
//! A slot may hold a *train*: datagrams of one sender that the system handed up together. Packets that leave one
//! socket for one address are sent as trains again.

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, RawFd};

use turn::{HEADROOM, MAX_REPLY, Packet, TAILROOM};

use crate::sys::{MAX_TRAIN_BYTES, MAX_TRAIN_PACKETS, Messages, Received, Train, may_be_about_another};

/// Slots, and so trains, in flight at once.
pub(crate) const SLOTS: usize = 64;
/// The longest UDP payload is 65,507 bytes over IPv4 and 65,527 over IPv6; ChannelData over TCP has 65,535.
const PAYLOAD: usize = 65_536 + 8;
/// An odd number of cache lines beyond a power of two, so that the slots' first lines do not share one cache set.
const STRIDE: usize = 65_536 + 33 * 64;
const _: () = assert!(STRIDE >= HEADROOM + PAYLOAD + TAILROOM && MAX_REPLY < PAYLOAD);
/// Room for the packets of trains that need room around them.
const SPILL: usize = 1 << 20;
/// A packet that is sent as part of a train fits into one Ethernet frame: the system refuses to cut larger ones.
const MAX_SEGMENT: usize = 1_452;
/// Packets that may wait to be sent: more than one train can bring.
const MAX_OUTGOING: usize = 4_096;

/// Where a packet is in the buffers, and the room it has around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Where its room begins, its first byte is, and its room ends.
    base: usize,
    start: usize,
    limit: usize,
    length: usize,
}

impl Place {
    fn is_roomy(self) -> bool {
        self.start - self.base >= HEADROOM && self.limit - self.start >= self.length + TAILROOM
    }

    pub(crate) fn len(self) -> usize {
        self.length
    }

    /// Its first `length` bytes and those behind them, without room around them unless the first are all.
    pub(crate) fn split(self, length: usize) -> Option<(Self, Self)> {
        let cut = self.start + length;
        let rest = self.length.checked_sub(length)?;
        let behind = Self { base: cut, start: cut, limit: cut + rest, length: rest };
        let front = Self { base: self.start, start: self.start, limit: cut, length };
        Some((if rest == 0 { self } else { front }, behind))
    }

    /// Where its bytes are.
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.start + self.length
    }

    /// What became of the packet in its buffer.
    pub(crate) fn narrowed(self, to: &Range<usize>) -> Self {
        Self { start: to.start, length: to.len(), ..self }
    }
}

#[derive(Debug, Clone, Copy)]
struct Outgoing {
    socket: RawFd,
    to: SocketAddr,
    /// Keeps the order within a flow.
    order: usize,
    start: usize,
    end: usize,
    source: Option<IpAddr>,
}

/// How much a read of one of many sockets asks for. Where one datagram or train waits on each, asking for more costs
/// another look at an empty queue and the preparation of every free slot, about a twentieth of a read; where many wait,
/// taking one at a time costs a wait for each. One read in so many finds out.
#[derive(Debug, Default)]
pub(crate) struct Depth {
    reads: u8,
    /// Whether more than one waited on a socket since it was found out last.
    is_deep: bool,
}

impl Depth {
    /// Of so many reads, the first asks for all there is.
    const READS: u8 = 16;

    /// How many datagrams or trains the next read asks for.
    pub(crate) fn most(&self) -> usize {
        if self.is_deep || self.reads == 0 { SLOTS } else { 1 }
    }

    /// Tells how many it has found.
    pub(crate) fn found(&mut self, count: usize) {
        self.is_deep = count > 1 || (self.is_deep && self.reads > 0);
        self.reads = (self.reads + 1) % Self::READS;
    }
}

#[derive(Debug)]
pub(crate) struct Batch {
    /// The slots, then the spill. Mapped by the system as it is touched: a slot of small packets costs a page.
    memory: Box<[u8]>,
    used: usize,
    spilled: usize,
    received: Vec<(usize, Received)>,
    outgoing: Vec<Outgoing>,
    messages: Messages,
    /// By descriptor: sockets whose way out cannot cut trains.
    uncut: Vec<bool>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; SLOTS * STRIDE + SPILL].into(),
            used: 0,
            spilled: 0,
            received: Vec::with_capacity(SLOTS),
            outgoing: Vec::with_capacity(MAX_OUTGOING),
            messages: Messages::new(SLOTS),
            uncut: Vec::new(),
        }
    }

    /// Whether every slot is taken: flush before the next is filled.
    pub(crate) fn is_full(&self) -> bool {
        self.used == SLOTS
    }

    /// Whether spill or queue may not hold what one more packet needs: send before it is handled.
    pub(crate) fn is_crowded(&self) -> bool {
        self.spilled + HEADROOM + PAYLOAD + TAILROOM > SPILL || self.outgoing.len() >= MAX_OUTGOING
    }

    /// Receives what is waiting on a socket into the free slots, `most` datagrams or trains at most; how many came. What
    /// they are is told by [`Batch::received`].
    pub(crate) fn receive(&mut self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        let first = self.used;
        let free = self.memory.chunks_exact_mut(STRIDE).take(SLOTS).skip(first).take(most);
        let slots = free.filter_map(|slot| slot.get_mut(HEADROOM..HEADROOM + PAYLOAD));
        let received = &mut self.received;
        received.clear();
        let count = self.messages.receive(socket, slots, |index, datagram| {
            received.extend(datagram.map(|datagram| (first + index, datagram)));
        });
        match count {
            Ok(count) => {
                self.used += count;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// One of the slots that the last [`Batch::receive`] filled: its number and what it holds.
    pub(crate) fn received(&self, index: usize) -> Option<(usize, Received)> {
        self.received.get(index).copied()
    }

    /// Where the packets in a slot are, one after the other. Those of a train have no room around them.
    pub(crate) fn packets(slot: usize, received: &Received) -> impl Iterator<Item = Place> + use<> {
        let length = received.length;
        let train = received.segment;
        let base = slot * STRIDE;
        let size = train.unwrap_or(length).max(1);
        (0..length.div_ceil(size).max(1)).map(move |index| {
            let (start, length) = (base + HEADROOM + index * size, size.min(length - index * size));
            match train {
                Some(_) => Place { base: start, start, limit: start + length, length },
                None => Place { base, start, limit: base + STRIDE, length },
            }
        })
    }

    /// Gives a packet headroom and `behind` bytes from its first one on: one of a train is copied out of it.
    pub(crate) fn with_room(&mut self, place: Place, behind: usize) -> Place {
        if place.is_roomy() {
            return place;
        }
        let start = SLOTS * STRIDE + self.spilled + HEADROOM;
        self.memory.copy_within(place.range(), start);
        self.claim(place.length, behind)
    }

    /// Copies what a stream brought into a free slot, as much of it as fits, which is a frame at least. `None` when no
    /// slot is free.
    pub(crate) fn put(&mut self, read: &[u8]) -> Option<Place> {
        if self.used == SLOTS {
            return None;
        }
        let base = self.used * STRIDE;
        let start = base + HEADROOM;
        let length = read.len().min(PAYLOAD);
        self.memory.get_mut(start..start + length)?.copy_from_slice(read.get(..length)?);
        self.used += 1;
        Some(Place { base, start, limit: base + STRIDE, length })
    }

    /// Room for the longest packet, to be written and then claimed. There is none unless the batch is not crowded.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        let start = SLOTS * STRIDE + self.spilled + HEADROOM;
        self.memory.get_mut(start..start + PAYLOAD).unwrap_or_default()
    }

    /// Makes a packet of what was written into the spare room, with `behind` bytes from its first one on.
    pub(crate) fn claim(&mut self, length: usize, behind: usize) -> Place {
        let base = SLOTS * STRIDE + self.spilled;
        let start = base + HEADROOM;
        let limit = start + behind.max(length + TAILROOM);
        self.spilled = (limit - SLOTS * STRIDE).next_multiple_of(64);
        Place { base, start, limit, length }
    }

    /// Copies a packet into the spare room.
    pub(crate) fn put_spare(&mut self, packet: &[u8]) -> Place {
        let length = packet.len().min(PAYLOAD);
        if let (Some(room), Some(packet)) = (self.spare().get_mut(..length), packet.get(..length)) {
            room.copy_from_slice(packet);
        }
        self.claim(length, 0)
    }

    /// The packet at a place, with its room, and where in memory its buffer begins.
    pub(crate) fn packet(&mut self, place: Place) -> (Packet<'_>, usize) {
        let Place { base, start, limit, length } = place;
        let buffer = self.memory.get_mut(base..limit).unwrap_or_default();
        (Packet::new(buffer, start - base, start - base + length), base)
    }

    /// The first byte of a packet tells what it is.
    pub(crate) fn peek(&self, place: Place) -> &[u8] {
        self.bytes(place.start..place.start + place.length)
    }

    /// Bytes of the buffers.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.memory.get(range).unwrap_or_default()
    }

    /// Queues bytes for sending; they stay as they are until [`Batch::flush`].
    pub(crate) fn send(
        &mut self,
        socket: RawFd,
        range: Range<usize>,
        to: SocketAddr,
        source: Option<IpAddr>,
    ) {
        let order = self.outgoing.len();
        self.outgoing.push(Outgoing { socket, to, order, start: range.start, end: range.end, source });
    }

    /// A descriptor is a new socket's: what was known of its number is forgotten.
    pub(crate) fn forget(&mut self, socket: RawFd) {
        if let Some(uncut) = usize::try_from(socket).ok().and_then(|index| self.uncut.get_mut(index)) {
            *uncut = false;
        }
    }

    /// Sends all that is queued and frees every slot; how many packets the system would not take.
    pub(crate) fn flush(&mut self) -> usize {
        self.used = 0;
        self.send_queued()
    }

    /// Sends all that is queued and keeps what the slots hold; how many packets the system would not take.
    ///
    /// Packets of one socket for one address go out in the order they came in, so no flow is reordered.
    pub(crate) fn send_queued(&mut self) -> usize {
        self.outgoing.sort_unstable_by_key(|packet| (packet.socket, packet.to, packet.order));
        let mut sender =
            Sender { messages: &mut self.messages, memory: &self.memory, uncut: &mut self.uncut, failed: 0 };
        for run in self.outgoing.chunk_by(|a, b| a.socket == b.socket) {
            sender.send(run);
        }
        let failed = sender.failed;
        self.outgoing.clear();
        self.spilled = 0;
        failed
    }
}

/// What sending takes, while the queue is read.
struct Sender<'b> {
    messages: &'b mut Messages,
    memory: &'b [u8],
    uncut: &'b mut Vec<bool>,
    failed: usize,
}

impl Sender<'_> {
    /// Sends packets of one socket, sorted by address, as trains where that is possible, and all in order.
    fn send(&mut self, mut run: &[Outgoing]) {
        while let Some(first) = run.first() {
            let index = usize::try_from(first.socket).unwrap_or(usize::MAX);
            let cuts = self.uncut.get(index) != Some(&true);
            let (taken, refused) = self.send_front(run, cuts);
            let (_, rest) = run.split_at(taken);
            let Some(error) = refused else {
                run = rest;
                continue;
            };
            // The first of the rest was refused, a train or a packet.
            let length = train_length(rest, cuts);
            let (train, behind) = rest.split_at(length.min(rest.len()));
            run = behind;
            match error.raw_os_error() {
                // A device that cannot cut trains never will: each packet goes by itself from now on.
                Some(libc::EIO) if length > 1 => {
                    self.remember_uncut(index);
                    self.send_singly(train);
                }
                // A path that is too narrow for the train's packets: cut by IP, each still arrives. Both times the
                // refusal may have been about an earlier datagram, which says nothing of this train.
                Some(libc::EINVAL) if length > 1 => self.send_singly(train),
                _ if length > 1 && may_be_about_another(&error) => self.send_singly(train),
                _ => self.failed += train.len(),
            }
        }
    }

    fn send_singly(&mut self, mut run: &[Outgoing]) {
        while !run.is_empty() {
            let (taken, refused) = self.send_front(run, false);
            self.failed += usize::from(refused.is_some());
            run = run.get(taken + usize::from(refused.is_some())..).unwrap_or_default();
        }
    }

    fn remember_uncut(&mut self, index: usize) {
        if self.uncut.len() <= index {
            self.uncut.resize(index.saturating_add(1), false);
        }
        if let Some(uncut) = self.uncut.get_mut(index) {
            *uncut = true;
        }
    }

    /// Sends as much of a run's front as one call takes: how many packets are gone, and what was wrong with the
    /// train behind them if one was refused.
    fn send_front(&mut self, run: &[Outgoing], cuts: bool) -> (usize, Option<io::Error>) {
        let memory = self.memory;
        let mut gather = self.messages.gather();
        let mut taken = 0;
        while let Some(rest) = run.get(taken..)
            && let Some(first) = rest.first()
        {
            let length = train_length(rest, cuts);
            if !gather.has_room(length) {
                break;
            }
            let segment = u16::try_from(first.end - first.start).ok().filter(|_| length > 1);
            let packets = rest.get(..length).unwrap_or_default();
            let bytes = packets.iter().map(|packet| memory.get(packet.start..packet.end).unwrap_or_default());
            gather.push(Train { to: first.to, source: first.source, segment }, bytes);
            taken += length;
        }
        let socket = run.first().map_or(-1, |packet| packet.socket);
        match gather.send(socket) {
            Ok(()) => (taken, None),
            Err((trains, error)) => (packets_in(run, cuts, trains), Some(error)),
        }
    }
}

/// How many packets the first train of a run has.
fn train_length(run: &[Outgoing], cuts: bool) -> usize {
    match run.split_first() {
        Some((first, rest)) if cuts => 1 + followers(first, rest),
        _ => 1,
    }
}

/// How many packets the first `trains` trains of a run have: found again, for a refusal is rare.
fn packets_in(run: &[Outgoing], cuts: bool, trains: usize) -> usize {
    (0..trains).fold(0, |start, _| start + train_length(run.get(start..).unwrap_or_default(), cuts))
}

/// How many of the next packets can leave in one train with the first.
fn followers(first: &Outgoing, rest: &[Outgoing]) -> usize {
    let size = first.end - first.start;
    if size == 0 || size > MAX_SEGMENT {
        return 0;
    }
    let most = (MAX_TRAIN_BYTES / size).min(MAX_TRAIN_PACKETS) - 1;
    let mut count = 0;
    for packet in rest.iter().take(most) {
        let length = packet.end - packet.start;
        if packet.to != first.to || packet.source != first.source || length > size || length == 0 {
            break;
        }
        count += 1;
        // Only the last packet of a train may be shorter.
        if length < size {
            break;
        }
    }
    count
}
