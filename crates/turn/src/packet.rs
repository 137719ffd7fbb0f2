/// Room needed in front of a peer's data: the longest header is that of a Data indication about an IPv6 peer.
/// RFC 8656 §11.3.
pub const HEADROOM: usize = stun::DATA_INDICATION_MAX_HEADER;
/// Room needed behind a peer's data: padding. RFC 8489 §14, RFC 8656 §12.5.
pub const TAILROOM: usize = 3;
/// Room needed from a client packet's first byte on: replies are written over requests.
pub const MAX_REPLY: usize = 2_048;

/// The packet and its surroundings in the caller's buffer: what a header is put in front of and a reply written
/// over, so that data is never moved.
#[derive(Debug)]
pub struct Packet<'b> {
    buffer: &'b mut [u8],
    start: usize,
    end: usize,
}

/// The buffer lacks the headroom, tailroom or reply room that the constants of this crate name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet's buffer has too little room")]
pub struct NoRoom;

impl<'b> Packet<'b> {
    /// The packet at `start..end` of `buffer`. Give [`HEADROOM`] before it, [`TAILROOM`] behind it, and
    /// [`MAX_REPLY`] from its first byte on.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn new(buffer: &'b mut [u8], start: usize, end: usize) -> Self {
        assert!(start <= end && end <= buffer.len(), "the packet lies inside its buffer");
        Self { buffer, start, end }
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Where the packet is in its buffer now.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.end
    }

    /// Keeps only `length` bytes from `offset` on, both counted in the packet.
    pub(crate) fn narrow(&mut self, offset: usize, length: usize) -> Result<(), NoRoom> {
        let start = self.start.checked_add(offset).ok_or(NoRoom)?;
        let end = start.checked_add(length).filter(|end| *end <= self.end).ok_or(NoRoom)?;
        (self.start, self.end) = (start, end);
        Ok(())
    }

    /// Puts `header` in front.
    pub(crate) fn prepend(&mut self, header: &[u8]) -> Result<(), NoRoom> {
        let start = self.start.checked_sub(header.len()).ok_or(NoRoom)?;
        self.buffer.get_mut(start..self.start).ok_or(NoRoom)?.copy_from_slice(header);
        self.start = start;
        Ok(())
    }

    /// Lets `write` put a header in front: it gets all the headroom, fills its end and says how much.
    pub(crate) fn prepend_with<E>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), NoRoom> {
        let headroom = self.buffer.get_mut(..self.start).ok_or(NoRoom)?;
        let length = write(headroom).map_err(|_| NoRoom)?;
        self.start = self.start.checked_sub(length).ok_or(NoRoom)?;
        Ok(())
    }

    /// Puts `count` zero bytes behind.
    pub(crate) fn pad(&mut self, count: usize) -> Result<(), NoRoom> {
        let end = self.end.checked_add(count).ok_or(NoRoom)?;
        self.buffer.get_mut(self.end..end).ok_or(NoRoom)?.fill(0);
        self.end = end;
        Ok(())
    }

    /// Replaces the packet by `bytes`.
    pub(crate) fn replace(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let end = self.start.checked_add(bytes.len()).ok_or(NoRoom)?;
        self.buffer.get_mut(self.start..end).ok_or(NoRoom)?.copy_from_slice(bytes);
        self.end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_checked_and_data_stays_in_place() {
        let mut buffer = *b"....data..";
        let mut packet = Packet::new(&mut buffer, 4, 8);
        assert_eq!(packet.prepend(b"12345"), Err(NoRoom));
        assert_eq!(packet.pad(3), Err(NoRoom));
        assert_eq!(packet.replace(b"1234567"), Err(NoRoom));
        assert_eq!(packet.narrow(2, 3), Err(NoRoom));
        assert_eq!(packet.bytes(), b"data");
        packet.narrow(1, 3).unwrap();
        packet.prepend(b"<>").unwrap();
        packet.pad(2).unwrap();
        assert_eq!(packet.bytes(), b"<>ata\0\0");
        assert_eq!(packet.range(), 3..10);
    }
}
