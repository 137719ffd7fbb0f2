//! RFC 8656 §7: EVEN-PORT and RESERVATION-TOKEN.

use stun::AttributeType;

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{IPV4, IPV6, Request};
use crate::outcome::{Outcome, Verdict, ensure};
use crate::target::Target;

const EVEN: [u8; 1] = [0];
const EVEN_AND_NEXT: [u8; 1] = [0x80];

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8656-7.2-even-port-is-even", even_port),
    check("rfc8656-7.2-even-port-without-r-reserves-nothing", |target| {
        let reply = Client::challenged(target)?.allocate(&with_even_port(EVEN))?;
        let token = reply.has(AttributeType::RESERVATION_TOKEN);
        ensure(!token, "EVEN-PORT without the R bit: expected no RESERVATION-TOKEN")
    }),
    check("rfc8656-7.2-even-port-with-r-gives-a-token", |target| reserved(target).map(drop)),
    check("rfc8656-7.2-token-gives-the-next-port", token_gives_next_port),
    check("rfc8656-7.2-token-serves-once", token_serves_once),
    check("rfc8656-7.2-token-outlives-the-first-allocation", token_outlives),
    check("rfc8656-7.2-tokens-differ", tokens_differ),
    check("rfc8656-7.2-unknown-token-508", |target| {
        let request = Request::allocate().with(AttributeType::RESERVATION_TOKEN, b"no token");
        refused(target, "Allocate with a RESERVATION-TOKEN nobody issued", &request, &[508])
    }),
    check("rfc8656-7.2-malformed-token-is-refused", |target| {
        for length in [0_usize, 7, 9] {
            let request = Request::allocate().with(AttributeType::RESERVATION_TOKEN, vec![7; length]);
            refused(target, &format!("RESERVATION-TOKEN of {length} bytes"), &request, &[400, 508])?;
        }
        Ok(())
    }),
    check("rfc8656-7.2-token-with-even-port-400", |target| {
        let request = with_even_port(EVEN).with(AttributeType::RESERVATION_TOKEN, b"no token");
        refused(target, "Allocate with RESERVATION-TOKEN and EVEN-PORT", &request, &[400])
    }),
    check("rfc8656-7.2-token-with-requested-family-400", |target| {
        let request = Request::allocate()
            .with(AttributeType::RESERVATION_TOKEN, b"no token")
            .with(AttributeType::REQUESTED_ADDRESS_FAMILY, IPV4);
        refused(target, "Allocate with RESERVATION-TOKEN and REQUESTED-ADDRESS-FAMILY", &request, &[400])
    }),
    check("rfc8656-7.2-token-with-additional-family-400", |target| {
        let request = Request::allocate()
            .with(AttributeType::RESERVATION_TOKEN, b"no token")
            .with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6);
        refused(target, "Allocate with RESERVATION-TOKEN and ADDITIONAL-ADDRESS-FAMILY", &request, &[400])
    }),
    check("rfc8656-7.2-reserving-even-port-with-additional-family-400", |target| {
        let request = with_even_port(EVEN_AND_NEXT).with(AttributeType::ADDITIONAL_ADDRESS_FAMILY, IPV6);
        refused(target, "Allocate with EVEN-PORT's R bit and ADDITIONAL-ADDRESS-FAMILY", &request, &[400])
    }),
];

fn with_even_port(value: [u8; 1]) -> Request {
    Request::allocate().with(AttributeType::EVEN_PORT, value)
}

fn refused(target: &Target, what: &str, request: &Request, codes: &[u16]) -> Outcome {
    Client::challenged(target)?.refused(what, request, codes)
}

fn even_port(target: &Target) -> Outcome {
    for _ in 0..6 {
        let mut client = Client::challenged(target)?;
        client.allocate(&with_even_port(EVEN))?;
        let port = client.relayed().port();
        ensure(port % 2 == 0, format!("EVEN-PORT: expected an even port, got {port}"))?;
    }
    Ok(())
}

/// A client with an even port and the token of the next.
fn reserved(target: &Target) -> Result<(Client<'_>, Vec<u8>), Verdict> {
    let mut client = Client::challenged(target)?;
    let reply = client.allocate(&with_even_port(EVEN_AND_NEXT))?;
    let token = reply.attribute(AttributeType::RESERVATION_TOKEN).unwrap_or_default().to_vec();
    ensure(token.len() == 8, format!("EVEN-PORT with R: expected a token of 8 bytes, got {}", token.len()))?;
    Ok((client, token))
}

fn with_token(token: &[u8]) -> Request {
    Request::allocate().with(AttributeType::RESERVATION_TOKEN, token)
}

fn token_gives_next_port(target: &Target) -> Outcome {
    let (first, token) = reserved(target)?;
    let mut second = Client::challenged(target)?;
    second.allocate(&with_token(&token))?;
    let (port, next) = (first.relayed().port(), second.relayed().port());
    let same_host = first.relayed().ip() == second.relayed().ip();
    ensure(
        same_host && next == port.wrapping_add(1),
        format!("expected the port after {}, got {}", first.relayed(), second.relayed()),
    )
}

fn token_serves_once(target: &Target) -> Outcome {
    let (_first, token) = reserved(target)?;
    let mut second = Client::challenged(target)?;
    second.allocate(&with_token(&token))?;
    refused(target, "a RESERVATION-TOKEN used again", &with_token(&token), &[508])
}

fn token_outlives(target: &Target) -> Outcome {
    let (mut first, token) = reserved(target)?;
    let port = first.relayed().port();
    first.delete()?;
    // RFC 8656 §7.2: the reservation is held for at least 30 seconds, whatever becomes of the first port.
    let mut second = Client::challenged(target)?;
    second.allocate(&with_token(&token))?;
    let next = second.relayed().port();
    ensure(next == port.wrapping_add(1), format!("expected port {}, got {next}", port.wrapping_add(1)))
}

fn tokens_differ(target: &Target) -> Outcome {
    let (_first, one) = reserved(target)?;
    let (_second, other) = reserved(target)?;
    ensure(one != other, "two reservations: expected two tokens, got the same")
}
