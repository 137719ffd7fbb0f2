//! MAPPED-ADDRESS and the XOR-… addresses. RFC 8489 §14.1 and §14.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{MAGIC_COOKIE, TransactionId};

/// The longest encoded address: family, port and an IPv6 address. RFC 8489 §14.1.
pub const MAX_LEN: usize = 20;

const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;

/// An encoded address: its bytes and how many of them count. RFC 8489 §14.1.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    bytes: [u8; MAX_LEN],
    length: usize,
}

impl Encoded {
    /// The attribute's value, 8 or 20 bytes. RFC 8489 §14.1.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Encodes the value of an XOR-… address attribute. RFC 8489 §14.2.
pub fn encode_xor(address: SocketAddr, transaction: TransactionId) -> Encoded {
    encode(mask(address, transaction))
}

/// Decodes the value of an XOR-… address attribute; `None` unless family and length fit each other. RFC 8489 §14.2.
pub fn decode_xor(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    Some(mask(decode(value)?, transaction))
}

/// Encodes the value of a MAPPED-ADDRESS or ALTERNATE-SERVER attribute. RFC 8489 §14.1 and §14.15.
pub fn encode(address: SocketAddr) -> Encoded {
    let mut bytes = [0; MAX_LEN];
    let [_, family, p0, p1, ip @ ..] = &mut bytes;
    [*p0, *p1] = address.port().to_be_bytes();
    let length = match address.ip() {
        IpAddr::V4(v4) => {
            *family = FAMILY_IPV4;
            let [a, b, c, d, ..] = ip;
            [*a, *b, *c, *d] = v4.octets();
            8
        }
        IpAddr::V6(v6) => {
            *family = FAMILY_IPV6;
            *ip = v6.octets();
            20
        }
    };
    Encoded { bytes, length }
}

/// Decodes the value of a MAPPED-ADDRESS or ALTERNATE-SERVER attribute. RFC 8489 §14.1 and §14.15.
pub fn decode(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], ip) = value.split_first_chunk::<4>()?;
    let ip = match family {
        FAMILY_IPV4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        FAMILY_IPV6 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

/// XORs port and address with cookie and transaction id: its own inverse.
fn mask(address: SocketAddr, transaction: TransactionId) -> SocketAddr {
    let [c0, c1, ..] = MAGIC_COOKIE.to_be_bytes();
    let port = address.port() ^ u16::from_be_bytes([c0, c1]);
    let ip = match address.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE).into(),
        IpAddr::V6(ip) => {
            let mut low = [0; 16];
            let (_, tail) = low.split_at_mut(4);
            tail.copy_from_slice(transaction.as_bytes());
            let pad = (u128::from(MAGIC_COOKIE) << 96) | u128::from_be_bytes(low);
            Ipv6Addr::from_bits(ip.to_bits() ^ pad).into()
        }
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "test values are small")]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(v6 in any::<bool>(), bits in any::<u128>(), port in any::<u16>(), id in any::<[u8; 12]>()) {
            let ip = if v6 { IpAddr::from(Ipv6Addr::from_bits(bits)) } else { Ipv4Addr::from_bits(bits as u32).into() };
            let address = SocketAddr::new(ip, port);
            let id = TransactionId::from_bytes(id);
            prop_assert_eq!(decode_xor(encode_xor(address, id).as_bytes(), id), Some(address));
            prop_assert_eq!(decode(encode(address).as_bytes()), Some(address));
        }
    }

    #[test]
    fn family_and_length_must_agree() {
        let v4 = encode("192.0.2.1:5".parse().unwrap());
        for cut in 0..8 {
            assert_eq!(decode(&v4.as_bytes()[..cut]), None);
        }
        assert_eq!(decode(&[0, 2, 0, 5, 1, 2, 3, 4]), None);
        assert_eq!(decode(&[0, 3, 0, 5, 1, 2, 3, 4]), None);
        assert_eq!(decode(&[0, 1, 0, 5, 1, 2, 3, 4, 5]), None);
    }
}
