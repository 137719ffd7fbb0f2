//! RFC 8489: SHA-256 integrity, PASSWORD-ALGORITHMS against bid-down, USERHASH. A server may offer them.

use stun::{AttributeType, Integrity, IntegrityAlgorithm, LongTermKey, PasswordAlgorithm};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Reply, Request, Signature};
use crate::outcome::{Outcome, Verdict, ensure, fail, skip};
use crate::sha256;
use crate::target::Target;

/// What a nonce begins with that carries security feature bits. RFC 8489 §9.2.
const NONCE_COOKIE: &[u8] = b"obMatJos2";
const MD5: [u8; 4] = [0, 1, 0, 0];
const SHA256: [u8; 4] = [0, 2, 0, 0];

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8489-14.6-sha256-integrity-is-accepted", sha256_accepted),
    check("rfc8489-9.2.4-unnamed-algorithm-is-answered-with-sha1", sha256_unnamed),
    check("rfc8489-14.6-wrong-sha256-integrity-401", sha256_wrong),
    check("rfc8489-14.6-truncated-below-16-bytes-is-no-success", sha256_truncated),
    check("rfc8489-9.2.4-password-algorithms-go-with-the-nonces-bit", algorithms_and_bit),
    check("rfc8489-9.2.4-neither-algorithm-attribute-means-md5", neither_means_md5),
    check("rfc8489-9.2.4-chosen-sha256-is-accepted", |target| {
        chosen(target, &[MD5, SHA256].concat(), &SHA256, None)
    }),
    check("rfc8489-9.2.4-altered-list-400", |target| chosen(target, &MD5, &MD5, Some(400))),
    check("rfc8489-9.2.4-choice-outside-the-list-400", |target| {
        chosen(target, &[MD5, SHA256].concat(), &[0, 9, 0, 0], Some(400))
    }),
    check("rfc8489-9.2.4-choice-without-the-list-400", |target| chosen(target, &[], &SHA256, Some(400))),
    check("rfc8489-9.2.4-list-without-a-choice-400", |target| {
        chosen(target, &[MD5, SHA256].concat(), &[], Some(400))
    }),
    check("rfc8489-9.2.1-nonce-with-cleared-bits-438", cleared_bits),
    check("rfc8489-14.4-userhash-is-accepted", userhash),
];

/// The bytes with MESSAGE-INTEGRITY-SHA256.
fn sealed(request: &Request, key: &LongTermKey) -> Vec<u8> {
    request.bytes_then(|writer| {
        writer.integrity_by(IntegrityAlgorithm::Sha256, key);
    })
}

/// Whether a response's MESSAGE-INTEGRITY-SHA256 was made with this key.
fn is_sealed(reply: &Reply, key: &LongTermKey) -> bool {
    reply.message().integrity_by(IntegrityAlgorithm::Sha256, key) == Integrity::Verified
}

/// The key made with SHA-256 in place of MD5. RFC 8489 §18.5.1.2.
fn sha256_key(signature: &Signature) -> LongTermKey {
    let Signature { username, realm, password, .. } = signature;
    LongTermKey::with_algorithm(PasswordAlgorithm::Sha256, username, realm, password)
}

/// A client to whom the nonce says that SHA-256 can be chosen, or that usernames can be hashed.
fn offered<'t>(target: &'t Target, bit: u8, what: &str) -> Result<(Client<'t>, Vec<u8>), Verdict> {
    let mut client = Client::open(target)?;
    let reply = client.answer(&Request::allocate().bytes())?;
    client.learn(&reply)?;
    let algorithms = reply.attribute(AttributeType::PASSWORD_ALGORITHMS).unwrap_or_default().to_vec();
    match features(&client.signature().nonce) {
        Some(bits) if bits & bit != 0 => Ok((client, algorithms)),
        _ => skip(format!("{what} is not offered: the nonce has no such bit")),
    }
}

const PASSWORD_ALGORITHMS_BIT: u8 = 1;
const USERNAME_ANONYMITY_BIT: u8 = 2;

