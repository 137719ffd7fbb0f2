//! The URLs that a client is handed.

use std::net::Ipv6Addr;

/// What a TURN listener speaks below TURN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IceTransport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// DTLS over UDP.
    Dtls,
}

impl IceTransport {
    /// The port that comes first among those of the same transport.
    fn usual_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 3478,
            Self::Tls | Self::Dtls => 5349,
        }
    }

    fn turn_url(self, host: &str, port: u16) -> String {
        let (scheme, transport) = match self {
            Self::Udp => ("turn", "udp"),
            Self::Tcp => ("turn", "tcp"),
            Self::Tls => ("turns", "tcp"),
            Self::Dtls => ("turns", "udp"),
        };
        format!("{scheme}:{host}:{port}?transport={transport}")
    }
}

/// The URLs of a deployment, in the order in which clients are told them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IceUrls {
    /// `stun:` URLs, used without a credential; at most one.
    pub stun: Vec<String>,
    /// `turn:` and `turns:` URLs, used with a credential.
    pub turn: Vec<String>,
}

impl IceUrls {
    /// The URLs of these listeners at `host`, a name or an address (IPv6 with or without brackets).
    ///
    /// The order is: STUN; then TURN over UDP, TCP, TLS and DTLS; within each the usual port first (3478, or 5349
    /// for TLS and DTLS) and the others as given. Listeners on the same port (IPv4 and IPv6, say) are one URL.
    pub fn new(host: &str, listeners: &[(IceTransport, u16)]) -> Self {
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        let mut ordered = listeners.to_vec();
        ordered.sort_by_key(|&(transport, port)| (transport, port != transport.usual_port()));
        let mut urls = Self::default();
        for (transport, port) in ordered {
            if transport == IceTransport::Udp && urls.stun.is_empty() {
                urls.stun.push(format!("stun:{host}:{port}"));
            }
            let url = transport.turn_url(&host, port);
            if !urls.turn.contains(&url) {
                urls.turn.push(url);
            }
        }
        urls
    }
}

#[cfg(test)]
mod tests {
    use super::IceTransport::{Dtls, Tcp, Tls, Udp};
    use super::*;

    fn check(host: &str, listeners: &[(IceTransport, u16)], stun: &[&str], turn: &[&str]) {
        let urls = IceUrls::new(host, listeners);
        assert_eq!(urls.stun, stun, "{host} {listeners:?}");
        assert_eq!(urls.turn, turn, "{host} {listeners:?}");
    }

    #[test]
    fn urls_stand_in_the_order_clients_expect() {
        check("t.example", &[], &[], &[]);
        check(
            "t.example",
            &[(Tls, 443), (Tcp, 80), (Udp, 53), (Tls, 5349), (Tcp, 3478), (Udp, 3478)],
            &["stun:t.example:3478"],
            &[
                "turn:t.example:3478?transport=udp",
                "turn:t.example:53?transport=udp",
                "turn:t.example:3478?transport=tcp",
                "turn:t.example:80?transport=tcp",
                "turns:t.example:5349?transport=tcp",
                "turns:t.example:443?transport=tcp",
            ],
        );
        check("t.example", &[(Dtls, 5349)], &[], &["turns:t.example:5349?transport=udp"]);
        check("t.example", &[(Tcp, 3478)], &[], &["turn:t.example:3478?transport=tcp"]);
        check(
            "t.example",
            &[(Udp, 5000), (Udp, 4000), (Udp, 5000)],
            &["stun:t.example:5000"],
            &["turn:t.example:5000?transport=udp", "turn:t.example:4000?transport=udp"],
        );
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        for host in ["2001:db8::1", "[2001:db8::1]"] {
            check(
                host,
                &[(Udp, 3478)],
                &["stun:[2001:db8::1]:3478"],
                &["turn:[2001:db8::1]:3478?transport=udp"],
            );
        }
        check("192.0.2.1", &[(Udp, 1)], &["stun:192.0.2.1:1"], &["turn:192.0.2.1:1?transport=udp"]);
    }
}
