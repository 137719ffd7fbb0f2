//! RFC 8489: the message itself, Binding, FINGERPRINT, attributes in general.

use stun::{AttributeType, Class, HEADER_LEN, Method};

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Reply, Request, UNKNOWN_OPTIONAL, UNKNOWN_REQUIRED, set_length};
use crate::outcome::{Outcome, Verdict, ensure, fail};
use crate::target::{Target, Transport};

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8489-6.3.1-binding-is-answered", binding_is_answered),
    check("rfc8489-14.2-xor-mapped-address-is-the-clients", mapped_address),
    check("rfc8489-6.3.1-retransmitted-binding-is-answered-again", retransmitted_binding),
    check("rfc8489-6.3.1-unknown-required-attribute-420", unknown_required),
    check("rfc8489-14.13-unknown-attributes-are-listed", unknown_are_listed),
    check("rfc8489-14-unknown-optional-attribute-is-ignored", unknown_optional),
    check("rfc8489-14.8-error-code-is-well-formed", error_code_well_formed),
    check("rfc8489-14-padding-in-responses-is-zero", padding_is_zero),
    check("rfc8489-14-padding-in-requests-is-ignored", padding_is_ignored),
    check("rfc8489-14-first-of-duplicates-counts", first_duplicate_counts),
    check("rfc8489-14-second-of-duplicates-does-not-count", second_duplicate_does_not),
    check("rfc8489-14.5-unknown-attribute-behind-integrity-is-ignored", behind_integrity),
    check("rfc8489-14.5-known-attribute-behind-integrity-is-ignored", known_behind_integrity),
    check("rfc8489-7-wrong-fingerprint-is-silent", wrong_fingerprint),
    check("rfc8489-7-fingerprint-that-is-not-last-is-no-fingerprint", misplaced_fingerprint),
    check("rfc8489-7-fingerprint-is-answered-with-fingerprint", fingerprint_answered),
    check("rfc8489-7-fingerprint-behind-integrity", fingerprint_behind_integrity),
    check("rfc8489-5-wrong-cookie-is-not-rfc8489", wrong_cookie),
    check("rfc8489-5-allocate-with-wrong-cookie-is-silent", allocate_wrong_cookie),
    check("rfc8489-5-length-not-a-multiple-of-4-is-silent", odd_length),
    check("rfc8489-5-datagram-shorter-than-its-length-is-silent", cut_message),
    check("rfc8489-5-bytes-behind-the-message-are-silent", trailing_bytes),
    check("rfc8489-5-leading-bits-set-is-silent", leading_bits),
    check("rfc8489-5-shorter-than-a-header-is-silent", shorter_than_header),
    check("rfc8489-14-attribute-past-the-end-is-no-success", attribute_past_end),
    check("rfc8489-14-attribute-header-cut-is-no-success", attribute_header_cut),
    check("rfc8489-6.3-success-response-is-silent", |target| {
        of_class(target, Class::Success, Method::BINDING)
    }),
    check("rfc8489-6.3-error-response-is-silent", |target| of_class(target, Class::Error, Method::BINDING)),
    check("rfc8489-6.3-allocate-response-is-silent", |target| {
        of_class(target, Class::Success, Method::ALLOCATE)
    }),
    check("rfc8489-6.3.2-binding-indication-is-silent", |target| {
        of_class(target, Class::Indication, Method::BINDING)
    }),
    check("rfc8489-6.3-allocate-indication-is-silent", |target| {
        of_class(target, Class::Indication, Method::ALLOCATE)
    }),
    check("rfc8489-6.3-data-indication-from-a-client-is-silent", |target| {
        of_class(target, Class::Indication, Method::DATA)
    }),
    check("rfc8489-6.3-send-request-is-silent", |target| of_class(target, Class::Request, Method::SEND)),
    check("rfc8489-6.3-unknown-method-is-silent", |target| {
        of_class(target, Class::Request, Method(0x0FF))?;
        of_class(target, Class::Request, Method(0xABC))
    }),
    check("rfc8489-6.3-shared-secret-method-is-silent", |target| {
        of_class(target, Class::Request, Method(0x002))
    }),
];

