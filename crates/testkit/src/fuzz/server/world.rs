//! The server, everything around it, and what they say to each other.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use credentials::TurnKeyId;
use stun::{AttributeType, Class, Message, Method, TransactionId};
use turn::{
    Action, Client, Config, Discovery, FiveTuple, HEADROOM, Icmp, Limits, MAX_REPLY, NonceKey, Output,
    Packet, PeerPolicy, PortRange, Quotas, RelayAddress, RelayId, RelayPorts, Reply, Reservations, Server,
    Shared, Source, TAILROOM, Time, Transport,
};

use super::super::bytes::Bytes;
use super::accounts::{Account, USERNAME_LIFETIME_SECS, keyring};
use super::grants::Answered;
use super::letters::{Letter, number, worker_id};
use super::limits::FEW_ANSWERS;
use super::observer::Observer;
use super::sockets::Sockets;
use crate::message;

/// How many workers the server is.
pub(super) const WORKERS: usize = 3;
/// When it begins, in unix seconds; and in monotonic milliseconds.
const START: (u64, u64) = (1_800_000_000, 1_000_000);
pub(super) const LISTENERS: [&str; 5] =
    ["20.0.0.1:3478", "[2606:4700::1]:3478", "20.0.0.1:3479", "20.0.0.5:3478", "20.0.0.5:3479"];
pub(super) const REALM: &str = "turnery";
const RELAYS: [&str; 2] = ["20.0.0.2", "2606:4700::2"];
/// Who is there; some of them may not be reached, and two are this server itself.
pub(super) const PEERS: [&str; 10] = [
    "8.8.8.8:5000",
    "8.8.8.8:5001",
    "9.9.9.9:5000",
    "[2620:fe::fe]:5000",
    "10.0.0.1:5000",
    "127.0.0.1:5000",
    "[::ffff:10.0.0.1]:5000",
    "[::ffff:8.8.8.8]:5000",
    "20.0.0.1:3478",
    "20.0.0.2:50000",
];
/// Clients: their transport, their address, the listener they use and the worker that hears them.
const CLIENTS: [(Transport, &str, usize, usize); 9] = [
    (Transport::Udp, "81.0.0.1:4000", 0, 0),
    (Transport::Udp, "81.0.0.1:4001", 0, 1),
    (Transport::Tcp, "81.0.0.1:4000", 0, 0),
    (Transport::Tcp, "81.0.0.2:4000", 0, 1),
    (Transport::Udp, "[2001:4860::1]:4000", 1, 0),
    (Transport::Udp, "81.0.0.3:4000", 0, 2),
    (Transport::Tls, "81.0.0.3:4000", 0, 2),
    (Transport::Udp, "82.0.0.1:4000", 4, 0),
    (Transport::Dtls, "81.0.0.3:4000", 0, 2),
];
pub(super) const MAX_PERMISSIONS: usize = 3;
pub(super) const MAX_CHANNELS: usize = 3;
/// How many packets, and tickets, are kept to be sent again.
const KEPT: usize = 16;
/// Bits of an input's first byte: how the server is set up.
const OFFERS_ALGORITHMS: u8 = 0x80;
const OFFERS_DISCOVERY: u8 = 0x40;
/// Letters lie until somebody reads them; else all are read after each step.
const LETTERS_LIE: u8 = 0x20;
const FEW_FOR_STRANGERS: u8 = 0x10;
/// What is under way in the end is lost.
const LETTERS_LOST: u8 = 0x08;

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("the addresses above are addresses")
}

/// A client, and who hears it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) client: Client,
    pub(super) worker: usize,
    /// Its connection is on its way to another worker.
    pub(super) is_handed_over: bool,
}

impl Path {
    /// The connection has another name with another worker, and so has another connection.
    pub(super) fn connect_to(&mut self, worker: usize) {
        self.worker = worker;
        self.client.via += 1;
    }
}

