//! Secrets: made from the operating system's randomness, kept as SHA-256.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::store::StoreError;
use crate::store::types::TypeError;

const TOKEN_CHARS: usize = 40;
const TOKEN_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

/// The SHA-256 of a secret: what is stored in its place.
///
/// The secrets have at least 128 bits of randomness, so the hash needs neither salt nor slowness. Looking one up by
/// its hash tells nothing of the secret either.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Whether it is the hash of `secret`, in a time that tells nothing of where they differ.
    pub fn matches(&self, secret: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// An API token as its owner holds it. Shown once, stored nowhere.
#[derive(Clone)]
pub struct TokenText(String);

impl TokenText {
    pub(super) fn random() -> Result<Self, StoreError> {
        let bytes: [u8; TOKEN_CHARS] = random_bytes()?;
        let text = bytes.iter().filter_map(|byte| TOKEN_ALPHABET.get(usize::from(byte & 63)));
        Ok(Self(text.map(|&c| char::from(c)).collect()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }
}

/// Reads a token text chosen by an operator: 32 to 128 characters of `A-Za-z0-9_-`.
impl FromStr for TokenText {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let allowed = text.bytes().all(|b| TOKEN_ALPHABET.contains(&b));
        if !allowed || !(32..=128).contains(&text.len()) {
            return Err(TypeError("an API token is 32 to 128 characters of A-Z, a-z, 0-9, `_` and `-`"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(..)")
    }
}

/// A TURN key's secret: 64 lower-case hex digits.
pub(super) fn key_secret() -> Result<String, StoreError> {
    Ok(hex::encode(random_bytes::<32>()?))
}

pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_random_token_has_the_form_of_a_token() {
        let token = TokenText::random().unwrap();
        assert_eq!(token.as_str().len(), TOKEN_CHARS);
        assert!(token.as_str().parse::<TokenText>().is_ok());
    }

    #[test]
    fn a_chosen_token_is_checked() {
        let check = |text: &str, ok: bool| assert_eq!(text.parse::<TokenText>().is_ok(), ok, "{text}");
        check(&"a".repeat(31), false);
        check(&"a".repeat(32), true);
        check(&"Z9_-".repeat(32), true);
        check(&"a".repeat(129), false);
        check(&format!("{} ", "a".repeat(40)), false);
        check(&format!("{}+", "a".repeat(40)), false);
    }

    #[test]
    fn secrets_do_not_print() {
        let token = TokenText::random().unwrap();
        assert!(!format!("{token:?} {:?}", token.hash()).contains(token.as_str()));
    }

    #[test]
    fn a_hash_matches_its_secret_only() {
        let hash = SecretHash::of(b"secret");
        assert!(hash.matches(b"secret"));
        assert!(!hash.matches(b"secrets"));
    }
}
