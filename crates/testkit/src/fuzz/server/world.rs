//! The server, everything around it, and what they say to each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use credentials::{Claims, CredentialId, CustomIdentifier, Denial, Keyring, TurnKeyId};
use stun::{AttributeType, Message, Method, TransactionId};
use turn::{
    Action, Client, Command, Config, ConnectFailed, ConnectionId, FiveTuple, HEADROOM, Limits, MAX_REPLY,
    NonceKey, OpenError, Output, Packet, PeerPolicy, PortRange, Quotas, RelayAddress, RelayId, RelayPorts,
    RelaySockets, Reply, Reservations, ReservedSocket, Server, Shared, TAILROOM, Time, Transport, WorkerId,
};

use super::super::bytes::Bytes;
use super::observer::Observer;
use crate::message;

/// When it begins, in unix seconds; and in monotonic milliseconds.
const START: (u64, u64) = (1_800_000_000, 1_000_000);
pub(super) const LISTENERS: [&str; 2] = ["20.0.0.1:3478", "[2606:4700::1]:3478"];
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
/// How many packets are kept to be sent again.
const KEPT: usize = 16;

static KEYRINGS: LazyLock<[Arc<Keyring>; 2]> =
    LazyLock::new(|| [1, 2].map(|id| Arc::new(super::super::keyring(id))));

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("the addresses above are addresses")
}

/// Who a client says it is.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) id: CredentialId,
    pub(super) turn_key: TurnKeyId,
    /// Unix seconds.
    pub(super) expires_at: u64,
}

/// Relay sockets that are only numbers.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) open: BTreeMap<RelayId, SocketAddr>,
    /// Those of TCP.
    listening: BTreeSet<RelayId>,
    failing: u8,
}

impl RelaySockets for Sockets {
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(if self.failing == 0 { OpenError::Failed } else { OpenError::InUse });
        }
        assert!(!self.open.values().any(|held| *held == local), "{local} is opened twice");
        let free = (0..=u32::MAX).map(RelayId).find(|relay| !self.open.contains_key(relay));
        let relay = free.ok_or(OpenError::Failed)?;
        self.open.insert(relay, local);
        Ok(relay)
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        let relay = self.open(local)?;
        self.listening.insert(relay);
        Ok(relay)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(if self.failing == 0 { OpenError::Failed } else { OpenError::InUse });
        }
        Ok(ReservedSocket::new(local))
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        self.open(socket.into_socket().ok_or(OpenError::Failed)?)
    }
}

pub(super) struct World {
    server: Server,
    sockets: Sockets,
    ports: Arc<RelayPorts>,
    quotas: Arc<Quotas>,
    reservations: Arc<Reservations>,
    observer: Observer,
    policies: [Arc<PeerPolicy>; 2],
    clients: [Client; 5],
    accounts: Vec<Account>,
    /// Index of the keyring in force.
    ring: usize,
    now_ms: u64,
    sent: VecDeque<Vec<u8>>,
    /// What each client was last told to use.
    nonces: BTreeMap<FiveTuple, Vec<u8>>,
    pub(super) realm: Vec<u8>,
    /// The last RESERVATION-TOKEN that anybody was given.
    pub(super) token: [u8; 8],
}

