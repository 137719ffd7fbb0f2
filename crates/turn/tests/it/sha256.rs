//! SHA-256 integrity and password algorithms: RFC 8489 §9.2.

use credentials::Credential;
use stun::{
    AttributeType as A, Integrity, IntegrityAlgorithm, LongTermKey, Message, Method, PasswordAlgorithm,
};
use testkit::message::{self, Signature};
use turn::DropReason;

use crate::fixture::{Fixture, Outcome, alice, code, lifetime, udp, value};

/// RFC 8489 §9.2 and §18.1: the cookie, and bit 0, the leftmost of 24.
const COOKIE: &[u8] = b"obMatJos2gAAB";
/// SHA-256, then MD5, neither with parameters.
const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

fn offering() -> (Fixture, Credential) {
    let fixture = Fixture::configured(|config| config.offer_password_algorithms = true);
    let credential = fixture.mint(3_600);
    (fixture, credential)
}

fn allocate(fixture: &mut Fixture, signature: &Signature) -> Vec<u8> {
    ask(fixture, signature, Method::ALLOCATE)
}

fn ask(fixture: &mut Fixture, signature: &Signature, method: Method) -> Vec<u8> {
    let request = message::request(method, fixture.dice.transaction(), |writer| {
        udp(writer);
        signature.sign(writer);
    });
    fixture.give(alice(), &request).reply()
}

fn is_signed(reply: &[u8], algorithm: IntegrityAlgorithm, key: &LongTermKey) -> bool {
    let message = Message::parse(reply).unwrap();
    let other = match algorithm {
        IntegrityAlgorithm::Sha1 => IntegrityAlgorithm::Sha256,
        IntegrityAlgorithm::Sha256 => IntegrityAlgorithm::Sha1,
    };
    message.integrity_by(algorithm, key) == Integrity::Verified
        && message.attributes().all(|attribute| attribute.kind != other.attribute())
}

#[test]
fn rfc8489_9_2_4_a_challenge_offers_algorithms_and_says_so_in_its_nonce() {
    let (mut fixture, credential) = offering();
    let bare = message::request(Method::ALLOCATE, fixture.dice.transaction(), udp);
    let reply = fixture.give(alice(), &bare).reply();
    assert_eq!(code(&reply), 401);
    assert_eq!(value(&reply, A::PASSWORD_ALGORITHMS), Some(OFFER.to_vec()));
    let nonce = value(&reply, A::NONCE).unwrap();
    assert!(nonce.starts_with(COOKIE) && nonce.len() < 128, "{nonce:?}");
    // And so does a 438.
    let mut signature = fixture.signature(alice(), &credential);
    signature.nonce[COOKIE.len() + 7] ^= 1;
    let reply = allocate(&mut fixture, &signature);
    assert_eq!(code(&reply), 438);
    assert_eq!(value(&reply, A::PASSWORD_ALGORITHMS), Some(OFFER.to_vec()));
    assert!(value(&reply, A::NONCE).unwrap().starts_with(COOKIE));
}

#[test]
fn rfc8489_9_2_4_without_the_offer_a_challenge_is_short() {
    let mut fixture = Fixture::new();
    let bare = message::request(Method::ALLOCATE, fixture.dice.transaction(), |_| {});
    let reply = fixture.give(alice(), &bare).reply();
    assert_eq!(value(&reply, A::PASSWORD_ALGORITHMS), None);
    assert!(!value(&reply, A::NONCE).unwrap().starts_with(&COOKIE[..9]));
    assert!(reply.len() * 10 <= bare.len() * 34, "{} of {}", reply.len(), bare.len());
}

