//! ALTERNATE-SERVER: RFC 8489 §10.

use credentials::Credential;
use stun::{AttributeType as A, Integrity, Message, Method, PasswordAlgorithm, address};
use turn::{AlternateServer, Client, Command, Transport};

use crate::fixture::{Fixture, PEER, alice, client, code, relayed, udp, value};
use testkit::message::EVEN_AND_NEXT;

/// SHA-256, then MD5, neither with parameters.
const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];
const OTHERS: [&str; 3] = ["20.0.0.9:3478", "[2606:4700::9]:3478", "20.0.0.10:3478"];

fn redirect(fixture: &mut Fixture, to: &[&str]) {
    redirect_all(fixture, to, false);
}

/// At each address every transport is spoken.
fn redirect_all(fixture: &mut Fixture, to: &[&str], draining: bool) {
    let transports = [Transport::Udp, Transport::Tcp, Transport::Tls];
    let at = |text: &&str| {
        let address = text.parse().unwrap();
        transports.map(|transport| AlternateServer { transport, address, domain: Some("b.example".into()) })
    };
    fixture.command(Command::Redirect { to: to.iter().flat_map(at).collect(), draining });
}

/// What an Allocate is answered with: the server that is named.
fn named(fixture: &mut Fixture, client: Client, credential: &Credential) -> Option<Vec<u8>> {
    let reply = fixture.ask(client, credential, Method::ALLOCATE, udp);
    let message = Message::parse(&reply).unwrap();
    message.attribute(A::ALTERNATE_SERVER).map(<[u8]>::to_vec)
}

fn encoded(server: &str) -> Vec<u8> {
    address::encode(server.parse().unwrap()).as_bytes().to_vec()
}

#[test]
fn clients_are_sent_to_the_others_in_turn() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    redirect(&mut fixture, &OTHERS);
    for expected in [OTHERS[0], OTHERS[2], OTHERS[0]] {
        assert_eq!(named(&mut fixture, alice(), &credential), Some(encoded(expected)));
    }
}

#[test]
fn rfc8489_10_another_server_is_one_that_speaks_the_clients_transport() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let server =
        |transport, text: &str| AlternateServer { transport, address: text.parse().unwrap(), domain: None };
    let to = vec![server(Transport::Tls, "20.0.0.9:5349"), server(Transport::Tcp, "20.0.0.9:3478")];
    fixture.command(Command::Redirect { to, draining: false });
    let on = |transport| client(transport, "82.0.0.1:4000");
    assert_eq!(named(&mut fixture, on(Transport::Tls), &credential), Some(encoded("20.0.0.9:5349")));
    assert_eq!(named(&mut fixture, on(Transport::Tcp), &credential), Some(encoded("20.0.0.9:3478")));
    assert_eq!(named(&mut fixture, on(Transport::Udp), &credential), None, "served here");
    assert_eq!(fixture.server.allocation_count(), 1);
}

#[test]
fn who_drains_takes_nobody_new_even_if_there_is_no_other() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 0);
    redirect_all(&mut fixture, &OTHERS[1..2], true);
    let bob = client(Transport::Udp, "82.0.0.1:4000");
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 508);
    let v6 = client(Transport::Udp, "[2a00::1]:4000");
    assert_eq!(code(&fixture.ask(v6, &credential, Method::ALLOCATE, udp)), 300);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 700)), 0, "who is here stays");
    redirect(&mut fixture, &[]);
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 0);
}

#[test]
fn rfc8489_10_the_other_certificates_name_is_told_within_tls_to_who_understands_it() {
    let mut fixture = Fixture::configured(|config| config.offer_password_algorithms = true);
    let credential = fixture.mint(3_600);
    redirect(&mut fixture, &OTHERS);
    let tls = client(Transport::Tls, "82.0.0.1:4000");
    let reply = fixture.ask(tls, &credential, Method::ALLOCATE, udp);
    assert_eq!(Message::parse(&reply).unwrap().attribute(A::ALTERNATE_DOMAIN), None, "SHA-1");
    for (transport, told) in [(Transport::Tls, true), (Transport::Udp, false)] {
        let client = client(transport, "82.0.0.1:4000");
        let signature = fixture.signature(client, &credential);
        let signature = signature.choosing(PasswordAlgorithm::Sha256, &credential.password, &OFFER);
        let request = testkit::message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
            udp(writer);
            signature.sign(writer);
        });
        let reply = fixture.give(client, &request).reply();
        let message = Message::parse(&reply).unwrap();
        assert_eq!(code(&reply), 300);
        let domain = message.attribute(A::ALTERNATE_DOMAIN);
        assert_eq!(domain, told.then_some(&b"b.example"[..]), "{transport:?}");
    }
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

/// Alice allocates and has the next port reserved: the reply, and the token that it holds.
fn reserve(fixture: &mut Fixture, credential: &Credential) -> (Vec<u8>, Vec<u8>) {
    let pair = fixture.ask(alice(), credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::EVEN_PORT, &EVEN_AND_NEXT);
    });
    let token = value(&pair, A::RESERVATION_TOKEN).unwrap();
    (pair, token)
}

fn bob() -> Client {
    client(Transport::Udp, "82.0.0.1:4000")
}

/// Bob comes for a reserved port.
fn claim(fixture: &mut Fixture, credential: &Credential, token: &[u8]) -> Vec<u8> {
    fixture.ask(bob(), credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::RESERVATION_TOKEN, token);
    })
}

#[test]
fn who_comes_for_a_port_that_is_reserved_here_is_served_here() {
    for draining in [false, true] {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        let (pair, token) = reserve(&mut fixture, &credential);
        redirect_all(&mut fixture, &OTHERS, draining);
        let mut claim = |token: &[u8]| claim(&mut fixture, &credential, token);
        assert_eq!(code(&claim(&[0; 8])), 508, "a token that nobody was given lets nobody in");
        assert_eq!(relayed(&claim(&token)).port(), relayed(&pair).port() + 1);
    }
}

#[test]
fn rfc8656_7_4_who_has_not_heard_what_is_denied_allocates_nothing_new() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let (_, token) = reserve(&mut fixture, &credential);
    fixture.command(Command::DenialsStale(true));
    let bob = bob();
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 508);
    assert_eq!(code(&claim(&mut fixture, &credential, &token)), 508, "a reserved port is no live traffic");
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, PEER), 0);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 700)), 0);
    assert!(fixture.sends(alice()) && fixture.hears());
    redirect(&mut fixture, &OTHERS[..1]);
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 300, "another may have heard");
    redirect(&mut fixture, &[]);
    fixture.command(Command::DenialsStale(false));
    assert_eq!(code(&fixture.ask(bob, &credential, Method::ALLOCATE, udp)), 0);
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
