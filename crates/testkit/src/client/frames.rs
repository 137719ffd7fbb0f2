//! Frames of a stream, collected from segments of any length.

use stun::framing::{self, Frame, NotAFrame};

/// Takes a stream's bytes in and gives whole frames out.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What is left when the stream carries no frames any more.
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }

    /// The next whole frame, ChannelData with its padding; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream carries neither STUN nor ChannelData.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, NotAFrame> {
        match framing::next(&self.bytes)? {
            Frame::Incomplete { .. } => Ok(None),
            Frame::Complete { length } => Ok(Some(self.bytes.drain(..length).collect())),
        }
    }
}
