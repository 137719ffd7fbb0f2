//! Stateless nonces: a timestamp and a MAC that binds it to one client, so that an unauthenticated sender costs
//! no memory. RFC 8489 §9.2, relaying attacks of RFC 8656 §21.

use std::fmt;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{FiveTuple, Time, Transport};

/// 18 bytes in base64url: short, for every byte of a 401 is one that a spoofed source can have reflected.
const LEN: usize = 24;
/// RFC 8489 §9.2 and §18.1: the nonce cookie, and 24 security feature bits in base64 of which bit 0 says that password
/// algorithms are offered. The RFC counts from the left, its erratum 6290 and its appendix B.1 from the right: bit 0
/// of both is set, and the other one is a feature that nobody has defined.
const OFFER: &[u8; 13] = b"obMatJos2gAAB";
const STAMP_LEN: usize = 4;
const MAC_LEN: usize = 14;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Makes and checks nonces; the same for all workers of a process. RFC 8489 §9.2.
///
/// Kept as a MAC with the key taken in, which is half of a nonce's work. It overwrites itself when dropped.
#[derive(Clone)]
pub struct NonceKey(Hmac<Sha256>);

impl NonceKey {
    /// A key of 32 random bytes. RFC 8489 §9.2.
    pub fn new(random: [u8; 32]) -> Self {
        Self(Hmac::new_from_slice(&random).expect("HMAC takes a key of any length"))
    }

    /// Secret numbers for another purpose, which tell nothing about the key.
    pub(crate) fn derive(&self, purpose: &[u8]) -> [u64; 2] {
        let tag = self.derive_key(purpose);
        let number = |from: usize| {
            let bytes = tag.get(from..).and_then(<[u8]>::first_chunk::<8>);
            bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        [number(0), number(8)]
    }

    /// Another key, for another purpose.
    pub(crate) fn derive_key(&self, purpose: &[u8]) -> [u8; 32] {
        let mut mac = self.0.clone();
        // A nonce's MAC begins with a time stamp of four bytes and a zero or a one; this does not.
        mac.update(&[0xFF; STAMP_LEN + 1]);
        mac.update(purpose);
        mac.finalize().into_bytes().into()
    }

    /// A nonce for this client, which says that password algorithms are offered if they are.
    pub(crate) fn issue(&self, now: Time, client: &FiveTuple, offers: bool) -> Nonce {
        let mut nonce = Nonce { bytes: [0; OFFER.len() + LEN], length: 0 };
        let cookie = if offers { &OFFER[..] } else { &[] };
        let bytes = cookie.iter().copied().chain(self.fresh(now, client));
        nonce.length = nonce.bytes.iter_mut().zip(bytes).map(|(to, from)| *to = from).count();
        nonce
    }

    fn fresh(&self, now: Time, client: &FiveTuple) -> [u8; LEN] {
        // 32 bits of seconds wrap after 136 years; only differences count.
        let [.., a, b, c, d] = (now.monotonic_ms / 1_000).to_be_bytes();
        self.nonce([a, b, c, d], client)
    }

    /// Whether `nonce` was issued to this client no more than `lifetime_secs` ago, with this offer.
    pub(crate) fn accepts(
        &self,
        nonce: &[u8],
        now: Time,
        client: &FiveTuple,
        offers: bool,
        lifetime_secs: u32,
    ) -> bool {
        // RFC 8489 §9.2.4: whoever takes the offer out of the nonce bids down; it is then a nonce never issued.
        let nonce = if offers { nonce.strip_prefix(OFFER) } else { Some(nonce) };
        let Some(nonce) = nonce else { return false };
        let Some(stamp) = nonce.first_chunk::<6>().copied().and_then(decode_stamp) else { return false };
        let expected = self.nonce(stamp, client);
        let [.., a, b, c, d] = (now.monotonic_ms / 1_000).to_be_bytes();
        let age = u32::from_be_bytes([a, b, c, d]).wrapping_sub(u32::from_be_bytes(stamp));
        bool::from(expected.ct_eq(nonce)) && age <= lifetime_secs
    }

    fn nonce(&self, stamp: [u8; STAMP_LEN], client: &FiveTuple) -> [u8; LEN] {
        let mut mac = self.0.clone();
        mac.update(&stamp);
        mac.update(&[match client.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
            Transport::Dtls => 3,
        }]);
        match client.client.ip() {
            IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(&client.client.port().to_be_bytes());
        let tag = mac.finalize().into_bytes();
        let mut bytes = [0; STAMP_LEN + MAC_LEN];
        let from = stamp.iter().chain(tag.iter());
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        encode(&bytes)
    }
}

/// A NONCE attribute's value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nonce {
    bytes: [u8; OFFER.len() + LEN],
    length: usize,
}

