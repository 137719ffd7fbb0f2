//! TCP allocations: RFC 6062.

use credentials::{Credential, Denial};
use std::net::SocketAddr;
use std::sync::Arc;

use stun::{AttributeType as A, Class, Integrity, Message, Method, address};
use testkit::message::{self, EVEN, FAMILY_IPV6, REQUESTED_TCP, Signature};
use turn::{
    Client, Command, ConnectFailed, ConnectionId, DropReason, EndReason, Limits, PeerPolicy, RelayId,
    Transport, WorkerId,
};

use crate::fixture::{Fixture, KEY, NOW, Outcome, PEER, PEER6, client, code, relayed, udp, value};

pub(crate) fn control() -> Client {
    client(Transport::Tcp, "81.0.0.1:4000")
}

pub(crate) fn data() -> Client {
    client(Transport::Tcp, "81.0.0.1:4001")
}

impl Fixture {
    pub(crate) fn allocate_tcp(&mut self, credential: &Credential) -> SocketAddr {
        let reply = self.ask(control(), credential, Method::ALLOCATE, |writer| {
            writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_TCP);
        });
        relayed(&reply)
    }

    fn connect(&mut self, credential: &Credential, peer: &str) -> Outcome {
        let request = self.signed(control(), credential, Method::CONNECT, |writer| {
            writer.xor_address(A::XOR_PEER_ADDRESS, peer.parse().unwrap());
        });
        self.give(control(), &request)
    }

    /// A connection that is made, and the answer to the client.
    pub(crate) fn connected(&mut self, credential: &Credential, peer: &str) -> (ConnectionId, Vec<u8>) {
        let Outcome::Connect(connection, ..) = self.connect(credential, peer) else {
            panic!("no connection")
        };
        self.tell_connected(connection, Ok(()));
        (connection, self.told.pop().unwrap().1)
    }

    fn tell_connected(&mut self, connection: ConnectionId, result: Result<(), ConnectFailed>) {
        self.server.connected(self.now(), connection, result);
        self.drain();
    }

    fn accepted(&mut self, peer: &str) -> Result<ConnectionId, DropReason> {
        let given = self.server.accepted(self.now(), RelayId(0), peer.parse().unwrap());
        self.drain();
        given
    }

    pub(crate) fn bind_connection(
        &mut self,
        from: Client,
        credential: &Credential,
        connection: ConnectionId,
    ) -> Outcome {
        let request = self.signed(from, credential, Method::CONNECTION_BIND, |writer| {
            writer.attribute_u32(A::CONNECTION_ID, connection.0);
        });
        self.give(from, &request)
    }
}

fn ready() -> (Fixture, Credential) {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate_tcp(&credential);
    (fixture, credential)
}

#[test]
fn rfc6062_5_1_what_a_tcp_allocation_needs() {
    type Attributes = &'static [(A, &'static [u8])];
    let over = |transport, attributes: Attributes| {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        let reply =
            fixture.ask(client(transport, "81.0.0.1:4000"), &credential, Method::ALLOCATE, |writer| {
                writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_TCP);
                for (kind, value) in attributes {
                    writer.attribute(*kind, value);
                }
            });
        let code = code(&reply);
        assert_eq!(fixture.sockets.listening.len(), usize::from(code == 0), "{attributes:?}");
        assert!(code != 0 || value(&reply, A::RESERVATION_TOKEN).is_none());
        code
    };
    assert_eq!(over(Transport::Tcp, &[]), 0);
    assert_eq!(over(Transport::Udp, &[]), 400, "over UDP there are no TCP allocations");
    assert_eq!(over(Transport::Tcp, &[(A::LIFETIME, &[0, 0, 4, 0])]), 0);
    assert_eq!(over(Transport::Tcp, &[(A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV6)]), 0);
    assert_eq!(over(Transport::Tcp, &[(A::DONT_FRAGMENT, &[])]), 400);
    assert_eq!(over(Transport::Tcp, &[(A::EVEN_PORT, &EVEN)]), 400);
    assert_eq!(over(Transport::Tcp, &[(A::RESERVATION_TOKEN, &[7; 8])]), 400);
}