#[test]
fn rfc8489_9_2_4_a_sha256_key_is_answered_with_sha256_integrity_only() {
    for algorithm in [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5] {
        let (mut fixture, credential) = offering();
        let signature = fixture.signature(alice(), &credential);
        let signature = signature.choosing(algorithm, &credential.password, &OFFER);
        for (method, expected) in [
            (Method::ALLOCATE, 0),
            (Method::ALLOCATE, 437),
            (Method::REFRESH, 0),
            (Method::CHANNEL_BIND, 400),
        ] {
            let reply = ask(&mut fixture, &signature, method);
            assert_eq!(code(&reply), expected, "{algorithm:?} {method:?}");
            assert!(
                is_signed(&reply, IntegrityAlgorithm::Sha256, &signature.key),
                "{algorithm:?} {method:?}"
            );
        }
        // RFC 8489 §9.2.4: who names an algorithm is answered with SHA-256, whatever its own integrity.
        let sha1 = Signature { integrity: IntegrityAlgorithm::Sha1, ..signature };
        let reply = ask(&mut fixture, &sha1, Method::REFRESH);
        assert_eq!(code(&reply), 0);
        assert!(is_signed(&reply, IntegrityAlgorithm::Sha256, &sha1.key));
    }
}

#[test]
fn rfc8489_9_2_4_a_client_that_names_no_algorithm_uses_md5() {
    for offers in [false, true] {
        for integrity in [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256] {
            let mut fixture = Fixture::configured(|config| config.offer_password_algorithms = offers);
            let credential = fixture.mint(3_600);
            let signature = Signature { integrity, ..fixture.signature(alice(), &credential) };
            let reply = allocate(&mut fixture, &signature);
            assert_eq!(code(&reply), 0);
            // RFC 8489 §9.2.4: and is answered with SHA-1, whatever its own integrity.
            assert!(is_signed(&reply, IntegrityAlgorithm::Sha1, &signature.key), "{integrity:?}");
            // A SHA-256 key that is not named is a wrong password.
            let key = LongTermKey::with_algorithm(
                PasswordAlgorithm::Sha256,
                credential.username.as_bytes(),
                &signature.realm,
                credential.password.as_bytes(),
            );
            let reply = ask(&mut fixture, &Signature { key, ..signature }, Method::REFRESH);
            assert_eq!(code(&reply), 401);
        }
    }
}

#[test]
fn rfc8489_9_2_4_what_does_not_fit_the_offer_is_400() {
    type Value = Option<&'static [u8]>;
    let (mut fixture, credential) = offering();
    let signature = fixture.signature(alice(), &credential);
    let right = signature.choosing(PasswordAlgorithm::Sha256, &credential.password, &OFFER);
    let sha256: &[u8] = &[0, 2, 0, 0];
    let cases: [(Value, Value, &str); 10] = [
        (Some(&[0, 1, 0, 0]), Some(&[0, 1, 0, 0]), "bid down"),
        (Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Some(sha256), "another order"),
        (Some(&[0, 2, 0, 0]), Some(sha256), "a shorter list"),
        (Some(&[0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0]), Some(sha256), "a longer list"),
        (Some(&[]), Some(sha256), "an empty list"),
        (Some(&OFFER), Some(&[0, 3, 0, 0]), "not in the list"),
        (Some(&OFFER), Some(&[0, 2, 0, 1, 9, 0, 0, 0]), "with a parameter"),
        (Some(&OFFER), Some(&[0, 2]), "cut"),
        (Some(&OFFER), None, "only the list"),
        (None, Some(sha256), "only the choice"),
    ];
    for (offered, chosen, what) in cases {
        let wrong = Signature {
            offered: offered.map(<[u8]>::to_vec),
            chosen: chosen.map(<[u8]>::to_vec),
            ..right.clone()
        };
        let reply = allocate(&mut fixture, &wrong);
        assert_eq!(code(&reply), 400, "{what}");
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.attribute(A::MESSAGE_INTEGRITY_SHA256), None, "{what}");
        assert_eq!(message.attribute(A::MESSAGE_INTEGRITY), None, "{what}");
    }
    assert_eq!(fixture.server.allocation_count(), 0);
    assert_eq!(code(&allocate(&mut fixture, &right)), 0);
}

