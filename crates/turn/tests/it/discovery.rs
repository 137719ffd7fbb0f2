//! NAT behaviour discovery: RFC 5780.

use std::net::SocketAddr;

use stun::{AttributeType as A, Fingerprint, Message, MessageWriter, Method, address};
use testkit::message;
use turn::{Client, Discovery, FiveTuple, Source, Transport};

use crate::fixture::{Fixture, Outcome, client, code, value};

const CLIENT: &str = "81.0.0.1:4000";
/// Local addresses; the second is known to clients by another name, as behind a one-to-one NAT.
const SOURCES: [[(&str, &str); 2]; 2] = [
    [("20.0.0.1:3478", "20.0.0.1:3478"), ("20.0.0.1:3479", "20.0.0.1:3479")],
    [("10.0.0.9:3478", "20.0.0.9:3478"), ("10.0.0.9:3479", "20.0.0.9:3479")],
];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn fixture() -> Fixture {
    let mut via = 0;
    let sources = SOURCES.map(|address| {
        address.map(|(local, public)| {
            via += 1;
            Source { local: at(local), public: at(public), via }
        })
    });
    Fixture::configured(|config| config.discovery = vec![Discovery { sources }])
}

fn sent_to(server: &str) -> Client {
    let five_tuple = FiveTuple { transport: Transport::Udp, client: at(CLIENT), server: at(server) };
    Client { five_tuple, via: 9 }
}

fn ask(fixture: &mut Fixture, to: Client, fill: impl FnOnce(&mut MessageWriter<'_>)) -> Outcome {
    let request = message::request(Method::BINDING, fixture.dice.transaction(), fill);
    fixture.give(to, &request)
}

fn with(kind: A, value: &[u8]) -> impl Fn(&mut MessageWriter<'_>) {
    move |writer| {
        writer.attribute(kind, value);
    }
}

fn told(reply: &[u8], kind: A) -> SocketAddr {
    address::decode(&value(reply, kind).unwrap()).unwrap()
}

#[test]
fn rfc5780_6_1_the_source_of_the_answer_is_that_of_table_1() {
    let mut fixture = fixture();
    for (address, port) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (destination, _) = SOURCES[address][port];
        for (flags, other_address, other_port) in [(0, 0, 0), (2, 0, 1), (4, 1, 0), (6, 1, 1)] {
            let (local, public) = SOURCES[address ^ other_address][port ^ other_port];
            let (_, other) = SOURCES[address ^ 1][port ^ 1];
            let to = sent_to(destination);
            let reply = match ask(&mut fixture, to, with(A::CHANGE_REQUEST, &[0, 0, 0, flags])) {
                Outcome::Reply(reply) if flags == 0 => reply,
                Outcome::ReplyElsewhere(route, reply) => {
                    let via = u32::try_from((address ^ other_address) * 2 + (port ^ other_port) + 1).unwrap();
                    assert_eq!(route, Client { via, ..sent_to(local) });
                    reply
                }
                other => panic!("{destination} {flags}: {other:?}"),
            };
            assert_eq!(told(&reply, A::RESPONSE_ORIGIN), at(public), "{destination} {flags}");
            assert_eq!(told(&reply, A::OTHER_ADDRESS), at(other), "{destination} {flags}");
        }
    }
}

#[test]
fn rfc5780_6_1_every_answer_has_both_mapped_addresses() {
    let reply = ask(&mut fixture(), sent_to("20.0.0.1:3478"), |_| {}).reply();
    let message = Message::parse(&reply).unwrap();
    assert_eq!(told(&reply, A::MAPPED_ADDRESS), at(CLIENT));
    let mapped = message.attribute(A::XOR_MAPPED_ADDRESS).unwrap();
    assert_eq!(address::decode_xor(mapped, message.transaction()), Some(at(CLIENT)));
    // What a spoofed source can have sent to its victim: 3.4 times; without discovery it is 1.6 times.
    assert_eq!(reply.len(), 68);
}

#[test]
fn rfc5780_6_without_a_second_address_its_attributes_are_unknown() {
    let listening = "20.0.0.1:3478";
    let plain = || (Fixture::new(), sent_to(listening));
    // On a stream, and at an address that is none of the four, it is the same as without.
    let stream = || (fixture(), client(Transport::Tcp, CLIENT));
    let elsewhere = || (fixture(), sent_to("20.0.0.7:3478"));
    for (mut fixture, to) in [plain(), stream(), elsewhere()] {
        for (kind, length) in [(A::CHANGE_REQUEST, 4), (A::RESPONSE_PORT, 4), (A::PADDING, 64)] {
            let reply = ask(&mut fixture, to, with(kind, &vec![6; length]));
            let reply = reply.reply();
            assert_eq!(code(&reply), 420, "{kind:?}");
            assert_eq!(value(&reply, A::UNKNOWN_ATTRIBUTES), Some(kind.0.to_be_bytes().to_vec()));
        }
    }
}