/// The last six of the 24 security feature bits, which follow the nonce cookie in base64. Bit 0 is the rightmost:
/// erratum 6290 of RFC 8489, §18.1.
fn features(nonce: &[u8]) -> Option<u8> {
    match *nonce.strip_prefix(NONCE_COOKIE)?.get(3)? {
        c @ b'A'..=b'Z' => Some(c - b'A'),
        c @ b'a'..=b'z' => Some(c - b'a' + 26),
        c @ b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// An Allocate with SHA-256 integrity and the MD5 key, which a server that has never heard of it refuses.
fn with_sha256(target: &Target) -> Result<(Reply, LongTermKey), Verdict> {
    let mut client = Client::challenged(target)?;
    let signature = client.signature();
    let key = signature.key();
    let request = Request::allocate().identity(&signature);
    let reply = client.answer(&sealed(&request, &key))?;
    match reply.code() {
        Some(420 | 401) => skip(format!("SHA-256 integrity is not offered: {reply}")),
        _ => Ok((reply, key)),
    }
}

fn sha256_accepted(target: &Target) -> Outcome {
    with_sha256(target)?.0.success("Allocate with MESSAGE-INTEGRITY-SHA256")
}

/// A request without PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS is taken for one of RFC 5389, whatever its integrity.
fn sha256_unnamed(target: &Target) -> Outcome {
    let (reply, key) = with_sha256(target)?;
    ensure(reply.is_sealed_with(&key), "expected MESSAGE-INTEGRITY in the response, made with the key")
}

fn sha256_wrong(target: &Target) -> Outcome {
    with_sha256(target)?;
    let mut client = Client::challenged(target)?;
    let request = Request::allocate().identity(&client.signature());
    let reply = client.answer(&sealed(&request, &LongTermKey::new(b"another", b"key", b"")))?;
    reply.refused("Allocate with a wrong MESSAGE-INTEGRITY-SHA256", &[401])
}

fn sha256_truncated(target: &Target) -> Outcome {
    with_sha256(target)?;
    let mut client = Client::challenged(target)?;
    for length in [0_usize, 4, 12] {
        let request = Request::allocate().identity(&client.signature());
        let bytes = request.with(AttributeType::MESSAGE_INTEGRITY_SHA256, vec![0; length]).bytes();
        if let Some(reply) = client.try_answer(&bytes, crate::client::SILENCE)? {
            reply.refused(&format!("MESSAGE-INTEGRITY-SHA256 of {length} bytes"), &[400, 401])?;
        }
    }
    Ok(())
}

fn algorithms_and_bit(target: &Target) -> Outcome {
    let reply = Client::open(target)?.answer(&Request::allocate().bytes())?;
    let bit =
        reply.attribute(AttributeType::NONCE).and_then(features).unwrap_or(0) & PASSWORD_ALGORITHMS_BIT != 0;
    match (bit, reply.has(AttributeType::PASSWORD_ALGORITHMS)) {
        (true, true) => Ok(()),
        (false, false) => skip("PASSWORD-ALGORITHMS are not offered"),
        (true, false) => fail("the nonce says PASSWORD-ALGORITHMS, but the 401 has none"),
        (false, true) => {
            fail("the 401 has PASSWORD-ALGORITHMS, but its nonce lacks the bit that protects them")
        }
    }
}

fn neither_means_md5(target: &Target) -> Outcome {
    let (mut client, _) = offered(target, PASSWORD_ALGORITHMS_BIT, "PASSWORD-ALGORITHMS")?;
    client.allocate(&Request::allocate()).map(drop)
}

/// An Allocate with this list and this choice; where the list is the server's own, it is taken from the server.
fn chosen(target: &Target, list: &[u8], choice: &[u8], expected: Option<u16>) -> Outcome {
    let (mut client, offered) = offered(target, PASSWORD_ALGORITHMS_BIT, "PASSWORD-ALGORITHMS")?;
    let both = list.len() == 8;
    if choice == SHA256 && !offered.as_chunks::<4>().0.contains(&SHA256) {
        return skip("SHA-256 is not among the PASSWORD-ALGORITHMS");
    }
    let list = if both { &offered } else { list };
    if !both && list == offered {
        return skip("only one algorithm is offered: the list cannot be shortened");
    }
    let signature = client.signature();
    let mut request = Request::allocate().identity(&signature);
    if !list.is_empty() {
        request = request.with(AttributeType::PASSWORD_ALGORITHMS, list);
    }
    if !choice.is_empty() {
        request = request.with(AttributeType::PASSWORD_ALGORITHM, choice);
    }
    let key = if choice == SHA256 { sha256_key(&signature) } else { signature.key() };
    let reply = client.answer(&sealed(&request, &key))?;
    let what = format!("Allocate with PASSWORD-ALGORITHMS {list:?} and PASSWORD-ALGORITHM {choice:?}");
    match expected {
        Some(code) => reply.refused(&what, &[code]),
        None => {
            reply.success(&what)?;
            ensure(is_sealed(&reply, &key), "expected the response sealed with the same SHA-256 key")
        }
    }
}

fn cleared_bits(target: &Target) -> Outcome {
    let (mut client, _) = offered(target, PASSWORD_ALGORITHMS_BIT, "PASSWORD-ALGORITHMS")?;
    let mut signature = client.signature();
    let bits = signature.nonce.iter_mut().skip(NONCE_COOKIE.len()).take(4);
    bits.for_each(|byte| *byte = b'A');
    let reply = client.answer(&Request::allocate().signed(&signature))?;
    reply.refused("Allocate with the nonce's security bits cleared", &[438, 401])
}

fn userhash(target: &Target) -> Outcome {
    let (mut client, _) = offered(target, USERNAME_ANONYMITY_BIT, "USERHASH")?;
    let signature = client.signature();
    let hash = sha256::digest(&[&signature.username, b":", &signature.realm]);
    let request = Request::allocate()
        .with(AttributeType::USERHASH, hash)
        .with(AttributeType::REALM, &signature.realm)
        .with(AttributeType::NONCE, &signature.nonce);
    let reply = client.answer(&sealed(&request, &signature.key()))?;
    reply.success("Allocate with USERHASH in place of USERNAME")
}
