//! Time-limited usernames: draft-uberti-behave-turn-rest-00.

use std::sync::Arc;

use credentials::{Credential, Denial, SharedSecret, SharedSecretId, TimeLimited, TurnKeyId};
use stun::{AttributeType, Method};
use testkit::message::{self, Signature};
use turn::{Action, Command, DropReason, EndReason, Refusal, Reply, Transport};

use crate::fixture::{Fixture, KEY, NOW, Outcome, PEER, alice, client, code, lifetime, udp, value};

const OTHER: TurnKeyId = TurnKeyId::from_bytes([8; 16]);

fn secret(n: u8) -> SharedSecret {
    let text = format!("the shared secret number {n:03}").parse().unwrap();
    SharedSecret { id: SharedSecretId::from_bytes([n; 16]), text }
}

/// What an application makes of its secret.
fn minted(secret: &SharedSecret, key: TurnKeyId, username: &str) -> Credential {
    let parsed = TimeLimited::parse(username.as_bytes()).unwrap();
    let password = parsed.password(&secret.text);
    Credential {
        username: username.to_owned(),
        password: String::from_utf8(password.to_vec()).unwrap(),
        id: parsed.id(key),
        expires_at: parsed.expires_at,
    }
}

fn lives(secret: &SharedSecret, secs: u64, who: &str) -> Credential {
    minted(secret, KEY, &format!("{}:{who}", NOW + secs))
}

fn give(fixture: &mut Fixture, key: TurnKeyId, secrets: &[SharedSecret]) {
    fixture.command(Command::SharedSecrets { key, secrets: secrets.into() });
}

fn allocate(fixture: &mut Fixture, who: turn::Client, credential: &Credential) -> (u16, Option<Refusal>) {
    let code = code(&fixture.ask(who, credential, Method::ALLOCATE, udp));
    let refusal = match fixture.last {
        Some(Action::Reply(Reply::Refused(refusal))) => Some(refusal),
        _ => None,
    };
    (code, refusal)
}

#[test]
fn whoever_holds_a_secret_mints_for_himself() {
    let mut fixture = Fixture::new();
    let (one, two, foreign) = (secret(1), secret(2), secret(3));
    let check = |fixture: &mut Fixture, credential: &Credential, expected: Option<Refusal>| {
        let refused = allocate(fixture, alice(), credential).1;
        assert_eq!(refused, expected, "{}", credential.username);
        if refused.is_none() {
            assert_eq!(code(&fixture.refresh(alice(), credential, 0)), 0);
        }
    };
    check(&mut fixture, &lives(&one, 600, "a"), Some(Refusal::UnknownUsername));
    give(&mut fixture, KEY, &[one.clone(), two.clone()]);
    check(&mut fixture, &lives(&one, 600, "a"), None);
    check(&mut fixture, &lives(&two, 600, "@bob:example.org"), None);
    check(&mut fixture, &minted(&two, KEY, &(NOW + 600).to_string()), None);
    check(&mut fixture, &lives(&foreign, 600, "a"), Some(Refusal::WrongPassword));
    check(&mut fixture, &minted(&one, KEY, &format!("{NOW}:a")), Some(Refusal::CredentialExpired));
    check(&mut fixture, &minted(&one, KEY, "0:a"), Some(Refusal::CredentialExpired));
    check(&mut fixture, &lives(&one, 604_800, "a"), None);
    check(&mut fixture, &lives(&one, 604_801, "a"), Some(Refusal::ExpiryTooFar));
    let swapped = Credential { password: lives(&one, 600, "b").password, ..lives(&one, 600, "a") };
    check(&mut fixture, &swapped, Some(Refusal::WrongPassword));
    let sealed = fixture.mint(600);
    check(&mut fixture, &sealed, None);
    give(&mut fixture, OTHER, std::slice::from_ref(&foreign));
    check(&mut fixture, &lives(&foreign, 600, "a"), None);
    give(&mut fixture, OTHER, &[]);
    check(&mut fixture, &lives(&foreign, 600, "a"), Some(Refusal::WrongPassword));
}

#[test]
fn both_integrities_and_both_password_algorithms_verify() {
    use stun::PasswordAlgorithm;
    let mut fixture = Fixture::configured(|config| config.offer_password_algorithms = true);
    give(&mut fixture, KEY, &[secret(1), secret(2)]);
    let credential = lives(&secret(2), 600, "a");
    let signature = fixture.signature(alice(), &credential);
    let signatures = [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256].map(|algorithm| {
        signature.clone().choosing(algorithm, &credential.password, &PasswordAlgorithm::OFFER)
    });
    for signature in [[signature].as_slice(), &signatures].concat() {
        let request = testkit::message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
            udp(writer);
            signature.sign(writer);
        });
        assert_eq!(fixture.give(alice(), &request).code(), 0);
        assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 0);
    }
}