fn binding() -> Request {
    Request::new(Method::BINDING)
}

fn binding_is_answered(target: &Target) -> Outcome {
    let reply = Client::open(target)?.answer(&binding().bytes())?;
    reply.success("Binding")?;
    let method = reply.message().method();
    ensure(method == Method::BINDING, format!("Binding: expected its own method back, got {method:?}"))
}

fn mapped_address(target: &Target) -> Outcome {
    let mut client = Client::open(target)?;
    let reply = client.answer(&binding().bytes())?;
    let Some(mapped) = reply.address(AttributeType::XOR_MAPPED_ADDRESS) else {
        return fail("Binding: expected XOR-MAPPED-ADDRESS, got none");
    };
    let own = client.link.local_address()?;
    // Behind a NAT only the server knows; without one, the port is the socket's.
    let same = mapped.port() == own.port() || (!own.ip().is_unspecified() && mapped.ip() != own.ip());
    ensure(same, format!("Binding: expected port {} in XOR-MAPPED-ADDRESS, got {mapped}", own.port()))?;
    ensure(
        mapped.is_ipv4() == target.server.is_ipv4(),
        format!("XOR-MAPPED-ADDRESS {mapped} has another family"),
    )
}

fn retransmitted_binding(target: &Target) -> Outcome {
    let mut client = Client::open(target)?;
    let request = binding().bytes();
    let first = client.answer(&request)?;
    let second = client.answer(&request)?;
    first.success("Binding")?;
    let same =
        first.address(AttributeType::XOR_MAPPED_ADDRESS) == second.address(AttributeType::XOR_MAPPED_ADDRESS);
    ensure(same, "a retransmitted Binding: expected the same address again")
}

fn refusal_of_unknown(target: &Target) -> Result<Reply, Verdict> {
    let request = binding()
        .with(UNKNOWN_REQUIRED, b"x")
        .with(UNKNOWN_OPTIONAL, b"y")
        .with(AttributeType(0x7FF2), b"zz");
    Client::open(target)?.answer(&request.bytes())
}

fn unknown_required(target: &Target) -> Outcome {
    refusal_of_unknown(target)?.refused("Binding with unknown comprehension-required attributes", &[420])
}

fn unknown_are_listed(target: &Target) -> Outcome {
    let reply = refusal_of_unknown(target)?;
    let listed = reply.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap_or_default().to_vec();
    let pairs: Vec<u16> = listed.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    ensure(
        pairs == [0x7FF1, 0x7FF2],
        format!(
            "UNKNOWN-ATTRIBUTES: expected [0x7FF1, 0x7FF2] and no optional one, got {pairs:#06X?} in {reply}"
        ),
    )
}

fn unknown_optional(target: &Target) -> Outcome {
    let request = binding().with(UNKNOWN_OPTIONAL, b"whatever");
    Client::open(target)?.answer(&request.bytes())?.success("Binding with an unknown optional attribute")
}

fn error_code_well_formed(target: &Target) -> Outcome {
    for reply in [refusal_of_unknown(target)?, Client::open(target)?.answer(&Request::allocate().bytes())?] {
        let Some(&[r0, r1, class, number, ref reason @ ..]) = reply.attribute(AttributeType::ERROR_CODE)
        else {
            return fail(format!("expected ERROR-CODE, got {reply}"));
        };
        let reserved_is_zero = (r0, r1, class & 0xF8) == (0, 0, 0);
        ensure(reserved_is_zero, "ERROR-CODE: expected the reserved bits to be zero, some are set")?;
        ensure((3..=6).contains(&class), format!("ERROR-CODE: expected class 3 to 6, got {class}"))?;
        ensure(number < 100, format!("ERROR-CODE: expected number 0 to 99, got {number}"))?;
        ensure(std::str::from_utf8(reason).is_ok(), "ERROR-CODE: expected UTF-8 in the reason phrase")?;
    }
    Ok(())
}

