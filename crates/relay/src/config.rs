use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use credentials::Keyring;
use rustls::ServerConfig;
use turn::{Cidr, PortRange, RelayAddress, Transport};

use crate::DtlsIdentity;

/// What a relay is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// Second addresses for NAT behaviour discovery, at most one of a family.
    pub alternates: Vec<Alternate>,
    /// How many worker threads; at least one.
    pub workers: usize,
    /// The server of each worker. Its policy is told the listeners and relay addresses by the relay.
    pub turn: turn::Config,
    /// Where relayed addresses get their ports.
    pub relay_ports: PortRange,
    /// Opens usernames.
    pub keyring: Arc<Keyring>,
    /// Proxies, which are believed when they say with the PROXY protocol whose a TCP connection is.
    pub proxies: Vec<Cidr>,
    /// What TLS is spoken with; whoever connects later finds what is there then. `None`: TLS is not spoken.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// Bounds for TCP clients.
    pub stream_limits: StreamLimits,
    /// What DTLS sessions are begun with; whoever begins one later finds what is there then. `None`: DTLS is not spoken.
    pub dtls: Option<Arc<ArcSwap<DtlsIdentity>>>,
    /// Bounds for DTLS clients.
    pub dtls_limits: DtlsLimits,
}

/// An address that clients send to, written `udp://IP:PORT`; likewise `tcp`, `tls` and `dtls`. Two that differ only in
/// whether they are secured share one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// How.
    pub transport: Transport,
    /// Where; a wildcard address listens on all of its family.
    pub address: SocketAddr,
}

/// A second address and port, from which a Binding sent to the first UDP listener of its family can be answered.
/// RFC 5780 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alternate {
    /// The listener's own address, or the one of its wildcard that clients are pointed to.
    pub primary: RelayAddress,
    /// The second address.
    pub other: RelayAddress,
    /// The second port, which is opened on both addresses as the listener's is; 0 takes any free one.
    pub port: u16,
}

/// The text is no listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenerError {
    /// No scheme, or one that is unknown.
    #[error("{0:?} does not begin with udp://, tcp://, tls:// or dtls://")]
    Scheme(String),
    /// What follows is no address.
    #[error("{0:?}: behind the scheme comes IP:PORT, such as udp://0.0.0.0:3478 or tcp://[::]:3478")]
    Address(String),
}

const SCHEMES: [(&str, Transport); 4] =
    [("udp", Transport::Udp), ("tcp", Transport::Tcp), ("tls", Transport::Tls), ("dtls", Transport::Dtls)];

impl FromStr for Listener {
    type Err = ListenerError;

    fn from_str(text: &str) -> Result<Self, ListenerError> {
        let transport = |scheme: &str| SCHEMES.iter().find(|(name, _)| *name == scheme).map(|(_, it)| *it);
        let found = text.split_once(':').and_then(|(scheme, rest)| Some((transport(scheme)?, rest)));
        let (transport, rest) = found.ok_or_else(|| ListenerError::Scheme(text.to_owned()))?;
        let address = rest.strip_prefix("//").unwrap_or(rest);
        let address = address.parse().map_err(|_| ListenerError::Address(text.to_owned()))?;
        Ok(Self { transport, address })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = SCHEMES.iter().find(|(_, transport)| *transport == self.transport);
        write!(f, "{}://{}", named.map_or("", |(scheme, _)| scheme), self.address)
    }
}

/// What a socket takes: messages as they are, or within TLS or DTLS, or both, told apart by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Takes {
    pub(crate) plain: bool,
    pub(crate) secured: bool,
}

impl Takes {
    /// What one listener asks for.
    pub(crate) fn of(transport: Transport) -> Self {
        Self { plain: !transport.is_secured(), secured: transport.is_secured() }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self { plain: self.plain || other.plain, secured: self.secured || other.secured }
    }
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listener}")]
pub struct BindError {
    /// Which one.
    pub listener: Listener,
    /// What the system said.
    pub source: io::Error,
}

/// Bounds for clients on streams; each holds for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Connections open at once.
    pub connections: usize,
    /// Connections open at once from one IPv4 address or one IPv6 /64.
    pub connections_per_address: usize,
    /// Bytes that may wait for a client which does not read; what comes then is dropped, whole frames at a time.
    pub outbound_bytes: usize,
    /// The longest frame before the client has an allocation, in bytes.
    pub unallocated_frame_bytes: usize,
    /// How long the rest of a frame may take, in milliseconds.
    pub partial_frame_ms: u64,
    /// How long a connection may be silent while it has no allocation, in milliseconds.
    pub unallocated_idle_ms: u64,
    /// How long a connection may be without an allocation at all, in milliseconds.
    pub unallocated_total_ms: u64,
    /// How long a data connection and its peer may be silent, in milliseconds. RFC 6062 §4.6.
    pub pair_idle_ms: u64,
    /// The same after one of them has ended its side.
    pub pair_half_open_ms: u64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_address: 1_024,
            outbound_bytes: 256 << 10,
            unallocated_frame_bytes: 2_048,
            partial_frame_ms: 10_000,
            unallocated_idle_ms: 15_000,
            unallocated_total_ms: 120_000,
            // RFC 5382 §5: no shorter than what a NAT must allow, two hours and four minutes, and four minutes.
            pair_idle_ms: 7_440_000,
            pair_half_open_ms: 240_000,
        }
    }
}

/// Bounds for clients on DTLS; each holds for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtlsLimits {
    /// Sessions at once, in which handshakes are counted.
    pub sessions: usize,
    /// The same from one IPv4 address or one IPv6 /64.
    pub sessions_per_address: usize,
    /// Handshakes at once that are not complete.
    pub handshakes: usize,
    /// How long a session may be silent while it has no allocation, in milliseconds.
    pub unallocated_idle_ms: u64,
    /// How long a session may be without an allocation at all, in milliseconds.
    pub unallocated_total_ms: u64,
}

impl Default for DtlsLimits {
    fn default() -> Self {
        Self {
            sessions: 16_384,
            sessions_per_address: 1_024,
            handshakes: 4_096,
            unallocated_idle_ms: 15_000,
            unallocated_total_ms: 120_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_wrong_ones_explained() {
        for good in [
            "udp://0.0.0.0:3478",
            "tcp://[::]:3478",
            "tcp://127.0.0.1:0",
            "tls://[::1]:443",
            "dtls://1.2.3.4:5",
        ] {
            let read: Listener = good.parse().unwrap();
            assert_eq!(read.to_string(), good);
            assert_eq!(good.replace("//", "").parse(), Ok(read));
        }
        for (bad, hint) in [
            ("", "udp://, tcp://"),
            ("0.0.0.0:3478", "udp://, tcp://"),
            ("http://0.0.0.0:3478", "udp://, tcp://"),
            ("tlsv://0.0.0.0:3478", "udp://, tcp://"),
            ("udp://0.0.0.0", "IP:PORT"),
            ("udp://localhost:3478", "IP:PORT"),
            ("tcp://0.0.0.0:70000", "IP:PORT"),
        ] {
            let error = bad.parse::<Listener>().unwrap_err().to_string();
            assert!(error.contains(hint) && error.contains(bad), "{error}");
        }
    }
}
