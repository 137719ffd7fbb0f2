//! Where fuzzing starts from: real messages, streams, usernames, and sequences that get an allocation to work.

use std::net::SocketAddr;

use credentials::{Claims, CustomIdentifier, SharedSecret, SharedSecretId, TurnKeyId};
use stun::{
    AttributeType, ChannelNumber, ErrorCode, IntegrityAlgorithm, MessageWriter, Method, PasswordAlgorithm,
    TransactionId,
};
use turn::Transport;

use crate::message::{self, FAMILY_IPV6, REQUESTED_UDP, Signature};

const ID: TransactionId = TransactionId::from_bytes(*b"turnery seed");

/// The seeds of a target, each with a name; none for a target that does not exist.
pub fn seeds(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "message" => messages(),
        "framing" => streams(),
        "server" => sequences(),
        "credential" => credentials(),
        "proxy" => proxy_headers(),
        _ => Vec::new(),
    }
}

fn peer() -> SocketAddr {
    SocketAddr::from(([8, 8, 8, 8], 5_000))
}

fn peer6() -> SocketAddr {
    SocketAddr::from(([0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe], 5_000))
}

fn signature() -> Signature {
    Signature::new("user", "password", b"realm", b"AAAAAAAAAAAAAAAAAAAAAAAA")
}

fn request(method: Method, fill: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    message::request(method, ID, |writer| {
        fill(writer);
        signature().sign(writer);
    })
}

fn response(class: stun::Class, fill: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    message::write(class, Method::ALLOCATE, ID, |writer| {
        fill(writer);
        writer.integrity(&signature().key).fingerprint();
    })
}

fn proxy_headers() -> Vec<(&'static str, Vec<u8>)> {
    let binding = message::request(Method::BINDING, ID, |_| {});
    let followed = |header: Vec<u8>| [header, binding.clone()].concat();
    vec![
        ("v1-tcp4", followed(message::proxy_v1(peer()))),
        ("v1-tcp6", followed(message::proxy_v1(peer6()))),
        ("v1-unknown", followed(b"PROXY UNKNOWN\r\n".to_vec())),
        ("v1-malformed", b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n".to_vec()),
        ("v1-half", b"PROXY TCP4 1.2.3.4 1.2".to_vec()),
        ("v2-tcp4", followed(message::proxy_v2(peer(), &[]))),
        ("v2-tcp6-tlv", followed(message::proxy_v2(peer6(), &[1, 0, 4, b's', b't', b'u', b'n']))),
        ("v2-local", followed(message::proxy_v2_block(0x20, 0, &[]))),
        ("v2-unix", followed(message::proxy_v2_block(0x21, 0x31, &[b'/'; 216]))),
        ("v2-unspecified", followed(message::proxy_v2_block(0x21, 0, &[]))),
        ("v2-short", message::proxy_v2_block(0x21, 0x21, &[0; 12])),
        ("v2-half", message::proxy_v2(peer6(), &[]).into_iter().take(30).collect()),
        ("none", binding),
    ]
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    use AttributeType as A;
    vec![
        ("binding", message::request(Method::BINDING, ID, |_| {})),
        ("binding-fingerprint", message::request(Method::BINDING, ID, |writer| _ = writer.fingerprint())),
        ("allocate", request(Method::ALLOCATE, |w| _ = w.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_UDP))),
        (
            "allocate-all",
            request(Method::ALLOCATE, |writer| {
                writer.attribute(A::REQUESTED_TRANSPORT, &REQUESTED_UDP).attribute_u32(A::LIFETIME, 777);
                writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6).attribute(A::EVEN_PORT, &[0x80]);
                writer.attribute(A::RESERVATION_TOKEN, b"12345678").attribute(A::DONT_FRAGMENT, &[]);
            }),
        ),
        (
            "sha256",
            message::request(Method::REFRESH, ID, |writer| {
                writer.attribute(A::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER);
                writer.attribute(A::PASSWORD_ALGORITHM, &PasswordAlgorithm::Sha256.to_attribute());
                writer.integrity_by(IntegrityAlgorithm::Sha256, &signature().key);
            }),
        ),
        ("refresh", request(Method::REFRESH, |w| _ = w.attribute_u32(A::LIFETIME, 0))),
        (
            "create-permission",
            request(Method::CREATE_PERMISSION, |writer| {
                writer.xor_address(A::XOR_PEER_ADDRESS, peer()).xor_address(A::XOR_PEER_ADDRESS, peer6());
            }),
        ),
        (
            "channel-bind",
            request(Method::CHANNEL_BIND, |writer| {
                writer.attribute(A::CHANNEL_NUMBER, &ChannelNumber::MIN.to_attribute());
                writer.xor_address(A::XOR_PEER_ADDRESS, peer());
            }),
        ),
        ("send", message::send_indication(ID, peer(), b"hello")),
        (
            "allocated",
            response(stun::Class::Success, |writer| {
                writer.xor_address(A::XOR_RELAYED_ADDRESS, peer6()).attribute_u32(A::LIFETIME, 600);
                writer.xor_address(A::XOR_MAPPED_ADDRESS, peer()).attribute(A::SOFTWARE, b"Turnery");
            }),
        ),
        (
            "challenge",
            response(stun::Class::Error, |writer| {
                writer.error_code(ErrorCode::UNAUTHENTICATED, "Unauthenticated");
                writer.attribute(A::REALM, b"realm").attribute(A::NONCE, b"obMatJos2AAACf//499k954d6OL34oL9");
                writer.attribute(A::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
            }),
        ),
        (
            "unknown-attributes",
            response(stun::Class::Error, |writer| {
                writer
                    .error_code(ErrorCode::UNKNOWN_ATTRIBUTE, "")
                    .attribute(A::UNKNOWN_ATTRIBUTES, &[0x7F, 1]);
            }),
        ),
        ("channel-data", message::channel_data(Transport::Tcp, ChannelNumber::MAX, b"hello")),
    ]
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let stream = |cuts: &[u8; 8], frames: &[&[u8]]| [&cuts[..], &frames.concat()].concat();
    let channel = |data: &[u8]| message::channel_data(Transport::Tcp, ChannelNumber::MIN, data);
    let binding = message::request(Method::BINDING, ID, |_| {});
    let send = message::send_indication(ID, peer(), b"hello");
    vec![
        ("messages", stream(&[0, 1, 2, 3, 18, 19, 20, 3], &[&binding, &send, &binding])),
        ("mixed", stream(&[3, 7, 0, 0, 1, 40, 9, 2], &[&channel(b""), &binding, &channel(b"12345"), &send])),
        (
            "channels",
            stream(&[4; 8], &[&channel(b"1"), &channel(b"12"), &channel(b"123"), &channel(b"1234")]),
        ),
        ("half", stream(&[0; 8], &[&binding, &[0x40, 0, 0xFF, 0xFF, 1, 2, 3]])),
        ("http", stream(&[1; 8], &[&binding, b"GET / HTTP/1.1\r\n\r\n"])),
        ("wrong-cookie", stream(&[5; 8], &[&channel(b"1234"), &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x43]])),
    ]
}

