//! RFC 8656 §12.4 to §12.7: ChannelData.

use crate::check::{Check, check};
use crate::checks::data::pattern;
use crate::client::Client;
use crate::message::{channel_data_bytes, describe, read_channel_data};
use crate::outcome::{Outcome, ensure, fail};
use crate::path::Path;
use crate::target::{Target, Transport};

const NUMBER: u16 = 0x4123;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-12.6-data-on-a-channel-reaches-the-peer", |target| to_peer(target, &[20])),
    check("rfc8656-12.6-empty-data-on-a-channel-makes-an-empty-datagram", |target| to_peer(target, &[0])),
    check("rfc8656-12.6-every-length-on-a-channel", |target| to_peer(target, &[1, 2, 3, 4, 5, 6, 7, 1_200])),
    check("rfc8656-12.6-large-data-on-a-channel", |target| to_peer(target, &[2_000, 9_000])),
    check("rfc8656-12.7-data-from-a-bound-peer-comes-on-its-channel", |target| from_peer(target, &[20])),
    check("rfc8656-12.7-empty-datagram-comes-on-the-channel", |target| from_peer(target, &[0])),
    check("rfc8656-12.7-every-length-from-a-bound-peer", |target| {
        from_peer(target, &[1, 2, 3, 4, 5, 6, 7, 1_200])
    }),
    check("rfc8656-12.7-large-data-from-a-bound-peer", |target| from_peer(target, &[2_000, 9_000])),
    check("rfc8656-12.7-largest-data-from-a-bound-peer-whole-or-not-at-all", largest_from_peer),
    check("rfc8656-12.7-data-before-the-bind-comes-as-indication", before_and_after),
    check("rfc8656-12.6-unbound-number-is-dropped", |target| {
        let mut path = Path::bound(target, NUMBER)?;
        path.client.send_on_channel(NUMBER + 1, b"x")?;
        path.peer.expect_nothing("ChannelData on a number that is not bound")?;
        relays(&mut path, "after ChannelData on an unbound number")
    }),
    check("rfc8656-12.6-unbound-number-is-not-answered", |target| {
        let bytes = channel_data_bytes(NUMBER + 1, b"whom?", true);
        Client::allocated(target)?.silent("ChannelData on a number that is not bound", &bytes)
    }),
    check("rfc8656-12.6-length-beyond-the-datagram-is-dropped", beyond),
    check("rfc8656-12.6-datagram-shorter-than-the-header-is-dropped", shorter_than_header),
    check("rfc8656-12.6-reserved-numbers-are-dropped", reserved_numbers),
    check("rfc8656-12.5-padding-over-udp-is-tolerated", padded_over_udp),
    check("rfc8656-12.6-bytes-behind-the-data-are-not-data", longer_over_udp),
    check("rfc8656-12.5-padding-over-tcp-is-skipped", padding_is_skipped),
    check("rfc8656-12.5-padding-over-tcp-is-sent", padding_is_sent),
    check("rfc8656-12.6-order-is-kept-on-a-channel", order_is_kept),
];

fn to_peer(target: &Target, lengths: &[usize]) -> Outcome {
    let mut path = Path::bound(target, NUMBER)?;
    for length in lengths {
        let data = pattern(*length);
        path.client.send_on_channel(NUMBER, &data)?;
        let from = path.peer.expect(&format!("ChannelData of {length} bytes"), &data)?;
        ensure(from == path.relayed(), format!("expected data from {}, got it from {from}", path.relayed()))?;
    }
    Ok(())
}

fn from_peer(target: &Target, lengths: &[usize]) -> Outcome {
    let mut path = Path::bound(target, NUMBER)?;
    for length in lengths {
        let data = pattern(*length);
        path.peer_sends(&data)?;
        path.client.expect_channel_data(&format!("a datagram of {length} bytes"), NUMBER, &data)?;
    }
    Ok(())
}

fn relays(path: &mut Path<'_>, what: &str) -> Outcome {
    path.client.send_on_channel(NUMBER, b"there")?;
    path.peer.expect(what, b"there")?;
    path.peer_sends(b"back")?;
    path.client.expect_channel_data(what, NUMBER, b"back")
}

