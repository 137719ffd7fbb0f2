//! Which peers may be reached. RFC 8656 §21.2, the IANA special-purpose address registries (RFC 6890).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::{PortRange, RelayAddress};

/// An address prefix. RFC 4632 §3.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// The text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form ADDRESS/LENGTH.
    #[error("{0:?} is not a prefix such as 192.0.2.0/24, 2001:db8::/32 or a single address")]
    Form(String),
    /// The length is too long for the family.
    #[error("{0:?} has a prefix length above {1}")]
    Length(String, u8),
    /// Bits behind the prefix are set, so it is not clear what was meant.
    #[error("{0:?} has bits set behind its prefix; did you mean {1}?")]
    HostBits(String, Cidr),
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(high: [u16; 4], prefix: u8) -> Self {
        let [a, b, c, d] = high;
        Self { network: IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), prefix }
    }

    /// Whether `address` lies in the prefix; an address of the other family never does.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let host_bits = 32 - u32::from(self.prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host_bits = 128 - u32::from(self.prefix);
                (network.to_bits() ^ address.to_bits()).checked_shr(host_bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| form())?
            }
            Some(_) => return Err(form()),
        };
        if prefix > longest {
            return Err(CidrError::Length(text.to_owned(), longest));
        }
        let network: IpAddr = match address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        };
        let cidr = Self { network, prefix };
        if network == address { Ok(cidr) } else { Err(CidrError::HostBits(text.to_owned(), cidr)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// IPv4 that is global unicast although a special-purpose prefix covers it.
const GLOBAL_V4: [Cidr; 2] = [Cidr::v4(192, 0, 0, 9, 32), Cidr::v4(192, 0, 0, 10, 32)];

/// IPv4 that is not global unicast.
const SPECIAL_V4: [Cidr; 15] = [
    Cidr::v4(0, 0, 0, 0, 8),
    Cidr::v4(10, 0, 0, 0, 8),
    Cidr::v4(100, 64, 0, 0, 10),
    Cidr::v4(127, 0, 0, 0, 8),
    Cidr::v4(169, 254, 0, 0, 16),
    Cidr::v4(172, 16, 0, 0, 12),
    Cidr::v4(192, 0, 0, 0, 24),
    Cidr::v4(192, 0, 2, 0, 24),
    Cidr::v4(192, 88, 99, 0, 24),
    Cidr::v4(192, 168, 0, 0, 16),
    Cidr::v4(198, 18, 0, 0, 15),
    Cidr::v4(198, 51, 100, 0, 24),
    Cidr::v4(203, 0, 113, 0, 24),
    Cidr::v4(224, 0, 0, 0, 4),
    Cidr::v4(240, 0, 0, 0, 4),
];

const NAT64: Cidr = Cidr::v6([0x64, 0xff9b, 0, 0], 96);
const NAT64_LOCAL: Cidr = Cidr::v6([0x64, 0xff9b, 1, 0], 48);
const SIX_TO_FOUR: Cidr = Cidr::v6([0x2002, 0, 0, 0], 16);
const TEREDO: Cidr = Cidr::v6([0x2001, 0, 0, 0], 32);

/// IPv6 that is global unicast: 2000::/3 and NAT64's well-known prefix, less [`SPECIAL_V6`].
const UNICAST_V6: [Cidr; 2] = [Cidr::v6([0x2000, 0, 0, 0], 3), NAT64];

/// IPv6 inside 2000::/3 that is global although a special-purpose prefix covers it.
const GLOBAL_V6: [Cidr; 7] = [
    Cidr { network: IpAddr::V6(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1)), prefix: 128 },
    Cidr { network: IpAddr::V6(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 2)), prefix: 128 },
    Cidr { network: IpAddr::V6(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 3)), prefix: 128 },
    Cidr::v6([0x2001, 3, 0, 0], 32),
    Cidr::v6([0x2001, 4, 0x112, 0], 48),
    Cidr::v6([0x2001, 0x20, 0, 0], 28),
    Cidr::v6([0x2001, 0x30, 0, 0], 28),
];

