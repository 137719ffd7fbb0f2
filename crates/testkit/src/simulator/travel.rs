//! Clients that come from somewhere else with a ticket, their own or another's, for the first time or again.

use stun::{AttributeType, Method};

use super::world::World;
use crate::message;
use crate::model::Account;

impl World {
    /// A station comes with a ticket.
    pub(super) fn travel(&mut self, station: usize) -> Result<(), String> {
        let Some((ticket, owner)) = self.some_ticket() else { return Ok(()) };
        let as_owner = self.dice.permille(920);
        let accounts: Vec<&Account> =
            self.lockstep.model.accounts().filter(|a| (a.username == owner) == as_owner).collect();
        let account = accounts.get(self.dice.index(accounts.len())).map(|account| (*account).clone());
        let Some(account) = account else { return Ok(()) };
        // Room for it, mostly.
        if self.dice.permille(700) {
            self.gone(station)?;
        }
        let signature = self.signature(station, &account)?;
        let lifetime = if self.dice.permille(300) { Some(self.some_lifetime()) } else { None };
        let family = self.dice.pick(&[message::FAMILY_IPV4, message::FAMILY_IPV6, [7, 0, 0, 0]]);
        let family = self.dice.permille(60).then_some(family);
        let mark = self.dice.permille(300);
        let packet = message::request(Method::REFRESH, self.dice.transaction(), |writer| {
            lifetime.map(|lifetime| writer.attribute_u32(AttributeType::LIFETIME, lifetime));
            family.map(|family| writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family));
            writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            signature.sign(writer);
            if mark {
                writer.fingerprint();
            }
        });
        self.give(station, &packet)?;
        // Its place is taken while the other worker is asked.
        if self.dice.permille(350) {
            self.ask_as(station, &account, Method::ALLOCATE, |writer| {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
            })?;
        }
        while self.dice.permille(350) {
            let wait_ms = self.dice.pick(&[0, 0, 1, 500]);
            self.run_until(self.now_ms + wait_ms)?;
            self.give(station, &packet)?;
        }
        // Somebody else comes with the same ticket before the first is answered, or soon after.
        if self.dice.permille(200) {
            let other = self.dice.index(self.stations.len());
            self.ask_as(other, &account, Method::REFRESH, |writer| {
                writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            })?;
        }
        let wait_ms = self.dice.pick(&[0, 0, 1, 50, 5_000]);
        self.run_until(self.now_ms + wait_ms)?;
        // What was under way may be heard at either end by now.
        let all: Vec<_> = self.lockstep.model.allocations().filter(|held| held.mobile.is_some()).collect();
        match all.get(self.dice.index(all.len())).map(|held| (*held).clone()) {
            Some(allocation) => self.probe(&allocation),
            None => Ok(()),
        }
    }

    /// A ticket and whose it is: mostly one that is good.
    pub(super) fn some_ticket(&mut self) -> Option<(Vec<u8>, String)> {
        let model = &self.lockstep.model;
        let good = model.allocations().filter_map(|held| {
            held.mobile.as_ref().map(|mobile| (mobile.ticket.clone(), held.username.clone()))
        });
        let good: Vec<_> = good.collect();
        let all: Vec<_> =
            model.tickets().map(|(bytes, username)| (bytes.clone(), username.to_owned())).collect();
        let of = if self.dice.permille(750) && !good.is_empty() { good } else { all };
        let (mut ticket, owner) = of.get(self.dice.index(of.len()))?.clone();
        match self.dice.below(40) {
            0 => ticket.truncate(self.dice.index(ticket.len())),
            1 => ticket.push(1),
            2 => {
                let place = self.dice.index(ticket.len());
                ticket.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 4);
            }
            _ => {}
        }
        Some((ticket, owner))
    }
}