fn largest_from_peer(target: &Target) -> Outcome {
    let mut path = Path::bound(target, NUMBER)?;
    for length in [30_000, 65_000, 65_503, 65_507] {
        let data = pattern(length);
        path.peer_sends(&data)?;
        let Some(frame) = path.client.next_frame(std::time::Duration::from_secs(1))? else { continue };
        let Some((_, got)) = read_channel_data(&frame) else {
            return fail(format!("{length} bytes from the peer: got {}", describe(&frame)));
        };
        ensure(
            got == data,
            format!("{length} bytes from the peer: expected all or nothing, got {}", got.len()),
        )?;
    }
    relays(&mut path, "after the largest datagrams")
}

fn before_and_after(target: &Target) -> Outcome {
    let mut path = Path::permitted(target)?;
    path.peer_sends(b"before")?;
    path.client.expect_data("before the ChannelBind", path.at, b"before")?;
    path.client.bind(NUMBER, path.at)?;
    path.peer_sends(b"after")?;
    path.client.expect_channel_data("after the ChannelBind", NUMBER, b"after")
}

fn beyond(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut path = Path::bound(target, NUMBER)?;
    let whole = channel_data_bytes(NUMBER, b"12345678", false);
    for length in [4, 8, 11] {
        path.client.send(whole.get(..length).unwrap_or_default())?;
    }
    path.peer.expect_nothing("ChannelData whose length is beyond its datagram")?;
    relays(&mut path, "after cut ChannelData")
}

fn shorter_than_header(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut path = Path::bound(target, NUMBER)?;
    let whole = channel_data_bytes(NUMBER, b"", false);
    for length in 1..4 {
        path.client.send(whole.get(..length).unwrap_or_default())?;
    }
    path.peer.expect_nothing("ChannelData without a whole header")?;
    relays(&mut path, "after ChannelData without a whole header")
}

fn reserved_numbers(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut path = Path::bound(target, NUMBER)?;
    for number in [0x5000, 0x7FFF] {
        path.client.silent("ChannelData on a reserved number", &channel_data_bytes(number, b"x", false))?;
    }
    path.peer.expect_nothing("ChannelData on a reserved number")
}

fn padded_over_udp(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut path = Path::bound(target, NUMBER)?;
    path.client.send(&channel_data_bytes(NUMBER, b"padded", true))?;
    path.peer.expect("padded ChannelData over UDP", b"padded").map(drop)
}

fn longer_over_udp(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut path = Path::bound(target, NUMBER)?;
    let bytes = [channel_data_bytes(NUMBER, b"data", false), b"not data".to_vec()].concat();
    path.client.send(&bytes)?;
    // Dropping it whole would do as well; what is behind the length must not reach the peer.
    match path.peer.receive(crate::client::SILENCE)? {
        None => Ok(()),
        Some((got, _)) => {
            ensure(got == b"data", format!("ChannelData of 4 bytes: expected those, got {} bytes", got.len()))
        }
    }
}

fn padding_is_skipped(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut path = Path::bound(target, NUMBER)?;
    let lengths = [1, 2, 3, 5, 6, 7, 4];
    let all: Vec<u8> =
        lengths.iter().flat_map(|length| channel_data_bytes(NUMBER, &pattern(*length), true)).collect();
    path.client.send(&all)?;
    for length in lengths {
        path.peer.expect(&format!("padded ChannelData of {length} bytes"), &pattern(length))?;
    }
    relays(&mut path, "after padded ChannelData")
}

fn padding_is_sent(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut path = Path::bound(target, NUMBER)?;
    for length in [1, 2, 3, 4, 5] {
        path.peer_sends(&pattern(length))?;
    }
    // Frames are found only if each was padded to four bytes.
    for length in [1, 2, 3, 4, 5] {
        path.client.expect_channel_data("padded ChannelData", NUMBER, &pattern(length))?;
    }
    path.client.succeed(&crate::message::Request::refresh(600)).map(drop)
}

fn order_is_kept(target: &Target) -> Outcome {
    let mut path = Path::bound(target, NUMBER)?;
    for number in 0..60_u8 {
        path.client.send_on_channel(NUMBER, &[number])?;
    }
    for number in 0..60_u8 {
        path.peer.expect(&format!("the {number}th of 60 ChannelData"), &[number])?;
    }
    Ok(())
}
