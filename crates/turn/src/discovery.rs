//! NAT behaviour discovery: the answer to a Binding comes from another address or port than it was sent to. RFC 5780.

use std::net::SocketAddr;

use stun::{AttributeType, Message};

use crate::auth::is_known;
use crate::{Client, FiveTuple, Refusal, Transport};

// RFC 5780 §7.6: no longer than what makes the datagram 64K, and as long as an MTU, so that IP cuts the answer.
/// The longest PADDING of an answer: an Ethernet's MTU.
pub(crate) const MAX_PADDING: usize = 1_500;

/// The four UDP addresses of one family that answers come from: two IP addresses with the same two ports each.
/// RFC 5780 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// The first address with both ports, then the second with the same ports in the same order.
    pub sources: [[Source; 2]; 2],
}

/// An address that a listener answers from. RFC 5780 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// As [`FiveTuple::server`] names it.
    pub local: SocketAddr,
    /// As clients see it: the same, unless a NAT maps one to one.
    pub public: SocketAddr,
    /// The caller's handle for the socket, as in [`Client::via`].
    pub via: u32,
}

/// What the answer to a Binding says beside the client's address, and how it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// RESPONSE-ORIGIN.
    pub(crate) origin: SocketAddr,
    /// OTHER-ADDRESS.
    pub(crate) other: SocketAddr,
    /// The length of PADDING, at most [`MAX_PADDING`].
    pub(crate) padding: Option<usize>,
    /// From where and to where.
    pub(crate) route: Client,
}

/// Which of the four addresses a request came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'d> {
    discovery: &'d Discovery,
    second_address: bool,
    second_port: bool,
}

impl<'d> Place<'d> {
    /// The place of this client's server address, if discovery is offered there. On a stream it is not: an answer
    /// cannot come from elsewhere.
    pub(crate) fn of(offered: &'d [Discovery], five_tuple: &FiveTuple) -> Option<Self> {
        if five_tuple.transport != Transport::Udp {
            return None;
        }
        let places = offered.iter().flat_map(|discovery| {
            [(false, false), (false, true), (true, false), (true, true)]
                .map(|(second_address, second_port)| Self { discovery, second_address, second_port })
        });
        places.into_iter().find(|place| place.source(false, false).local == five_tuple.server)
    }

    /// The source that differs from this place as said.
    fn source(self, other_address: bool, other_port: bool) -> Source {
        let [[a, b], [c, d]] = self.discovery.sources;
        match (self.second_address ^ other_address, self.second_port ^ other_port) {
            (false, false) => a,
            (false, true) => b,
            (true, false) => c,
            (true, true) => d,
        }
    }

    /// How a Binding request that came here is answered.
    pub(crate) fn discover(self, client: Client, message: &Message<'_>) -> Result<Discovered, Refusal> {
        let (other_address, other_port) = match message.attribute(AttributeType::CHANGE_REQUEST) {
            None => (false, false),
            // RFC 5780 §7.2: 32 bits, of which "change IP" and "change port" count.
            Some(&[_, _, _, flags]) => (flags & 4 != 0, flags & 2 != 0),
            Some(_) => return Err(Refusal::MalformedAttribute),
        };
        let mut to = client.five_tuple.client;
        let port = message.attribute(AttributeType::RESPONSE_PORT);
        match port {
            None => {}
            // RFC 5780 §7.5: the answer goes to this port of the request's source address. The two bytes behind the
            // port are counted in the length by some clients and not by others.
            Some(&[high, low] | &[high, low, _, _]) if (high, low) != (0, 0) => {
                to.set_port(u16::from_be_bytes([high, low]));
            }
            Some(_) => return Err(Refusal::MalformedAttribute),
        }
        let padding = message.attribute(AttributeType::PADDING);
        // RFC 5780 §6.1: PADDING and RESPONSE-PORT together are 400: nobody else gets the long answer.
        if padding.is_some() && port.is_some() {
            return Err(Refusal::ContradictoryAttributes);
        }
        // RFC 5780 §6.1: the source of the response is by CHANGE-REQUEST this address or the other, this port or the
        // other, and OTHER-ADDRESS is the other of both in any case.
        let source = self.source(other_address, other_port);
        let via = if other_address || other_port { source.via } else { client.via };
        let five_tuple = FiveTuple { client: to, server: source.local, ..client.five_tuple };
        Ok(Discovered {
            origin: source.public,
            other: self.source(true, true).public,
            // RFC 5780 §6.1: PADDING is answered with PADDING. Clients make it as long as an MTU (§5); a shorter one
            // is not answered with more, so that nobody has a short request grow long.
            padding: padding.map(|value| value.len().next_multiple_of(4).min(MAX_PADDING)),
            route: Client { five_tuple, via },
        })
    }
}

/// RFC 5780 §7: the comprehension-required attributes that a Binding request, and no other, may have where discovery is offered.
pub(crate) fn is_known_here(kind: AttributeType) -> bool {
    use AttributeType as A;
    is_known(kind) || matches!(kind, A::CHANGE_REQUEST | A::RESPONSE_PORT | A::PADDING)
}
