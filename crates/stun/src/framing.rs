//! How STUN messages and `ChannelData` follow each other on TCP and TLS. RFC 8489 §6.2.2, RFC 8656 §12.5.

use crate::{HEADER_LEN, Kind, MAGIC_COOKIE, channel_data, padded};

/// The longest frame: a `ChannelData` header, 65,535 bytes and a byte of padding, or the largest STUN message.
/// RFC 8489 §5, RFC 8656 §12.4.
pub const MAX_FRAME: usize = HEADER_LEN + 65_535 + 3;

/// What the bytes at the front of a stream are. RFC 8489 §6.2.2, RFC 8656 §12.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Not enough bytes yet: at least this many in all are needed to go on.
    Incomplete {
        /// From the frame's first byte.
        needed: usize,
    },
    /// A whole STUN message or `ChannelData` message (its padding included) of this many bytes.
    Complete {
        /// From the frame's first byte.
        length: usize,
    },
}

/// The stream is neither STUN nor `ChannelData`, so its next frame cannot be found: it has to be closed.
/// RFC 8489 §6.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream carries neither STUN nor ChannelData")]
pub struct NotAFrame;

/// Looks at the front of a stream's unread bytes. RFC 8489 §6.2.2, RFC 8656 §12.5.
///
/// # Errors
/// As soon as the bytes can no longer become a frame.
pub fn next(bytes: &[u8]) -> Result<Frame, NotAFrame> {
    let of_length = |length: usize| {
        if bytes.len() < length { Frame::Incomplete { needed: length } } else { Frame::Complete { length } }
    };
    match (Kind::of(bytes), bytes) {
        (Kind::Stun, &[_, _, l0, l1, ref rest @ ..]) => {
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let cookie = MAGIC_COOKIE.to_be_bytes();
            let seen = rest.len().min(cookie.len());
            // RFC 8489 §5: the length is a multiple of four and the cookie is fixed; without them this is not STUN.
            if length % 4 != 0 || rest.get(..seen) != cookie.get(..seen) {
                return Err(NotAFrame);
            }
            Ok(of_length(HEADER_LEN + length))
        }
        (Kind::ChannelData, &[_, _, l0, l1, ..]) => {
            // RFC 8656 §12.5: over TCP and TLS ChannelData is padded to a multiple of four, not counted in its length.
            Ok(of_length(padded(channel_data::HEADER_LEN + usize::from(u16::from_be_bytes([l0, l1])))))
        }
        (Kind::Tls | Kind::Unknown, [_, ..]) => Err(NotAFrame),
        _ => Ok(Frame::Incomplete { needed: 4 }),
    }
}

/// What a stream carries, told by its first byte, behind a proxy's header if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Nothing has come yet.
    Nothing,
    /// A TLS handshake; frames will be within.
    Tls,
    /// Frames as they are.
    Frames,
    /// What can become neither.
    Neither,
}

impl Opening {
    /// Tells by the first byte only; nothing is validated. RFC 7983 §7, RFC 8446 §5.1.
    pub fn of(bytes: &[u8]) -> Self {
        match (Kind::of(bytes), bytes.first()) {
            (_, None) => Self::Nothing,
            (Kind::Stun | Kind::ChannelData, _) => Self::Frames,
            // A client begins with a record of type handshake, and with no other.
            (Kind::Tls, Some(&HANDSHAKE)) => Self::Tls,
            (Kind::Tls | Kind::Unknown, _) => Self::Neither,
        }
    }
}

/// The type of TLS records that hold handshake messages. RFC 8446 §5.1.
const HANDSHAKE: u8 = 22;

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "test values are small")]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_become_a_frame_is_refused_at_once() {
        for garbage in
            [&b"\x80\0\0\0"[..], &[0x16, 3, 1], &[0x3F, 0], &[0, 1, 0, 3], &[0, 1, 0, 0, 0x21, 0x13]]
        {
            assert_eq!(next(garbage), Err(NotAFrame), "{garbage:?}");
        }
        assert_eq!(next(&[]), Ok(Frame::Incomplete { needed: 4 }));
        assert_eq!(next(&[0, 1, 0, 8]), Ok(Frame::Incomplete { needed: 28 }));
        assert_eq!(next(&[0x40, 0, 0, 5]), Ok(Frame::Incomplete { needed: 12 }));
        assert_eq!(next(&[0x4F, 0xFF, 0xFF, 0xFF]), Ok(Frame::Incomplete { needed: 65_540 }));
    }

    #[test]
    fn the_first_byte_tells_what_a_stream_carries() {
        assert_eq!(Opening::of(&[]), Opening::Nothing);
        for first in 0..=u8::MAX {
            let expected = match first {
                0..=3 | 64..=127 => Opening::Frames,
                22 => Opening::Tls,
                _ => Opening::Neither,
            };
            assert_eq!(Opening::of(&[first]), expected, "{first}");
            assert_eq!(Opening::of(&[first, 22, 0, 64]), expected, "{first}: one byte is enough");
        }
        for (first, kind) in [(19, Kind::Unknown), (20, Kind::Tls), (63, Kind::Tls), (64, Kind::ChannelData)]
        {
            assert_eq!(Kind::of(&[first]), kind, "{first}");
        }
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        (any::<bool>(), 0usize..300).prop_map(|(stun, length)| {
            let mut bytes = if stun {
                let length = length & !3;
                let mut bytes = vec![0, 1, (length >> 8) as u8, length as u8, 0x21, 0x12, 0xA4, 0x42];
                bytes.resize(HEADER_LEN + length, 7);
                bytes
            } else {
                vec![0x41, 2, (length >> 8) as u8, length as u8]
            };
            if !stun {
                bytes.resize(padded(4 + length), 9);
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn frames_are_found_at_every_split(frames in proptest::collection::vec(frame(), 1..8)) {
            let stream: Vec<u8> = frames.concat();
            let mut start = 0;
            for expected in &frames {
                for end in start..=stream.len() {
                    match next(&stream[start..end]) {
                        Ok(Frame::Complete { length }) => {
                            prop_assert_eq!(length, expected.len());
                            prop_assert!(end - start >= length);
                        }
                        Ok(Frame::Incomplete { needed }) => {
                            prop_assert!(end - start < expected.len());
                            prop_assert!(needed > end - start && needed <= expected.len());
                        }
                        Err(NotAFrame) => prop_assert!(false, "split at {}", end),
                    }
                }
                start += expected.len();
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = next(&bytes);
        }
    }
}
