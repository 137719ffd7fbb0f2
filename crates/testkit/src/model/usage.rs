//! What has gone through each allocation, and which of them an operator has ended.

use turn::{EndReason, Ending, RelayId, Report, SessionId, Time, Traffic, Usage};

use super::limits::Way;
use super::{Allocation, Model, Place};

/// What has gone through an allocation, and what the server has said of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    usage: Usage,
    /// Its name, once the server has told it.
    session: Option<SessionId>,
    sequence: u64,
    said: Usage,
    ended: Option<EndReason>,
}

fn more(traffic: &mut Traffic, packets: u64, bytes: u64) {
    traffic.packets += packets;
    traffic.bytes += bytes;
}

impl Allocation {
    /// What has gone through it.
    pub fn usage(&self) -> Usage {
        self.counted.usage
    }

    /// What the server calls it, as far as it has said so.
    pub fn session(&self) -> Option<SessionId> {
        self.counted.session
    }

    /// Its end is the one that was said last of it.
    pub(super) fn has_said(&self, reason: EndReason) -> bool {
        self.counted.ended == Some(reason)
    }
}

impl Model {
    fn is_meant(&self, allocation: &Allocation, ending: &Ending) -> bool {
        let Some(account) = self.accounts.get(&allocation.username) else { return false };
        match ending {
            Ending::Session(id) => allocation.counted.session == Some(*id),
            Ending::Credential(id) => account.id == *id,
            Ending::Key(key) => account.turn_key == *key,
            Ending::CustomIdentifier { turn_key, custom_identifier } => {
                account.turn_key == *turn_key && account.custom_identifier == **custom_identifier
            }
        }
    }

    /// An operator ends sessions.
    pub fn end_sessions(&mut self, now: Time, ending: Ending) {
        for place in 0..self.allocations.len() {
            let held = self.allocations.get(place);
            let is_meant =
                held.is_some_and(|held| held.place != Place::UnderWay && self.is_meant(held, &ending));
            if let Some(held) = self.allocations.get_mut(place) {
                held.terminated |= is_meant;
            }
        }
        self.endings.push((now.monotonic_ms, ending));
    }

    /// Whether an allocation that was under way was ended meanwhile.
    pub(super) fn was_terminated(&self, allocation: &Allocation) -> bool {
        let mut since = self.endings.iter().filter(|(at_ms, _)| allocation.made_ms <= *at_ms);
        since.any(|(_, ending)| self.is_meant(allocation, ending))
    }

    /// A message of so many bytes goes through the allocation of a relay socket.
    pub(super) fn tally(&mut self, relay: RelayId, way: Way, bytes: usize) {
        let Some(held) = self.allocations.iter_mut().find(|held| held.has(relay)) else { return };
        let Usage { ingress, egress } = &mut held.counted.usage;
        more(if matches!(way, Way::ToPeer) { ingress } else { egress }, 1, bytes as u64);
    }

    /// So many bytes go through a connection with a peer, each way.
    pub fn transferred(&mut self, relay: RelayId, to_peer: u64, to_client: u64) {
        let Some(held) = self.allocations.iter_mut().find(|held| held.has(relay)) else { return };
        more(&mut held.counted.usage.ingress, 0, to_peer);
        more(&mut held.counted.usage.egress, 0, to_client);
    }

    /// The server reports what has gone through an allocation.
    ///
    /// # Errors
    /// When it is something else.
    pub fn reported(&mut self, report: &Report) -> Result<(), String> {
        let relayed: Vec<_> = report.relayed.iter().flatten().collect();
        let is_it = |held: &Allocation| held.relays.iter().any(|relay| relayed.contains(&&relay.address));
        let place = self.allocations.iter().position(is_it);
        let place = place.ok_or_else(|| format!("there is nothing like {report:?}"))?;
        let Some(held) = self.allocations.get_mut(place) else { return Ok(()) };
        let counted = &mut held.counted;
        let session = &report.session;
        let account = self.accounts.get(&held.username);
        let fits = account.is_some_and(|account| {
            (session.turn_key, session.credential) == (account.turn_key, account.id)
                && session.custom_identifier == account.custom_identifier
        });
        let fits = fits
            && session.username == held.username
            && session.relays_tcp == held.tcp
            && session.started.monotonic_ms == held.made_ms
            && relayed.len() == held.relays.len()
            && report.client == held.client.five_tuple
            && counted.session.is_none_or(|known| known == session.id)
            && report.sequence == counted.sequence + 1
            && report.usage == counted.usage
            && counted.ended.is_none();
        if !fits {
            return Err(format!("{report:?} is said of {held:?}"));
        }
        (counted.session, counted.sequence) = (Some(session.id), report.sequence);
        (counted.said, counted.ended) = (report.usage, report.ended);
        let twins = self.allocations.iter().filter(|held| held.counted.session == Some(session.id));
        if twins.count() > 1 { Err(format!("two are called {:?}", session.id)) } else { Ok(()) }
    }

    /// A worker has gone through all of its allocations to report them: none is left of which not all is said.
    ///
    /// # Errors
    /// Names one.
    pub fn check_reported(&self, worker: usize) -> Result<(), String> {
        let mut here = self.allocations.iter().filter(|held| held.place == Place::At(worker));
        let left = here.find(|held| held.counted.sequence == 0 || held.counted.said != held.counted.usage);
        left.map_or(Ok(()), |left| Err(format!("not reported: {left:?}")))
    }
}
