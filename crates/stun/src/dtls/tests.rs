use super::*;

const CLIENT: &str = "192.0.2.1:4000";

/// A ClientHello as a client would make it.
#[derive(Debug, Clone)]
struct Shape {
    version: u16,
    message_sequence: u16,
    record_sequence: u8,
    session_id: Vec<u8>,
    cookie: Vec<u8>,
    suites: Vec<u16>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Shape {
    fn dtls12() -> Self {
        Self {
            version: DTLS_1_2,
            message_sequence: 0,
            record_sequence: 0,
            session_id: vec![],
            cookie: vec![],
            suites: vec![0xC02B, 0xC02C],
            extensions: vec![(23, vec![]), (10, vec![0, 2, 0, 29])],
        }
    }

    /// Of a client that speaks both versions.
    fn dtls13() -> Self {
        let share = [vec![0, 36, 0, 29, 0, 32], vec![7; 32]].concat();
        let versions = (43, vec![4, 0xFE, 0xFC, 0xFE, 0xFD]);
        let mut shape = Self { suites: vec![0xAAAA, 0x1302, 0x1301, 0xC02B], ..Self::dtls12() };
        shape.extensions.extend([versions, (51, share), (21, vec![0; 40])]);
        shape
    }

    fn body(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([9; 32]);
        body.push(u8::try_from(self.session_id.len()).unwrap());
        body.extend(&self.session_id);
        body.push(u8::try_from(self.cookie.len()).unwrap());
        body.extend(&self.cookie);
        body.extend(u16::try_from(2 * self.suites.len()).unwrap().to_be_bytes());
        self.suites.iter().for_each(|suite| body.extend(suite.to_be_bytes()));
        body.extend([1, 0]);
        let mut extensions = vec![];
        for (kind, data) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            extensions.extend(data);
        }
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        [body, extensions].concat()
    }

    /// The record with its first `length` bytes.
    fn fragment(&self, length: usize) -> Vec<u8> {
        let body = self.body();
        let mut record = vec![0; RECORD_HEADER + HANDSHAKE_HEADER];
        let sequence = [0, 0, 0, 0, 0, self.record_sequence];
        write_headers(&mut record, CLIENT_HELLO, sequence, self.message_sequence, body.len()).unwrap();
        record.extend(&body[..length]);
        record[11..13].copy_from_slice(&u16::try_from(12 + length).unwrap().to_be_bytes());
        record[22..25].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        record
    }

    fn record(&self) -> Vec<u8> {
        self.fragment(self.body().len())
    }

    /// The same with what came back.
    fn again(&self, reply: &[u8]) -> Self {
        let mut again = Self { message_sequence: self.message_sequence + 1, ..self.clone() };
        again.record_sequence += 1;
        match reply[RECORD_HEADER] {
            HELLO_VERIFY_REQUEST => again.cookie = reply[28..60].to_vec(),
            _ => again.extensions.insert(3, (44, reply[reply.len() - COOKIE_LEN - 2..].to_vec())),
        }
        again
    }
}

fn keys() -> CookieKeys {
    CookieKeys::new([1; 32])
}

