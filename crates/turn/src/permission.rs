//! CreatePermission. RFC 8656 §9 and §10.

use std::net::SocketAddr;

use stun::{AttributeType, Message, address};

use crate::allocation::Allocation;
use crate::auth::Authenticated;
use crate::reply::Answer;
use crate::server::Server;
use crate::{Client, Refusal, Time};

impl Server {
    pub(crate) fn create_permission(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
    ) -> Result<Answer, Refusal> {
        let limits = self.limits_of(identity.turn_key);
        let expires_ms = now.after_secs(self.config.permission_lifetime_secs);
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        // RFC 8656 §10.2: at least one XOR-PEER-ADDRESS, all of them valid, or nothing is done and the answer is 400.
        peers(message).next().ok_or(Refusal::PeerMissing)??;
        for peer in peers(message) {
            check_family(allocation, peer?)?;
        }
        for peer in peers(message).flatten() {
            // RFC 8656 §10.2: a peer that must not be reached is 403.
            self.config.policy.check_address(peer.ip()).map_err(Refusal::PeerForbidden)?;
        }
        let (_, allocation) = self.allocation_of(now, client, identity)?;
        let addresses = || peers(message).filter_map(Result::ok).map(|peer| peer.ip());
        // RFC 8656 §10.2: permissions that cannot all be stored are 508.
        allocation.new_peers = allocation.reserve_permissions(
            addresses(),
            now.monotonic_ms,
            limits.permissions,
            limits.new_peers,
        )?;
        addresses().for_each(|peer| allocation.permit(peer, expires_ms));
        Ok(Answer::Done)
    }
}

/// Every XOR-PEER-ADDRESS of a message, in order.
fn peers<'m>(message: &Message<'m>) -> impl Iterator<Item = Result<SocketAddr, Refusal>> + use<'m> {
    let transaction = message.transaction();
    message.attributes().filter(|attribute| attribute.kind == AttributeType::XOR_PEER_ADDRESS).map(
        move |attribute| address::decode_xor(attribute.value, transaction).ok_or(Refusal::MalformedAttribute),
    )
}

/// A message's first XOR-PEER-ADDRESS.
pub(crate) fn peer(message: &Message<'_>) -> Result<SocketAddr, Refusal> {
    peers(message).next().ok_or(Refusal::PeerMissing)?
}

/// The peer's family is one that the allocation has a relayed address of.
pub(crate) fn check_family(allocation: &Allocation, peer: SocketAddr) -> Result<(), Refusal> {
    // RFC 8656 §10.2 and §12.2: a peer of another family than the relayed address is 443.
    allocation.source_to(peer).map(|_| ()).ok_or(Refusal::PeerFamilyMismatch)
}
