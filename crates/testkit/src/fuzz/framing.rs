//! However a stream is cut into segments, its frames are the same. RFC 8656 §12.5.

use stun::framing::{Frame, MAX_FRAME, NotAFrame, next};

use super::bytes::Bytes;
use crate::client::Frames;

/// How many pieces the first bytes choose.
const CUTS: usize = 8;

/// Cuts a stream into frames at once, byte by byte and in chosen pieces.
///
/// # Panics
/// When the frames differ, or less is promised than kept.
pub fn framing(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let cuts: [u8; CUTS] = bytes.array();
    let stream = bytes.rest();
    let whole = in_pieces(stream, [stream.len()].into_iter());
    assert_eq!(in_pieces(stream, std::iter::repeat(1)), whole, "byte by byte");
    let pieces = cuts.iter().map(|cut| usize::from(*cut) + 1).cycle();
    assert_eq!(in_pieces(stream, pieces), whole, "in pieces of {cuts:?}");
    promises(stream);
}

/// The frames, and whether the stream then broke.
fn in_pieces(mut stream: &[u8], pieces: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Frames::default();
    let mut found = Vec::new();
    for piece in pieces {
        let (segment, rest) = stream.split_at(piece.min(stream.len()));
        stream = rest;
        frames.push(segment);
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(NotAFrame) => return (found, true),
            }
        }
        if stream.is_empty() {
            break;
        }
    }
    (found, false)
}

/// At the stream's front: `needed` grows to the frame's length and never past it, and more bytes never unmake a
/// frame or an error.
fn promises(stream: &[u8]) {
    let last = next(stream);
    let mut promised = 0;
    for end in 0..=stream.len().min(MAX_FRAME) {
        let seen = stream.get(..end).unwrap_or_default();
        match next(seen) {
            Ok(Frame::Incomplete { needed }) => {
                assert!(end < needed && needed <= MAX_FRAME, "{needed} of {end}");
                assert!(promised <= needed, "{needed} after {promised}");
                promised = needed;
            }
            Ok(Frame::Complete { length }) => {
                assert!(length <= end && promised <= length);
                assert_eq!(last, Ok(Frame::Complete { length }));
                return;
            }
            Err(NotAFrame) => {
                assert_eq!(last, Err(NotAFrame));
                return;
            }
        }
    }
    assert!(matches!(last, Ok(Frame::Incomplete { .. })));
}