/// The padding bytes of all attributes.
fn padding(reply: &Reply) -> Vec<u8> {
    let bytes = reply.bytes();
    let ends = reply.message().attributes().map(|a| a.offset + 4 + a.value.len()).collect::<Vec<_>>();
    ends.iter()
        .flat_map(|end| bytes.get(*end..end.next_multiple_of(4)).unwrap_or_default())
        .copied()
        .collect()
}

fn padding_is_zero(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let odd = binding().with(UNKNOWN_REQUIRED, b"x");
    let replies = [
        client.answer(&Request::allocate().bytes())?,
        client.answer(&odd.bytes())?,
        client.ask(&Request::refresh(600))?,
        client.ask(&Request::new(Method::ALLOCATE))?,
    ];
    let all_zero = replies.iter().all(|reply| padding(reply).iter().all(|byte| *byte == 0));
    ensure(all_zero, "expected zeroes in all padding, got other bytes: memory that was there before?")
}

fn padding_is_ignored(target: &Target) -> Outcome {
    let mut bytes = binding().with(AttributeType::SOFTWARE, b"odd").bytes();
    if let Some(last) = bytes.last_mut() {
        *last = 0xA5;
    }
    Client::open(target)?.answer(&bytes)?.success("Binding with padding that is not zero")
}

const TRANSPORT_99: [u8; 4] = [99, 0, 0, 0];

fn first_duplicate_counts(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let secs = client.allocate(&Request::allocate().lifetime(1_200).lifetime(1_500))?.lifetime()?;
    ensure(secs == 1_200, format!("Allocate with LIFETIME 1200 and 1500: expected 1200 granted, got {secs}"))
}

fn second_duplicate_does_not(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let request = Request::new(Method::ALLOCATE)
        .with(AttributeType::REQUESTED_TRANSPORT, TRANSPORT_99)
        .with(AttributeType::REQUESTED_TRANSPORT, crate::message::UDP);
    let what = "Allocate for transport 99, with a second REQUESTED-TRANSPORT for UDP";
    // Duplicates may be ignored, and so need not be.
    client.refused(what, &request, &[442, 400])
}

fn behind_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let bytes = Request::allocate().signed_then(&client.signature(), |writer| {
        writer.attribute(UNKNOWN_REQUIRED, b"late");
    });
    let reply = client.answer(&bytes)?;
    reply.success("Allocate with an unknown attribute behind MESSAGE-INTEGRITY")
}

fn known_behind_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let bytes = Request::new(Method::ALLOCATE).signed_then(&client.signature(), |writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &crate::message::UDP);
    });
    let reply = client.answer(&bytes)?;
    reply.refused("Allocate with REQUESTED-TRANSPORT only behind MESSAGE-INTEGRITY", &[400])
}

fn wrong_fingerprint(target: &Target) -> Outcome {
    let mut bytes = binding().bytes_then(|writer| {
        writer.fingerprint();
    });
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Client::open(target)?.silent("Binding with a wrong FINGERPRINT", &bytes)
}

fn misplaced_fingerprint(target: &Target) -> Outcome {
    let bytes = binding().bytes_then(|writer| {
        writer.fingerprint();
        writer.attribute(AttributeType::SOFTWARE, b"late");
    });
    Client::open(target)?.silent("Binding with an attribute behind FINGERPRINT", &bytes)
}

fn fingerprint_answered(target: &Target) -> Outcome {
    let bytes = binding().bytes_then(|writer| {
        writer.fingerprint();
    });
    let reply = Client::open(target)?.answer(&bytes)?;
    reply.success("Binding with FINGERPRINT")?;
    ensure(reply.has_right_fingerprint(), "expected a right FINGERPRINT at the response's end, got none")
}

fn fingerprint_behind_integrity(target: &Target) -> Outcome {
    let mut client = Client::challenged(target)?;
    let bytes = Request::allocate().signed_then(&client.signature(), |writer| {
        writer.fingerprint();
    });
    let reply = client.answer(&bytes)?;
    reply.success("Allocate with MESSAGE-INTEGRITY and FINGERPRINT")?;
    let sealed = reply.is_sealed_with(&client.signature().key());
    ensure(sealed && reply.has_right_fingerprint(), "expected both in the response, and both right")
}

