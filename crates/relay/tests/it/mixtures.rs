//! Many clients and peers at once, in bursts of any size, over IPv4 and IPv6, wide paths and narrow ones: each flow
//! arrives whole and in order, and what must not be relayed is not. Needs root, for a network namespace with narrow
//! paths.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use stun::{AttributeType as A, ChannelNumber, Class, Kind, Message, MessageWriter, Method, channel_data};
use testkit::client::Family;
use testkit::dice::Dice;

use crate::fixture::{LONG, Running, config, peer, receive};
use crate::trains::try_send_train;

/// Bursts of one round; and what each of them may be charged to a socket's buffer, so that nothing is lost there.
const BURSTS: usize = 2;
const ROOM: usize = 100_000;
/// What a packet is charged beside twice its bytes, at most.
const OVERHEAD: usize = 1_280;
/// The paths to 127.0.0.3 and 127.0.0.4 take packets of up to 600 bytes.
const NARROW: [&str; 2] = ["127.0.0.3", "127.0.0.4"];
/// A peer that nobody gives a permission.
const STRANGER: usize = 4;

/// This thread, and those that it starts, have a network of their own from now on.
fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root (CAP_SYS_ADMIN)");
    let ip = |line: String| {
        let output = Command::new("ip").args(line.split(' ')).output().expect("iproute2 is installed");
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    ip("link set lo up".to_owned());
    for address in NARROW {
        ip(format!("route add local {address} dev lo table local mtu 600"));
    }
}

/// How a receiver tells flows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Address(SocketAddr),
    Channel(u16),
}

/// How a client's data travels to its server.
#[derive(Debug, Clone, Copy)]
enum Way {
    Channel(ChannelNumber),
    Indication { peer: SocketAddr, dont_fragment: bool },
}

#[derive(Debug, Clone, Copy)]
enum Receiver {
    Client(usize),
    Peer(usize),
}

/// Where what is sent on a way arrives; `None`: nowhere.
type Target = Option<(Receiver, From)>;
type Due = BTreeMap<From, VecDeque<Vec<u8>>>;

struct OneClient {
    socket: UdpSocket,
    relayed: SocketAddr,
    ways: Vec<(Way, Target)>,
    /// Peers that send to it, and as what their data arrives.
    peers: Vec<(usize, Target)>,
    due: Due,
}

struct Party {
    running: Running,
    clients: Vec<OneClient>,
    peers: Vec<(UdpSocket, Due)>,
    dropped: u64,
    dice: Dice,
}

