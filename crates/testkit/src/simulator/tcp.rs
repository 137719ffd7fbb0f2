//! Connections with peers: what they, and those who bind them, do. RFC 6062.

use std::net::SocketAddr;

use stun::{AttributeType, Method};
use turn::{Allowance, ConnectionId, Direction, RelayId, Time};

use super::lockstep::{Lockstep, Sent};
use super::world::World;
use crate::model::{Account, Allocation, Link, Stage};

impl World {
    /// Something happens to a connection with a peer, or there is a new one.
    pub(super) fn connections(&mut self, station: usize) -> Result<(), String> {
        let links: Vec<Link> = self.lockstep.model.links().cloned().collect();
        let link = links.get(self.dice.index(links.len())).cloned();
        let bytes = (self.dice.below(3) * 1_000, self.dice.below(50_000));
        let bound = links.iter().filter(|link| matches!(link.stage, Stage::Bound));
        let bound: Vec<ConnectionId> = bound.map(|link| link.connection).collect();
        if !bound.is_empty() && self.dice.permille(400) {
            self.stream(&bound)?;
        }
        match (self.dice.below(10), link) {
            (..3, Some(Link { connection, stage: Stage::Connecting { .. }, .. })) => {
                let works = self.dice.permille(700);
                self.lockstep.connected(self.now(), connection, works)?;
            }
            (..6, Some(link)) => {
                let waiting = links.iter().find(|link| matches!(link.stage, Stage::Unbound { .. }));
                let link = waiting.filter(|_| self.dice.permille(800)).unwrap_or(&link).clone();
                self.bind(station, &link)?;
            }
            (6, Some(link)) => self.forbid(&link)?,
            (9, Some(Link { connection, relay, stage: Stage::Bound, .. })) if bytes.0 > 0 => {
                self.lockstep.transferred(self.now(), (connection, relay), bytes)?;
            }
            (9, Some(link)) => self.lockstep.disconnected(self.now(), link.connection)?,
            (7 | 8, _) => self.connect_again()?,
            _ => self.peer_connects()?,
        }
        self.deliver_told()
    }

