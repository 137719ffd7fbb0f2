//! STUN and ChannelData over TCP: RFC 8489 §6.2.2, RFC 8656 §12.5. The slow checks stand here, at the end.

use std::time::{Duration, Instant};

use stun::Method;

use crate::check::{Check, check};
use crate::checks::data::pattern;
use crate::client::Client;
use crate::link::Arrival;
use crate::message::{Request, channel_data_bytes, set_length};
use crate::outcome::{Outcome, ensure, fail};
use crate::path::Path;
use crate::target::Target;

/// How long a server may keep a connection that does not go on.
const PATIENCE_OF_SERVERS: Duration = Duration::from_secs(25);
const NUMBER: u16 = 0x4321;

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8489-6.2.2-several-requests-in-one-segment", several_in_one),
    check("rfc8489-6.2.2-request-and-half-of-the-next", one_and_a_half),
    check("rfc8489-6.2.2-byte-by-byte", byte_by_byte),
    check("rfc8489-6.2.2-large-message-on-a-stream", large_message),
    check("hardening-garbage-on-a-stream-closes-it", |target| {
        closes(target, &[0xFF; 64], "64 bytes that are neither STUN nor ChannelData")
    }),
    check("hardening-wrong-cookie-on-a-stream-closes-it", |target| {
        let mut bytes = Request::new(Method::BINDING).bytes();
        bytes.iter_mut().skip(4).take(4).for_each(|byte| *byte = 0);
        closes(target, &bytes, "a message without the magic cookie")
    }),
    check("hardening-odd-length-on-a-stream-closes-it", |target| {
        let mut bytes = Request::new(Method::BINDING).bytes();
        bytes.extend([0; 5]);
        set_length(&mut bytes, 5);
        closes(target, &bytes, "a message of odd length")
    }),
    check("rfc8656-12.5-every-split-point-of-a-request-and-channel-data", every_split),
    check("hardening-http-on-the-turn-port-is-closed-and-not-answered", |target| {
        closes(target, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "an HTTP request")
    }),
    check("hardening-half-a-frame-is-closed-in-the-end", half_a_frame),
    check("hardening-connection-that-says-nothing-is-closed-in-the-end", says_nothing),
];

fn several_in_one(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut path = Path::bound(target, NUMBER)?;
    let refresh = Request::refresh(600).signed(&path.client.signature());
    let data = channel_data_bytes(NUMBER, b"between", true);
    let binding = Request::new(Method::BINDING).bytes();
    path.client.send(&[refresh.clone(), data].concat())?;
    path.client.answer(&binding)?.success("Binding behind two others in the stream")?;
    path.peer.expect("ChannelData between two requests", b"between")?;
    let many: Vec<Vec<u8>> = (0..20).map(|_| Request::new(Method::BINDING).bytes()).collect();
    let mut client = Client::open(target)?;
    client.send(&many.concat())?;
    for request in &many {
        match client.link.receive(crate::client::PATIENCE)? {
            Arrival::Frame(frame) => {
                let own = frame.get(8..20) == request.get(8..20);
                ensure(own, "20 Bindings in one segment: expected the answers in their order")?;
            }
            _ => return fail("20 Bindings in one segment: expected 20 answers, got fewer"),
        }
    }
    Ok(())
}

fn one_and_a_half(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut client = Client::open(target)?;
    let (first, second) = (Request::new(Method::BINDING).bytes(), Request::new(Method::BINDING).bytes());
    let (front, back) = second.split_at_checked(11).unwrap_or_default();
    client.answer(&[first.as_slice(), front].concat())?.success("Binding with half of the next behind it")?;
    client.send(back)?;
    match client.link.receive(crate::client::PATIENCE)? {
        Arrival::Frame(frame) if frame.get(8..20) == second.get(8..20) => Ok(()),
        other => fail(format!("the second half of a Binding: expected its answer, got {other:?}")),
    }
}

fn byte_by_byte(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut client = Client::challenged(target)?;
    let bytes = Request::allocate().signed(&client.signature());
    let Some((last, front)) = bytes.split_last() else { return Ok(()) };
    for byte in front {
        client.send(&[*byte])?;
        std::thread::sleep(Duration::from_millis(1));
    }
    client.send(&[*last])?;
    match client.link.receive(crate::client::PATIENCE)? {
        Arrival::Frame(frame) => client.adopt(&crate::message::Reply::new(frame)?),
        other => fail(format!("an Allocate byte by byte: expected its answer, got {other:?}")),
    }
}

fn large_message(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut path = Path::permitted(target)?;
    for length in [16_000, 60_000] {
        let data = pattern(length);
        path.send(&data)?;
        path.peer.expect(&format!("Send of {length} bytes over TCP"), &data)?;
    }
    Ok(())
}

fn closes(target: &Target, bytes: &[u8], what: &str) -> Outcome {
    target.needs_a_stream()?;
    let mut client = Client::open(target)?;
    client.send(bytes)?;
    expect_closed(&mut client, what)
}

fn expect_closed(client: &mut Client<'_>, what: &str) -> Outcome {
    let deadline = Instant::now() + PATIENCE_OF_SERVERS;
    while Instant::now() < deadline {
        match client.link.receive(Duration::from_millis(500))? {
            Arrival::Closed => return Ok(()),
            Arrival::Nothing => {}
            Arrival::Frame(frame) => {
                return fail(format!("{what}: expected no answer, got {}", crate::message::describe(&frame)));
            }
        }
    }
    fail(format!("{what}: expected the connection to be closed within {PATIENCE_OF_SERVERS:?}"))
}

/// An Allocate on a live 5-tuple (437 each time) and ChannelData, cut in two at every byte.
fn every_split(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let mut path = Path::bound(target, NUMBER)?;
    let length = Request::allocate().signed(&path.client.signature()).len() + 4 + 12;
    for cut in 1..length {
        let request = Request::allocate().signed(&path.client.signature());
        let data = pattern(9);
        let both = [request.clone(), channel_data_bytes(NUMBER, &data, true)].concat();
        let (front, back) = both.split_at_checked(cut).unwrap_or_default();
        path.client.send(front)?;
        std::thread::sleep(Duration::from_millis(1));
        path.client.send(back)?;
        let Arrival::Frame(frame) = path.client.link.receive(crate::client::PATIENCE)? else {
            return fail(format!("cut after {cut} bytes: expected an answer to Allocate, got none"));
        };
        let own = frame.get(8..20) == request.get(8..20);
        ensure(own, format!("cut after {cut} bytes: expected this request's answer"))?;
        crate::message::Reply::new(frame)?.refused(&format!("cut after {cut} bytes: Allocate"), &[437])?;
        path.peer.expect(&format!("cut after {cut} bytes: ChannelData"), &data)?;
    }
    Ok(())
}

fn half_a_frame(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    let bytes = Request::new(Method::BINDING).bytes();
    let mut client = Client::open(target)?;
    client.send(bytes.get(..11).unwrap_or_default())?;
    expect_closed(&mut client, "half of a Binding request")
}

fn says_nothing(target: &Target) -> Outcome {
    target.needs_a_stream()?;
    expect_closed(&mut Client::open(target)?, "a connection that says nothing")
}
