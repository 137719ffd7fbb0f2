//! Mobility: an allocation follows its client to another address, transport or worker. RFC 8016.
//!
//! The worker that the client comes to (its ticket in a Refresh) holds nothing while it waits: it verifies the
//! request and writes a [`Note`] to the worker that the ticket names. That one takes the whole allocation out of
//! its tables and sends it along as a [`Traveller`], with what is needed to answer the client. Until the client is
//! heard at its new place, or its old connection is closed, the old one goes on: what arrives there is passed on.

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Message, Method, TransactionId};

use crate::allocate::{Family, Protocol, lifetime, requested_family, requested_lifetime};
use crate::allocation::{Allocation, AllocationId, Whereabouts};
use crate::auth::Authenticated;
use crate::reply::{Answer, Asked, Response};
use crate::server::{EndReason, Output, Server};
use crate::sockets::RelayId;
use crate::ticket::{GENERATIONS, Identity, Sealed, Ticket};
use crate::{Client, FiveTuple, Refusal, Reply, Report, Time, WorkerId};

/// What makes an allocation mobile.
#[derive(Debug)]
pub(crate) struct Mobility {
    pub(crate) identity: Identity,
    /// How often it has moved: only the ticket that says the same is good.
    generation: u32,
    /// The ticket that Allocate was answered with.
    pub(crate) first: Sealed,
    /// Where its client is going, while [`Whereabouts::Moving`].
    pub(crate) next: Option<Client>,
    /// The worker that hears its client; another one than this while it is moving.
    home: WorkerId,
    /// How the last move was answered, for a retransmitted Refresh.
    moved: Option<Moved>,
}

#[derive(Debug, Clone, Copy)]
struct Moved {
    client: FiveTuple,
    transaction: TransactionId,
    answer: Answer,
}

/// A client that has come with a ticket, verified by the worker that it has come to.
#[derive(Debug)]
pub(crate) struct Claim {
    from: WorkerId,
    client: Client,
    ticket: Ticket,
    asked: Asked,
    identity: Authenticated,
    lifetime_secs: Option<u32>,
    family: Option<Family>,
}

/// What one worker's server tells another's. One that gets lost costs its client a retransmission, or lets an old
/// path end a little later. RFC 8016 §3.2.2.
#[derive(Debug)]
pub struct Note(Kind);

#[derive(Debug)]
enum Kind {
    /// To the owner.
    Claim(Box<Claim>),
    /// To whom the client has come: nothing moves.
    Answered(Box<Claim>, Box<Result<Answer, Refusal>>),
    /// To where packets of this client still arrive: it has moved for good.
    Heard(FiveTuple),
    /// To the owner: the client's old connection, here, is closed.
    Gone { client: FiveTuple, at: WorkerId },
    /// To where packets of this client still arrive: its allocation has gone on to another worker.
    GoneOn(FiveTuple, WorkerId),
}

/// An allocation on its way to another worker. Its ports are free again when it is dropped, so drop it after its
/// sockets are closed. RFC 8016 §3.2.2.
#[derive(Debug)]
pub struct Traveller {
    allocation: Allocation,
    claim: Box<Claim>,
    /// It could not be taken in where it was sent.
    returns: bool,
}

impl Traveller {
    /// Its relay sockets, in an order that stays: to be replaced by the numbers they get where it arrives.
    /// RFC 8016 §3.2.2.
    pub fn relays_mut(&mut self) -> impl Iterator<Item = &mut RelayId> {
        self.allocation.relays_mut().map(|relay| &mut relay.id)
    }

    /// Its last report, when nobody can take it in. RFC 8016 §3.2.2.
    pub fn lost(mut self, now: Time) -> Box<Report> {
        self.allocation.report(now, Some(EndReason::Lost))
    }
}

/// What the owner makes of a claim.
enum Judged {
    Moves,
    Answered(Answer),
}

impl Server {
    /// Whether an Allocate asks for mobility, and may.
    pub(crate) fn wants_mobility(&self, message: &Message<'_>, protocol: Protocol) -> Result<bool, Refusal> {
        match message.attribute(AttributeType::MOBILITY_TICKET) {
            None => Ok(false),
            // RFC 8016 §3.1.2: a ticket of non-zero length in Allocate is 400.
            Some([_, ..]) => Err(Refusal::TicketInvalid),
            // RFC 8016 §3.1.2: where mobility is forbidden by local policy, the request is refused with 405.
            Some([]) if !self.config.mobility => Err(Refusal::MobilityForbidden),
            // Data connections cannot move: they end with the client's.
            Some([]) if protocol == Protocol::Tcp => Err(Refusal::MobilityForbidden),
            Some([]) => Ok(true),
        }
    }