#[test]
fn rfc6062_5_2_connect_is_answered_when_the_peer_has_answered() {
    let (mut fixture, credential) = ready();
    let Outcome::Connect(connection, relay, peer) = fixture.connect(&credential, PEER) else { panic!() };
    assert_eq!((relay, peer), (RelayId(0), PEER.parse().unwrap()));
    assert!(fixture.told.is_empty());
    fixture.tell_connected(connection, Ok(()));
    let (to, response) = fixture.told.pop().unwrap();
    let message = Message::parse(&response).unwrap();
    assert_eq!((to, message.class(), message.method()), (control(), Class::Success, Method::CONNECT));
    assert_eq!(value(&response, A::CONNECTION_ID).unwrap(), connection.0.to_be_bytes());
    let key = fixture.signature(control(), &credential).key;
    assert_eq!(message.integrity(&key), Integrity::Verified);
    fixture.tell_connected(connection, Ok(()));
    assert!(fixture.told.is_empty(), "once");
}

#[test]
fn rfc6062_5_2_a_connection_that_fails_or_takes_30_seconds_is_447() {
    let (mut fixture, credential) = ready();
    let Outcome::Connect(first, ..) = fixture.connect(&credential, PEER) else { panic!() };
    fixture.tell_connected(first, Err(ConnectFailed));
    assert_eq!(code(&fixture.told.pop().unwrap().1), 447);
    assert!(fixture.closed.is_empty(), "whoever tells so knows");
    let Outcome::Connect(second, ..) = fixture.connect(&credential, PEER) else { panic!() };
    fixture.now_ms += 29_999;
    fixture.timeout();
    assert!(fixture.told.is_empty());
    assert_eq!(fixture.server.poll_timeout(), Some(fixture.now_ms + 1));
    fixture.now_ms += 1;
    fixture.timeout();
    assert_eq!(code(&fixture.told.pop().unwrap().1), 447);
    assert_eq!(fixture.closed, [(second, EndReason::TimedOut)]);
    fixture.tell_connected(second, Ok(()));
    assert!(fixture.told.is_empty() && fixture.server.connection_count() == 0, "too late");
}

#[test]
fn rfc6062_5_2_the_refusals_of_connect() {
    let (mut fixture, credential) = ready();
    let stranger = client(Transport::Tcp, "82.0.0.1:4000");
    let on = |fixture: &mut Fixture, from, peer: Option<&str>| {
        let request = fixture.signed(from, &credential, Method::CONNECT, |writer| {
            if let Some(peer) = peer {
                writer.xor_address(A::XOR_PEER_ADDRESS, peer.parse().unwrap());
            }
        });
        fixture.give(from, &request).code()
    };
    assert_eq!(on(&mut fixture, stranger, Some(PEER)), 437, "no allocation");
    let datagrams = client(Transport::Tcp, "82.0.0.1:4001");
    fixture.ask(datagrams, &credential, Method::ALLOCATE, udp);
    assert_eq!(on(&mut fixture, datagrams, Some(PEER)), 437, "an allocation of the other kind");
    assert_eq!(on(&mut fixture, control(), None), 400);
    assert_eq!(on(&mut fixture, control(), Some("10.0.0.1:5000")), 403);
    assert_eq!(on(&mut fixture, control(), Some("20.0.0.1:3478")), 403, "the server itself");
    assert_eq!(on(&mut fixture, control(), Some(PEER6)), 443);
    assert_eq!(fixture.connect(&fixture.mint(3_600), PEER).code(), 441, "somebody else");
    let malformed = fixture.signed(control(), &credential, Method::CONNECT, |writer| {
        writer.attribute(A::XOR_PEER_ADDRESS, &[0, 1, 2]);
    });
    assert_eq!(fixture.give(control(), &malformed).code(), 400);
    assert_eq!(fixture.server.connection_count(), 0);
}

#[test]
fn rfc6062_5_2_a_second_connection_to_the_same_peer_is_446() {
    let (mut fixture, credential) = ready();
    let Outcome::Connect(connection, ..) = fixture.connect(&credential, PEER) else { panic!() };
    assert_eq!(fixture.connect(&credential, PEER).code(), 446, "while it is made");
    fixture.tell_connected(connection, Ok(()));
    assert_eq!(fixture.connect(&credential, PEER).code(), 446, "while it waits");
    assert!(matches!(fixture.bind_connection(data(), &credential, connection), Outcome::Bind(..)));
    assert_eq!(fixture.connect(&credential, PEER).code(), 446, "while it carries data");
    assert!(matches!(fixture.connect(&credential, "8.8.8.8:5001"), Outcome::Connect(..)), "another port");
    fixture.server.disconnected(connection);
    assert!(matches!(fixture.connect(&credential, PEER), Outcome::Connect(..)), "after its end");
}

