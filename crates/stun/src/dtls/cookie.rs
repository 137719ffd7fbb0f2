//! The cookie: what proves that a client receives at the address that it sends from. RFC 6347 §4.2.1, RFC 9147 §5.1.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::hello::Hello;

/// How long a cookie is.
pub const COOKIE_LEN: usize = 32;
/// The cookie's own fields: the number of its key, zero, and the length of the first ClientHello of DTLS 1.3.
const FIELDS: usize = 4;

/// The keys that cookies are made and proved with. A cookie is good until the key that made it has been replaced
/// twice.
#[derive(Clone)]
pub struct CookieKeys {
    number: u8,
    current: [u8; 32],
    previous: Option<[u8; 32]>,
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKeys").finish_non_exhaustive()
    }
}

impl CookieKeys {
    /// Begins with a key, which comes from a generator that nobody can guess.
    pub fn new(key: [u8; 32]) -> Self {
        Self { number: 0, current: key, previous: None }
    }

    /// Makes cookies with another key from now on. The one before still proves those it made; older ones no more.
    pub fn rotate(&mut self, key: [u8; 32]) {
        self.previous = Some(std::mem::replace(&mut self.current, key));
        self.number = self.number.wrapping_add(1);
    }

    /// The cookie for a client that offers DTLS 1.2.
    pub(super) fn cookie_1_2(&self, from: SocketAddr, hello: &Hello<'_>) -> [u8; COOKIE_LEN] {
        finish([self.number, 0, 0, 0], mac_1_2(&self.current, from, hello))
    }

    pub(super) fn proves_1_2(&self, from: SocketAddr, hello: &Hello<'_>) -> bool {
        let Some([number, 0, 0, 0]) = hello.cookie.first_chunk::<FIELDS>() else { return false };
        self.key(*number).is_some_and(|key| {
            let expected = finish([*number, 0, 0, 0], mac_1_2(key, from, hello));
            expected.ct_eq(hello.cookie).into()
        })
    }

    /// The cookie for a client that offers DTLS 1.3 with this ClientHello.
    pub(super) fn cookie_1_3(&self, from: SocketAddr, body: &[u8]) -> Option<[u8; COOKIE_LEN]> {
        let [l0, l1] = u16::try_from(body.len()).ok()?.to_be_bytes();
        let fields = [self.number, 1, l0, l1];
        Some(finish(fields, mac_1_3(&self.current, from, fields, body)))
    }

    /// The ClientHello for which a client of DTLS 1.3 was given this cookie, if it was given it.
    pub(super) fn first_1_3<'b>(
        &self,
        from: SocketAddr,
        hello: &Hello<'_>,
        cookie: &[u8],
        buffer: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let [number, 1, l0, l1] = *cookie.first_chunk::<FIELDS>()? else { return None };
        let first = hello.without_cookie(u16::from_be_bytes([l0, l1]).into(), buffer)?;
        let fields = [number, 1, l0, l1];
        let expected = finish(fields, mac_1_3(self.key(number)?, from, fields, first));
        bool::from(expected.ct_eq(cookie)).then_some(first)
    }

    fn key(&self, number: u8) -> Option<&[u8; 32]> {
        if number == self.number {
            return Some(&self.current);
        }
        self.previous.as_ref().filter(|_| number == self.number.wrapping_sub(1))
    }
}

fn finish(fields: [u8; FIELDS], mac: [u8; 32]) -> [u8; COOKIE_LEN] {
    let mut cookie = mac;
    if let Some(front) = cookie.first_chunk_mut() {
        *front = fields;
    }
    cookie
}

/// What a client must not change in DTLS 1.2. RFC 6347 §4.2.1.
fn mac_1_2(key: &[u8; 32], from: SocketAddr, hello: &Hello<'_>) -> [u8; 32] {
    let lengths = [hello.session_id.len(), hello.suites.len(), hello.compression.len()];
    let lengths = lengths.map(|length| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    let parts = [lengths.as_flattened(), &hello.random, hello.session_id, hello.suites, hello.compression];
    mac(key, 2, from, &parts)
}

/// In DTLS 1.3 nothing at all. RFC 8446 §4.1.2.
fn mac_1_3(key: &[u8; 32], from: SocketAddr, fields: [u8; FIELDS], body: &[u8]) -> [u8; 32] {
    mac(key, 3, from, &[&fields, body])
}

fn mac(key: &[u8; 32], version: u8, from: SocketAddr, parts: &[&[u8]]) -> [u8; 32] {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("any length is good")
    };
    mac.update(&[version]);
    mac.update(&ip.octets());
    mac.update(&from.port().to_be_bytes());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
