//! RFC 8489 §9.2: long-term credentials. RFC 8656 §5: who may use an allocation.

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Reply, Request, Signature, UNKNOWN_REQUIRED};
use crate::outcome::{Outcome, Verdict, ensure};
use crate::path::Path;
use crate::target::{Target, User};

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8489-9.2.4-allocate-without-integrity-401", |target| {
        challenge(target)?.refused("Allocate without integrity", &[401])
    }),
    check("rfc8489-9.2.4-401-has-realm-and-nonce", realm_and_nonce),
    check("rfc8489-9.2.4-401-has-no-username-or-integrity", bare_challenge),
    check("rfc8489-6.3.1-authentication-comes-before-unknown-attributes", challenge_before_unknown),
    check("rfc8489-9.2.4-integrity-without-username-400", |target| without(target, AttributeType::USERNAME)),
    check("rfc8489-9.2.4-integrity-without-realm-400", |target| without(target, AttributeType::REALM)),
    check("rfc8489-9.2.4-integrity-without-nonce-400", |target| without(target, AttributeType::NONCE)),
    check("rfc8489-9.2.4-that-400-has-no-integrity", no_integrity_on_400),
    check("rfc8489-9.2.4-forged-nonce-438", |target| bad_nonce(target, |nonce| vec![b'x'; nonce.len()])),
    check("rfc8489-9.2.4-altered-nonce-438", |target| {
        bad_nonce(target, |nonce| nonce.iter().rev().copied().collect())
    }),
    check("rfc8489-9.2.4-empty-nonce-is-no-success", empty_nonce),
    check("rfc8489-9.2.4-nonce-of-438-works", nonce_of_438),
    check("rfc8489-9.2.4-wrong-password-401", |target| {
        altered(target, "a wrong password", |s| s.password.push(b'x'))
    }),
    check("rfc8489-9.2.4-empty-password-401", |target| {
        altered(target, "an empty password", |s| s.password.clear())
    }),
    check("rfc8489-9.2.4-unknown-user-401", |target| {
        altered(target, "an unknown user", |s| s.username = b"nobody-knows-me".to_vec())
    }),
    check("rfc8489-9.2.4-empty-username-401", |target| {
        altered(target, "an empty USERNAME", |s| s.username.clear())
    }),
    check("rfc8489-9.2.4-wrong-realm-401", |target| {
        altered(target, "another realm", |s| s.realm = b"elsewhere.invalid".to_vec())
    }),
    check("rfc8489-14.3-overlong-username-is-refused", overlong_username),
    check("rfc8489-9.2.4-401-for-a-wrong-password-has-realm-and-nonce", wrong_password_challenge),
    check("rfc8489-14.5-altered-request-401", altered_request),
    check("rfc8489-14.5-altered-integrity-401", altered_integrity),
    check("rfc8489-14.5-short-integrity-is-no-success", short_integrity),
    check("rfc8489-9.2.4-success-response-has-integrity", success_has_integrity),
    check("rfc8489-9.2.4-error-response-has-integrity", error_has_integrity),
    check("rfc8489-9.2-nonce-serves-several-requests", nonce_serves),
    check("rfc8489-9.2.4-wrong-password-changes-nothing", wrong_password_changes_nothing),
    check("rfc8489-9.2.4-refresh-without-integrity-401", |target| unsigned(target, |_| Request::refresh(0))),
    check("rfc8489-9.2.4-create-permission-without-integrity-401", |target| {
        unsigned(target, |path| Request::permission(&[path.at]))
    }),
    check("rfc8489-9.2.4-channel-bind-without-integrity-401", |target| {
        unsigned(target, |path| Request::channel_bind(0x4000, path.at))
    }),
    check("rfc8656-5-refresh-by-another-user-441", |target| {
        by_another_user(target, |_| Request::refresh(600))
    }),
    check("rfc8656-5-delete-by-another-user-441", |target| by_another_user(target, |_| Request::refresh(0))),
    check("rfc8656-5-create-permission-by-another-user-441", |target| {
        by_another_user(target, |path| Request::permission(&[path.at]))
    }),
    check("rfc8656-5-channel-bind-by-another-user-441", |target| {
        by_another_user(target, |path| Request::channel_bind(0x4000, path.at))
    }),
];

