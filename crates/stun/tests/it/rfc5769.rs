//! The test vectors of RFC 5769.

use stun::{
    AttributeType, Class, Fingerprint, Integrity, LongTermKey, Message, MessageWriter, Method, address,
};

/// RFC 5769 §2.4: request with long-term authentication.
const LONG_TERM_REQUEST: &str = "\
    000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382af\
    e382b900000015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341\
    0014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// RFC 5769 §2.2: sample IPv4 response (short-term credential).
const IPV4_RESPONSE: &str = "\
    0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7\
    80280004c07d4c96";

/// RFC 5769 §2.3: sample IPv6 response (short-term credential).
const IPV6_RESPONSE: &str = "\
    010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed41\
    80280004c8fb0b4c";

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace([' ', '\n'], "")).unwrap()
}

#[test]
fn rfc5769_2_4_long_term_integrity_verifies() {
    let bytes = bytes(LONG_TERM_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    let username = "マトリックス".as_bytes();
    assert_eq!(message.attribute(AttributeType::USERNAME), Some(username));
    assert_eq!(message.attribute(AttributeType::REALM), Some(&b"example.org"[..]));
    assert_eq!(message.attribute(AttributeType::NONCE), Some(&b"f//499k954d6OL34oL9FSTvy64sA"[..]));
    let key = LongTermKey::new(username, b"example.org", b"TheMatrIX");
    assert_eq!(message.integrity(&key), Integrity::Verified);
    assert_eq!(message.integrity(&LongTermKey::new(username, b"example.org", b"x")), Integrity::Wrong);
    assert_eq!(message.fingerprint(), Fingerprint::Absent);
}

#[test]
fn rfc5769_2_4_is_written_byte_for_byte() {
    let expected = bytes(LONG_TERM_REQUEST);
    let message = Message::parse(&expected).unwrap();
    let mut buffer = [0xAA; 300];
    let mut writer =
        MessageWriter::new(&mut buffer, message.class(), message.method(), message.transaction());
    for kind in [AttributeType::USERNAME, AttributeType::NONCE, AttributeType::REALM] {
        writer.attribute(kind, message.attribute(kind).unwrap());
    }
    writer.integrity(&LongTermKey::new("マトリックス".as_bytes(), b"example.org", b"TheMatrIX"));
    let length = writer.finish().unwrap();
    assert_eq!(&buffer[..length], &expected[..]);
}

#[test]
fn rfc5769_2_2_and_2_3_addresses_and_fingerprints() {
    for (hex, address) in
        [(IPV4_RESPONSE, "192.0.2.1:32853"), (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let mut bytes = bytes(hex);
        let message = Message::parse(&bytes).unwrap();
        let value = message.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
        assert_eq!(address::decode_xor(value, message.transaction()), Some(address.parse().unwrap()));
        assert_eq!(message.fingerprint(), Fingerprint::Verified);
        for place in 20..bytes.len() {
            bytes[place] ^= 1;
            if let Ok(message) = Message::parse(&bytes) {
                assert_ne!(message.fingerprint(), Fingerprint::Verified, "bit flipped at {place}");
            }
            bytes[place] ^= 1;
        }
    }
}