#[test]
fn a_time_limited_allocation_ends_when_its_username_says() {
    let mut fixture = Fixture::new();
    give(&mut fixture, KEY, &[secret(1)]);
    let credential = lives(&secret(1), 60, "a");
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, udp);
    assert_eq!((code(&reply), lifetime(&reply)), (0, 60));
    assert_eq!(fixture.permit(alice(), &credential, &[PEER]), 0);
    fixture.now_ms += 59_999;
    assert!(fixture.sends(alice()) && fixture.hears());
    assert_eq!(lifetime(&fixture.refresh(alice(), &credential, 3_600)), 1);
    fixture.now_ms += 1;
    assert!(!fixture.sends(alice()) && !fixture.hears(), "although no timer has run");
    assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 401);
    fixture.timeout();
    assert_eq!((fixture.ends.clone(), fixture.ports.taken()), (vec![EndReason::Expired], 0));
}

#[test]
fn a_removed_secret_takes_its_allocations_with_it_and_no_others() {
    let mut fixture = Fixture::new();
    let (old, new) = (secret(1), secret(2));
    give(&mut fixture, KEY, std::slice::from_ref(&old));
    give(&mut fixture, OTHER, &[secret(3)]);
    let [bob, carol, dave] = ["82.0.0.1:1", "82.0.0.2:1", "82.0.0.3:1"].map(|it| client(Transport::Udp, it));
    let (by_old, sealed) = (lives(&old, 600, "a"), fixture.mint(600));
    fixture.allocate(alice(), &by_old);
    assert_eq!(fixture.permit(alice(), &by_old, &[PEER]), 0);
    fixture.allocate(bob, &sealed);
    // Rotation: the new one beside the old one, then without it.
    give(&mut fixture, KEY, &[old, new.clone()]);
    assert!(fixture.sends(alice()) && fixture.hears());
    let by_new = lives(&new, 600, "c");
    fixture.allocate(carol, &by_new);
    fixture.allocate(dave, &minted(&secret(3), OTHER, &format!("{}:d", NOW + 600)));
    give(&mut fixture, KEY, &[new]);
    assert_eq!(fixture.ends, [EndReason::Denied]);
    assert!(!fixture.sends(alice()) && !fixture.hears());
    assert_eq!(allocate(&mut fixture, alice(), &by_old), (401, Some(Refusal::WrongPassword)));
    assert_eq!(code(&fixture.refresh(carol, &by_new, 600)), 0);
    assert_eq!(fixture.server.allocation_count(), 3);
    // And without any: the sealed one is left.
    give(&mut fixture, KEY, &[]);
    assert_eq!(fixture.server.allocation_count(), 2);
    assert_eq!(code(&fixture.refresh(bob, &sealed, 600)), 0);
}

#[test]
fn a_time_limited_username_is_denied_like_any_other() {
    let until = NOW + 172_860;
    for whole_key in [false, true] {
        let mut fixture = Fixture::new();
        // Signed with either secret it is the same user.
        give(&mut fixture, KEY, &[secret(1), secret(2)]);
        let (first, second) = (lives(&secret(1), 600, "a"), lives(&secret(2), 600, "a"));
        let sister = lives(&secret(1), 600, "b");
        let [bob, carol] = ["82.0.0.1:1", "82.0.0.2:1"].map(|it| client(Transport::Tcp, it));
        fixture.allocate(alice(), &first);
        fixture.allocate(bob, &second);
        fixture.allocate(carol, &sister);
        fixture.command(Command::Deny(if whole_key {
            Denial::Key { key: KEY, until }
        } else {
            Denial::Credential { id: first.id, until: first.expires_at }
        }));
        assert_eq!(fixture.ends.len(), if whole_key { 3 } else { 2 });
        let refusal = if whole_key { Refusal::UnknownUsername } else { Refusal::CredentialDenied };
        for credential in [&first, &second] {
            assert_eq!(allocate(&mut fixture, alice(), credential), (401, Some(refusal)));
        }
        assert_eq!(code(&fixture.refresh(carol, &sister, 600)), if whole_key { 401 } else { 0 });
    }
}

#[test]
fn an_allocation_is_its_users_alone() {
    let mut fixture = Fixture::new();
    give(&mut fixture, KEY, &[secret(1), secret(2)]);
    let mine = lives(&secret(1), 600, "a");
    fixture.allocate(alice(), &mine);
    for other in [lives(&secret(1), 600, "b"), lives(&secret(2), 600, "b"), fixture.mint(600)] {
        assert_eq!(code(&fixture.refresh(alice(), &other, 600)), 441, "{}", other.username);
    }
    assert_eq!(code(&fixture.refresh(alice(), &lives(&secret(2), 600, "a"), 600)), 0, "the same user");
}

