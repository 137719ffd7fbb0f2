//! RFC 8656 §12: ChannelBind.

use std::net::SocketAddr;

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::checks::permission::{ipv6_peer, malformed_peers};
use crate::client::Client;
use crate::message::{Request, UNKNOWN_REQUIRED};
use crate::outcome::Outcome;
use crate::path::Path;
use crate::peer::Peer;
use crate::target::Target;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-12.2-lowest-number-is-bound", |target| Path::bound(target, 0x4000).map(drop)),
    check("rfc8656-12.2-highest-number-is-bound", |target| Path::bound(target, 0x4FFF).map(drop)),
    check("rfc8656-12.2-numbers-below-4000-400", |target| numbers(target, &[0x0000, 0x0001, 0x3FFF])),
    check("rfc8656-12.2-numbers-from-5000-400", |target| numbers(target, &[0x5000, 0x7FFE, 0x7FFF])),
    check("rfc8656-12.2-numbers-from-8000-400", |target| numbers(target, &[0x8000, 0xFFFF])),
    check("rfc8656-12.2-number-missing-400", |target| {
        let mut path = Path::open(target)?;
        let request = Request::new(Method::CHANNEL_BIND).peer(path.at);
        path.client.refused("ChannelBind without CHANNEL-NUMBER", &request, &[400])
    }),
    check("rfc8656-12.2-number-malformed-400", |target| {
        let mut path = Path::open(target)?;
        for value in [&[][..], &[0x40], &[0x40, 0], &[0x40, 0, 0], &[0x40, 0, 0, 0, 0]] {
            let bind = Request::new(Method::CHANNEL_BIND).with(AttributeType::CHANNEL_NUMBER, value);
            let what = format!("ChannelBind with CHANNEL-NUMBER of {} bytes", value.len());
            path.client.refused(&what, &bind.peer(path.at), &[400])?;
        }
        Ok(())
    }),
    check("rfc8656-12.2-peer-missing-400", |target| {
        let request = Request::new(Method::CHANNEL_BIND).channel(0x4000);
        Client::allocated(target)?.refused("ChannelBind without XOR-PEER-ADDRESS", &request, &[400])
    }),
    check("rfc8656-12.2-peer-malformed-400", |target| {
        let mut client = Client::allocated(target)?;
        for value in malformed_peers() {
            let what = format!("ChannelBind with XOR-PEER-ADDRESS {value:x?}");
            let bind = Request::new(Method::CHANNEL_BIND).channel(0x4000);
            client.refused(&what, &bind.with(AttributeType::XOR_PEER_ADDRESS, value), &[400])?;
        }
        Ok(())
    }),
    check("rfc8656-12.2-without-allocation-437", |target| {
        let request = Request::channel_bind(0x4000, SocketAddr::new(target.peer_host, 9));
        Client::challenged(target)?.refused("ChannelBind without an allocation", &request, &[437])
    }),
    check("rfc8656-12.2-peer-of-another-family-443", |target| {
        let request = Request::channel_bind(0x4000, ipv6_peer());
        Client::allocated(target)?.refused("ChannelBind to IPv6 on an IPv4 relay", &request, &[443])
    }),
    check("rfc8656-12.2-unknown-required-attribute-420", |target| {
        let mut path = Path::open(target)?;
        let request = Request::channel_bind(0x4000, path.at).with(UNKNOWN_REQUIRED, b"x");
        path.client.refused("ChannelBind with an unknown attribute", &request, &[420])?;
        path.client.send_on_channel(0x4000, b"x")?;
        path.peer.expect_nothing("a channel whose ChannelBind was refused")
    }),
    check("rfc8656-12.2-binding-again-refreshes", |target| {
        let mut path = Path::bound(target, 0x4010)?;
        path.client.bind(0x4010, path.at)?;
        path.client.send_on_channel(0x4010, b"again")?;
        path.peer.expect("a channel bound again", b"again").map(drop)
    }),
    check("rfc8656-12.2-number-bound-to-another-peer-400", number_of_another),
    check("rfc8656-12.2-number-bound-to-another-port-400", number_of_another_port),
    check("rfc8656-12.2-peer-bound-to-another-number-400", peer_of_another),
    check("rfc8656-12.2-refused-rebinding-changes-nothing", refused_rebinding),
    check("rfc8656-12.2-refused-bind-installs-no-permission", refused_installs_nothing),
    check("rfc8656-12.2-two-ports-of-an-address-have-two-channels", two_ports),
    check("rfc8656-12.2-channels-are-their-allocations", own_channels),
    check("rfc8656-12.2-bind-installs-a-permission", installs_permission),
    check("rfc8656-12.2-number-is-free-in-the-next-allocation", |target| {
        let mut path = Path::bound(target, 0x4011)?;
        path.client.delete()?;
        path.client.allocate(&Request::allocate())?;
        let other = Peer::open(target)?;
        path.client.bind(0x4011, other.address()?)
    }),
];

