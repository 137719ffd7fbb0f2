//! The message of RFC 8489, appendix B.1. The length field printed there (0x9c) counts the header too, so the
//! integrity printed there fits no message that can be parsed: here the length is right and the integrity was
//! computed by another implementation over the same bytes.

use stun::{AttributeType, Integrity, IntegrityAlgorithm, LongTermKey, Message, PasswordAlgorithm};

const REQUEST: &str = "\
    000100882112a44278ad3433c6ad72c029da412e\
    001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704\
    001500296f624d61744a6f7332414141\
    43662f2f3439396b39353464364f4c33346f4c3946535476793634734100\
    0000\
    0014000b6578616d706c652e6f726700\
    001c0020234112fbd4e27f983eb4032836f998216f5b23f8d927753fbc4f882bfbdf0dec";

#[test]
fn rfc8489_14_6_sha256_integrity_with_a_sha256_key() {
    let bytes = hex::decode(REQUEST.replace(' ', "")).unwrap();
    let message = Message::parse(&bytes).unwrap();
    let nonce = message.attribute(AttributeType::NONCE).unwrap();
    assert_eq!(nonce, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
    let key = |algorithm, password: &str| {
        LongTermKey::with_algorithm(algorithm, "マトリックス".as_bytes(), b"example.org", password.as_bytes())
    };
    let check = |key| message.integrity_by(IntegrityAlgorithm::Sha256, &key);
    assert_eq!(check(key(PasswordAlgorithm::Sha256, "TheMatrIX")), Integrity::Verified);
    assert_eq!(check(key(PasswordAlgorithm::Md5, "TheMatrIX")), Integrity::Wrong);
    assert_eq!(check(key(PasswordAlgorithm::Sha256, "TheMatrix")), Integrity::Wrong);
    assert_eq!(message.integrity(&key(PasswordAlgorithm::Sha256, "TheMatrIX")), Integrity::Absent);
}