pub(super) struct World {
    settings: u8,
    servers: [(Server, Sockets); WORKERS],
    /// What is on its way, by who has written it and to whom.
    pub(super) letters: BTreeMap<(usize, usize), VecDeque<Letter>>,
    /// So many letters are refused.
    pub(super) refusing: u8,
    ports: Arc<RelayPorts>,
    quotas: Arc<Quotas>,
    reservations: Arc<Reservations>,
    pub(super) observer: Observer,
    pub(super) policies: [Arc<PeerPolicy>; 2],
    pub(super) clients: [Path; CLIENTS.len()],
    accounts: Vec<Account>,
    /// Whether the second keyring is in force.
    pub(super) second_ring: bool,
    now_ms: u64,
    sent: VecDeque<Vec<u8>>,
    /// Requests that had to wait.
    asked: Vec<(FiveTuple, Vec<u8>)>,
    /// How many of a client with the same transaction are not answered yet.
    waiting: BTreeMap<(FiveTuple, TransactionId), u32>,
    /// What each client was last told to use.
    nonces: BTreeMap<FiveTuple, Vec<u8>>,
    pub(super) realm: Vec<u8>,
    /// The last RESERVATION-TOKEN that anybody was given.
    pub(super) token: [u8; 8],
    /// The last tickets, the newest first, and what they were asked for with.
    pub(super) tickets: VecDeque<(Vec<u8>, Option<Account>)>,
}

impl World {
    /// A world that is set up as these bits say.
    pub(super) fn new(settings: u8) -> Self {
        let is_set = |bit: u8| settings & bit != 0;
        let relay = |text: &str| {
            let ip = text.parse().expect("the addresses above are addresses");
            RelayAddress { public: ip, local: ip }
        };
        let relays = RELAYS.map(relay).to_vec();
        let range = PortRange::new(50_000, 50_005).expect("a range of six ports");
        let listeners = LISTENERS.map(address);
        let own = |policy: PeerPolicy| Arc::new(policy.with_own_addresses(&listeners, &relays, range));
        let narrow = vec!["9.9.9.0/24".parse().expect("a prefix")];
        let policies = [own(PeerPolicy::default()), own(PeerPolicy::new(vec![], narrow))];
        let ports = RelayPorts::new(range, relays.iter().map(|relay| relay.local));
        let shared = Shared::new(keyring(false), NonceKey::new([3; 32]), ports);
        let ports = Arc::clone(&shared.ports);
        let (quotas, reservations) = (Arc::clone(&shared.quotas), Arc::clone(&shared.reservations));
        let limits = Limits {
            allocations: 3,
            permissions: MAX_PERMISSIONS,
            channels: MAX_CHANNELS,
            connections: 2,
            all_connections: 3,
            reservations: 3,
            denials: 4,
        };
        let [policy, _] = &policies;
        let config = Config {
            workers: u16::try_from(WORKERS).unwrap_or(u16::MAX),
            realm: REALM.to_owned(),
            relay_addresses: relays,
            discovery: if is_set(OFFERS_DISCOVERY) { vec![discovery()] } else { vec![] },
            policy: PeerPolicy::clone(policy),
            limits,
            username_lifetime_secs: USERNAME_LIFETIME_SECS,
            offer_password_algorithms: is_set(OFFERS_ALGORITHMS),
            stranger_limit: is_set(FEW_FOR_STRANGERS).then_some(FEW_ANSWERS),
            ..Config::default()
        };
        let server = |worker: u8| {
            let config = Config { worker: worker_id(worker.into()), ..config.clone() };
            (Server::new(config, shared.clone(), [4 + worker; 32]), Sockets::default())
        };
        let observer = Observer::new(is_set(OFFERS_ALGORITHMS), is_set(FEW_FOR_STRANGERS));
        let mut world = Self {
            settings,
            servers: [0, 1, 2].map(server),
            letters: BTreeMap::new(),
            refusing: 0,
            ports,
            quotas,
            reservations,
            observer,
            policies,
            clients: clients(),
            accounts: Vec::new(),
            second_ring: false,
            now_ms: START.1,
            sent: VecDeque::new(),
            asked: Vec::new(),
            waiting: BTreeMap::new(),
            nonces: BTreeMap::new(),
            realm: Vec::new(),
            token: [0; 8],
            tickets: VecDeque::new(),
        };
        for ttl_secs in [172_800, 172_800, 700] {
            world.mint(ttl_secs);
        }
        world
    }