    /// Data is read from one side of data connections, as fast as it may be, or once it may be again.
    fn stream(&mut self, bound: &[ConnectionId]) -> Result<(), String> {
        let direction = self.dice.pick(&[Direction::ToPeer, Direction::ToClient]);
        for _ in 0..self.dice.below(30) {
            let connection = self.dice.pick(bound);
            match self.lockstep.relayed(self.now(), connection, direction, 0)? {
                Allowance::Bytes(most) => {
                    let most = most.min(16_384);
                    let bytes = if self.dice.permille(700) { most } else { 1 + self.dice.index(most) };
                    self.lockstep.relayed(self.now(), connection, direction, bytes)?;
                }
                Allowance::Until(until_ms) if until_ms < self.now_ms + 3_000 => {
                    let early_ms = self.dice.pick(&[0, 0, 1]);
                    self.run_until(self.now_ms.max(until_ms - early_ms))?;
                }
                Allowance::Until(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Binds a connection, mostly as who made it and from a station without an allocation.
    fn bind(&mut self, station: usize, link: &Link) -> Result<(), String> {
        let owner = self.lockstep.model.allocation(link.relay).map(|found| found.username.clone());
        let as_owner = self.dice.permille(850);
        let model = &self.lockstep.model;
        let fits = |account: &&Account| (Some(&account.username) == owner.as_ref()) == as_owner;
        let account = model.accounts().find(fits).cloned();
        let maker = self.lockstep.model.allocation(link.relay).map(|found| found.client);
        let is_fit = |id: turn::Client| id.five_tuple.transport.is_stream() && Some(id) != maker;
        let fit = self.stations.iter().position(|station| is_fit(station.id));
        let station = fit.filter(|_| self.dice.permille(800)).unwrap_or(station);
        if self.dice.permille(700) && self.stations.get(station).is_some_and(|station| is_fit(station.id)) {
            self.gone(station)?;
            // Mostly the worker that has the connection accepts the other one, too.
            let worker = usize::from(link.connection.worker().0);
            let accepting = self.stations.get_mut(station).filter(|_| self.dice.permille(850));
            if let Some(station) = accepting {
                station.worker = worker;
            }
        }
        if let Some(account) = account {
            self.ask_as(station, &account, Method::CONNECTION_BIND, |writer| {
                writer.attribute_u32(AttributeType::CONNECTION_ID, link.connection.0);
            })?;
        }
        Ok(())
    }

    /// A Connect comes twice, with or without an answer in between.
    fn connect_again(&mut self) -> Result<(), String> {
        let tcp = self.lockstep.model.allocations().filter(|allocation| allocation.tcp);
        let tcp: Vec<Allocation> = tcp.cloned().collect();
        let Some(allocation) = tcp.get(self.dice.index(tcp.len())) else { return Ok(()) };
        let station = self.stations.iter().position(|station| station.id == allocation.client);
        let found = self.lockstep.model.accounts().find(|a| a.username == allocation.username).cloned();
        let (Some(station), Some(account)) = (station, found) else { return Ok(()) };
        let held = self.lockstep.model.links().find(|link| allocation.relay_to(link.peer).is_some());
        let held = held.map(|link| link.peer).filter(|_| self.dice.permille(300));
        let (peer, answered) = (held.unwrap_or_else(|| self.some_peer()), self.dice.permille(600));
        let packet = self.signed(station, &account, Method::CONNECT, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        self.give(station, &packet)?;
        let made = self.lockstep.model.links().last().cloned();
        if let Some(Link { connection, stage: Stage::Connecting { .. }, .. }) = made.filter(|_| answered) {
            self.lockstep.connected(self.now(), connection, true)?;
        }
        self.give(station, &packet)
    }

    /// An allocation connects to the peer that is denied now and then, and it is.
    fn forbid(&mut self, link: &Link) -> Result<(), String> {
        let Some(allocation) = self.lockstep.model.allocation(link.relay).cloned() else { return Ok(()) };
        if self.later_policy {
            self.change_policy()?;
        }
        let peer = self.scenario.denied_later();
        self.ask_as_owner(&allocation, Method::CONNECT, |writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        self.change_policy()
    }

    /// Clients get what they were told.
    pub(super) fn deliver_told(&mut self) -> Result<(), String> {
        for (client, message) in std::mem::take(&mut self.lockstep.told) {
            self.dispatch(Sent::ToClient(client, message))?;
        }
        Ok(())
    }

    /// A peer connects to a relayed address, permitted or not.
    fn peer_connects(&mut self) -> Result<(), String> {
        let tcp = self.lockstep.model.allocations().filter(|allocation| allocation.tcp);
        let relays: Vec<(RelayId, Vec<SocketAddr>)> = tcp
            .flat_map(|held| {
                let permitted: Vec<SocketAddr> =
                    held.permissions.keys().map(|ip| SocketAddr::new(*ip, 7_000)).collect();
                held.relays.iter().map(move |relay| (relay.id, permitted.clone()))
            })
            .collect();
        let Some((relay, permitted)) = relays.get(self.dice.index(relays.len())).cloned() else {
            return Ok(());
        };
        let peer = match permitted.get(self.dice.index(permitted.len())) {
            Some(peer) if self.dice.permille(800) => *peer,
            _ => self.some_peer(),
        };
        self.lockstep.accepted(self.now(), relay, peer)
    }
}

impl Lockstep {
    /// So many bytes were read from one side of a data connection; what may be read next.
    fn relayed(
        &mut self,
        now: Time,
        connection: ConnectionId,
        direction: Direction,
        bytes: usize,
    ) -> Result<Allowance, String> {
        self.report.steps += 1;
        let server = self.server(usize::from(connection.worker().0));
        let given = server.relayed(now, connection, direction, bytes);
        let what = format!("{} {bytes} bytes {direction:?} on {connection:?} -> {given:?}", now.monotonic_ms);
        self.trace.record(what, &[]);
        let wanted = self.model.streamed(now, connection, direction, bytes);
        if given != wanted {
            return Err(format!("{given:?} instead of {wanted:?}"));
        }
        self.count_feature(bytes > 0, "streamed");
        self.count_feature(matches!(given, Allowance::Until(until_ms) if until_ms < u64::MAX), "held");
        Ok(given)
    }
}
