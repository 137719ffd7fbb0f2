//! What a spoofed packet can have sent to its victim: every answer that there is before authentication, with the default
//! realm, and its size beside the request's.

use stun::{AttributeType as A, Class, IntegrityAlgorithm, Method};
use testkit::message::{self, REQUESTED_UDP, Signature};
use turn::{Client, Transport};

use crate::fixture::{Fixture, Outcome, alice, client, code};

/// A request, the code it is answered with (0: success), and the most answer bytes for ten request bytes.
type Case = (&'static str, Vec<u8>, u16, usize);

/// How much longer than its request any answer may be, in tenths: relaying is not for other people's floods.
const BINDING_V4: usize = 16;
const BINDING_V6: usize = 22;
const CHALLENGE: usize = 34;
/// Whatever else is asked for has more bytes in the request than in the answer.
const LESS: usize = 10;

fn v6() -> Client {
    client(Transport::Udp, "[2a00::1]:4000")
}

/// Everything that an unauthenticated sender gets an answer to.
fn answered(fixture: &mut Fixture, from: Client) -> Vec<Case> {
    let credential = fixture.mint(3_600);
    let signature = fixture.signature(from, &credential);
    let mut dice = fixture.dice.clone();
    let mut ask = |method, fill: &dyn Fn(&mut stun::MessageWriter<'_>)| {
        message::request(method, dice.transaction(), |writer| fill(writer))
    };
    let binding = if from.five_tuple.client.is_ipv4() { BINDING_V4 } else { BINDING_V6 };
    let mut cases = vec![
        ("a bare Binding", ask(Method::BINDING, &|_| {}), 0, binding),
        (
            "a Binding with FINGERPRINT",
            ask(Method::BINDING, &|writer| {
                writer.fingerprint();
            }),
            0,
            binding,
        ),
        ("a bare Allocate", ask(Method::ALLOCATE, &|_| {}), 401, CHALLENGE),
        (
            "an Allocate as clients begin with",
            ask(Method::ALLOCATE, &|writer| {
                writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_UDP);
            }),
            401,
            CHALLENGE,
        ),
        (
            "an Allocate with unknown attributes, which are no matter before 401",
            ask(Method::ALLOCATE, &|writer| {
                writer.attribute(A(0x7F01), &[]);
            }),
            401,
            CHALLENGE,
        ),
    ];
    for count in [1_u16, 2, 31, 32, 33, 200] {
        let request = ask(Method::BINDING, &|writer| {
            (0..count).for_each(|n| {
                writer.attribute(A(0x7F00 + n), &[]);
            });
        });
        cases.push(("a Binding with unknown attributes", request, 420, BINDING_V4));
    }
    // Forged integrity needs so many bytes that the answer has fewer, whatever the method.
    let methods = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
    for method in methods {
        for integrity in [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256] {
            let forged = ask(method, &|writer| {
                writer.attribute(integrity.attribute(), &[7; 20]);
            });
            cases.push(("integrity and nothing else", forged, 400, LESS));
        }
        let signed = |change: &dyn Fn(&mut Signature)| {
            let mut signature = signature.clone();
            change(&mut signature);
            signature
        };
        let forgeries = [
            ("a wrong username", signed(&|it| it.username = b"u".to_vec()), 401),
            ("a wrong realm", signed(&|it| it.realm = b"r".to_vec()), 401),
            ("a wrong password", signed(&|it| it.key = stun::LongTermKey::new(b"u", b"r", b"p")), 401),
            ("a forged nonce", signed(&|it| it.nonce = b"n".to_vec()), 438),
        ];
        for (name, signature, code) in forgeries {
            cases.push((name, ask(method, &|writer| signature.sign(writer)), code, LESS));
        }
        let shortest = ask(method, &|writer| {
            writer.attribute(A::USERNAME, b"").attribute(A::REALM, b"").attribute(A::NONCE, b"");
            writer.attribute(A::MESSAGE_INTEGRITY, &[7; 20]);
        });
        // 56 bytes against 68: the shortest forgery that gets a challenge.
        cases.push(("the shortest forgery", shortest, 401, 13));
    }
    cases
}

/// Everything that gets none.
fn unanswered(fixture: &mut Fixture) -> Vec<(&'static str, Vec<u8>)> {
    let dice = &mut fixture.dice;
    let mut cases = vec![
        ("an empty packet", vec![]),
        ("a channel of nobody's", vec![0x40, 0, 0, 4, 1, 2, 3, 4]),
        ("a DTLS record", vec![0x16, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("garbage", dice.data(400)),
        ("a header alone, cut", message::request(Method::BINDING, dice.transaction(), |_| {})[..19].to_vec()),
    ];
    for method in [Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        cases.push((
            "a request without integrity that none begins with",
            message::request(method, dice.transaction(), |_| {}),
        ));
    }
    // Connect, ConnectionBind, and every method that nobody has defined.
    for number in (0..0x1000).filter(|number| ![1, 3, 4, 8, 9].contains(number)) {
        cases.push(("another method", message::request(Method(number), dice.transaction(), |_| {})));
    }
    for class in [Class::Indication, Class::Success, Class::Error] {
        for number in 0..0x20 {
            let packet = message::write(class, Method(number), dice.transaction(), |_| {});
            cases.push(("no request", packet));
        }
    }
    let mut wrong = message::request(Method::BINDING, dice.transaction(), |writer| {
        writer.fingerprint();
    });
    *wrong.last_mut().unwrap() ^= 1;
    cases.push(("a wrong FINGERPRINT", wrong));
    cases
}

#[test]
fn nothing_reflects_more_than_its_budget() {
    for from in [alice(), v6()] {
        let mut fixture = Fixture::new();
        for (name, request, wanted, tenths) in answered(&mut fixture, from) {
            let reply = fixture.give(from, &request).reply();
            let (asked, got) = (request.len(), reply.len());
            assert_eq!(code(&reply), wanted, "{name}");
            assert!(got * 10 <= asked * tenths, "{name}: {got} bytes for {asked}");
        }
        for (name, packet) in unanswered(&mut fixture) {
            let outcome = fixture.give(from, &packet);
            assert!(matches!(outcome, Outcome::Silence(_)), "{name}: {outcome:?} for {packet:?}");
        }
        assert_eq!((fixture.server.allocation_count(), fixture.server.poll_timeout()), (0, None));
    }
}

#[test]
fn a_stranger_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    for _ in 0..1_000 {
        let port = 1_024 + fixture.dice.index(60_000);
        let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |_| {});
        fixture.give(client(Transport::Udp, &format!("81.0.0.1:{port}")), &request).reply();
    }
    assert_eq!((fixture.server.allocation_count(), fixture.server.poll_timeout()), (0, None));
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (0, 0));
}