fn challenge(target: &Target) -> Result<Reply, Verdict> {
    Client::open(target)?.answer(&Request::allocate().bytes())
}

fn realm_and_nonce(target: &Target) -> Outcome {
    let reply = challenge(target)?;
    let length = |kind| reply.attribute(kind).map_or(0, <[u8]>::len);
    let (realm, nonce) = (length(AttributeType::REALM), length(AttributeType::NONCE));
    ensure((1..=763).contains(&realm), format!("401: expected a REALM of 1 to 763 bytes, got {realm}"))?;
    ensure((1..=763).contains(&nonce), format!("401: expected a NONCE of 1 to 763 bytes, got {nonce}"))
}

fn bare_challenge(target: &Target) -> Outcome {
    let reply = challenge(target)?;
    let found: Vec<_> = [AttributeType::USERNAME, AttributeType::USERHASH, AttributeType::MESSAGE_INTEGRITY]
        .into_iter()
        .filter(|kind| reply.has(*kind))
        .collect();
    ensure(found.is_empty(), format!("401 to a stranger: expected none of {found:?}"))
}

fn challenge_before_unknown(target: &Target) -> Outcome {
    let request = Request::allocate().with(UNKNOWN_REQUIRED, b"x");
    let reply = Client::open(target)?.answer(&request.bytes())?;
    reply.refused("Allocate with an unknown attribute and without integrity", &[401])
}

/// Signed, but for one attribute that is left out.
fn incomplete(target: &Target, left_out: AttributeType) -> Result<(Reply, Signature), Verdict> {
    let mut client = Client::challenged(target)?;
    let signature = client.signature();
    let parts = [
        (AttributeType::USERNAME, &signature.username),
        (AttributeType::REALM, &signature.realm),
        (AttributeType::NONCE, &signature.nonce),
    ];
    let kept = parts.into_iter().filter(|(kind, _)| *kind != left_out);
    let request = kept.fold(Request::allocate(), |request, (kind, value)| request.with(kind, value));
    let reply = client.answer(&request.sealed(&signature.key()))?;
    Ok((reply, signature))
}

fn without(target: &Target, left_out: AttributeType) -> Outcome {
    let (reply, _) = incomplete(target, left_out)?;
    reply.refused(&format!("Allocate with MESSAGE-INTEGRITY but without {left_out:?}"), &[400])
}

fn no_integrity_on_400(target: &Target) -> Outcome {
    let (reply, _) = incomplete(target, AttributeType::NONCE)?;
    ensure(
        !reply.has(AttributeType::MESSAGE_INTEGRITY),
        "400 to an incomplete request: expected no integrity",
    )
}

fn bad_nonce(target: &Target, change: fn(&[u8]) -> Vec<u8>) -> Outcome {
    let mut client = Client::challenged(target)?;
    let mut signature = client.signature();
    signature.nonce = change(&signature.nonce);
    let reply = client.answer(&Request::allocate().signed(&signature))?;
    reply.refused("Allocate with a nonce this server never issued", &[438])?;
    let fresh = reply.has(AttributeType::NONCE) && reply.has(AttributeType::REALM);
    ensure(fresh, "438: expected REALM and a fresh NONCE in it")
}

fn empty_nonce(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let signature = Signature { nonce: Vec::new(), ..client.signature() };
    let reply = client.answer(&Request::allocate().signed(&signature))?;
    reply.refused("Allocate with an empty NONCE", &[400, 438])
}

fn nonce_of_438(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let forged = Signature { nonce: b"stale".to_vec(), ..client.signature() };
    let reply = client.answer(&Request::allocate().signed(&forged))?;
    reply.refused("Allocate with a stale nonce", &[438])?;
    client.learn(&reply)?;
    client.allocate(&Request::allocate()).map(drop)
}

fn altered(target: &Target, what: &str, change: fn(&mut Signature)) -> Outcome {
    let mut client = Client::challenged(target)?;
    let mut signature = client.signature();
    change(&mut signature);
    let reply = client.answer(&Request::allocate().signed(&signature))?;
    reply.refused(&format!("Allocate with {what}"), &[401])
}

