//! The gate before DTLS: whoever has not shown where it is gets no more than it has sent, and is not remembered; whoever
//! comes back with what it was given comes in. RFC 6347 §4.2.1, RFC 9147 §5.1.

use std::net::SocketAddr;
use std::ops::Range;

use stun::dtls::{Admission, COOKIE_LEN, CookieKeys, MAX_HELLO, RECORD_HEADER, Scratch, Verdict, judge};

use super::bytes::Bytes;

const CLIENT: ([u8; 4], u16) = ([81, 0, 0, 1], 4_000);
/// The same address at another port, and another one.
const OTHERS: [([u8; 4], u16); 2] = [([81, 0, 0, 1], 4_001), ([81, 0, 0, 2], 4_000)];

const HELLO_VERIFY_REQUEST: u8 = 3;
const SERVER_HELLO: u8 = 2;
/// Where a HelloVerifyRequest's cookie is.
const VERIFY_COOKIE: Range<usize> = 28..28 + COOKIE_LEN;
/// Where the lengths of a record, its message and its fragment are, and where the message's body begins.
const LENGTHS: [Range<usize>; 3] = [11..13, 14..17, 22..25];
const BODY: usize = RECORD_HEADER + 12;
/// Where a ClientHello's session id is, its length first: behind the version and the random.
const SESSION_ID: usize = BODY + 34;
/// How often a client may be sent back.
const MAX_RETRIES: u16 = 3;