fn credentials() -> Vec<(&'static str, Vec<u8>)> {
    let ring = super::keyring(1);
    let minted = |custom: &str| {
        let custom_identifier = CustomIdentifier::try_from(custom).expect("it is short");
        let key = TurnKeyId::from_bytes([7; 16]);
        let claims = Claims { key, issued_at: 1_800_000_000, ttl_secs: 600, custom_identifier };
        ring.mint_with_salt(&claims, [5; 8]).expect("the claims are in range").username
    };
    let with = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let secret = SharedSecret {
        id: SharedSecretId::from_bytes([7; 16]),
        text: "a shared secret of some length".parse().expect("it is printable"),
    };
    let sealed = ring.seal_shared_secret(TurnKeyId::from_bytes([7; 16]), &secret).expect("it can be sealed");
    let claims = [&[7; 24][..], &[0x6B, 0x49, 0xD2, 0, 0, 0, 0, 0], &[0, 0x25, 0x80, 0], b"alice"].concat();
    vec![
        ("username", with(0, minted("").as_bytes())),
        ("username-custom", with(0, minted("somebody else").as_bytes())),
        ("bytes", with(1, &[1; 48])),
        ("claims", with(2, &claims)),
        ("keyring", with(3, ring.to_text().as_bytes())),
        ("time-limited", with(b't', b"1800000000:@somebody:example.org")),
        ("shared-secret", with(b's', &[&[7; 32][..], b"a shared secret of some length"].concat())),
        ("shared-secret-sealed", with(b's', &[&[7; 32][..], sealed.as_bytes()].concat())),
    ]
}