impl Nonce {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey")
    }
}

fn encode(bytes: &[u8; STAMP_LEN + MAC_LEN]) -> [u8; LEN] {
    let mut text = [0; LEN];
    for (to, from) in text.chunks_exact_mut(4).zip(bytes.chunks_exact(3)) {
        let bits = from.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for (place, to) in to.iter_mut().enumerate() {
            let sextet = (bits >> (18 - 6 * place)) & 0x3F;
            *to = ALPHABET.get(sextet as usize).copied().unwrap_or_default();
        }
    }
    text
}

fn decode_stamp(text: [u8; 6]) -> Option<[u8; STAMP_LEN]> {
    let mut bits = 0u64;
    for character in text {
        let sextet = ALPHABET.iter().position(|a| *a == character)?;
        bits = bits << 6 | sextet as u64;
    }
    let [.., a, b, c, d] = (bits >> 4).to_be_bytes();
    Some([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: address.parse().unwrap(),
            server: "192.0.2.9:3478".parse().unwrap(),
        }
    }

    #[test]
    fn rfc8489_9_2_a_nonce_is_bound_to_its_client_and_expires() {
        let key = NonceKey::new([7; 32]);
        let at = |secs: u64| Time { monotonic_ms: secs * 1_000, unix_ms: 0 };
        let ours = client("192.0.2.1:5000");
        for offers in [false, true] {
            let issued = key.issue(at(1_000), &ours, offers);
            let nonce = issued.as_bytes();
            let accepts =
                |nonce: &[u8], secs, client: &FiveTuple| key.accepts(nonce, at(secs), client, offers, 600);
            assert_eq!(nonce.len(), if offers { 37 } else { 24 });
            assert!(nonce.iter().all(u8::is_ascii_graphic));
            assert!(accepts(nonce, 1_000, &ours));
            assert!(accepts(nonce, 1_600, &ours));
            assert!(!accepts(nonce, 1_601, &ours), "expired");
            assert!(!accepts(nonce, 999, &ours), "from the future");
            for other in ["192.0.2.1:5001", "192.0.2.2:5000", "[::1]:5000"] {
                assert!(!accepts(nonce, 1_000, &client(other)), "{other}");
            }
            let tcp = FiveTuple { transport: Transport::Tcp, ..ours };
            assert!(!accepts(nonce, 1_000, &tcp));
            let other = NonceKey::new([8; 32]);
            assert!(!other.accepts(nonce, at(1_000), &ours, offers, 600), "another server's");
            assert!(!key.accepts(nonce, at(1_000), &ours, !offers, 600), "another offer");
            for place in 0..nonce.len() {
                let mut forged = nonce.to_vec();
                forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
                assert!(!accepts(&forged, 1_000, &ours), "forged at {place}");
            }
            assert!(!accepts(&nonce[..nonce.len() - 1], 1_000, &ours));
            assert!(!accepts(&[nonce, b"A"].concat(), 1_000, &ours));
            assert!(!accepts(b"", 1_000, &ours));
        }
    }
}
