//! Where fuzzing starts from: real messages, streams, usernames, and sequences that get an allocation to work.

use std::net::SocketAddr;

use credentials::{Claims, CustomIdentifier, SharedSecret, SharedSecretId, TurnKeyId};
use stun::{
    AttributeType, ChannelNumber, ErrorCode, IntegrityAlgorithm, MessageWriter, Method, PasswordAlgorithm,
    TransactionId,
};
use turn::Transport;

use super::hellos;
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
        "demux" => openings(),
        "dtls_gate" => hellos::gate(),
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

/// One of each that may come first.
fn openings() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", Vec::new()),
        ("message", message::request(Method::BINDING, ID, |_| {})),
        ("channel-data", message::channel_data(Transport::Tcp, ChannelNumber::MIN, b"hello")),
        ("tls", hellos::tls()),
        ("dtls", hellos::dtls12()),
        ("dtls-alert", vec![21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40]),
        ("dtls-encrypted", vec![0x2E, 1, 2, 0, 3, 4, 5, 6]),
        ("proxy-v1", message::proxy_v1(peer())),
        ("proxy-v2", message::proxy_v2(peer6(), &[])),
        ("zrtp", vec![0x10, 0, 0, 0, 0x5A, 0x52, 0x54, 0x50]),
        ("rtp", vec![0x80, 0, 0, 1]),
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
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
    pub(super) const ALLOCATE: [u8; 7] = [0, 0, 0, 0, 0, 1, 0];
    /// With another password.
    pub(super) const GUESSED: [u8; 8] = [0, 0, 0, 0, 0x38, 0, 2, 0];
    pub(super) const PERMIT: [u8; 8] = [0, 0, 0, 3, 0, 2, 0, 0];
    pub(super) const BIND: [u8; 9] = [0, 0, 0, 5, 0, 3, 0, 0, 0];
    pub(super) const SEND: [u8; 6] = [6, 0, 0, 4, 0xAA, 5];
    pub(super) const CHANNEL: [u8; 7] = [7, 0, 0, 0, 0xBB, 2, 0];
    pub(super) const HEAR: [u8; 5] = [8, 0, 0, 0xCC, 3];
    pub(super) const REFRESH: [u8; 8] = [0, 0, 0, 2, 0, 2, 6, 0];
    pub(super) const DELETE: [u8; 8] = [0, 0, 0, 2, 0, 7, 0, 0];
    pub(super) const FIVE_MINUTES: [u8; 2] = [10, 5];
    pub(super) const TEN_MINUTES: [u8; 2] = [10, 7];
    pub(super) const TIMEOUT: [u8; 1] = [12];
    pub(super) const DENY: [u8; 3] = [13, 0, 0];
    pub(super) const DENY_KEY: [u8; 3] = [13, 1, 1];
    pub(super) const GONE: [u8; 3] = [14, 0, 0];
    pub(super) const KEYRING: [u8; 3] = [15, 1, 1];
    pub(super) const POLICY: [u8; 3] = [15, 2, 1];
    pub(super) const REDIRECT: [u8; 3] = [15, 5, 1];
    /// EVEN-PORT with R, then its token; both families; SHA-256 with a server that offers it.
    pub(super) const RESERVE: [u8; 9] = [0, 0, 0, 0, 0, 1, 1, 6, 0x80];
    pub(super) const RESERVED: [u8; 8] = [0, 1, 0, 0, 0, 2, 1, 7];
    pub(super) const BOTH: [u8; 9] = [0, 0, 0, 0, 0, 1, 1, 5, 2];
    pub(super) const OFFERED: [u8; 9] = [0, 0, 0, 0, 0x40, 1, 0, 0, 0];
    pub(super) const BINDING: [u8; 15] = [15, 4, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    /// Relays of TCP, on the first worker and on the second.
    pub(super) const ALLOCATE_TCP: [u8; 7] = [0, 2, 0, 0, 0x80, 1, 0];
    pub(super) const PERMIT_TCP: [u8; 8] = [0, 2, 0, 3, 0, 2, 0, 0];
    pub(super) const CONNECT: [u8; 8] = [0, 2, 0, 8, 0, 3, 0, 0];
    pub(super) const CONNECTED: [u8; 4] = [15, 7, 0, 1];
    pub(super) const ACCEPTED: [u8; 4] = [15, 8, 0, 0];
    pub(super) const CONNECTION_BIND: [u8; 8] = [0, 3, 0, 9, 0, 0, 4, 0];
    /// With an empty MOBILITY-TICKET; then to the same worker, to the second and to the third; with the ticket before
    /// the last one; with a lifetime of zero.
    pub(super) const MOBILE: [u8; 5] = [19, 0, 0, 0, 1];
    pub(super) const MOBILE_BOTH: [u8; 5] = [19, 0, 0, 0x10, 1];
    pub(super) const MOVE: [u8; 5] = [16, 7, 0, 0, 2];
    pub(super) const MOVE_TO_SECOND: [u8; 5] = [16, 1, 0, 0, 3];
    pub(super) const MOVE_TO_THIRD: [u8; 5] = [16, 5, 0, 0, 4];
    pub(super) const MOVE_BY_OLD: [u8; 5] = [16, 4, 1, 0, 5];
    pub(super) const DELETE_BY_TICKET: [u8; 6] = [16, 1, 0, 8, 6, 0];
    pub(super) const SEND_FROM_SECOND: [u8; 6] = [6, 1, 0, 4, 0xDD, 5];
    pub(super) const READ: [u8; 2] = [20, 0];
    pub(super) const REFUSE: [u8; 3] = [23, 4, 1];
    pub(super) const LIMITS: [u8; 4] = [23, 0, 0, 1];
    pub(super) const SECRETS: [u8; 4] = [23, 2, 0, 3];
    pub(super) const NO_SECRETS: [u8; 4] = [23, 2, 0, 0];
    pub(super) const TIME_LIMITED: [u8; 5] = [23, 3, 0, 0, 4];
    pub(super) const DISCOVER: [u8; 8] = [23, 5, 0, 0x17, 0, 0, 4, 8];
    pub(super) const UNDELIVERED: [u8; 10] = [23, 6, 0, 0, 3, 1, 0, 0, 0, 0];
}

