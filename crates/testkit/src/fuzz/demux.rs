//! One port for all that speaks STUN: what the first bytes are taken for. RFC 7983 §7.

use std::net::SocketAddr;

use stun::dtls::{CookieKeys, Scratch, Verdict, is_client_hello, is_dtls, is_plaintext, judge};
use stun::framing::{NotAFrame, Opening, next};
use stun::{Kind, Message, channel_data, proxy_protocol};

/// More bytes than this tell nothing that fewer do not.
const PREFIX: usize = 64;

/// Asks everybody who tells protocols apart about the same bytes.
///
/// # Panics
/// When two of them take the bytes for their own, or more bytes make of a stream another one.
pub fn demux(data: &[u8]) {
    let kind = Kind::of(data);
    let is_frame = matches!(kind, Kind::Stun | Kind::ChannelData);
    assert_eq!(is_dtls(data), kind == Kind::Tls, "a datagram is one thing");
    // RFC 8489 §5: its first two bits are zeros. RFC 7983 §7: of those the first byte is 0 to 3 where others come, too.
    assert!(Message::parse(data).is_err() || data.first().is_some_and(|first| first >> 6 == 0));
    assert!(channel_data::parse(data).is_none() || kind == Kind::ChannelData);
    let opening = Opening::of(data);
    for end in 1..data.len().min(PREFIX) {
        assert_eq!(data.get(..end).map(Opening::of), Some(opening), "more bytes change nothing");
    }
    match opening {
        Opening::Nothing => assert!(data.is_empty()),
        Opening::Tls | Opening::Neither => {
            assert!(!is_frame);
            assert_eq!(next(data), Err(NotAFrame), "what is no frame is none");
        }
        Opening::Frames => assert!(is_frame),
    }
    // A proxy's header may stand before either: where one is seen nobody takes it for a handshake or a message.
    if matches!(proxy_protocol::read(data), Ok(proxy_protocol::Front::Header { .. })) {
        assert!(opening != Opening::Tls && Message::parse(data).is_err());
    }
    assert!(!is_client_hello(data) || (is_dtls(data) && is_plaintext(data)));
    let from = SocketAddr::from(([8, 8, 8, 8], 9));
    let mut scratch = Scratch::default();
    let is_heard = judge(&CookieKeys::new([1; 32]), from, data, &mut scratch) != Verdict::Drop;
    assert!(!is_heard || is_client_hello(data), "the gate speaks to those who begin");
}
