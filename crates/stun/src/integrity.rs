//! MESSAGE-INTEGRITY, FINGERPRINT and the long-term key. RFC 8489 §9.2.2, §14.5, §14.7.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::message::{HEADER_LEN, Message};
use crate::{AttributeType, padded};

/// Length of MESSAGE-INTEGRITY's value.
pub(crate) const SHA1_LEN: usize = 20;
/// FINGERPRINT's CRC is XORed with this. RFC 8489 §14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// The key that long-term credentials make for MESSAGE-INTEGRITY. RFC 8489 §9.2.2.
#[derive(Clone, PartialEq, Eq)]
pub struct LongTermKey {
    md5: [u8; 16],
}

impl LongTermKey {
    /// Derives the key. The caller has prepared the strings (`OpaqueString` of RFC 8265; ASCII is as it is).
    pub fn new(username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        // RFC 8489 §9.2.2: key = MD5(username ":" realm ":" password).
        let mut md5 = Md5::new();
        for part in [username, b":", realm, b":", password] {
            md5.update(part);
        }
        Self { md5: md5.finalize().into() }
    }

    pub(crate) fn sha1(&self) -> &[u8] {
        &self.md5
    }
}

/// Never shows the key.
impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongTermKey")
    }
}

/// What a look at MESSAGE-INTEGRITY said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// The attribute is not there.
    Absent,
    /// It is there, but not made with this key over these bytes.
    Wrong,
    /// It is right.
    Verified,
}

/// What a look at FINGERPRINT said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// The attribute is not there.
    Absent,
    /// It is there, but wrong, or not the last attribute.
    Wrong,
    /// It is right.
    Verified,
}

pub(crate) fn check_sha1(message: &Message<'_>, key: &[u8]) -> Integrity {
    let found = message.attributes().find(|a| a.kind == AttributeType::MESSAGE_INTEGRITY);
    let Some(attribute) = found else { return Integrity::Absent };
    match hmac_sha1(message.as_bytes(), attribute.offset, key) {
        Some(expected) if bool::from(expected.ct_eq(attribute.value)) => Integrity::Verified,
        _ => Integrity::Wrong,
    }
}

/// The HMAC over a message up to `offset`, its length field set as if MESSAGE-INTEGRITY were the last attribute.
pub(crate) fn hmac_sha1(message: &[u8], offset: usize, key: &[u8]) -> Option<[u8; SHA1_LEN]> {
    let (header, body) = message.get(..offset)?.split_first_chunk::<HEADER_LEN>()?;
    // RFC 8489 §14.5: the length covers everything up to and including MESSAGE-INTEGRITY.
    let header = with_length(header, body.len() + 4 + SHA1_LEN)?;
    let mut mac = Hmac::<Sha1>::new_from_slice(key).ok()?;
    mac.update(&header);
    mac.update(body);
    Some(mac.finalize().into_bytes().into())
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
