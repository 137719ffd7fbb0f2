//! Refresh. RFC 8656 §8.

use stun::Message;

use crate::allocate::{Family, lifetime, requested_family, requested_lifetime};
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
        let requested = requested_lifetime(message)?;
        let family = requested_family(message);
        let (id, allocation) = self.allocation_of(now, client, identity)?;
        // RFC 8656 §8.2: a family that is not the allocation's is 443.
        match family {
            Ok(None) => {}
            Ok(Some(family)) if family == Family::of(allocation.relayed) => {}
            Ok(Some(_)) | Err(Refusal::FamilyUnsupported) => return Err(Refusal::PeerFamilyMismatch),
            Err(refusal) => return Err(refusal),
        }
        // RFC 8656 §8.2: a LIFETIME of zero deletes the allocation.
        if requested == Some(0) {
            self.end(id, EndReason::Deleted);
            return Ok(Answer::Refreshed { lifetime_secs: 0 });
        }
        let (lifetime_secs, expires_ms) = lifetime(&self.config, now, requested, identity);
        self.allocations.set_expiry(id, expires_ms);
        Ok(Answer::Refreshed { lifetime_secs })
    }
}