/// Steps of the server target, spelled out.
mod step {
    pub(super) const ALLOCATE: [u8; 6] = [0, 0, 0, 0, 0, 1];
    /// With another password.
    pub(super) const GUESSED: [u8; 7] = [0, 0, 0, 0, 0x38, 0, 2];
    pub(super) const PERMIT: [u8; 7] = [0, 0, 0, 3, 0, 2, 0];
    pub(super) const BIND: [u8; 8] = [0, 0, 0, 5, 0, 3, 0, 0];
    pub(super) const SEND: [u8; 6] = [6, 0, 0, 4, 0xAA, 5];
    pub(super) const CHANNEL: [u8; 6] = [7, 0, 0, 0, 0xBB, 2];
    pub(super) const HEAR: [u8; 5] = [8, 0, 0, 0xCC, 3];
    pub(super) const REFRESH: [u8; 7] = [0, 0, 0, 2, 0, 2, 6];
    pub(super) const DELETE: [u8; 7] = [0, 0, 0, 2, 0, 0, 7];
    pub(super) const FIVE_MINUTES: [u8; 2] = [10, 5];
    pub(super) const TEN_MINUTES: [u8; 2] = [10, 7];
    pub(super) const TIMEOUT: [u8; 1] = [12];
    pub(super) const DENY: [u8; 3] = [13, 0, 0];
    pub(super) const DENY_KEY: [u8; 3] = [13, 1, 1];
    pub(super) const GONE: [u8; 2] = [14, 0];
    pub(super) const KEYRING: [u8; 3] = [15, 1, 1];
    pub(super) const POLICY: [u8; 3] = [15, 2, 1];
    pub(super) const REDIRECT: [u8; 3] = [15, 5, 1];
    /// EVEN-PORT with R, then its token; both families; SHA-256 with a server that offers it.
    pub(super) const RESERVE: [u8; 8] = [0, 0, 0, 0, 0, 1, 1, 6];
    pub(super) const RESERVED: [u8; 8] = [0, 2, 0, 0, 0, 2, 1, 7];
    pub(super) const BOTH: [u8; 9] = [0, 0, 0, 0, 0, 1, 1, 5, 2];
    pub(super) const OFFERED: [u8; 8] = [0x80, 0, 0, 0, 0x40, 1, 0, 0];
    pub(super) const BINDING: [u8; 15] = [15, 4, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
}

fn sequences() -> Vec<(&'static str, Vec<u8>)> {
    use step::{
        ALLOCATE, BIND, BINDING, BOTH, CHANNEL, DELETE, DENY, DENY_KEY, FIVE_MINUTES, GONE, GUESSED, HEAR,
        KEYRING, OFFERED, PERMIT, POLICY, REDIRECT, REFRESH, RESERVE, RESERVED, SEND, TEN_MINUTES, TIMEOUT,
    };
    let steps = |steps: &[&[u8]]| steps.concat();
    let ready = steps(&[&ALLOCATE, &PERMIT, &BIND]);
    let traffic = steps(&[&SEND, &CHANNEL, &HEAR]);
    let [client, other_client] = [[0, 2, 0, 0, 0, 1], [0, 4, 1, 0, 0, 1]];
    vec![
        ("ready", steps(&[&ready, &traffic])),
        ("permission-ends", steps(&[&ALLOCATE, &PERMIT, &SEND, &FIVE_MINUTES, &SEND, &HEAR])),
        ("channel-outlives", steps(&[&ready, &REFRESH, &FIVE_MINUTES, &traffic, &PERMIT, &traffic])),
        ("expires", steps(&[&ready, &TEN_MINUTES, &traffic, &TIMEOUT, &ALLOCATE])),
        ("deleted", steps(&[&ready, &DELETE, &traffic, &DELETE, &ALLOCATE, &traffic])),
        ("denied", steps(&[&ready, &DENY, &traffic, &ALLOCATE])),
        ("key-denied", steps(&[&ready, &client, &other_client, &DENY_KEY, &traffic])),
        ("gone", steps(&[&client, &GONE, &ready, &GONE, &traffic])),
        ("rotated", steps(&[&ready, &KEYRING, &POLICY, &traffic, &PERMIT, &BINDING])),
        ("reserved", steps(&[&RESERVE, &[0x80], &RESERVED, &RESERVED])),
        ("reservation-expires", steps(&[&RESERVE, &[0x80]])),
        ("guessed", steps(&[&GUESSED, &ALLOCATE, &GUESSED])),
        ("both-families", steps(&[&BOTH, &PERMIT, &SEND, &HEAR, &DELETE])),
        ("sha256", steps(&[&OFFERED, &PERMIT, &SEND])),
        ("redirected", steps(&[&REDIRECT, &ALLOCATE])),
        ("crowded", steps(&[&ALLOCATE, &client, &other_client, &[0, 1, 0, 0, 0, 1], &[0, 3, 0, 0, 0, 1]])),
    ]
}