    pub(super) fn now(&self) -> Time {
        Time { monotonic_ms: self.now_ms, unix_ms: START.0 * 1_000 + self.now_ms - START.1 }
    }

    pub(super) fn server(&mut self, worker: usize) -> &mut Server {
        self.servers.get_mut(worker).map(|(server, _)| server).expect("there is such a worker")
    }

    pub(super) fn sockets(&mut self, worker: usize) -> &mut Sockets {
        self.servers.get_mut(worker).map(|(_, sockets)| sockets).expect("there is such a worker")
    }

    pub(super) fn client(&self, bytes: &mut Bytes<'_>) -> Path {
        bytes.pick(&self.clients)
    }

    pub(super) fn account(&self, bytes: &mut Bytes<'_>) -> Account {
        let index = usize::from(bytes.byte()) % self.accounts.len();
        self.accounts.get(index).cloned().expect("there are accounts")
    }

    /// An open relay socket, if there is one, or any; and whose.
    pub(super) fn relay(&self, bytes: &mut Bytes<'_>) -> (usize, RelayId) {
        let index = bytes.byte();
        let all = self.servers.iter().enumerate();
        let mut open = all.flat_map(|(worker, (_, held))| held.numbers().map(move |relay| (worker, relay)));
        let any = (usize::from(index) % WORKERS, RelayId(index.into()));
        open.nth(usize::from(index % 8)).unwrap_or(any)
    }

    pub(super) fn sent(&self, index: usize) -> Vec<u8> {
        self.sent.get(index).cloned().unwrap_or_default()
    }

    /// A new credential, sealed by the keyring in force.
    pub(super) fn mint(&mut self, ttl_secs: u32) {
        let number = u8::try_from(self.accounts.len()).unwrap_or(u8::MAX);
        let account = Account::sealed(&keyring(self.second_ring), number, self.now().unix_secs(), ttl_secs);
        self.accounts.push(account);
    }

    /// Another one, signed by one of the key's shared secrets.
    pub(super) fn mint_time_limited(&mut self, key: TurnKeyId, which: bool, ttl_secs: u32) {
        self.accounts.push(Account::time_limited(key, which, self.now().unix_secs(), ttl_secs));
    }

    pub(super) fn nonce(&mut self, path: Path) -> Vec<u8> {
        let five_tuple = path.client.five_tuple;
        if !self.nonces.contains_key(&five_tuple) {
            let bare = message::request(Method::ALLOCATE, TransactionId::from_bytes([9; 12]), |_| {});
            self.give(path, &bare);
        }
        self.nonces.get(&five_tuple).cloned().unwrap_or_default()
    }

    /// A client's packet.
    pub(super) fn give(&mut self, path: Path, bytes: &[u8]) {
        self.sent.push_front(bytes.to_vec());
        self.sent.truncate(KEPT);
        if !path.is_handed_over {
            self.give_by((path.worker, None), path.client, bytes);
        }
    }

    /// A client's packet at a worker, come by another one or not.
    pub(super) fn give_by(
        &mut self,
        (worker, by): (usize, Option<(usize, bool)>),
        client: Client,
        bytes: &[u8],
    ) {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let now = self.now();
        let Some((server, sockets)) = self.servers.get_mut(worker) else { return };
        let before: Vec<SocketAddr> = sockets.addresses().collect();
        let action = match by {
            None => server.from_client(now, client, &mut packet, sockets),
            Some((from, false)) => server.passed(now, worker_id(from), client, &mut packet, sockets),
            Some((from, true)) => server.passed_back(now, worker_id(from), client, &mut packet, sockets),
        };
        let opened: Vec<SocketAddr> = sockets.addresses().filter(|held| !before.contains(held)).collect();
        let output = packet.bytes().to_vec();
        assert!(
            opened.is_empty() || matches!(action, Action::Reply(_)),
            "sockets are opened for an answer only: {action:?}"
        );
        // An allocation that had expired ends before the client's next one begins.
        self.drain();
        self.act((worker, by), client, bytes, (action, &output), &opened);
        self.settle();
    }