#[test]
fn the_same_connect_again_does_not_connect_again() {
    let (mut fixture, credential) = ready();
    let request = fixture.signed(control(), &credential, Method::CONNECT, |writer| {
        writer.xor_address(A::XOR_PEER_ADDRESS, PEER.parse().unwrap());
    });
    let Outcome::Connect(connection, ..) = fixture.give(control(), &request) else { panic!() };
    assert_eq!(fixture.give(control(), &request), Outcome::Silence(DropReason::Connecting));
    fixture.tell_connected(connection, Ok(()));
    let (_, first) = fixture.told.pop().unwrap();
    assert_eq!(fixture.give(control(), &request).reply(), first, "the same answer");
    assert_eq!(fixture.server.connection_count(), 1);
}

#[test]
fn rfc6062_5_3_only_permitted_peers_may_connect() {
    let (mut fixture, credential) = ready();
    assert_eq!(fixture.accepted(PEER), Err(DropReason::NoPermission));
    fixture.connected(&credential, PEER);
    assert_eq!(fixture.accepted("8.8.8.8:5001"), Err(DropReason::NoPermission), "Connect is no permission");
    assert_eq!(fixture.permit(control(), &credential, &[PEER]), 0);
    let connection = fixture.accepted("8.8.8.8:6000").unwrap();
    let (to, indication) = fixture.told.pop().unwrap();
    let message = Message::parse(&indication).unwrap();
    let is = (message.class(), message.method());
    assert_eq!((to, is), (control(), (Class::Indication, Method::CONNECTION_ATTEMPT)));
    let from = address::decode_xor(message.attribute(A::XOR_PEER_ADDRESS).unwrap(), message.transaction());
    assert_eq!(from, Some("8.8.8.8:6000".parse().unwrap()));
    assert_eq!(value(&indication, A::CONNECTION_ID).unwrap(), connection.0.to_be_bytes());
    fixture.now_ms += 300_000;
    assert_eq!(fixture.accepted("8.8.8.8:6001"), Err(DropReason::NoPermission), "it has run out");
    fixture.command(Command::Policy(Arc::new(PeerPolicy::new(vec![], vec!["8.8.8.0/24".parse().unwrap()]))));
    assert_eq!(fixture.accepted("8.8.8.8:6001"), Err(DropReason::NoPermission));
    let nowhere = fixture.server.accepted(fixture.now(), RelayId(9), PEER.parse().unwrap());
    assert_eq!(nowhere, Err(DropReason::NoAllocation));
}

#[test]
fn rfc6062_5_3_what_is_not_bound_within_30_seconds_is_closed() {
    let (mut fixture, credential) = ready();
    fixture.permit(control(), &credential, &[PEER]);
    let (made, _) = fixture.connected(&credential, PEER);
    let taken = fixture.accepted("8.8.8.8:6000").unwrap();
    let (bound, _) = fixture.connected(&credential, "8.8.8.8:7000");
    fixture.now_ms += 29_999;
    fixture.timeout();
    assert!(fixture.closed.is_empty());
    assert!(matches!(fixture.bind_connection(data(), &credential, bound), Outcome::Bind(..)), "in time");
    fixture.now_ms += 1;
    assert_eq!(fixture.bind_connection(data(), &credential, made).code(), 400, "too late, timer or not");
    fixture.timeout();
    fixture.closed.sort_unstable_by_key(|(connection, _)| *connection);
    let mut both = [(made, EndReason::TimedOut), (taken, EndReason::TimedOut)];
    both.sort_unstable_by_key(|(connection, _)| *connection);
    assert_eq!(fixture.closed, both);
    assert_eq!(fixture.server.connection_count(), 1);
}

