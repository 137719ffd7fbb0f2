//! Every byte format of STUN and TURN: messages and attributes (RFC 8489, RFC 8656), integrity and
//! fingerprint, `ChannelData`, how frames follow each other on a stream, the header that a proxy may put before, and the
//! gate before DTLS sessions.
//!
//! Parsing borrows, never allocates, never panics and looks at no clock; writing goes into a buffer the caller
//! gives. What a message *means* is not decided here.

#![warn(clippy::iter_over_hash_type)]

pub mod address;
mod attribute;
pub mod channel_data;
pub mod dtls;
mod error_code;
pub mod framing;
mod integrity;
mod message;
pub mod proxy_protocol;
mod writer;

pub use attribute::AttributeType;
pub use channel_data::ChannelNumber;
pub use error_code::ErrorCode;
pub use integrity::{Fingerprint, Integrity, IntegrityAlgorithm, LongTermKey, PasswordAlgorithm};
pub use message::{Attribute, Attributes, Class, HEADER_LEN, Message, Method, ParseError, TransactionId};
pub use writer::{DATA_INDICATION_MAX_HEADER, MessageWriter, Overflow, write_data_indication_header};

/// The value of bytes 4 to 8 of every STUN message. RFC 8489 §5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// What a datagram or frame is, told by its first byte. RFC 8656 §12, RFC 7983.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A STUN message: first byte 0 to 3.
    Stun,
    /// `ChannelData`: first byte 64 to 79, or to 127 as RFC 5766 had it.
    ChannelData,
    /// A record of TLS or DTLS: first byte 20 to 63. RFC 7983 §7.
    Tls,
    /// None of these.
    Unknown,
}

impl Kind {
    /// Tells by the first byte only; nothing is validated. RFC 8489 §5, RFC 8656 §12.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            // RFC 8489 §5: the most significant two bits of every STUN message are zeroes.
            Some(0..=3) => Self::Stun,
            // RFC 8656 §12: channel numbers are 0x4000 to 0x4FFF, so the first byte is 64 to 79; RFC 5766 §11 went up
            // to 0x7FFF.
            Some(0x40..=0x7F) => Self::ChannelData,
            // RFC 7983 §7: a first byte of 20 to 63 is DTLS.
            Some(20..=63) => Self::Tls,
            _ => Self::Unknown,
        }
    }
}

/// `length` rounded up to a multiple of four.
pub(crate) const fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}
