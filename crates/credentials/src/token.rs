//! The token's format, version 1. A username is the lower-case hex of
//!
//! ```text
//! header  1 byte    id of the keyring's key (below 128), in the clear, authenticated
//! tag    16 bytes   AES-SIV's synthetic IV over header and claims; also the credential's id
//! claims 31 bytes   encrypted: TURN key uid 16, salt 8, issued at 4 (unix seconds), ttl 3
//!        0..=128    encrypted: customIdentifier, UTF-8
//! ```
//!
//! and its password the lower-case hex of HMAC-SHA-384 over the username's characters: 96 characters each
//! when there is no customIdentifier. The longest username has 352, below the 508 of RFC 8489 §14.3.

use std::cell::RefCell;

use crate::{CredentialId, IdentifierId, Issued, Keyring, TurnKeyId};

/// The shortest time to live that can be asked for, in seconds.
pub const MIN_TTL_SECS: u32 = 1;
/// The longest time to live that can be asked for, in seconds: 48 hours.
pub const MAX_TTL_SECS: u32 = 172_800;
/// The longest `customIdentifier`, in bytes of UTF-8.
pub const MAX_CUSTOM_IDENTIFIER_BYTES: usize = 128;

const CONTEXT: &[u8] = b"turnery credential v1";
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 8;
const MIN_TOKEN_BYTES: usize = 1 + TAG_BYTES + 16 + SALT_BYTES + 4 + 3;
const MAX_TOKEN_BYTES: usize = MIN_TOKEN_BYTES + MAX_CUSTOM_IDENTIFIER_BYTES;

/// What a caller of the credential API calls its user: UTF-8, at most 128 bytes, may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct CustomIdentifier(String);

/// The identifier is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "customIdentifier is {bytes} bytes long; at most {MAX_CUSTOM_IDENTIFIER_BYTES} bytes of UTF-8 are allowed"
)]
pub struct CustomIdentifierError {
    /// Its length.
    pub bytes: usize,
}

impl CustomIdentifier {
    /// The identifier's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CustomIdentifier {
    type Error = CustomIdentifierError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() > MAX_CUSTOM_IDENTIFIER_BYTES {
            return Err(CustomIdentifierError { bytes: text.len() });
        }
        Ok(Self(text))
    }
}

impl TryFrom<&str> for CustomIdentifier {
    type Error = CustomIdentifierError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.to_owned().try_into()
    }
}

/// What a username says once it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The TURN key it was minted with.
    pub key: TurnKeyId,
    /// Unix seconds, below 2^32.
    pub issued_at: u64,
    /// Seconds from `issued_at` to expiry, [`MIN_TTL_SECS`] to [`MAX_TTL_SECS`].
    pub ttl_secs: u32,
    /// Whom the caller minted it for.
    pub custom_identifier: CustomIdentifier,
}

impl Claims {
    /// Unix seconds of the first moment at which the credential is no longer valid.
    pub fn expires_at(&self) -> u64 {
        self.issued_at.saturating_add(self.ttl_secs.into())
    }

    /// What a denial of many credentials goes by.
    pub fn issued(&self) -> Issued {
        Issued { at: self.issued_at, identifier: IdentifierId::of(self.key, &self.custom_identifier) }
    }
}

/// A minted username and password. RFC 8489 §9.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Lower-case hex, 96 to 352 characters.
    pub username: String,
    /// Lower-case hex, 96 characters.
    pub password: String,
    /// The credential's id, for revocation.
    pub id: CredentialId,
    /// Unix seconds.
    pub expires_at: u64,
}

/// An authentic username's contents. Whether it has expired or is denied is for the caller to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it says.
    pub claims: Claims,
    /// The credential's id, for the deny set.
    pub id: CredentialId,
}

/// Why a username could not be minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// `ttl_secs` is out of range.
    #[error("ttl must be {MIN_TTL_SECS} to {MAX_TTL_SECS} seconds")]
    Ttl,
    /// `issued_at` does not fit into 32 bits.
    #[error("the clock is outside the years 1970 to 2106")]
    Clock,
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed")]
    Randomness,
    /// The cipher refused, which it does only for messages of impossible length.
    #[error("sealing failed")]
    Seal,
}

/// Why a username is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not lower-case hex of a possible length.
    #[error("the username does not have the form of a credential")]
    Malformed,
    /// Its keyring key is not held (any more).
    #[error("the username was sealed with a key that is not in the keyring")]
    UnknownKey,
    /// It does not authenticate.
    #[error("the username is not authentic")]
    Forged,
}