#[test]
fn rfc6062_5_4_the_refusals_of_connection_bind() {
    let (mut fixture, credential) = ready();
    let (connection, _) = fixture.connected(&credential, PEER);
    let over_udp = client(Transport::Udp, "81.0.0.1:4001");
    assert_eq!(fixture.bind_connection(over_udp, &credential, connection).code(), 400, "over UDP");
    assert_eq!(fixture.bind_connection(control(), &credential, connection).code(), 400, "on the control one");
    let stranger = fixture.mint(3_600);
    assert_eq!(fixture.bind_connection(data(), &stranger, connection).code(), 441, "somebody else");
    let unknown = ConnectionId(connection.0 ^ 1);
    assert_eq!(fixture.bind_connection(data(), &credential, unknown).code(), 400, "no such connection");
    let missing = fixture.signed(data(), &credential, Method::CONNECTION_BIND, |_| {});
    assert_eq!(fixture.give(data(), &missing).code(), 400, "without CONNECTION-ID");
    let malformed = fixture.signed(data(), &credential, Method::CONNECTION_BIND, |writer| {
        writer.attribute(A::CONNECTION_ID, &[1, 2, 3]);
    });
    assert_eq!(fixture.give(data(), &malformed).code(), 400);
    let bare = testkit::message::request(Method::CONNECTION_BIND, fixture.dice.transaction(), |writer| {
        writer.attribute_u32(A::CONNECTION_ID, connection.0);
    });
    assert_eq!(fixture.give(data(), &bare).code(), 401, "without integrity");
    let bound = fixture.bind_connection(data(), &credential, connection);
    let Outcome::Bind(named, response) = bound else { panic!("{bound:?}") };
    assert_eq!((named, code(&response)), (connection, 0), "none of these has used it up");
    assert_eq!(fixture.bind_connection(data(), &credential, connection).code(), 400, "a second time");
    let Outcome::Connect(pending, ..) = fixture.connect(&credential, "8.8.8.8:1") else { panic!() };
    assert_eq!(fixture.bind_connection(data(), &credential, pending).code(), 400, "before it is made");
}

#[test]
fn a_bind_for_another_worker_is_handed_over_when_it_is_authentic() {
    let (mut fixture, credential) = ready();
    let (connection, _) = fixture.connected(&credential, PEER);
    assert_eq!(connection.worker(), WorkerId(0));
    let mut sibling = fixture.sibling();
    let request = sibling.signed(data(), &credential, Method::CONNECTION_BIND, |writer| {
        writer.attribute_u32(A::CONNECTION_ID, connection.0);
    });
    assert_eq!(sibling.give(data(), &request), Outcome::HandOver(WorkerId(0)));
    // Where there is no such worker it is nobody's.
    let mut only = Fixture::configured(|config| config.workers = 1);
    let credential = only.mint(3_600);
    let elsewhere = ConnectionId(0x01AD_BEEF);
    assert_eq!(only.bind_connection(data(), &credential, elsewhere).code(), 400);
    assert!(matches!(fixture.give(data(), &request), Outcome::Bind(..)), "the same bytes, the same nonce");
    let mut damaged = request;
    let place = damaged.len() - 30;
    damaged[place] ^= 1;
    assert_eq!(sibling.give(data(), &damaged).code(), 401, "no stranger reaches another worker");
}

#[test]
fn rfc6062_5_5_connections_end_with_their_allocation() {
    type End = fn(&mut Fixture, &Credential);
    let ends: [(End, EndReason); 5] = [
        (|fixture, credential| drop(fixture.refresh(control(), credential, 0)), EndReason::Deleted),
        (
            |fixture, _| {
                fixture.now_ms += 600_000;
                fixture.timeout();
            },
            EndReason::Expired,
        ),
        (
            |fixture, credential| {
                let denial = Denial::Credential { id: credential.id, until: NOW + 9_999 };
                fixture.command(Command::Deny(denial));
            },
            EndReason::Denied,
        ),
        (
            |fixture, _| fixture.command(Command::Deny(Denial::Key { key: KEY, until: NOW + 9_999 })),
            EndReason::Denied,
        ),
        (|fixture, _| fixture.command(Command::ClientGone(control().five_tuple)), EndReason::ClientGone),
    ];
    for (end, reason) in ends {
        let (mut fixture, credential) = ready();
        let (bound, _) = fixture.connected(&credential, PEER);
        assert!(matches!(fixture.bind_connection(data(), &credential, bound), Outcome::Bind(..)));
        if reason != EndReason::Expired {
            fixture.connected(&credential, "8.8.8.8:6000");
            let Outcome::Connect(..) = fixture.connect(&credential, "8.8.8.8:7000") else { panic!() };
        }
        end(&mut fixture, &credential);
        assert!(fixture.closed.iter().all(|(_, why)| *why == reason), "{reason:?}: {:?}", fixture.closed);
        assert_eq!(fixture.closed.len(), if reason == EndReason::Expired { 1 } else { 3 });
        let left = (fixture.server.connection_count(), fixture.ports.taken(), fixture.server.poll_timeout());
        assert_eq!(left, (0, 0, None), "{reason:?}");
        if reason != EndReason::Expired {
            assert_eq!(code(&fixture.told.pop().unwrap().1), 447, "what was being made is answered");
        }
    }
}

