//! The machine's own addresses, and how relay addresses are read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, anyhow, bail, ensure};
use turn::{PeerPolicy, RelayAddress};

use super::layer::fault;

/// Any port will do: connecting a datagram socket sends nothing.
const ANY_PORT: u16 = 9;

/// The address from which the machine would reach the internet, one for each family that has a route.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): routed like any other, reachable by nobody.
    let routes = [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    ];
    let found = routes.into_iter().filter_map(|(any, remote)| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(remote, ANY_PORT)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    // A private IPv4 address may stand behind a NAT that is known; a private IPv6 one leads nowhere.
    found.filter(|ip| !ip.is_unspecified() && (ip.is_ipv4() || is_global(*ip))).collect()
}

/// Whether the address is on the public internet.
pub(super) fn is_global(ip: IpAddr) -> bool {
    PeerPolicy::default().check_address(ip).is_ok()
}

/// Whether a socket can be bound to the address: whether it is one of this machine's.
pub(super) fn is_bindable(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// The address both bound and told.
pub(super) fn same(ip: IpAddr) -> RelayAddress {
    RelayAddress { public: ip, local: ip }
}

/// Reads `PUBLIC[/LOCAL]`.
pub(super) fn relay_address(text: &str) -> Result<RelayAddress> {
    let (public, local) = text.split_once('/').unwrap_or((text, text));
    let ip = |part: &str| -> Result<IpAddr> {
        let ip: IpAddr = part.parse().map_err(|_| {
            anyhow!(
                "{text:?}: {part:?} is not an IP address; write PUBLIC or PUBLIC/LOCAL, such as 198.51.100.7/10.0.0.5"
            )
        })?;
        ensure!(
            !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from(Ipv4Addr::BROADCAST),
            "{text:?}: {ip} is not an address of one machine; name the one that peers see"
        );
        Ok(ip)
    };
    let address = RelayAddress { public: ip(public)?, local: ip(local)? };
    ensure!(
        address.public.is_ipv4() == address.local.is_ipv4(),
        "{text:?}: the public and the local address must both be IPv4 or both be IPv6"
    );
    let bound = UdpSocket::bind(SocketAddr::new(address.local, 0));
    if let Err(error) = bound {
        let hint =
            if address.public == address.local { "; behind a one-to-one NAT write PUBLIC/LOCAL" } else { "" };
        bail!("{text:?}: cannot bind {} on this machine: {}{hint}", address.local, fault(&error));
    }
    Ok(address)
}

/// At most one relay address of each family: only the first would ever be used.
pub(super) fn one_per_family(addresses: &[RelayAddress]) -> Result<()> {
    for (name, v4) in [("IPv4", true), ("IPv6", false)] {
        let count = addresses.iter().filter(|address| address.public.is_ipv4() == v4).count();
        ensure!(count <= 1, "{count} {name} addresses are given; give one for each family");
    }
    ensure!(!addresses.is_empty(), "the list is empty; leave it out to use the machine's own address");
    Ok(())
}

/// Reads a host name or an address, as it will stand in URLs.
pub(super) fn host(text: &str) -> Result<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(bare) = bare {
        return bare
            .parse::<Ipv6Addr>()
            .map(|ip| ip.to_string())
            .with_context(|| format!("{text:?} is not an IPv6 address in brackets"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    // RFC 1123 §2.1: a name whose last label is a number would be taken for a (wrong) IPv4 address.
    let looks_like_v4 = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    ensure!(
        is_name && !looks_like_v4,
        "{text:?} is neither a host name nor an IP address; write it without scheme and port, such as turn.example.org"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_and_wrong_ones_explained() {
        for (text, expected) in [
            ("turn.example.org", "turn.example.org"),
            ("localhost", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host(text).unwrap(), expected);
        }
        for text in [
            "",
            "turn:3478",
            "http://turn",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "127.0.0.300",
            "[127.0.0.1]",
            "a b",
            "é",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
        assert!(host(&"a.".repeat(127)).is_err());
    }

    #[test]
    fn relay_addresses_are_read_and_wrong_ones_explained() {
        let read = relay_address("198.51.100.7/127.0.0.1").unwrap();
        assert_eq!(
            (read.public.to_string(), read.local.to_string()),
            ("198.51.100.7".into(), "127.0.0.1".into())
        );
        assert_eq!(relay_address("127.0.0.1").unwrap(), same(Ipv4Addr::LOCALHOST.into()));
        for (text, hint) in [
            ("", "not an IP address"),
            ("turn.example.org", "not an IP address"),
            ("127.0.0.1/", "not an IP address"),
            ("0.0.0.0", "not an address of one machine"),
            ("224.0.0.1/127.0.0.1", "not an address of one machine"),
            ("2001:db8::1/127.0.0.1", "both be IPv4"),
            ("192.0.2.1", "PUBLIC/LOCAL"),
            ("198.51.100.7/192.0.2.1", "cannot bind 192.0.2.1"),
        ] {
            let error = format!("{:#}", relay_address(text).unwrap_err());
            assert!(error.contains(hint), "{error}");
        }
        let (v4, v6) = (same(Ipv4Addr::LOCALHOST.into()), same(Ipv6Addr::LOCALHOST.into()));
        assert!(one_per_family(&[v4, v6]).is_ok());
        assert!(one_per_family(&[v4, v4]).is_err());
        assert!(one_per_family(&[]).is_err());
    }
}
