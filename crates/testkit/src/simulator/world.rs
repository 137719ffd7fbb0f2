//! The clock, and everyone on the network.

use std::net::SocketAddr;

use turn::{Command, FiveTuple, Time, Transport};

use super::Report;
use super::accounts::Keyrings;
use super::lockstep::{Lockstep, Sent};
use super::scenario::Scenario;
use crate::client::{Client, Config, Event, Family, Frames};
use crate::dice::Dice;
use crate::model::Account;
use crate::network::{Delivery, Network};

/// When a run begins, in monotonic milliseconds.
const START_MS: u64 = 5_000_123;
/// And in unix seconds.
const START_UNIX: u64 = 1_800_000_000;
/// How many of its last packets a station keeps, to send them again.
const KEPT: usize = 16;

/// A client where it sits.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) id: turn::Client,
    pub(super) client: Client,
    pub(super) account: Account,
    /// The worker that hears it.
    pub(super) worker: usize,
    /// What it has sent lately.
    pub(super) sent: Vec<Vec<u8>>,
    /// Its stream as the server reads it, and the other way.
    to_server: Frames,
    to_client: Frames,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) scenario: Scenario,
    pub(super) keyrings: Keyrings,
    /// The keyring's keys now, the last of them current.
    pub(super) ring: Vec<u8>,
    pub(super) later_policy: bool,
    pub(super) lockstep: Lockstep,
    pub(super) network: Network,
    pub(super) stations: Vec<Station>,
    pub(super) now_ms: u64,
    /// What the wall clock is ahead of the other.
    ahead_ms: u64,
    /// When the server's timer is due, and when it will be looked at.
    sweep: Option<(u64, u64)>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let scenario = Scenario::new(&mut dice);
        let keyrings = Keyrings::new(&mut dice);
        let lockstep = Lockstep::new(&mut dice, &scenario, keyrings.ring(&[1]));
        let network = Network::new(dice.number(), scenario.link);
        let ahead_ms = START_UNIX * 1_000 - START_MS + dice.below(1_000);
        let mut world = Self {
            dice,
            scenario,
            keyrings,
            ring: vec![1],
            later_policy: false,
            lockstep,
            network,
            stations: Vec::new(),
            now_ms: START_MS,
            ahead_ms,
            sweep: None,
        };
        for _ in 0..4 {
            world.change_secrets().expect("nothing has happened yet");
        }
        for (transport, address) in Scenario::stations() {
            let server = world.scenario.listener(address.is_ipv4());
            let via = u32::try_from(world.stations.len()).unwrap_or(0);
            let id = turn::Client { five_tuple: FiveTuple { transport, client: address, server }, via };
            let account = world.mint();
            let worker = world.dice.index(world.lockstep.workers());
            let client = world.new_client(transport, &account);
            let (to_server, to_client) = (Frames::default(), Frames::default());
            world.stations.push(Station { id, client, account, worker, sent: vec![], to_server, to_client });
        }
        world
    }

    pub(super) fn report(&mut self) -> Report {
        use std::hash::Hasher;
        let lane = &self.lockstep;
        Report { trace: lane.trace.hasher.finish(), ..lane.report.clone() }
    }

    pub(super) fn now(&self) -> Time {
        Time { monotonic_ms: self.now_ms, unix_ms: self.now_ms + self.ahead_ms }
    }

    /// A credential that lives for a while.
    pub(super) fn mint(&mut self) -> Account {
        let ttl_secs = self.dice.pick(&[1, 60, 300, 599, 601, 1_000, 3_600, 7_200, 7_200, 172_800, 172_800]);
        let sealed_by = self.ring.last().copied().unwrap_or(1);
        let unix_secs = self.now().unix_secs();
        let time_limited = if self.dice.permille(350) {
            // Applications may choose a time that is too far ahead.
            let ttl_secs = if self.dice.permille(50) { 604_801 } else { ttl_secs };
            self.keyrings.mint_time_limited(&mut self.dice, unix_secs, ttl_secs)
        } else {
            None
        };
        let account = match time_limited {
            Some(account) => account,
            None => self.keyrings.mint(&mut self.dice, sealed_by, unix_secs, ttl_secs),
        };
        self.lockstep.model.add_account(account.clone());
        account
    }

    /// A TURN key's shared secrets are others from now on.
    pub(super) fn change_secrets(&mut self) -> Result<(), String> {
        let (key, secrets) = self.keyrings.change_secrets(&mut self.dice);
        self.lockstep.model.set_shared_secrets(key, secrets.iter().map(|secret| secret.id));
        self.lockstep.command(self.now(), &Command::SharedSecrets { key, secrets: secrets.into() })
    }

    pub(super) fn new_client(&mut self, transport: Transport, account: &Account) -> Client {
        let relays_tcp = transport == Transport::Tcp && self.dice.permille(700);
        let even_port = self.dice.pick(&[None, None, None, Some(false), Some(true)]);
        let config = Config {
            family: self.dice.pick(&[None, Some(Family::V4), Some(Family::V6)]),
            additional: self.dice.permille(400),
            even_port: even_port.filter(|_| !relays_tcp || self.dice.permille(50)),
            relays_tcp,
            sha256: self.dice.permille(500),
            fingerprint: self.dice.permille(300),
            keep_alive: self.dice.permille(700),
            // What relays connections cannot move.
            mobility: self.dice.permille(if relays_tcp { 50 } else { 600 }),
            ..Config::new(&account.username, &account.password, transport)
        };
        Client::new(config, self.dice.number())
    }

    pub(super) fn run(&mut self, actions: u32) -> Result<(), String> {
        for _ in 0..actions {
            self.act()?;
        }
        self.close()
    }

    /// Ends everything, in some way or another.
    fn close(&mut self) -> Result<(), String> {
        for station in 0..self.stations.len() {
            if self.dice.permille(400) {
                self.gone(station)?;
            }
        }
        // Two hours without a word outlive every allocation.
        (0..self.stations.len()).for_each(|station| self.start_anew(station));
        self.run_until(self.now_ms + 7_200_000)?;
        self.lockstep.handle_timeout(self.now())?;
        self.lockstep.check_empty()
    }

    /// Lets time pass, and everything happen that it brings.
    pub(super) fn run_until(&mut self, at_ms: u64) -> Result<(), String> {
        loop {
            self.watch_timer();
            let arrival = self.network.poll_timeout();
            let client = self.stations.iter().filter_map(|station| station.client.poll_timeout()).min();
            let sweep = self.sweep.map(|(_, at)| at);
            let letter = self.lockstep.next_letter();
            let next = [arrival, client, sweep, letter].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= at_ms) else { break };
            self.now_ms = self.now_ms.max(next);
            if letter.is_some_and(|at_ms| at_ms <= next) && (arrival != Some(next) || self.dice.permille(500))
            {
                self.read_letter()?;
            } else if sweep == Some(next) && (arrival != sweep || self.dice.permille(500)) {
                self.sweep = None;
                self.lockstep.handle_timeout(self.now())?;
            } else if arrival == Some(next) {
                while let Some(delivery) = self.network.poll_delivery(self.now_ms) {
                    self.deliver(delivery)?;
                }
            } else {
                for station in 0..self.stations.len() {
                    if let Some(station) = self.stations.get_mut(station) {
                        station.client.handle_timeout(self.now_ms);
                    }
                    self.flush(station);
                }
            }
        }
        self.now_ms = self.now_ms.max(at_ms);
        Ok(())
    }

    /// A worker reads what another one has written to it.
    fn read_letter(&mut self) -> Result<(), String> {
        let sent = self.lockstep.read_letter(self.now())?;
        self.dispatch(sent)?;
        self.deliver_told()
    }

    /// The server's timer is looked at in time, or a little late.
    fn watch_timer(&mut self) {
        let due = self.lockstep.poll_timeout();
        if self.sweep.map(|(due, _)| due) != due {
            let late = self.dice.pick(&[0, 0, 0, 1, 20, 1_500]);
            self.sweep = due.map(|due| (due, due.max(self.now_ms) + late));
        }
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), String> {
        let now = self.now();
        match delivery {
            Delivery::Datagram { from, to, bytes } => {
                if let Some(station) = self.station(Transport::Udp, from, to) {
                    return self.give(station, &bytes);
                }
                if let Some(station) = self.station(Transport::Udp, to, from) {
                    self.receive(station, &bytes);
                    return Ok(());
                }
                let relay = self.lockstep.model.relays().find(|relay| relay.address == to);
                if let Some(relay) = relay.map(|relay| relay.id) {
                    let sent = self.lockstep.peer_packet(now, relay, from, &bytes)?;
                    self.dispatch(sent)?;
                } else if self.scenario.peers.contains(&to) && self.dice.permille(600) {
                    let answer: Vec<u8> = bytes.iter().rev().copied().collect();
                    self.network.send(self.now_ms, to, from, &answer);
                }
                Ok(())
            }
            Delivery::Segment { from, to, bytes } => {
                if let Some(station) = self.station(Transport::Tcp, from, to) {
                    self.read_stream(station, &bytes)
                } else if let Some(index) = self.station(Transport::Tcp, to, from) {
                    let Some(station) = self.stations.get_mut(index) else { return Ok(()) };
                    station.to_client.push(&bytes);
                    loop {
                        let Some(station) = self.stations.get_mut(index) else { return Ok(()) };
                        let frame = station.to_client.next_frame();
                        let frame = frame.map_err(|e| format!("the server's stream is broken: {e}"))?;
                        let Some(frame) = frame else { return Ok(()) };
                        self.receive(index, &frame);
                    }
                } else {
                    Ok(())
                }
            }
        }
    }

    fn read_stream(&mut self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(station) = self.stations.get_mut(index) else { return Ok(()) };
        station.to_server.push(bytes);
        loop {
            let Some(station) = self.stations.get_mut(index) else { return Ok(()) };
            match station.to_server.next_frame() {
                Ok(Some(frame)) => self.give(index, &frame)?,
                Ok(None) => return Ok(()),
                // What is no frame closes the connection.
                Err(_) => return self.gone(index),
            }
        }
    }

    fn station(&self, transport: Transport, client: SocketAddr, server: SocketAddr) -> Option<usize> {
        let five_tuple = FiveTuple { transport, client, server };
        self.stations.iter().position(|station| station.id.five_tuple == five_tuple)
    }

    /// A station's packet reaches the server.
    pub(super) fn give(&mut self, station: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(Station { id, worker, .. }) = self.stations.get(station) else { return Ok(()) };
        let sent = self.lockstep.client_packet(self.now(), *worker, *id, bytes)?;
        self.dispatch(sent)
    }

    /// The server's packet reaches a station.
    fn receive(&mut self, index: usize, bytes: &[u8]) {
        let Some(station) = self.stations.get_mut(index) else { return };
        station.client.handle_packet(self.now_ms, bytes);
        while let Some(event) = station.client.poll_event() {
            self.lockstep.report.delivered += u64::from(matches!(event, Event::Data { .. }));
        }
        self.flush(index);
    }

    /// Sends what a station's client has to send.
    pub(super) fn flush(&mut self, index: usize) {
        let Some(station) = self.stations.get_mut(index) else { return };
        let FiveTuple { transport, client, server } = station.id.five_tuple;
        while let Some(packet) = station.client.poll_transmit() {
            if transport.is_datagram() {
                self.network.send(self.now_ms, client, server, &packet);
            } else {
                self.network.write(self.now_ms, client, server, &packet);
            }
            if station.sent.len() == KEPT {
                station.sent.remove(0);
            }
            station.sent.push(packet);
        }
    }

    pub(super) fn dispatch(&mut self, sent: Sent) -> Result<(), String> {
        match sent {
            Sent::Nothing => {}
            Sent::ToClient(to, bytes) => {
                let FiveTuple { transport, client, server } = to.five_tuple;
                if transport.is_datagram() {
                    self.network.send(self.now_ms, server, client, &bytes);
                } else {
                    self.network.write(self.now_ms, server, client, &bytes);
                }
            }
            Sent::ToPeer { from, peer, bytes } => {
                let peer = self.scenario.public(peer);
                self.network.send(self.now_ms, from, peer, &bytes);
            }
            Sent::ToRelay { relay, from, bytes } => {
                let sent = self.lockstep.peer_packet(self.now(), relay, from, &bytes)?;
                return self.dispatch(sent);
            }
        }
        Ok(())
    }

    /// A station's connection is closed; over UDP, its socket. Another takes its place.
    pub(super) fn gone(&mut self, index: usize) -> Result<(), String> {
        let Some(Station { id, worker, .. }) = self.stations.get(index) else { return Ok(()) };
        self.lockstep.client_gone(self.now(), *worker, id.five_tuple)?;
        self.start_anew(index);
        Ok(())
    }

    fn start_anew(&mut self, index: usize) {
        let Some(station) = self.stations.get(index) else { return };
        let (FiveTuple { transport, client, server }, account) =
            (station.id.five_tuple, station.account.clone());
        let stream = transport.is_stream();
        // Another connection, which any worker may accept.
        let worker = stream.then(|| self.dice.index(self.lockstep.workers()));
        if stream {
            self.network.close(client, server);
        }
        let client = self.new_client(transport, &account);
        if let Some(station) = self.stations.get_mut(index) {
            station.client = client;
            if let Some(worker) = worker {
                station.worker = worker;
                station.id.via += 100;
            }
            (station.to_server, station.to_client) = (Frames::default(), Frames::default());
        }
    }
}
