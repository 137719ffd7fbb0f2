//! A network that exists only in memory, on a clock that only moves when it is told to.
//!
//! Datagrams are delayed, lost, doubled and overtaken as each link's settings say; streams lose nothing and keep
//! their order, but are cut and joined anywhere. All chance comes from one seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::dice::Dice;

/// How one direction between two addresses treats packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The least time a packet takes.
    pub delay_ms: u64,
    /// At most this much is added, evenly spread.
    pub jitter_ms: u64,
    /// How many datagrams in a thousand are lost.
    pub loss_permille: u32,
    /// How many datagrams in a thousand arrive twice.
    pub duplicate_permille: u32,
    /// How many datagrams in a thousand may be overtaken by later ones.
    pub reorder_permille: u32,
}

impl Link {
    /// Immediate and faultless.
    pub const PERFECT: Self =
        Self { delay_ms: 0, jitter_ms: 0, loss_permille: 0, duplicate_permille: 0, reorder_permille: 0 };
}

/// What the network hands over at its far end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A datagram.
    Datagram {
        /// Its sender.
        from: SocketAddr,
        /// Its receiver.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Some bytes of a stream.
    Segment {
        /// The stream's sending end.
        from: SocketAddr,
        /// The stream's receiving end.
        to: SocketAddr,
        /// The next bytes.
        bytes: Vec<u8>,
    },
}

#[derive(Debug)]
enum Event {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// The stream's bytes up to this place, counted from its beginning, have arrived.
    Arrived {
        from: SocketAddr,
        to: SocketAddr,
        epoch: u64,
        up_to: usize,
    },
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Stream {
    /// Tells a stream from an earlier one between the same addresses.
    epoch: u64,
    written: Vec<u8>,
    read: usize,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    default: Link,
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    /// When the last datagram of a link that keeps its order arrives.
    last_ms: BTreeMap<(SocketAddr, SocketAddr), u64>,
    streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    /// By time, then by order of sending.
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
}

impl Network {
    /// A network whose links are all like `default`.
    pub fn new(seed: u64, default: Link) -> Self {
        Self {
            dice: Dice::new(seed),
            default,
            links: BTreeMap::new(),
            last_ms: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Makes one direction between two addresses different.
    pub fn set_link(&mut self, from: SocketAddr, to: SocketAddr, link: Link) {
        self.links.insert((from, to), link);
    }

    fn link(&self, from: SocketAddr, to: SocketAddr) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.default)
    }

    fn schedule(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at_ms, self.sequence), event);
    }

    /// Sends a datagram.
    pub fn send(&mut self, now_ms: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let link = self.link(from, to);
        if self.dice.permille(link.loss_permille) {
            return;
        }
        let copies = 1 + u32::from(self.dice.permille(link.duplicate_permille));
        for _ in 0..copies {
            let mut at_ms = now_ms + link.delay_ms + self.dice.below(link.jitter_ms + 1);
            if !self.dice.permille(link.reorder_permille) {
                let last_ms = self.last_ms.entry((from, to)).or_default();
                at_ms = at_ms.max(*last_ms);
                *last_ms = at_ms;
            }
            self.schedule(at_ms, Event::Datagram { from, to, bytes: bytes.to_vec() });
        }
    }

    /// Writes to a stream, which is opened by its first bytes.
    pub fn write(&mut self, now_ms: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let link = self.link(from, to);
        let stream = self.streams.entry((from, to)).or_default();
        let epoch = stream.epoch;
        let mut place = stream.written.len();
        stream.written.extend_from_slice(bytes);
        let end = stream.written.len();
        let mut at_ms = now_ms + link.delay_ms;
        while place < end {
            let whole = self.dice.permille(500);
            place = if whole { end } else { place + 1 + self.dice.index(end - place) };
            at_ms += self.dice.below(link.jitter_ms + 1);
            // What arrives earlier than bytes before it brings them along: segments join.
            self.schedule(at_ms, Event::Arrived { from, to, epoch, up_to: place });
        }
    }

    /// Ends both directions of a stream; what has not arrived is gone.
    pub fn close(&mut self, one: SocketAddr, other: SocketAddr) {
        for ends in [(one, other), (other, one)] {
            if let Some(stream) = self.streams.get_mut(&ends) {
                *stream = Stream { epoch: stream.epoch + 1, ..Stream::default() };
            }
        }
    }

    /// When something arrives next.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// What has arrived by now, until there is no more.
    pub fn poll_delivery(&mut self, now_ms: u64) -> Option<Delivery> {
        while self.poll_timeout().is_some_and(|at_ms| at_ms <= now_ms) {
            match self.events.pop_first()?.1 {
                Event::Datagram { from, to, bytes } => return Some(Delivery::Datagram { from, to, bytes }),
                Event::Arrived { from, to, epoch, up_to } => {
                    let stream = self.streams.get_mut(&(from, to)).filter(|stream| stream.epoch == epoch);
                    let Some(stream) = stream else { continue };
                    let Some(bytes) = stream.written.get(stream.read..up_to) else { continue };
                    if !bytes.is_empty() {
                        let bytes = bytes.to_vec();
                        stream.read = up_to;
                        return Some(Delivery::Segment { from, to, bytes });
                    }
                }
            }
        }
        None
    }
}
