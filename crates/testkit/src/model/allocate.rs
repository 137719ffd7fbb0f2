//! Allocate. RFC 8656 §7.2.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use stun::{AttributeType as A, Message};
use turn::{Client, RelayAddress, Time};

use super::expected::{Expected, NewAllocation};
use super::requests::{Faults, family_of, four, granted, lifetime};
use super::{Allocation, Model, RESERVATION_MS, Relay, Reservation, Sender, Told};

/// How many ports the server tries.
const TRIES: u32 = 16;

/// Which ports will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Any.
    Any,
    /// Even ones.
    Even,
    /// Even ones whose next one is free, too, and will be kept.
    Pair,
}

/// What an Allocate asks for.
enum Wanted {
    One(u8, Ports),
    Both(Ports),
    Reserved(Vec<u8>),
}

impl Model {
    pub(super) fn allocate(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
        in_use: Option<u32>,
    ) -> Result<Expected, BTreeSet<u16>> {
        let proof = sender.proof.clone();
        if let Some(held) = self.live(client, now) {
            if held.transaction == message.transaction() && held.username == sender.account.username {
                return Ok(Expected::AllocatedAgain { told: held.first.clone(), proof });
            }
            return Err(BTreeSet::from([437]));
        }
        let mut faults = Faults::default();
        let stream = client.five_tuple.transport.is_stream();
        match faults.take(four(message, A::REQUESTED_TRANSPORT)) {
            Some(None) => faults.when(true, 400),
            Some(Some([17, ..])) | None => {}
            Some(Some([6, ..])) => {
                let of_udp = [A::DONT_FRAGMENT, A::EVEN_PORT, A::RESERVATION_TOKEN];
                faults.when(!stream || of_udp.iter().any(|kind| message.attribute(*kind).is_some()), 400);
            }
            Some(Some(_)) => faults.when(true, 442),
        }
        let wanted = wanted(message, &mut faults);
        let ticket = message.attribute(A::MOBILITY_TICKET);
        // RFC 8016 §3.1.2.
        faults.when(ticket.is_some_and(|ticket| !ticket.is_empty()), 400);
        // What relays connections cannot move.
        let of_tcp = matches!(message.attribute(A::REQUESTED_TRANSPORT), Some([6, ..]));
        faults.when(ticket.is_some() && (!self.rules.mobility || of_tcp), 405);
        let lifetime = faults.take(lifetime(message)).flatten();
        // RFC 8489 §10; and who is about to end takes nobody, even if there is no other.
        // But what was reserved here is here.
        if !matches!(wanted, Some(Wanted::Reserved(_))) {
            faults.when(self.redirect.elsewhere(&client), 300);
            faults.when(self.redirect.nowhere(&client), 508);
        }
        faults.when(self.are_denials_stale(), 508);
        let right = faults.0.is_empty();
        let full = self.is_full(now);
        faults.when(full, 508);
        let Some(wanted) = wanted else { return Err(faults.0) };
        let more = match &wanted {
            Wanted::Reserved(_) => 0,
            Wanted::One(_, Ports::Pair) => 2,
            Wanted::One(..) | Wanted::Both(_) => 1,
        };
        faults.when(more > 0 && !self.has_quota(now, &sender.account, more), 486);
        faults.when(more == 2 && self.reservations_due.len() >= self.rules.max_reservations, 508);
        let mut new = self.new_allocation(wanted, sender, in_use, right && !full, &mut faults);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        (new.lifetime_secs, new.expires_ms) = granted(now, lifetime, &sender.account);
        new.username.clone_from(&sender.account.username);
        new.tcp = matches!(message.attribute(A::REQUESTED_TRANSPORT), Some([6, ..]));
        new.mobile = ticket.is_some();
        Ok(Expected::Allocated { new, proof })
    }

    /// Whether the worker has as many as it may.
    pub(super) fn is_full(&self, now: Time) -> bool {
        let live = self.allocations.iter().filter(|held| self.is_here(held) && held.is_live(now));
        live.count() >= self.rules.max_allocations
    }

    /// `right`: whether nothing else is wrong with the request, so that its token is used up.
    fn new_allocation(
        &mut self,
        wanted: Wanted,
        sender: &Sender,
        in_use: Option<u32>,
        right: bool,
        faults: &mut Faults,
    ) -> NewAllocation {
        let opens = in_use.is_some_and(|in_use| in_use < TRIES);
        let mut new = NewAllocation::default();
        match wanted {
            Wanted::Reserved(token) => {
                let held = self.reservations.get(&token);
                let held = held.filter(|held| held.username == sender.account.username).cloned();
                if held.is_some() && right {
                    self.reservations.remove(&token);
                }
                // Its port is bound already: nobody else can have it.
                faults.when(held.is_none() || in_use.is_none(), 508);
                new.ips.extend(held.as_ref().map(|held| held.address.ip()));
                new.port = held.map(|held| held.address.port());
            }
            Wanted::One(family, ports) => {
                match self.place(family, ports, opens) {
                    Ok(relay) => new.ips.push(relay.public),
                    Err(code) => faults.when(true, code),
                }
                new.ports = Some(ports);
            }
            Wanted::Both(ports) => {
                new.ports = Some(ports);
                let places = [1, 2].map(|family| (family, self.place(family, ports, opens)));
                new.ips.extend(places.iter().filter_map(|(_, place)| place.ok()).map(|relay| relay.public));
                for (family, place) in places {
                    match place {
                        Err(code) if new.ips.is_empty() => faults.when(true, code),
                        Err(code) => new.failed = Some((family, code)),
                        Ok(_) => {}
                    }
                }
            }
        }
        new
    }

