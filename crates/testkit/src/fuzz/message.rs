//! Whatever parses as a message can be read in every way, and is read the same once written again.

use stun::framing::{self, Frame};
use stun::{
    AttributeType, ChannelNumber, ErrorCode, Fingerprint, Integrity, IntegrityAlgorithm, LongTermKey,
    Message, MessageWriter, TransactionId, address, channel_data,
};

/// Reads bytes as a message, with every accessor, and writes what was read again.
///
/// # Panics
/// When a message reads differently the second time, or its integrity is not what it should be.
pub fn message(data: &[u8]) {
    if let Some((_, length)) = channel_data::parse(data) {
        assert!(channel_data::HEADER_LEN + length <= data.len());
    }
    let Ok(message) = Message::parse(data) else { return };
    // Methods from 0x100 on are reserved: their first byte tells other protocols from STUN (RFC 7983).
    if message.method().0 < 0x100 {
        assert_eq!(framing::next(data), Ok(Frame::Complete { length: data.len() }), "a message is a frame");
    }
    read(&message);
    let Some(again) = write(&message, None) else { panic!("nothing got longer") };
    let parsed = Message::parse(&again).expect("what was written is a message");
    assert_eq!(contents(&parsed), contents(&message));
    assert_eq!(write(&parsed, None), Some(again.clone()), "writing is settled");
    signed(&message);
}

fn read(message: &Message<'_>) {
    let _ = (format!("{message:?}"), message.unknown_attributes(|_| false).count());
    let key = LongTermKey::new(b"user", b"realm", b"password");
    let (integrity, fingerprint) = (message.integrity(&key), message.fingerprint());
    let sha256 = message.integrity_by(IntegrityAlgorithm::Sha256, &key);
    assert_eq!(sha256 == Integrity::Absent, !has(message, AttributeType::MESSAGE_INTEGRITY_SHA256));
    assert_eq!(integrity == Integrity::Absent, !has(message, AttributeType::MESSAGE_INTEGRITY));
    assert_eq!(fingerprint == Fingerprint::Absent, !has(message, AttributeType::FINGERPRINT));
    let mut end = stun::HEADER_LEN;
    for attribute in message.attributes() {
        assert!(attribute.offset >= end && attribute.offset % 4 == 0);
        end = attribute.offset + 4 + attribute.value.len();
        assert_eq!(message.as_bytes().get(attribute.offset + 4..end), Some(attribute.value));
        assert!(message.attribute(attribute.kind).is_some());
        value(attribute.value, message.transaction());
    }
    assert!(end <= message.as_bytes().len());
}

fn has(message: &Message<'_>, kind: AttributeType) -> bool {
    message.attribute(kind).is_some()
}

/// A value, read as everything that it could be.
fn value(value: &[u8], transaction: TransactionId) {
    if let Some(decoded) = address::decode(value) {
        assert_eq!(address::encode(decoded).as_bytes().get(1..), value.get(1..));
    }
    if let Some(decoded) = address::decode_xor(value, transaction) {
        assert_eq!(address::encode_xor(decoded, transaction).as_bytes().get(1..), value.get(1..));
    }
    if let Some((code, reason)) = ErrorCode::parse(value) {
        assert!((300..700).contains(&code.code()) && reason.len() <= value.len());
        assert_eq!(ErrorCode::new(code.code()), Some(code));
    }
    if let Some(channel) = ChannelNumber::from_attribute(value) {
        assert_eq!(channel.to_attribute().get(..2), value.get(..2));
        assert!((ChannelNumber::MIN..=ChannelNumber::MAX).contains(&channel));
    }
}

type Contents<'m> = (stun::Class, stun::Method, TransactionId, Vec<(AttributeType, &'m [u8])>);

fn contents<'m>(message: &Message<'m>) -> Contents<'m> {
    let attributes = message.attributes().map(|attribute| (attribute.kind, attribute.value)).collect();
    (message.class(), message.method(), message.transaction(), attributes)
}

fn is_protection(kind: AttributeType) -> bool {
    use AttributeType as A;
    matches!(kind, A::MESSAGE_INTEGRITY | A::MESSAGE_INTEGRITY_SHA256 | A::FINGERPRINT)
}

/// Writes a message's attributes as they are, or all but its protection and then this key's and FINGERPRINT;
/// `None` when that makes it too long.
fn write(message: &Message<'_>, key: Option<&LongTermKey>) -> Option<Vec<u8>> {
    let mut buffer = vec![0xA5; message.as_bytes().len() + 100];
    let mut writer =
        MessageWriter::new(&mut buffer, message.class(), message.method(), message.transaction());
    for attribute in message.attributes().filter(|it| key.is_none() || !is_protection(it.kind)) {
        writer.attribute(attribute.kind, attribute.value);
    }
    if let Some(key) = key {
        writer.integrity(key).integrity_by(IntegrityAlgorithm::Sha256, key).fingerprint();
    }
    let written = writer.finish();
    let fits = u16::try_from(message.as_bytes().len() + 100).is_ok();
    assert!(written.is_ok() || (key.is_some() && !fits), "only protection makes a message too long");
    buffer.truncate(written.ok()?);
    Some(buffer)
}

/// Signed, it verifies with its key alone, and with none once a bit has changed.
fn signed(message: &Message<'_>) {
    let key = LongTermKey::new(b"user", b"realm", b"password");
    let Some(mut bytes) = write(message, Some(&key)) else { return };
    let signed = Message::parse(&bytes).expect("what was signed is a message");
    assert_eq!(signed.fingerprint(), Fingerprint::Verified);
    assert_eq!(signed.integrity(&key), Integrity::Verified);
    assert_eq!(signed.integrity_by(IntegrityAlgorithm::Sha256, &key), Integrity::Verified);
    assert_eq!(signed.integrity(&LongTermKey::new(b"user", b"realm", b"Password")), Integrity::Wrong);
    let covered = signed.attributes().find(|it| it.kind == AttributeType::MESSAGE_INTEGRITY);
    let covered = covered.map_or(0, |attribute| attribute.offset);
    // Any place, as long as the same message always gives the same one.
    let place = bytes.iter().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let (place, bit) = (place / 8 % covered, place % 8);
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << bit;
    }
    if let Ok(changed) = Message::parse(&bytes) {
        assert_ne!(changed.integrity_by(IntegrityAlgorithm::Sha256, &key), Integrity::Verified);
        assert_ne!(changed.integrity(&key), Integrity::Verified, "bit {bit} of byte {place} does not count");
        assert_ne!(changed.fingerprint(), Fingerprint::Verified);
    }
}
