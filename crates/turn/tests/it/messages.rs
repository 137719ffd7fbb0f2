//! What is read out of messages, and which are not worth an answer: RFC 8489 §6.3, §7.3 and §14.

use stun::{AttributeType as A, Class, Fingerprint, Message, Method};
use testkit::message;
use turn::DropReason;

use crate::fixture::{Fixture, Outcome, alice, code, lifetime, udp};

#[test]
fn rfc8489_6_3_a_wrong_fingerprint_is_silence_and_a_right_one_is_answered_in_kind() {
    let mut fixture = Fixture::new();
    let id = fixture.dice.transaction();
    let wrong = message::request(Method::BINDING, id, |writer| {
        writer.attribute(A::FINGERPRINT, &[1, 2, 3, 4]);
    });
    assert_eq!(fixture.give(alice(), &wrong), Outcome::Silence(DropReason::WrongFingerprint));
    let not_last = message::request(Method::BINDING, id, |writer| {
        writer.fingerprint().attribute(A::SOFTWARE, b"test");
    });
    assert_eq!(fixture.give(alice(), &not_last), Outcome::Silence(DropReason::WrongFingerprint));
    for marked in [true, false] {
        let request = message::request(Method::BINDING, id, |writer| {
            if marked {
                writer.fingerprint();
            }
        });
        let reply = fixture.give(alice(), &request).reply();
        let found = Message::parse(&reply).unwrap().fingerprint();
        assert_eq!(found, if marked { Fingerprint::Verified } else { Fingerprint::Absent });
    }
}

#[test]
fn rfc8489_14_5_what_follows_the_integrity_does_not_count() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let signature = fixture.signature(alice(), &credential);
    let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        udp(writer);
        signature.sign(writer);
        writer.attribute_u32(A::LIFETIME, 3_000);
        writer.attribute(A(0x7ABC), b"unknown");
        writer.fingerprint();
    });
    assert_eq!(lifetime(&fixture.give(alice(), &request).reply()), 600);
}

#[test]
fn rfc8489_6_3_1_unknown_attributes_are_listed() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let odd = |writer: &mut stun::MessageWriter<'_>| {
        writer.attribute(A(0x7ABC), b"a").attribute(A(0xC001), b"b").attribute(A(0x7ABD), b"c");
    };
    let binding = message::request(Method::BINDING, fixture.dice.transaction(), odd);
    let allocate = fixture.signed(alice(), &credential, Method::ALLOCATE, odd);
    for request in [binding, allocate] {
        let reply = fixture.give(alice(), &request).reply();
        assert_eq!(code(&reply), 420);
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.attribute(A::UNKNOWN_ATTRIBUTES), Some(&[0x7A, 0xBC, 0x7A, 0xBD][..]));
    }
    // A stranger's unknown attributes are not looked at: RFC 8489 §6.3.1, after authentication.
    let bare = message::request(Method::ALLOCATE, fixture.dice.transaction(), odd);
    assert_eq!(fixture.give(alice(), &bare).code(), 401);
}

#[test]
fn what_is_no_request_is_not_answered() {
    let mut fixture = Fixture::new();
    let id = fixture.dice.transaction();
    for class in [Class::Success, Class::Error, Class::Indication] {
        for method in [Method::BINDING, Method::ALLOCATE, Method::DATA, Method(0x0FF)] {
            let packet = message::write(class, method, id, |_| {});
            let outcome = fixture.give(alice(), &packet);
            assert_eq!(outcome, Outcome::Silence(DropReason::UnexpectedClass), "{class:?} {method:?}");
        }
    }
    let request = message::request(Method::BINDING, id, |_| {});
    for length in 0..request.len() {
        assert!(matches!(fixture.give(alice(), &request[..length]), Outcome::Silence(_)), "{length}");
    }
    for first in 0..=255 {
        let mut packet = request.clone();
        packet[0] = first;
        let answered = matches!(fixture.give(alice(), &packet), Outcome::Reply(_));
        assert_eq!(answered, first == 0, "{first}");
    }
}
