//! Who may ask: RFC 8489 §9.2, RFC 8656 §5.

use std::sync::Arc;

use credentials::{CustomIdentifier, Denial, IdentifierId, Keyring, TurnKeyId};
use stun::{AttributeType as A, LongTermKey, Message, Method};
use testkit::message::{self, Signature};
use turn::{Command, DropReason, EndReason, Transport};

use crate::fixture::{Fixture, KEY, NOW, Outcome, PEER, alice, client, code, udp, value};
use crate::mobility::{elsewhere, refresh, ticketed};

#[test]
fn rfc8489_9_2_4_each_fault_has_its_code() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let right = fixture.signature(alice(), &credential);
    let mut check = |what: &str, signature: &Signature, leave_out: Option<A>, expected: u16| {
        let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
            udp(writer);
            for (kind, value) in [
                (A::USERNAME, &signature.username),
                (A::REALM, &signature.realm),
                (A::NONCE, &signature.nonce),
            ] {
                if leave_out != Some(kind) {
                    writer.attribute(kind, value);
                }
            }
            writer.integrity(&signature.key);
        });
        let reply = fixture.give(alice(), &request).reply();
        assert_eq!(code(&reply), expected, "{what}");
        let message = Message::parse(&reply).unwrap();
        let challenges = matches!(expected, 401 | 438);
        assert_eq!(message.attribute(A::NONCE).is_some(), challenges, "{what}");
        assert_eq!(message.attribute(A::REALM).is_some(), challenges, "{what}");
        assert_eq!(message.attribute(A::MESSAGE_INTEGRITY).is_some(), expected == 0, "{what}");
    };
    let changed = |change: &dyn Fn(&mut Signature)| {
        let mut signature = right.clone();
        change(&mut signature);
        signature
    };
    check("no USERNAME", &right, Some(A::USERNAME), 400);
    check("no REALM", &right, Some(A::REALM), 400);
    check("no NONCE", &right, Some(A::NONCE), 400);
    check("forged nonce", &changed(&|s| s.nonce[8] ^= 1), None, 438);
    check("empty nonce", &changed(&|s| s.nonce.clear()), None, 438);
    check("long nonce", &changed(&|s| s.nonce.push(b'A')), None, 438);
    check("unknown user", &changed(&|s| s.username = b"nobody".to_vec()), None, 401);
    check("capitals", &changed(&|s| s.username.make_ascii_uppercase()), None, 401);
    check("wrong password", &changed(&|s| s.key = LongTermKey::new(b"a", b"b", b"c")), None, 401);
    let elsewhere = Signature::new(&credential.username, &credential.password, b"elsewhere", &right.nonce);
    check("another realm", &elsewhere, None, 401);
    let renamed = changed(&|s| s.realm = b"elsewhere".to_vec());
    check("another realm with our key", &renamed, None, 401);
    // RFC 8489 §9.2.4: the nonce is looked at last.
    let both = |change: &dyn Fn(&mut Signature)| {
        let mut signature = changed(change);
        signature.nonce.clear();
        signature
    };
    check("unknown user, forged nonce", &both(&|s| s.username = b"nobody".to_vec()), None, 401);
    check("wrong password, forged nonce", &both(&|s| s.key = LongTermKey::new(b"a", b"b", b"c")), None, 401);
    check("right", &right, None, 0);
}

#[test]
fn rfc8489_9_2_4_the_first_request_is_challenged() {
    let mut fixture = Fixture::new();
    let bare = message::request(Method::ALLOCATE, fixture.dice.transaction(), udp);
    let reply = fixture.give(alice(), &bare).reply();
    let message = Message::parse(&reply).unwrap();
    assert_eq!(code(&reply), 401);
    assert_eq!(message.attribute(A::REALM), Some(&b"turnery"[..]));
    assert_eq!(message.attribute(A::SOFTWARE), None);
    assert_eq!(message.attribute(A::ERROR_CODE), Some(&[0, 0, 4, 1][..]), "no words for strangers");
}

#[test]
fn rfc8489_9_2_4_a_nonce_is_good_for_its_client_and_for_an_hour() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(172_800);
    for (from, expected) in [
        (client(Transport::Udp, "81.0.0.1:4001"), 438),
        (client(Transport::Udp, "81.0.0.2:4000"), 438),
        (client(Transport::Tcp, "81.0.0.1:4000"), 438),
        (alice(), 0),
    ] {
        let request = fixture.signed(alice(), &credential, Method::ALLOCATE, udp);
        assert_eq!(fixture.give(from, &request).code(), expected, "{from:?}");
    }
    for (age_secs, expected) in [(3_600, 437), (3_601, 438)] {
        let request = fixture.signed(alice(), &credential, Method::REFRESH, |_| {});
        fixture.now_ms += age_secs * 1_000;
        assert_eq!(fixture.give(alice(), &request).code(), expected, "{age_secs}");
    }
}

