//! What happens of its own accord: clients that behave, peers, operators, and probes at the very moment at which
//! something runs out.

use credentials::Denial;
use std::net::SocketAddr;
use std::sync::Arc;

use stun::{AttributeType, ChannelNumber, Class, Method};
use turn::{AlternateServer, Command, Ending, Icmp, RelayId, Transport};

use super::scenario::key_limits;
use super::world::World;
use crate::message;
use crate::model::{Account, Allocation};

impl World {
    /// Lets some time pass and does one thing.
    pub(super) fn act(&mut self) -> Result<(), String> {
        let chance = self.dice.below(1_000);
        if chance < 120 {
            return self.probe_a_boundary();
        }
        let wait_ms = match chance {
            0..300 => 0,
            300..800 => self.dice.below(300),
            _ => self.dice.below(60_000),
        };
        self.run_until(self.now_ms + wait_ms)?;
        self.deliver_told()?;
        self.renew_accounts();
        self.lockstep.sockets.failing = self.dice.permille(20);
        self.lockstep.mailboxes_full = self.dice.permille(30);
        self.lockstep.sockets.in_use = if self.dice.permille(100) { 2 } else { 0 };
        let station = self.dice.index(self.stations.len());
        // A reservation does not last long enough to be met by chance.
        if self.lockstep.model.reservations().next().is_some() && self.dice.permille(250) {
            return self.claim(station);
        }
        if self.dice.permille(150) {
            return self.connections(station);
        }
        match self.dice.below(1_000) {
            0..380 => self.behave(station),
            380..680 => {
                let packet = self.wrong_packet(station)?;
                return self.give(station, &packet);
            }
            680..790 => self.peer_sends(),
            790..800 => return self.network_complains(),
            800..850 => return self.operate(station),
            850..880 => self.renew(station),
            880..910 => return self.claim(station),
            910..975 => return self.travel(station),
            _ => return self.probe_any(),
        }
        Ok(())
    }

    /// A payload of a length that matters.
    pub(super) fn payload(&mut self) -> Vec<u8> {
        let length = match self.dice.below(200) {
            0 => self.dice.pick(&[65_507, 65_516, 65_517, 65_535]),
            1..40 => self.dice.index(8),
            40..160 => 20 + self.dice.index(100),
            _ => 1_200,
        };
        self.dice.data(length)
    }

    /// A peer: mostly one that may be reached, else one that may not or another client's relayed address.
    pub(super) fn some_peer(&mut self) -> SocketAddr {
        let relayed: Vec<SocketAddr> = self.lockstep.model.relays().map(|relay| relay.address).collect();
        match self.dice.below(100) {
            ..75 => self.dice.pick(&self.scenario.friendly),
            ..85 if !relayed.is_empty() => self.dice.pick(&relayed),
            _ => self.dice.pick(&self.scenario.peers),
        }
    }

    /// A channel number: a few, so that they are met again.
    pub(super) fn some_channel(&mut self) -> ChannelNumber {
        let number = self.dice.pick(&[0x4000, 0x4001, 0x4002, 0x4FFF, 0x7FFF]);
        ChannelNumber::new(number).unwrap_or(ChannelNumber::MIN)
    }

    pub(super) fn some_lifetime(&mut self) -> u32 {
        self.dice.pick(&[0, 1, 599, 600, 601, 1_200, 3_599, 3_600, 3_601, 1 << 31, u32::MAX])
    }

