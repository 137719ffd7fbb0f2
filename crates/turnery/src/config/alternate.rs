//! The second address and port of NAT behaviour discovery. RFC 5780 §6.

use anyhow::{Context, Result, anyhow, ensure};
use relay::{Alternate, Listener};
use turn::{RelayAddress, Transport};

use super::address;
use super::layer::Layers;

/// Reads `--alternate-address` and `--alternate-port`; checks them against what they stand beside.
pub(super) fn alternates(
    layers: &Layers,
    listeners: &[Listener],
    relay_addresses: &[RelayAddress],
) -> Result<Vec<Alternate>> {
    let port = layers.first("alternate_port", |layer| &layer.alternate_port);
    let Some(given) = layers.first("alternate_address", |layer| &layer.alternate_address) else {
        if let Some(port) = port {
            port.read(|_| Err(anyhow!("it says nothing without --alternate-address")))?;
        }
        return Ok(Vec::new());
    };
    let addresses = given.read_each(address::relay_address)?;
    given.read(|_| address::one_per_family(&addresses).context("of a second address"))?;
    let alternate = |other: RelayAddress| -> Result<Alternate> {
        let (primary, first_port) = given.read(|_| primary(other, listeners, relay_addresses))?;
        let port = match &port {
            Some(port) => port.read(|text| second_port(text, first_port))?,
            // RFC 5780 §6 asks for two ports; with a listener on any port the second may be any too.
            None if first_port == 0 => 0,
            None => first_port.checked_add(1).context(
                "there is no port above the first UDP listener's 65535; name one with --alternate-port",
            )?,
        };
        Ok(Alternate { primary, other, port })
    };
    addresses.into_iter().map(alternate).collect()
}

/// The address and port of the first UDP listener of the same family, as clients see it and as it is.
fn primary(
    other: RelayAddress,
    listeners: &[Listener],
    relay_addresses: &[RelayAddress],
) -> Result<(RelayAddress, u16)> {
    let is_v4 = other.local.is_ipv4();
    let family = if is_v4 { "IPv4" } else { "IPv6" };
    let first = listeners.iter().find(|it| it.transport == Transport::Udp && it.address.is_ipv4() == is_v4);
    let first = first.with_context(|| {
        format!("{} has no {family} UDP listener beside it in --turn-listen", other.local)
    })?;
    let ip = first.address.ip();
    let known = relay_addresses.iter().find(|it| it.local.is_ipv4() == is_v4);
    let primary = if ip.is_unspecified() {
        *known.with_context(|| {
            format!(
                "which {family} address clients reach {first} at is not known: name it with --relay-address"
            )
        })?
    } else {
        known.copied().filter(|known| known.local == ip).unwrap_or(address::same(ip))
    };
    ensure!(
        other.local != primary.local && other.public != primary.public,
        "{} is the first address already; name another one of this machine",
        if other.local == primary.local { other.local } else { other.public }
    );
    Ok((primary, first.address.port()))
}

fn second_port(text: &str, first: u16) -> Result<u16> {
    let port = text.parse().map_err(|_| anyhow!("{text:?} is not a port, 0 to 65535"))?;
    ensure!(port == 0 || port != first, "{port} is the first UDP listener's port already");
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::super::Layer;
    use super::*;

    fn read(flags: &[(&str, &str)], listen: &[&str], relays: &[&str]) -> Result<Vec<Alternate>> {
        let find = |name: &str| flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| *value);
        let flags = Layer {
            alternate_address: find("address").map(|text| text.split(',').map(str::to_owned).collect()),
            alternate_port: find("port").map(str::to_owned),
            ..Layer::default()
        };
        let layers = Layers { flags, env: Layer::default(), file: None };
        let listeners: Vec<Listener> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let relays: Vec<_> = relays.iter().map(|text| address::relay_address(text).unwrap()).collect();
        alternates(&layers, &listeners, &relays)
    }

    #[test]
    fn the_second_address_stands_beside_the_first_udp_listener() {
        let udp = ["tcp://127.0.0.1:1", "udp://127.0.0.1:3478", "udp://127.0.0.1:9"];
        let loopback = address::same([127, 0, 0, 1].into());
        let other = address::same([127, 0, 0, 2].into());
        for (flags, listen, relay, primary, other, port) in [
            (&[("address", "127.0.0.2")][..], &udp[..], "127.0.0.1", loopback, other, 3_479),
            (&[("address", "127.0.0.2"), ("port", "0")], &udp, "127.0.0.1", loopback, other, 0),
            (&[("address", "127.0.0.2"), ("port", "53")], &udp, "127.0.0.1", loopback, other, 53),
            (&[("address", "127.0.0.2")], &["udp://127.0.0.1:0"], "127.0.0.1", loopback, other, 0),
            // Behind a one-to-one NAT both have another name; on a wildcard the relay address tells which is meant.
            (
                &[("address", "198.51.100.8/127.0.0.2")],
                &["udp://0.0.0.0:3478"],
                "198.51.100.7/127.0.0.1",
                RelayAddress { public: [198, 51, 100, 7].into(), ..loopback },
                RelayAddress { public: [198, 51, 100, 8].into(), ..other },
                3_479,
            ),
        ] {
            let read = read(flags, listen, &[relay]).unwrap();
            assert_eq!(read, [Alternate { primary, other, port }], "{flags:?}");
        }
        assert_eq!(read(&[], &udp, &[]).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_is_explained() {
        let udp = &["udp://127.0.0.1:3478"][..];
        for (flags, listen, hint) in [
            (&[("address", "127.0.0.1")][..], udp, "127.0.0.1 is the first address already"),
            (&[("address", "192.0.2.1")], udp, "cannot bind 192.0.2.1"),
            (&[("address", "127.0.0.2,127.0.0.3")], udp, "one for each family"),
            (&[("address", "0.0.0.0")], udp, "not an address of one machine"),
            (&[("address", "127.0.0.2")], &["tcp://127.0.0.1:3478"], "no IPv4 UDP listener"),
            (&[("address", "127.0.0.2")], &["udp://0.0.0.0:3478"], "--relay-address"),
            (&[("address", "127.0.0.2")], &["udp://127.0.0.1:65535"], "--alternate-port"),
            (&[("address", "127.0.0.2"), ("port", "3478")], udp, "first UDP listener's port"),
            (&[("address", "127.0.0.2"), ("port", "x")], udp, "not a port"),
            (&[("port", "3479")], udp, "--alternate-port: it says nothing without --alternate-address"),
        ] {
            let error = format!("{:#}", read(flags, listen, &[]).unwrap_err());
            assert!(error.contains(hint), "{error} lacks {hint}");
        }
    }
}
