use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ports relayed addresses are taken from, both ends included. RFC 8656 §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    min: u16,
    max: u16,
}

/// The text is no port range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Not of the form MIN-MAX.
    #[error("a port range is written MIN-MAX, such as 49152-65535")]
    Form,
    /// The first is above the last.
    #[error("the range's first port {min} is above its last port {max}")]
    Reversed {
        /// As given.
        min: u16,
        /// As given.
        max: u16,
    },
    /// Ports below 1024 belong to other services.
    #[error("relay ports start at 1024 or above, not at {min}")]
    Privileged {
        /// As given.
        min: u16,
    },
}

impl PortRange {
    /// The range from `min` to `max`, both included. RFC 8656 §7.2.
    ///
    /// # Errors
    /// When it is empty or reaches below 1024.
    pub fn new(min: u16, max: u16) -> Result<Self, PortRangeError> {
        if min > max {
            return Err(PortRangeError::Reversed { min, max });
        }
        // RFC 8656 §7.2: a server SHOULD NOT allocate ports in the range 0 to 1023.
        if min < 1_024 {
            return Err(PortRangeError::Privileged { min });
        }
        Ok(Self { min, max })
    }

    /// Whether `port` is in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }

    /// How many ports there are.
    pub fn len(self) -> usize {
        usize::from(self.max - self.min) + 1
    }

    /// Never: a range has at least one port.
    pub fn is_empty(self) -> bool {
        false
    }
}

impl Default for PortRange {
    /// RFC 8656 §7.2: 49152 to 65535, the dynamic ports.
    fn default() -> Self {
        Self { min: 49_152, max: 65_535 }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (min, max) = text.split_once('-').ok_or(PortRangeError::Form)?;
        let port = |text: &str| text.trim().parse().map_err(|_| PortRangeError::Form);
        Self::new(port(min)?, port(max)?)
    }
}

/// Which ports of each relay address are taken: a bit each, shared by all workers, so that none tries a port
/// that another one has. Touched when an allocation begins or ends, never for a packet. RFC 8656 §7.2.
#[derive(Debug)]
pub struct RelayPorts {
    range: PortRange,
    addresses: Vec<(IpAddr, Box<[AtomicU64]>)>,
}

/// Which ports will do. RFC 8656 §18.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parity {
    Any,
    /// An even port.
    Even,
    /// An even port, and the next one reserved too.
    EvenAndNext,
}

const BITS: usize = 64;

