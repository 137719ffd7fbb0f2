//! What a Binding is answered with, and from where. RFC 8489 §6.3.1, RFC 5780 §6.1.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use stun::{AttributeType as A, Message};
use turn::{Client, Transport};

use super::Model;
use super::expected::Expected;
use super::requests::KNOWN;

/// What discovery adds to a Binding response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovered {
    /// The local address it leaves from.
    pub from: SocketAddr,
    /// The address it goes to.
    pub to: SocketAddr,
    /// RESPONSE-ORIGIN.
    pub origin: SocketAddr,
    /// OTHER-ADDRESS.
    pub other: SocketAddr,
    /// PADDING's length.
    pub padding: Option<usize>,
}

impl Model {
    pub(super) fn binding(&self, client: Client, message: &Message<'_>) -> Expected {
        let five_tuple = client.five_tuple;
        let places = self.rules.discovery.iter().filter(|_| five_tuple.transport == Transport::Udp);
        let mut places = places.map(|discovery| discovery.sources);
        let here = places.find(|sources| sources.concat().iter().any(|it| it.local == five_tuple.server));
        let more: &[A] =
            if here.is_some() { &[A::CHANGE_REQUEST, A::RESPONSE_PORT, A::PADDING] } else { &[] };
        let unknown = message.unknown_attributes(|kind| KNOWN.contains(&kind) || more.contains(&kind));
        let unknown: Vec<u16> = unknown.map(|kind| kind.0).collect();
        let refused =
            |code, unknown| Expected::Refused { codes: BTreeSet::from([code]), proof: None, unknown };
        if !unknown.is_empty() {
            return refused(420, unknown);
        }
        let mapped = five_tuple.client;
        let Some(sources) = here else { return Expected::Mapped { mapped, discovered: None } };
        let change = message.attribute(A::CHANGE_REQUEST).unwrap_or(&[0; 4]);
        let port = message.attribute(A::RESPONSE_PORT);
        let padding = message.attribute(A::PADDING).map(<[u8]>::len);
        let port_is_right = match port {
            None => true,
            Some(value) => matches!(value.len(), 2 | 4) && !value.starts_with(&[0, 0]),
        };
        if change.len() != 4 || !port_is_right || (port.is_some() && padding.is_some()) {
            return refused(400, vec![]);
        }
        let flags = change.last().copied().unwrap_or_default();
        let all = sources.concat();
        let here = all.iter().find(|it| it.local == five_tuple.server).map(|it| it.local);
        let here = here.unwrap_or(five_tuple.server);
        let at = |other_ip: bool, other_port: bool| {
            let differs = |it: &&turn::Source| {
                (it.local.ip() != here.ip()) == other_ip && (it.local.port() != here.port()) == other_port
            };
            all.iter().find(differs).copied().expect("the four are all pairs of two and two")
        };
        let (from, other) = (at(flags & 4 != 0, flags & 2 != 0), at(true, true));
        let mut to = mapped;
        if let Some(&[high, low, ..]) = port {
            to.set_port(u16::from_be_bytes([high, low]));
        }
        Expected::Mapped {
            mapped,
            discovered: Some(Discovered {
                from: from.local,
                to,
                origin: from.public,
                other: other.public,
                padding: padding.map(|length| length.next_multiple_of(4).min(1_500)),
            }),
        }
    }
}
