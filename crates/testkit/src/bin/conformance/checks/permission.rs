//! RFC 8656 §9 and §10: permissions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Request, UNKNOWN_REQUIRED};
use crate::outcome::{Outcome, Verdict, skip};
use crate::path::Path;
use crate::peer::Peer;
use crate::target::Target;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-10.2-create-permission-succeeds", |target| Path::permitted(target).map(drop)),
    check("rfc8656-10.2-without-allocation-437", |target| {
        let request = Request::permission(&[SocketAddr::new(target.peer_host, 9)]);
        Client::challenged(target)?.refused("CreatePermission without an allocation", &request, &[437])
    }),
    check("rfc8656-10.2-peer-missing-400", |target| {
        let request = Request::new(Method::CREATE_PERMISSION);
        Client::allocated(target)?.refused("CreatePermission without XOR-PEER-ADDRESS", &request, &[400])
    }),
    check("rfc8656-10.2-peer-malformed-400", |target| {
        for value in malformed_peers() {
            let what = format!("CreatePermission with XOR-PEER-ADDRESS {value:x?}");
            let request =
                Request::new(Method::CREATE_PERMISSION).with(AttributeType::XOR_PEER_ADDRESS, value);
            Client::allocated(target)?.refused(&what, &request, &[400])?;
        }
        Ok(())
    }),
    check("rfc8656-10.2-several-peers", several_peers),
    check("rfc8656-10.2-one-malformed-peer-installs-none", one_malformed),
    check("rfc8656-10.2-peer-of-another-family-443", |target| {
        let request = Request::permission(&[ipv6_peer()]);
        Client::allocated(target)?.refused("CreatePermission for IPv6 on an IPv4 relay", &request, &[443])
    }),
    check("rfc8656-10.2-one-peer-of-another-family-installs-none", one_of_another_family),
    check("rfc8656-10.2-unknown-required-attribute-420", unknown_required),
    check("rfc8656-10.2-refreshing-a-permission", |target| {
        let mut path = Path::permitted(target)?;
        path.client.permit(path.at)?;
        path.still_relays("after a permission was refreshed")
    }),
    check("rfc8656-9-permission-covers-all-ports-of-its-address", covers_all_ports),
    check("rfc8656-9-permission-for-port-zero-covers-all-ports", port_zero),
    check("rfc8656-9-permission-covers-no-other-address", no_other_address),
    check("rfc8656-9-permission-holds-for-its-allocation-only", own_allocation_only),
    check("rfc8656-10.2-many-peers-in-one-request", many_peers),
];

/// Too short, too long, of no family.
pub(crate) fn malformed_peers() -> [Vec<u8>; 5] {
    let cut = vec![0, 1, 0x11, 0x22];
    let short = vec![0, 1, 1, 2, 3, 4, 5];
    let long = vec![0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let familyless = vec![0, 9, 1, 2, 3, 4, 5, 6];
    [vec![], cut, short, long, familyless]
}

pub(crate) fn ipv6_peer() -> SocketAddr {
    SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 9)
}

fn several_peers(target: &Target) -> Outcome {
    let (here, there) = two_hosts(target)?;
    let mut client = Client::allocated(target)?;
    client.succeed(&Request::permission(&[here.address()?, there.address()?]))?;
    for peer in [here, there] {
        client.send(&Request::send(peer.address()?, b"both").bytes())?;
        peer.expect("a permission for two addresses", b"both")?;
    }
    Ok(())
}

fn one_malformed(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let request = Request::permission(&[path.at]).with(AttributeType::XOR_PEER_ADDRESS, [0, 1, 2]);
    path.client.refused("CreatePermission with one malformed peer", &request, &[400])?;
    path.send(b"x")?;
    path.peer.expect_nothing("a permission from a refused CreatePermission")
}

fn one_of_another_family(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let request = Request::permission(&[path.at, ipv6_peer()]);
    path.client.refused("CreatePermission for both families on an IPv4 relay", &request, &[443])?;
    path.send(b"x")?;
    path.peer.expect_nothing("a permission from a refused CreatePermission")
}

fn unknown_required(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let request = Request::permission(&[path.at]).with(UNKNOWN_REQUIRED, b"x");
    path.client.refused("CreatePermission with an unknown attribute", &request, &[420])?;
    path.send(b"x")?;
    path.peer.expect_nothing("a permission from a refused CreatePermission")
}

fn covers_all_ports(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    let other = Peer::open(target)?;
    path.client.send(&Request::send(other.address()?, b"to another port").bytes())?;
    other.expect("another port of a permitted address", b"to another port")?;
    other.send(path.relayed(), b"from another port")?;
    path.client.expect_data("another port of a permitted address", other.address()?, b"from another port")
}

fn port_zero(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    path.client.permit(SocketAddr::new(target.peer_host, 0))?;
    path.still_relays("with a permission for port 0")
}

/// Peers on two addresses; loopback has many, other hosts usually one.
fn two_hosts(target: &Target) -> Result<(Peer, Peer), Verdict> {
    let IpAddr::V4(host) = target.peer_host else { return skip("needs an IPv4 --peer-host") };
    if !host.is_loopback() {
        return skip("needs a second peer address: --peer-host is not on loopback");
    }
    let [a, b, c, d] = host.octets();
    let other = Peer::at(Ipv4Addr::new(a, b, c, if d == 2 { 3 } else { 2 }).into());
    match other {
        Ok(other) => Ok((Peer::open(target)?, other)),
        Err(_) => skip("needs a second loopback address"),
    }
}

fn no_other_address(target: &Target) -> Outcome {
    let (here, there) = two_hosts(target)?;
    let mut client = Client::allocated(target)?;
    client.permit(here.address()?)?;
    client.send(&Request::send(there.address()?, b"x").bytes())?;
    there.expect_nothing("an address without a permission")?;
    there.send(client.relayed(), b"x")?;
    client.expect_nothing("an address without a permission")
}

fn own_allocation_only(target: &Target) -> Outcome {
    let permitted = Path::permitted(target)?;
    let mut other = Client::allocated(target)?;
    other.send(&Request::send(permitted.at, b"x").bytes())?;
    permitted.peer.expect_nothing("another allocation's permission")?;
    permitted.peer.send(other.relayed(), b"x")?;
    other.expect_nothing("another allocation's permission")
}

fn many_peers(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let peers: Vec<SocketAddr> = (1..=20).map(|port| SocketAddr::new(target.peer_host, port)).collect();
    path.client.succeed(&Request::permission(&peers))?;
    path.still_relays("after a request with 20 peers of one address")
}
