//! Refresh. RFC 8656 §8.

use stun::{AttributeType, Message};

use crate::allocate::{Family, lifetime, requested_family, requested_lifetime};
use crate::allocation::AllocationId;
use crate::auth::Authenticated;
use crate::reply::Answer;
use crate::server::{EndReason, Server};
use crate::{Client, Refusal, Time};

impl Server {
    pub(crate) fn refresh(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
    ) -> Result<Answer, Refusal> {
        if let Some(ticket) = message.attribute(AttributeType::MOBILITY_TICKET) {
            return self.refresh_with_ticket(now, client, message, identity, ticket);
        }
        let requested = requested_lifetime(message)?;
        let family = requested_family(message);
        let (id, allocation) = self.allocation_of(now, client, identity)?;
        let family = match family {
            // RFC 8656 §8.2: a family that the allocation has no relayed address of is 443.
            Ok(Some(family)) if allocation.relay_of(family).is_none() => {
                return Err(Refusal::PeerFamilyMismatch);
            }
            Err(Refusal::FamilyUnsupported) => return Err(Refusal::PeerFamilyMismatch),
            Ok(family) => family,
            Err(refusal) => return Err(refusal),
        };
        // RFC 8656 §8.2: a LIFETIME of zero deletes the allocation, or the named family's part of a dual one.
        if requested == Some(0) {
            self.delete(now, id, family);
            return Ok(Answer::Refreshed { lifetime_secs: 0, ticket: None });
        }
        let (lifetime_secs, expires_ms) = lifetime(&self.config, now, requested, identity);
        self.allocations.set_expiry(id, expires_ms);
        Ok(Answer::Refreshed { lifetime_secs, ticket: None })
    }

    /// Ends an allocation, or the named family's part of a dual one.
    pub(crate) fn delete(&mut self, now: Time, id: AllocationId, family: Option<Family>) {
        match family.and_then(|family| self.allocations.remove_relay(id, family)) {
            Some((client, relay)) => self.close(client, relay, EndReason::Deleted),
            None => self.end(now, id, EndReason::Deleted),
        }
    }
}
