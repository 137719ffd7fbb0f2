//! The keyring while others keep it: sealed with a key that they do not have.

use std::fmt;
use std::str::FromStr;

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{Keyring, KeyringError, MintError};

const CONTEXT: &[u8] = b"turnery sealed keyring v1";
const KEY_BYTES: usize = 32;

/// Seals the keyring. It stays the same when the keyring's own keys change.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct SealingKey([u8; KEY_BYTES]);

/// A text is no [`SealingKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a sealing key, which is 64 hex digits")]
pub struct SealingKeyError;

/// Why a sealed keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealedKeyringError {
    /// It was sealed with another key, as another version, or by nobody.
    #[error("it was sealed with another key, or changed since")]
    Forged,
    /// What was sealed is no keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl SealingKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> Result<Self, KeyringError> {
        let mut key = Self([0; KEY_BYTES]);
        getrandom::fill(&mut key.0).map_err(KeyringError::Randomness)?;
        Ok(key)
    }

    /// The text that it is read from, to be stored where only the service can read it.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0))
    }

    /// Seals a keyring. It opens as this version only, which is authenticated and not kept.
    ///
    /// # Errors
    /// When the cipher refuses, which it does only for texts of impossible length.
    pub fn seal(&self, keyring: &Keyring, version: u64) -> Result<Vec<u8>, MintError> {
        let text = keyring.to_text();
        self.cipher().encrypt(associated_data(version), text.as_bytes()).map_err(|_| MintError::Seal)
    }

    /// Opens a sealed keyring.
    ///
    /// # Errors
    /// When this key has not sealed it as this version.
    pub fn open(&self, version: u64, sealed: &[u8]) -> Result<Keyring, SealedKeyringError> {
        let opened = self.cipher().decrypt(associated_data(version), sealed);
        let opened = Zeroizing::new(opened.map_err(|_| SealedKeyringError::Forged)?);
        let text = std::str::from_utf8(&opened).map_err(|_| SealedKeyringError::Forged)?;
        Ok(Keyring::parse(text)?)
    }

    fn cipher(&self) -> Aes128Siv {
        Aes128Siv::new_from_slice(&self.0).expect("it is AES-128-SIV's key size")
    }
}

impl FromStr for SealingKey {
    type Err = SealingKeyError;

    fn from_str(text: &str) -> Result<Self, SealingKeyError> {
        let mut key = Self([0; KEY_BYTES]);
        hex::decode_to_slice(text, &mut key.0).map_err(|_| SealingKeyError)?;
        Ok(key)
    }
}

/// Shows nothing of it.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

fn associated_data(version: u64) -> [Vec<u8>; 2] {
    [CONTEXT.to_vec(), version.to_be_bytes().to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_keyring_opens_with_its_key_as_its_version_only() {
        let mut ring = Keyring::generate(1_800_000_000).unwrap();
        ring.prepare(1_800_000_001).unwrap();
        let key = SealingKey::generate().unwrap();
        let sealed = key.seal(&ring, 3).unwrap();
        assert!(!sealed.windows(6).any(|it| it == b"secret"));
        assert_eq!(key.open(3, &sealed).unwrap(), ring);
        let read: SealingKey = key.to_text().parse().unwrap();
        assert_eq!(read.open(3, &sealed).unwrap(), ring);
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        let other = SealingKey::generate().unwrap();
        for (key, version, sealed) in
            [(&key, 4, &sealed[..]), (&key, 3, &changed), (&key, 3, b""), (&other, 3, &sealed)]
        {
            let refused = key.open(version, sealed);
            assert!(matches!(refused, Err(SealedKeyringError::Forged)), "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_and_nothing_is_shown() {
        let key = SealingKey::generate().unwrap();
        let text = key.to_text();
        for wrong in ["", "0", &text[1..], &format!("{}00", *text), &text.replace(&text[..1], "x")] {
            let error = wrong.parse::<SealingKey>().unwrap_err().to_string();
            assert!(error.contains("64 hex digits") && !error.contains(&text[8..]), "{error}");
        }
        assert!(!format!("{key:?}").contains(&text[..8]));
    }
}
