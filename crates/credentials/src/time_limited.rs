//! Time-limited usernames, as applications that hold a [shared secret](crate::SharedSecret) mint them for themselves
//! (draft-uberti-behave-turn-rest-00 §2.2):
//!
//! ```text
//! username  unix seconds of its expiry, in decimal; or that, a colon, and anything
//! password  base64(HMAC-SHA1(shared secret, username))
//! ```
//!
//! The name says nothing about the TURN key or the secret: whoever verifies one tries the secrets there are. No
//! sealed username has this form, for those begin with 96 hex digits.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{CredentialId, SecretText, TurnKeyId};

/// Length of a time-limited username's password: 20 bytes in base64.
pub const TIME_LIMITED_PASSWORD_LEN: usize = 28;
/// The farthest ahead that a relay may be told to accept a time-limited username's expiry, in seconds: a year.
pub const MAX_USERNAME_LIFETIME_SECS: u32 = 31_622_400;
const MAX_USERNAME_BYTES: usize = 508;
/// Enough for every moment of the next 300 million years, and always a `u64`.
const MAX_DIGITS: usize = 16;

const CONTEXT: &[u8] = b"turnery time-limited username v1";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What a time-limited username says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimited<'a> {
    username: &'a [u8],
    /// Unix seconds of the first moment at which it is no longer valid.
    pub expires_at: u64,
}

impl<'a> TimeLimited<'a> {
    /// Reads a username; `None` when it does not have the form of a time-limited one. Whoever made it up.
    pub fn parse(username: &'a [u8]) -> Option<Self> {
        // RFC 8489 §14.3: a USERNAME is UTF-8, and shorter than 509 bytes.
        if username.len() > MAX_USERNAME_BYTES || std::str::from_utf8(username).is_err() {
            return None;
        }
        let digits = username.split(|byte| *byte == b':').next()?;
        if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let expires_at = digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
        Some(Self { username, expires_at })
    }

    /// Names the credential that it is for this TURN key, whichever of the key's secrets signed it.
    pub fn id(&self, key: TurnKeyId) -> CredentialId {
        let mut hash = Sha256::new();
        hash.update(CONTEXT);
        hash.update(key.as_bytes());
        hash.update(self.username);
        let hash: [u8; 32] = hash.finalize().into();
        let (id, _) = hash.split_first_chunk().expect("a hash is longer than an id");
        CredentialId::from_bytes(*id)
    }

    /// Its password, made with this secret: 28 characters of base64.
    pub fn password(&self, secret: &SecretText) -> Zeroizing<[u8; TIME_LIMITED_PASSWORD_LEN]> {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(secret.as_str().as_bytes()).expect("HMAC takes a key of any length");
        mac.update(self.username);
        let mac: Zeroizing<[u8; 20]> = Zeroizing::new(mac.finalize().into_bytes().into());
        base64(&mac)
    }
}

fn base64(bytes: &[u8; 20]) -> Zeroizing<[u8; TIME_LIMITED_PASSWORD_LEN]> {
    let mut text = Zeroizing::new([b'='; TIME_LIMITED_PASSWORD_LEN]);
    for (three, four) in bytes.chunks(3).zip(text.chunks_mut(4)) {
        let bits =
            three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        // One character more than there are bytes.
        for (place, character) in four.iter_mut().enumerate().take(three.len() + 1) {
            let sextet = bits >> (18 - 6 * place) & 63;
            *character = BASE64.get(sextet).copied().unwrap_or(b'=');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_is_a_number_and_anything() {
        let check = |username: &str, expected: Option<u64>| {
            let parsed = TimeLimited::parse(username.as_bytes());
            assert_eq!(parsed.map(|it| it.expires_at), expected, "{username:?}");
        };
        check("1800000000", Some(1_800_000_000));
        check("1800000000:", Some(1_800_000_000));
        check("1800000000:alice", Some(1_800_000_000));
        check("1800000000:@alice:example.org", Some(1_800_000_000));
        check("0:x", Some(0));
        check("0001:x", Some(1));
        check("9999999999999999:x", Some(9_999_999_999_999_999));
        check("10000000000000000:x", None);
        check("", None);
        check(":1800000000", None);
        check("alice:1800000000", None);
        check("+1800000000:alice", None);
        check("-1:alice", None);
        check("1800000000 :alice", None);
        check("18e8:alice", None);
        check("1800000000.5:alice", None);
        check("\u{0661}:alice", None);
        check(&"1".repeat(96), None);
    }

    #[test]
    fn rfc8489_14_3_a_username_is_utf8_of_at_most_508_bytes() {
        let is_one = |rest: &[u8]| TimeLimited::parse(&[b"1:", rest].concat()).is_some();
        assert!(is_one(&[b'a'; 506]) && !is_one(&[b'a'; 507]));
        assert!(is_one("é".as_bytes()) && !is_one(&[0xE9]));
    }

    /// `printf %s USERNAME | openssl dgst -binary -sha1 -hmac SECRET | base64`
    #[test]
    fn passwords_are_those_of_openssl() {
        let check = |secret: &str, username: &str, expected: &str| {
            let secret: SecretText = secret.parse().unwrap();
            let password = TimeLimited::parse(username.as_bytes()).unwrap().password(&secret);
            assert_eq!(std::str::from_utf8(&*password).unwrap(), expected, "{username}");
        };
        check("north-north-west", "1800000000:alice", "8e0eS7d4Vjjf0jdkcOxetfPHCJw=");
        check("north-north-west", "1800000000", "iV07nrJj7bQW/LVM1gP2bUAiZCs=");
        check(&"k".repeat(256), "1800000000:@bob:example.org", "5to83RpBAHxEuX8ibaT8MaG5VnM=");
    }

    #[test]
    fn base64_is_that_of_rfc4648() {
        let bytes = |n: u8| std::array::from_fn(|place| u8::try_from(place).unwrap().wrapping_mul(n));
        for (bytes, expected) in [
            ([0; 20], "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ([0xFF; 20], "//////////////////////////8="),
            (bytes(13), "AA0aJzRBTltodYKPnKm2w9Dd6vc="),
        ] {
            assert_eq!(std::str::from_utf8(&*base64(&bytes)).unwrap(), expected);
        }
    }

    #[test]
    fn an_id_depends_on_key_and_username() {
        let (one, two) = (TurnKeyId::from_bytes([1; 16]), TurnKeyId::from_bytes([2; 16]));
        let id = |key, username: &str| TimeLimited::parse(username.as_bytes()).unwrap().id(key);
        assert_eq!(id(one, "5:a"), id(one, "5:a"));
        assert_ne!(id(one, "5:a"), id(two, "5:a"));
        assert_ne!(id(one, "5:a"), id(one, "5:b"));
        assert_ne!(id(one, "5:"), id(one, "5"), "another spelling has another password");
    }
}
