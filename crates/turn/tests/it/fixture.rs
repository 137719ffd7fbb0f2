//! A server on made-up sockets and time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use credentials::{Claims, Credential, CustomIdentifier, Keyring, TurnKeyId};
use stun::{AttributeType, ErrorCode, Integrity, Message, MessageWriter, Method, TransactionId, address};
use testkit::dice::Dice;
use testkit::message::{self, REQUESTED_UDP, Signature};
use turn::{
    Action, Client, Command, Config, ConnectionId, DropReason, EndReason, FiveTuple, HEADROOM, Limits,
    MAX_REPLY, NonceKey, OpenError, Output, Packet, PeerPolicy, PortRange, Quotas, RelayAddress, RelayId,
    RelayPorts, RelaySockets, Reservations, ReservedSocket, Server, Shared, TAILROOM, Time, Transport,
    WorkerId,
};

pub(crate) const KEY: TurnKeyId = TurnKeyId::from_bytes([9; 16]);
/// Unix seconds when a test begins.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const PEER: &str = "8.8.8.8:5000";
pub(crate) const PEER6: &str = "[2620:fe::fe]:5000";

/// What came of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Silence(DropReason),
    Reply(Vec<u8>),
    ReplyElsewhere(Client, Vec<u8>),
    ToPeer(SocketAddr, Vec<u8>),
    ToClient(Client, Vec<u8>),
    ToRelay(RelayId, SocketAddr, Vec<u8>),
    /// Another worker is given the packet, or asked.
    Elsewhere,
    Connect(ConnectionId, RelayId, SocketAddr),
    Bind(ConnectionId, Vec<u8>),
    HandOver(WorkerId),
}

impl Outcome {
    pub(crate) fn reply(self) -> Vec<u8> {
        match self {
            Self::Reply(bytes) => bytes,
            other => panic!("no reply but {other:?}"),
        }
    }

    /// The error code of a reply; 0 for success.
    pub(crate) fn code(self) -> u16 {
        code(&self.reply())
    }
}

pub(crate) fn code(reply: &[u8]) -> u16 {
    let message = Message::parse(reply).unwrap();
    let value = message.attribute(AttributeType::ERROR_CODE);
    value.map_or(0, |value| ErrorCode::parse(value).unwrap().0.code())
}

pub(crate) fn lifetime(reply: &[u8]) -> u32 {
    let message = Message::parse(reply).unwrap();
    u32::from_be_bytes(message.attribute(AttributeType::LIFETIME).unwrap().try_into().unwrap())
}

pub(crate) fn relayed(reply: &[u8]) -> SocketAddr {
    let message = Message::parse(reply).unwrap();
    let value = message.attribute(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
    address::decode_xor(value, message.transaction()).unwrap()
}

/// Every XOR-RELAYED-ADDRESS.
pub(crate) fn all_relayed(reply: &[u8]) -> Vec<SocketAddr> {
    let message = Message::parse(reply).unwrap();
    let all = message.attributes().filter(|attribute| attribute.kind == AttributeType::XOR_RELAYED_ADDRESS);
    all.map(|attribute| address::decode_xor(attribute.value, message.transaction()).unwrap()).collect()
}

/// An attribute's value, if it is there.
pub(crate) fn value(reply: &[u8], kind: AttributeType) -> Option<Vec<u8>> {
    Message::parse(reply).unwrap().attribute(kind).map(<[u8]>::to_vec)
}

#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) open: BTreeMap<u32, SocketAddr>,
    /// Those of TCP.
    pub(crate) listening: BTreeSet<u32>,
    pub(crate) failure: Option<OpenError>,
    /// Those of other programs.
    pub(crate) in_use: BTreeSet<u16>,
}

impl Sockets {
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }
}

impl RelaySockets for Sockets {
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.in_use.contains(&local.port()) {
            return Err(OpenError::InUse);
        }
        assert!(!self.open.values().any(|held| *held == local), "{local} is opened twice");
        let id = (0..1_000).find(|id| !self.open.contains_key(id)).unwrap();
        self.open.insert(id, local);
        Ok(RelayId(id))
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        let relay = self.open(local)?;
        self.listening.insert(relay.0);
        Ok(relay)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(ReservedSocket::new(local)),
        }
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        self.open(socket.into_socket().unwrap())
    }
}

pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) sockets: Sockets,
    pub(crate) ports: Arc<RelayPorts>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) reservations: Arc<Reservations>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) dice: Dice,
    pub(crate) now_ms: u64,
    /// Why allocations ended.
    pub(crate) ends: Vec<EndReason>,
    /// What is for other workers, and late replies.
    pub(crate) posts: Vec<Output>,
    pub(crate) reports: Vec<turn::Report>,
    /// Whom the last packet that was passed on went back to.
    pub(crate) last_passed: Option<WorkerId>,
    /// Connections with peers that the server has closed.
    pub(crate) closed: Vec<(ConnectionId, EndReason)>,
    /// What clients were told in outputs.
    pub(crate) told: Vec<(Client, Vec<u8>)>,
    /// What came of the last packet, as the server said it.
    pub(crate) last: Option<Action>,
    config: Config,
    shared: Shared,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        Self::configured(|config| config.limits = limits)
    }

    pub(crate) fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let relay = |text: &str| RelayAddress { public: text.parse().unwrap(), local: text.parse().unwrap() };
        let relays = vec![relay("20.0.0.2"), relay("2606:4700::2")];
        let range = PortRange::new(50_000, 50_009).unwrap();
        let listeners = ["20.0.0.1:3478".parse().unwrap()];
        let policy = PeerPolicy::default().with_own_addresses(&listeners, &relays, range);
        let mut config =
            Config { relay_addresses: relays, policy, stranger_limit: None, ..Config::default() };
        change(&mut config);
        let ports = RelayPorts::new(range, config.relay_addresses.iter().map(|relay| relay.local));
        let keyring = Arc::new(Keyring::generate(NOW).unwrap());
        let shared = Shared::new(Arc::clone(&keyring), NonceKey::new([3; 32]), ports);
        let ports = Arc::clone(&shared.ports);
        Self {
            server: Server::new(config.clone(), shared.clone(), [4; 32]),
            sockets: Sockets::default(),
            ports,
            quotas: Arc::clone(&shared.quotas),
            reservations: Arc::clone(&shared.reservations),
            keyring,
            dice: Dice::new(5),
            now_ms: 1_000_000,
            ends: vec![],
            posts: vec![],
            reports: vec![],
            last_passed: None,
            closed: vec![],
            told: vec![],
            last: None,
            config,
            shared,
        }
    }

    /// Another worker of the same process.
    pub(crate) fn sibling(&self) -> Self {
        let config = Config { worker: WorkerId(self.config.worker.0 + 1), ..self.config.clone() };
        Self {
            server: Server::new(
                config.clone(),
                self.shared.clone(),
                [6 + u8::try_from(self.config.worker.0).unwrap(); 32],
            ),
            sockets: Sockets::default(),
            ports: Arc::clone(&self.ports),
            quotas: Arc::clone(&self.quotas),
            reservations: Arc::clone(&self.reservations),
            keyring: Arc::clone(&self.keyring),
            dice: Dice::new(7),
            now_ms: self.now_ms,
            ends: vec![],
            posts: vec![],
            reports: vec![],
            last_passed: None,
            closed: vec![],
            told: vec![],
            last: None,
            config,
            shared: self.shared.clone(),
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time { monotonic_ms: self.now_ms, unix_ms: NOW * 1_000 + self.now_ms - 1_000_000 }
    }

    pub(crate) fn mint(&self, ttl_secs: u32) -> Credential {
        let claims = Claims {
            key: KEY,
            issued_at: self.now().unix_secs(),
            ttl_secs,
            custom_identifier: CustomIdentifier::default(),
        };
        self.keyring.mint(&claims).unwrap()
    }

    /// Gives the server a client's packet.
    pub(crate) fn give(&mut self, client: Client, bytes: &[u8]) -> Outcome {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.from_client(self.now(), client, &mut packet, &mut self.sockets);
        let output = packet.bytes().to_vec();
        self.last = Some(action);
        self.drain();
        outcome(action, output)
    }

    /// Gives the server what another worker has passed on.
    pub(crate) fn pass(&mut self, now: Time, from: WorkerId, client: Client, bytes: &[u8]) -> Outcome {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.passed(now, from, client, &mut packet, &mut self.sockets);
        let output = packet.bytes().to_vec();
        self.last_passed = if let Action::Pass(to) = action { Some(to) } else { None };
        self.drain();
        outcome(action, output)
    }

    /// Gives the server what another worker has passed back.
    pub(crate) fn pass_back(&mut self, from: WorkerId, client: Client, bytes: &[u8]) -> Outcome {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.passed_back(self.now(), from, client, &mut packet, &mut self.sockets);
        let output = packet.bytes().to_vec();
        self.drain();
        outcome(action, output)
    }

    /// Gives the server a peer's datagram, on the first relay socket.
    pub(crate) fn hear(&mut self, peer: &str, bytes: &[u8]) -> Outcome {
        self.hear_on(RelayId(0), peer, bytes)
    }

    /// The relay socket of this relayed address.
    pub(crate) fn socket_of(&self, relayed: SocketAddr) -> Option<RelayId> {
        self.sockets.open.iter().find(|(_, local)| **local == relayed).map(|(id, _)| RelayId(*id))
    }

    /// Gives the server a peer's datagram.
    pub(crate) fn hear_on(&mut self, relay: RelayId, peer: &str, bytes: &[u8]) -> Outcome {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let action = self.server.from_peer(self.now(), relay, peer.parse().unwrap(), &mut packet);
        outcome(action, packet.bytes().to_vec())
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.server.command(self.now(), command).unwrap();
        self.drain();
    }

    pub(crate) fn timeout(&mut self) {
        self.server.handle_timeout(self.now());
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Ended { relay, reason, .. } => {
                    assert!(self.sockets.open.remove(&relay.0).is_some());
                    self.sockets.listening.remove(&relay.0);
                    self.ends.push(reason);
                }
                Output::Report(report) => self.reports.push(*report),
                Output::Message { client, message, .. } => self.told.push((client, message)),
                Output::Disconnect { connection, reason } => self.closed.push((connection, reason)),
                other => self.posts.push(other),
            }
        }
    }

    /// What this credential signs with from here: with a nonce that the server tells now.
    pub(crate) fn signature(&mut self, client: Client, credential: &Credential) -> Signature {
        let bare = message::request(Method::ALLOCATE, self.dice.transaction(), |_| {});
        let challenge = self.give(client, &bare).reply();
        let challenge = Message::parse(&challenge).unwrap();
        let value = |kind| challenge.attribute(kind).unwrap();
        let (realm, nonce) = (value(AttributeType::REALM), value(AttributeType::NONCE));
        Signature::new(&credential.username, &credential.password, realm, nonce)
    }

    /// A signed request.
    pub(crate) fn signed(
        &mut self,
        client: Client,
        credential: &Credential,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let signature = self.signature(client, credential);
        message::request(method, self.dice.transaction(), |writer| {
            fill(writer);
            signature.sign(writer);
        })
    }

    /// Makes a signed request; the reply, whose integrity is checked when it succeeds.
    pub(crate) fn ask(
        &mut self,
        client: Client,
        credential: &Credential,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let key = self.signature(client, credential).key;
        let request = self.signed(client, credential, method, fill);
        let reply = self.give(client, &request).reply();
        if code(&reply) == 0 {
            assert_eq!(Message::parse(&reply).unwrap().integrity(&key), Integrity::Verified);
        }
        reply
    }

    pub(crate) fn allocate(&mut self, client: Client, credential: &Credential) -> SocketAddr {
        relayed(&self.ask(client, credential, Method::ALLOCATE, udp))
    }

    pub(crate) fn permit(&mut self, client: Client, credential: &Credential, peers: &[&str]) -> u16 {
        code(&self.ask(client, credential, Method::CREATE_PERMISSION, |writer| {
            for peer in peers {
                writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().unwrap());
            }
        }))
    }

    pub(crate) fn bind(&mut self, client: Client, credential: &Credential, number: u16, peer: &str) -> u16 {
        let [high, low] = number.to_be_bytes();
        code(&self.ask(client, credential, Method::CHANNEL_BIND, |writer| {
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().unwrap());
        }))
    }

    pub(crate) fn refresh(&mut self, client: Client, credential: &Credential, secs: u32) -> Vec<u8> {
        self.ask(client, credential, Method::REFRESH, |writer| {
            writer.attribute_u32(AttributeType::LIFETIME, secs);
        })
    }

    /// Whether a Send indication to a permitted peer goes out.
    pub(crate) fn sends(&mut self, client: Client) -> bool {
        let id = TransactionId::from_bytes([1; 12]);
        let packet = message::send_indication(id, PEER.parse().unwrap(), b"data");
        self.give(client, &packet) == Outcome::ToPeer(PEER.parse().unwrap(), b"data".to_vec())
    }

    /// Whether a permitted peer's data goes in.
    pub(crate) fn hears(&mut self) -> bool {
        matches!(self.hear(PEER, b"data"), Outcome::ToClient(..))
    }
}