    /// Gives a new allocation its identity and its first ticket, which the answer to Allocate carries.
    pub(crate) fn make_mobile(&mut self, id: AllocationId) -> Sealed {
        let mut identity = Identity::default();
        self.rng.fill_bytes(&mut identity);
        let first = self.ticket(identity, 0);
        let mobility =
            Mobility { identity, generation: 0, first, next: None, home: self.config.worker, moved: None };
        self.allocations.make_mobile(id, mobility);
        first
    }

    fn ticket(&self, identity: Identity, generation: u32) -> Sealed {
        self.tickets.seal(&Ticket { worker: self.config.worker, identity, generation })
    }

    /// Refresh with MOBILITY-TICKET. RFC 8016 §5: it has the integrity of a long-term credential, or it is not here.
    pub(crate) fn refresh_with_ticket(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
        ticket: &[u8],
    ) -> Result<Answer, Refusal> {
        // RFC 8016 §3.2.2: where mobility is forbidden now, a ticket is 405.
        if !self.config.mobility {
            return Err(Refusal::MobilityForbidden);
        }
        let lifetime_secs = requested_lifetime(message)?;
        let family = match requested_family(message) {
            Err(Refusal::FamilyUnsupported) => return Err(Refusal::PeerFamilyMismatch),
            family => family?,
        };
        // RFC 8016 §3.2.2: an invalid ticket is 400.
        let ticket = self.tickets.open(ticket).ok_or(Refusal::TicketInvalid)?;
        let claim = Claim {
            from: self.config.worker,
            client,
            ticket,
            asked: Asked::by(message),
            identity: identity.clone(),
            lifetime_secs,
            family,
        };
        self.end_expired(now);
        // RFC 8016 §3.2.2: a retransmission is recognised by the old ticket and answered as before.
        if let Some(answer) = self.answered_before(now, &claim) {
            return Ok(answer);
        }
        if let Some(id) = self.allocations.by_ticket(&ticket, self.config.worker, now.monotonic_ms) {
            return match self.judge(now, id, &claim)? {
                Judged::Moves => self.move_here(now, id, &claim),
                Judged::Answered(answer) => Ok(answer),
            };
        }
        // RFC 8016 §3.2.2: a ticket that identifies no existing allocation is 437.
        if ticket.worker == self.config.worker {
            return Err(Refusal::NoAllocation);
        }
        self.check_room(&claim)?;
        let note = Note(Kind::Claim(Box::new(claim)));
        self.outputs.push_back(Output::Tell { to: ticket.worker, note });
        Ok(Answer::Later)
    }

    fn answered_before(&mut self, now: Time, claim: &Claim) -> Option<Answer> {
        let (_, allocation) = self.allocations.of_client(&claim.client.five_tuple, now.monotonic_ms)?;
        let mobility = allocation.mobility.as_ref()?;
        let moved = mobility.moved.as_ref()?;
        let same = mobility.identity == claim.ticket.identity
            && allocation.credential == claim.identity.credential
            && moved.client == claim.client.five_tuple
            && moved.transaction == claim.asked.transaction;
        same.then_some(moved.answer)
    }

    /// Whether an allocation can come here for this client.
    fn check_room(&self, claim: &Claim) -> Result<(), Refusal> {
        let held = self.allocations.by_client(&claim.client.five_tuple);
        match held.and_then(|id| self.allocations.peek(id)) {
            // It came here with this ticket already, and with another request.
            Some(held) if held.has_identity(claim.ticket.identity) => Err(Refusal::TicketUsed),
            // RFC 8656 §2: a 5-tuple has one allocation.
            Some(_) => Err(Refusal::AllocationExists),
            None if self.allocations.len() >= self.config.limits.allocations => {
                Err(Refusal::TooManyAllocations)
            }
            None => Ok(()),
        }
    }