impl World {
    /// A world whose server offers SHA-256 keys or not.
    pub(super) fn new(offer_password_algorithms: bool) -> Self {
        let relay = |text: &str| {
            let ip = text.parse().expect("the addresses above are addresses");
            RelayAddress { public: ip, local: ip }
        };
        let relays = RELAYS.map(relay).to_vec();
        let range = PortRange::new(50_000, 50_003).expect("a range of four ports");
        let listeners = LISTENERS.map(address);
        let own = |policy: PeerPolicy| Arc::new(policy.with_own_addresses(&listeners, &relays, range));
        let narrow = vec!["9.9.9.0/24".parse().expect("a prefix")];
        let policies = [own(PeerPolicy::default()), own(PeerPolicy::new(vec![], narrow))];
        let ports = RelayPorts::new(range, relays.iter().map(|relay| relay.local));
        let [keyring, _] = &*KEYRINGS;
        let shared = Shared::new(Arc::clone(keyring), NonceKey::new([3; 32]), ports);
        let ports = Arc::clone(&shared.ports);
        let (quotas, reservations) = (Arc::clone(&shared.quotas), Arc::clone(&shared.reservations));
        let limits = Limits {
            allocations: 5,
            permissions: 3,
            channels: 3,
            connections: 2,
            all_connections: 3,
            reservations: 3,
            denials: 4,
        };
        let [policy, _] = &policies;
        let policy = PeerPolicy::clone(policy);
        let config = Config {
            realm: REALM.to_owned(),
            relay_addresses: relays,
            policy,
            limits,
            offer_password_algorithms,
            ..Config::default()
        };
        let mut world = Self {
            server: Server::new(config, shared, [4; 32]),
            sockets: Sockets::default(),
            ports,
            quotas,
            reservations,
            observer: Observer::new(offer_password_algorithms),
            policies,
            clients: clients(),
            accounts: Vec::new(),
            ring: 0,
            now_ms: START.1,
            sent: VecDeque::new(),
            nonces: BTreeMap::new(),
            realm: Vec::new(),
            token: [0; 8],
        };
        for ttl_secs in [172_800, 172_800, 700] {
            world.mint(ttl_secs);
        }
        world
    }

    fn now(&self) -> Time {
        Time { monotonic_ms: self.now_ms, unix_ms: START.0 * 1_000 + self.now_ms - START.1 }
    }

    pub(super) fn client(&self, bytes: &mut Bytes<'_>) -> Client {
        bytes.pick(&self.clients)
    }

    pub(super) fn account(&self, bytes: &mut Bytes<'_>) -> Account {
        let index = usize::from(bytes.byte()) % self.accounts.len();
        self.accounts.get(index).cloned().expect("there are accounts")
    }

    /// An open relay socket, if there is one, or any.
    pub(super) fn relay(&self, bytes: &mut Bytes<'_>) -> RelayId {
        let index = bytes.byte();
        let open = self.sockets.open.keys().nth(usize::from(index % 8));
        open.copied().unwrap_or(RelayId(index.into()))
    }

    pub(super) fn sent(&self, index: usize) -> Vec<u8> {
        self.sent.get(index).cloned().unwrap_or_default()
    }

    /// A new credential, sealed by the keyring in force.
    pub(super) fn mint(&mut self, ttl_secs: u32) {
        let number = u8::try_from(self.accounts.len()).unwrap_or(u8::MAX);
        let claims = Claims {
            key: TurnKeyId::from_bytes([number % 2; 16]),
            issued_at: self.now().unix_secs(),
            ttl_secs,
            custom_identifier: CustomIdentifier::default(),
        };
        let ring = KEYRINGS.get(self.ring).expect("one of the two");
        let minted = ring.mint_with_salt(&claims, [number; 8]).expect("the claims are in range");
        self.accounts.push(Account {
            username: minted.username,
            password: minted.password,
            id: minted.id,
            turn_key: claims.key,
            expires_at: minted.expires_at,
        });
    }

    pub(super) fn nonce(&mut self, client: Client) -> Vec<u8> {
        if !self.nonces.contains_key(&client.five_tuple) {
            let bare = message::request(Method::ALLOCATE, TransactionId::from_bytes([9; 12]), |_| {});
            self.give(client, &bare);
        }
        self.nonces.get(&client.five_tuple).cloned().unwrap_or_default()
    }