    /// What a worker does with a client's packet.
    fn act(
        &mut self,
        (worker, by): (usize, Option<(usize, bool)>),
        client: Client,
        bytes: &[u8],
        (action, output): (Action, &[u8]),
        opened: &[SocketAddr],
    ) {
        let now = self.now();
        let whose = (worker, client);
        match action {
            Action::Reply(reply) => self.reply(whose, bytes, (reply, output), (opened, false)),
            Action::ReplyElsewhere(reply, route) => {
                self.reply(whose, bytes, (reply, output), (opened, false));
                Observer::elsewhere(client, route, (bytes, output));
            }
            Action::Bind(connection) => {
                self.reply(whose, bytes, (Reply::Success(Method::CONNECTION_BIND), output), (opened, false));
                self.observer.bound(worker, client, connection);
            }
            Action::ToPeer { relay, peer, dont_fragment } => {
                let local = self.local(worker, relay, peer);
                self.observer.dont_fragment(bytes, dont_fragment);
                self.observer.relayed(now, whose, bytes, (local, peer), output);
                // Another worker's may be reached by way of the network.
                let other = (0..WORKERS).find_map(|other| Some((other, self.sockets(other).with(peer)?)));
                if let Some(other) = other {
                    self.hear(other, local, output);
                }
            }
            Action::ToRelay { relay: to, from } => {
                let peer = self.sockets(worker).at(to).expect("it goes to an open socket");
                assert!(self.sockets(worker).with(from).is_some(), "it comes from an open socket");
                self.observer.relayed(now, whose, bytes, (from, peer), output);
                self.hear((worker, to), from, output);
            }
            Action::ToClient(_) => panic!("{action:?} to what a client sent"),
            Action::Pass(to) => {
                assert_eq!(output, bytes, "what is passed on is whole");
                // Back to whom it came from, or on to somebody else.
                let is_back = matches!(by, Some((_, false)));
                assert!(by.is_none_or(|(from, _)| is_back == (number(to) == from)), "{by:?} and {to:?}");
                let letter = Letter::FromClient { client, bytes: bytes.to_vec(), is_back };
                let _ = self.post(worker, to, letter);
            }
            Action::Later => {
                assert_eq!(output, bytes, "a request that waits is not answered");
                let request = Message::parse(bytes).expect("only a message has to wait");
                *self.waiting.entry((client.five_tuple, request.transaction())).or_default() += 1;
                self.asked.push((client.five_tuple, bytes.to_vec()));
            }
            Action::Connect { connection, relay, peer } => {
                assert_eq!(output, bytes, "a request that waits is not answered");
                let local = self.local(worker, relay, peer);
                assert!(self.sockets(worker).is_listening(relay), "only TCP relays connect");
                self.observer.connecting(now, whose, (local, peer), connection);
            }
            Action::HandOver(to) => self.hand_over(whose, number(to), bytes),
            Action::Drop(_) => {
                let is_data =
                    Message::parse(bytes).map_or(true, |message| message.class() == Class::Indication);
                if is_data {
                    self.observer.dropped(worker, client.five_tuple);
                }
            }
        }
    }

    fn hand_over(&mut self, (worker, client): (usize, Client), to: usize, bytes: &[u8]) {
        assert_ne!(worker, to, "it is its own worker");
        assert!(client.five_tuple.transport.is_stream());
        let Some(path) = self.clients.iter_mut().find(|path| path.client == client) else { return };
        path.is_handed_over = true;
        let letter = Letter::Connection { client: client.five_tuple, bytes: bytes.to_vec() };
        if self.post(worker, worker_id(to), letter).is_err()
            && let Some(path) = self.clients.iter_mut().find(|path| path.client == client)
        {
            // It is closed, and the client connects anew.
            path.is_handed_over = false;
            path.connect_to(worker);
        }
    }

    /// What a relay socket is bound to that reaches this peer.
    fn local(&mut self, worker: usize, relay: RelayId, peer: SocketAddr) -> SocketAddr {
        let local = self.sockets(worker).at(relay).expect("it goes through an open socket");
        assert_eq!(local.is_ipv4(), peer.is_ipv4(), "{peer} from {local:?}");
        local
    }

    fn reply(
        &mut self,
        (worker, client): (usize, Client),
        request: &[u8],
        (reply, response): (Reply, &[u8]),
        (opened, is_late): (&[SocketAddr], bool),
    ) {
        let answered = Answered { worker, client, request, reply, response, is_late };
        self.observer.reply(self.now(), answered, opened, &self.accounts);
        self.learn(client, request, response);
        self.send_to_client(worker, client);
    }

