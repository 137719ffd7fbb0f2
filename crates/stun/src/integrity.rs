//! MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256, FINGERPRINT and the long-term key. RFC 8489 §9.2.2, §14.5 to §14.7.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::message::{HEADER_LEN, Message};
use crate::{AttributeType, padded};

/// Length of the longer integrity, MESSAGE-INTEGRITY-SHA256.
pub(crate) const MAX_MAC_LEN: usize = 32;
/// FINGERPRINT's CRC is XORed with this. RFC 8489 §14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// How a password becomes a key. RFC 8489 §18.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PasswordAlgorithm {
    /// 0x0001
    Md5,
    /// 0x0002
    Sha256,
}

impl PasswordAlgorithm {
    /// The value of a PASSWORD-ALGORITHMS attribute that offers both, the stronger one first. RFC 8489 §14.11.
    pub const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

    /// Reads a PASSWORD-ALGORITHM attribute's value: one of the two, without parameters. RFC 8489 §14.12.
    pub fn parse(value: &[u8]) -> Option<Self> {
        match value {
            [0, 1, 0, 0] => Some(Self::Md5),
            [0, 2, 0, 0] => Some(Self::Sha256),
            _ => None,
        }
    }

    /// The value of a PASSWORD-ALGORITHM attribute. RFC 8489 §14.12.
    pub fn to_attribute(self) -> [u8; 4] {
        match self {
            Self::Md5 => [0, 1, 0, 0],
            Self::Sha256 => [0, 2, 0, 0],
        }
    }
}

/// The key that long-term credentials make for both integrity attributes. RFC 8489 §9.2.2.
#[derive(Clone, PartialEq, Eq)]
pub struct LongTermKey {
    bytes: [u8; 32],
    length: usize,
}

impl LongTermKey {
    /// Derives the key with MD5, as RFC 5389 did and clients do unless they are offered better. The caller has
    /// prepared the strings (`OpaqueString` of RFC 8265; ASCII is as it is).
    pub fn new(username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        Self::with_algorithm(PasswordAlgorithm::Md5, username, realm, password)
    }

    /// Derives the key with this algorithm. RFC 8489 §18.5.1.
    pub fn with_algorithm(
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        // RFC 8489 §9.2.2: key = hash(username ":" realm ":" password).
        let parts = [username, b":", realm, b":", password];
        let mut bytes = [0; 32];
        let length = match algorithm {
            PasswordAlgorithm::Md5 => digest::<Md5>(&parts, &mut bytes),
            PasswordAlgorithm::Sha256 => digest::<Sha256>(&parts, &mut bytes),
        };
        Self { bytes, length }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

fn digest<D: Digest>(parts: &[&[u8]], bytes: &mut [u8; 32]) -> usize {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    fill(bytes, &digest.finalize())
}

fn fill(bytes: &mut [u8; 32], from: &[u8]) -> usize {
    bytes.iter_mut().zip(from).map(|(to, from)| *to = *from).count()
}

/// Never shows the key.
impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongTermKey")
    }
}

/// What a look at MESSAGE-INTEGRITY said. RFC 8489 §14.5 and §14.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// The attribute is not there.
    Absent,
    /// It is there, but not made with this key over these bytes.
    Wrong,
    /// It is right.
    Verified,
}

/// What a look at FINGERPRINT said. RFC 8489 §14.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// The attribute is not there.
    Absent,
    /// It is there, but wrong, or not the last attribute.
    Wrong,
    /// It is right.
    Verified,
}

/// Which of the two integrity attributes. RFC 8489 §14.5 and §14.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntegrityAlgorithm {
    /// MESSAGE-INTEGRITY
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256
    Sha256,
}

impl IntegrityAlgorithm {
    /// The attribute. RFC 8489 §14.5 and §14.6.
    pub fn attribute(self) -> AttributeType {
        match self {
            Self::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            Self::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        }
    }
}

pub(crate) fn check(message: &Message<'_>, algorithm: IntegrityAlgorithm, key: &LongTermKey) -> Integrity {
    let found = message.attributes().find(|a| a.kind == algorithm.attribute());
    let Some(attribute) = found else { return Integrity::Absent };
    let mut mac = [0; MAX_MAC_LEN];
    match compute(message.as_bytes(), attribute.offset, algorithm, key, &mut mac) {
        // RFC 8489 §14.6: SHA-256 integrity is not truncated where nobody has agreed to it.
        Some(expected) if bool::from(expected.ct_eq(attribute.value)) => Integrity::Verified,
        _ => Integrity::Wrong,
    }
}

/// The HMAC over a message up to `offset`, its length field set as if the integrity were the last attribute.
pub(crate) fn compute<'b>(
    message: &[u8],
    offset: usize,
    algorithm: IntegrityAlgorithm,
    key: &LongTermKey,
    buffer: &'b mut [u8; MAX_MAC_LEN],
) -> Option<&'b [u8]> {
    let length = match algorithm {
        IntegrityAlgorithm::Sha1 => hmac::<Hmac<Sha1>>(message, offset, key, buffer)?,
        IntegrityAlgorithm::Sha256 => hmac::<Hmac<Sha256>>(message, offset, key, buffer)?,
    };
    buffer.get(..length)
}

fn hmac<M: Mac + KeyInit>(
    message: &[u8],
    offset: usize,
    key: &LongTermKey,
    buffer: &mut [u8; MAX_MAC_LEN],
) -> Option<usize> {
    let (header, body) = message.get(..offset)?.split_first_chunk::<HEADER_LEN>()?;
    // RFC 8489 §14.5 and §14.6: the length covers everything up to and including the integrity attribute.
    let header = with_length(header, body.len() + 4 + M::output_size())?;
    let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes()).ok()?;
    mac.update(&header);
    mac.update(body);
    Some(fill(buffer, &mac.finalize().into_bytes()))
}

pub(crate) fn check_fingerprint(message: &Message<'_>) -> Fingerprint {
    let found = message.attributes().find(|a| a.kind == AttributeType::FINGERPRINT);
    let Some(attribute) = found else { return Fingerprint::Absent };
    // RFC 8489 §14.7: FINGERPRINT is the last attribute of a message.
    let is_last = attribute.offset + 4 + padded(attribute.value.len()) == message.as_bytes().len();
    match crc32(message.as_bytes(), attribute.offset) {
        Some(crc) if is_last && attribute.value == crc => Fingerprint::Verified,
        _ => Fingerprint::Wrong,
    }
}

/// FINGERPRINT's value for a message up to `offset`, its length field set as if FINGERPRINT were there.
pub(crate) fn crc32(message: &[u8], offset: usize) -> Option<[u8; 4]> {
    let (header, body) = message.get(..offset)?.split_first_chunk::<HEADER_LEN>()?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&with_length(header, body.len() + 8)?);
    crc.update(body);
    Some((crc.finalize() ^ FINGERPRINT_XOR).to_be_bytes())
}

fn with_length(header: &[u8; HEADER_LEN], length: usize) -> Option<[u8; HEADER_LEN]> {
    let mut header = *header;
    let [_, _, l0, l1, ..] = &mut header;
    [*l0, *l1] = u16::try_from(length).ok()?.to_be_bytes();
    Some(header)
}