#[test]
fn a_new_policy_ends_connections_to_peers_that_it_forbids() {
    let (mut fixture, credential) = ready();
    let (forbidden, _) = fixture.connected(&credential, PEER);
    fixture.connected(&credential, "9.9.9.9:5000");
    let policy = PeerPolicy::new(vec![], vec!["8.8.8.0/24".parse().unwrap()]);
    fixture.command(Command::Policy(Arc::new(policy)));
    assert_eq!(fixture.closed, [(forbidden, EndReason::PeerForbidden)]);
    assert_eq!(fixture.server.connection_count(), 1);
}

#[test]
fn connections_are_bounded_and_come_back() {
    let mut fixture = Fixture::with(Limits { connections: 2, all_connections: 3, ..Limits::default() });
    let credential = fixture.mint(3_600);
    fixture.allocate_tcp(&credential);
    fixture.permit(control(), &credential, &[PEER]);
    let (first, _) = fixture.connected(&credential, PEER);
    fixture.accepted("8.8.8.8:6000").unwrap();
    assert_eq!(fixture.connect(&credential, "8.8.8.8:7000").code(), 508);
    assert_eq!(fixture.accepted("8.8.8.8:7001"), Err(DropReason::TooManyConnections));
    fixture.server.disconnected(first);
    fixture.connected(&credential, "8.8.8.8:7000");
}

#[test]
fn a_tcp_allocation_relays_no_datagrams() {
    let (mut fixture, credential) = ready();
    fixture.permit(control(), &credential, &[PEER]);
    assert!(!fixture.sends(control()));
    assert_eq!(fixture.bind(control(), &credential, 0x4000, PEER), 437);
}

#[test]
fn an_operator_may_refuse_tcp_relays() {
    let mut fixture = Fixture::configured(|config| config.tcp_relay = false);
    let credential = fixture.mint(3_600);
    let reply = fixture.ask(control(), &credential, Method::ALLOCATE, |writer| {
        writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_TCP);
    });
    assert_eq!(code(&reply), 442);
    fixture.allocate(control(), &credential);
}

#[test]
fn connect_names_new_peers_as_create_permission_does() {
    let mut fixture = Fixture::configured(|config| config.key_limits.new_peers_per_second = Some(2));
    let credential = fixture.mint(3_600);
    fixture.allocate_tcp(&credential);
    fixture.permit(control(), &credential, &[PEER]);
    // One with a permission is not new; each of the others is, the second time too.
    fixture.connected(&credential, PEER);
    let (connection, _) = fixture.connected(&credential, "9.9.9.9:5000");
    fixture.server.disconnected(connection);
    assert_eq!(fixture.connect(&credential, "9.9.9.9:5000").code(), 508);
    assert_eq!(fixture.permit(control(), &credential, &["9.9.9.10:5000"]), 508);
    fixture.connected(&credential, "8.8.8.8:7000");
    fixture.now_ms += 500;
    assert!(matches!(fixture.connect(&credential, "9.9.9.9:5000"), Outcome::Connect(..)));
    assert_eq!(fixture.connect(&credential, "9.9.9.10:5000").code(), 508);
}

/// A client that keeps one nonce for all its connections, as coturn's does, would have its Connects refused otherwise.
#[test]
fn rfc6062_4_a_data_connections_nonce_is_good_on_all_of_the_clients_connections() {
    let (mut fixture, credential) = ready();
    let ask = |fixture: &mut Fixture, from: Client, method, nonce: &[u8]| {
        let mut signature = Signature::new(&credential.username, &credential.password, b"turnery", nonce);
        signature.nonce = nonce.to_vec();
        let request = message::request(method, fixture.dice.transaction(), |writer| {
            writer.attribute_u32(A::CONNECTION_ID, 1);
            writer.xor_address(A::XOR_PEER_ADDRESS, PEER.parse().unwrap());
            signature.sign(writer);
        });
        fixture.give(from, &request)
    };
    let bare = message::request(Method::CONNECTION_BIND, fixture.dice.transaction(), |_| {});
    let challenge = fixture.give(data(), &bare).reply();
    let nonce = value(&challenge, A::NONCE).unwrap();
    assert_eq!(ask(&mut fixture, data(), Method::CONNECTION_BIND, &nonce).code(), 400, "no such connection");
    let elsewhere = client(Transport::Tcp, "82.0.0.1:4001");
    assert_eq!(ask(&mut fixture, elsewhere, Method::CONNECTION_BIND, &nonce).code(), 438, "another address");
    assert!(matches!(ask(&mut fixture, control(), Method::CONNECT, &nonce), Outcome::Connect(..)));
    assert_eq!(ask(&mut fixture, control(), Method::REFRESH, &nonce).code(), 438, "nothing else");
}
