//! What an observer makes of tickets: each takes one allocation to one place, once. RFC 8016.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use stun::{AttributeType, Message, TransactionId};
use turn::{FiveTuple, Time};

use super::observer::Observer;

/// The tickets that have been told.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Whose each is.
    allocations: BTreeMap<Vec<u8>, u64>,
    /// The one of each allocation that is good.
    newest: BTreeMap<u64, Vec<u8>>,
    /// How each allocation's last move was asked for.
    moved: BTreeMap<u64, (FiveTuple, TransactionId)>,
}

fn ticket(message: &Message<'_>) -> Option<Vec<u8>> {
    message.attribute(AttributeType::MOBILITY_TICKET).map(<[u8]>::to_vec)
}

impl Observer {
    /// The answer to Allocate had a ticket, or none. `number`: of the allocation it made, if it made one.
    pub(super) fn first_ticket(
        &mut self,
        number: Option<u64>,
        request: &Message<'_>,
        response: &Message<'_>,
    ) {
        let Some(told) = ticket(response) else { return };
        let tickets = &mut self.tickets;
        let Some(number) = number else {
            assert!(tickets.allocations.contains_key(&told), "a retransmission is answered as before");
            return;
        };
        assert_eq!(ticket(request), Some(vec![]), "who asks for a ticket gets one");
        assert!(tickets.allocations.insert(told.clone(), number).is_none(), "a ticket is new");
        tickets.newest.insert(number, told);
    }

    /// A Refresh with a ticket succeeded at a worker. `is_late`: by its words with another one.
    pub(super) fn refreshed_by_ticket(
        &mut self,
        now: Time,
        (worker, client): (usize, FiveTuple),
        (request, response): (&Message<'_>, &Message<'_>),
        (lifetime_secs, signer, is_late): (u32, credentials::CredentialId, bool),
    ) {
        let shown = ticket(request).expect("it came with a ticket");
        let number = *self.tickets.allocations.get(&shown).expect("the server told that ticket");
        let is_newest = self.tickets.newest.get(&number) == Some(&shown);
        let Some(told) = ticket(response) else {
            assert_eq!(lifetime_secs, 0, "who moves gets a new ticket");
            assert!(is_newest || is_late, "a ticket that was used deletes nothing");
            return;
        };
        let asked = (client, request.transaction());
        let mut found = self.held.values_mut().filter(|held| held.number == number).peekable();
        assert!(found.peek().is_some(), "what moves is there");
        for held in found.by_ref() {
            assert_eq!(held.at, Some(worker), "what has moved is where its client is");
            assert_eq!(held.account.id, signer, "an allocation is its credential's");
        }
        if let Some(known) = self.tickets.allocations.get(&told) {
            let before = self.tickets.moved.get(&number);
            assert_eq!((*known, before), (number, Some(&asked)), "a retransmission is answered as before");
            assert_eq!(self.tickets.newest.get(&number), Some(&told));
            return;
        }
        assert!(is_newest, "a ticket is good for one move");
        assert!(lifetime_secs > 0);
        self.tickets.allocations.insert(told.clone(), number);
        self.tickets.newest.insert(number, told);
        self.tickets.moved.insert(number, asked);
        let of_others: Vec<FiveTuple> = self
            .held
            .values()
            .filter(|held| held.number != number)
            .flat_map(|held| &held.paths)
            .copied()
            .collect();
        // Where its client has come to, another one's may have been.
        let others = self.held.values_mut().filter(|held| held.number != number);
        others.filter(|held| held.paths.contains(&client)).for_each(|held| held.is_vague = true);
        for held in self.held.values_mut().filter(|held| held.number == number) {
            held.expires_ms = now.monotonic_ms + 1_000 * u64::from(lifetime_secs);
            held.is_vague |= held.paths.iter().any(|path| of_others.contains(path));
            let was_first = held.paths.first() == Some(&client);
            held.paths.retain(|path| *path != client);
            match held.is_vague {
                false if was_first => held.paths.clear(),
                false => held.paths.truncate(1),
                true => {}
            }
            held.paths.push(client);
        }
    }

    /// Data came from there and went on: its client is there for good, or still.
    pub(super) fn heard(&mut self, relay: SocketAddr, client: FiveTuple) {
        let Some(number) = self.held.get(&relay).map(|held| held.number) else { return };
        for held in self.held.values_mut().filter(|held| held.number == number) {
            let last = held.paths.last().copied();
            held.paths.retain(|path| *path == client || Some(*path) == last);
            if last == Some(client) {
                held.paths = vec![client];
            }
        }
    }

    /// Data came from there that went nowhere, or the path has ended: the server knows what that means.
    pub(super) fn blur(&mut self, client: FiveTuple) {
        let concerned = self.held.values_mut().filter(|held| held.paths.contains(&client));
        concerned.for_each(|held| held.is_vague = true);
    }

    /// The same of data from there.
    pub(super) fn dropped(&mut self, worker: usize, client: FiveTuple) {
        let here = self.held.values_mut().filter(|held| held.at == Some(worker) && held.paths.len() > 1);
        here.filter(|held| held.paths.contains(&client)).for_each(|held| held.is_vague = true);
    }

    /// A connection of a client to a worker is closed, and the worker knows.
    pub(super) fn gone(&mut self, worker: usize, client: FiveTuple) {
        let here = self.held.values().filter(|held| held.at == Some(worker));
        let mut immobile = here.filter(|held| !self.tickets.newest.contains_key(&held.number));
        assert!(!immobile.any(|held| held.paths.contains(&client)), "an allocation ends with its connection");
        self.blur(client);
    }

    /// Sockets have left a worker, and have come to another or are on their way.
    pub(super) fn moves(&mut self, now: Time, relays: &[SocketAddr], to: Option<usize>) {
        for relay in relays {
            let held = self.held.get_mut(relay).expect("what moves is there");
            assert!(held.at.is_none() || to.is_none(), "an allocation is at one worker");
            held.at = to;
            held.relayed.begin_anew(now);
        }
    }

    /// Sockets were lost on their way.
    pub(super) fn lost(&mut self, relays: &[SocketAddr]) {
        self.held.retain(|relay, _| !relays.contains(relay));
    }
}