impl RelayPorts {
    /// All ports free on these local addresses.
    pub fn new(range: PortRange, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let bitmap = || (0..range.len().div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect();
        Self { range, addresses: addresses.into_iter().map(|address| (address, bitmap())).collect() }
    }

    /// The ports that there are.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// How many ports of all addresses are taken.
    pub fn taken(&self) -> usize {
        let words = self.addresses.iter().flat_map(|(_, words)| words);
        words.map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    fn bitmap(&self, address: IpAddr) -> Option<&[AtomicU64]> {
        self.addresses.iter().find(|(held, _)| *held == address).map(|(_, words)| &**words)
    }

    /// Takes a free port that fits, the first one from a random place on, and the next one if it is wanted too;
    /// `None` when there is none.
    ///
    /// A random start makes the port hard to guess (RFC 8656 §7.2 and §21.1.4) and finds one within one round.
    pub(crate) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        parity: Parity,
        random: u32,
    ) -> Option<(RelayPort, Option<RelayPort>)> {
        let words = self.bitmap(address)?;
        let count = self.range.len();
        let start = random as usize % count;
        let index = (0..count).map(|step| (start + step) % count).find(|index| {
            let is_even = (usize::from(self.range.min) + index).is_multiple_of(2);
            match parity {
                Parity::Any => set(words, *index),
                // RFC 8656 §18.7: the port is even, and with the R bit the next higher one is reserved.
                Parity::Even => is_even && set(words, *index),
                Parity::EvenAndNext => {
                    let first = is_even && index + 1 < count && set(words, *index);
                    let both = first && set(words, index + 1);
                    if first && !both {
                        clear(words, *index);
                    }
                    both
                }
            }
        })?;
        let port = |index: usize| {
            let port = self.range.min.checked_add(u16::try_from(index).ok()?)?;
            Some(RelayPort { ports: Arc::clone(self), local: SocketAddr::new(address, port) })
        };
        let next = (parity == Parity::EvenAndNext).then(|| port(index + 1)).flatten();
        Some((port(index)?, next))
    }
}

/// A taken relay port: free again when this is dropped, so it cannot leak and is never returned twice. Drop it
/// only after the socket is closed. RFC 8656 §7.2.
#[derive(Debug)]
pub struct RelayPort {
    ports: Arc<RelayPorts>,
    local: SocketAddr,
}

impl RelayPort {
    /// The local address that the relay socket is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for RelayPort {
    fn drop(&mut self) {
        let index = usize::from(self.local.port() - self.ports.range.min);
        let was_taken = self.ports.bitmap(self.local.ip()).is_some_and(|words| clear(words, index));
        assert!(was_taken, "a relay port that is held is marked as taken");
    }
}

fn bit(words: &[AtomicU64], index: usize) -> Option<(&AtomicU64, u64)> {
    Some((words.get(index / BITS)?, 1 << (index % BITS)))
}

/// Sets a bit; whether it was clear before.
fn set(words: &[AtomicU64], index: usize) -> bool {
    bit(words, index).is_some_and(|(word, bit)| {
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    })
}

/// Clears a bit; whether it was set before.
fn clear(words: &[AtomicU64], index: usize) -> bool {
    bit(words, index).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_once_and_comes_back() {
        let range = PortRange::new(50_001, 50_100).unwrap();
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let ports = Arc::new(RelayPorts::new(range, [v4, v6]));
        let held: Vec<RelayPort> =
            (0..100).map(|n| ports.take(v4, Parity::Any, n * 7_919).unwrap().0).collect();
        assert!(ports.take(v4, Parity::Any, 5).is_none());
        let sixth = ports.take(v6, Parity::Any, 5).unwrap().0;
        let mut seen: Vec<u16> = held.iter().map(|port| port.local().port()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (50_001..=50_100).collect::<Vec<_>>());
        assert_eq!(ports.taken(), 101);
        drop(held);
        assert_eq!(ports.taken(), 1);
        drop(sixth);
        assert_eq!(ports.taken(), 0);
        assert!(ports.take("192.0.2.2".parse().unwrap(), Parity::Any, 5).is_none(), "not our address");
    }

    #[test]
    fn rfc8656_18_7_even_ports_and_pairs() {
        let address = "192.0.2.1".parse().unwrap();
        let ports = Arc::new(RelayPorts::new(PortRange::new(50_001, 50_006).unwrap(), [address]));
        let mut held = vec![];
        let mut take = |parity, random| {
            let (port, next) = ports.take(address, parity, random)?;
            let numbers = (port.local().port(), next.as_ref().map(|next| next.local().port()));
            held.push((port, next));
            Some(numbers)
        };
        assert_eq!(take(Parity::Any, 2), Some((50_003, None)));
        assert_eq!(take(Parity::EvenAndNext, 1), Some((50_004, Some(50_005))), "50002's next is taken");
        assert_eq!(take(Parity::EvenAndNext, 0), None, "50006 has no next");
        assert_eq!(take(Parity::Even, 2), Some((50_006, None)));
        assert_eq!(take(Parity::Even, 0), Some((50_002, None)));
        assert_eq!(ports.taken(), 5);
        held.clear();
        assert_eq!(ports.taken(), 0);
    }

    #[test]
    fn ranges_are_read_and_wrong_ones_explained() {
        assert_eq!("49152-65535".parse(), Ok(PortRange::default()));
        for (text, error) in [
            ("", PortRangeError::Form),
            ("5000", PortRangeError::Form),
            ("5000-70000", PortRangeError::Form),
            ("6000-5000", PortRangeError::Reversed { min: 6_000, max: 5_000 }),
            ("80-5000", PortRangeError::Privileged { min: 80 }),
        ] {
            assert_eq!(text.parse::<PortRange>(), Err(error), "{text}");
        }
    }
}