    /// A well-behaved client does something.
    fn behave(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let peers = [self.some_peer(), self.some_peer(), self.some_peer()];
        let [peer, ..] = peers;
        let count = 1 + self.dice.index(3);
        let channel = self.some_channel();
        let lifetime = if self.dice.permille(500) { Some(self.some_lifetime()) } else { None };
        let data = self.payload();
        let what = self.dice.below(18);
        let Some(station) = self.stations.get_mut(index) else { return };
        let client = &mut station.client;
        match what {
            ..3 => client.allocate(now_ms, lifetime),
            3 => client.refresh(now_ms, lifetime),
            4..7 => client.create_permission(now_ms, peers.get(..count).unwrap_or_default()),
            7..9 => drop(client.channel_bind(now_ms, peer)),
            9 => client.channel_bind_as(now_ms, channel, peer),
            10..13 => client.send(peer, indicated(&data)),
            13 => client.send_indication(peer, indicated(&data)),
            14 => client.send_channel_data(channel, &data),
            15 | 16 => client.connect(now_ms, peer),
            _ => client.binding(now_ms),
        }
        self.flush(index);
    }

    /// A peer sends to a relayed address, permitted or not.
    fn peer_sends(&mut self) {
        let relayed: Vec<SocketAddr> = self.lockstep.model.relays().map(|relay| relay.address).collect();
        if relayed.is_empty() {
            return;
        }
        let to = self.dice.pick(&relayed);
        let from = self.dice.pick(&self.scenario.peers);
        let data = self.payload();
        self.network.send(self.now_ms, from, to, &data);
    }

    /// ICMP errors about datagrams of a relay socket: one, or as many as nobody wants to hear of.
    fn network_complains(&mut self) -> Result<(), String> {
        let relays: Vec<RelayId> = self.lockstep.model.relays().map(|relay| relay.id).collect();
        if relays.is_empty() {
            return Ok(());
        }
        let relay = self.dice.pick(&relays);
        let permitted: Vec<SocketAddr> = self
            .lockstep
            .model
            .allocations()
            .filter(|allocation| allocation.relays.iter().any(|held| held.id == relay))
            .flat_map(|allocation| allocation.permissions.keys().map(|ip| SocketAddr::new(*ip, 5_000)))
            .collect();
        for _ in 0..self.dice.pick(&[1, 3, 20]) {
            let other = self.some_peer();
            let use_other = permitted.is_empty() || self.dice.permille(200);
            let peer = if use_other { other } else { self.dice.pick(&permitted) };
            let icmp = Icmp {
                kind: self.dice.pick(&[0, 1, 2, 3, 3, 3, 4, 5, 8, 11, 12]),
                code: self.dice.pick(&[0, 1, 3, 4, 4]),
                data: self.dice.pick(&[0, 1_280, u32::MAX]),
            };
            let sent = self.lockstep.peer_error(self.now(), relay, peer, icmp)?;
            self.dispatch(sent)?;
        }
        Ok(())
    }

    /// Whoever has a dead credential soon gets another one.
    fn renew_accounts(&mut self) {
        let unix_ms = self.now().unix_ms;
        for index in 0..self.stations.len() {
            let dead = self.stations.get(index).is_some_and(|station| {
                let account = &station.account;
                unix_ms >= account.expires_at * 1_000 || self.lockstep.model.is_refused(account)
            });
            if dead && self.dice.permille(120) {
                self.renew(index);
            }
        }
    }

    /// A station goes on as another user. An allocation that it has stays the old user's.
    fn renew(&mut self, index: usize) {
        let account = self.mint();
        let Some(transport) = self.stations.get(index).map(|station| station.id.five_tuple.transport) else {
            return;
        };
        let client = self.new_client(transport, &account);
        if let Some(station) = self.stations.get_mut(index) {
            (station.account, station.client) = (account, client);
        }
    }