/// IPv6 inside 2000::/3 that is not global unicast.
const SPECIAL_V6: [Cidr; 4] = [
    Cidr::v6([0x2001, 0, 0, 0], 23),
    Cidr::v6([0x2001, 0xdb8, 0, 0], 32),
    SIX_TO_FOUR,
    Cidr::v6([0x3fff, 0, 0, 0], 20),
];

/// Why a peer may not be reached. RFC 8656 §21.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forbidden {
    /// An operator's deny list names it.
    Denied,
    /// It is not global unicast and no allow list names it.
    NotGlobal,
    /// It is one of this server's own listeners.
    OwnListener,
    /// It is one of this server's own addresses, outside the relay ports.
    OwnHost,
}

/// Decides which peers may be reached: the one place, for every method and both directions.
/// RFC 8656 §10.2, §12.2 and §21.2.
///
/// In this order: the server's own listeners are refused; the server's own relayed addresses are allowed; the
/// deny list refuses; the allow list allows; the relay addresses' other ports are refused, for what listens there
/// expects a firewall in front; what is not global unicast is refused; the rest is allowed. An address that carries an IPv4 address inside (IPv4-mapped, NAT64, 6to4, …) must pass in both forms.
#[derive(Debug, Clone, Default)]
pub struct PeerPolicy {
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
    listeners: Vec<SocketAddr>,
    relay_addresses: Vec<IpAddr>,
    relay_ports: PortRange,
}

impl PeerPolicy {
    /// Refuses what is not global unicast, less `allow`, and `deny` in any case.
    pub fn new(allow: Vec<Cidr>, deny: Vec<Cidr>) -> Self {
        Self { allow, deny, ..Self::default() }
    }

    /// Tells it the server's own addresses: listeners (with a wildcard address the port counts on every relay
    /// address and every address of another listener) and relay addresses with their ports.
    #[must_use]
    pub fn with_own_addresses(
        mut self,
        listeners: &[SocketAddr],
        relay_addresses: &[RelayAddress],
        relay_ports: PortRange,
    ) -> Self {
        self.relay_addresses = relay_addresses.iter().flat_map(|relay| [relay.public, relay.local]).collect();
        self.relay_ports = relay_ports;
        self.listeners = listeners.to_vec();
        let wildcards = listeners.iter().filter(|listener| listener.ip().is_unspecified());
        for port in wildcards.map(SocketAddr::port) {
            let own = self.relay_addresses.iter().copied().chain(listeners.iter().map(SocketAddr::ip));
            self.listeners.extend(own.map(|ip| SocketAddr::new(ip, port)));
        }
        self
    }

    /// Whether this peer may be sent to and heard from. RFC 8656 §10.2 and §12.2.
    ///
    /// # Errors
    /// Says which rule refuses it.
    pub fn check(&self, peer: SocketAddr) -> Result<(), Forbidden> {
        for ip in forms(peer.ip()) {
            let form = SocketAddr::new(ip, peer.port());
            if self.listeners.iter().any(|own| own.ip() == form.ip() && own.port() == form.port()) {
                return Err(Forbidden::OwnListener);
            }
            let is_own = self.relay_addresses.contains(&ip);
            if is_own && self.relay_ports.contains(peer.port()) {
                continue;
            }
            self.check_form(ip)?;
            if is_own && !self.allow.iter().any(|cidr| cidr.contains(ip)) {
                return Err(Forbidden::OwnHost);
            }
        }
        Ok(())
    }

    /// Whether a permission for this address makes sense: some port of it may be reached. RFC 8656 §10.2.
    ///
    /// # Errors
    /// Says which rule refuses it.
    pub fn check_address(&self, peer: IpAddr) -> Result<(), Forbidden> {
        forms(peer).filter(|ip| !self.relay_addresses.contains(ip)).try_for_each(|ip| self.check_form(ip))
    }