    /// Something goes to a client; if it has a connection, by the worker that has that.
    fn send_to_client(&mut self, worker: usize, client: Client) {
        if !client.five_tuple.transport.is_stream() {
            return;
        }
        let path = self.clients.iter().find(|path| path.client.five_tuple == client.five_tuple);
        if let Some(home) = path.map(|path| path.worker).filter(|home| *home != worker) {
            let _ = self.post(worker, worker_id(home), Letter::ToClient(client));
        }
    }

    fn learn(&mut self, client: Client, request: &[u8], reply: &[u8]) {
        let (Ok(request), Ok(reply)) = (Message::parse(request), Message::parse(reply)) else { return };
        if let Some(nonce) = reply.attribute(AttributeType::NONCE) {
            self.nonces.insert(client.five_tuple, nonce.to_vec());
        }
        if let Some(realm) = reply.attribute(AttributeType::REALM) {
            self.realm = realm.to_vec();
        }
        let token = reply.attribute(AttributeType::RESERVATION_TOKEN);
        if let Some(token) = token.and_then(|value| <[u8; 8]>::try_from(value).ok()) {
            self.token = token;
        }
        if let Some(ticket) = reply.attribute(AttributeType::MOBILITY_TICKET) {
            let username = request.attribute(AttributeType::USERNAME).unwrap_or_default();
            let account = self.accounts.iter().find(|account| account.username.as_bytes() == username);
            self.tickets.push_front((ticket.to_vec(), account.cloned()));
            self.tickets.truncate(KEPT);
        }
    }

    /// A peer's datagram.
    pub(super) fn hear(&mut self, (worker, relay): (usize, RelayId), peer: SocketAddr, bytes: &[u8]) {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let now = self.now();
        let local = self.sockets(worker).at(relay);
        match self.server(worker).from_peer(now, relay, peer, &mut packet) {
            Action::ToClient(client) => {
                let local = local.expect("nothing comes from a closed socket");
                self.observer.delivered(now, (worker, client), (local, peer), bytes, packet.bytes());
                self.send_to_client(worker, client);
            }
            Action::Drop(_) => {}
            action => panic!("{action:?} to what a peer sent"),
        }
        self.settle();
    }

    /// The network says that a datagram did not arrive.
    pub(super) fn hear_error(&mut self, (worker, relay): (usize, RelayId), peer: SocketAddr, icmp: Icmp) {
        let mut buffer = buffer(&[]);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM);
        let now = self.now();
        let local = self.sockets(worker).at(relay);
        match self.server(worker).from_peer_error(now, relay, peer, icmp, &mut packet) {
            Action::ToClient(client) => {
                let local = local.expect("nothing comes from a closed socket");
                self.observer.undelivered(now, (worker, client), (local, peer), packet.bytes());
                self.send_to_client(worker, client);
            }
            Action::Drop(_) => {}
            action => panic!("{action:?} to what the network said"),
        }
        self.settle();
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub(super) fn handle_timeout(&mut self, worker: usize) {
        let now = self.now();
        self.server(worker).handle_timeout(now);
        self.settle();
        let next = self.server(worker).poll_timeout();
        assert!(next.is_none_or(|at| at > self.now_ms), "what was due is done");
        self.observer.check_time(worker, now);
    }

    fn drain(&mut self) {
        for worker in 0..WORKERS {
            while let Some(output) = self.server(worker).poll_output() {
                self.take(worker, output);
            }
        }
    }

