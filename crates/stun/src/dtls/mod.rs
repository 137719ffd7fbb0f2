//! The gate before DTLS: what a server says to a ClientHello without remembering anything, until the client has shown
//! that it receives where it says it is. RFC 6347 §4.2.1, RFC 9147 §5.1.
//!
//! Sessions are not made here. The gate answers a first hello with a cookie, and lets a hello with a good cookie
//! through together with what the first exchange was, so that a DTLS engine can be brought to where it would be if it
//! had seen both.

mod cookie;
mod hello;

use std::net::SocketAddr;

pub use cookie::{COOKIE_LEN, CookieKeys};
use hello::{DTLS_1_3, Hello};

/// The header of a plaintext record. RFC 6347 §4.1.
pub const RECORD_HEADER: usize = 13;
/// The header of a handshake message or a fragment of one. RFC 6347 §4.2.2.
const HANDSHAKE_HEADER: usize = 12;
/// The longest ClientHello of DTLS 1.3 that is let through, in bytes without headers.
pub const MAX_HELLO: usize = 2_048;
/// How often a client of DTLS 1.2 may be sent back for another cookie.
const MAX_RETRIES: u16 = 3;

const DTLS_1_2: u16 = 0xFEFD;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const HELLO_VERIFY_REQUEST: u8 = 3;

/// The random that makes a ServerHello a HelloRetryRequest. RFC 8446 §4.1.3.
const RETRY_RANDOM: [u8; 32] = [
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2,
    0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
];

/// Whether a datagram is DTLS, told by its first byte. RFC 7983 §7, RFC 9443 §2.
pub fn is_dtls(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(20..=63))
}

/// Whether the first record of a datagram is neither encrypted nor authenticated.
pub fn is_plaintext(datagram: &[u8]) -> bool {
    match datagram {
        // RFC 9147 §4: the first three bits 001 are those of an encrypted record of DTLS 1.3.
        [0x20..=0x3F, ..] => false,
        // RFC 6347 §4.1: type, version, epoch.
        [_, _, _, e0, e1, ..] => (*e0, *e1) == (0, 0),
        _ => true,
    }
}

/// Whether the first record of a datagram holds a ClientHello or a part of one.
pub fn is_client_hello(datagram: &[u8]) -> bool {
    datagram.first() == Some(&HANDSHAKE)
        && is_plaintext(datagram)
        && datagram.get(RECORD_HEADER) == Some(&CLIENT_HELLO)
}

/// Which version a session is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 6347
    Dtls12,
    /// RFC 9147
    Dtls13,
}

/// What is done with a datagram that no session has claimed.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'s> {
    /// Nothing: it is no ClientHello, or not its beginning.
    Drop,
    /// This is sent back, which is never longer than what came, and nothing is remembered.
    Reply(&'s [u8]),
    /// The client receives at its address: a session may begin.
    Admit(Admission<'s>),
}

/// What a DTLS engine needs to know of the exchange that led to a hello with a good cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission<'s> {
    /// What the session will be.
    pub version: Version,
    /// The hello's random.
    pub random: [u8; 32],
    /// The cookie in the hello.
    pub cookie: [u8; COOKIE_LEN],
    /// The hello's record sequence number.
    pub record_sequence: u64,
    /// Which handshake message of the client the hello is: at least 1, as many as went before it.
    pub message_sequence: u16,
    /// A record with the hello without the cookie, its message sequence 0. In DTLS 1.3 to the byte what the client has
    /// sent, in DTLS 1.2 without extensions.
    pub first_hello: &'s [u8],
    /// A record with the HelloRetryRequest that was the answer; empty in DTLS 1.2, where the answer counts for nothing.
    pub retry_request: &'s [u8],
}

impl Admission<'_> {
    /// Where in the records' bytes the message's sequence number is.
    pub const MESSAGE_SEQUENCE: std::ops::Range<usize> = RECORD_HEADER + 4..RECORD_HEADER + 6;
}

/// Room for what a verdict shows.
#[derive(Debug)]
pub struct Scratch {
    hello: [u8; RECORD_HEADER + HANDSHAKE_HEADER + MAX_HELLO],
    reply: [u8; 160],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { hello: [0; RECORD_HEADER + HANDSHAKE_HEADER + MAX_HELLO], reply: [0; 160] }
    }
}