#[test]
fn rfc8489_9_2_4_a_nonce_without_its_cookie_is_438() {
    let (mut fixture, credential) = offering();
    let right = fixture.signature(alice(), &credential);
    for (what, nonce) in [
        ("stripped", right.nonce[COOKIE.len()..].to_vec()),
        ("features cleared", [&b"obMatJos2AAAA"[..], &right.nonce[COOKIE.len()..]].concat()),
        ("features only stripped", [&COOKIE[..9], &right.nonce[COOKIE.len()..]].concat()),
    ] {
        let bid_down = Signature { nonce, ..right.clone() };
        let reply = allocate(&mut fixture, &bid_down);
        assert_eq!(code(&reply), 438, "{what}");
        assert!(value(&reply, A::NONCE).unwrap().starts_with(COOKIE));
    }
    // A nonce with the cookie of a server that does not offer.
    let mut plain = Fixture::new();
    let credential = plain.mint(3_600);
    let mut signature = plain.signature(alice(), &credential);
    signature.nonce = [COOKIE, &signature.nonce].concat();
    assert_eq!(code(&allocate(&mut plain, &signature)), 438);
}

#[test]
fn rfc8489_9_2_4_sha256_integrity_is_verified_to_the_last_byte() {
    let (mut fixture, credential) = offering();
    let signature = fixture.signature(alice(), &credential);
    let signature = signature.choosing(PasswordAlgorithm::Sha256, &credential.password, &OFFER);
    let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        udp(writer);
        signature.sign(writer);
    });
    for place in [request.len() - 1, request.len() - 32, 30] {
        let mut forged = request.clone();
        forged[place] ^= 1;
        let outcome = fixture.give(alice(), &forged);
        let refused = match outcome {
            Outcome::Reply(reply) => matches!(code(&reply), 400 | 401 | 438),
            Outcome::Silence(reason) => matches!(reason, DropReason::MalformedStun(_)),
            _ => false,
        };
        assert!(refused, "{place}");
    }
    // RFC 8489 §14.6: may be truncated, but not where nobody has agreed to it.
    let cut = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        udp(writer);
        let plain = Signature { integrity: IntegrityAlgorithm::Sha1, ..signature.clone() };
        writer.attribute(A::USERNAME, &plain.username);
        writer.attribute(A::REALM, &plain.realm);
        writer.attribute(A::NONCE, &plain.nonce);
        writer.attribute(A::PASSWORD_ALGORITHMS, &OFFER);
        writer.attribute(A::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
        writer.attribute(A::MESSAGE_INTEGRITY_SHA256, &[0; 16]);
    });
    assert_eq!(fixture.give(alice(), &cut).code(), 401);
    assert_eq!(fixture.server.allocation_count(), 0);
}

#[test]
fn rfc8489_9_2_4_with_both_integrities_sha256_counts() {
    let (mut fixture, credential) = offering();
    let right = fixture.signature(alice(), &credential);
    let wrong = LongTermKey::new(b"a", b"b", b"c");
    for (first, second, expected) in
        [(&right.key, &right.key, 0), (&right.key, &wrong, 401), (&wrong, &right.key, 0)]
    {
        let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
            udp(writer);
            writer.attribute_u32(A::LIFETIME, 700);
            writer.attribute(A::USERNAME, &right.username);
            writer.attribute(A::REALM, &right.realm);
            writer.attribute(A::NONCE, &right.nonce);
            writer.integrity_by(IntegrityAlgorithm::Sha1, first);
            writer.integrity_by(IntegrityAlgorithm::Sha256, second);
        });
        let reply = fixture.give(alice(), &request).reply();
        assert_eq!(code(&reply), expected);
        if expected == 0 {
            assert_eq!(lifetime(&reply), 700);
            assert!(is_signed(&reply, IntegrityAlgorithm::Sha1, &right.key));
            fixture.command(turn::Command::ClientGone(alice().five_tuple));
        }
    }
}
