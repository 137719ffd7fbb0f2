//! The core's lanes, each with a server, sockets that nobody opens, and a few clients.

use std::net::SocketAddr;
use std::sync::Arc;

use credentials::{Claims, Credential, CustomIdentifier, Keyring, TurnKeyId};
use stun::{AttributeType, ChannelNumber, Message, MessageWriter, Method, TransactionId, channel_data};
use turn::{
    Action, Client, Config, FiveTuple, HEADROOM, MAX_REPLY, NonceKey, OpenError, Output, Packet, PortRange,
    RelayAddress, RelayId, RelayPorts, RelaySockets, ReservedSocket, Server, Shared, TAILROOM, Time,
    Transport,
};

use crate::message::{REQUESTED_UDP, Signature, request, send_indication};

pub(crate) const LANES: [&str; 8] = [
    "ChannelData from a client",
    "ChannelData to a client",
    "Send indication",
    "Data indication",
    "ChannelData from relay to relay",
    "Binding",
    "ChannelBind",
    "allocation: 401, Allocate, Refresh 0",
];

/// Unix seconds.
const NOW: u64 = 1_800_000_000;
const CLIENTS: u8 = 16;
const LENGTH: u16 = 160;
const DATA: [u8; LENGTH as usize] = [7; LENGTH as usize];
const CHANNEL: u16 = 0x4000;
const TO_OTHER: u16 = 0x4001;

/// Relay sockets by number, the free ones first.
#[derive(Default)]
struct Sockets {
    free: Vec<u32>,
    next: u32,
}

impl RelaySockets for Sockets {
    fn open(&mut self, _: SocketAddr) -> Result<RelayId, OpenError> {
        Ok(RelayId(self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })))
    }

    fn listen(&mut self, _: SocketAddr) -> Result<RelayId, OpenError> {
        Err(OpenError::Failed)
    }

    fn reserve(&mut self, _: SocketAddr) -> Result<ReservedSocket, OpenError> {
        Err(OpenError::Failed)
    }

    fn open_reserved(&mut self, _: ReservedSocket) -> Result<RelayId, OpenError> {
        Err(OpenError::Failed)
    }
}

pub(crate) struct Lanes {
    server: Server,
    sockets: Sockets,
    credential: Credential,
    buffer: Vec<u8>,
}

fn client(index: u8) -> Client {
    let client = SocketAddr::from(([81, 0, 0, index], 4_000));
    let server = SocketAddr::from(([20, 0, 0, 1], 3_478));
    Client { five_tuple: FiveTuple { transport: Transport::Udp, client, server }, via: 0 }
}

fn peer(index: u8) -> SocketAddr {
    SocketAddr::from(([8, 8, 8, index], 5_000))
}

