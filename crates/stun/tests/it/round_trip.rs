//! What is written is read back, whatever it is, and a full buffer is an error and never a panic.

use proptest::prelude::*;
use stun::{
    AttributeType, Class, DATA_INDICATION_MAX_HEADER, ErrorCode, Fingerprint, Integrity, LongTermKey,
    Message, MessageWriter, Method, Overflow, TransactionId, address, write_data_indication_header,
};

proptest! {
    #[test]
    fn messages(
        id in any::<[u8; 12]>(),
        values in proptest::collection::vec((0x7000u16..0x8000, proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        room in 0usize..700,
    ) {
        let key = LongTermKey::new(b"user", b"realm", b"password");
        let mut buffer = vec![0xAA; room];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, TransactionId::from_bytes(id));
        for (kind, value) in &values {
            writer.attribute(AttributeType(*kind), value);
        }
        let written = writer.integrity(&key).fingerprint().finish();
        let needed = 20 + values.iter().map(|(_, v)| 4 + v.len().next_multiple_of(4)).sum::<usize>() + 24 + 8;
        if room < needed {
            prop_assert_eq!(written, Err(Overflow));
        } else {
            prop_assert_eq!(written, Ok(needed));
            let message = Message::parse(&buffer[..needed]).unwrap();
            prop_assert_eq!(message.integrity(&key), Integrity::Verified);
            prop_assert_eq!(message.fingerprint(), Fingerprint::Verified);
            let read: Vec<_> = message.attributes().map(|a| (a.kind.0, a.value.to_vec())).collect();
            prop_assert_eq!(&read[..values.len()], &values[..]);
        }
    }

    #[test]
    fn data_indications(id in any::<[u8; 12]>(), v6 in any::<bool>(), data in proptest::collection::vec(any::<u8>(), 0..50)) {
        let transaction = TransactionId::from_bytes(id);
        let peer = if v6 { "[2001:db8::1]:9" } else { "192.0.2.1:9" }.parse().unwrap();
        let mut headroom = [0xAA; DATA_INDICATION_MAX_HEADER];
        let length = write_data_indication_header(&mut headroom, transaction, peer, data.len()).unwrap();
        let mut bytes = headroom[headroom.len() - length..].to_vec();
        bytes.extend(&data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        prop_assert_eq!(message.attribute(AttributeType::DATA), Some(&data[..]));
        let value = message.attribute(AttributeType::XOR_PEER_ADDRESS).unwrap();
        prop_assert_eq!(address::decode_xor(value, transaction), Some(peer));
    }
}

#[test]
fn error_codes() {
    for code in [300, 400, 401, 438, 499, 508, 699] {
        let code = ErrorCode::new(code).unwrap();
        let mut buffer = [0; 200];
        let id = TransactionId::from_bytes([1; 12]);
        let length = MessageWriter::new(&mut buffer, Class::Error, Method::BINDING, id)
            .error_code(code, "why not")
            .finish()
            .unwrap();
        let message = Message::parse(&buffer[..length]).unwrap();
        let value = message.attribute(AttributeType::ERROR_CODE).unwrap();
        assert_eq!(ErrorCode::parse(value), Some((code, "why not")));
    }
    for wrong in [&[0, 0, 4][..], &[0, 0, 4, 100], &[0, 0, 2, 0], &[0, 0, 7, 0]] {
        assert_eq!(ErrorCode::parse(wrong), None);
    }
    assert_eq!((ErrorCode::new(299), ErrorCode::new(700)), (None, None));
}
