use std::fmt;

use crate::integrity::{self, Fingerprint, Integrity, IntegrityAlgorithm, LongTermKey};
use crate::{AttributeType, MAGIC_COOKIE, padded};

/// Length of a STUN message's fixed header. RFC 8489 §5.
pub const HEADER_LEN: usize = 20;

/// Ties a response to its request: 96 bits. RFC 8489 §5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId([u8; 12]);

impl TransactionId {
    /// The id with these bytes. RFC 8489 §5.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The id's bytes. RFC 8489 §5.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What kind of message it is. RFC 8489 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// A request succeeded.
    Success,
    /// A request failed.
    Error,
}

/// A STUN method, 12 bits. RFC 8489 §18.2, RFC 8656 §17.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(pub u16);

impl Method {
    /// RFC 8489 §3
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656 §7
    pub const ALLOCATE: Self = Self(0x003);
    /// RFC 8656 §8
    pub const REFRESH: Self = Self(0x004);
    /// RFC 8656 §11
    pub const SEND: Self = Self(0x006);
    /// RFC 8656 §11
    pub const DATA: Self = Self(0x007);
    /// RFC 8656 §10
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// RFC 8656 §12
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// RFC 6062 §6.1
    pub const CONNECT: Self = Self(0x00A);
    /// RFC 6062 §6.1
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// RFC 6062 §6.1
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::CONNECT => "Connect",
            Self::CONNECTION_BIND => "ConnectionBind",
            Self::CONNECTION_ATTEMPT => "ConnectionAttempt",
            Self(number) => return write!(f, "0x{number:03X}"),
        };
        f.write_str(name)
    }
}

/// Why bytes are no STUN message. RFC 8489 §5 and §6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// Shorter than the header, or than its length field says.
    #[error("the message is cut")]
    Cut,
    /// The two leading bits are not zero or the magic cookie is missing.
    #[error("not a STUN message")]
    NotStun,
    /// The length field is no multiple of four or not the number of bytes that follow.
    #[error("the length field does not fit")]
    Length,
    /// An attribute reaches past the end.
    #[error("an attribute reaches past the message's end")]
    Attribute,
}

/// One attribute of a message, as it stands there. RFC 8489 §14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'m> {
    /// Its type.
    pub kind: AttributeType,
    /// Its value without padding.
    pub value: &'m [u8],
    /// Where its type field starts, counted from the message's first byte.
    pub offset: usize,
}

/// A STUN message whose structure has been checked: every attribute lies inside it. RFC 8489 §5.
#[derive(Clone, Copy)]
pub struct Message<'m> {
    bytes: &'m [u8],
    class: Class,
    method: Method,
    transaction: TransactionId,
}

impl<'m> Message<'m> {
    /// Reads a whole message; `bytes` must be exactly one. RFC 8489 §5 and §6.3.
    ///
    /// # Errors
    /// Says what is structurally wrong. What attributes contain is not looked at.
    pub fn parse(bytes: &'m [u8]) -> Result<Self, ParseError> {
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(ParseError::Cut)?;
        let &[t0, t1, l0, l1, c0, c1, c2, c3, ref id @ ..] = header;
        // RFC 8489 §5: the two leading bits are zero and the cookie is fixed.
        if t0 & 0xC0 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length > body.len() {
            return Err(ParseError::Cut);
        }
        // RFC 8489 §5: all attributes are padded, so the last two bits of the length are zero.
        if length % 4 != 0 || length < body.len() {
            return Err(ParseError::Length);
        }
        let (class, method) = unpack_type(u16::from_be_bytes([t0, t1]));
        let message = Self { bytes, class, method, transaction: TransactionId(*id) };
        let mut attributes = message.all_attributes();
        while attributes.next().is_some() {}
        if attributes.offset == bytes.len() { Ok(message) } else { Err(ParseError::Attribute) }
    }

    /// The whole message. RFC 8489 §5.
    pub fn as_bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// Its class. RFC 8489 §5.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Its method. RFC 8489 §5.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Its transaction id. RFC 8489 §5.
    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }

    fn all_attributes(&self) -> Attributes<'m> {
        Attributes { bytes: self.bytes, offset: HEADER_LEN, integrity: None, strict: false }
    }

    /// The attributes that count, in order: those behind an integrity attribute are left out, but for
    /// MESSAGE-INTEGRITY-SHA256 and FINGERPRINT. RFC 8489 §14.5, §14.6.
    pub fn attributes(&self) -> Attributes<'m> {
        Attributes { strict: true, ..self.all_attributes() }
    }

    /// The value of the first attribute of this type that counts. RFC 8489 §14.
    pub fn attribute(&self, kind: AttributeType) -> Option<&'m [u8]> {
        // RFC 8489 §14: only the first of several attributes of one type needs to be processed.
        self.attributes().find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
    }

    /// The comprehension-required attributes whose type `known` does not accept. RFC 8489 §14 and §6.3.1.
    pub fn unknown_attributes(
        &self,
        known: impl Fn(AttributeType) -> bool,
    ) -> impl Iterator<Item = AttributeType> {
        self.attributes()
            .map(|attribute| attribute.kind)
            .filter(move |kind| kind.is_comprehension_required() && !known(*kind))
    }

    /// Whether MESSAGE-INTEGRITY is there and made with `key`. RFC 8489 §14.5.
    pub fn integrity(&self, key: &LongTermKey) -> Integrity {
        self.integrity_by(IntegrityAlgorithm::Sha1, key)
    }

    /// Whether this integrity attribute is there and made with `key`. RFC 8489 §14.5 and §14.6.
    pub fn integrity_by(&self, algorithm: IntegrityAlgorithm, key: &LongTermKey) -> Integrity {
        integrity::check(self, algorithm, key)
    }

    /// Whether FINGERPRINT is there and right. RFC 8489 §14.7.
    pub fn fingerprint(&self) -> Fingerprint {
        integrity::check_fingerprint(self)
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?} ", self.method, self.class, self.transaction)?;
        f.debug_list().entries(self.attributes().map(|attribute| attribute.kind)).finish()
    }
}