const TOO_MANY: Outcome = Outcome::Silence(DropReason::TooManyTrials);

fn newcomer() -> turn::Client {
    client(Transport::Udp, "84.0.0.1:1")
}

fn mallory() -> turn::Client {
    client(Transport::Udp, "83.0.0.1:1")
}

/// Two hundred secrets of a key.
fn many(fixture: &mut Fixture) -> Arc<[SharedSecret]> {
    let secrets: Arc<[SharedSecret]> = (0..200).map(secret).collect();
    fixture.command(Command::SharedSecrets { key: KEY, secrets: Arc::clone(&secrets) });
    secrets
}

/// What a request with this username costs when two hundred secrets are tried, in blocks.
fn cost(request: &[u8], username: &str) -> usize {
    200 * (16 + (request.len() + 2 * username.len()) / 64)
}

/// How often a request is answered before there is silence.
fn answered(fixture: &mut Fixture, from: turn::Client, request: &[u8], wanted: u16) -> usize {
    let outcomes = (0..1_000).map(|_| fixture.give(from, request));
    outcomes.take_while(|it| *it != TOO_MANY).map(|it| assert_eq!(it.code(), wanted)).count()
}

/// A request with a forged nonce.
fn without_nonce(fixture: &mut Fixture, from: turn::Client, credential: &Credential) -> Vec<u8> {
    let mut signature = fixture.signature(from, credential);
    signature.nonce[0] ^= 1;
    padded(fixture, &signature, 0)
}

/// A request with so many bytes of an attribute that may be skipped.
fn padded(fixture: &mut Fixture, signature: &Signature, bytes: usize) -> Vec<u8> {
    message::request(Method::ALLOCATE, fixture.dice.transaction(), |writer| {
        udp(writer);
        if bytes > 0 {
            writer.attribute(AttributeType(0xC001), &vec![0; bytes - 4]);
        }
        signature.sign(writer);
    })
}

#[test]
fn guessing_is_paid_from_a_budget_that_the_others_do_not_need() {
    let mut fixture = Fixture::new();
    let secrets = many(&mut fixture);
    let (known, sealed) = (lives(&secrets[7], 600, "a"), fixture.mint(600));
    let wrong = lives(&secret(250), 600, "m");
    fixture.allocate(alice(), &known);
    fixture.now_ms += 100;
    let guess = fixture.signed(mallory(), &wrong, Method::ALLOCATE, udp);
    let cost = cost(&guess, &wrong.username);
    assert_eq!(answered(&mut fixture, mallory(), &guess, 401), 200_000 / cost);
    // Whoever is known by his allocation or by a sealed username needs none of it.
    assert_eq!(code(&fixture.refresh(alice(), &known, 0)), 0);
    fixture.allocate(alice(), &sealed);
    // 2,000 a millisecond grow back.
    fixture.now_ms += 20;
    assert_eq!(answered(&mut fixture, mallory(), &guess, 401), (200_000 % cost + 40_000) / cost);
    fixture.now_ms += 4;
    fixture.allocate(newcomer(), &lives(&secrets[199], 600, "c"));
}

#[test]
fn with_a_live_allocation_one_guesses_no_cheaper() {
    let mut fixture = Fixture::new();
    let secrets = many(&mut fixture);
    fixture.allocate(alice(), &lives(&secrets[7], 600, "a"));
    fixture.now_ms += 100;
    let wrong = lives(&secret(250), 600, "m");
    let guess = fixture.signed(alice(), &wrong, Method::ALLOCATE, udp);
    assert_eq!(answered(&mut fixture, alice(), &guess, 401), 200_000 / cost(&guess, &wrong.username));
}

#[test]
fn strangers_without_a_nonce_leave_newcomers_their_budget() {
    let mut fixture = Fixture::new();
    let secrets = many(&mut fixture);
    let wrong = lives(&secret(250), 600, "m");
    let guess = without_nonce(&mut fixture, mallory(), &wrong);
    // A nonce that another was told is no better.
    let signature = fixture.signature(mallory(), &wrong);
    let borrowed = padded(&mut fixture, &signature, 0);
    let cost = cost(&guess, &wrong.username);
    assert_eq!(answered(&mut fixture, mallory(), &guess, 401), 64_000 / cost);
    assert_eq!(fixture.give(alice(), &borrowed), TOO_MANY);
    let good = lives(&secrets[199], 600, "c");
    let stale = without_nonce(&mut fixture, alice(), &good);
    assert_eq!(fixture.give(alice(), &stale), TOO_MANY);
    // While that goes on, whoever has asked for a nonce gets in, and moves.
    let ticket = fixture.ask(newcomer(), &good, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(AttributeType::MOBILITY_TICKET, &[]);
    });
    let ticket = value(&ticket, AttributeType::MOBILITY_TICKET).unwrap();
    let moved = fixture.ask(client(Transport::Udp, "85.0.0.1:1"), &good, Method::REFRESH, |writer| {
        writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
    });
    assert_eq!((code(&moved), fixture.server.allocation_count()), (0, 1));
    // And the other way round.
    let guess = fixture.signed(mallory(), &wrong, Method::ALLOCATE, udp);
    assert!(answered(&mut fixture, mallory(), &guess, 401) > 0);
    // 200 a millisecond grow back.
    fixture.now_ms += cost as u64 / 200 + 1;
    assert_eq!(fixture.give(alice(), &stale).code(), 438);
    assert_eq!(fixture.give(alice(), &stale), TOO_MANY);
}

