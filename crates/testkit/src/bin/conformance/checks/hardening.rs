//! Peers that no relay should reach, and randomness. Not from an RFC, but for RFC 8656 §21, which only advises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use stun::AttributeType;

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{IPV6, Request};
use crate::outcome::{Outcome, Verdict, ensure, fail, skip};
use crate::path::Path;
use crate::target::Target;

pub(crate) const CHECKS: &[Check] = &[
    check("hardening-peer-unspecified-403", |target| forbidden(target, [0, 0, 0, 0])),
    check("hardening-peer-this-network-403", |target| forbidden(target, [0, 1, 2, 3])),
    check("hardening-peer-multicast-403", |target| {
        forbidden(target, [224, 0, 0, 1])?;
        forbidden(target, [239, 255, 255, 250])
    }),
    check("hardening-peer-broadcast-403", |target| forbidden(target, [255, 255, 255, 255])),
    check("hardening-peer-reserved-403", |target| forbidden(target, [240, 0, 0, 1])),
    check("hardening-peer-link-local-metadata-403", |target| forbidden(target, [169, 254, 169, 254])),
    check("hardening-peer-documentation-403", |target| forbidden(target, [198, 51, 100, 7])),
    check("hardening-peer-benchmarking-403", |target| forbidden(target, [198, 18, 0, 1])),
    check("hardening-one-forbidden-peer-installs-none", one_forbidden),
    check("hardening-permission-does-not-outweigh-the-own-listener", own_listener),
    check("hardening-ipv4-mapped-peer-is-refused", mapped_on_ipv4),
    check("hardening-embedded-ipv4-on-an-ipv6-relay-403", embedded_on_ipv6),
    check("hardening-relayed-ports-are-not-sequential", random_ports),
];

fn forbidden(target: &Target, octets: [u8; 4]) -> Outcome {
    let at = SocketAddr::new(Ipv4Addr::from(octets).into(), 53);
    let mut client = Client::allocated(target)?;
    client.refused(&format!("CreatePermission for {}", at.ip()), &Request::permission(&[at]), &[403])?;
    client.refused(&format!("ChannelBind to {at}"), &Request::channel_bind(0x4000, at), &[403])
}

fn one_forbidden(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let multicast = SocketAddr::new(Ipv4Addr::new(224, 0, 0, 1).into(), 9);
    path.client.refused(
        "CreatePermission with one forbidden peer",
        &Request::permission(&[path.at, multicast]),
        &[403],
    )?;
    path.send(b"x")?;
    path.peer.expect_nothing("a permission from a refused CreatePermission")
}

/// A relay that can reach its own listener lets a client talk to the server from the inside.
fn own_listener(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    if client.ask(&Request::permission(&[target.server]))?.code().is_some() {
        return Ok(());
    }
    let bind = client.ask(&Request::channel_bind(0x4000, target.server))?;
    ensure(
        bind.code() == Some(403),
        format!("ChannelBind to the server's own listener: expected 403, got {bind}"),
    )?;
    let binding = Request::new(stun::Method::BINDING).bytes();
    client.send(&Request::send(target.server, &binding).bytes())?;
    client.expect_nothing("Send of a Binding request to the server's own listener")
}

fn mapped_on_ipv4(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    for at in [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::LOCALHOST] {
        let mapped = SocketAddr::new(IpAddr::V6(at.to_ipv6_mapped()), 80);
        let what = format!("CreatePermission for {}", mapped.ip());
        client.refused(&what, &Request::permission(&[mapped]), &[403, 443])?;
        let what = format!("ChannelBind to {mapped}");
        client.refused(&what, &Request::channel_bind(0x4000, mapped), &[403, 443])?;
    }
    Ok(())
}

fn ipv6_client(target: &Target) -> Result<Client<'_>, Verdict> {
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&Request::allocate().with(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV6))?;
    match reply.code() {
        Some(440) => skip("no IPv6 relay is offered: 440"),
        Some(_) => fail(format!("Allocate for IPv6: expected success or 440, got {reply}")),
        None => client.adopt(&reply).map(|()| client),
    }
}

fn embedded_on_ipv6(target: &Target) -> Outcome {
    let mut client = ipv6_client(target)?;
    for text in [
        "::",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "ff02::1",
        "2001:db8::1",
    ] {
        let Ok(ip) = text.parse::<Ipv6Addr>() else { continue };
        let request = Request::permission(&[SocketAddr::new(ip.into(), 80)]);
        client.refused(&format!("CreatePermission for {text}"), &request, &[403])?;
    }
    Ok(())
}

fn random_ports(target: &Target) -> Outcome {
    let clients: Vec<Client<'_>> = (0..8).map(|_| Client::allocated(target)).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = clients.iter().map(|client| client.relayed().port()).collect();
    let near = ports.windows(2).filter(|pair| matches!(pair, [a, b] if a.abs_diff(*b) <= 4)).count();
    ensure(near <= 2, format!("eight allocations: expected unpredictable ports, got {ports:?}"))
}
