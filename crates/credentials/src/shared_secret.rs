//! Shared secrets: what applications sign [time-limited usernames](crate::TimeLimited) with.
//!
//! A shared secret is stored sealed by the keyring:
//!
//! ```text
//! header  1 byte    id of the keyring's key, in the clear, authenticated
//! tag    16 bytes   AES-SIV's synthetic IV over header, TURN key uid, the secret's id and its text
//!    16..=256       encrypted: the text
//! ```

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Keyring, MintError, OpenError, SharedSecretId, TurnKeyId};

/// The shortest shared secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 16;
/// The longest shared secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 256;

const CONTEXT: &[u8] = b"turnery shared secret v1";
const GENERATED_BYTES: usize = 32;

/// A shared secret's text: 16 to 256 printable characters of ASCII.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretText(String);

/// The text cannot be a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shared secret is {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} printable characters of ASCII")]
pub struct SecretTextError;

impl SecretText {
    /// 64 random lower-case hex digits.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> Result<Self, MintError> {
        let mut bytes = Zeroizing::new([0; GENERATED_BYTES]);
        getrandom::fill(&mut *bytes).map_err(|_| MintError::Randomness)?;
        Ok(Self(hex::encode(*bytes)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretText {
    type Err = SecretTextError;

    fn from_str(text: &str) -> Result<Self, SecretTextError> {
        let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_printable || !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&text.len()) {
            return Err(SecretTextError);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Never shows the text.
impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// A shared secret of a TURN key, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSecret {
    /// Its id, which is no secret.
    pub id: SharedSecretId,
    /// Its text.
    pub text: SecretText,
}

/// A shared secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret(Vec<u8>);

impl SealedSecret {
    /// What was stored.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What to store: 33 to 273 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Keyring {
    /// Seals a TURN key's shared secret with the current key.
    ///
    /// # Errors
    /// When the cipher refuses, which it does only for texts of impossible length.
    pub fn seal_shared_secret(
        &self,
        key: TurnKeyId,
        secret: &SharedSecret,
    ) -> Result<SealedSecret, MintError> {
        let by = self.current_id();
        let sealed = self.seal(&associated_data(by, key, secret.id), secret.text.as_str().as_bytes())?;
        let mut bytes = Vec::with_capacity(1 + sealed.len());
        bytes.push(by);
        bytes.extend_from_slice(&sealed);
        Ok(SealedSecret(bytes))
    }

    /// Opens the shared secret `id` of a TURN key.
    ///
    /// # Errors
    /// When it was sealed with a key that is not held, for another TURN key or id, or by nobody.
    pub fn open_shared_secret(
        &self,
        key: TurnKeyId,
        id: SharedSecretId,
        sealed: &SealedSecret,
    ) -> Result<SharedSecret, OpenError> {
        let (&by, rest) = sealed.0.split_first().ok_or(OpenError::Malformed)?;
        let plaintext = Zeroizing::new(self.unseal(by, &associated_data(by, key, id), rest)?);
        let text = std::str::from_utf8(&plaintext).map_err(|_| OpenError::Forged)?;
        Ok(SharedSecret { id, text: text.parse().map_err(|_| OpenError::Forged)? })
    }

    /// Whether the current key sealed it; if not, it is to be sealed again before that key retires.
    pub fn sealed_currently(&self, sealed: &SealedSecret) -> bool {
        sealed.0.first() == Some(&self.current_id())
    }
}

fn associated_data(by: u8, key: TurnKeyId, id: SharedSecretId) -> Vec<u8> {
    [CONTEXT, &[by], key.as_bytes(), id.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const KEY: TurnKeyId = TurnKeyId::from_bytes([9; 16]);

    fn secret(n: u8) -> SharedSecret {
        SharedSecret { id: SharedSecretId::from_bytes([n; 16]), text: SecretText::generate().unwrap() }
    }

    #[test]
    fn a_text_is_printable_and_neither_short_nor_long() {
        let check = |text: &str, ok: bool| assert_eq!(text.parse::<SecretText>().is_ok(), ok, "{text:?}");
        check(&"a".repeat(15), false);
        check(&"a".repeat(16), true);
        check("~ !\"pass phrase with spaces", true);
        check(&"a".repeat(256), true);
        check(&"a".repeat(257), false);
        check("0123456789abcde\n", false);
        check("0123456789abcde\u{7f}", false);
        check("0123456789abcdeé", false);
        let generated = SecretText::generate().unwrap();
        assert_eq!(generated.as_str().len(), 64);
        assert!(!format!("{generated:?}").contains(generated.as_str()));
    }

    #[test]
    fn a_sealed_secret_opens_for_its_key_and_id_only() {
        let ring = Keyring::generate(NOW).unwrap();
        let secret = secret(1);
        let sealed = ring.seal_shared_secret(KEY, &secret).unwrap();
        assert_eq!(sealed.as_bytes().len(), 1 + 16 + 64);
        assert!(!sealed.as_bytes().windows(8).any(|it| secret.text.as_str().as_bytes().starts_with(it)));
        assert_eq!(ring.open_shared_secret(KEY, secret.id, &sealed).as_ref(), Ok(&secret));
        let other_key = TurnKeyId::from_bytes([8; 16]);
        let other_id = SharedSecretId::from_bytes([2; 16]);
        assert_eq!(ring.open_shared_secret(other_key, secret.id, &sealed), Err(OpenError::Forged));
        assert_eq!(ring.open_shared_secret(KEY, other_id, &sealed), Err(OpenError::Forged));
        for place in 0..sealed.as_bytes().len() {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[place] ^= 1;
            let opened = ring.open_shared_secret(KEY, secret.id, &SealedSecret::from_bytes(bytes));
            assert!(opened.is_err(), "changed at {place}");
        }
        for bytes in [vec![], vec![1], vec![1; 16]] {
            let opened = ring.open_shared_secret(KEY, secret.id, &SealedSecret::from_bytes(bytes));
            assert!(opened.is_err());
        }
    }

    #[test]
    fn a_sealed_secret_outlives_rotation_when_it_is_sealed_again() {
        let mut ring = Keyring::generate(NOW).unwrap();
        let secret = secret(1);
        let first = ring.seal_shared_secret(KEY, &secret).unwrap();
        assert!(ring.sealed_currently(&first));
        ring.rotate(NOW + 10).unwrap();
        assert!(!ring.sealed_currently(&first));
        let second = ring.seal_shared_secret(KEY, &secret).unwrap();
        ring.rotate(NOW + 10 + 50 * 3_600).unwrap();
        assert_eq!(ring.open_shared_secret(KEY, secret.id, &first), Err(OpenError::UnknownKey));
        assert_eq!(ring.open_shared_secret(KEY, secret.id, &second), Ok(secret));
    }
}
