//! ClientHellos to begin fuzzing with.

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The extensions of a client that speaks DTLS 1.2: the extended master secret, and X25519.
const EXTENSIONS: [&[u8]; 2] = [&[0, 23, 0, 0], &[0, 10, 0, 4, 0, 2, 0, 29]];
const SUITES: [u8; 6] = [0x13, 0x01, 0xC0, 0x2B, 0xC0, 0x2C];

fn length<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let all = bytes.len().to_be_bytes();
    all.last_chunk().copied().unwrap_or([0; N])
}

/// A ClientHello's fields, in the order in which they stand; DTLS alone has a cookie.
fn body(version: [u8; 2], cookie: Option<&[u8]>, suites: &[u8], extensions: &[&[u8]]) -> Vec<u8> {
    let extensions = extensions.concat();
    let cookie = cookie.map(|cookie| [&length::<1>(cookie)[..], cookie].concat()).unwrap_or_default();
    let suites = [&length::<2>(suites)[..], suites].concat();
    [&version[..], &[9; 32], &[0], &cookie, &suites, &[1, 0], &length::<2>(&extensions), &extensions].concat()
}

/// The first `count` bytes of a ClientHello of DTLS in a record.
fn fragment(body: &[u8], number: u8, count: usize) -> Vec<u8> {
    let part = body.get(..count).unwrap_or(body);
    let message =
        [&[CLIENT_HELLO][..], &length::<3>(body), &[0, number, 0, 0, 0], &length::<3>(part), part].concat();
    let record = [HANDSHAKE, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, number];
    [&record[..], &length::<2>(&message), &message].concat()
}

fn dtls(number: u8, cookie: &[u8], more: &[&[u8]]) -> Vec<u8> {
    let body = body([0xFE, 0xFD], Some(cookie), &SUITES, &[&EXTENSIONS[..], more].concat());
    fragment(&body, number, body.len())
}

/// Of DTLS 1.3, with a key share of X25519.
fn dtls13(more: &[&[u8]]) -> Vec<u8> {
    let share = [&[0, 51, 0, 38, 0, 36, 0, 29, 0, 32][..], &[7; 32]].concat();
    dtls(0, &[], &[&[&[0, 43, 0, 5, 4, 0xFE, 0xFC, 0xFE, 0xFD][..], &share], more].concat())
}

pub(super) fn dtls12() -> Vec<u8> {
    dtls(0, &[], &[])
}

/// Of TLS, in its record.
pub(super) fn tls() -> Vec<u8> {
    let body = body([3, 3], None, &SUITES, &EXTENSIONS);
    let message = [&[CLIENT_HELLO][..], &length::<3>(&body), &body].concat();
    [&[HANDSHAKE, 3, 1][..], &length::<2>(&message), &message].concat()
}

/// Seeds of the gate: a byte of its own first.
pub(super) fn gate() -> Vec<(&'static str, Vec<u8>)> {
    let old = body([0xFE, 0xFF], Some(&[]), &SUITES, &EXTENSIONS);
    let foreign = body([0xFE, 0xFD], Some(&[]), &[0, 0x9C], &EXTENSIONS);
    let long = body([0xFE, 0xFD], Some(&[]), &SUITES, &EXTENSIONS);
    let padding = [&[0, 21, 0, 40][..], &[0; 40]].concat();
    let cookie = [&[0, 44, 0, 34, 0, 32, 0, 1, 0, 99][..], &[5; 28]].concat();
    let mut later = dtls12();
    // A fragment that is not the first.
    later.splice(19..22, [0, 0, 4]);
    let seeds = [
        ("dtls12", dtls12()),
        ("dtls13", dtls13(&[])),
        ("dtls13-padded", dtls13(&[&padding])),
        ("dtls13-cookie", dtls13(&[&cookie])),
        ("dtls12-cookie", dtls(1, &[6; 32], &[])),
        ("dtls12-fourth", dtls(3, &[6; 32], &[])),
        ("fragment", fragment(&long, 0, 60)),
        ("fragment-later", later),
        ("dtls10", fragment(&old, 0, old.len())),
        ("foreign-suites", fragment(&foreign, 0, foreign.len())),
        ("rotated", dtls13(&[])),
    ];
    seeds
        .into_iter()
        .map(|(name, hello)| (name, [&[u8::from(name == "rotated")][..], &hello].concat()))
        .collect()
}
