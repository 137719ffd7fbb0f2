//! How many answers the unauthenticated get. Each is one that a spoofed source can have sent to its victim, so they are
//! counted by the source's prefix; authenticated requests and relayed data never are. Answers to those who signed with
//! a nonce that is not theirs (438) are counted apart from all others. Whoever floods in a victim's name without a
//! credential keeps challenges from its prefix, not its allocations from working or from moving.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use foldhash::quality::FixedState;

use crate::pace::Pace;
use crate::{Client, Transport};

/// Answers to senders that have not authenticated: to Binding requests, and errors such as 401. Over UDP only: on a
/// stream nobody can answer to another address than his own. RFC 8489 §9.2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrangerLimit {
    /// Answers that all workers together give in a second to one prefix; what is more is dropped.
    pub answers_per_second: u32,
    /// How many of them at once, at most those of a minute.
    pub burst: u32,
    /// How long the prefix of an IPv4 source is, 1 to 32 bits.
    pub ipv4_prefix: u8,
    /// How long the prefix of an IPv6 source is, 1 to 128 bits.
    pub ipv6_prefix: u8,
    /// Whether loopback is limited, too.
    pub includes_loopback: bool,
}

impl Default for StrangerLimit {
    /// Enough for an office behind one NAT in which everyone joins a call at once.
    fn default() -> Self {
        Self {
            answers_per_second: 1_000,
            burst: 2_000,
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            includes_loopback: false,
        }
    }
}

/// Buckets in a row: with two rows 128 KiB, whatever is sent, and there are two of these tables.
const ROW: usize = 8_192;
const ROWS: usize = 2;

/// The buckets of all prefixes, shared by all workers. Prefixes that fall into one bucket share it; as each has one in
/// either row and needs only one of the two, a flood of one prefix does not keep answers from another.
#[derive(Debug)]
pub(crate) struct Strangers {
    rows: [Row; ROWS],
}

#[derive(Debug)]
struct Row {
    /// Keyed, so that nobody can aim at another's bucket.
    hash: FixedState,
    buckets: Box<[AtomicU64]>,
}

impl Strangers {
    /// Full buckets, and two secret numbers that spread prefixes over them.
    pub(crate) fn new(seeds: [u64; ROWS]) -> Self {
        let buckets = || (0..ROW).map(|_| AtomicU64::new(0)).collect();
        Self { rows: seeds.map(|seed| Row { hash: FixedState::with_seed(seed), buckets: buckets() }) }
    }

    /// Whether this client may have one more answer now; it is counted.
    pub(crate) fn admit(&self, limit: &StrangerLimit, now_ms: u64, client: Client) -> bool {
        let ip = client.five_tuple.client.ip().to_canonical();
        if client.five_tuple.transport != Transport::Udp || (ip.is_loopback() && !limit.includes_loopback) {
            return true;
        }
        let prefix = prefix(ip, limit);
        let pace = Pace::with_burst(limit.answers_per_second.into(), limit.burst.into());
        let take = |row: &Row| {
            let place = usize::try_from(row.hash.hash_one(prefix) % ROW as u64).unwrap_or_default();
            row.buckets.get(place).is_some_and(|bucket| pace.take_shared(bucket, now_ms, 1))
        };
        // From both, not only until one has enough.
        self.rows.iter().filter(|row| take(row)).count() > 0
    }
}

/// The first bits of an address, and which family's.
fn prefix(ip: IpAddr, limit: &StrangerLimit) -> (bool, u128) {
    let first = |bits: u128, length: u32, kept: u8| {
        bits.checked_shr(length.saturating_sub(kept.into())).unwrap_or_default()
    };
    match ip {
        IpAddr::V4(ip) => (true, first(ip.to_bits().into(), 32, limit.ipv4_prefix)),
        IpAddr::V6(ip) => (false, first(ip.to_bits(), 128, limit.ipv6_prefix)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::FiveTuple;

    fn from(transport: Transport, ip: IpAddr) -> Client {
        let five_tuple = FiveTuple {
            transport,
            client: SocketAddr::new(ip, 5_000),
            server: "192.0.2.9:3478".parse().unwrap(),
        };
        Client { five_tuple, via: 0 }
    }

    #[test]
    fn prefixes_are_cut_and_families_kept_apart() {
        let limit = StrangerLimit::default();
        let of = |text: &str, limit: &StrangerLimit| prefix(text.parse().unwrap(), limit);
        assert_eq!(of("192.0.2.1", &limit), of("192.0.2.255", &limit));
        assert_ne!(of("192.0.2.1", &limit), of("192.0.3.1", &limit));
        assert_eq!(of("2001:db8:0:aa00::1", &limit), of("2001:db8:0:aaff:ffff::", &limit));
        assert_ne!(of("2001:db8:0:aa00::1", &limit), of("2001:db8:0:ab00::1", &limit));
        assert_ne!(of("0.0.0.1", &limit), of("::1", &limit));
        let whole = StrangerLimit { ipv4_prefix: 32, ipv6_prefix: 128, ..limit };
        assert_ne!(of("192.0.2.1", &whole), of("192.0.2.2", &whole));
        assert_ne!(of("2001:db8::1", &whole), of("2001:db8::2", &whole));
        let none = StrangerLimit { ipv4_prefix: 0, ipv6_prefix: 0, ..limit };
        assert_eq!(of("2001:db8::1", &none), of("fe80::2", &none));
    }

    #[test]
    fn a_flood_of_some_prefixes_leaves_the_others_their_answers() {
        let limit = StrangerLimit { answers_per_second: 10, burst: 10, ..StrangerLimit::default() };
        let strangers = Strangers::new([1, 2]);
        let of = |prefix: u32| from(Transport::Udp, IpAddr::V4((prefix << 8).into()));
        for prefix in 0x1_0000..0x1_0000 + 400 {
            let admitted = (0..100).filter(|_| strangers.admit(&limit, 5, of(prefix))).count();
            assert!(admitted <= 20, "{admitted} of one prefix");
        }
        let others = 0x2_0000..0x2_0000 + 1_000;
        let kept_out = others.filter(|prefix| !strangers.admit(&limit, 5, of(*prefix))).count();
        assert!(kept_out < 20, "{kept_out} of 1000");
    }

    #[test]
    fn streams_and_loopback_are_not_counted() {
        let limit = StrangerLimit { answers_per_second: 1, burst: 1, ..StrangerLimit::default() };
        let strangers = Strangers::new([1, 2]);
        let count = |limit: &StrangerLimit, transport, ip: &str| {
            let client = from(transport, ip.parse().unwrap());
            (0..50).filter(|_| strangers.admit(limit, 5, client)).count()
        };
        for ip in ["127.0.0.1", "::1"] {
            assert_eq!(count(&limit, Transport::Udp, ip), 50);
            assert_eq!(count(&StrangerLimit { includes_loopback: true, ..limit }, Transport::Udp, ip), 1);
        }
        assert_eq!(count(&limit, Transport::Tcp, "192.0.2.1"), 50);
        assert_eq!(count(&limit, Transport::Udp, "192.0.2.1"), 1);
    }
}