    /// A client's packet.
    pub(super) fn give(&mut self, client: Client, bytes: &[u8]) {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let before: Vec<RelayId> = self.sockets.open.keys().copied().collect();
        let now = self.now();
        let action = self.server.from_client(now, client, &mut packet, &mut self.sockets);
        let opened: Vec<RelayId> =
            self.sockets.open.keys().filter(|relay| !before.contains(relay)).copied().collect();
        let output = packet.bytes().to_vec();
        // An allocation that had expired ends before the client's next one begins.
        self.drain();
        match action {
            Action::Reply(reply) => {
                self.observer.reply(now, client, bytes, (reply, &output), &opened, &self.accounts);
                self.learn(client, &output);
            }
            Action::Bind(connection) => {
                let reply = Reply::Success(Method::CONNECTION_BIND);
                self.observer.reply(now, client, bytes, (reply, &output), &opened, &self.accounts);
                self.observer.bound(client, connection);
            }
            _ => assert!(opened.is_empty(), "sockets are opened for an answer only: {action:?}"),
        }
        match action {
            Action::ToPeer { relay, peer, dont_fragment } => {
                let local = self.sockets.open.get(&relay);
                assert!(
                    local.is_some_and(|local| local.is_ipv4() == peer.is_ipv4()),
                    "{peer} from {local:?}"
                );
                self.observer.dont_fragment(bytes, dont_fragment);
                self.observer.to_peer(now, client, bytes, (relay, peer), &output);
            }
            Action::ToRelay { relay: to, from } => {
                let peer = *self.sockets.open.get(&to).expect("it goes to an open socket");
                let relay = self.sockets.open.iter().find(|(_, local)| **local == from).map(|(id, _)| *id);
                let relay = relay.expect("it comes from an open socket");
                self.observer.to_peer(now, client, bytes, (relay, peer), &output);
                self.hear(to, from, &output);
            }
            Action::ToClient(_) | Action::ReplyElsewhere(..) => {
                panic!("{action:?} to what a client sent")
            }
            Action::Pass(_) | Action::Later => panic!("{action:?}, and there is no other worker"),
            Action::Connect { connection, relay, peer } => {
                assert_eq!(output, bytes, "a request that waits is not answered");
                let local = self.sockets.open.get(&relay);
                assert!(self.sockets.listening.contains(&relay), "only TCP relays connect");
                assert!(
                    local.is_some_and(|local| local.is_ipv4() == peer.is_ipv4()),
                    "{peer} from {local:?}"
                );
                self.observer.connecting(now, client, (relay, peer), connection);
            }
            Action::HandOver(worker) => assert_ne!(worker, WorkerId::default(), "it is its own worker"),
            Action::Drop(_) | Action::Reply(_) | Action::Bind(_) => {}
        }
        self.sent.push_front(bytes.to_vec());
        self.sent.truncate(KEPT);
        self.settle();
    }

    fn learn(&mut self, client: Client, reply: &[u8]) {
        let Ok(reply) = Message::parse(reply) else { return };
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
    }

