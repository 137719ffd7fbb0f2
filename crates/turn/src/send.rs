//! Send and Data indications, and what comes back from peers. RFC 8656 §11 and §12.7.

use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Message, TransactionId, channel_data, write_data_indication_header};

use crate::allocate::Protocol;
use crate::allocation::Whereabouts;
use crate::auth::is_known;
use crate::permission::peer;
use crate::quota::Direction;
use crate::server::{Action, DropReason, Server};
use crate::sockets::RelayId;
use crate::{Client, Packet, Time};

impl Server {
    /// A Send indication: its data goes to the peer, everything wrong is dropped in silence.
    pub(crate) fn send(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
    ) -> Result<Forward, DropReason> {
        let (id, allocation) = self
            .allocations
            .of_client(&client.five_tuple, now.monotonic_ms)
            .filter(|(_, allocation)| allocation.protocol == Protocol::Udp)
            .ok_or(DropReason::NoAllocation)?;
        // RFC 8016 §3.2.2: a Send indication from where the client was going to has it there for good.
        if allocation.is_arriving(&client.five_tuple) {
            self.heard_at_last(id);
            return self.send(now, client, message);
        }
        // RFC 8489 §6.3.2: an indication with unknown comprehension-required attributes is discarded.
        if message.unknown_attributes(is_known).next().is_some() {
            return Err(DropReason::UnknownAttribute);
        }
        // RFC 8656 §11.2: both XOR-PEER-ADDRESS and DATA must be there.
        let peer = peer(message).map_err(|_| DropReason::MissingAttribute)?;
        let data = message.attributes().find(|attribute| attribute.kind == AttributeType::DATA);
        let data = data.ok_or(DropReason::MissingAttribute)?;
        if !allocation.permits(peer.ip(), now.monotonic_ms) {
            return Err(DropReason::NoPermission);
        }
        let source = allocation.source_to(peer).ok_or(DropReason::NoPermission)?;
        // A permission covers all ports of its address, the policy need not: it is asked for each.
        self.config.policy.check(peer).map_err(|_| DropReason::PeerForbidden)?;
        allocation.pass(Direction::ToPeer, now.monotonic_ms, data.value.len())?;
        allocation.tally.came_in(message.as_bytes().len());
        // RFC 8656 §11.2: DONT-FRAGMENT has the datagram sent with the DF bit.
        let dont_fragment = message.attribute(AttributeType::DONT_FRAGMENT).is_some();
        let action = if self.own_relays.contain(peer) {
            self.to_own_relay(source, peer, dont_fragment)
        } else {
            Action::ToPeer { relay: source.relay, peer, dont_fragment }
        };
        Ok(Forward { action, offset: data.offset + 4, length: data.value.len() })
    }

    pub(crate) fn data(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Action {
        let Some(allocation) = self.allocations.of_relay(relay, now.monotonic_ms) else {
            return Action::Drop(DropReason::NoAllocation);
        };
        // A TCP allocation has no datagrams: one that another allocation sends there comes to nothing.
        if allocation.protocol != Protocol::Udp {
            return Action::Drop(DropReason::NoAllocation);
        }
        // RFC 8656 §11.3: without a permission for the source's address the datagram is discarded.
        if !allocation.permits(peer.ip(), now.monotonic_ms) {
            return Action::Drop(DropReason::NoPermission);
        }
        if allocation.whereabouts == Whereabouts::Away {
            return Action::Drop(DropReason::ClientAway);
        }
        // RFC 8016 §3.2.2: while the client is moving, its old 5-tuple goes on being sent to.
        let client = allocation.client;
        let length = packet.bytes().len();
        let written = match (allocation.channel_to(peer, now.monotonic_ms), u16::try_from(length)) {
            (_, Err(_)) => return Action::Drop(DropReason::NoRoom),
            // RFC 8656 §12.5 and §12.7: with a channel bound to the peer it goes out as ChannelData,
            (Some(number), Ok(length)) => {
                let padding = if client.five_tuple.transport.is_stream() {
                    channel_data::stream_padding(length.into())
                } else {
                    0
                };
                packet.prepend(&channel_data::header(number, length)).and_then(|()| packet.pad(padding))
            }
            // A permission covers all ports of its address, the policy need not.
            (None, Ok(_)) if self.config.policy.check(peer).is_err() => {
                return Action::Drop(DropReason::PeerForbidden);
            }
            // RFC 8656 §11.3: and else as a Data indication.
            (None, Ok(_)) => {
                let mut transaction = [0; 12];
                self.rng.fill_bytes(&mut transaction);
                let transaction = TransactionId::from_bytes(transaction);
                packet
                    .prepend_with(|room| write_data_indication_header(room, transaction, peer, length))
                    .and_then(|()| packet.pad(length.next_multiple_of(4) - length))
            }
        };
        if written.is_err() {
            return Action::Drop(DropReason::NoRoom);
        }
        match allocation.pass(Direction::ToClient, now.monotonic_ms, length) {
            Ok(()) => {
                allocation.tally.went_out(packet.bytes().len());
                Action::ToClient(client)
            }
            Err(reason) => Action::Drop(reason),
        }
    }
}

/// Which part of a Send indication goes where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward {
    pub(crate) action: Action,
    pub(crate) offset: usize,
    pub(crate) length: usize,
}
