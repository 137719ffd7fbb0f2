use std::net::SocketAddr;

/// How a client reaches the server. RFC 8656 §3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream of frames.
    Tcp,
    /// A stream of frames within TLS.
    Tls,
    /// Datagrams within DTLS. RFC 7350.
    Dtls,
}

impl Transport {
    /// Whether messages follow each other on a stream, where ChannelData is padded. RFC 8656 §12.5.
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp | Self::Dtls => false,
            Self::Tcp | Self::Tls => true,
        }
    }

    /// Whether every message is a datagram of its own. RFC 8656 §2.
    pub fn is_datagram(self) -> bool {
        !self.is_stream()
    }

    /// Whether TLS or DTLS is below the messages. RFC 8656 §3.1.
    pub fn is_secured(self) -> bool {
        match self {
            Self::Udp | Self::Tcp => false,
            Self::Tls | Self::Dtls => true,
        }
    }
}

/// What identifies a client, and with it its allocation. RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// Between client and server.
    pub transport: Transport,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server's address that the client sends to.
    pub server: SocketAddr,
}

impl FiveTuple {
    /// Any connection of this client's address to the server.
    pub(crate) fn any_port(self) -> Self {
        Self { client: SocketAddr::new(self.client.ip(), 0), ..self }
    }
}

/// A client and the way to send to it. RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Who it is.
    pub five_tuple: FiveTuple,
    /// The caller's own handle for the socket or connection; handed back, never looked at.
    pub via: u32,
}
