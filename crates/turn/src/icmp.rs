//! What the network says of datagrams to peers that did not arrive. RFC 8656 §11.5.

use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Class, MessageWriter, Method, TransactionId};

use crate::allocation::Whereabouts;
use crate::server::{Action, DropReason, Server};
use crate::sockets::RelayId;
use crate::{Packet, Time};

/// The longest indication: a header, an IPv6 XOR-PEER-ADDRESS and ICMP.
const MAX_LEN: usize = 20 + 24 + 12;
/// Errors that a client is told of in one second: a peer that is gone must not have every packet answered.
const MAX_PER_SECOND: u8 = 16;

/// An ICMP error about a datagram that a relay socket sent. RFC 8656 §18.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// The type, of ICMP or ICMPv6 as the peer's family is.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The next link's MTU where the datagram was too big for it; else without meaning.
    pub data: u32,
}

impl Icmp {
    /// The datagram was too big: "fragmentation needed and DF set" over IPv4, "packet too big" over IPv6.
    /// RFC 8656 §11.5.
    pub fn too_big(is_v4: bool, mtu: u32) -> Self {
        let (kind, code) = if is_v4 { (3, 4) } else { (2, 0) };
        Self { kind, code, data: mtu }
    }

    fn is_relayed(self, is_v4: bool) -> bool {
        // RFC 8656 §11.5: types 3 and 11 of ICMP, 1, 2 and 3 of ICMPv6.
        if is_v4 { matches!(self.kind, 3 | 11) } else { matches!(self.kind, 1..=3) }
    }

    /// The attribute's value.
    fn to_attribute(self, is_v4: bool) -> [u8; 8] {
        // RFC 8656 §18.13: the reserved bytes are zero, and so is the error data unless the datagram was too big.
        let is_too_big = if is_v4 { (self.kind, self.code) == (3, 4) } else { self.kind == 2 };
        let [a, b, c, d] = if is_too_big { self.data } else { 0 }.to_be_bytes();
        [0, 0, self.kind, self.code, a, b, c, d]
    }
}

/// How many errors a client was told of lately.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    since_ms: u64,
    count: u8,
}

impl Told {
    /// Counts one more, if it may be told.
    fn one_more(&mut self, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.since_ms) >= 1_000 {
            *self = Self { since_ms: now_ms, count: 0 };
        }
        let may = self.count < MAX_PER_SECOND;
        self.count += u8::from(may);
        may
    }
}

impl Server {
    /// Handles an ICMP error about a datagram that this relay socket sent to a peer. What the client is told is
    /// written to `packet`, whatever it held. RFC 8656 §11.5.
    pub fn from_peer_error(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
        packet: &mut Packet<'_>,
    ) -> Action {
        let is_v4 = peer.is_ipv4();
        if !icmp.is_relayed(is_v4) {
            return Action::Drop(DropReason::IcmpNotRelayed);
        }
        let Some(allocation) = self.allocations.of_relay(relay, now.monotonic_ms) else {
            return Action::Drop(DropReason::NoAllocation);
        };
        // RFC 8656 §11.5: the permission is that of the address the datagram went to, not of who reports.
        if !allocation.permits(peer.ip(), now.monotonic_ms) {
            return Action::Drop(DropReason::NoPermission);
        }
        // A permission covers all ports of its address, the policy need not.
        if self.config.policy.check(peer).is_err() {
            return Action::Drop(DropReason::PeerForbidden);
        }
        if allocation.whereabouts == Whereabouts::Away {
            return Action::Drop(DropReason::ClientAway);
        }
        if !allocation.icmp_told.one_more(now.monotonic_ms) {
            return Action::Drop(DropReason::TooManyErrors);
        }
        let client = allocation.client;
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let transaction = TransactionId::from_bytes(transaction);
        let mut buffer = [0; MAX_LEN];
        let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::DATA, transaction);
        // RFC 8656 §11.5: a Data indication with XOR-PEER-ADDRESS, where the datagram went to, and ICMP, without DATA.
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::ICMP, &icmp.to_attribute(is_v4));
        let length = writer.finish().unwrap_or_default();
        match packet.replace(buffer.get(..length).unwrap_or_default()) {
            Ok(()) => Action::ToClient(client),
            Err(_) => Action::Drop(DropReason::NoRoom),
        }
    }
}
