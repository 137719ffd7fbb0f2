//! Time-limited usernames: draft-uberti-behave-turn-rest-00.

use std::sync::Arc;

use credentials::{Credential, Denial, SharedSecret, SharedSecretId, TimeLimited, TurnKeyId};
use stun::Method;
use turn::{Action, Command, DropReason, EndReason, Refusal, Reply, Transport};

use crate::fixture::{Fixture, KEY, NOW, PEER, alice, client, code, lifetime, udp};

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

#[test]
fn guessing_is_paid_from_a_budget_that_the_others_do_not_need() {
    let mut fixture = Fixture::new();
    let secrets: Arc<[SharedSecret]> = (0..200).map(secret).collect();
    fixture.command(Command::SharedSecrets { key: KEY, secrets: Arc::clone(&secrets) });
    let (known, sealed) = (lives(&secrets[7], 600, "a"), fixture.mint(600));
    let mallory = client(Transport::Udp, "83.0.0.1:1");
    let wrong = lives(&secret(250), 600, "m");
    fixture.allocate(alice(), &known);
    let guess = fixture.signed(mallory, &wrong, Method::ALLOCATE, udp);
    // 20,000 trials at once, of which Alice took 200.
    for n in 0..99 {
        assert_eq!(fixture.give(mallory, &guess).code(), 401, "{n}");
    }
    let silence = crate::fixture::Outcome::Silence(DropReason::TooManyTrials);
    assert_eq!(fixture.give(mallory, &guess), silence);
    // Whoever is known by his allocation or by a sealed username needs none of it.
    assert_eq!(code(&fixture.refresh(alice(), &known, 600)), 0);
    let bob = client(Transport::Udp, "82.0.0.1:1");
    fixture.allocate(bob, &sealed);
    // 200 a millisecond grow back.
    fixture.now_ms += 1;
    assert_eq!(fixture.give(mallory, &guess).code(), 401);
    assert_eq!(fixture.give(mallory, &guess), silence);
    // With a live allocation one guesses no cheaper.
    let other = fixture.signed(alice(), &wrong, Method::ALLOCATE, udp);
    assert_eq!(fixture.give(alice(), &other), silence);
    fixture.now_ms += 1;
    fixture.allocate(client(Transport::Udp, "84.0.0.1:1"), &lives(&secrets[199], 600, "c"));
}