    /// What an allocation's own worker has to say about a claim, before anything moves.
    fn judge(&mut self, now: Time, id: AllocationId, claim: &Claim) -> Result<Judged, Refusal> {
        let allocation = self.allocations.peek(id).ok_or(Refusal::NoAllocation)?;
        let mobility = allocation.mobility.as_ref().ok_or(Refusal::NoAllocation)?;
        // RFC 8016 §3.2.2: another user than who made the allocation is refused with 441.
        if allocation.credential != claim.identity.credential {
            return Err(Refusal::WrongCredentials);
        }
        // RFC 8016 §3.2.2: the old ticket is good for nothing but a retransmission.
        if mobility.generation != claim.ticket.generation {
            return Err(Refusal::TicketUsed);
        }
        let stored = mobility.next.unwrap_or(allocation.client).five_tuple;
        // RFC 8016 §3.2.2: a ticket from the very 5-tuple that it was made for is 400.
        if stored == claim.client.five_tuple && allocation.whereabouts != Whereabouts::Away {
            return Err(Refusal::NotMoved);
        }
        if claim.family.is_some_and(|family| allocation.relay_of(family).is_none()) {
            return Err(Refusal::PeerFamilyMismatch);
        }
        if claim.lifetime_secs == Some(0) {
            self.delete(now, id, claim.family);
            return Ok(Judged::Answered(Answer::Refreshed { lifetime_secs: 0, ticket: None }));
        }
        Ok(Judged::Moves)
    }

    /// An allocation of this worker follows its client, who is heard here.
    fn move_here(&mut self, now: Time, id: AllocationId, claim: &Claim) -> Result<Answer, Refusal> {
        let held = self.allocations.by_client(&claim.client.five_tuple);
        // RFC 8656 §2: a 5-tuple has one allocation.
        if held.is_some_and(|held| held != id) {
            return Err(Refusal::AllocationExists);
        }
        let generation = (claim.ticket.generation + 1) % GENERATIONS;
        let ticket = self.ticket(claim.ticket.identity, generation);
        let (lifetime_secs, expires_ms) = lifetime(&self.config, now, claim.lifetime_secs, &claim.identity);
        // RFC 8016 §3.2.2: the answer carries a new ticket, made for the new 5-tuple and different from the old.
        let answer = Answer::Refreshed { lifetime_secs, ticket: Some(ticket) };
        self.allocations.set_expiry(id, expires_ms);
        self.departed.remove(&claim.client.five_tuple);
        let worker = self.config.worker;
        // RFC 8016 §3.2.2: the old 5-tuple is not discarded yet.
        let stays_at = self.allocations.redirect(id, claim.client);
        let Some(mobility) = self.allocations.entry(id).and_then(|it| it.mobility.as_mut()) else {
            return Err(Refusal::NoAllocation);
        };
        mobility.generation = generation;
        let (client, transaction) = (claim.client.five_tuple, claim.asked.transaction);
        mobility.moved = Some(Moved { client, transaction, answer });
        match stays_at {
            // Whoever hears the client may believe that it is somewhere else.
            Some(client)
                if ![worker, claim.ticket.worker].contains(&mobility.home)
                    && claim.ticket.worker != worker =>
            {
                let note = Note(Kind::GoneOn(client.five_tuple, worker));
                self.outputs.push_back(Output::Tell { to: mobility.home, note });
            }
            Some(_) => {}
            None => mobility.home = worker,
        }
        Ok(answer)
    }

    /// The client has sent data from where it was going to: from now on it is there.
    pub(crate) fn heard_at_last(&mut self, id: AllocationId) {
        let Some(old) = self.allocations.settle(id) else { return };
        let worker = self.config.worker;
        let Some(mobility) = self.allocations.entry(id).and_then(|it| it.mobility.as_mut()) else { return };
        let home = std::mem::replace(&mut mobility.home, worker);
        if home != worker {
            let note = Note(Kind::Heard(old.five_tuple));
            self.outputs.push_back(Output::Tell { to: home, note });
        }
    }