#[test]
fn rfc8656_5_another_valid_user_of_the_five_tuple_gets_441() {
    let mut fixture = Fixture::new();
    let (credential, other) = (fixture.mint(3_600), fixture.mint(3_600));
    fixture.allocate(alice(), &credential);
    assert_eq!(code(&fixture.refresh(alice(), &other, 600)), 441);
    assert_eq!(code(&fixture.refresh(alice(), &other, 0)), 441);
    assert_eq!(fixture.permit(alice(), &other, &[PEER]), 441);
    assert_eq!(fixture.bind(alice(), &other, 0x4000, PEER), 441);
    assert_eq!(fixture.server.allocation_count(), 1);
    assert!(!fixture.sends(alice()), "and nothing was done");
}

#[test]
fn strangers_without_integrity_hear_nothing_but_the_challenge_to_allocate() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let methods = [
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
        Method::CONNECT,
        Method::CONNECTION_BIND,
    ];
    for method in methods {
        let bare = message::request(method, fixture.dice.transaction(), |_| {});
        assert_eq!(fixture.give(alice(), &bare), Outcome::Silence(DropReason::Unauthenticated), "{method:?}");
    }
    for method in [Method::CONNECTION_ATTEMPT, Method(0x0FF), Method::SEND, Method::DATA] {
        let bare = message::request(method, fixture.dice.transaction(), |_| {});
        assert_eq!(fixture.give(alice(), &bare), Outcome::Silence(DropReason::UnknownMethod), "{method:?}");
    }
    fixture.allocate(alice(), &credential);
    for method in methods {
        let bare = message::request(method, fixture.dice.transaction(), |_| {});
        assert_eq!(fixture.give(alice(), &bare).code(), 401, "{method:?}");
    }
}

#[test]
fn a_credential_is_refused_from_its_last_moment_on_and_its_allocation_ends() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(60);
    fixture.allocate(alice(), &credential);
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    fixture.now_ms += 59_999;
    assert!(fixture.sends(alice()) && fixture.hears());
    assert_eq!(code(&fixture.refresh(alice(), &credential, 3_600)), 0);
    fixture.now_ms += 1;
    assert!(!fixture.sends(alice()) && !fixture.hears(), "although no timer has run");
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 401);
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 401);
    fixture.timeout();
    assert_eq!((fixture.ends.clone(), fixture.ports.taken()), (vec![EndReason::Expired], 0));
}

#[test]
fn a_credential_that_was_good_once_is_judged_each_time() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    let mut wrong = fixture.signature(alice(), &credential);
    wrong.key = LongTermKey::new(b"a", b"b", b"c");
    let request = message::request(Method::REFRESH, fixture.dice.transaction(), |writer| wrong.sign(writer));
    assert_eq!(fixture.give(alice(), &request).code(), 401, "another password");
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 0);
    let another = Arc::new(Keyring::generate(NOW).unwrap());
    fixture.command(Command::Keyring(another));
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 401, "a keyring that did not seal it");
    fixture.command(Command::Keyring(Arc::clone(&fixture.keyring)));
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 0);
    // More than are remembered, each of them twice.
    let crowd: Vec<_> = (0..1_500).map(|_| fixture.mint(600)).collect();
    for member in crowd.iter().chain(&crowd) {
        assert_eq!(code(&fixture.refresh(alice(), member, 600)), 441, "good, but not the allocation's");
    }
    fixture.now_ms += 600_000;
    assert_eq!(code(&fixture.refresh(alice(), &crowd[7], 600)), 401, "expired");
}

#[test]
fn a_denied_credential_ends_at_once_and_does_not_come_back() {
    let until = NOW + 172_800;
    for whole_key in [false, true] {
        let mut fixture = Fixture::new();
        let (credential, sister) = (fixture.mint(3_600), fixture.mint(3_600));
        let bob = client(Transport::Tcp, "82.0.0.1:4000");
        fixture.allocate(alice(), &credential);
        fixture.allocate(bob, &sister);
        assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
        assert!(fixture.sends(alice()) && fixture.hears());
        fixture.command(Command::Deny(if whole_key {
            Denial::Key { key: KEY, until }
        } else {
            Denial::Credential { id: credential.id, until: credential.expires_at }
        }));
        assert!(!fixture.sends(alice()) && !fixture.hears());
        assert_eq!(fixture.server.allocation_count(), usize::from(!whole_key), "its sister lives on");
        assert!(fixture.ends.iter().all(|reason| *reason == EndReason::Denied));
        assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 401);
        let expected = if whole_key { 401 } else { 0 };
        assert_eq!(code(&fixture.refresh(bob, &sister, 600)), expected);
    }
}

