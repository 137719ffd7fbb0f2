//! What an allocation takes that nobody uses.

use std::net::SocketAddr;
use std::sync::Arc;

use credentials::{Claims, CustomIdentifier, Keyring};
use stun::{AttributeType as A, Message, Method};
use testkit::dice::Dice;
use testkit::message::{Signature, request};
use testkit::sys::CountingHeap;
use turn::{
    Action, Client, Config, FiveTuple, HEADROOM, MAX_REPLY, NonceKey, OpenError, Packet, PortRange,
    RelayAddress, RelayId, RelayPorts, RelaySockets, Reply, ReservedSocket, Server, Shared, TAILROOM, Time,
    Transport,
};

use crate::fixture::{KEY, NOW, PEER, udp};

/// Tables have grown to a power of two, of which so much is used before they grow again.
const ALLOCATIONS: u32 = 14_000;

/// Sockets that take nothing.
struct Sockets(u32);

impl RelaySockets for Sockets {
    fn open(&mut self, _: SocketAddr) -> Result<RelayId, OpenError> {
        self.0 += 1;
        Ok(RelayId(self.0 - 1))
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

/// Each with a permission and a channel, and a credential of its own.
#[test]
fn an_idle_allocation_takes_little() {
    let own = "20.0.0.1".parse().unwrap();
    let relay_addresses = vec![RelayAddress { public: own, local: own }];
    let config = Config { relay_addresses, stranger_limit: None, ..Config::default() };
    let keyring = Arc::new(Keyring::generate(NOW).unwrap());
    let ports = RelayPorts::new(PortRange::default(), [own]);
    let mut server =
        Server::new(config, Shared::new(Arc::clone(&keyring), NonceKey::new([3; 32]), ports), [4; 32]);
    let (mut sockets, mut dice) = (Sockets(0), Dice::new(1));
    let now = Time { monotonic_ms: 1_000_000, unix_ms: NOW * 1_000 };
    let mut buffer = vec![0; HEADROOM + MAX_REPLY + TAILROOM];
    let identifier: CustomIdentifier = "somebody".try_into().unwrap();
    let before = CountingHeap::held();
    for n in 0..ALLOCATIONS {
        let client = SocketAddr::from(((0x5100_0000 + n).to_be_bytes(), 4_000));
        let five_tuple = FiveTuple { transport: Transport::Udp, client, server: (own, 3_478).into() };
        let mut ask = |message: &[u8]| {
            buffer[HEADROOM..HEADROOM + message.len()].copy_from_slice(message);
            let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + message.len());
            let action = server.from_client(now, Client { five_tuple, via: 0 }, &mut packet, &mut sockets);
            (matches!(action, Action::Reply(Reply::Success(_))), packet.bytes().to_vec())
        };
        let claims =
            Claims { key: KEY, issued_at: NOW, ttl_secs: 3_600, custom_identifier: identifier.clone() };
        let credential = keyring.mint(&claims).unwrap();
        let (_, challenge) = ask(&request(Method::ALLOCATE, dice.transaction(), udp));
        let challenge = Message::parse(&challenge).unwrap();
        let value = |kind| challenge.attribute(kind).unwrap();
        let signature =
            Signature::new(&credential.username, &credential.password, value(A::REALM), value(A::NONCE));
        for method in [Method::ALLOCATE, Method::CHANNEL_BIND] {
            let request = request(method, dice.transaction(), |writer| {
                if method == Method::ALLOCATE {
                    udp(writer);
                } else {
                    writer.attribute(A::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);
                    writer.xor_address(A::XOR_PEER_ADDRESS, PEER.parse().unwrap());
                }
                signature.sign(writer);
            });
            assert!(ask(&request).0, "{n} {method:?}");
        }
    }
    assert_eq!(server.allocation_count(), ALLOCATIONS as usize);
    let each = (CountingHeap::held() - before) / isize::try_from(ALLOCATIONS).unwrap();
    assert!(each <= 1_350, "{each} bytes of the heap for each");
}