fn numbers(target: &Target, numbers: &[u16]) -> Outcome {
    let mut path = Path::open(target)?;
    for number in numbers {
        let request = Request::channel_bind(*number, path.at);
        path.client.refused(&format!("ChannelBind for {number:#06X}"), &request, &[400])?;
    }
    Ok(())
}

fn number_of_another(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4020)?;
    // TEST-NET-3 would be forbidden on many servers, and that must not be the reason.
    let std::net::IpAddr::V4(host) = target.peer_host else { return Ok(()) };
    let [a, b, c, d] = host.octets();
    let next = std::net::Ipv4Addr::new(a, b, c, if d == 9 { 10 } else { 9 });
    let request = Request::channel_bind(0x4020, SocketAddr::new(next.into(), path.at.port()));
    path.client.refused("ChannelBind of a bound number to another address", &request, &[400])
}

fn number_of_another_port(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4021)?;
    let other = Peer::open(target)?;
    let request = Request::channel_bind(0x4021, other.address()?);
    path.client.refused("ChannelBind of a bound number to another port", &request, &[400])
}

fn peer_of_another(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4022)?;
    let request = Request::channel_bind(0x4023, path.at);
    path.client.refused("ChannelBind of another number to a bound peer", &request, &[400])
}

fn refused_rebinding(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4024)?;
    let other = Peer::open(target)?;
    let moved = Request::channel_bind(0x4024, other.address()?);
    path.client.refused("ChannelBind of a bound number to another peer", &moved, &[400])?;
    let second = Request::channel_bind(0x4025, path.at);
    path.client.refused("ChannelBind of another number to a bound peer", &second, &[400])?;
    path.client.send_on_channel(0x4025, b"x")?;
    path.peer.expect_nothing("the number of a refused ChannelBind")?;
    path.client.send_on_channel(0x4024, b"as before")?;
    path.peer.expect("the channel bound before", b"as before")?;
    other.expect_nothing("the peer of a refused ChannelBind")
}

fn refused_installs_nothing(target: &Target) -> Outcome {
    let mut path = Path::open(target)?;
    let request = Request::channel_bind(0x3FFF, path.at);
    path.client.refused("ChannelBind for 0x3FFF", &request, &[400])?;
    path.send(b"x")?;
    path.peer.expect_nothing("a permission from a refused ChannelBind")
}

fn two_ports(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4026)?;
    let other = Peer::open(target)?;
    path.client.bind(0x4027, other.address()?)?;
    path.client.send_on_channel(0x4026, b"one")?;
    path.client.send_on_channel(0x4027, b"other")?;
    path.peer.expect("the first channel", b"one")?;
    other.expect("the second channel", b"other")?;
    other.send(path.relayed(), b"back")?;
    path.client.expect_channel_data("the second channel", 0x4027, b"back")
}

fn own_channels(target: &Target) -> Outcome {
    let mut one = Path::bound(target, 0x4028)?;
    let mut other = Path::bound(target, 0x4028)?;
    one.client.send_on_channel(0x4028, b"one")?;
    other.client.send_on_channel(0x4028, b"other")?;
    one.peer.expect("one client's channel 0x4028", b"one")?;
    other.peer.expect("another client's channel 0x4028", b"other").map(drop)
}

fn installs_permission(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4029)?;
    path.send(b"by Send")?;
    path.peer.expect("Send to a bound peer", b"by Send")?;
    let neighbour = Peer::open(target)?;
    neighbour.send(path.relayed(), b"from a neighbour")?;
    path.client.expect_data("another port of a bound address", neighbour.address()?, b"from a neighbour")
}