fn replied(keys: &CookieKeys, datagram: &[u8]) -> Vec<u8> {
    match judge(keys, CLIENT.parse().unwrap(), datagram, &mut Scratch::default()) {
        Verdict::Reply(reply) => reply.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn admits(keys: &CookieKeys, from: &str, datagram: &[u8]) -> Option<Version> {
    match judge(keys, from.parse().unwrap(), datagram, &mut Scratch::default()) {
        Verdict::Admit(admission) => Some(admission.version),
        _ => None,
    }
}

fn alerted(datagram: &[u8]) -> u8 {
    let reply = replied(&keys(), datagram);
    assert_eq!((reply[0], reply.len()), (ALERT, 15));
    reply[14]
}

#[test]
fn rfc6347_4_2_1_a_hello_without_a_cookie_is_asked_for_one() {
    let hello = Shape { record_sequence: 7, ..Shape::dtls12() };
    let reply = replied(&keys(), &hello.record());
    assert_eq!(reply.len(), RECORD_HEADER + HANDSHAKE_HEADER + 3 + COOKIE_LEN);
    // The ClientHello's record sequence, message 0, DTLS 1.0 as the server's version.
    assert_eq!(reply[..13], [22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 7, 0, 47]);
    assert_eq!(reply[13..28], [3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35, 0xFE, 0xFF, 32]);
    let second = hello.again(&reply).record();
    assert_eq!(admits(&keys(), CLIENT, &second), Some(Version::Dtls12));
}

#[test]
fn rfc6347_4_2_1_a_cookie_is_its_clients_and_for_its_parameters() {
    let hello = Shape { session_id: vec![5; 8], ..Shape::dtls12() };
    let good = hello.again(&replied(&keys(), &hello.record()));
    assert_eq!(admits(&keys(), CLIENT, &good.record()), Some(Version::Dtls12));
    for other in ["192.0.2.1:4001", "192.0.2.2:4000", "[2001:db8::1]:4000"] {
        assert_eq!(admits(&keys(), other, &good.record()), None, "{other}");
    }
    let mut changed = good.clone();
    changed.suites.push(0xCCA9);
    let mut cut = good.clone();
    cut.session_id.pop();
    let mut forged = good.clone();
    forged.cookie[31] ^= 1;
    let mut short = good.clone();
    short.cookie.truncate(31);
    for wrong in [changed, cut, forged, short] {
        // RFC 6347 §4.2.1: as if there were none.
        let reply = replied(&keys(), &wrong.record());
        assert_eq!((reply[13], reply[18]), (HELLO_VERIFY_REQUEST, 1));
        assert_eq!(admits(&keys(), CLIENT, &wrong.again(&reply).record()), Some(Version::Dtls12));
    }
    let mut extended = good;
    extended.extensions.pop();
    assert_eq!(admits(&keys(), CLIENT, &extended.record()), Some(Version::Dtls12), "extensions may change");
}

#[test]
fn a_cookie_is_good_until_its_key_was_replaced_twice() {
    for hello in [Shape::dtls12(), Shape::dtls13()] {
        let mut keys = keys();
        let second = hello.again(&replied(&keys, &hello.record())).record();
        for good in [true, true, false, false] {
            assert_eq!(admits(&keys, CLIENT, &second).is_some(), good);
            keys.rotate([good.into(); 32]);
        }
        // 256 keys later its number comes again.
        (0..252).for_each(|_| keys.rotate([3; 32]));
        assert_eq!(admits(&keys, CLIENT, &second), None);
    }
}

#[test]
fn rfc9147_5_1_a_hello_of_dtls13_is_sent_back_and_rebuilt() {
    let first = Shape::dtls13();
    let reply = replied(&keys(), &first.record());
    assert_eq!(reply[13..25], [2, 0, 0, 84, 0, 0, 0, 0, 0, 0, 0, 84]);
    assert_eq!(reply[25..59], [&[0xFE, 0xFD][..], &RETRY_RANDOM].concat());
    // No session id, the client's first suite that is spoken here.
    assert_eq!(reply[59..63], [0, 0x13, 0x02, 0]);
    let second = first.again(&reply);
    let mut padded = second.clone();
    padded.extensions.last_mut().unwrap().1 = vec![0; 2];
    let mut bare = second.clone();
    bare.extensions.pop();
    for second in [second, padded, bare] {
        let mut scratch = Scratch::default();
        let verdict = judge(&keys(), CLIENT.parse().unwrap(), &second.record(), &mut scratch);
        let Verdict::Admit(admission) = verdict else { panic!("{verdict:?}") };
        assert_eq!((admission.version, admission.record_sequence), (Version::Dtls13, 1));
        assert_eq!(admission.first_hello, first.record());
        assert_eq!(admission.retry_request, reply);
    }
}

#[test]
fn rfc9147_5_1_a_wrong_cookie_ends_the_handshake() {
    let first = Shape::dtls13();
    let second = first.again(&replied(&keys(), &first.record()));
    assert_eq!(admits(&keys(), CLIENT, &second.record()), Some(Version::Dtls13));
    for other in ["192.0.2.1:4001", "192.0.2.2:4000"] {
        assert_eq!(admits(&keys(), other, &second.record()), None);
    }
    let change = |at: usize| {
        let mut changed = second.clone();
        *changed.extensions[at].1.last_mut().unwrap() ^= 1;
        alerted(&changed.record())
    };
    // The groups, the cookie, the key share.
    assert_eq!([1, 3, 4].map(change), [47; 3]);
}

#[test]
fn who_offers_nothing_that_is_spoken_here_is_told() {
    assert_eq!(alerted(&Shape { suites: vec![0xC02F, 0x009C], ..Shape::dtls12() }.record()), 40);
    assert_eq!(alerted(&Shape { version: 0xFEFF, ..Shape::dtls12() }.record()), 70);
    // A share of no group that is spoken: DTLS 1.2 if it can be, else nothing.
    let mut foreign = Shape::dtls13();
    foreign.extensions[3].1 = vec![0, 6, 0x11, 0xEC, 0, 2, 1, 1];
    assert_eq!(replied(&keys(), &foreign.record())[13], HELLO_VERIFY_REQUEST);
    foreign.suites.pop();
    assert_eq!(alerted(&foreign.record()), 40);
}

#[test]
fn of_a_hello_in_fragments_the_first_is_enough_for_dtls12() {
    let first = Shape::dtls13();
    for length in [60, 90, first.body().len() - 1] {
        let reply = replied(&keys(), &first.fragment(length));
        assert_eq!(reply[13], HELLO_VERIFY_REQUEST);
        let second = first.again(&reply);
        assert_eq!(admits(&keys(), CLIENT, &second.fragment(length + COOKIE_LEN)), Some(Version::Dtls12));
        // Too little of it to prove anything.
        assert_eq!(admits(&keys(), CLIENT, &second.fragment(36 + COOKIE_LEN)), None);
    }
    let mut later = first.record();
    later[21] = 1;
    let mut scratch = Scratch::default();
    assert_eq!(judge(&keys(), CLIENT.parse().unwrap(), &later, &mut scratch), Verdict::Drop);
}

#[test]
fn nobody_is_sent_more_than_he_sends() {
    let tiny = Shape { suites: vec![0xC02B], extensions: vec![], ..Shape::dtls12() };
    for hello in [tiny, Shape::dtls12(), Shape::dtls13()] {
        let record = hello.record();
        for length in 0..=record.len() {
            let mut scratch = Scratch::default();
            match judge(&keys(), CLIENT.parse().unwrap(), &record[..length], &mut scratch) {
                Verdict::Reply(reply) => assert!(reply.len() <= length, "{} for {length}", reply.len()),
                Verdict::Drop => assert!(length < record.len()),
                Verdict::Admit(_) => panic!(),
            }
        }
    }
}

#[test]
fn the_first_byte_tells_dtls_from_the_rest() {
    for byte in 0..=255 {
        assert_eq!(is_dtls(&[byte]), (20..64).contains(&byte), "{byte}");
    }
    assert!(!is_dtls(&[]));
    assert!(is_plaintext(&[22, 0xFE, 0xFD, 0, 0]) && !is_plaintext(&[22, 0xFE, 0xFD, 0, 1]));
    assert!(!is_plaintext(&[0x2E]) && is_plaintext(&[22]));
}
