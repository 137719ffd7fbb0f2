//! RFC 8656 §8: Refresh.

use stun::{AttributeType, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{IPV4, IPV6, Request, UNKNOWN_REQUIRED};
use crate::outcome::{Outcome, ensure};
use crate::path::Path;
use crate::target::Target;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-8.2-refresh-without-allocation-437", |target| {
        Client::challenged(target)?.refused("Refresh without an allocation", &Request::refresh(600), &[437])
    }),
    check("rfc8656-8.2-delete-without-allocation-437", |target| {
        Client::challenged(target)?.refused(
            "Refresh to 0 without an allocation",
            &Request::refresh(0),
            &[437],
        )
    }),
    check("rfc8656-8.2-zero-deletes", |target| {
        let secs = Client::allocated(target)?.delete()?.lifetime()?;
        ensure(secs == 0, format!("Refresh with LIFETIME 0: expected LIFETIME 0 back, got {secs}"))
    }),
    check("rfc8656-8.2-refresh-after-deletion-437", after_deletion),
    check("rfc8656-8.2-5-tuple-is-free-after-deletion", free_after_deletion),
    check("rfc8656-8.2-nothing-is-relayed-after-deletion", silent_after_deletion),
    check("rfc8656-8.2-nothing-survives-into-the-next-allocation", nothing_survives),
    check("rfc8656-8.2-lifetime-default", |target| {
        granted(target, &Request::new(Method::REFRESH), 600..=600, "no LIFETIME")
    }),
    check("rfc8656-8.2-lifetime-below-the-default-is-the-default", |target| {
        granted(target, &Request::refresh(1), 600..=600, "LIFETIME 1")
    }),
    check("rfc8656-8.2-lifetime-between-default-and-maximum-is-granted", |target| {
        granted(target, &Request::refresh(1_234), 1_234..=1_234, "LIFETIME 1234")
    }),
    check("rfc8656-8.2-lifetime-above-the-maximum-is-the-maximum", |target| {
        granted(target, &Request::refresh(86_400), 600..=3_600, "LIFETIME 86400")
    }),
    check("rfc8656-8.2-lifetime-near-overflow-is-the-maximum", |target| {
        granted(target, &Request::refresh(u32::MAX), 600..=3_600, "LIFETIME 4294967295")?;
        granted(target, &Request::refresh(u32::MAX / 1_000 + 1), 600..=3_600, "LIFETIME 4294968")
    }),
    check("rfc8656-8.2-lifetime-malformed-changes-nothing", malformed_lifetime),
    check("rfc8656-8.2-family-mismatch-443", |target| {
        let request = Request::refresh(600).with(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV6);
        Client::allocated(target)?.refused("Refresh for IPv6 of an IPv4 allocation", &request, &[443])
    }),
    check("rfc8656-8.2-family-mismatch-does-not-delete", mismatch_does_not_delete),
    check("rfc8656-8.2-own-family-is-fine", |target| {
        let request = Request::refresh(600).with(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV4);
        Client::allocated(target)?.succeed(&request).map(drop)
    }),
    check("rfc8656-8.2-unknown-required-attribute-420", |target| {
        let request = Request::refresh(0).with(UNKNOWN_REQUIRED, b"x");
        let mut client = Client::allocated(target)?;
        client.refused("Refresh with an unknown attribute", &request, &[420])?;
        client.succeed(&Request::refresh(600)).map(drop)
    }),
    check("rfc8656-8.2-refresh-keeps-permissions-and-channels", keeps_the_rest),
];

fn after_deletion(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    client.delete()?;
    client.refused("Refresh after a deletion", &Request::refresh(600), &[437])?;
    client.refused("a second deletion", &Request::refresh(0), &[437])
}

fn free_after_deletion(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    client.delete()?;
    client.allocate(&Request::allocate())?;
    client.succeed(&Request::refresh(600)).map(drop)
}

fn silent_after_deletion(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4001)?;
    path.client.send_on_channel(0x4001, b"before")?;
    path.peer.expect("before the deletion", b"before")?;
    let relayed = path.relayed();
    path.client.delete()?;
    path.send(b"after")?;
    path.client.send_on_channel(0x4001, b"after")?;
    path.peer.expect_nothing("after the deletion")?;
    path.peer.send(relayed, b"late")?;
    path.client.expect_nothing("after the deletion")
}

fn nothing_survives(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4002)?;
    path.client.delete()?;
    path.client.allocate(&Request::allocate())?;
    path.send(b"old permission")?;
    path.client.send_on_channel(0x4002, b"old channel")?;
    path.peer.expect_nothing("permissions and channels of a deleted allocation")?;
    path.peer_sends(b"unasked")?;
    path.client.expect_nothing("permissions of a deleted allocation")
}

fn granted(
    target: &Target,
    request: &Request,
    expected: std::ops::RangeInclusive<u32>,
    what: &str,
) -> Outcome {
    let secs = Client::allocated(target)?.succeed(request)?.lifetime()?;
    ensure(
        expected.contains(&secs),
        format!("Refresh with {what}: expected {expected:?} s granted, got {secs} s"),
    )
}

fn malformed_lifetime(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    for value in [&[][..], &[0, 0, 0], &[0; 8]] {
        let request = Request::new(Method::REFRESH).with(AttributeType::LIFETIME, value);
        client.refused(&format!("Refresh with LIFETIME of {} bytes", value.len()), &request, &[400])?;
    }
    client.succeed(&Request::refresh(600)).map(drop)
}

fn mismatch_does_not_delete(target: &Target) -> Outcome {
    let mut client = Client::allocated(target)?;
    let request = Request::refresh(0).with(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV6);
    client.refused("a deletion for IPv6 of an IPv4 allocation", &request, &[443])?;
    client.succeed(&Request::refresh(600)).map(drop)
}

fn keeps_the_rest(target: &Target) -> Outcome {
    let mut path = Path::bound(target, 0x4003)?;
    path.client.succeed(&Request::refresh(700))?;
    path.client.send_on_channel(0x4003, b"still there")?;
    path.peer.expect("a channel after a Refresh", b"still there").map(drop)
}