/// Judges a datagram by its first record. Time is in the keys: whoever holds them rotates them.
pub fn judge<'s>(
    keys: &CookieKeys,
    from: SocketAddr,
    datagram: &[u8],
    scratch: &'s mut Scratch,
) -> Verdict<'s> {
    let Some(hello) = Hello::parse(datagram).filter(|hello| hello.message_sequence <= MAX_RETRIES) else {
        return Verdict::Drop;
    };
    if hello.version != DTLS_1_2 {
        return alert(Alert::ProtocolVersion, &hello, datagram, scratch);
    }
    if hello.offers_1_2() && hello.message_sequence > 0 && keys.proves_1_2(from, &hello) {
        return admit_1_2(&hello, scratch).unwrap_or(Verdict::Drop);
    }
    if let Some(cookie) = hello.retry_cookie() {
        // RFC 9147 §5.1: a ClientHello with an invalid cookie ends the handshake with illegal_parameter.
        return match admit_1_3(keys, from, &hello, cookie, scratch) {
            Some(_) if hello.message_sequence != 1 => Verdict::Drop,
            Some((first, retry)) => admission_1_3(&hello, cookie, (first, retry), scratch),
            None => alert(Alert::IllegalParameter, &hello, datagram, scratch),
        };
    }
    challenge(keys, from, &hello, datagram, scratch)
}

/// Sends the client back for a cookie.
fn challenge<'s>(
    keys: &CookieKeys,
    from: SocketAddr,
    hello: &Hello<'_>,
    datagram: &[u8],
    scratch: &'s mut Scratch,
) -> Verdict<'s> {
    let is_first = hello.message_sequence == 0 && hello.cookie.is_empty();
    let whole = hello.body().filter(|body| is_first && body.len() <= MAX_HELLO);
    let length = if let (Some(body), Some(suite)) = (whole, hello.suite_1_3()) {
        // RFC 9147 §5.1: a cookie is asked for before anything else is done.
        let cookie = keys.cookie_1_3(from, body);
        cookie.and_then(|cookie| write_retry_request(&mut scratch.reply, suite, &cookie))
    } else if hello.offers_1_2() {
        write_verify_request(&mut scratch.reply, hello, &keys.cookie_1_2(from, hello))
    } else {
        return alert(Alert::HandshakeFailure, hello, datagram, scratch);
    };
    reply(length, datagram, scratch)
}

/// Nobody gets more bytes sent to a victim than he has to send himself.
fn reply<'s>(length: Option<usize>, datagram: &[u8], scratch: &'s Scratch) -> Verdict<'s> {
    match length.filter(|length| *length <= datagram.len()).and_then(|length| scratch.reply.get(..length)) {
        Some(reply) => Verdict::Reply(reply),
        None => Verdict::Drop,
    }
}

fn admit_1_2<'s>(hello: &Hello<'_>, scratch: &'s mut Scratch) -> Option<Verdict<'s>> {
    let suites = u16::try_from(hello.suites.len()).ok()?.to_be_bytes();
    let version = DTLS_1_2.to_be_bytes();
    let [compression] = u8::try_from(hello.compression.len()).ok()?.to_be_bytes();
    let parts: [&[u8]; 7] =
        [&version, &hello.random, &[0, 0], &suites, hello.suites, &[compression], hello.compression];
    let length = write_message(&mut scratch.hello, CLIENT_HELLO, [0; 6], 0, &parts)?;
    Some(Verdict::Admit(Admission {
        version: Version::Dtls12,
        random: hello.random,
        cookie: *hello.cookie.first_chunk()?,
        record_sequence: sequence(hello),
        message_sequence: hello.message_sequence,
        first_hello: scratch.hello.get(..length)?,
        retry_request: &[],
    }))
}

/// Makes the first exchange again: how long the hello was, and the answer.
fn admit_1_3(
    keys: &CookieKeys,
    from: SocketAddr,
    hello: &Hello<'_>,
    cookie: &[u8],
    scratch: &mut Scratch,
) -> Option<(usize, usize)> {
    let (headers, room) = scratch.hello.split_at_mut_checked(RECORD_HEADER + HANDSHAKE_HEADER)?;
    let first = keys.first_1_3(from, hello, cookie, room)?.len();
    write_headers(headers, CLIENT_HELLO, [0; 6], 0, first)?;
    let retry = write_retry_request(&mut scratch.reply, hello.suite_1_3()?, cookie.first_chunk()?)?;
    Some((first + RECORD_HEADER + HANDSHAKE_HEADER, retry))
}

fn admission_1_3<'s>(
    hello: &Hello<'_>,
    cookie: &[u8],
    (first, retry): (usize, usize),
    scratch: &'s Scratch,
) -> Verdict<'s> {
    let Some(cookie) = cookie.first_chunk() else { return Verdict::Drop };
    Verdict::Admit(Admission {
        version: Version::Dtls13,
        random: hello.random,
        cookie: *cookie,
        record_sequence: sequence(hello),
        message_sequence: hello.message_sequence,
        first_hello: scratch.hello.get(..first).unwrap_or_default(),
        retry_request: scratch.reply.get(..retry).unwrap_or_default(),
    })
}

