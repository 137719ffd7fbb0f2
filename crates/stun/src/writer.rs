use std::net::SocketAddr;

use crate::integrity::{self, IntegrityAlgorithm, LongTermKey, MAX_MAC_LEN};
use crate::message::{HEADER_LEN, pack_type};
use crate::{AttributeType, Class, ErrorCode, MAGIC_COOKIE, Method, TransactionId, address, padded};

/// The message does not fit into the buffer it was to be written to, or not into 65,535 bytes. RFC 8489 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit into its buffer")]
pub struct Overflow;

/// Writes one message into a buffer, attribute after attribute; padding is zeroes. RFC 8489 §14.
///
/// What does not fit is remembered and reported once, by [`MessageWriter::finish`].
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buffer: &'b mut [u8],
    length: usize,
    transaction: TransactionId,
    overflow: bool,
}

impl<'b> MessageWriter<'b> {
    /// Starts a message at the buffer's front. RFC 8489 §5.
    pub fn new(buffer: &'b mut [u8], class: Class, method: Method, transaction: TransactionId) -> Self {
        let mut writer = Self { buffer, length: 0, transaction, overflow: false };
        writer.append(&pack_type(class, method).to_be_bytes());
        writer.append(&[0, 0]);
        writer.append(&MAGIC_COOKIE.to_be_bytes());
        writer.append(transaction.as_bytes());
        writer
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        match self.buffer.get_mut(self.length..end) {
            Some(space) if !self.overflow => {
                space.copy_from_slice(bytes);
                self.length = end;
            }
            _ => self.overflow = true,
        }
    }

    fn set_length(&mut self) {
        match (u16::try_from(self.length.saturating_sub(HEADER_LEN)), self.buffer.get_mut(2..4)) {
            (Ok(length), Some(field)) => field.copy_from_slice(&length.to_be_bytes()),
            _ => self.overflow = true,
        }
    }

    /// Adds an attribute with this value. RFC 8489 §14.
    pub fn attribute(&mut self, kind: AttributeType, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(value.len()) else {
            self.overflow = true;
            return self;
        };
        let padding = padded(value.len()) - value.len();
        self.append(&kind.0.to_be_bytes());
        self.append(&length.to_be_bytes());
        self.append(value);
        // RFC 8489 §14: padding bits are zero, so nothing of the buffer's past leaks.
        self.append([0; 3].get(..padding).unwrap_or_default());
        self
    }

    /// Adds an attribute with a 32-bit value. RFC 8489 §14.
    pub fn attribute_u32(&mut self, kind: AttributeType, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds one of the XOR-… address attributes. RFC 8489 §14.2.
    pub fn xor_address(&mut self, kind: AttributeType, address: SocketAddr) -> &mut Self {
        let value = address::encode_xor(address, self.transaction);
        self.attribute(kind, value.as_bytes())
    }

    /// Adds ERROR-CODE with a reason phrase, which may be empty and is at most 128 bytes long here. RFC 8489 §14.8.
    pub fn error_code(&mut self, code: ErrorCode, reason: &str) -> &mut Self {
        let mut value = [0; 4 + 128];
        let [_, _, class, number, text @ ..] = &mut value;
        *class = u8::try_from(code.code() / 100).unwrap_or_default();
        *number = u8::try_from(code.code() % 100).unwrap_or_default();
        let length = text.iter_mut().zip(reason.bytes()).map(|(to, from)| *to = from).count();
        self.attribute(AttributeType::ERROR_CODE, value.get(..4 + length).unwrap_or_default())
    }

    /// Adds MESSAGE-INTEGRITY over all written so far. RFC 8489 §14.5.
    pub fn integrity(&mut self, key: &LongTermKey) -> &mut Self {
        self.integrity_by(IntegrityAlgorithm::Sha1, key)
    }

    /// Adds this integrity attribute over all written so far. RFC 8489 §14.5 and §14.6.
    pub fn integrity_by(&mut self, algorithm: IntegrityAlgorithm, key: &LongTermKey) -> &mut Self {
        let mut mac = [0; MAX_MAC_LEN];
        match integrity::compute(self.buffer, self.length, algorithm, key, &mut mac) {
            Some(mac) => self.attribute(algorithm.attribute(), mac),
            None => {
                self.overflow = true;
                self
            }
        }
    }

    /// Adds FINGERPRINT over all written so far; must be the last attribute. RFC 8489 §14.7.
    pub fn fingerprint(&mut self) -> &mut Self {
        match integrity::crc32(self.buffer, self.length) {
            Some(crc) => self.attribute(AttributeType::FINGERPRINT, &crc),
            None => {
                self.overflow = true;
                self
            }
        }
    }

    /// Sets the length field; the number of bytes written. RFC 8489 §5.
    ///
    /// # Errors
    /// When anything did not fit.
    pub fn finish(&mut self) -> Result<usize, Overflow> {
        self.set_length();
        if self.overflow { Err(Overflow) } else { Ok(self.length) }
    }
}

/// The longest header of a Data indication: STUN header, an IPv6 XOR-PEER-ADDRESS, DATA's type and length.
/// RFC 8656 §11.3.
pub const DATA_INDICATION_MAX_HEADER: usize = HEADER_LEN + 4 + address::MAX_LEN + 4;

/// Writes the part of a Data indication (RFC 8656 §11.3) that goes in front of `data_length` bytes of data, so
/// that the data need not be moved: into the *end* of `headroom`. Returns the header's length. The caller has to
/// put zeroes behind the data up to a multiple of four.
///
/// # Errors
/// When `headroom` is shorter than the header or the data too long for a message.
pub fn write_data_indication_header(
    headroom: &mut [u8],
    transaction: TransactionId,
    peer: SocketAddr,
    data_length: usize,
) -> Result<usize, Overflow> {
    let peer = address::encode_xor(peer, transaction);
    let length = HEADER_LEN + 4 + peer.as_bytes().len() + 4;
    let start = headroom.len().checked_sub(length).ok_or(Overflow)?;
    let space = headroom.get_mut(start..).ok_or(Overflow)?;
    let mut writer = MessageWriter::new(space, Class::Indication, Method::DATA, transaction);
    writer.attribute(AttributeType::XOR_PEER_ADDRESS, peer.as_bytes());
    writer.append(&AttributeType::DATA.0.to_be_bytes());
    writer.append(&u16::try_from(data_length).map_err(|_| Overflow)?.to_be_bytes());
    if writer.finish()? != length {
        return Err(Overflow);
    }
    let body = u16::try_from(length - HEADER_LEN + padded(data_length)).map_err(|_| Overflow)?;
    space.get_mut(2..4).ok_or(Overflow)?.copy_from_slice(&body.to_be_bytes());
    Ok(length)
}
