//! The old paths of mobile clients: what still arrives here for an allocation that is another worker's by now.
//! RFC 8016 §3.2.2.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;
use stun::{AttributeType, Message, Method};

use crate::server::{Action, DropReason, Server};
use crate::sockets::RelaySockets;
use crate::{Client, FiveTuple, Packet, Time, WorkerId};

/// Clients that are heard here although their allocation is another worker's: bounded like allocations, and each for
/// the longest lifetime since it last asked for something here.
#[derive(Debug)]
pub(crate) struct Departed {
    by_client: HashMap<FiveTuple, Gone, FixedState>,
    /// When each is forgotten, in monotonic milliseconds; those that were removed before are still in it.
    due: VecDeque<(u64, FiveTuple, u64)>,
    entries: u64,
}

#[derive(Debug)]
struct Gone {
    to: WorkerId,
    /// Tells it from an earlier entry of the same client.
    entry: u64,
}

impl Departed {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            by_client: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            due: VecDeque::new(),
            entries: 0,
        }
    }

    /// Who has this client's allocation.
    pub(crate) fn of_client(&self, client: &FiveTuple) -> Option<WorkerId> {
        self.by_client.get(client).map(|gone| gone.to)
    }

    fn insert(&mut self, client: FiveTuple, to: WorkerId, until_ms: u64, limit: usize) {
        let limit = limit.max(1);
        self.by_client.remove(&client);
        while self.by_client.len() >= limit {
            self.forget_first();
        }
        // Half of it is of no use then: so seldom that it costs each client next to nothing.
        if self.due.len() >= 2 * limit {
            let held = &self.by_client;
            self.due.retain(|(_, client, entry)| held.get(client).is_some_and(|gone| gone.entry == *entry));
        }
        self.entries += 1;
        self.by_client.insert(client, Gone { to, entry: self.entries });
        self.due.push_back((until_ms, client, self.entries));
    }

    pub(crate) fn remove(&mut self, client: &FiveTuple) -> Option<WorkerId> {
        self.by_client.remove(client).map(|gone| gone.to)
    }

    fn forget_first(&mut self) {
        let Some((_, client, entry)) = self.due.pop_front() else { return };
        if self.by_client.get(&client).is_some_and(|gone| gone.entry == entry) {
            self.by_client.remove(&client);
        }
    }

    /// Forgets those whose time is over.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while self.due.front().is_some_and(|(until_ms, ..)| *until_ms <= now_ms) {
            self.forget_first();
        }
    }
}

impl Server {
    /// Passes on what arrives from this client, from now on.
    pub(crate) fn note_departure(&mut self, now: Time, client: FiveTuple, to: WorkerId) {
        let until_ms = now.after_secs(self.config.max_lifetime_secs);
        self.departed.insert(client, to, until_ms, self.config.limits.allocations);
    }

    /// Where a client's packets go that has no allocation here.
    pub(crate) fn elsewhere(&self, client: &FiveTuple) -> Action {
        self.departed.of_client(client).map_or(Action::Drop(DropReason::NoAllocation), Action::Pass)
    }

    /// The worker that a client's request is for, if its allocation is there: any request but those of a client
    /// that comes with a ticket, for it is here that it wants to be.
    pub(crate) fn request_goes_to(
        &mut self,
        now: Time,
        client: &Client,
        message: &Message<'_>,
    ) -> Option<WorkerId> {
        let to = self.departed.of_client(&client.five_tuple)?;
        let comes_back = message.method() == Method::REFRESH
            && message.attribute(AttributeType::MOBILITY_TICKET).is_some();
        if comes_back || message.method() == Method::BINDING {
            return None;
        }
        // It may be a Refresh, with which the allocation outlives what is known of it here.
        self.note_departure(now, client.five_tuple, to);
        Some(to)
    }

    /// Handles what [`Action::Pass`] has brought from another worker. If the allocation's client is there no more,
    /// the answer is [`Action::Pass`] to whom it came from, and it is for that one's [`Server::passed_back`].
    /// RFC 8016 §3.2.2.
    pub fn passed(
        &mut self,
        now: Time,
        from: WorkerId,
        client: Client,
        packet: &mut Packet<'_>,
        sockets: &mut impl RelaySockets,
    ) -> Action {
        // What has run out is not held: a new allocation belongs where its client is heard.
        if self.allocations.of_client(&client.five_tuple, now.monotonic_ms).is_some() {
            return self.from_client(now, client, packet, sockets);
        }
        Action::Pass(from)
    }

    /// Handles what another worker has passed back: the client has no allocation there. It may have gone on from there
    /// to a third one: then that is what [`Action::Pass`] names. RFC 8016 §3.2.2.
    pub fn passed_back(
        &mut self,
        now: Time,
        from: WorkerId,
        client: Client,
        packet: &mut Packet<'_>,
        sockets: &mut impl RelaySockets,
    ) -> Action {
        if self.departed.of_client(&client.five_tuple) == Some(from) {
            self.departed.remove(&client.five_tuple);
        }
        self.from_client(now, client, packet, sockets)
    }
}
