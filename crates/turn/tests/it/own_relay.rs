//! Two allocations of one host: what one sends to the other need not leave the process.

use std::net::SocketAddr;

use stun::{AttributeType, Class, Message, Method, TransactionId, address};
use testkit::message;
use turn::{Action, DropReason, PeerPolicy, PortRange, RelayAddress, Transport};

use crate::fixture::{Fixture, Outcome, alice, client, value};

const PUBLIC: &str = "20.0.0.2";
const LOCAL: &str = "10.0.0.2";

/// A host behind a one-to-one NAT.
fn behind_nat() -> Fixture {
    Fixture::configured(|config| {
        let relay = RelayAddress { public: PUBLIC.parse().unwrap(), local: LOCAL.parse().unwrap() };
        let range = PortRange::new(50_000, 50_009).unwrap();
        config.policy = PeerPolicy::default().with_own_addresses(&[], &[relay], range);
        config.relay_addresses = vec![relay];
    })
}

fn frame_of(number: u16, data: &[u8]) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let length = u8::try_from(data.len()).unwrap();
    [&[high, low, 0, length], data].concat()
}

/// What the second allocation's client gets of what the first was handed.
fn hand_over(fixture: &mut Fixture, outcome: Outcome) -> Outcome {
    let Outcome::ToRelay(relay, from, data) = outcome else { panic!("not handed over: {outcome:?}") };
    fixture.hear_on(relay, &from.to_string(), &data)
}

#[test]
fn data_between_two_allocations_stays_in_the_process() {
    let mut fixture = Fixture::new();
    let bob = client(Transport::Tcp, "82.0.0.1:4000");
    let (ours, theirs) = (fixture.mint(600), fixture.mint(600));
    let (a, b) = (fixture.allocate(alice(), &ours), fixture.allocate(bob, &theirs));
    let (to_a, to_b) = (a.to_string(), b.to_string());
    assert_eq!(fixture.bind(alice(), &ours, 0x4000, &to_b), 0);

    // The other side has no permission yet: as from any other peer, nothing passes.
    let sent = fixture.give(alice(), &frame_of(0x4000, b"data"));
    assert_eq!(hand_over(&mut fixture, sent), Outcome::Silence(DropReason::NoPermission));

    // With a permission it is a Data indication, with a channel ChannelData with the padding of a stream.
    assert_eq!(fixture.permit(bob, &theirs, &[&to_a]), 0);
    let sent = fixture.give(alice(), &frame_of(0x4000, b"data"));
    let Outcome::ToClient(to, indication) = hand_over(&mut fixture, sent) else { panic!() };
    assert_eq!(to, bob);
    let parsed = Message::parse(&indication).unwrap();
    assert_eq!((parsed.class(), parsed.method()), (Class::Indication, Method::DATA));
    let from = value(&indication, AttributeType::XOR_PEER_ADDRESS).unwrap();
    assert_eq!(address::decode_xor(&from, parsed.transaction()), Some(a));
    assert_eq!(value(&indication, AttributeType::DATA).unwrap(), b"data");
    assert_eq!(fixture.bind(bob, &theirs, 0x4001, &to_a), 0);
    let sent = fixture.give(alice(), &frame_of(0x4000, b"12345"));
    let expected = [&frame_of(0x4001, b"12345")[..], &[0; 3]].concat();
    assert_eq!(hand_over(&mut fixture, sent), Outcome::ToClient(bob, expected));

    // A Send indication takes the same way back.
    let packet = message::send_indication(TransactionId::from_bytes([1; 12]), a, b"back");
    let sent = fixture.give(bob, &packet);
    let Outcome::ToClient(to, frame) = hand_over(&mut fixture, sent) else { panic!() };
    assert_eq!((to, frame), (alice(), frame_of(0x4000, b"back")));
}

#[test]
fn an_allocation_that_has_ended_is_no_short_cut() {
    let mut fixture = Fixture::new();
    let bob = client(Transport::Udp, "82.0.0.1:4000");
    let (ours, theirs) = (fixture.mint(600), fixture.mint(600));
    fixture.allocate(alice(), &ours);
    let b = fixture.allocate(bob, &theirs);
    assert_eq!(fixture.bind(alice(), &ours, 0x4000, &b.to_string()), 0);
    assert!(matches!(fixture.give(alice(), &frame_of(0x4000, b"data")), Outcome::ToRelay(..)));
    fixture.refresh(bob, &theirs, 0);
    // It may be another worker's by now: the system knows.
    assert_eq!(fixture.give(alice(), &frame_of(0x4000, b"data")), Outcome::ToPeer(b, b"data".to_vec()));
}

#[test]
fn behind_a_nat_the_system_is_given_local_addresses_and_clients_public_ones() {
    let mut fixture = behind_nat();
    let credential = fixture.mint(600);
    let relayed = fixture.allocate(alice(), &credential);
    assert_eq!(relayed.ip().to_string(), PUBLIC);
    let other =
        SocketAddr::new(PUBLIC.parse().unwrap(), if relayed.port() == 50_000 { 50_001 } else { 50_000 });
    let local = SocketAddr::new(LOCAL.parse().unwrap(), other.port());
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, &other.to_string()), 0);
    assert_eq!(fixture.give(alice(), &frame_of(0x4000, b"data")), Outcome::ToPeer(local, b"data".to_vec()));
    let packet = message::send_indication(TransactionId::from_bytes([1; 12]), other, b"data");
    assert_eq!(fixture.give(alice(), &packet), Outcome::ToPeer(local, b"data".to_vec()));
    assert!(matches!(fixture.last, Some(Action::ToPeer { dont_fragment: false, .. })));
    let heard = fixture.hear(&local.to_string(), b"data");
    assert_eq!(heard, Outcome::ToClient(alice(), frame_of(0x4000, b"data")));
}
