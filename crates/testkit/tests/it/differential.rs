//! Two parsers that know nothing of each other read the same bytes: ours and that of `stun-types`.
//!
//! Where they differ on purpose:
//! - They refuse a message whose FINGERPRINT is wrong; here that is a question of its own, and the server's
//!   answer to it is silence, too.
//! - They look no further than FINGERPRINT, or than what may follow the integrity; here the whole message has to
//!   be well-formed, so that no two readers see different ends of it.
//! - They take bytes behind the message's length, or a length that is no multiple of four, for no fault.

use std::net::SocketAddr;

use proptest::prelude::*;
use stun::{AttributeType, Class, ErrorCode, Fingerprint, LongTermKey, Method, ParseError, TransactionId};
use stun_types::attribute::{self as theirs, AttributeStaticType};
use stun_types::message::{
    LongTermKeyCredentials, Message as Theirs, MessageClass, MessageHeader, MessageIntegrityCredentials,
    StunParseError,
};
use testkit::fuzz::seeds;
use testkit::message;

/// A message's attributes: types and values.
type Values = Vec<(u16, Vec<u8>)>;

fn class(of: MessageClass) -> Class {
    match of {
        MessageClass::Request => Class::Request,
        MessageClass::Indication => Class::Indication,
        MessageClass::Success => Class::Success,
        MessageClass::Error => Class::Error,
    }
}

fn transaction(bytes: &[u8]) -> u128 {
    MessageHeader::from_bytes(bytes).unwrap().transaction_id().into()
}

fn their_values(message: &Theirs<'_>) -> Values {
    let attributes = message.iter_attributes().map(|(_, attribute)| attribute);
    attributes.map(|it| (it.header.get_type().value(), it.value.to_vec())).collect()
}

fn our_values(message: &stun::Message<'_>) -> Values {
    message.attributes().map(|it| (it.kind.0, it.value.to_vec())).collect()
}

/// Whether an attribute of these types is somewhere in the bytes, well-formed or not.
fn has_ending(bytes: &[u8]) -> bool {
    let kinds = [
        AttributeType::MESSAGE_INTEGRITY,
        AttributeType::MESSAGE_INTEGRITY_SHA256,
        AttributeType::FINGERPRINT,
    ];
    bytes.chunks(4).any(|word| kinds.iter().any(|kind| word.starts_with(&kind.0.to_be_bytes())))
}

fn compare(bytes: &[u8]) {
    match (stun::Message::parse(bytes), Theirs::from_bytes(bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.class(), class(theirs.class()));
            assert_eq!(ours.method().0, theirs.method().value());
            let id = u128::from_be_bytes(
                [&[0; 4], &ours.transaction().as_bytes()[..]].concat().try_into().unwrap(),
            );
            assert_eq!(transaction(bytes), id);
            let (ours, theirs) = (our_values(&ours), their_values(&theirs));
            assert!(ours.starts_with(&theirs), "{ours:?} {theirs:?}");
            assert!(ours.len() == theirs.len() || has_ending(bytes), "{ours:?} {theirs:?}");
        }
        (Ok(ours), Err(error)) => {
            assert_eq!(ours.fingerprint(), Fingerprint::Wrong, "{error:?}");
        }
        (Err(ParseError::Length), _) => {
            let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            assert!(length % 4 != 0 || length + 20 < bytes.len());
        }
        (Err(ParseError::Attribute), Ok(_)) => assert!(has_ending(bytes)),
        (Err(error), Ok(_)) => panic!("{error:?}, but they read {bytes:?}"),
        // Shorter than a header it is refused unseen.
        (Err(_), Err(_)) if bytes.len() < stun::HEADER_LEN => {}
        (Err(ours), Err(theirs)) => {
            let is_stun = ours != ParseError::NotStun;
            assert_eq!(is_stun, !matches!(theirs, StunParseError::NotStun), "{ours:?} {theirs:?}");
        }
    }
}

fn attribute() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let known =
        [0x0001, 0x0006, 0x0008, 0x0009, 0x000C, 0x0012, 0x0014, 0x0015, 0x001C, 0x0020, 0x8022, 0x8028];
    let kind = prop_oneof![8 => prop::sample::select(known.to_vec()), 1 => any::<u16>()];
    (kind, prop::collection::vec(any::<u8>(), 0..40))
}