    /// A client's connection is closed, here or (`at`) where its packets still arrived.
    pub(crate) fn client_gone(&mut self, now: Time, client: &FiveTuple, at: WorkerId) {
        let Some(id) = self.allocations.by_client(client) else {
            if let Some(to) = self.departed.remove(client) {
                let note = Note(Kind::Gone { client: *client, at });
                self.outputs.push_back(Output::Tell { to, note });
            }
            return;
        };
        let Some(allocation) = self.allocations.entry(id) else { return };
        let worker = self.config.worker;
        let is_next = allocation.mobility.as_ref().and_then(|mobility| mobility.next);
        let is_next = is_next.is_some_and(|next| next.five_tuple == *client);
        let heard_at = allocation.mobility.as_ref().filter(|_| !is_next).map_or(worker, |it| it.home);
        if heard_at != at {
            // A late word about an earlier connection.
            return;
        }
        let Some(mobility) = &mut allocation.mobility else {
            self.end(now, id, EndReason::ClientGone);
            return;
        };
        if is_next {
            self.allocations.turn_back(id);
        } else if allocation.whereabouts == Whereabouts::Moving {
            // RFC 8016 §3.2.2: the end of the old connection ends the move, too.
            mobility.home = worker;
            self.allocations.settle(id);
        } else {
            // RFC 8016 §3.2.2: a client may come back after it has lost its path (break before make): what can be
            // moved lives on until its lifetime ends.
            self.allocations.lose(id);
        }
    }

    /// Another worker's server has something to tell. Outputs may follow. RFC 8016 §3.2.2.
    pub fn told(&mut self, now: Time, note: Note) {
        match note.0 {
            Kind::Claim(claim) => self.claimed(now, claim),
            Kind::Answered(claim, outcome) => {
                // A retransmission may have been overtaken by its own success.
                let outcome = self.answered_before(now, &claim).map_or(*outcome, Ok);
                self.answer_late(now, &claim, outcome);
            }
            Kind::Heard(client) => _ = self.departed.remove(&client),
            Kind::Gone { client, at } => self.client_gone(now, &client, at),
            // What was passed to the wrong worker may have come back first, and been taken for the end of it.
            Kind::GoneOn(client, to) if !self.allocations.holds(&client) => {
                self.note_departure(now, client, to);
            }
            Kind::GoneOn(..) => {}
        }
    }

    /// Data for a client on a stream, sent by another worker's server, has found no connection here. Outputs may
    /// follow: what told that server so was lost. RFC 8016 §3.2.2.
    pub fn unreachable(&mut self, client: &FiveTuple, from: WorkerId) {
        let note = Note(Kind::Gone { client: *client, at: self.config.worker });
        self.outputs.push_back(Output::Tell { to: from, note });
    }

    /// Somebody has come to another worker with a ticket for an allocation here.
    fn claimed(&mut self, now: Time, claim: Box<Claim>) {
        self.end_expired(now);
        let found = self.allocations.by_ticket(&claim.ticket, self.config.worker, now.monotonic_ms);
        let judged = match found {
            Some(id) => self.judge(now, id, &claim).map(|judged| (id, judged)),
            None => Err(Refusal::NoAllocation),
        };
        let outcome = match judged {
            Ok((id, Judged::Moves)) => return self.depart(now, id, claim),
            Ok((_, Judged::Answered(answer))) => Ok(answer),
            Err(refusal) => Err(refusal),
        };
        let to = claim.from;
        self.outputs.push_back(Output::Tell { to, note: Note(Kind::Answered(claim, Box::new(outcome))) });
    }