/// Asks the gate; what it says to a reply, and to an admission.
fn judged<T>(
    keys: &CookieKeys,
    from: SocketAddr,
    datagram: &[u8],
    see: impl FnOnce(Option<&[u8]>, Option<Admission<'_>>) -> T,
) -> T {
    let mut scratch = Scratch::default();
    match judge(keys, from, datagram, &mut scratch) {
        Verdict::Drop => see(None, None),
        Verdict::Reply(reply) => {
            assert!(reply.len() <= datagram.len(), "{} bytes for {}", reply.len(), datagram.len());
            see(Some(reply), None)
        }
        Verdict::Admit(admission) => see(None, Some(admission)),
    }
}

/// Lets a client come with a hello, and again with the cookie that it was given for it.
///
/// # Panics
/// When a reply is longer than what it answers, somebody comes in with a cookie that is not its own, or is kept out with
/// one that is.
pub fn dtls_gate(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.byte();
    let from = SocketAddr::from(CLIENT);
    let mut keys = CookieKeys::new([1; 32]);
    let datagram = bytes.rest();
    let reply = judged(&keys, from, datagram, |reply, admission| {
        // No input holds a cookie that this key has made.
        assert_eq!(admission, None, "nobody comes in without having been answered");
        reply.map(<[u8]>::to_vec)
    });
    let same = judged(&keys, from, datagram, |reply, _| reply.map(<[u8]>::to_vec));
    assert_eq!(reply, same, "nothing is remembered");
    let Some(reply) = reply else { return };
    let Some(second) = second_hello(datagram, &reply) else { return };
    // A key that has been replaced once is still good.
    if flags & 1 != 0 {
        keys.rotate([2; 32]);
    }
    let is_admitted = judged(&keys, from, &second, |_, admission| {
        admission.inspect(|admission| fits(admission, datagram, &reply)).is_some()
    });
    assert!(is_admitted || may_be_refused(datagram), "a client with its own cookie is kept out");
    for other in OTHERS {
        let admits = judged(&keys, SocketAddr::from(other), &second, |_, admission| admission.is_some());
        assert!(!admits, "a cookie is for one address");
    }
    keys.rotate([3; 32]);
    keys.rotate([4; 32]);
    let admits = judged(&keys, from, &second, |_, admission| admission.is_some());
    assert!(!admits, "a cookie ends with its key");
}

/// What was admitted is the exchange that there was.
fn fits(admission: &Admission<'_>, first: &[u8], reply: &[u8]) {
    assert!(admission.message_sequence >= 1);
    if reply.get(RECORD_HEADER) == Some(&SERVER_HELLO) {
        assert_eq!(admission.retry_request, reply);
        // Its own record numbers count for nothing: the transcript is of messages.
        let first = record(first).and_then(|record| record.get(RECORD_HEADER..)).unwrap_or_default();
        let rebuilt = admission.first_hello.get(RECORD_HEADER..).unwrap_or_default();
        assert!(first.starts_with(rebuilt), "the first hello is made again to the byte");
    }
}

/// A client that has been sent back too often, one whose padding is not as RFC 7685 has it, zeros, and one that has put
/// something else into the place of a cookie before.
fn may_be_refused(first: &[u8]) -> bool {
    let number = first.get(Admission::MESSAGE_SEQUENCE).and_then(|field| field.first_chunk());
    let mut pairs = first.get(BODY..).unwrap_or_default().windows(2);
    let is_odd = pairs.any(|kind| kind == [0, 21] || kind == [0, 44]);
    number.is_none_or(|number| u16::from_be_bytes(*number) >= MAX_RETRIES)
        || is_odd
        || first.len() > MAX_HELLO
}

/// The first record of a datagram.
fn record(datagram: &[u8]) -> Option<&[u8]> {
    let length = u16::from_be_bytes(*datagram.get(LENGTHS[0].clone())?.first_chunk()?);
    datagram.get(..RECORD_HEADER + usize::from(length))
}

/// The hello once more with what came back. `None`: it was no cookie, or the hello has no room for it.
fn second_hello(first: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    let record = record(first)?;
    let mut second = match *reply.get(RECORD_HEADER)? {
        HELLO_VERIFY_REQUEST => with_field(record, reply.get(VERIFY_COOKIE)?)?,
        SERVER_HELLO => with_extension(record, reply.get(reply.len().checked_sub(2 + COOKIE_LEN)?..)?)?,
        _ => return None,
    };
    let grown = second.len().checked_sub(record.len())?;
    for place in LENGTHS {
        add(second.get_mut(place)?, grown)?;
    }
    add(second.get_mut(Admission::MESSAGE_SEQUENCE)?, 1)?;
    Some(second)
}

/// With this cookie in place of the one in the field of DTLS 1.2.
fn with_field(record: &[u8], cookie: &[u8]) -> Option<Vec<u8>> {
    let at = SESSION_ID + 1 + usize::from(*record.get(SESSION_ID)?);
    let held = usize::from(*record.get(at)?);
    let length = u8::try_from(cookie.len()).ok()?;
    Some([record.get(..at)?, &[length], cookie, record.get(at + 1 + held..)?].concat())
}

/// With the extension of DTLS 1.3, whose content this is, behind the others.
fn with_extension(record: &[u8], content: &[u8]) -> Option<Vec<u8>> {
    let u16_at = |at: usize| Some(usize::from(u16::from_be_bytes(*record.get(at..)?.first_chunk()?)));
    let cookie = SESSION_ID + 1 + usize::from(*record.get(SESSION_ID)?);
    let suites = cookie + 1 + usize::from(*record.get(cookie)?);
    let compression = suites + 2 + u16_at(suites)?;
    let at = compression + 1 + usize::from(*record.get(compression)?);
    let end = at + 2 + u16_at(at)?;
    let length = u16::try_from(content.len()).ok()?.to_be_bytes();
    let mut second = [record.get(..end)?, &[0, 44], &length, content, record.get(end..)?].concat();
    add(second.get_mut(at..at + 2)?, 4 + content.len())?;
    Some(second)
}

/// Adds to a number in network order, if there is room for the sum.
fn add(field: &mut [u8], more: usize) -> Option<()> {
    let sum = field.iter().fold(0, |number: usize, byte| number << 8 | usize::from(*byte)) + more;
    (sum >> (8 * field.len()) == 0).then_some(())?;
    field.iter_mut().rev().zip(sum.to_le_bytes()).for_each(|(to, from)| *to = from);
    Some(())
}

#[cfg(test)]
mod tests {
    use stun::dtls::Version;

    use super::super::seeds;
    use super::*;

    #[test]
    fn seeds_come_in_with_what_they_are_given() {
        let keys = CookieKeys::new([1; 32]);
        let version = |wanted: &str| {
            let seeds = seeds("dtls_gate");
            let (_, seed) = seeds.iter().find(|(name, _)| *name == wanted).unwrap();
            let from = SocketAddr::from(CLIENT);
            let reply = judged(&keys, from, &seed[1..], |reply, _| reply.map(<[u8]>::to_vec))?;
            let second = second_hello(&seed[1..], &reply)?;
            judged(&keys, from, &second, |_, admission| admission.map(|it| it.version))
        };
        for name in ["dtls12", "dtls12-cookie", "fragment"] {
            assert_eq!(version(name), Some(Version::Dtls12), "{name}");
        }
        for name in ["dtls13", "dtls13-padded"] {
            assert_eq!(version(name), Some(Version::Dtls13), "{name}");
        }
        for name in ["dtls12-fourth", "dtls13-cookie", "fragment-later", "dtls10", "foreign-suites"] {
            assert_eq!(version(name), None, "{name}");
        }
    }
}
