//! The buffers of one worker: datagrams of many sockets are received into slots, rewritten there, and sent from
//! there in few calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, RawFd};

use turn::{HEADROOM, MAX_REPLY, Packet, TAILROOM};

use crate::sys::{Datagram, Messages, Received};

/// Datagrams in flight at once.
pub(crate) const SLOTS: usize = 64;
/// The longest UDP payload is 65,507 bytes over IPv4 and 65,527 over IPv6; ChannelData over TCP has 65,535.
const PAYLOAD: usize = 65_536 + 8;
/// An odd number of cache lines beyond a power of two, so that the slots' first lines do not share one cache set.
const STRIDE: usize = 65_536 + 33 * 64;
const _: () = assert!(STRIDE >= HEADROOM + PAYLOAD + TAILROOM && MAX_REPLY < PAYLOAD);

/// A slot with a packet in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

#[derive(Debug, Clone, Copy)]
struct Outgoing {
    socket: RawFd,
    slot: usize,
    /// Within the slot.
    start: usize,
    end: usize,
    to: SocketAddr,
    source: Option<IpAddr>,
}

#[derive(Debug)]
pub(crate) struct Batch {
    /// Mapped by the system as it is touched: small packets cost a page a slot.
    memory: Box<[u8]>,
    used: usize,
    received: Vec<(Slot, Received)>,
    outgoing: Vec<Outgoing>,
    messages: Messages,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            memory: vec![0; SLOTS * STRIDE].into(),
            used: 0,
            received: Vec::with_capacity(SLOTS),
            outgoing: Vec::with_capacity(SLOTS),
            messages: Messages::new(SLOTS),
        }
    }

    /// Whether every slot is taken: flush before the next packet.
    pub(crate) fn is_full(&self) -> bool {
        self.used == SLOTS
    }

    /// Receives what is waiting on a socket into the free slots. The packets are taken with [`Batch::take`].
    pub(crate) fn receive(&mut self, socket: &impl AsFd) -> io::Result<()> {
        let first = self.used;
        let free = self.memory.chunks_exact_mut(STRIDE).skip(first);
        let slots = free.filter_map(|slot| slot.get_mut(HEADROOM..HEADROOM + PAYLOAD));
        let received = &mut self.received;
        received.clear();
        let count = self.messages.receive(socket, slots, |index, datagram| {
            received.extend(datagram.map(|datagram| (Slot(first + index), datagram)));
        });
        match count {
            Ok(count) => {
                self.used += count;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The packet of this index among those that the last [`Batch::receive`] brought.
    pub(crate) fn take(&self, index: usize) -> Option<(Slot, Received)> {
        self.received.get(index).copied()
    }

    /// Copies a frame of a stream into a free slot. `None` when it is too long or no slot is free.
    pub(crate) fn put(&mut self, frame: &[u8]) -> Option<(Slot, usize)> {
        if self.is_full() || frame.len() > PAYLOAD {
            return None;
        }
        let slot = Slot(self.used);
        let start = slot.0 * STRIDE + HEADROOM;
        self.memory.get_mut(start..start + frame.len())?.copy_from_slice(frame);
        self.used += 1;
        Some((slot, frame.len()))
    }

    /// The packet of `length` bytes in a slot, with the room around it.
    pub(crate) fn packet(&mut self, slot: Slot, length: usize) -> Packet<'_> {
        let start = slot.0 * STRIDE;
        let memory = self.memory.get_mut(start..start + STRIDE).unwrap_or_default();
        Packet::new(memory, HEADROOM, HEADROOM + length)
    }

    /// Bytes of a slot.
    pub(crate) fn bytes(&self, slot: Slot, range: Range<usize>) -> &[u8] {
        let start = slot.0 * STRIDE;
        self.memory.get(start + range.start..start + range.end).unwrap_or_default()
    }

    /// Queues a slot's bytes for sending; they stay as they are until [`Batch::flush`].
    pub(crate) fn send(
        &mut self,
        socket: RawFd,
        slot: Slot,
        range: Range<usize>,
        to: SocketAddr,
        source: Option<IpAddr>,
    ) {
        self.outgoing.push(Outgoing { socket, slot: slot.0, start: range.start, end: range.end, to, source });
    }

    /// Sends all that is queued and frees every slot; how many datagrams the system would not take.
    ///
    /// Datagrams of one socket go out in the order they came in, so no flow is reordered.
    pub(crate) fn flush(&mut self) -> usize {
        self.outgoing.sort_unstable_by_key(|outgoing| (outgoing.socket, outgoing.slot));
        let mut failed = 0;
        for run in self.outgoing.chunk_by(|a, b| a.socket == b.socket) {
            let Some(first) = run.first() else { continue };
            let datagrams = run.iter().map(|outgoing| {
                let start = outgoing.slot * STRIDE;
                let bytes = self.memory.get(start + outgoing.start..start + outgoing.end);
                Datagram { bytes: bytes.unwrap_or_default(), to: outgoing.to, source: outgoing.source }
            });
            failed += self.messages.send(first.socket, datagrams);
        }
        self.outgoing.clear();
        self.used = 0;
        failed
    }
}