fn id() -> TransactionId {
    TransactionId::from_bytes([9; 12])
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let address = "20.0.0.1".parse().expect("an address");
        let relay_addresses = vec![RelayAddress { public: address, local: address }];
        let config = Config { relay_addresses, stranger_limit: None, ..Config::default() };
        let keyring = Arc::new(Keyring::generate(NOW).expect("a keyring"));
        let claims = Claims {
            key: TurnKeyId::from_bytes([9; 16]),
            issued_at: NOW,
            ttl_secs: 3_600,
            custom_identifier: CustomIdentifier::default(),
        };
        let credential = keyring.mint(&claims).expect("a credential");
        let ports = RelayPorts::new(PortRange::default(), [address]);
        let shared = Shared::new(keyring, NonceKey::new([3; 32]), ports);
        Self {
            server: Server::new(config, shared, [4; 32]),
            sockets: Sockets::default(),
            credential,
            buffer: vec![0; HEADROOM + MAX_REPLY + TAILROOM],
        }
    }

    fn now() -> Time {
        Time { monotonic_ms: 1_000_000, unix_ms: NOW * 1_000 }
    }

    fn packet(&mut self, bytes: &[u8]) -> (&mut Server, &mut Sockets, Packet<'_>) {
        self.buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let packet = Packet::new(&mut self.buffer, HEADROOM, HEADROOM + bytes.len());
        (&mut self.server, &mut self.sockets, packet)
    }

    fn client_sends(&mut self, index: u8, bytes: &[u8]) -> Action {
        let (server, sockets, mut packet) = self.packet(bytes);
        server.from_client(Self::now(), client(index), &mut packet, sockets)
    }

    fn peer_sends(&mut self, relay: RelayId, peer: SocketAddr) -> Action {
        let (server, _, mut packet) = self.packet(&DATA);
        server.from_peer(Self::now(), relay, peer, &mut packet)
    }

    /// A request and its answer, which must be this.
    fn ask(&mut self, index: u8, request: &[u8], is_success: bool) -> Vec<u8> {
        let (server, sockets, mut packet) = self.packet(request);
        let action = server.from_client(Self::now(), client(index), &mut packet, sockets);
        let reply = packet.bytes().to_vec();
        let succeeded = matches!(action, Action::Reply(turn::Reply::Success(_)));
        assert!(succeeded == is_success, "{action:?}");
        reply
    }

    /// What client `index` signs with, by a nonce that it is told now.
    fn signature(&mut self, index: u8) -> Signature {
        let challenge = self.ask(index, &request(Method::ALLOCATE, id(), udp), false);
        let challenge = Message::parse(&challenge).expect("a challenge");
        let value = |kind| challenge.attribute(kind).expect("it is there");
        let (realm, nonce) = (value(AttributeType::REALM), value(AttributeType::NONCE));
        Signature::new(&self.credential.username, &self.credential.password, realm, nonce)
    }

    fn allocate(&mut self, index: u8, signature: &Signature) -> SocketAddr {
        let request = request(Method::ALLOCATE, id(), |writer| {
            udp(writer);
            signature.sign(writer);
        });
        let reply = self.ask(index, &request, true);
        let reply = Message::parse(&reply).expect("a reply");
        let relayed = reply.attribute(AttributeType::XOR_RELAYED_ADDRESS).expect("a relayed address");
        stun::address::decode_xor(relayed, reply.transaction()).expect("an address")
    }

    /// Clients with a channel to a peer of their own and one to the next client; the request that made the first.
    fn clients(&mut self) -> Vec<Vec<u8>> {
        let signatures: Vec<_> = (0..CLIENTS).map(|index| self.signature(index)).collect();
        let relayed: Vec<_> =
            (0..CLIENTS).zip(&signatures).map(|(index, signature)| self.allocate(index, signature)).collect();
        let mut binds = vec![];
        for (index, signature) in (0..CLIENTS).zip(&signatures) {
            let next = relayed[usize::from((index + 1) % CLIENTS)];
            let bind = bind(signature, CHANNEL, peer(index));
            for request in [&bind, &self::bind(signature, TO_OTHER, next)] {
                self.ask(index, request, true);
            }
            binds.push(bind);
        }
        binds
    }

    pub(crate) fn run(&mut self, lane: &str, count: u64) {
        let binds = self.clients();
        let frame = |number| {
            let channel = ChannelNumber::new(number).expect("a channel");
            [&channel_data::header(channel, LENGTH)[..], &DATA].concat()
        };
        let (frame, to_other) = (frame(CHANNEL), frame(TO_OTHER));
        let sends: Vec<_> = (0..CLIENTS).map(|index| send_indication(id(), peer(index), &DATA)).collect();
        let binding = request(Method::BINDING, id(), |_| {});
        for (_, index) in (0..count).zip((0..CLIENTS).cycle()) {
            let relay = RelayId(index.into());
            let action = match LANES.iter().position(|known| *known == lane) {
                Some(0) => self.client_sends(index, &frame),
                Some(1) => self.peer_sends(relay, peer(index)),
                Some(2) => self.client_sends(index, &sends[usize::from(index)]),
                // Of the same address, so it is permitted, but of another port.
                Some(3) => self.peer_sends(relay, SocketAddr::new(peer(index).ip(), 5_001)),
                Some(4) => {
                    let action = self.client_sends(index, &to_other);
                    let Action::ToRelay { relay, from } = action else { panic!("{action:?}") };
                    self.peer_sends(relay, from)
                }
                Some(5) => self.client_sends(index, &binding),
                Some(6) => self.client_sends(index, &binds[usize::from(index)]),
                Some(7) => self.cycle(),
                _ => panic!("there is no lane '{lane}'"),
            };
            let has_passed = matches!(
                action,
                Action::ToPeer { .. } | Action::ToClient(_) | Action::Reply(turn::Reply::Success(_))
            );
            assert!(has_passed, "{action:?}");
        }
    }

    fn cycle(&mut self) -> Action {
        let signature = self.signature(CLIENTS);
        self.allocate(CLIENTS, &signature);
        let refresh = request(Method::REFRESH, id(), |writer| {
            writer.attribute_u32(AttributeType::LIFETIME, 0);
            signature.sign(writer);
        });
        let action = self.client_sends(CLIENTS, &refresh);
        while let Some(output) = self.server.poll_output() {
            if let Output::Ended { relay, .. } = output {
                self.sockets.free.push(relay.0);
            }
        }
        action
    }
}

fn udp(writer: &mut MessageWriter<'_>) {
    writer.attribute(AttributeType::REQUESTED_TRANSPORT, &REQUESTED_UDP);
}

fn bind(signature: &Signature, number: u16, peer: SocketAddr) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    request(Method::CHANNEL_BIND, id(), |writer| {
        writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        signature.sign(writer);
    })
}