    fn take(&mut self, worker: usize, output: Output) {
        match output {
            Output::Ended { client, relay, port, .. } => {
                let local = self.sockets(worker).remove(relay);
                assert_eq!(port.local(), local);
                self.observer.ended(client, local);
            }
            Output::Message { client, reply, message } => {
                self.observer.told(client, reply, &message);
                self.send_to_client(worker, client);
            }
            Output::Report(_) => {}
            Output::Disconnect { connection, .. } => self.observer.disconnected(connection),
            Output::Tell { to, note } => _ = self.post(worker, to, Letter::Note(note)),
            Output::Depart { to, traveller } => self.depart(worker, to, traveller),
            Output::Reply { client, reply, bytes } => {
                let response = Message::parse(&bytes).expect("a response is a message");
                let waiting = self.waiting.entry((client.five_tuple, response.transaction())).or_default();
                *waiting = waiting.checked_sub(1).expect("who has asked once is answered once");
                let asked = std::mem::take(&mut self.asked);
                let request = Observer::asked_for(&asked, client.five_tuple, &response, &self.accounts);
                let request = request.expect("only who has asked is answered");
                self.reply((worker, client), request, (reply, &bytes), (&[], true));
                self.asked = asked;
            }
        }
    }

    /// After a step: whoever has a letter reads it, unless letters lie.
    pub(super) fn after_step(&mut self) {
        if self.settings & LETTERS_LIE == 0 {
            self.read_all();
        }
    }

    /// Takes what is queued and counts.
    pub(super) fn settle(&mut self) {
        self.drain();
        let (travellers, under_way) = self.under_way();
        let open: usize = self.servers.iter().map(|(_, sockets)| sockets.len()).sum::<usize>() + under_way;
        let allocations: usize =
            self.servers.iter().map(|(server, _)| server.allocation_count()).sum::<usize>() + travellers;
        let (taken, reserved) = (self.ports.taken(), self.observer.reserved);
        assert!((open..=open + reserved).contains(&taken), "{taken} ports are taken, {open} in use");
        let (held, kept) = (self.quotas.held(), self.reservations.kept());
        assert_eq!((held, taken), (allocations + kept, open + kept), "places in quotas, ports");
        assert_eq!(self.quotas.held_by_credentials(), held);
        assert_eq!(self.observer.relays(), open, "every open socket is an allocation's");
        let connections: usize = self.servers.iter().map(|(server, _)| server.connection_count()).sum();
        assert_eq!(connections, self.observer.connections().count());
        for (worker, (server, sockets)) in self.servers.iter().enumerate() {
            assert!(server.allocation_count() <= sockets.len());
            assert_eq!(server.allocation_count() == 0, sockets.len() == 0);
            let is_here =
                |local: SocketAddr| self.observer.held.get(&local).is_some_and(|it| it.at == Some(worker));
            assert!(sockets.addresses().all(is_here), "a relay socket is at one worker");
        }
    }

    /// After three hours nothing is left.
    pub(super) fn close(&mut self) {
        if self.settings & LETTERS_LOST == 0 {
            self.read_all();
        } else {
            self.lose_all();
        }
        self.wait(3 * 3_600_000);
        for worker in 0..WORKERS {
            self.handle_timeout(worker);
        }
        self.read_all();
        assert_eq!(self.ports.taken(), 0, "ports");
        assert_eq!((self.quotas.held(), self.reservations.kept()), (0, 0), "quotas and reservations");
        for (server, _) in &self.servers {
            assert_eq!(
                (server.allocation_count(), server.poll_timeout()),
                (0, None),
                "allocations and timers"
            );
            assert_eq!(server.connection_count(), 0, "connections with peers");
            let mut clients = self.clients.iter().map(|path| path.client.five_tuple);
            assert!(!clients.any(|client| server.has_allocation(&client)), "clients that have left");
        }
    }
}

/// Two addresses with two ports each.
fn discovery() -> Discovery {
    let [a, _, b, c, d] = LISTENERS.map(address);
    let at = |local, via| Source { local, public: local, via };
    Discovery { sources: [[at(a, 0), at(b, 2)], [at(c, 3), at(d, 4)]] }
}

fn clients() -> [Path; CLIENTS.len()] {
    let listeners = LISTENERS.map(address);
    CLIENTS.map(|(transport, client, listener, worker)| {
        let server = listeners.get(listener).copied().expect("it is one of them");
        let five_tuple = FiveTuple { transport, client: address(client), server };
        let via = u32::try_from(listener).unwrap_or_default();
        Path { client: Client { five_tuple, via }, worker, is_handed_over: false }
    })
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xA5; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(HEADROOM + bytes.len().max(MAX_REPLY) + TAILROOM, 0xA5);
    buffer
}
