//! ALTERNATE-SERVER: RFC 8489 §10.

use stun::{AttributeType as A, Integrity, Message, Method, address};
use turn::{Command, Transport};

use crate::fixture::{Fixture, PEER, alice, client, code, udp};

const OTHERS: [&str; 3] = ["20.0.0.9:3478", "[2606:4700::9]:3478", "20.0.0.10:3478"];

fn redirect(fixture: &mut Fixture, to: &[&str]) {
    fixture.command(Command::Redirect(to.iter().map(|text| text.parse().unwrap()).collect()));
}

#[test]
fn rfc8489_10_a_new_allocate_is_sent_to_another_server_of_the_clients_family() {
    for (from, expected) in [("81.0.0.1:4000", OTHERS[0]), ("[2a00::1]:4000", OTHERS[1])] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        redirect(&mut fixture, &OTHERS);
        let client = client(Transport::Udp, from);
        let signature = fixture.signature(client, &credential);
        let request = fixture.signed(client, &credential, Method::ALLOCATE, udp);
        let reply = fixture.give(client, &request).reply();
        let message = Message::parse(&reply).unwrap();
        assert_eq!(code(&reply), 300);
        assert_eq!(message.integrity(&signature.key), Integrity::Verified, "nobody else may redirect");
        let server = address::encode(expected.parse().unwrap());
        assert_eq!(message.attribute(A::ALTERNATE_SERVER), Some(server.as_bytes()));
        assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (0, 0));
    }
}

#[test]
fn rfc8489_10_a_stranger_is_challenged_and_not_redirected() {
    let mut fixture = Fixture::new();
    redirect(&mut fixture, &OTHERS);
    let bare = testkit::message::request(Method::ALLOCATE, fixture.dice.transaction(), udp);
    let reply = fixture.give(alice(), &bare).reply();
    assert_eq!(code(&reply), 401);
    assert_eq!(Message::parse(&reply).unwrap().attribute(A::ALTERNATE_SERVER), None);
}

#[test]
fn rfc8489_10_what_is_wrong_with_a_request_comes_first() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    redirect(&mut fixture, &OTHERS);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, |_| {})), 400);
}

#[test]
fn without_a_server_of_the_clients_family_it_is_served_here() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    redirect(&mut fixture, &OTHERS[1..2]);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 0);
    let v6 = client(Transport::Udp, "[2a00::1]:4000");
    assert_eq!(code(&fixture.ask(v6, &credential, Method::ALLOCATE, udp)), 300);
}

#[test]
fn a_redirect_leaves_live_allocations_alone_and_is_lifted() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let request = fixture.signed(alice(), &credential, Method::ALLOCATE, udp);
    let first = fixture.give(alice(), &request).reply();
    redirect(&mut fixture, &OTHERS);
    assert_eq!(fixture.give(alice(), &request).reply(), first, "retransmitted");
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, PEER), 0);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 700)), 0);
    assert!(fixture.sends(alice()) && fixture.hears());
    let bob = client(Transport::Tcp, "82.0.0.1:4000");
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 300);
    redirect(&mut fixture, &[]);
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 0);
}
