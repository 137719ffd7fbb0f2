//! Usage at full speed: what is reported of each session is what its client counts, to the packet and to the byte.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use credentials::CredentialId;
use relay::{Relay, Reports};
use stun::{ChannelNumber, channel_data};
use testkit::dice::Dice;
use turn::{Report, Usage};

use crate::fixture::{LONG, Running, config, peer};
use crate::trains::send_train;

/// Rounds of each pair, at least: they go on until every session has been reported in between.
const ROUNDS: usize = 500;
/// Packets of a train, at most: what arrives at one socket in a round fits into its buffer.
const MOST: usize = 24;

/// A client, and what it has counted.
struct OneClient {
    socket: UdpSocket,
    credential: CredentialId,
    relayed: SocketAddr,
    to_peer: ChannelNumber,
    to_other: ChannelNumber,
    usage: Usage,
}

/// Two clients with a peer each, who also talk to each other.
struct Pair {
    clients: [OneClient; 2],
    peers: [UdpSocket; 2],
    /// At an address without a permission.
    stranger: UdpSocket,
    dice: Dice,
    dropped: u64,
}

impl Pair {
    fn new(running: &Running, seed: u64) -> Self {
        let peers = [peer("127.0.0.1:0"), peer("127.0.0.1:0")];
        let credentials = [running.credential(600), running.credential(600)];
        let mut clients = credentials.each_ref().map(|credential| running.connect(0, credential));
        let relayed = clients.each_mut().map(|client| client.allocate().unwrap());
        let mut number = 0..;
        let clients = clients.map(|mut client| {
            let index = number.next().unwrap();
            let to_peer = client.channel_bind(peers[index].local_addr().unwrap()).unwrap();
            let to_other = client.channel_bind(relayed[1 - index]).unwrap();
            let socket = client.into_udp_socket().unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            let credential = credentials[index].id;
            OneClient {
                socket,
                credential,
                relayed: relayed[index],
                to_peer,
                to_other,
                usage: Usage::default(),
            }
        });
        Self { clients, peers, stranger: peer("127.0.0.6:0"), dice: Dice::new(seed), dropped: 0 }
    }

    /// A train on a channel: how many, of what size.
    fn client_sends(&mut self, index: usize, channel: ChannelNumber) -> (usize, usize) {
        let (count, size) = (1 + self.dice.index(MOST), 1 + self.dice.index(1_200));
        let header = channel_data::header(channel, u16::try_from(size).unwrap());
        let frame = [&header[..], &vec![7; size]].concat();
        send_train(&self.clients[index].socket, &frame.repeat(count), frame.len(), None);
        (count, size)
    }

    fn round(&mut self) {
        let mut due = [0, 0];
        for index in [0, 1] {
            let (to_peer, to_other) = (self.clients[index].to_peer, self.clients[index].to_other);
            let (peers, others) = (self.client_sends(index, to_peer), self.client_sends(index, to_other));
            for (count, size) in [peers, others] {
                let ingress = &mut self.clients[index].usage.ingress;
                ingress.packets += count as u64;
                ingress.bytes += (count * (4 + size)) as u64;
            }
            let (count, size) = (1 + self.dice.index(MOST), 1 + self.dice.index(1_200));
            let relayed = self.clients[index].relayed;
            send_train(&self.peers[index], &vec![7; count * size], size, Some(relayed));
            due[index] += count;
            due[1 - index] += others.0;
            for _ in 0..peers.0 {
                assert_eq!(self.peers[index].recv(&mut [0; 2_000]).unwrap(), peers.1);
            }
            // What is not relayed is nobody's usage.
            if self.dice.permille(100) {
                self.dropped += self.client_sends(index, ChannelNumber::new(0x4FFE).unwrap()).0 as u64;
                send_train(&self.stranger, &[7; 300], 100, Some(relayed));
                self.dropped += 3;
            }
        }
        for (client, due) in self.clients.iter_mut().zip(due) {
            for _ in 0..due {
                let mut buffer = [0; 2_000];
                let length = client.socket.recv(&mut buffer).unwrap();
                assert!(channel_data::parse(&buffer[..length]).is_some());
                client.usage.egress.packets += 1;
                client.usage.egress.bytes += length as u64;
            }
        }
    }
}

/// The newest report of each session, by its credential.
#[derive(Default)]
struct Books(BTreeMap<CredentialId, Report>);

impl Books {
    fn enter(&mut self, reports: Reports) {
        for report in reports {
            if let Some(before) = self.0.get(&report.session.credential) {
                assert!(before.sequence < report.sequence && before.session.id == report.session.id);
                assert!(before.usage.ingress.bytes <= report.usage.ingress.bytes, "totals only grow");
            }
            self.0.insert(report.session.credential, *report);
        }
    }

    /// Keeps the books until each of so many sessions has been reported.
    fn keep(relay: &Relay, sessions: usize) -> Self {
        let (mut books, deadline) = (Self::default(), Instant::now() + 4 * LONG);
        while books.0.len() < sessions {
            assert!(Instant::now() < deadline, "sessions are reported");
            thread::sleep(Duration::from_millis(5));
            books.enter(relay.take_reports(1));
        }
        books
    }
}

#[test]
fn reports_are_exact_at_full_speed() {
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let mut pairs = [1, 2, 3].map(|seed| Pair::new(&running, seed));
    let (are_reported, begun) = (AtomicBool::new(false), Instant::now());
    let mut books = thread::scope(|scope| {
        for pair in &mut pairs {
            let are_reported = &are_reported;
            scope.spawn(move || {
                let mut rounds = 0;
                while rounds < ROUNDS || !are_reported.load(Ordering::Relaxed) {
                    pair.round();
                    rounds += 1;
                }
            });
        }
        let keeping = scope.spawn(|| Books::keep(running.relay(), 6)).join();
        are_reported.store(true, Ordering::Relaxed);
        keeping.unwrap()
    });
    let took = begun.elapsed();
    let dropped = pairs.iter().map(|pair| pair.dropped).sum();
    running.wait_for("what must not be relayed is dropped", |totals| totals.drops == dropped);
    let totals = running.relay().totals();
    books.enter(running.stop());
    let (mut to_peers, mut to_clients) = (0, 0);
    for client in pairs.iter().flat_map(|pair| &pair.clients) {
        let report = &books.0[&client.credential];
        assert_eq!(report.usage, client.usage);
        assert!(report.ended.is_some() && report.sequence > 1);
        to_peers += client.usage.ingress.packets;
        to_clients += client.usage.egress.packets;
    }
    assert_eq!((totals.relayed.packets_to_peers, totals.relayed.packets_to_clients), (to_peers, to_clients));
    assert_eq!(totals.send_failures, 0);
    println!("{} packets in {took:?}", to_peers + to_clients);
}