fn overlong_username(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    // RFC 8489 §14.3: fewer than 509 bytes.
    let signature = Signature { username: vec![b'u'; 600], ..client.signature() };
    match client.try_answer(&Request::allocate().signed(&signature), crate::client::SILENCE)? {
        None => client.still_answered("an overlong USERNAME"),
        Some(reply) => reply.refused("Allocate with a USERNAME of 600 bytes", &[400, 401]),
    }
}

fn wrong_password_challenge(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let signature = Signature { password: b"wrong".to_vec(), ..client.signature() };
    let reply = client.answer(&Request::allocate().signed(&signature))?;
    reply.refused("Allocate with a wrong password", &[401])?;
    client.learn(&reply)?;
    client.allocate(&Request::allocate()).map(drop)
}

fn altered_request(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let mut bytes = Request::allocate().lifetime(700).signed(&client.signature());
    // The last byte of LIFETIME, which stands behind REQUESTED-TRANSPORT.
    if let Some(byte) = bytes.get_mut(35) {
        *byte ^= 1;
    }
    client.answer(&bytes)?.refused("Allocate whose LIFETIME was altered on the way", &[401])
}

fn altered_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    for place in [1, 20] {
        let mut bytes = Request::allocate().signed(&client.signature());
        let at = bytes.len() - place;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 0x80;
        }
        client.answer(&bytes)?.refused("Allocate whose MESSAGE-INTEGRITY was altered", &[401])?;
    }
    Ok(())
}

fn short_integrity(target: &Target) -> Outcome {
    for length in [0_usize, 4, 19] {
        let mut client = Client::challenged(target)?;
        let request = Request::allocate().identity(&client.signature());
        let bytes = request.with(AttributeType::MESSAGE_INTEGRITY, vec![0; length]).bytes();
        if let Some(reply) = client.try_answer(&bytes, crate::client::SILENCE)? {
            reply.refused(&format!("MESSAGE-INTEGRITY of {length} bytes"), &[400, 401])?;
        }
    }
    Ok(())
}

fn success_has_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let reply = client.allocate(&Request::allocate())?;
    let sealed = reply.is_sealed_with(&client.signature().key());
    ensure(sealed, "Allocate success: expected MESSAGE-INTEGRITY made with the user's key")
}

fn error_has_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let key = client.signature().key();
    for request in [Request::refresh(600), Request::new(Method::ALLOCATE)] {
        let reply = client.ask(&request)?;
        ensure(reply.code().is_some(), format!("expected an error, got {reply}"))?;
        let sealed = reply.is_sealed_with(&key);
        ensure(sealed, format!("{reply} to an authenticated request: expected MESSAGE-INTEGRITY in it"))?;
    }
    Ok(())
}

fn nonce_serves(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    for _ in 0..5 {
        client.succeed(&Request::refresh(600))?;
    }
    Ok(())
}

fn wrong_password_changes_nothing(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    let signature = Signature { password: b"wrong".to_vec(), ..path.client.signature() };
    let reply = path.client.answer(&Request::refresh(0).signed(&signature))?;
    reply.refused("Refresh with LIFETIME 0 and a wrong password", &[401])?;
    path.still_relays("after a deletion with a wrong password")
}

fn unsigned(target: &Target, request: fn(&Path<'_>) -> Request) -> Outcome {
    let mut path = Path::open(target)?;
    let request = request(&path);
    let reply = path.client.answer(&request.bytes())?;
    reply.refused(&format!("{:?} without integrity", request.method), &[401])?;
    path.send(b"x")?;
    path.peer.expect_nothing("after a request without integrity")?;
    path.client.succeed(&Request::refresh(600)).map(drop)
}

fn by_another_user(target: &Target, request: fn(&Path<'_>) -> Request) -> Outcome {
    let other: &User = target.other()?;
    let mut path = Path::open(target)?;
    let signature = path.client.signature_of(other);
    let request = request(&path);
    let reply = path.client.answer(&request.signed(&signature))?;
    reply.refused(&format!("{:?} by a user who did not allocate", request.method), &[441])?;
    path.send(b"x")?;
    path.peer.expect_nothing("after another user's request")?;
    path.client.succeed(&Request::refresh(600)).map(drop)
}
