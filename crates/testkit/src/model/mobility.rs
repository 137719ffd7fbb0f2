//! Mobility: what a ticket is good for, and where a client is heard. RFC 8016.
//!
//! A server may be several workers, each with allocations of its own. A client that comes to another worker than the
//! one that told it its ticket has that one asked; then its allocation comes after it. What the workers tell each
//! other may take its time and be lost, so the model says for each of these steps what must come of it.

use std::collections::BTreeSet;

use stun::{AttributeType as A, Message, TransactionId};
use turn::{Client, FiveTuple, RelayId, Time};

use super::expected::Expected;
use super::requests::{Faults, family_of, four, granted, lifetime};
use super::{Allocation, Model, Relay, Sender};

/// Where an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This worker has it.
    At(usize),
    /// It has left one worker and has not come to the other.
    UnderWay,
}

/// What is more to a mobile allocation.
#[derive(Debug, Clone)]
pub struct Mobile {
    /// The one ticket that it can be had with.
    pub ticket: Vec<u8>,
    /// Where its client has come to without having sent data from there.
    pub next: Option<Client>,
    /// Its client has lost its path.
    pub is_away: bool,
    /// The worker that hears its client, where it is.
    pub home: usize,
    moved: Option<Moved>,
}

/// How a move was answered.
#[derive(Debug, Clone)]
struct Moved {
    client: FiveTuple,
    transaction: TransactionId,
    lifetime_secs: u64,
    ticket: Vec<u8>,
}

/// A ticket that the server has told.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    allocation: u64,
    username: String,
    /// The worker that told it: the one to be asked.
    worker: usize,
}

/// A client that has come with a ticket, and for the right to it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// To whom.
    pub worker: usize,
    /// Who has to be asked.
    pub owner: usize,
    /// Who.
    pub client: Client,
    /// The allocation's number.
    allocation: u64,
    ticket: Vec<u8>,
    transaction: TransactionId,
    /// The request.
    pub packet: Vec<u8>,
    lifetime: Option<u32>,
    family: Option<u8>,
    sender: Sender,
}

/// What the worker that was asked does.
#[derive(Debug)]
pub enum Verdict {
    /// It sends the allocation.
    Departs,
    /// It says what the client is to be told.
    Answers(Expected),
}

/// What comes of an allocation that arrives.
#[derive(Debug)]
pub enum Arrival {
    /// The client is told this.
    Answers(Expected),
    /// And it goes back.
    GoesBack(Expected),
}

impl Mobile {
    pub(super) fn new(ticket: Vec<u8>, home: usize) -> Self {
        Self { ticket, next: None, is_away: false, home, moved: None }
    }
}

impl Allocation {
    /// Whether it hears what comes from there.
    pub fn is_at(&self, client: &FiveTuple) -> bool {
        let is_away = self.mobile.as_ref().is_some_and(|mobile| mobile.is_away);
        let next = self.mobile.as_ref().and_then(|mobile| mobile.next);
        (!is_away && self.client.five_tuple == *client) || next.is_some_and(|next| next.five_tuple == *client)
    }

    /// The old path is over: the client is where it was going to, or nowhere.
    fn end_old_path(&mut self, worker: usize) {
        let Some(mobile) = &mut self.mobile else { return };
        match mobile.next.take() {
            Some(next) => (self.client, mobile.home) = (next, worker),
            None => mobile.is_away = true,
        }
    }
}

impl Model {
    /// The worker that all that follows is told to.
    pub fn hear_at(&mut self, worker: usize) {
        self.worker = worker;
    }

    pub(super) fn is_here(&self, allocation: &Allocation) -> bool {
        allocation.place == Place::At(self.worker)
    }

    /// Whether the worker has this client's allocation, living or not told to be over.
    pub fn holds(&self, client: Client) -> bool {
        self.allocations.iter().any(|held| self.is_here(held) && held.is_at(&client.five_tuple))
    }

