//! What packets lead to: from clients, and from peers.

use std::net::SocketAddr;

use stun::{AttributeType, Class, Fingerprint, Message, Method};
use turn::{Client, Icmp, RelayId, Time};

use super::expected::Expected;
use super::limits::Way;
use super::requests::{peers, unknown_attributes};
use super::{Model, Relay};

impl Model {
    /// What must come of a client's packet. `in_use`: how many ports the system says are in use
    /// before it opens one; `None` when it opens none at all.
    pub fn from_client(&mut self, now: Time, client: Client, packet: &[u8], in_use: Option<u32>) -> Expected {
        let expected = match packet.first() {
            Some(0x40..=0x7F) => self.channel_data(now, client, packet).unwrap_or(Expected::Silence),
            Some(0..=3) => self.message(now, client, packet, in_use),
            _ => Expected::Silence,
        };
        self.answer_to_stranger(now, client, expected)
    }

    fn message(&mut self, now: Time, client: Client, packet: &[u8], in_use: Option<u32>) -> Expected {
        let Ok(message) = Message::parse(packet) else { return Expected::Silence };
        if message.fingerprint() == Fingerprint::Wrong {
            return Expected::Silence;
        }
        match (message.class(), message.method()) {
            (Class::Request, _) => self.request(now, client, &message, in_use),
            (Class::Indication, Method::SEND) => {
                self.send(now, client, &message).unwrap_or(Expected::Silence)
            }
            _ => Expected::Silence,
        }
    }

    /// RFC 8656 §12.6.
    fn channel_data(&mut self, now: Time, client: Client, packet: &[u8]) -> Option<Expected> {
        let (&[c0, c1, l0, l1], rest) = packet.split_first_chunk::<4>()?;
        let data = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
        self.heard(now, client);
        let allocation = self.live(client, now)?;
        let peer = allocation.channel(u16::from_be_bytes([c0, c1]), now)?;
        let relay = allocation.relay_to(peer)?;
        if !self.pass(now, relay.id, Way::ToPeer, data.len()) {
            return None;
        }
        self.tally(relay.id, Way::ToPeer, packet.len());
        Some(self.relayed(relay, peer, false, data.to_vec()))
    }

    /// RFC 8656 §11.2.
    fn send(&mut self, now: Time, client: Client, message: &Message<'_>) -> Option<Expected> {
        self.heard(now, client);
        let allocation = self.live(client, now)?;
        let peer = peers(message).first().copied().flatten()?;
        let data = message.attribute(AttributeType::DATA)?.to_vec();
        let may_pass = unknown_attributes(message).is_empty()
            && !allocation.tcp
            && allocation.permits(peer.ip(), now)
            && self.may_reach(peer);
        let dont_fragment = message.attribute(AttributeType::DONT_FRAGMENT).is_some();
        let relay = allocation.relay_to(peer)?;
        if !may_pass || !self.pass(now, relay.id, Way::ToPeer, data.len()) {
            return None;
        }
        self.tally(relay.id, Way::ToPeer, message.as_bytes().len());
        Some(self.relayed(relay, peer, dont_fragment, data))
    }

    /// To another allocation's relayed address it goes at once; if nobody here has that address, to where the host itself
    /// reaches it.
    fn relayed(&self, relay: Relay, peer: SocketAddr, dont_fragment: bool, data: Vec<u8>) -> Expected {
        let here = self.allocations.iter().filter(|held| self.is_here(held));
        let mut here = here.flat_map(|held| &held.relays);
        if let Some(other) = here.find(|other| other.address == peer) {
            return Expected::ToRelay { relay: other.id, from: relay.address, data };
        }
        Expected::ToPeer { relay: relay.id, peer: self.reached_at(peer), dont_fragment, data }
    }

    /// Where the host itself reaches a peer.
    pub(super) fn reached_at(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.rules.relays.iter().find(|own| own.public == peer.ip());
        let is_own = own.filter(|_| self.rules.ports.contains(peer.port()));
        is_own.map_or(peer, |own| SocketAddr::new(own.local, peer.port()))
    }

    /// A relayed address by its public side.
    pub(super) fn as_known_to_peers(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.rules.relays.iter().find(|own| own.local == peer.ip());
        let is_own = own.filter(|_| self.rules.ports.contains(peer.port()));
        is_own.map_or(peer, |own| SocketAddr::new(own.public, peer.port()))
    }

    /// What must come of a peer's datagram. RFC 8656 §11.3 and §12.7.
    pub fn from_peer(&mut self, now: Time, relay: RelayId, peer: SocketAddr, data: &[u8]) -> Expected {
        let peer = self.as_known_to_peers(peer);
        let mut live = self.allocations.iter().filter(|allocation| allocation.is_live(now));
        let permitted = live.find(|a| a.has(relay)).filter(|a| !a.tcp && a.permits(peer.ip(), now));
        let Some(allocation) = permitted else { return Expected::Silence };
        if allocation.mobile.as_ref().is_some_and(|mobile| mobile.is_away) {
            return Expected::Silence;
        }
        let channel = allocation.channel_to(peer, now);
        if channel.is_none() && !self.may_reach(peer) {
            return Expected::Silence;
        }
        // A Data indication's length field counts the attributes' headers and the peer's address, too.
        let room = match (channel, peer) {
            (Some(_), _) => 65_535,
            (None, SocketAddr::V4(_)) => 65_532 - 16,
            (None, SocketAddr::V6(_)) => 65_532 - 28,
        };
        if data.len() > room {
            return Expected::Silence;
        }
        let client = allocation.client;
        if !self.pass(now, relay, Way::ToClient, data.len()) {
            return Expected::Silence;
        }
        let padded = data.len().next_multiple_of(4);
        let length = match (channel, peer) {
            (Some(_), _) if client.five_tuple.transport.is_stream() => 4 + padded,
            (Some(_), _) => 4 + data.len(),
            // A message's header, XOR-PEER-ADDRESS, and DATA's header.
            (None, SocketAddr::V4(_)) => 20 + 12 + 4 + padded,
            (None, SocketAddr::V6(_)) => 20 + 24 + 4 + padded,
        };
        self.tally(relay, Way::ToClient, length);
        Expected::ToClient { client, peer, channel, data: data.to_vec() }
    }

    /// What must come of an ICMP error about a datagram to this peer. RFC 8656 §11.5; at most 16 in a second are told.
    pub fn from_peer_error(&mut self, now: Time, relay: RelayId, peer: SocketAddr, icmp: Icmp) -> Expected {
        let kinds: &[u8] = if peer.is_ipv4() { &[3, 11] } else { &[1, 2, 3] };
        let reached = kinds.contains(&icmp.kind) && self.may_reach(peer);
        let mut live = self.allocations.iter_mut().filter(|allocation| allocation.is_live(now));
        let permitted = live.find(|a| a.has(relay)).filter(|a| reached && a.permits(peer.ip(), now));
        let permitted = permitted.filter(|a| a.mobile.as_ref().is_none_or(|mobile| !mobile.is_away));
        let Some(allocation) = permitted else { return Expected::Silence };
        let (since_ms, count) = &mut allocation.errors;
        if now.monotonic_ms - *since_ms >= 1_000 {
            (*since_ms, *count) = (now.monotonic_ms, 0);
        }
        if *count == 16 {
            return Expected::Silence;
        }
        *count += 1;
        let says_mtu = if peer.is_ipv4() { icmp.kind == 3 && icmp.code == 4 } else { icmp.kind == 2 };
        let data = if says_mtu { icmp.data } else { 0 };
        Expected::Undelivered { client: allocation.client, peer, icmp: Icmp { data, ..icmp } }
    }
}