    /// A peer's datagram.
    pub(super) fn hear(&mut self, relay: RelayId, peer: SocketAddr, bytes: &[u8]) {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let now = self.now();
        match self.server.from_peer(now, relay, peer, &mut packet) {
            Action::ToClient(client) => {
                self.observer.to_client(now, client, (relay, peer), bytes, packet.bytes());
            }
            Action::Drop(_) => {}
            action => panic!("{action:?} to what a peer sent"),
        }
        self.settle();
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub(super) fn handle_timeout(&mut self) {
        self.server.handle_timeout(self.now());
        self.settle();
        let next = self.server.poll_timeout();
        assert!(next.is_none_or(|at| at > self.now_ms), "what was due is done");
        self.observer.check_time(self.now());
    }

    pub(super) fn command(&mut self, command: Command) {
        let _ = self.server.command(self.now(), command);
        self.settle();
    }

    pub(super) fn deny(&mut self, denial: Denial) {
        let remembered = self.server.command(self.now(), Command::Deny(denial)).is_ok();
        self.settle();
        self.observer.deny(denial, remembered);
    }

    pub(super) fn set_keyring(&mut self, id: u8) {
        self.ring = usize::from(id == 2);
        let ring = KEYRINGS.get(self.ring).expect("one of the two");
        self.command(Command::Keyring(Arc::clone(ring)));
    }

    pub(super) fn set_policy(&mut self, is_narrow: bool) {
        let policy = self.policies.get(usize::from(is_narrow)).map(Arc::clone).expect("one of the two");
        self.observer.narrow = is_narrow;
        self.command(Command::Policy(policy));
    }

    pub(super) fn sockets_fail(&mut self, times: u8) {
        self.sockets.failing = times;
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Ended { client, relay, .. } => {
                    assert!(self.sockets.open.remove(&relay).is_some(), "{relay:?} was open");
                    self.sockets.listening.remove(&relay);
                    self.observer.ended(client, relay);
                }
                Output::Report(_) => {}
                Output::Message { client, reply, message } => self.observer.told(client, reply, &message),
                Output::Disconnect { connection, .. } => self.observer.disconnected(connection),
                Output::Tell { .. } | Output::Depart { .. } | Output::Reply { .. } => {
                    panic!("{output:?}, and there is no other worker")
                }
            }
        }
    }

    /// Somebody's connection, if there is one, or any.
    pub(super) fn connection(&self, bytes: &mut Bytes<'_>) -> ConnectionId {
        let index = usize::from(bytes.byte());
        let known = self.observer.connections().nth(index % 4);
        known.unwrap_or_else(|| ConnectionId(u32::from_be_bytes(bytes.array())))
    }

    /// What came of a connection, of which the server has heard or not.
    pub(super) fn connected(&mut self, connection: ConnectionId, works: bool) {
        if !works {
            self.observer.disconnected_soon(connection);
        }
        self.server.connected(self.now(), connection, if works { Ok(()) } else { Err(ConnectFailed) });
        self.settle();
        self.observer.settled();
    }

    pub(super) fn accepted(&mut self, relay: RelayId, peer: SocketAddr) {
        let now = self.now();
        if let Ok(connection) = self.server.accepted(now, relay, peer) {
            self.observer.accepted(now, (relay, peer), connection);
        }
        self.settle();
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        self.server.disconnected(connection);
        self.observer.disconnected(connection);
        self.settle();
    }

    /// Takes what is queued and counts.
    fn settle(&mut self) {
        self.drain();
        let (open, taken) = (self.sockets.open.len(), self.ports.taken());
        let reserved = self.observer.reserved;
        assert!((open..=open + reserved).contains(&taken), "{taken} ports are taken, {open} in use");
        let (held, kept) = (self.quotas.held(), self.reservations.kept());
        assert_eq!(
            (held, taken),
            (self.server.allocation_count() + kept, open + kept),
            "places in quotas, ports"
        );
        assert_eq!(self.observer.relays(), open, "every open socket is an allocation's");
        assert_eq!(self.server.connection_count(), self.observer.connections().count());
        assert!(self.server.allocation_count() <= open);
        assert_eq!(self.server.allocation_count() == 0, open == 0);
    }

    /// After three hours nothing is left.
    pub(super) fn close(&mut self) {
        self.wait(3 * 3_600_000);
        self.handle_timeout();
        let left = (self.server.allocation_count(), self.ports.taken(), self.server.poll_timeout());
        assert_eq!(left, (0, 0, None), "allocations, ports and timers");
        assert_eq!((self.quotas.held(), self.reservations.kept()), (0, 0), "quotas and reservations");
        assert_eq!(self.server.connection_count(), 0, "connections with peers");
    }
}

fn clients() -> [Client; 5] {
    let [v4, v6] = LISTENERS.map(address);
    let mut via = 0;
    [
        (Transport::Udp, "81.0.0.1:4000", v4),
        (Transport::Udp, "81.0.0.1:4001", v4),
        (Transport::Tcp, "81.0.0.1:4000", v4),
        (Transport::Tcp, "81.0.0.2:4000", v4),
        (Transport::Udp, "[2001:4860::1]:4000", v6),
    ]
    .map(|(transport, client, server)| {
        via += 1;
        Client { five_tuple: FiveTuple { transport, client: address(client), server }, via }
    })
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xA5; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(HEADROOM + bytes.len().max(MAX_REPLY) + TAILROOM, 0xA5);
    buffer
}
