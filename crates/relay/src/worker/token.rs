//! What epoll is given to say what an event is about.

use turn::RelayId;

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Wake,
    Udp(u32),
    Tcp(u32),
    Relay(RelayId),
    Connection(u32),
    RelayListener(RelayId),
    /// A connection with a peer.
    Peer(u32),
    /// Its data connection.
    Data(u32),
}

impl Token {
    pub(crate) fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Wake => (0, 0),
            Self::Udp(index) => (1, index),
            Self::Tcp(index) => (2, index),
            Self::Relay(RelayId(index)) => (3, index),
            Self::Connection(index) => (4, index),
            Self::RelayListener(RelayId(index)) => (5, index),
            Self::Peer(index) => (6, index),
            Self::Data(index) => (7, index),
        };
        kind << 32 | u64::from(index)
    }

    pub(crate) fn unpack(bits: u64) -> Self {
        let index = u32::try_from(bits & 0xFFFF_FFFF).unwrap_or_default();
        match bits >> 32 {
            1 => Self::Udp(index),
            2 => Self::Tcp(index),
            3 => Self::Relay(RelayId(index)),
            4 => Self::Connection(index),
            5 => Self::RelayListener(RelayId(index)),
            6 => Self::Peer(index),
            7 => Self::Data(index),
            _ => Self::Wake,
        }
    }
}