impl Party {
    /// Clients 0 and 1 talk to each other, 2 has a narrow path, 3 has IPv6. Peer 1 has a narrow path, 3 has IPv6.
    fn new() -> Self {
        let running = Running::start(config(&["udp://127.0.0.1:0", "udp://127.0.0.4:0", "udp://[::1]:0"]));
        let hosts = ["127.0.0.1:0", "127.0.0.3:0", "127.0.0.1:0", "[::1]:0", "127.0.0.5:0"];
        let peers: Vec<_> = hosts.map(|host| (peer(host), Due::new())).into();
        let at = |peer: usize| peers[peer].0.local_addr().unwrap();
        let mut blocking = [0, 0, 1, 2].map(|listener| running.connect(listener, &running.credential(600)));
        let mut relayed = Vec::new();
        for (client, index) in blocking.iter_mut().zip(0..) {
            let family = if index == 3 { Family::V6 } else { Family::V4 };
            relayed.push(client.allocate_family(family).unwrap());
        }
        let mut ways: Vec<Vec<(Way, Target)>> = vec![];
        let mut from_peers = vec![];
        for (index, client) in blocking.iter_mut().enumerate() {
            let (mut of_client, mut heard) = (vec![], vec![]);
            // One peer with a channel, all but the stranger with a permission.
            let known: &[usize] = if index == 3 { &[3] } else { &[index, (index + 1) % 3] };
            let channel = client.channel_bind(at(known[0])).unwrap();
            heard.push((known[0], Some((Receiver::Client(index), From::Channel(channel.number())))));
            let to = |peer| Some((Receiver::Peer(peer), From::Address(relayed[index])));
            of_client.push((Way::Channel(channel), to(known[0])));
            for peer in known {
                client.create_permission(&[at(*peer)]).unwrap();
                for dont_fragment in [false, true] {
                    let way = Way::Indication { peer: at(*peer), dont_fragment };
                    of_client.push((way, to(*peer)));
                }
            }
            if index != 3 {
                let target = (Receiver::Client(index), From::Address(at(known[1])));
                heard.push((known[1], Some(target)));
            }
            of_client.push((Way::Channel(ChannelNumber::new(0x4FFE).unwrap()), None));
            ways.push(of_client);
            from_peers.push(heard);
        }
        // One has a channel to the other, who has a permission only.
        let channel = blocking[0].channel_bind(relayed[1]).unwrap();
        let arrives = |client, from| Some((Receiver::Client(client), from));
        ways[0].push((Way::Channel(channel), arrives(1, From::Address(relayed[0]))));
        blocking[1].create_permission(&[relayed[0]]).unwrap();
        let way = Way::Indication { peer: relayed[0], dont_fragment: false };
        ways[1].push((way, arrives(0, From::Channel(channel.number()))));
        let clients = blocking.into_iter().zip(relayed).zip(ways.into_iter().zip(from_peers));
        let clients = clients.map(|((client, relayed), (ways, peers))| {
            let socket = client.into_udp_socket().unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            OneClient { socket, relayed, ways, peers, due: Due::new() }
        });
        Self { clients: clients.collect(), running, peers, dropped: 0, dice: Dice::new(7) }
    }

    fn expect(&mut self, target: Target, data: Vec<u8>) {
        let due = match target {
            None => return self.dropped += 1,
            Some((Receiver::Client(index), _)) => &mut self.clients[index].due,
            Some((Receiver::Peer(index), _)) => &mut self.peers[index].1,
        };
        due.entry(target.unwrap().1).or_default().push_back(data);
    }

    /// A burst of one client's or peer's.
    fn burst(&mut self) {
        let size = match self.dice.index(8) {
            0 => self.dice.pick(&[0, 1, 4, 1_016, 1_300, 1_452, 1_453, 9_000]),
            1..4 => 4 * self.dice.index(350),
            _ => self.dice.index(1_450),
        };
        let most = (ROOM / (OVERHEAD + 2 * size)).clamp(1, 64);
        let count = 1 + self.dice.index(most);
        if self.dice.permille(500) { self.of_client(size.max(56), count) } else { self.of_peer(size, count) }
    }

    /// Messages of one size, each to anybody.
    fn of_client(&mut self, size: usize, count: usize) {
        let index = self.dice.index(self.clients.len());
        let mut packets = vec![];
        let usual = self.dice.pick(&self.clients[index].ways);
        for _ in 0..count {
            let (way, target) =
                if self.dice.permille(800) { usual } else { self.dice.pick(&self.clients[index].ways) };
            // What has the DF bit fits through the narrow path, or it would be lost, rightly.
            let is_whole = matches!(way, Way::Indication { dont_fragment: true, .. });
            let size = if is_whole { size.min(500) } else { size };
            let (packet, data) = message(&mut self.dice, way, size);
            packets.push(packet);
            self.expect(target, data);
        }
        send(&mut self.dice, &self.clients[index].socket, None, &packets);
    }

    fn of_peer(&mut self, size: usize, count: usize) {
        let client = self.dice.index(self.clients.len());
        let (mut peer, mut target) = self.dice.pick(&self.clients[client].peers);
        if self.dice.permille(100) && client != 3 {
            (peer, target) = (STRANGER, None);
        }
        let packets: Vec<Vec<u8>> = (0..count).map(|_| self.dice.data(size)).collect();
        for packet in &packets {
            self.expect(target, packet.clone());
        }
        send(&mut self.dice, &self.peers[peer].0, Some(self.clients[client].relayed), &packets);
    }