    /// An operator, or the end of a connection.
    fn operate(&mut self, index: usize) -> Result<(), String> {
        let now = self.now();
        let Some(account) = self.stations.get(index).map(|station| station.account.clone()) else {
            return Ok(());
        };
        let until = now.unix_secs() + 172_800;
        let command = match self.dice.below(23) {
            22 => self.change_admission(),
            16..19 => {
                // An account of a suspended key is as good as dead: who had it got another one long ago.
                let keys = self.keyrings.turn_keys();
                let suspended = keys.iter().copied().find(|key| self.lockstep.model.is_suspended(*key));
                let (key, suspended) = match suspended {
                    Some(key) => (key, self.dice.permille(200)),
                    None => (account.turn_key, true),
                };
                self.lockstep.model.suspend(key, suspended);
                Command::Suspend { key, suspended }
            }
            19..22 => {
                let (key, now_secs) = (account.turn_key, now.unix_secs());
                let before = now_secs + 1 - self.dice.pick(&[0, 0, 1, 60, 600]);
                let identifier = account.issued.map(|issued| issued.identifier);
                let denial = match identifier.filter(|_| self.dice.permille(600)) {
                    Some(identifier) => Denial::Identifier { key, identifier, before, until },
                    None => Denial::Issued { key, before, until },
                };
                self.lockstep.model.deny(denial);
                Command::Deny(denial)
            }
            ..3 => {
                let denial = Denial::Credential { id: account.id, until: account.expires_at };
                self.lockstep.model.deny(denial);
                Command::Deny(denial)
            }
            3 => {
                let denial = Denial::Key { key: account.turn_key, until };
                self.keyrings.forget(account.turn_key, &mut self.dice);
                self.lockstep.model.deny(denial);
                Command::Deny(denial)
            }
            4..6 => {
                let rings: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
                self.ring = self.dice.pick(&rings).to_vec();
                self.lockstep.model.set_keyring(self.ring.iter().copied());
                Command::Keyring(self.keyrings.ring(&self.ring))
            }
            6..8 => return self.change_policy(),
            8..10 => {
                let limits = self.dice.permille(600).then(|| key_limits(&mut self.dice));
                self.lockstep.model.limit_key(account.turn_key, limits);
                Command::KeyLimits { key: account.turn_key, limits }
            }
            10..12 => return self.change_secrets(),
            12..14 => {
                let ending = self.some_ending(&account);
                self.lockstep.model.end_sessions(now, ending.clone());
                Command::End(ending)
            }
            _ => return self.gone(index),
        };
        self.lockstep.command(now, &command)
    }