#[test]
fn a_rule_ends_what_its_key_issued_before_and_nothing_later() {
    for by_identifier in [false, true] {
        let mut fixture = Fixture::new();
        let old = fixture.mint(3_600);
        fixture.allocate(alice(), &old);
        fixture.now_ms += 1_000;
        let before = fixture.now().unix_secs();
        let new = fixture.mint(3_600);
        let bob = client(Transport::Tcp, "82.0.0.1:4000");
        fixture.allocate(bob, &new);
        let identifier = IdentifierId::of(KEY, &CustomIdentifier::default());
        let until = before + 172_800;
        let rule = |key, identifier| {
            if by_identifier {
                Denial::Identifier { key, identifier, before, until }
            } else {
                Denial::Issued { key, before, until }
            }
        };
        let other = TurnKeyId::from_bytes([0xEE; 16]);
        fixture.command(Command::Deny(rule(other, identifier)));
        if by_identifier {
            fixture.command(Command::Deny(rule(KEY, IdentifierId::from_bytes([1; 16]))));
        }
        assert_eq!(fixture.server.allocation_count(), 2, "another key's, another identifier's");
        fixture.command(Command::Deny(rule(KEY, identifier)));
        assert_eq!((fixture.server.allocation_count(), &fixture.ends[..]), (1, &[EndReason::Denied][..]));
        assert_eq!(code(&fixture.ask(alice(), &old, Method::ALLOCATE, udp)), 401);
        assert_eq!(code(&fixture.refresh(bob, &new, 600)), 0);
    }
}

#[test]
fn a_suspended_key_is_refused_and_comes_back() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    let suspend = |key, suspended| Command::Suspend { key, suspended };
    fixture.command(suspend(TurnKeyId::from_bytes([0xEE; 16]), true));
    assert_eq!(fixture.server.allocation_count(), 1, "another key");
    fixture.command(suspend(KEY, true));
    assert_eq!((fixture.server.allocation_count(), &fixture.ends[..]), (0, &[EndReason::Denied][..]));
    assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 401);
    fixture.command(suspend(KEY, false));
    fixture.allocate(alice(), &credential);
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 0);
}

#[test]
fn a_client_that_is_gone_leaves_nothing() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    fixture.command(Command::ClientGone(alice().five_tuple));
    assert_eq!((fixture.ends.clone(), fixture.ports.taken()), (vec![EndReason::ClientGone], 0));
    assert_eq!(fixture.server.poll_timeout(), None);
}

/// USERHASH is not offered: a client that uses it all the same is challenged with a nonce that says so.
#[test]
fn rfc8489_9_2_4_nobody_is_found_by_userhash() {
    let mut fixture = Fixture::configured(|config| config.offer_password_algorithms = true);
    let credential = fixture.mint(600);
    let right = fixture.signature(alice(), &credential);
    let request = message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        udp(writer);
        writer.attribute(A::USERHASH, &[7; 32]);
        writer.attribute(A::REALM, &right.realm);
        writer.attribute(A::NONCE, &right.nonce);
        writer.integrity(&right.key);
    });
    let reply = fixture.give(alice(), &request).reply();
    assert_eq!(code(&reply), 401);
    // RFC 8489 §9.2: "obMatJos2", then the security bits: only the first, password algorithms, is set.
    let nonce = value(&reply, A::NONCE).unwrap();
    assert!(nonce.starts_with(b"obMatJos2gAA"), "{}", String::from_utf8_lossy(&nonce));
}

#[test]
fn rfc8016_5_a_ticket_without_a_credential_moves_nothing() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let bare = message::request(Method::REFRESH, fixture.dice.transaction(), |writer| {
        writer.attribute(A::MOBILITY_TICKET, &ticket);
    });
    assert!(matches!(fixture.give(elsewhere(), &bare), Outcome::Silence(_)));
    assert!(!fixture.server.has_allocation(&elsewhere().five_tuple));
    let moved = refresh(&mut fixture, elsewhere(), &credential, &ticket);
    assert_eq!(code(&moved), 0, "the ticket is as good as before");
}

#[test]
fn rfc8016_3_1_2_an_answer_with_a_ticket_fits_every_path() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &message::FAMILY_IPV6);
        writer.attribute(A::MOBILITY_TICKET, &[]);
    });
    assert_eq!(code(&reply), 0);
    // RFC 8489 §6.1: 576 bytes over IPv4, with its header and UDP's.
    assert!(reply.len() <= 576 - 28, "{} bytes", reply.len());
}