    /// Takes all that has to arrive.
    fn receive(&mut self) {
        for (peer, due) in &mut self.peers {
            while due.values().any(|flow| !flow.is_empty()) {
                let (data, from) = receive(peer);
                check(due, From::Address(from), &data);
            }
        }
        for client in &mut self.clients {
            while client.due.values().any(|flow| !flow.is_empty()) {
                let (bytes, _) = receive(&client.socket);
                if Kind::of(&bytes) == Kind::ChannelData {
                    let (channel, length) = channel_data::parse(&bytes).unwrap();
                    assert_eq!(bytes.len(), 4 + length);
                    check(&mut client.due, From::Channel(channel.number()), &bytes[4..]);
                } else {
                    let message = Message::parse(&bytes).unwrap();
                    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
                    let peer = message.attribute(A::XOR_PEER_ADDRESS).unwrap();
                    let peer = stun::address::decode_xor(peer, message.transaction()).unwrap();
                    check(&mut client.due, From::Address(peer), message.attribute(A::DATA).unwrap());
                }
            }
        }
    }
}

fn check(due: &mut Due, from: From, data: &[u8]) {
    let expected = due.get_mut(&from).and_then(VecDeque::pop_front);
    // Not `assert_eq`, which would print them.
    let is_expected = expected.as_deref() == Some(data);
    assert!(is_expected, "{} and not {:?} bytes from {from:?}", data.len(), expected.map(|it| it.len()));
}

/// A message of at most `size` bytes, at least 56; and the data in it.
fn message(dice: &mut Dice, way: Way, size: usize) -> (Vec<u8>, Vec<u8>) {
    match way {
        Way::Channel(channel) => {
            let data = dice.data(size - 4);
            let header = channel_data::header(channel, u16::try_from(data.len()).unwrap());
            ([&header, &data[..]].concat(), data)
        }
        Way::Indication { peer, dont_fragment } => {
            let header = 36 + if peer.is_ipv6() { 12 } else { 0 } + if dont_fragment { 4 } else { 0 };
            let whole = (size - header) / 4 * 4;
            let padding = dice.index(4);
            let data = dice.data(whole.saturating_sub(padding));
            let mut buffer = vec![0; size + 4];
            let mut writer =
                MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, dice.transaction());
            writer.xor_address(A::XOR_PEER_ADDRESS, peer).attribute(A::DATA, &data);
            if dont_fragment {
                writer.attribute(A::DONT_FRAGMENT, &[]);
            }
            let length = writer.finish().unwrap();
            buffer.truncate(length);
            (buffer, data)
        }
    }
}

/// Sends packets in order, runs of one size mostly as trains.
fn send(dice: &mut Dice, socket: &UdpSocket, to: Option<SocketAddr>, packets: &[Vec<u8>]) {
    let singly = dice.permille(300);
    for run in packets.chunk_by(|a, b| a.len() == b.len()) {
        let is_train = !singly && run.len() > 1 && !run[0].is_empty();
        // A narrow path refuses trains of large packets.
        if is_train && try_send_train(socket, &run.concat(), run[0].len(), to).is_ok() {
            continue;
        }
        for packet in run {
            let sent = to.map_or_else(|| socket.send(packet), |to| socket.send_to(packet, to));
            assert_eq!(sent.unwrap(), packet.len());
        }
    }
}

#[test]
fn every_flow_arrives_whole_and_in_order() {
    let run = || {
        enter_namespace();
        let mut party = Party::new();
        for _ in 0..400 {
            (0..BURSTS).for_each(|_| party.burst());
            party.receive();
        }
        let dropped = party.dropped;
        party.running.wait_for("what must not be relayed is dropped", |totals| totals.drops == dropped);
        let totals = party.running.relay().totals();
        assert!(dropped > 100 && totals.relayed.packets_to_clients > 1_000, "{totals:?}");
        assert_eq!(totals.send_failures, 0);
    };
    // Its own thread, for no other test's may change its network.
    std::thread::spawn(run).join().unwrap();
}
