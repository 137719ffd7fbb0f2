//! The URLs that a client is handed.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::value::{RawValue, to_raw_value};

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
    /// `stun:` URLs, used without a credential.
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

    /// URLs that an operator has chosen, in this order.
    ///
    /// # Errors
    /// When one is not a STUN or TURN URL, a TURN URL does not say its transport, or there is no TURN URL.
    pub fn chosen(urls: &[String]) -> Result<Self, IceUrlError> {
        let mut chosen = Self::default();
        for url in urls {
            let is_turn = check(url).ok_or_else(|| IceUrlError::Malformed(url.clone()))?;
            let list = if is_turn { &mut chosen.turn } else { &mut chosen.stun };
            if list.contains(url) {
                return Err(IceUrlError::Twice(url.clone()));
            }
            list.push(url.clone());
        }
        if chosen.turn.is_empty() {
            return Err(IceUrlError::NoTurn);
        }
        Ok(chosen)
    }
}

/// The same lists, written as JSON once and not for every credential.
#[derive(Debug)]
pub(crate) struct WrittenUrls {
    /// `None` if there are none.
    pub(crate) stun: Option<Box<RawValue>>,
    pub(crate) turn: Box<RawValue>,
    /// Those of STUN, then those of TURN.
    pub(crate) all: Box<RawValue>,
}

impl WrittenUrls {
    pub(crate) fn of(urls: &IceUrls) -> Self {
        // Text can always be written.
        let written = |urls: &[String]| to_raw_value(urls).unwrap_or_default();
        Self {
            stun: (!urls.stun.is_empty()).then(|| written(&urls.stun)),
            turn: written(&urls.turn),
            all: written(&[urls.stun.as_slice(), &urls.turn].concat()),
        }
    }
}

/// A list of URLs cannot be handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IceUrlError {
    /// It would be refused by clients, or understood in different ways.
    #[error(
        "{0:?} is not stun:HOST[:PORT], stuns:HOST[:PORT], turn:HOST[:PORT]?transport=udp (or tcp) or \
         turns:HOST[:PORT]?transport=tcp (or udp)"
    )]
    Malformed(String),
    /// It stands there more than once.
    #[error("{0:?} is given twice")]
    Twice(String),
    /// Only STUN.
    #[error("none of them is a turn: or turns: URL, so nobody could relay")]
    NoTurn,
}

/// Whether a URL is one of TURN, or else of STUN; `None` if it is neither. RFC 7064 §3.1, RFC 7065 §3.1.
fn check(url: &str) -> Option<bool> {
    let (scheme, rest) = url.split_once(':')?;
    let is_turn = match scheme {
        "stun" | "stuns" => false,
        "turn" | "turns" => true,
        _ => return None,
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    // RFC 7064 §3.1: a STUN URL has no query. Browsers differ in what a TURN URL without one means.
    let queries: &[Option<&str>] =
        if is_turn { &[Some("transport=udp"), Some("transport=tcp")] } else { &[None] };
    (queries.contains(&query) && is_place(place)).then_some(is_turn)
}

/// Whether the text is `HOST[:PORT]`, an IPv6 address in brackets.
fn is_place(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, rest.strip_prefix(':').or(Some(""))),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_port = |port: &str| !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_name = |host: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        host.split('.').all(|label| !label.is_empty() && label.bytes().all(plain))
    };
    let is_host = if text.starts_with('[') {
        host.parse::<Ipv6Addr>().is_ok()
    } else {
        host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || is_name(host)
    };
    is_host && port.is_none_or(is_port)
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
    fn chosen_urls_are_checked_and_stay_in_order() {
        let list = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let good = [
            "stun:t.example",
            "stuns:t.example:443",
            "turns:[2001:db8::1]:443?transport=tcp",
            "turn:192.0.2.1:3478?transport=udp",
            "turn:t-1.example?transport=tcp",
            "turns:[2001:db8::1]?transport=udp",
        ];
        let urls = IceUrls::chosen(&list(&good)).unwrap();
        assert_eq!((urls.stun, urls.turn), (list(&good[..2]), list(&good[2..])));
        for bad in [
            "",
            "turn",
            "http://t.example?transport=udp",
            "turn:t.example",
            "turn:t.example:3478",
            "turn:t.example?transport=sctp",
            "turn:t.example?transport=udp&x=y",
            "turn://t.example?transport=udp",
            "turn:?transport=udp",
            "turn:t.example:0?transport=udp",
            "turn:t.example:70000?transport=udp",
            "turn:t.example:+80?transport=udp",
            "turn:t.example:?transport=udp",
            "turn:2001:db8::1?transport=udp",
            "turn:[t.example]?transport=udp",
            "turn:[::1]443?transport=udp",
            "turn:a b?transport=udp",
            "turn:u@t.example?transport=udp",
            "stun:t.example?transport=udp",
            "TURN:t.example?transport=udp",
        ] {
            let given = list(&[good[3], bad]);
            assert_eq!(IceUrls::chosen(&given), Err(IceUrlError::Malformed(bad.to_owned())), "{bad}");
        }
        assert_eq!(IceUrls::chosen(&list(&good[..2])), Err(IceUrlError::NoTurn));
        assert_eq!(IceUrls::chosen(&[]), Err(IceUrlError::NoTurn));
        assert_eq!(IceUrls::chosen(&list(&[good[3]; 2])), Err(IceUrlError::Twice(good[3].to_owned())));
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