#[test]
fn rfc8489_9_2_4_a_nonce_that_says_who_pays_is_still_judged_last() {
    let mut fixture = Fixture::new();
    give(&mut fixture, KEY, &[secret(1)]);
    let answer = |fixture: &mut Fixture, credential: &Credential| {
        let request = without_nonce(fixture, alice(), credential);
        fixture.give(alice(), &request).code()
    };
    assert_eq!(answer(&mut fixture, &lives(&secret(2), 600, "a")), 401);
    assert_eq!(answer(&mut fixture, &minted(&secret(1), KEY, "0:a")), 401);
    assert_eq!(answer(&mut fixture, &lives(&secret(1), 600, "a")), 438);
}

#[test]
fn secrets_are_tried_for_no_long_request() {
    let mut fixture = Fixture::new();
    let secrets = many(&mut fixture);
    let (right, wrong) = (lives(&secrets[3], 600, "a"), lives(&secret(250), 600, "m"));
    let signature = fixture.signature(alice(), &right);
    let bare = padded(&mut fixture, &signature, 0).len();
    let too_long = Outcome::Silence(DropReason::TooLongToTry);
    for length in [2_052, 10_000, 65_000] {
        for who in [&right, &wrong] {
            let signature = fixture.signature(alice(), who);
            let request = padded(&mut fixture, &signature, length - bare);
            assert_eq!(request.len(), length);
            assert_eq!(fixture.give(alice(), &request), too_long);
        }
    }
    let longest = padded(&mut fixture, &signature, 2_048 - bare);
    assert_eq!((longest.len(), fixture.give(alice(), &longest).code()), (2_048, 0));
    // Nothing is tried for whoever is known: a CreatePermission may be long.
    let peers: Vec<String> = (1..=100).map(|n| format!("8.8.1.{n}:1")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(fixture.permit(alice(), &right, &peers), 0);
    let long = padded(&mut fixture, &signature, 4_000);
    assert_eq!(fixture.give(alice(), &long).code(), 437);
    let other = fixture.signature(alice(), &wrong);
    let long = padded(&mut fixture, &other, 4_000);
    assert_eq!(fixture.give(alice(), &long), too_long);
}

#[test]
fn a_long_request_costs_as_much_as_it_makes_hash() {
    let mut fixture = Fixture::new();
    many(&mut fixture);
    for (who, padding) in [("m".repeat(2), 0), ("m".repeat(480), 0), ("m".to_owned(), 1_800)] {
        fixture.now_ms += 10_000;
        let wrong = lives(&secret(250), 600, &who);
        let signature = fixture.signature(mallory(), &wrong);
        let guess = padded(&mut fixture, &signature, padding);
        let cost = cost(&guess, &wrong.username);
        assert_eq!(answered(&mut fixture, mallory(), &guess, 401), 200_000 / cost, "{padding} {cost}");
    }
}

#[test]
fn a_thousand_secrets_are_tried_for_the_longest_request() {
    let mut fixture = Fixture::new();
    let named = |n: u16| {
        let text = format!("{n:0>256}").parse().unwrap();
        SharedSecret { id: SharedSecretId::from_bytes(u128::from(n).to_be_bytes()), text }
    };
    let secrets: Arc<[SharedSecret]> = (0..1_000).map(named).collect();
    fixture.command(Command::SharedSecrets { key: KEY, secrets });
    let right = lives(&named(999), 600, &"a".repeat(497));
    let signature = fixture.signature(alice(), &right);
    let bare = padded(&mut fixture, &signature, 0).len();
    let mut forged = signature.clone();
    forged.nonce[0] ^= 1;
    let stale = padded(&mut fixture, &forged, 2_048 - bare);
    assert_eq!((stale.len(), fixture.give(alice(), &stale).code()), (2_048, 438));
    assert_eq!(fixture.give(alice(), &stale), TOO_MANY);
    let longest = padded(&mut fixture, &signature, 2_048 - bare);
    assert_eq!(fixture.give(alice(), &longest).code(), 0);
}