    /// Whether it has one that has not run out.
    pub fn holds_living(&self, now: Time, client: Client) -> bool {
        let is_its = |held: &&Allocation| self.is_here(held) && held.is_at(&client.five_tuple);
        self.allocations.iter().filter(is_its).any(|held| held.is_live(now))
    }

    /// How many allocations a worker has.
    pub fn count_at(&self, worker: usize) -> usize {
        self.allocations.iter().filter(|held| held.place == Place::At(worker)).count()
    }

    /// How many are under way.
    pub fn count_under_way(&self) -> usize {
        self.allocations.iter().filter(|held| held.place == Place::UnderWay).count()
    }

    /// Every ticket that the server has told, good or not, and by whom it may be used.
    pub fn tickets(&self) -> impl Iterator<Item = (&Vec<u8>, &str)> {
        self.tickets.iter().map(|(bytes, ticket)| (bytes, ticket.username.as_str()))
    }

    /// A ticket was told for an allocation.
    pub(super) fn learn_ticket(&mut self, number: u64, bytes: &[u8]) -> Result<(), &'static str> {
        let held = self.allocations.iter_mut().find(|held| held.number == number);
        let held = held.ok_or("a ticket for nothing")?;
        if bytes.is_empty() || self.tickets.contains_key(bytes) {
            return Err("a ticket that is not new");
        }
        let ticket = Ticket { allocation: number, username: held.username.clone(), worker: self.worker };
        self.tickets.insert(bytes.to_vec(), ticket);
        let home = self.worker;
        let mobile = held.mobile.get_or_insert_with(|| Mobile::new(bytes.to_vec(), home));
        mobile.ticket = bytes.to_vec();
        mobile.moved.iter_mut().for_each(|moved| moved.ticket = bytes.to_vec());
        Ok(())
    }

    /// RFC 8016 §3.2.2.
    pub(super) fn refresh_with_ticket(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
        bytes: &[u8],
    ) -> Result<Expected, BTreeSet<u16>> {
        let mut faults = Faults::default();
        faults.when(!self.rules.mobility, 405);
        let lifetime = faults.take(lifetime(message)).flatten();
        let family = faults.take(four(message, A::REQUESTED_ADDRESS_FAMILY)).flatten();
        let family = family.map(|[family, ..]| family);
        faults.when(family.is_some_and(|family| family != 1 && family != 2), 443);
        let ticket = self.tickets.get(bytes).cloned();
        faults.when(ticket.is_none(), 400);
        let Some(ticket) = ticket.filter(|_| faults.0.is_empty()) else { return Err(faults.0) };
        let claim = Claim {
            worker: self.worker,
            owner: ticket.worker,
            client,
            allocation: ticket.allocation,
            ticket: bytes.to_vec(),
            transaction: message.transaction(),
            packet: message.as_bytes().to_vec(),
            lifetime,
            family,
            sender: sender.clone(),
        };
        if let Some(again) = self.answered_before(now, &claim) {
            return Ok(again);
        }
        if claim.owner == claim.worker {
            return match self.judge(now, &claim)? {
                Verdict::Departs => self.moves(now, &claim),
                Verdict::Answers(expected) => Ok(expected),
            };
        }
        if let Some(held) = self.live(client, now) {
            return Err(BTreeSet::from([if held.number == claim.allocation { 400 } else { 437 }]));
        }
        if self.is_full(now) {
            return Err(BTreeSet::from([508]));
        }
        Ok(Expected::Asked { claim: Box::new(claim) })
    }

    /// A retransmission is answered like the request before.
    fn answered_before(&self, now: Time, claim: &Claim) -> Option<Expected> {
        let held = self.live(claim.client, now).filter(|held| held.number == claim.allocation)?;
        let held = Some(held).filter(|held| held.username == claim.sender.account.username)?;
        let moved = held.mobile.as_ref()?.moved.as_ref()?;
        let same = (moved.client, moved.transaction) == (claim.client.five_tuple, claim.transaction);
        same.then(|| Expected::MovedAgain {
            lifetime_secs: moved.lifetime_secs,
            ticket: moved.ticket.clone(),
            proof: claim.sender.proof.clone(),
        })
    }

    /// Whether the allocation may go to who has come with its ticket; one that is to be deleted is.
    fn judge(&mut self, now: Time, claim: &Claim) -> Result<Verdict, BTreeSet<u16>> {
        let here = self.worker;
        let mut live = self.allocations.iter_mut().filter(|held| held.is_live(now));
        let found = live.find(|held| held.number == claim.allocation && held.place == Place::At(here));
        let Some(found) = found else { return Err(BTreeSet::from([437])) };
        let Some(mobile) = &found.mobile else { return Err(BTreeSet::from([437])) };
        let mut faults = Faults::default();
        faults.when(found.username != claim.sender.account.username, 441);
        // Each ticket is good for one move.
        faults.when(mobile.ticket != claim.ticket, 400);
        // And not for one to where it was told.
        let told_to = mobile.next.or((!mobile.is_away).then_some(found.client));
        faults.when(told_to.is_some_and(|told| told.five_tuple == claim.client.five_tuple), 400);
        let is_named =
            |relay: &Relay| claim.family.is_none_or(|family| family == family_of(relay.address.ip()));
        faults.when(!found.relays.iter().any(is_named), 443);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        if claim.lifetime == Some(0) {
            let one_family = found.delete(claim.family);
            let proof = claim.sender.proof.clone();
            return Ok(Verdict::Answers(Expected::Refreshed { one_family, lifetime_secs: 0, proof }));
        }
        Ok(Verdict::Departs)
    }

    /// The allocation is here, and its client comes to here.
    fn moves(&mut self, now: Time, claim: &Claim) -> Result<Expected, BTreeSet<u16>> {
        let here = self.worker;
        let others = self.allocations.iter().filter(|held| held.number != claim.allocation);
        let mut others = others.filter(|held| self.is_here(held) && held.is_live(now));
        if others.any(|held| held.is_at(&claim.client.five_tuple)) {
            return Err(BTreeSet::from([437]));
        }
        let (lifetime_secs, expires_ms) = granted(now, claim.lifetime, &claim.sender.account);
        let held = self.allocations.iter_mut().find(|held| held.number == claim.allocation);
        let Some((held, mobile)) = held.and_then(|held| held.mobile.take().map(|mobile| (held, mobile)))
        else {
            return Err(BTreeSet::from([437]));
        };
        let client = claim.client.five_tuple;
        let waited = mobile.is_away;
        let stays = !mobile.is_away && held.client.five_tuple != client;
        let moved = Moved { client, transaction: claim.transaction, lifetime_secs, ticket: vec![] };
        let (next, home) = if stays { (Some(claim.client), mobile.home) } else { (None, here) };
        held.mobile = Some(Mobile { next, home, is_away: false, moved: Some(moved), ticket: mobile.ticket });
        held.expires_ms = expires_ms;
        if !stays {
            held.client = claim.client;
        }
        let proof = claim.sender.proof.clone();
        Ok(Expected::Moved { allocation: claim.allocation, waited, lifetime_secs, proof })
    }

    /// Data has come from a client: if it was on its way there, it is there now.
    pub(super) fn heard(&mut self, now: Time, client: Client) {
        let here = self.worker;
        let mut live = self.allocations.iter_mut().filter(|held| held.is_live(now));
        let arriving = live.find(|held| {
            let next = held.mobile.as_ref().and_then(|mobile| mobile.next);
            held.place == Place::At(here) && next.is_some_and(|next| next.five_tuple == client.five_tuple)
        });
        let Some(held) = arriving else { return };
        let old = held.mobile.as_ref().map(|mobile| (mobile.home, held.client.five_tuple));
        held.end_old_path(here);
        self.over = old.filter(|(home, _)| *home != here);
    }

    /// The worker, another one, that has to be told that an old path which it has is over, and whose.
    pub fn take_over(&mut self) -> Option<(usize, FiveTuple)> {
        self.over.take()
    }

    /// A client's connection to the worker `at` is closed. Whether the worker that is told of it has the allocation.
    pub fn gone(&mut self, client: &FiveTuple, at: usize) -> bool {
        let here = self.worker;
        let mut held = self.allocations.iter_mut().filter(|held| held.place == Place::At(here));
        let Some(held) = held.find(|held| held.is_at(client)) else { return false };
        let Some(mobile) = &mut held.mobile else { return true };
        if mobile.next.is_some_and(|next| next.five_tuple == *client) {
            // Else it is a late word about an earlier connection.
            mobile.next = mobile.next.filter(|_| at != here);
        } else if mobile.home == at {
            held.end_old_path(here);
        }
        true
    }

    /// The worker is asked whether a client may have an allocation of its own.
    pub fn asked(&mut self, now: Time, claim: &Claim) -> Verdict {
        match self.judge(now, claim) {
            Ok(Verdict::Departs) => {
                if let Some(held) = self.allocations.iter_mut().find(|held| held.number == claim.allocation) {
                    held.place = Place::UnderWay;
                }
                Verdict::Departs
            }
            Ok(answers) => answers,
            Err(codes) => Verdict::Answers(refused(codes, claim)),
        }
    }

    /// The worker hears what the one that it asked has said.
    pub fn answered_by_owner(&mut self, now: Time, claim: &Claim, said: Expected) -> Expected {
        self.answered_before(now, claim).unwrap_or(said)
    }

    /// The sockets of the allocation that a client has come for.
    pub fn relays_of(&self, claim: &Claim) -> Vec<RelayId> {
        let held = self.allocations.iter().find(|held| held.number == claim.allocation);
        held.map(|held| held.relays.iter().map(|relay| relay.id).collect()).unwrap_or_default()
    }

    /// A socket has another number where its allocation is now.
    pub fn renumber(&mut self, before: RelayId, after: RelayId) {
        let relays = self.allocations.iter_mut().flat_map(|held| &mut held.relays);
        relays.filter(|relay| relay.id == before).for_each(|relay| relay.id = after);
    }

    /// An allocation that was under way comes to the worker: the code it is refused with, if it is over.
    pub fn comes_in(&mut self, now: Time, claim: &Claim) -> Option<u16> {
        let here = self.worker;
        let place = self.allocations.iter().position(|held| held.number == claim.allocation)?;
        let held = self.allocations.get(place)?;
        let account = self.accounts.get(&held.username);
        if account.is_some_and(|account| self.is_refused(account)) {
            return Some(401);
        }
        if self.was_terminated(held) {
            self.allocations.get_mut(place)?.terminated = true;
            return Some(437);
        }
        if !held.is_live(now) {
            return Some(437);
        }
        let is_taken = |client: Client| self.live(client, now).is_some();
        let next = held.mobile.as_ref().and_then(|mobile| mobile.next);
        let (client_taken, next_taken) = (is_taken(held.client), next.is_some_and(is_taken));
        let held = self.allocations.get_mut(place)?;
        held.place = Place::At(here);
        if let Some(mobile) = held.mobile.as_mut().filter(|_| next_taken) {
            mobile.next = None;
        }
        // Another has its path by now, so that must have ended.
        if client_taken {
            held.end_old_path(claim.owner);
        }
        None
    }

    /// An allocation comes after its client to the worker.
    pub fn arrives(&mut self, now: Time, claim: &Claim) -> Arrival {
        // There was room when the client asked.
        if self.is_full(now) {
            return Arrival::GoesBack(refused(BTreeSet::from([508]), claim));
        }
        if let Some(code) = self.comes_in(now, claim) {
            return Arrival::Answers(refused(BTreeSet::from([code]), claim));
        }
        match self.moves(now, claim) {
            Ok(expected) => Arrival::Answers(expected),
            Err(codes) => {
                if let Some(held) = self.allocations.iter_mut().find(|held| held.number == claim.allocation) {
                    held.place = Place::UnderWay;
                }
                Arrival::GoesBack(refused(codes, claim))
            }
        }
    }
}

fn refused(codes: BTreeSet<u16>, claim: &Claim) -> Expected {
    Expected::Refused { codes, proof: Some(claim.sender.proof.clone()), unknown: vec![] }
}
