//! How many answers the unauthenticated get.

use stun::{AttributeType as A, Method, TransactionId};
use testkit::message;
use turn::{Client, DropReason, StrangerLimit, Transport};

use crate::fixture::{Fixture, Outcome, PEER, alice, client, code, value};

const LIMIT: StrangerLimit = StrangerLimit {
    answers_per_second: 5,
    burst: 10,
    ipv4_prefix: 24,
    ipv6_prefix: 56,
    includes_loopback: false,
};
const SILENCE: Outcome = Outcome::Silence(DropReason::StrangerRateExceeded);

fn limited(limit: Option<StrangerLimit>) -> Fixture {
    Fixture::configured(|config| config.stranger_limit = limit)
}

/// Another one of the first client's network.
fn neighbour() -> Client {
    client(Transport::Udp, "81.0.0.77:9")
}

fn binding(fixture: &mut Fixture) -> Vec<u8> {
    message::request(Method::BINDING, fixture.dice.transaction(), |_| {})
}

fn allocate(fixture: &mut Fixture) -> Vec<u8> {
    message::request(Method::ALLOCATE, fixture.dice.transaction(), |_| {})
}

/// Every request that is answered without authentication.
fn requests(fixture: &mut Fixture) -> Vec<(u16, Vec<u8>)> {
    let credential = fixture.mint(3_600);
    let mut signed = |forge: fn(&mut message::Signature)| {
        let mut signature = fixture.signature(client(Transport::Tcp, "81.0.0.77:9"), &credential);
        forge(&mut signature);
        message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| signature.sign(writer))
    };
    let wrong = signed(|signature| signature.username[0] ^= 1);
    let stale = signed(|_| {});
    let unknown = message::request(Method::BINDING, fixture.dice.transaction(), |writer| {
        writer.attribute(A(0x7F01), &[]);
    });
    let incomplete = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        writer.attribute(A::MESSAGE_INTEGRITY, &[0; 20]);
    });
    let bare = [(0, binding(fixture)), (401, allocate(fixture))];
    bare.into_iter().chain([(401, wrong), (438, stale), (420, unknown), (400, incomplete)]).collect()
}

#[test]
fn every_answer_without_authentication_is_limited_by_prefix() {
    let mut fixture = limited(Some(LIMIT));
    for (wanted, request) in requests(&mut fixture) {
        fixture.now_ms += 60_000;
        for n in 0..10 {
            let source = client(Transport::Udp, &format!("81.0.0.{n}:{n}"));
            assert_eq!(fixture.give(source, &request).code(), wanted);
        }
        assert_eq!(fixture.give(neighbour(), &request), SILENCE, "{wanted}");
        assert_eq!(fixture.give(client(Transport::Tcp, "81.0.0.1:1"), &request).code() / 100, wanted / 100);
        assert_ne!(fixture.give(client(Transport::Udp, "81.0.1.1:1"), &request), SILENCE);
        assert_ne!(fixture.give(client(Transport::Udp, "127.0.0.1:1"), &request), SILENCE);
        fixture.now_ms += 200;
        assert_ne!(fixture.give(neighbour(), &request), SILENCE);
        assert_eq!(fixture.give(neighbour(), &request), SILENCE);
    }
}

#[test]
fn all_workers_count_together() {
    let mut fixture = limited(Some(LIMIT));
    let mut sibling = fixture.sibling();
    let request = binding(&mut fixture);
    let answered =
        |fixture: &mut Fixture| (0..6).filter(|_| fixture.give(neighbour(), &request) != SILENCE).count();
    assert_eq!((answered(&mut fixture), answered(&mut sibling)), (6, 4));
}

#[test]
fn without_a_limit_everyone_is_answered() {
    let mut fixture = limited(None);
    let request = binding(&mut fixture);
    assert!((0..10_000).all(|_| fixture.give(neighbour(), &request) != SILENCE));
}