    /// Where a relayed address of this family is made.
    fn place(&self, family: u8, ports: Ports, opens: bool) -> Result<RelayAddress, u16> {
        let relay = self.rules.relays.iter().find(|relay| family_of(relay.public) == family);
        let relay = relay.copied().ok_or(440_u16)?;
        let is_free = |port: u16| {
            self.rules.ports.contains(port) && !self.is_taken(SocketAddr::new(relay.public, port))
        };
        let fits = |port: &u16| match ports {
            Ports::Any => is_free(*port),
            Ports::Even => port.is_multiple_of(2) && is_free(*port),
            Ports::Pair => port.is_multiple_of(2) && is_free(*port) && is_free(port + 1),
        };
        // The simulator's ports, which are few.
        if opens && (50_000..50_100).any(|port| fits(&port)) { Ok(relay) } else { Err(508) }
    }

    fn is_taken(&self, address: SocketAddr) -> bool {
        self.relays().any(|relay| relay.address == address)
            || self.reservations.values().any(|held| held.address == address)
    }

    /// A new allocation is taken into the model's tables once it is seen to be right.
    pub(super) fn admit(
        &mut self,
        now: Time,
        client: Client,
        new: &NewAllocation,
        (request, told): (&Message<'_>, Told),
        opened: &[turn::RelayId],
    ) -> Result<(), &'static str> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        let ips: Vec<_> = told.relayed.iter().map(SocketAddr::ip).collect();
        ensure(ips == new.ips && opened.len() == ips.len(), "relayed addresses or their sockets")?;
        ensure(told.lifetime_secs == new.lifetime_secs, "LIFETIME")?;
        ensure(told.failed == new.failed, "ADDRESS-ERROR-CODE")?;
        for relayed in &told.relayed {
            let port = relayed.port();
            ensure(self.rules.ports.contains(port) && !self.is_taken(*relayed), "given twice")?;
            ensure(new.port.is_none_or(|wanted| wanted == port), "another port than was reserved")?;
            ensure(matches!(new.ports, None | Some(Ports::Any)) || port.is_multiple_of(2), "an odd port")?;
        }
        ensure(told.token.is_some() == (new.ports == Some(Ports::Pair)), "RESERVATION-TOKEN")?;
        if let (Some(token), Some(relayed)) = (&told.token, told.relayed.first()) {
            let address = SocketAddr::new(relayed.ip(), relayed.port() + 1);
            let is_new = token.len() == 8 && !self.reservations.contains_key(token);
            let fits = self.rules.ports.contains(address.port()) && !self.is_taken(address);
            ensure(is_new && fits, "another's reservation")?;
            let due_ms = now.monotonic_ms + RESERVATION_MS;
            let reservation = Reservation { address, username: new.username.clone(), due_ms };
            self.reservations.insert(token.clone(), reservation);
            self.reservations_due.push(due_ms);
        }
        let relays: Vec<Relay> = opened
            .iter()
            .zip(&told.relayed)
            .map(|(id, address)| Relay { id: *id, address: *address })
            .collect();
        ensure(!relays.iter().any(|relay| self.allocation(relay.id).is_some()), "a socket for two")?;
        ensure(told.ticket.is_some() == new.mobile, "MOBILITY-TICKET")?;
        self.made += 1;
        let (number, ticket) = (self.made, told.ticket.clone());
        self.allocations.push(Allocation {
            client,
            relays,
            tcp: new.tcp,
            username: new.username.clone(),
            expires_ms: new.expires_ms,
            permissions: std::collections::BTreeMap::new(),
            channels: std::collections::BTreeMap::new(),
            used: Default::default(),
            new_peers: super::limits::Debt::default(),
            transaction: request.transaction(),
            first: told,
            made_ms: now.monotonic_ms,
            counted: super::usage::Counted::default(),
            terminated: false,
            deleted: false,
            number,
            place: super::Place::At(self.worker),
            mobile: None,
            closing: Vec::new(),
            errors: (0, 0),
        });
        ticket.map_or(Ok(()), |ticket| self.learn_ticket(number, &ticket))
    }
}

/// RFC 8656 §7.2: what EVEN-PORT, RESERVATION-TOKEN and the two family attributes say together.
fn wanted(message: &Message<'_>, faults: &mut Faults) -> Option<Wanted> {
    let ports = match message.attribute(A::EVEN_PORT) {
        None => Some(Ports::Any),
        Some([flags]) => Some(if *flags >= 0x80 { Ports::Pair } else { Ports::Even }),
        Some(_) => None,
    };
    faults.when(ports.is_none(), 400);
    let family = faults.take(four(message, A::REQUESTED_ADDRESS_FAMILY));
    let additional = faults.take(four(message, A::ADDITIONAL_ADDRESS_FAMILY));
    let token = message.attribute(A::RESERVATION_TOKEN);
    let unknown_family = matches!(family, Some(Some([family, ..])) if family != 1 && family != 2);
    faults.when(unknown_family, 440);
    faults.when(matches!(additional, Some(Some([family, ..])) if family != 2), 400);
    let (has_family, has_additional) = (family != Some(None), additional != Some(None));
    faults.when(has_family && has_additional, 400);
    faults.when(has_additional && ports == Some(Ports::Pair), 400);
    if let Some(token) = token {
        let alone = !has_family && !has_additional && ports == Some(Ports::Any);
        faults.when(!alone || token.len() != 8, 400);
        return (alone && token.len() == 8).then(|| Wanted::Reserved(token.to_vec()));
    }
    match (family?, additional?) {
        (_, Some(_)) => Some(Wanted::Both(ports?)),
        (None, None) => Some(Wanted::One(1, ports?)),
        (Some([family, ..]), None) => Some(Wanted::One(family, ports?)),
    }
}