#[test]
fn rfc5780_7_4_without_a_second_address_no_other_address_is_told() {
    for (mut fixture, to) in [
        (Fixture::new(), sent_to("20.0.0.1:3478")),
        (fixture(), client(Transport::Tcp, CLIENT)),
        (fixture(), sent_to("20.0.0.7:3478")),
    ] {
        let reply = ask(&mut fixture, to, |_| {}).reply();
        assert_eq!(Message::parse(&reply).unwrap().attributes().count(), 1, "XOR-MAPPED-ADDRESS alone");
    }
}

#[test]
fn rfc5780_7_its_attributes_belong_to_binding_alone() {
    let mut fixture = fixture();
    let credential = fixture.mint(3_600);
    let alice = client(Transport::Udp, CLIENT);
    for kind in [A::CHANGE_REQUEST, A::RESPONSE_PORT, A::PADDING] {
        let reply = fixture.ask(alice, &credential, Method::ALLOCATE, |writer| {
            crate::fixture::udp(writer);
            writer.attribute(kind, &[0; 4]);
        });
        assert_eq!(code(&reply), 420, "{kind:?}");
    }
}

#[test]
fn rfc5780_7_2_two_bits_count_of_four_bytes() {
    let mut fixture = fixture();
    let to = sent_to("20.0.0.1:3478");
    let all_others = |writer: &mut MessageWriter<'_>| {
        writer.attribute(A::CHANGE_REQUEST, &[0xFF, 0xFF, 0xFF, 0xF9]);
    };
    assert!(matches!(ask(&mut fixture, to, all_others), Outcome::Reply(_)));
    for length in [0, 1, 3, 5, 8] {
        let outcome = ask(&mut fixture, to, with(A::CHANGE_REQUEST, &[6; 8][..length]));
        assert_eq!(outcome.code(), 400, "{length}");
    }
}

#[test]
fn rfc5780_7_5_the_answer_goes_to_the_response_port() {
    let mut fixture = fixture();
    let to = sent_to("20.0.0.1:3478");
    for wanted in [&[0x10, 0x92, 0, 0][..], &[0x10, 0x92]] {
        let outcome = ask(&mut fixture, to, with(A::RESPONSE_PORT, wanted));
        let Outcome::ReplyElsewhere(route, reply) = outcome else { panic!("{outcome:?}") };
        let five_tuple = FiveTuple { client: at("81.0.0.1:4242"), ..to.five_tuple };
        assert_eq!(route, Client { five_tuple, via: to.via }, "from the socket it came to");
        // It is told of the address that it was sent from.
        assert_eq!(told(&reply, A::MAPPED_ADDRESS), at(CLIENT));
        assert_eq!(told(&reply, A::RESPONSE_ORIGIN), at("20.0.0.1:3478"));
    }
    for wrong in [&[0, 0, 0, 0][..], &[0, 0], &[1], &[1, 2, 3], &[1, 2, 0, 0, 0]] {
        let outcome = ask(&mut fixture, to, with(A::RESPONSE_PORT, wrong));
        assert_eq!(outcome.code(), 400, "{wrong:?}");
    }
}

#[test]
fn rfc5780_6_1_padding_is_answered_with_padding_but_not_beside_response_port() {
    let mut fixture = fixture();
    let to = sent_to("20.0.0.1:3478");
    for (asked, answered) in [(0, 0), (1, 4), (64, 64), (1_499, 1_500), (1_500, 1_500), (9_000, 1_500)] {
        let request = message::request(Method::BINDING, fixture.dice.transaction(), |writer| {
            writer.attribute(A::PADDING, &vec![b'x'; asked]).fingerprint();
        });
        let reply = fixture.give(to, &request).reply();
        assert_eq!(value(&reply, A::PADDING), Some(vec![0; answered]), "{asked}");
        assert_eq!(Message::parse(&reply).unwrap().fingerprint(), Fingerprint::Verified);
        // The answer grows by what discovery tells, never by its padding.
        assert!(reply.len() <= request.len() + 48, "{asked}: {} of {}", reply.len(), request.len());
    }
    let both = ask(&mut fixture, to, |writer| {
        writer.attribute(A::PADDING, &[0; 64]).attribute(A::RESPONSE_PORT, &[0x10, 0x92, 0, 0]);
    });
    assert_eq!(both.code(), 400);
}

#[test]
fn a_refusal_goes_back_the_way_the_request_came() {
    let outcome = ask(&mut fixture(), sent_to("20.0.0.1:3478"), |writer| {
        writer.attribute(A::CHANGE_REQUEST, &[0, 0, 0, 6]).attribute(A(0x7ABC), b"?");
    });
    assert_eq!(outcome.code(), 420);
}