fn sequences() -> Vec<(&'static str, Vec<u8>)> {
    use step::{
        ACCEPTED, ALLOCATE, ALLOCATE_TCP, BIND, BINDING, BOTH, CHANNEL, CONNECT, CONNECTED, CONNECTION_BIND,
        DELETE, DELETE_BY_TICKET, DENY, DENY_KEY, DISCOVER, FIVE_MINUTES, GONE, GUESSED, HEAR, KEYRING,
        LIMITS, MOBILE, MOBILE_BOTH, MOVE, MOVE_BY_OLD, MOVE_TO_SECOND, MOVE_TO_THIRD, NO_SECRETS, OFFERED,
        PERMIT, PERMIT_TCP, POLICY, READ, REDIRECT, REFRESH, REFUSE, RESERVE, RESERVED, SECRETS, SEND,
        SEND_FROM_SECOND, TEN_MINUTES, TIME_LIMITED, TIMEOUT, UNDELIVERED,
    };
    let steps = |settings: u8, steps: &[&[u8]]| [&[settings], &*steps.concat()].concat();
    let ready = [&ALLOCATE[..], &PERMIT, &BIND].concat();
    let traffic = [&SEND[..], &CHANNEL, &HEAR].concat();
    let mobile = [&MOBILE[..], &PERMIT, &BIND].concat();
    let relayed = [&SEND_FROM_SECOND[..], &traffic].concat();
    let [client, other_client] = [[0, 1, 0, 0, 0, 1, 0], [0, 4, 1, 0, 0, 1, 0]];
    let crowd = [client, other_client, [0, 7, 0, 0, 0, 1, 0], [0, 3, 0, 0, 0, 1, 0]].concat();
    let by_secret = [&[19, 0, 3, 0, 1][..], &[0, 0, 3, 3, 0, 2, 0, 0]].concat();
    vec![
        ("ready", steps(0, &[&ready, &traffic])),
        ("permission-ends", steps(0, &[&ALLOCATE, &PERMIT, &SEND, &FIVE_MINUTES, &SEND, &HEAR])),
        ("channel-outlives", steps(0, &[&ready, &REFRESH, &FIVE_MINUTES, &traffic, &PERMIT, &traffic])),
        ("expires", steps(0, &[&ready, &TEN_MINUTES, &traffic, &TIMEOUT, &ALLOCATE])),
        ("deleted", steps(0, &[&ready, &DELETE, &traffic, &DELETE, &ALLOCATE, &traffic])),
        ("denied", steps(0, &[&ready, &DENY, &traffic, &ALLOCATE])),
        ("key-denied", steps(0, &[&ready, &client, &other_client, &DENY_KEY, &traffic])),
        ("gone", steps(0, &[&client, &GONE, &ready, &GONE, &traffic])),
        ("rotated", steps(0, &[&ready, &KEYRING, &POLICY, &traffic, &PERMIT, &BINDING])),
        ("reserved", steps(0, &[&RESERVE, &RESERVED, &RESERVED])),
        ("reservation-expires", steps(8, &[&RESERVE])),
        ("guessed", steps(0x10, &[&GUESSED, &ALLOCATE, &GUESSED])),
        ("both-families", steps(0, &[&BOTH, &PERMIT, &SEND, &HEAR, &DELETE])),
        ("sha256", steps(0x80, &[&OFFERED, &PERMIT, &SEND])),
        ("redirected", steps(0, &[&REDIRECT, &ALLOCATE])),
        ("crowded", steps(0, &[&ALLOCATE, &crowd])),
        ("tcp", steps(0, &[&ALLOCATE_TCP, &PERMIT_TCP, &CONNECT, &CONNECTED, &CONNECTION_BIND, &ACCEPTED])),
        ("moved", steps(0, &[&mobile, &MOVE, &traffic, &[6, 7, 0, 4, 1, 5], &traffic])),
        ("moved-on", steps(0, &[&mobile, &MOVE_TO_SECOND, &relayed, &MOVE_TO_THIRD, &relayed, &MOVE])),
        ("moved-both", steps(0, &[&MOBILE_BOTH, &PERMIT, &MOVE_TO_SECOND, &relayed, &MOVE_BY_OLD])),
        ("moved-twice", steps(0, &[&mobile, &MOVE_TO_SECOND, &MOVE_TO_SECOND, &MOVE_BY_OLD])),
        ("moved-by-old", steps(0, &[&mobile, &MOVE, &MOVE_BY_OLD, &traffic])),
        ("deleted-by-ticket", steps(0, &[&mobile, &DELETE_BY_TICKET, &traffic])),
        ("gone-and-back", steps(0, &[&mobile, &GONE, &HEAR, &MOVE_TO_SECOND, &relayed])),
        (
            "under-way",
            steps(0x20, &[&mobile, &MOVE_TO_SECOND, &READ, &traffic, &READ, &relayed, &READ, &READ]),
        ),
        ("denied-under-way", steps(0x20, &[&mobile, &MOVE_TO_SECOND, &READ, &DENY, &READ, &READ, &relayed])),
        ("expires-under-way", steps(0x20, &[&mobile, &MOVE_TO_SECOND, &READ, &TEN_MINUTES, &READ])),
        ("lost-under-way", steps(0x28, &[&mobile, &MOVE_TO_SECOND, &READ])),
        ("refused", steps(0, &[&mobile, &REFUSE, &MOVE_TO_SECOND, &MOVE_TO_SECOND, &relayed])),
        ("returned", steps(0x20, &[&mobile, &MOVE_TO_SECOND, &REFUSE, &READ, &traffic])),
        ("sent-back", steps(0x20, &[&mobile, &MOVE_TO_SECOND, &READ, &client, &READ, &READ, &traffic])),
        ("limited", steps(0, &[&ready, &LIMITS, &SEND, &SEND, &SEND, &HEAR, &HEAR, &HEAR, &client])),
        ("shared-secret", steps(0, &[&SECRETS, &TIME_LIMITED, &by_secret, &SEND, &MOVE, &NO_SECRETS])),
        ("discovery", steps(0x40, &[&DISCOVER, &BINDING, &ready, &UNDELIVERED])),
    ]
}
