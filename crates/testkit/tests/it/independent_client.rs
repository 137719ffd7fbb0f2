//! A client that is not ours, `turn-client-proto`, works with our server: over UDP and over TCP, in pieces.
//!
//! Version 0.7 of it neither writes nor skips the padding of ChannelData on a stream, which RFC 8656 §12.5 demands:
//! over TCP it gets data for its channel whose length is a multiple of four.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use credentials::{Claims, Credential, CustomIdentifier, Keyring, TurnKeyId};
use testkit::client::Frames;
use turn::{
    Action, Client, Config, FiveTuple, HEADROOM, MAX_REPLY, NonceKey, OpenError, Output, Packet, PortRange,
    RelayAddress, RelayId, RelayPorts, RelaySockets, ReservedSocket, Server, Shared, TAILROOM, Time,
    Transport,
};
use turn_client_proto::api::{Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::DelayedTransmitBuild;
use turn_client_proto::stun::Instant;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

const START: u64 = 1_800_000_000;
const CLIENT: &str = "81.0.0.1:4000";
const SERVER: &str = "20.0.0.1:3478";

#[derive(Default)]
struct Sockets(BTreeSet<u32>);

impl RelaySockets for Sockets {
    fn open(&mut self, _local: SocketAddr) -> Result<RelayId, OpenError> {
        let id = (0..100).find(|id| !self.0.contains(id)).unwrap();
        self.0.insert(id);
        Ok(RelayId(id))
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        self.open(local)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        Ok(ReservedSocket::new(local))
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        self.open(socket.into_socket().unwrap())
    }
}

/// A client of theirs and a server of ours, with what lies between.
struct Pair<C> {
    client: C,
    server: Server,
    sockets: Sockets,
    ports: Arc<RelayPorts>,
    transport: Transport,
    to_server: Frames,
    now: Duration,
    events: Vec<TurnEvent>,
    /// What reached a peer, and what reached the client from one.
    at_peer: Vec<(SocketAddr, Vec<u8>)>,
    at_client: Vec<(SocketAddr, Vec<u8>)>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn credential(keyring: &Keyring) -> Credential {
    let custom_identifier = CustomIdentifier::default();
    let key = TurnKeyId::from_bytes([9; 16]);
    keyring.mint(&Claims { key, issued_at: START, ttl_secs: 86_400, custom_identifier }).unwrap()
}

impl<C: TurnClientApi> Pair<C> {
    fn new(transport: Transport, v6: bool, make: impl FnOnce(TurnConfig) -> C) -> Self {
        let relay = |text: &str| RelayAddress { public: text.parse().unwrap(), local: text.parse().unwrap() };
        let relays = vec![relay("20.0.0.2"), relay("2606:4700::2")];
        let range = PortRange::new(50_000, 50_009).unwrap();
        let ports = RelayPorts::new(range, relays.iter().map(|relay| relay.local));
        let keyring = Arc::new(Keyring::generate(START).unwrap());
        let credential = credential(&keyring);
        let shared = Shared::new(keyring, NonceKey::new([3; 32]), ports);
        let ports = Arc::clone(&shared.ports);
        let config = Config { relay_addresses: relays, ..Config::default() };
        let mut turn = TurnConfig::new(TurnCredentials::new(&credential.username, &credential.password));
        if v6 {
            turn.set_address_family(AddressFamily::IPV6);
        }
        Self {
            client: make(turn),
            server: Server::new(config, shared, [4; 32]),
            sockets: Sockets::default(),
            ports,
            transport,
            to_server: Frames::default(),
            now: Duration::from_secs(1_000),
            events: vec![],
            at_peer: vec![],
            at_client: vec![],
        }
    }

    fn instant(&self) -> Instant {
        Instant::ZERO + self.now
    }

    fn time(&self) -> Time {
        let monotonic_ms = u64::try_from(self.now.as_millis()).unwrap();
        Time { monotonic_ms, unix_ms: START * 1_000 + monotonic_ms }
    }

    /// Lets both talk until neither has more to say.
    fn run(&mut self) {
        loop {
            let next = self.client.poll(self.instant());
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            match self.client.poll_transmit(self.instant()) {
                Some(transmit) => self.transmit(&transmit.data),
                None => match next {
                    // It leaves a little time between its requests.
                    TurnPollRet::WaitUntil(at) if at <= self.instant() + Duration::from_millis(100) => {
                        self.now = self.now.max(at.duration_since(Instant::ZERO));
                    }
                    _ => return,
                },
            }
        }
    }

    /// Time passes in steps, so that both keep their timers.
    fn wait(&mut self, secs: u64) {
        for _ in 0..secs {
            self.now += Duration::from_secs(1);
            self.server.handle_timeout(self.time());
            while let Some(output) = self.server.poll_output() {
                if let Output::Ended { relay, .. } = output {
                    self.sockets.0.remove(&relay.0);
                }
            }
            self.run();
        }
    }

    fn transmit(&mut self, bytes: &[u8]) {
        if self.transport == Transport::Udp {
            return self.give(bytes);
        }
        for piece in bytes.chunks(7) {
            self.to_server.push(piece);
            while let Some(frame) = self.to_server.next_frame().unwrap() {
                self.give(&frame);
            }
        }
    }

    fn give(&mut self, bytes: &[u8]) {
        let mut buffer = buffer(bytes);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len());
        let five_tuple =
            FiveTuple { transport: self.transport, client: address(CLIENT), server: address(SERVER) };
        let client = Client { five_tuple, via: 1 };
        let action = self.server.from_client(self.time(), client, &mut packet, &mut self.sockets);
        let output = packet.bytes().to_vec();
        match action {
            Action::Reply(_) => self.deliver(&output),
            Action::ToPeer { peer, .. } => self.at_peer.push((peer, output)),
            other => panic!("{other:?}"),
        }
    }

    fn hear(&mut self, peer: &str, data: &[u8]) -> Action {
        let mut buffer = buffer(data);
        let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + data.len());
        let action = self.server.from_peer(self.time(), RelayId(0), address(peer), &mut packet);
        let output = packet.bytes().to_vec();
        if matches!(action, Action::ToClient(_)) {
            self.deliver(&output);
        }
        action
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let (piece, transport) = if self.transport.is_stream() {
            (5, TransportType::Tcp)
        } else {
            (bytes.len(), TransportType::Udp)
        };
        for piece in bytes.chunks(piece) {
            let transmit = Transmit::new(piece.to_vec(), transport, address(SERVER), address(CLIENT));
            let now = self.instant();
            match self.client.recv(transmit, now) {
                TurnRecvRet::PeerData(data) => self.at_client.push((data.peer, data.data().to_vec())),
                TurnRecvRet::Ignored(ignored) => panic!("the client ignores {ignored:?}"),
                _ => {}
            }
            while let Some(data) = self.client.poll_recv(now) {
                self.at_client.push((data.peer, data.data().to_vec()));
            }
        }
    }

    fn send(&mut self, peer: &str, data: &[u8]) {
        let sent = self.client.send_to(TransportType::Udp, address(peer), data.to_vec(), self.instant());
        if let Some(transmit) = sent.unwrap() {
            self.transmit(&transmit.data.build());
        }
        self.run();
    }

    fn saw(&self, is_it: impl Fn(&TurnEvent) -> bool) -> bool {
        self.events.iter().any(is_it)
    }

    /// Everything a client does in its life, with these peers.
    fn live(&mut self, peer: &str, channel_peer: &str) {
        self.run();
        let relayed: Vec<_> = self.client.relayed_addresses().collect();
        assert_eq!(relayed.len(), 1, "{:?}", self.events);
        assert_eq!(relayed[0].1.is_ipv4(), address(peer).is_ipv4());
        assert_eq!((self.server.allocation_count(), self.ports.taken()), (1, 1));

        self.client.create_permission(TransportType::Udp, address(peer).ip(), self.instant()).unwrap();
        self.run();
        assert!(
            self.saw(|it| matches!(it, TurnEvent::PermissionCreated(_, ip) if *ip == address(peer).ip()))
        );
        self.send(peer, b"by indication");
        assert_eq!(self.at_peer.pop(), Some((address(peer), b"by indication".to_vec())));
        assert!(matches!(self.hear(peer, b"answer"), Action::ToClient(_)));
        assert_eq!(self.at_client.pop(), Some((address(peer), b"answer".to_vec())));
        assert!(matches!(self.hear(channel_peer, b"not yet"), Action::Drop(_)));

        self.client.bind_channel(TransportType::Udp, address(channel_peer), self.instant()).unwrap();
        self.run();
        assert!(
            self.saw(|it| matches!(it, TurnEvent::ChannelCreated(_, at) if *at == address(channel_peer)))
        );
        let unpadded = |length: &usize| !self.transport.is_stream() || length.is_multiple_of(4);
        let lengths: Vec<usize> = [0, 1, 2, 3, 4, 5, 1_200].into_iter().filter(unpadded).collect();
        for length in lengths {
            let data = vec![7; length];
            self.send(channel_peer, &data);
            assert_eq!(self.at_peer.pop(), Some((address(channel_peer), data.clone())));
            assert!(matches!(self.hear(channel_peer, &data), Action::ToClient(_)));
            assert_eq!(self.at_client.pop(), Some((address(channel_peer), data)));
        }
    }
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM];
    buffer.extend_from_slice(bytes);
    buffer.resize(HEADROOM + bytes.len().max(MAX_REPLY) + TAILROOM, 0);
    buffer
}