impl Keyring {
    /// Mints a credential with the current key. Every call gives another one.
    ///
    /// # Errors
    /// When a claim is out of range or the system's randomness fails.
    pub fn mint(&self, claims: &Claims) -> Result<Credential, MintError> {
        self.mint_with_salt(claims, salt()?)
    }

    /// Mints with a given salt: for tests and simulations, where every run must be the same.
    ///
    /// # Errors
    /// When a claim is out of range.
    pub fn mint_with_salt(&self, claims: &Claims, salt: [u8; SALT_BYTES]) -> Result<Credential, MintError> {
        if !(MIN_TTL_SECS..=MAX_TTL_SECS).contains(&claims.ttl_secs) {
            return Err(MintError::Ttl);
        }
        let issued_at = u32::try_from(claims.issued_at).map_err(|_| MintError::Clock)?;
        let [_, ttl @ ..] = claims.ttl_secs.to_be_bytes();
        let mut plaintext = Vec::with_capacity(MAX_TOKEN_BYTES);
        plaintext.extend_from_slice(claims.key.as_bytes());
        plaintext.extend_from_slice(&salt);
        plaintext.extend_from_slice(&issued_at.to_be_bytes());
        plaintext.extend_from_slice(&ttl);
        plaintext.extend_from_slice(claims.custom_identifier.as_str().as_bytes());

        let id = self.current_id();
        let sealed = self.seal(&associated_data(id), &plaintext)?;
        let tag = *sealed.first_chunk::<TAG_BYTES>().ok_or(MintError::Seal)?;
        let mut token = Vec::with_capacity(1 + sealed.len());
        token.push(id);
        token.extend_from_slice(&sealed);
        let username = hex::encode(token);
        let password = self.mac(id, username.as_bytes()).map_err(|_| MintError::Seal)?;
        Ok(Credential {
            username,
            password: hex::encode(password),
            id: CredentialId::from_bytes(tag),
            expires_at: claims.expires_at(),
        })
    }

    /// Opens a username: authentic or an error. Expiry and denials are not looked at.
    ///
    /// # Errors
    /// When it is not one that this keyring sealed.
    pub fn open(&self, username: &[u8]) -> Result<Opened, OpenError> {
        let mut buffer = [0; MAX_TOKEN_BYTES];
        let token = decode(username, &mut buffer)?;
        let (&key_id, sealed) = token.split_first().ok_or(OpenError::Malformed)?;
        let tag = *sealed.first_chunk::<TAG_BYTES>().ok_or(OpenError::Malformed)?;
        let plaintext = self.unseal(key_id, &associated_data(key_id), sealed)?;
        let claims = Claims::read(&plaintext).ok_or(OpenError::Forged)?;
        Ok(Opened { claims, id: CredentialId::from_bytes(tag) })
    }

    /// The password that belongs to a username. It does not say that the username is authentic. RFC 8489 §9.2.2.
    ///
    /// # Errors
    /// When the username has no possible form or its key is not held.
    pub fn password(&self, username: &[u8]) -> Result<String, OpenError> {
        let mut buffer = [0; MAX_TOKEN_BYTES];
        let token = decode(username, &mut buffer)?;
        let key_id = *token.first().ok_or(OpenError::Malformed)?;
        Ok(hex::encode(self.mac(key_id, username)?))
    }
}