fn sequence(hello: &Hello<'_>) -> u64 {
    hello.record_sequence.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn write_verify_request(buffer: &mut [u8], hello: &Hello<'_>, cookie: &[u8; COOKIE_LEN]) -> Option<usize> {
    // RFC 6347 §4.2.1: server_version is DTLS 1.0 whatever is spoken later.
    let fields = [0xFE, 0xFF, COOKIE_LEN_BYTE];
    // RFC 6347 §4.2.1: the record sequence number is the ClientHello's.
    let sequence = hello.record_sequence;
    write_message(buffer, HELLO_VERIFY_REQUEST, sequence, hello.message_sequence, &[&fields, cookie])
}

#[expect(clippy::cast_possible_truncation, reason = "32")]
const COOKIE_LEN_BYTE: u8 = COOKIE_LEN as u8;

/// A ServerHello of DTLS 1.3 that asks for nothing but a cookie. RFC 8446 §4.1.4, RFC 9147 §5.1.
fn write_retry_request(buffer: &mut [u8], suite: u16, cookie: &[u8; COOKIE_LEN]) -> Option<usize> {
    let version = DTLS_1_2.to_be_bytes();
    let selected = DTLS_1_3.to_be_bytes();
    let [s0, s1] = suite.to_be_bytes();
    // RFC 9147 §5.3: the session's id is not echoed. Behind it the suite and no compression.
    let fields = [0, s0, s1, 0];
    let lengths = [0, 6 + 6 + COOKIE_LEN_BYTE];
    let cookie_header = [0, 44, 0, 2 + COOKIE_LEN_BYTE, 0, COOKIE_LEN_BYTE];
    let parts: [&[u8]; 8] =
        [&version, &RETRY_RANDOM, &fields, &lengths, &[0, 43, 0, 2], &selected, &cookie_header, cookie];
    write_message(buffer, SERVER_HELLO, [0; 6], 0, &parts)
}

#[derive(Debug, Clone, Copy)]
enum Alert {
    HandshakeFailure,
    IllegalParameter,
    ProtocolVersion,
}

fn alert<'s>(alert: Alert, hello: &Hello<'_>, datagram: &[u8], scratch: &'s mut Scratch) -> Verdict<'s> {
    let description = match alert {
        Alert::HandshakeFailure => 40,
        Alert::IllegalParameter => 47,
        Alert::ProtocolVersion => 70,
    };
    let [s0, s1, s2, s3, s4, s5] = hello.record_sequence;
    let record = [ALERT, 0xFE, 0xFD, 0, 0, s0, s1, s2, s3, s4, s5, 0, 2, 2, description];
    let length = scratch.reply.get_mut(..record.len()).map(|place| place.copy_from_slice(&record));
    reply(length.map(|()| record.len()), datagram, scratch)
}

/// Writes a record with one whole handshake message; its length.
fn write_message(
    buffer: &mut [u8],
    kind: u8,
    record_sequence: [u8; 6],
    message_sequence: u16,
    parts: &[&[u8]],
) -> Option<usize> {
    let (headers, mut room) = buffer.split_at_mut_checked(RECORD_HEADER + HANDSHAKE_HEADER)?;
    let length = parts.iter().map(|part| part.len()).sum();
    write_headers(headers, kind, record_sequence, message_sequence, length)?;
    for part in parts {
        let (place, rest) = room.split_at_mut_checked(part.len())?;
        place.copy_from_slice(part);
        room = rest;
    }
    Some(RECORD_HEADER + HANDSHAKE_HEADER + length)
}

fn write_headers(
    headers: &mut [u8],
    kind: u8,
    record_sequence: [u8; 6],
    message_sequence: u16,
    length: usize,
) -> Option<()> {
    let [r0, r1] = u16::try_from(HANDSHAKE_HEADER + length).ok()?.to_be_bytes();
    let [0, l0, l1, l2] = u32::try_from(length).ok()?.to_be_bytes() else { return None };
    let [s0, s1, s2, s3, s4, s5] = record_sequence;
    let [m0, m1] = message_sequence.to_be_bytes();
    let written = [
        HANDSHAKE, 0xFE, 0xFD, 0, 0, s0, s1, s2, s3, s4, s5, r0, r1, kind, l0, l1, l2, m0, m1, 0, 0, 0, l0,
        l1, l2,
    ];
    headers.get_mut(..written.len())?.copy_from_slice(&written);
    Some(())
}

#[cfg(test)]
mod tests;