fn udp(config: TurnConfig) -> TurnClientUdp {
    TurnClientUdp::allocate(address(CLIENT), address(SERVER), config)
}

fn tcp(config: TurnConfig) -> TurnClientTcp {
    TurnClientTcp::allocate(address(CLIENT), address(SERVER), config)
}

#[test]
fn over_udp() {
    Pair::new(Transport::Udp, false, udp).live("8.8.8.8:5000", "9.9.9.9:5000");
}

#[test]
fn over_udp_to_ipv6_peers() {
    Pair::new(Transport::Udp, true, udp).live("[2620:fe::fe]:5000", "[2606:4700::1111]:5000");
}

#[test]
fn over_tcp_in_pieces() {
    Pair::new(Transport::Tcp, false, tcp).live("8.8.8.8:5000", "9.9.9.9:5000");
}

#[test]
fn it_keeps_allocation_permission_and_channel_alive_and_ends_them() {
    let mut pair = Pair::new(Transport::Udp, false, udp);
    pair.live("8.8.8.8:5000", "9.9.9.9:5000");
    // Beyond the nonce's life, too: the client follows a 438.
    pair.wait(4_000);
    for peer in ["8.8.8.8:5000", "9.9.9.9:5000"] {
        pair.send(peer, b"still here");
        assert_eq!(pair.at_peer.pop(), Some((address(peer), b"still here".to_vec())));
        assert!(matches!(pair.hear(peer, b"so am I"), Action::ToClient(_)));
    }
    pair.client.delete(pair.instant()).unwrap();
    pair.run();
    pair.wait(1);
    assert_eq!((pair.server.allocation_count(), pair.ports.taken()), (0, 0));
}