impl Claims {
    fn read(plaintext: &[u8]) -> Option<Self> {
        let (key, rest) = plaintext.split_first_chunk::<16>()?;
        let (_salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (issued_at, rest) = rest.split_first_chunk::<4>()?;
        let (&[a, b, c], custom) = rest.split_first_chunk::<3>()?;
        Some(Self {
            key: TurnKeyId::from_bytes(*key),
            issued_at: u32::from_be_bytes(*issued_at).into(),
            ttl_secs: u32::from_be_bytes([0, a, b, c]),
            custom_identifier: CustomIdentifier::try_from(std::str::from_utf8(custom).ok()?).ok()?,
        })
    }
}

/// Eight bytes of the system's randomness, of which a thread draws many at once: asking for them takes as long as half
/// of the sealing. A salt is no secret; it makes one credential differ from the next.
fn salt() -> Result<[u8; SALT_BYTES], MintError> {
    const DRAWN: usize = 32;
    thread_local! {
        static SALTS: RefCell<Vec<[u8; SALT_BYTES]>> = const { RefCell::new(Vec::new()) };
    }
    SALTS.with_borrow_mut(|salts| {
        if salts.is_empty() {
            let mut bytes = [0; DRAWN * SALT_BYTES];
            getrandom::fill(&mut bytes).map_err(|_| MintError::Randomness)?;
            salts.extend_from_slice(bytes.as_chunks().0);
        }
        salts.pop().ok_or(MintError::Randomness)
    })
}

fn associated_data(key_id: u8) -> [u8; CONTEXT.len() + 1] {
    let mut data = [key_id; CONTEXT.len() + 1];
    let (context, _) = data.split_at_mut(CONTEXT.len());
    context.copy_from_slice(CONTEXT);
    data
}

fn decode<'b>(username: &[u8], buffer: &'b mut [u8; MAX_TOKEN_BYTES]) -> Result<&'b [u8], OpenError> {
    let length = username.len() / 2;
    // A credential has one spelling, or a revoked username in capitals would be another credential's MAC input.
    let lower = username.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !lower || length < MIN_TOKEN_BYTES {
        return Err(OpenError::Malformed);
    }
    let bytes = buffer.get_mut(..length).ok_or(OpenError::Malformed)?;
    hex::decode_to_slice(username, bytes).map_err(|_| OpenError::Malformed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn claims(custom: &str) -> Claims {
        Claims {
            key: TurnKeyId::from_bytes([9; 16]),
            issued_at: NOW,
            ttl_secs: 600,
            custom_identifier: custom.try_into().unwrap(),
        }
    }

    #[test]
    fn a_credential_has_the_documented_lengths_and_opens() {
        let ring = Keyring::generate(NOW).unwrap();
        for (custom, length) in [("", 96), ("bob", 102), (&"x".repeat(128), 352)] {
            let credential = ring.mint(&claims(custom)).unwrap();
            assert_eq!(credential.username.len(), length);
            assert_eq!(credential.password.len(), 96);
            let opened = ring.open(credential.username.as_bytes()).unwrap();
            assert_eq!(opened, Opened { claims: claims(custom), id: credential.id });
            assert_eq!(ring.password(credential.username.as_bytes()).unwrap(), credential.password);
            assert_eq!(credential.expires_at, NOW + 600);
        }
        assert_ne!(ring.mint(&claims("")).unwrap().id, ring.mint(&claims("")).unwrap().id);
    }

    #[test]
    fn rotation_keeps_old_credentials_until_their_key_retires() {
        let mut ring = Keyring::generate(NOW).unwrap();
        let old = ring.mint(&claims("")).unwrap();
        ring.rotate(NOW + 10).unwrap();
        assert!(ring.open(old.username.as_bytes()).is_ok());
        let new = ring.mint(&claims("")).unwrap();
        assert_ne!(old.username.get(..2), new.username.get(..2));
        ring.rotate(NOW + 10 + 49 * 3_600).unwrap();
        assert_eq!(ring.open(old.username.as_bytes()), Err(OpenError::UnknownKey));
        assert!(ring.open(new.username.as_bytes()).is_ok());
    }

    #[test]
    fn another_deployments_credential_is_forged_here() {
        let ours = Keyring::generate(NOW).unwrap();
        let theirs = Keyring::generate(NOW).unwrap();
        let credential = theirs.mint(&claims("x")).unwrap();
        assert_eq!(ours.open(credential.username.as_bytes()), Err(OpenError::Forged));
    }

    #[test]
    fn claims_out_of_range_are_refused() {
        let ring = Keyring::generate(NOW).unwrap();
        for ttl_secs in [0, MAX_TTL_SECS + 1, u32::MAX] {
            assert_eq!(ring.mint(&Claims { ttl_secs, ..claims("") }), Err(MintError::Ttl));
        }
        assert_eq!(ring.mint(&Claims { issued_at: 1 << 32, ..claims("") }), Err(MintError::Clock));
        assert_eq!(
            CustomIdentifier::try_from("é".repeat(65)).unwrap_err(),
            CustomIdentifierError { bytes: 130 }
        );
    }

    proptest! {
        #[test]
        fn any_changed_character_is_refused(custom in "[a-zé]{0,60}", place in 0usize..352, to in "[0-9a-fA-F ]") {
            let ring = Keyring::generate(NOW).unwrap();
            let username = ring.mint(&claims(&custom)).unwrap().username;
            let place = place % username.len();
            let mut changed = username.clone();
            changed.replace_range(place..=place, &to);
            prop_assume!(changed != username);
            prop_assert!(ring.open(changed.as_bytes()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
            let ring = Keyring::generate(NOW).unwrap();
            prop_assert!(ring.open(&bytes).is_err());
            let text = hex::encode(&bytes);
            prop_assert!(ring.open(text.as_bytes()).is_err());
        }
    }
}
