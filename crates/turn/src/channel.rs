//! ChannelBind and ChannelData. RFC 8656 §12.

use stun::{AttributeType, ChannelNumber, Message, channel_data};

use crate::allocate::Protocol;
use crate::auth::Authenticated;
use crate::permission::{check_family, peer};
use crate::quota::Direction;
use crate::reply::Answer;
use crate::server::{Action, DropReason, Server};
use crate::{Client, Packet, Refusal, Time};

impl Server {
    pub(crate) fn channel_bind(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
    ) -> Result<Answer, Refusal> {
        let (limits, strict) = (self.limits_of(identity.turn_key), self.config.strict_channels);
        let channel_expires_ms = now.after_secs(self.config.channel_lifetime_secs);
        let permission_expires_ms = now.after_secs(self.config.permission_lifetime_secs);
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        if allocation.protocol != Protocol::Udp {
            return Err(Refusal::OtherProtocol);
        }
        // RFC 8656 §12.2: both attributes are needed, and the number lies in 0x4000 to 0x4FFF, or it is 400.
        let number = message.attribute(AttributeType::CHANNEL_NUMBER).and_then(ChannelNumber::from_attribute);
        let number = number.filter(|number| !strict || !number.is_reserved());
        let number = number.ok_or(Refusal::ChannelNumberInvalid)?;
        let peer = peer(message)?;
        check_family(allocation, peer)?;
        self.config.policy.check(peer).map_err(Refusal::PeerForbidden)?;
        let is_own_relay = self.own_relays.contain(peer);
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        // RFC 8656 §12.2: the bind also installs or refreshes a permission for the peer's address.
        let now_ms = now.monotonic_ms;
        let peers = std::iter::once(peer.ip());
        let new_peers =
            allocation.reserve_permissions(peers, now_ms, limits.permissions, limits.new_peers)?;
        allocation.bind(number, (peer, is_own_relay), now_ms, channel_expires_ms, limits.channels)?;
        allocation.new_peers = new_peers;
        allocation.permit(peer.ip(), permission_expires_ms);
        Ok(Answer::Done)
    }

    pub(crate) fn channel_data(&mut self, now: Time, client: Client, packet: &mut Packet<'_>) -> Action {
        let Some((number, length)) = channel_data::parse(packet.bytes()) else {
            return Action::Drop(DropReason::MalformedChannelData);
        };
        let found = self.allocations.of_client(&client.five_tuple, now.monotonic_ms);
        let Some((id, allocation)) = found else { return self.elsewhere(&client.five_tuple) };
        // RFC 8016 §3.2.2: ChannelData from where the client was going to has it there for good.
        if allocation.is_arriving(&client.five_tuple) {
            self.heard_at_last(id);
            return self.channel_data(now, client, packet);
        }
        // RFC 8656 §12.6: ChannelData on a channel that is not bound is discarded in silence.
        let Some((peer, is_own_relay)) = allocation.peer_of(number, now.monotonic_ms) else {
            return Action::Drop(DropReason::NoChannel);
        };
        let Some(source) = allocation.source_to(peer) else { return Action::Drop(DropReason::NoAllocation) };
        if let Err(reason) = allocation.pass(Direction::ToPeer, now.monotonic_ms, length) {
            return Action::Drop(reason);
        }
        allocation.tally.came_in(packet.bytes().len());
        match packet.narrow(channel_data::HEADER_LEN, length) {
            Ok(()) if is_own_relay => self.to_own_relay(source, peer, false),
            Ok(()) => Action::ToPeer { relay: source.relay, peer, dont_fragment: false },
            Err(_) => Action::Drop(DropReason::NoRoom),
        }
    }
}