    fn depart(&mut self, now: Time, id: AllocationId, claim: Box<Claim>) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        let is_heard_here = allocation.whereabouts != Whereabouts::Away
            && allocation.mobility.as_ref().is_some_and(|mobility| mobility.home == self.config.worker);
        if is_heard_here {
            self.note_departure(now, allocation.client.five_tuple, claim.from);
        }
        let to = claim.from;
        self.outputs.push_back(Output::Depart {
            to,
            traveller: Box::new(Traveller { allocation, claim, returns: false }),
        });
    }

    /// An allocation has come from another worker; [`Traveller::relays_mut`] says its sockets' numbers here. Outputs
    /// may follow. RFC 8016 §3.2.2.
    pub fn arrived(&mut self, now: Time, traveller: Box<Traveller>) {
        let Traveller { allocation, claim, returns } = *traveller;
        // What has run out here is in nobody's way.
        self.end_expired(now);
        // There was room when the client asked.
        if !returns && self.allocations.len() >= self.config.limits.allocations {
            self.answer_late(now, &claim, Err(Refusal::TooManyAllocations));
            return self.send_back(allocation, claim);
        }
        let id = match self.admit(now, allocation, claim.ticket.worker) {
            Ok(id) if returns => {
                let client = self.allocations.peek(id).map(|allocation| allocation.client.five_tuple);
                client.map(|client| self.departed.remove(&client));
                return;
            }
            Ok(id) => id,
            Err(_) if returns => return,
            Err(refusal) => return self.answer_late(now, &claim, Err(refusal)),
        };
        let outcome = self.move_here(now, id, &claim);
        self.answer_late(now, &claim, outcome);
        if outcome.is_err()
            && let Some(allocation) = self.allocations.remove(id)
        {
            self.send_back(allocation, claim);
        }
    }

    fn send_back(&mut self, allocation: Allocation, claim: Box<Claim>) {
        let to = claim.ticket.worker;
        let traveller = Box::new(Traveller { allocation, claim, returns: true });
        self.outputs.push_back(Output::Depart { to, traveller });
    }

    /// An allocation that could not be sent stays where it is. Outputs may follow. RFC 8016 §3.2.2.
    pub fn returned(&mut self, now: Time, mut traveller: Box<Traveller>) {
        traveller.returns = true;
        self.arrived(now, traveller);
    }

    /// Takes in an allocation that has been under way, unless its time was over meanwhile. `last`: the worker to which
    /// its client came last.
    fn admit(
        &mut self,
        now: Time,
        mut allocation: Allocation,
        last: WorkerId,
    ) -> Result<AllocationId, Refusal> {
        // A denial may have been told to both workers while the allocation was at neither.
        let secret_is_gone =
            allocation.shared_secret.is_some_and(|secret| self.shared_secrets.secret(secret).is_none());
        let over = if secret_is_gone || self.denials.denies(&allocation.subject()) {
            Some((EndReason::Denied, Refusal::CredentialDenied))
        } else if self.endings.include(&allocation.tally.session) {
            Some((EndReason::Terminated, Refusal::NoAllocation))
        } else if self.suspended.contains(&allocation.turn_key) {
            Some((EndReason::Denied, Refusal::KeySuspended))
        } else if allocation.is_live(now.monotonic_ms) {
            None
        } else {
            Some((EndReason::Expired, Refusal::NoAllocation))
        };
        if let Some((reason, refusal)) = over {
            let client = allocation.client;
            self.outputs.push_back(Output::Report(allocation.report(now, Some(reason))));
            allocation.into_relays().for_each(|relay| self.close(client, relay, reason));
            return Err(refusal);
        }
        if let Some(mobility) = &mut allocation.mobility
            && mobility.next.is_some_and(|next| self.allocations.holds(&next.five_tuple))
        {
            mobility.next = None;
            allocation.whereabouts = Whereabouts::Here;
        }
        // Its old path may belong to another allocation by now: then the path had ended before, and the client is where
        // it was going to.
        if self.allocations.holds(&allocation.client.five_tuple) {
            allocation.whereabouts = Whereabouts::Away;
            if let Some(mobility) = &mut allocation.mobility
                && let Some(next) = mobility.next.take()
            {
                mobility.home = last;
                (allocation.client, allocation.whereabouts) = (next, Whereabouts::Here);
            }
        }
        // What is heard here is passed on no longer.
        allocation.clients().for_each(|client| _ = self.departed.remove(&client));
        // So may other limits.
        allocation.limit(&self.key_limits(allocation.turn_key).clone());
        Ok(self.allocations.insert(allocation))
    }

    /// Answers a client whose request came a while ago.
    fn answer_late(&mut self, now: Time, claim: &Claim, outcome: Result<Answer, Refusal>) {
        let five_tuple = claim.client.five_tuple;
        let offers_algorithms = self.config.offer_password_algorithms;
        let response = Response {
            asked: claim.asked,
            request: None,
            client: five_tuple.client,
            key: Some((claim.identity.response, &claim.identity.key)),
            realm: &self.config.realm,
            nonce: Some(&|| self.shared.nonces.issue(now, &five_tuple, offers_algorithms)),
            offers_algorithms,
            known: crate::auth::is_known,
            alternate_domain: None,
        };
        let mut buffer = [0; crate::MAX_REPLY];
        let Ok(length) = response.write(outcome, &mut buffer) else { return };
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        let reply = outcome.map_or_else(Reply::Refused, |_| Reply::Success(Method::REFRESH));
        self.outputs.push_back(Output::Reply { client: claim.client, reply, bytes });
    }
}