fn written() -> impl Strategy<Value = Vec<u8>> {
    let attributes = prop::collection::vec(attribute(), 0..6);
    (0..4usize, 0..0x1000u16, any::<[u8; 12]>(), attributes, any::<bool>()).prop_map(
        |(class, method, id, attributes, protect)| {
            let class = [Class::Request, Class::Indication, Class::Success, Class::Error][class];
            message::write(class, Method(method), TransactionId::from_bytes(id), |writer| {
                for (kind, value) in &attributes {
                    writer.attribute(AttributeType(*kind), value);
                }
                if protect {
                    writer.integrity(&LongTermKey::new(b"user", b"realm", b"password")).fingerprint();
                }
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn both_parsers_read_the_same(bytes in written()) {
        compare(&bytes);
    }

    #[test]
    fn both_parsers_refuse_the_same(
        mut bytes in written(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in prop::collection::vec(any::<u8>(), 0..5),
    ) {
        for (place, to) in changes {
            let place = place.index(bytes.len());
            bytes[place] = to;
        }
        bytes.extend(more);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        compare(&bytes);
    }

    #[test]
    fn what_we_write_is_read_as_it_was_meant(
        id in any::<[u8; 12]>(),
        v6 in any::<bool>(),
        ip in any::<u128>(),
        port in any::<u16>(),
        name in "[a-zA-Z0-9 ]{1,60}",
        code in 300..700u16,
    ) {
        let ip = if v6 { ip.to_be_bytes().into() } else { std::net::IpAddr::from(u32::try_from(ip >> 96).unwrap().to_be_bytes()) };
        let (address, key) = (SocketAddr::new(ip, port), LongTermKey::new(name.as_bytes(), b"realm", b"password"));
        let bytes = message::write(Class::Error, Method::ALLOCATE, TransactionId::from_bytes(id), |writer| {
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
            writer.attribute(AttributeType::MAPPED_ADDRESS, stun::address::encode(address).as_bytes());
            writer.attribute(AttributeType::USERNAME, name.as_bytes()).attribute(AttributeType::REALM, b"realm");
            writer.attribute(AttributeType::NONCE, b"nonce").attribute(AttributeType::SOFTWARE, name.as_bytes());
            writer.error_code(ErrorCode::new(code).unwrap(), &name);
            writer.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &[0x7F, 1, 0x7F, 2]);
            writer.integrity(&key).fingerprint();
        });
        let theirs = Theirs::from_bytes(&bytes).unwrap();
        let xored = theirs.attribute::<theirs::XorMappedAddress>().unwrap();
        prop_assert_eq!(xored.addr(theirs.transaction_id()), address);
        let username = theirs.attribute::<theirs::Username>().unwrap();
        prop_assert_eq!(username.username(), &*name);
        let realm = theirs.attribute::<theirs::Realm>().unwrap();
        prop_assert_eq!(realm.realm(), "realm");
        let nonce = theirs.attribute::<theirs::Nonce>().unwrap();
        prop_assert_eq!(nonce.nonce(), "nonce");
        let software = theirs.attribute::<theirs::Software>().unwrap();
        prop_assert_eq!(software.software(), &*name);
        let error = theirs.attribute::<theirs::ErrorCode>().unwrap();
        prop_assert_eq!((error.code(), error.reason()), (code, &*name));
        let unknown = theirs.attribute::<theirs::UnknownAttributes>().unwrap();
        prop_assert!(unknown.has_attribute(0x7F01.into()) && unknown.has_attribute(0x7F02.into()));
        prop_assert!(theirs.has_attribute(theirs::Fingerprint::TYPE));
        let credentials = LongTermKeyCredentials::new(name, "password".to_owned(), "realm".to_owned());
        let credentials: MessageIntegrityCredentials = credentials.into();
        prop_assert!(theirs.validate_integrity(&credentials).is_ok());
    }
}

#[test]
fn both_parsers_read_the_fuzzers_seeds() {
    for (_, bytes) in seeds("message") {
        compare(&bytes);
    }
}