    fn check_form(&self, ip: IpAddr) -> Result<(), Forbidden> {
        if self.deny.iter().any(|cidr| cidr.contains(ip)) {
            return Err(Forbidden::Denied);
        }
        if self.allow.iter().any(|cidr| cidr.contains(ip)) || is_global_unicast(ip) {
            return Ok(());
        }
        Err(Forbidden::NotGlobal)
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let within = |list: &[Cidr]| list.iter().any(|cidr| cidr.contains(ip));
    match ip {
        IpAddr::V4(_) => within(&GLOBAL_V4) || !within(&SPECIAL_V4),
        IpAddr::V6(_) => within(&GLOBAL_V6) || (within(&UNICAST_V6) && !within(&SPECIAL_V6)),
    }
}

/// The address as it stands, and the IPv4 addresses that a router or a host on the way may read out of it.
fn forms(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match ip {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(ip) => embedded_v4(ip),
    };
    std::iter::once(ip).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

fn embedded_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let bits = ip.to_bits();
    // The 32 bits that end `from_right` bits before the address's end.
    let v4_at = |from_right: u32| {
        let [.., a, b, c, d] = (bits >> from_right).to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let address = IpAddr::V6(ip);
    // ISATAP (RFC 5214 §6.1): interface identifier 0000:5EFE or 0200:5EFE, then the IPv4 address, in any prefix.
    let isatap = matches!(bits >> 32 & 0xFFFF_FFFF, 0x0000_5EFE | 0x0200_5EFE).then(|| v4_at(0)).flatten();
    let by_prefix = if matches!(bits >> 32, 0xFFFF | 0xFFFF_0000) {
        // ::ffff:0:0/96 IPv4-mapped (RFC 4291 §2.5.5.2), ::ffff:0:0:0/96 IPv4-translated (RFC 2765).
        v4_at(0)
    } else if bits >> 32 == 0 && bits > 1 {
        // ::/96 IPv4-compatible (RFC 4291 §2.5.5.1), but for :: and ::1.
        v4_at(0)
    } else if NAT64.contains(address) || NAT64_LOCAL.contains(address) {
        // 64:ff9b::/96 (RFC 6052 §2.1) and, split as /96, 64:ff9b:1::/48 (RFC 8215).
        v4_at(0)
    } else if SIX_TO_FOUR.contains(address) {
        // 2002:V4::/48 (RFC 3056 §2).
        v4_at(80)
    } else if TEREDO.contains(address) {
        // Teredo (RFC 4380 §4): the client's IPv4 address, inverted, at the end.
        v4_at(0).map(|ip| Ipv4Addr::from_bits(!ip.to_bits()))
    } else {
        None
    };
    [by_prefix, isatap]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &PeerPolicy, peer: &str, expected: Result<(), Forbidden>) {
        assert_eq!(policy.check(peer.parse().unwrap()), expected, "{peer}");
    }

    #[test]
    fn rfc8656_21_2_only_global_unicast_by_default() {
        let policy = PeerPolicy::default();
        for peer in [
            "8.8.8.8:53",
            "1.0.0.0:1",
            "9.255.255.255:1",
            "11.0.0.0:1",
            "172.15.255.255:1",
            "172.32.0.0:1",
            "192.0.0.9:1",
            "192.0.1.0:1",
            "223.255.255.255:1",
            "[2606:4700::1]:1",
            "[2001:200::1]:1",
            "[64:ff9b::808:808]:1",
            "[2001:4:112::1]:1",
        ] {
            check(&policy, peer, Ok(()));
        }
        for peer in [
            "0.0.0.0:1",
            "10.0.0.1:1",
            "100.64.0.1:1",
            "100.127.255.255:1",
            "127.0.0.1:1",
            "169.254.169.254:80",
            "172.16.0.0:1",
            "172.31.255.255:1",
            "192.0.0.8:1",
            "192.0.2.1:1",
            "192.88.99.1:1",
            "192.168.1.1:1",
            "198.19.255.255:1",
            "198.51.100.1:1",
            "203.0.113.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::]:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[fc00::1]:1",
            "[fd12::1]:1",
            "[ff02::1]:1",
            "[2001:db8::1]:1",
            "[2001::1]:1",
            "[2002:808:808::1]:1",
            "[3fff::1]:1",
            "[100::1]:1",
            "[5f00::1]:1",
        ] {
            check(&policy, peer, Err(Forbidden::NotGlobal));
        }
    }

    #[test]
    fn an_embedded_ipv4_address_is_checked_too() {
        let everything_v6 = PeerPolicy::new(vec!["::/0".parse().unwrap()], vec![]);
        for peer in [
            "[::ffff:10.0.0.1]:1",
            "[::ffff:0:10.0.0.1]:1",
            "[::10.0.0.1]:1",
            "[64:ff9b::10.0.0.1]:1",
            "[64:ff9b:1::10.0.0.1]:1",
            "[2002:a00:1::5]:1",
            "[2001:0:1::f5ff:fffe]:1",
            "[2606:4700::5efe:10.0.0.1]:1",
            "[2606:4700::200:5efe:10.0.0.1]:1",
        ] {
            check(&everything_v6, peer, Err(Forbidden::NotGlobal));
            check(
                &everything_v6,
                &peer
                    .replace("10.0.0.1", "8.8.8.8")
                    .replace("a00:1", "808:808")
                    .replace("f5ff:fffe", "f7f7:f7f7"),
                Ok(()),
            );
        }
        let denied = PeerPolicy::new(vec![], vec!["8.8.8.0/24".parse().unwrap()]);
        check(&denied, "8.8.8.8:1", Err(Forbidden::Denied));
        check(&denied, "[64:ff9b::8.8.8.8]:1", Err(Forbidden::Denied));
        check(&denied, "[64:ff9b::8.8.9.8]:1", Ok(()));
    }

    #[test]
    fn deny_beats_allow_beats_the_default() {
        let policy =
            PeerPolicy::new(vec!["10.0.0.0/8".parse().unwrap()], vec!["10.1.0.0/16".parse().unwrap()]);
        check(&policy, "10.0.0.1:1", Ok(()));
        check(&policy, "10.1.0.1:1", Err(Forbidden::Denied));
        check(&policy, "[::ffff:10.0.0.1]:1", Err(Forbidden::NotGlobal));
    }

    #[test]
    fn own_listeners_are_refused_and_own_relayed_addresses_reachable() {
        let relay =
            RelayAddress { public: "203.0.113.5".parse().unwrap(), local: "10.0.0.5".parse().unwrap() };
        let listeners = ["0.0.0.0:3478".parse().unwrap(), "127.0.0.1:50000".parse().unwrap()];
        let policy = PeerPolicy::new(vec!["127.0.0.0/8".parse().unwrap()], vec![]).with_own_addresses(
            &listeners,
            &[relay],
            PortRange::default(),
        );
        check(&policy, "127.0.0.1:50000", Err(Forbidden::OwnListener));
        check(&policy, "127.0.0.1:3478", Err(Forbidden::OwnListener));
        check(&policy, "127.0.0.1:3479", Ok(()));
        check(&policy, "10.0.0.5:3478", Err(Forbidden::OwnListener));
        check(&policy, "10.0.0.5:22", Err(Forbidden::NotGlobal));
        check(&policy, "10.0.0.5:49152", Ok(()));
        check(&policy, "203.0.113.5:65535", Ok(()));
        check(&policy, "10.0.0.6:49152", Err(Forbidden::NotGlobal));
        // A relay address on the public internet gives no way to the host's other services either.
        let global = RelayAddress { public: "8.8.8.8".parse().unwrap(), local: "8.8.8.8".parse().unwrap() };
        let own = |allow: Vec<Cidr>| {
            PeerPolicy::new(allow, vec![]).with_own_addresses(&listeners, &[global], PortRange::default())
        };
        check(&own(vec![]), "8.8.8.8:53", Err(Forbidden::OwnHost));
        check(&own(vec![]), "8.8.8.8:50000", Ok(()));
        check(&own(vec![]), "8.8.8.9:53", Ok(()));
        check(&own(vec!["8.8.8.8/32".parse().unwrap()]), "8.8.8.8:53", Ok(()));
        assert_eq!(policy.check_address(relay.local), Ok(()));
        assert_eq!(policy.check_address("10.0.0.6".parse().unwrap()), Err(Forbidden::NotGlobal));
    }

    #[test]
    fn prefixes_are_read_and_wrong_ones_explained() {
        for good in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        assert_eq!("192.0.2.1".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
        for (bad, hint) in [
            ("", "prefix such as"),
            ("10.0.0.0/", "prefix such as"),
            ("10.0.0.0/+8", "prefix such as"),
            ("10.0.0/8", "prefix such as"),
            ("10.0.0.0/33", "above 32"),
            ("::/129", "above 128"),
            ("10.0.0.1/8", "10.0.0.0/8"),
        ] {
            let error = bad.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    }
}