    /// New clients of some transports are sent elsewhere, all are refused, or no longer: mostly they are taken.
    fn change_admission(&mut self) -> Command {
        let stale = self.lockstep.model.are_denials_stale();
        if stale || self.dice.permille(250) {
            self.lockstep.model.denials_stale(!stale);
            return Command::DenialsStale(!stale);
        }
        let redirects = self.lockstep.model.redirects();
        let transports = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];
        let chosen = transports.into_iter().filter(|_| !redirects && self.dice.permille(400));
        let server =
            |transport| AlternateServer { transport, address: ([20, 0, 0, 9], 3_478).into(), domain: None };
        let to: Vec<AlternateServer> = chosen.map(server).collect();
        let draining = !redirects && self.dice.permille(300);
        self.lockstep.model.redirect(to.clone(), draining);
        Command::Redirect { to, draining }
    }

    /// Sessions for an operator to end: mostly of this user.
    fn some_ending(&mut self, account: &Account) -> Ending {
        let sessions: Vec<_> = self.lockstep.model.allocations().filter_map(Allocation::session).collect();
        match (self.dice.below(4), sessions.get(self.dice.index(sessions.len()))) {
            (0, Some(session)) => Ending::Session(*session),
            (0 | 1, _) => Ending::Credential(account.id),
            (2, _) => Ending::Key(account.turn_key),
            _ => Ending::CustomIdentifier {
                turn_key: account.turn_key,
                custom_identifier: account.custom_identifier.as_str().into(),
            },
        }
    }

    /// One more prefix is denied, or no longer.
    pub(super) fn change_policy(&mut self) -> Result<(), String> {
        self.later_policy = !self.later_policy;
        self.lockstep.model.set_forbidden(self.scenario.forbidden(self.later_policy));
        let policy = Arc::new(self.scenario.policy(self.later_policy));
        self.lockstep.command(self.now(), &Command::Policy(policy))
    }

    /// Goes to a moment at which something runs out, a millisecond before it or behind it, and tries everything that
    /// should just still work or just no longer.
    fn probe_a_boundary(&mut self) -> Result<(), String> {
        let mut moments = self.lockstep.model.boundaries(self.now());
        moments.retain(|moment| *moment > self.now_ms + 1);
        moments.sort_unstable();
        if moments.is_empty() {
            return Ok(());
        }
        // The next ones more often, or most would run out unseen.
        let reach = if self.dice.permille(700) { moments.len().min(4) } else { moments.len() };
        let moment = moments.get(self.dice.index(reach)).copied().unwrap_or(self.now_ms);
        if moment > self.now_ms + 4_000_000 {
            return Ok(());
        }
        if self.dice.permille(400) {
            self.run_until(self.now_ms.max(moment.saturating_sub(2_000)))?;
            self.hold_open(moment)?;
        }
        let first = self.dice.pick(&[moment - 1, moment - 1, moment, moment + 1]);
        self.run_until(first.max(self.now_ms))?;
        self.probe_at(moment)?;
        if first < moment {
            self.run_until(moment.max(self.now_ms))?;
            self.probe_at(moment)?;
        }
        Ok(())
    }

    /// Refreshes what would end before the moment to be looked at: the allocation and the permission of a channel.
    fn hold_open(&mut self, moment: u64) -> Result<(), String> {
        for allocation in self.ending_at(moment) {
            let peers: Vec<SocketAddr> = allocation.channels.values().map(|(peer, _)| *peer).collect();
            if allocation.expires_ms > moment + 1 && !peers.is_empty() {
                self.ask_as_owner(&allocation, Method::CREATE_PERMISSION, |writer| {
                    for peer in peers {
                        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
                    }
                })?;
            }
        }
        Ok(())
    }

    /// The allocations about which something ends at this moment.
    fn ending_at(&self, moment: u64) -> Vec<Allocation> {
        let touched = |allocation: &&Allocation| {
            allocation.expires_ms == moment
                || allocation.permissions.values().any(|until| *until == moment)
                || allocation.channels.values().any(|(_, until)| *until == moment)
        };
        let all: Vec<Allocation> = self.lockstep.model.allocations().cloned().collect();
        let ending: Vec<Allocation> = all.iter().filter(touched).cloned().collect();
        // None: then it is a credential that ends.
        if ending.is_empty() { all } else { ending }
    }

    fn probe_at(&mut self, moment: u64) -> Result<(), String> {
        for allocation in self.ending_at(moment) {
            self.probe(&allocation)?;
        }
        Ok(())
    }

    fn probe_any(&mut self) -> Result<(), String> {
        let all: Vec<Allocation> = self.lockstep.model.allocations().cloned().collect();
        match all.get(self.dice.index(all.len())) {
            Some(allocation) => self.probe(allocation),
            None => Ok(()),
        }
    }

    /// Claims a port that is reserved, mostly as who reserved it, sometimes once more from elsewhere.
    fn claim(&mut self, station: usize) -> Result<(), String> {
        let kept: Vec<(Vec<u8>, String)> = self
            .lockstep
            .model
            .reservations()
            .map(|(token, reservation)| (token.clone(), reservation.username.clone()))
            .collect();
        let Some((token, owner)) = kept.get(self.dice.index(kept.len())) else { return Ok(()) };
        let again = self.dice.permille(500).then(|| self.dice.index(self.stations.len()));
        for station in std::iter::once(station).chain(again) {
            let as_owner = self.dice.permille(800);
            let model = &self.lockstep.model;
            let account = model.accounts().find(|a| (a.username == *owner) == as_owner).cloned();
            // Room for it, mostly.
            if self.dice.permille(700) {
                self.gone(station)?;
            }
            if let Some(account) = account {
                self.ask_as(station, &account, Method::ALLOCATE, |writer| {
                    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
                    writer.attribute(AttributeType::RESERVATION_TOKEN, token);
                })?;
            }
        }
        Ok(())
    }

    /// Tries what an allocation allows, past the network, at this very moment.
    pub(super) fn probe(&mut self, allocation: &Allocation) -> Result<(), String> {
        let next = allocation.mobile.as_ref().and_then(|mobile| mobile.next);
        let client = next.filter(|_| self.dice.permille(400)).unwrap_or(allocation.client);
        let station = self.stations.iter().position(|station| station.id == client);
        let Some(station) = station else { return Ok(()) };
        let transport = client.five_tuple.transport;
        for ip in allocation.permissions.keys() {
            let data = self.payload();
            let peer = SocketAddr::new(*ip, 5_000 + u16::from(self.dice.permille(300)));
            if self.dice.permille(600) {
                self.probe_from_peer(allocation, peer, &data)?;
            }
            if self.dice.permille(600) {
                let transaction = self.dice.transaction();
                let whole = self.dice.permille(200);
                let packet = message::write(Class::Indication, Method::SEND, transaction, |writer| {
                    if whole {
                        writer.attribute(AttributeType::DONT_FRAGMENT, &[]);
                    }
                    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
                    writer.attribute(AttributeType::DATA, indicated(&data));
                });
                self.give(station, &packet)?;
            }
        }
        for (number, (peer, _)) in &allocation.channels {
            let Some(channel) = ChannelNumber::new(*number) else { continue };
            let data = self.payload();
            if self.dice.permille(600) {
                self.probe_from_peer(allocation, *peer, &data)?;
            }
            if self.dice.permille(600) {
                self.give(station, &message::channel_data(transport, channel, &data))?;
            }
            let (other_channel, other_peer) = (self.some_channel(), self.some_peer());
            match self.dice.below(6) {
                0 => self.bind_as_owner(allocation, other_channel, *peer)?,
                1 => self.bind_as_owner(allocation, channel, other_peer)?,
                2 => self.bind_as_owner(allocation, channel, *peer)?,
                _ => {}
            }
        }
        if allocation.relays.len() == 2 && self.dice.permille(150) {
            let family = self.dice.pick(&[message::FAMILY_IPV4, message::FAMILY_IPV6]);
            self.ask_as_owner(allocation, Method::REFRESH, |writer| {
                writer.attribute_u32(AttributeType::LIFETIME, 0);
                writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family);
            })?;
        }
        match self.dice.below(8) {
            0 => {
                let lifetime = self.some_lifetime();
                let family = self.dice.pick(&[None, Some(message::FAMILY_IPV4), Some(message::FAMILY_IPV6)]);
                self.ask_as_owner(allocation, Method::REFRESH, |writer| {
                    writer.attribute_u32(AttributeType::LIFETIME, lifetime);
                    family.map(|family| writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family));
                })
            }
            1 => self.ask_as_owner(allocation, Method::ALLOCATE, |writer| {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
            }),
            _ => Ok(()),
        }
    }

    fn probe_from_peer(
        &mut self,
        allocation: &Allocation,
        peer: SocketAddr,
        data: &[u8],
    ) -> Result<(), String> {
        let Some(relay) = allocation.relay_to(peer).map(|relay| relay.id) else { return Ok(()) };
        if !self.lockstep.sockets.is_open(relay) {
            return Ok(());
        }
        let sent = self.lockstep.peer_packet(self.now(), relay, peer, data)?;
        self.dispatch(sent)?;
        Ok(())
    }

    fn bind_as_owner(
        &mut self,
        allocation: &Allocation,
        channel: ChannelNumber,
        peer: SocketAddr,
    ) -> Result<(), String> {
        self.ask_as_owner(allocation, Method::CHANNEL_BIND, |writer| {
            writer.attribute(AttributeType::CHANNEL_NUMBER, &channel.to_attribute());
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })
    }
}

/// As much as a Send indication takes in a datagram.
fn indicated(data: &[u8]) -> &[u8] {
    data.get(..data.len().min(65_507 - 56)).unwrap_or_default()
}