/// Iterates over a message's attributes. RFC 8489 §14.
#[derive(Debug, Clone)]
pub struct Attributes<'m> {
    bytes: &'m [u8],
    offset: usize,
    /// The last integrity attribute passed.
    integrity: Option<AttributeType>,
    strict: bool,
}

impl<'m> Attributes<'m> {
    fn step(&mut self) -> Option<Attribute<'m>> {
        let offset = self.offset;
        let (&[k0, k1, l0, l1], rest) = self.bytes.get(offset..)?.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..padded(length))?.get(..length)?;
        self.offset = offset + 4 + padded(length);
        Some(Attribute { kind: AttributeType(u16::from_be_bytes([k0, k1])), value, offset })
    }

    fn counts(&mut self, kind: AttributeType) -> bool {
        use AttributeType as A;
        // RFC 8489 §14.5: attributes that follow MESSAGE-INTEGRITY are ignored, except MESSAGE-INTEGRITY-SHA256
        // and FINGERPRINT. RFC 8489 §14.6: those that follow MESSAGE-INTEGRITY-SHA256, except FINGERPRINT.
        let counts = match self.integrity {
            None => true,
            Some(A::MESSAGE_INTEGRITY) => matches!(kind, A::MESSAGE_INTEGRITY_SHA256 | A::FINGERPRINT),
            Some(_) => kind == A::FINGERPRINT,
        };
        if counts && matches!(kind, A::MESSAGE_INTEGRITY | A::MESSAGE_INTEGRITY_SHA256) {
            self.integrity = Some(kind);
        }
        counts
    }
}

impl<'m> Iterator for Attributes<'m> {
    type Item = Attribute<'m>;

    fn next(&mut self) -> Option<Attribute<'m>> {
        loop {
            let attribute = self.step()?;
            if !self.strict || self.counts(attribute.kind) {
                return Some(attribute);
            }
        }
    }
}

/// RFC 8489 §5, figure 3: the class's two bits stand between the method's.
fn unpack_type(bits: u16) -> (Class, Method) {
    let class = match (bits & 0x100 != 0, bits & 0x010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    (class, Method((bits & 0x000F) | ((bits & 0x00E0) >> 1) | ((bits & 0x3E00) >> 2)))
}

pub(crate) fn pack_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let Method(m) = method;
    class | (m & 0x000F) | ((m & 0x0070) << 1) | ((m & 0x0F80) << 2)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "test values are small")]

    use super::*;
    use proptest::prelude::*;

    fn header(length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, length, 0x21, 0x12, 0xA4, 0x42];
        bytes.resize(HEADER_LEN, 5);
        bytes
    }

    #[test]
    fn rfc8489_5_header_is_checked() {
        assert!(Message::parse(&header(0)).is_ok());
        let with = |place: usize, byte: u8| {
            let mut bytes = header(0);
            bytes[place] = byte;
            bytes
        };
        for (bytes, error) in [
            (header(0)[..19].to_vec(), ParseError::Cut),
            (header(4), ParseError::Cut),
            (with(0, 0x80), ParseError::NotStun),
            (with(7, 0x43), ParseError::NotStun),
            ([header(0), vec![0; 4]].concat(), ParseError::Length),
            ([header(3), vec![0; 3]].concat(), ParseError::Length),
            ([header(4), vec![0, 6, 0, 1]].concat(), ParseError::Attribute),
            ([header(8), vec![0, 6, 0, 5, 1, 2, 3, 4]].concat(), ParseError::Attribute),
        ] {
            assert_eq!(Message::parse(&bytes).unwrap_err(), error, "{bytes:?}");
        }
    }

    #[test]
    fn rfc8489_14_first_duplicate_wins_and_what_follows_integrity_is_ignored() {
        let mut bytes = header(0);
        let mut add = |kind: u8, value: &[u8]| {
            bytes.extend([0, kind, 0, value.len() as u8]);
            bytes.extend(value);
            bytes.resize(padded(bytes.len()), 0xEE);
            bytes[3] = (bytes.len() - HEADER_LEN) as u8;
        };
        add(0x06, b"first");
        add(0x06, b"again");
        add(0x08, &[0; 20]);
        add(0x14, b"late");
        add(0x1C, &[0; 32]);
        add(0x08, &[1; 20]);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.attribute(AttributeType::USERNAME), Some(&b"first"[..]));
        assert_eq!(message.attribute(AttributeType::REALM), None);
        assert_eq!(message.attribute(AttributeType::MESSAGE_INTEGRITY), Some(&[0; 20][..]));
        assert!(message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256).is_some());
        assert_eq!(message.attributes().count(), 4);
    }

    #[test]
    fn class_and_method_round_trip() {
        for method in 0..0x1000 {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                let bits = pack_type(class, Method(method));
                assert!(bits < 0x4000);
                assert_eq!(unpack_type(bits), (class, Method(method)));
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = header(0);
            bytes[3] = body.len() as u8;
            bytes.extend(&body);
            if let Ok(message) = Message::parse(&bytes) {
                let _ = (message.fingerprint(), format!("{message:?}"));
                let _ = message.integrity(&LongTermKey::new(b"u", b"r", b"p"));
            }
        }
    }
}