fn with_wrong_cookie(request: &Request) -> Vec<u8> {
    let mut bytes = request.bytes();
    if let Some(byte) = bytes.get_mut(4) {
        *byte ^= 0xFF;
    }
    bytes
}

/// RFC 8489 §5 makes such a message no STUN message; RFC 5389 §12.2 let a server answer it as RFC 3489 did.
fn wrong_cookie(target: &Target) -> Outcome {
    let bytes = with_wrong_cookie(&binding());
    let mut client = Client::open(target)?;
    client.send(&bytes)?;
    match client.link.receive(crate::client::SILENCE)? {
        crate::link::Arrival::Frame(frame) => ensure(
            frame.get(4..8) == bytes.get(4..8),
            "Binding with a wrong cookie: expected silence or an RFC 3489 answer, got an RFC 8489 answer",
        ),
        _ => client.still_answered("Binding with a wrong cookie"),
    }
}

fn allocate_wrong_cookie(target: &Target) -> Outcome {
    let bytes = with_wrong_cookie(&Request::allocate());
    Client::open(target)?.silent("Allocate with a wrong cookie", &bytes)
}

fn odd_length(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let mut client = Client::open(target)?;
    for extra in 1..4 {
        let mut bytes = binding().bytes();
        bytes.resize(HEADER_LEN + extra, 0);
        set_length(&mut bytes, extra);
        client.silent(&format!("Binding with length {extra}"), &bytes)?;
    }
    Ok(())
}

fn cut_message(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let whole = binding().with(AttributeType::SOFTWARE, b"a test").bytes();
    let mut client = Client::open(target)?;
    for cut in [4, 8] {
        let length = whole.len() - cut;
        client.silent("a cut Binding", whole.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

fn trailing_bytes(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let bytes = [binding().bytes(), vec![0; 4]].concat();
    Client::open(target)?.silent("Binding with four bytes behind it", &bytes)
}

fn leading_bits(target: &Target) -> Outcome {
    for bits in [0x80, 0xC0] {
        let mut bytes = binding().bytes();
        if let Some(first) = bytes.first_mut() {
            *first |= bits;
        }
        let mut client = Client::open(target)?;
        client.silent(&format!("Binding with leading bits {bits:#04x}"), &bytes)?;
    }
    Ok(())
}

fn shorter_than_header(target: &Target) -> Outcome {
    target.needs(Transport::Udp)?;
    let whole = binding().bytes();
    let mut client = Client::open(target)?;
    for length in [0, 1, 3, 4, 8, 19] {
        client.send(whole.get(..length).unwrap_or_default())?;
    }
    client.silent("datagrams of 0 to 19 bytes", whole.get(..12).unwrap_or_default())
}

/// RFC 8489 leaves open whether such a request is ignored or refused with 400.
fn no_success(target: &Target, what: &str, bytes: &[u8]) -> Outcome {
    let mut client = Client::open(target)?;
    match client.try_answer(bytes, crate::client::SILENCE)? {
        None => client.still_answered(what),
        Some(reply) => reply.refused(what, &[400]),
    }
}

fn attribute_past_end(target: &Target) -> Outcome {
    let mut bytes = binding().with(AttributeType::SOFTWARE, b"four").bytes();
    if let Some(length) = bytes.get_mut(23) {
        *length = 200;
    }
    no_success(target, "Binding with an attribute that reaches past the message's end", &bytes)
}

fn attribute_header_cut(target: &Target) -> Outcome {
    let mut bytes = binding().with(AttributeType::SOFTWARE, b"four").bytes();
    // The value's length is such that the padded next attribute has no room for its own length field.
    if let Some(length) = bytes.get_mut(23) {
        *length = 5;
    }
    no_success(target, "Binding with an attribute one byte longer than the message", &bytes)
}

fn of_class(target: &Target, class: Class, method: Method) -> Outcome {
    let bytes =
        Request::of_class(class, method).with(AttributeType::REQUESTED_TRANSPORT, crate::message::UDP);
    Client::open(target)?.silent(&format!("a {method:?} {class:?}"), &bytes.bytes())
}