#[test]
fn the_default_leaves_an_office_its_calls() {
    let mut fixture = limited(turn::Config::default().stranger_limit);
    let request = allocate(&mut fixture);
    let answered = (0..5_000).filter(|_| fixture.give(neighbour(), &request) != SILENCE).count();
    assert_eq!(answered, 2_000);
}

#[test]
fn a_flood_in_a_victims_name_leaves_its_allocation_alone() {
    let mut fixture = Fixture::configured(|config| {
        config.stranger_limit = Some(LIMIT);
        config.nonce_lifetime_secs = 100;
    });
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    let signature = fixture.signature(alice(), &credential);
    let flood = |fixture: &mut Fixture| {
        let request = allocate(fixture);
        for source in [neighbour(), alice()] {
            (0..50).for_each(|_| drop(fixture.give(source, &request)));
            assert_eq!(fixture.give(source, &request), SILENCE);
        }
    };
    let refresh = |fixture: &mut Fixture, signature: &message::Signature| {
        let request =
            message::request(Method::REFRESH, fixture.dice.transaction(), |writer| signature.sign(writer));
        fixture.give(alice(), &request).reply()
    };
    flood(&mut fixture);
    assert!(fixture.sends(alice()) && fixture.hears());
    assert_eq!(code(&refresh(&mut fixture, &signature)), 0);
    // The nonce grows old: the client is told the next one.
    fixture.now_ms += 101_000;
    flood(&mut fixture);
    let stale = refresh(&mut fixture, &signature);
    assert_eq!(code(&stale), 438);
    let challenge = stun::Message::parse(&stale).unwrap();
    let value = |kind| challenge.attribute(kind).unwrap();
    let (realm, nonce) = (value(A::REALM), value(A::NONCE));
    let next = message::Signature::new(&credential.username, &credential.password, realm, nonce);
    assert_eq!(code(&refresh(&mut fixture, &next)), 0);
    let id = TransactionId::from_bytes([1; 12]);
    let send = message::send_indication(id, PEER.parse().unwrap(), b"data");
    assert!(matches!(fixture.give(alice(), &send), Outcome::ToPeer(..)));
}

#[test]
fn a_flood_in_a_victims_name_leaves_a_moving_client_its_nonce() {
    let mut fixture = limited(Some(LIMIT));
    let credential = fixture.mint(3_600);
    let ticket = fixture.ask(alice(), &credential, Method::ALLOCATE, |writer| {
        writer.attribute(A::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
        writer.attribute(A::MOBILITY_TICKET, &[]);
    });
    let ticket = value(&ticket, A::MOBILITY_TICKET).unwrap();
    // It signs with the nonce that it was told at its old address.
    let signature = fixture.signature(alice(), &credential);
    let to = client(Transport::Udp, "82.0.0.1:5");
    let bare = allocate(&mut fixture);
    let flood = |fixture: &mut Fixture| {
        (0..50).for_each(|n| drop(fixture.give(client(Transport::Udp, &format!("82.0.0.{n}:6")), &bare)));
        assert_eq!(fixture.give(to, &bare), SILENCE);
    };
    let refresh = |fixture: &mut Fixture, signature: &message::Signature| {
        let request = message::request(Method::REFRESH, fixture.dice.transaction(), |writer| {
            writer.attribute(A::MOBILITY_TICKET, &ticket);
            signature.sign(writer);
        });
        fixture.give(to, &request)
    };
    flood(&mut fixture);
    let stale = refresh(&mut fixture, &signature).reply();
    assert_eq!(code(&stale), 438);
    let (realm, nonce) = (value(&stale, A::REALM).unwrap(), value(&stale, A::NONCE).unwrap());
    let next = message::Signature::new(&credential.username, &credential.password, &realm, &nonce);
    flood(&mut fixture);
    assert_eq!(refresh(&mut fixture, &next).code(), 0);
    // Who has a credential does not have such answers sent to another without end either.
    fixture.now_ms += 60_000;
    let elsewhere = client(Transport::Udp, "82.0.0.7:7");
    let request =
        message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| signature.sign(writer));
    assert_eq!((0..50).take_while(|_| fixture.give(elsewhere, &request) != SILENCE).count(), 10);
}