pub(crate) fn udp(writer: &mut MessageWriter<'_>) {
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &REQUESTED_UDP);
}

pub(crate) fn client(transport: Transport, address: &str) -> Client {
    let server = "20.0.0.1:3478".parse().unwrap();
    Client { five_tuple: FiveTuple { transport, client: address.parse().unwrap(), server }, via: 7 }
}

/// The client that most tests are about.
pub(crate) fn alice() -> Client {
    client(Transport::Udp, "81.0.0.1:4000")
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xA5; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(HEADROOM + bytes.len().max(MAX_REPLY) + TAILROOM, 0xA5);
    buffer
}

fn outcome(action: Action, output: Vec<u8>) -> Outcome {
    match action {
        Action::Drop(reason) => Outcome::Silence(reason),
        Action::Reply(_) => Outcome::Reply(output),
        Action::ReplyElsewhere(_, route) => Outcome::ReplyElsewhere(route, output),
        Action::ToPeer { peer, .. } => Outcome::ToPeer(peer, output),
        Action::ToClient(client) => Outcome::ToClient(client, output),
        Action::ToRelay { relay, from } => Outcome::ToRelay(relay, from, output),
        Action::Pass(_) | Action::Later => Outcome::Elsewhere,
        Action::Connect { connection, relay, peer } => Outcome::Connect(connection, relay, peer),
        Action::Bind(connection) => Outcome::Bind(connection, output),
        Action::HandOver(worker) => Outcome::HandOver(worker),
    }
}
