//! `ChannelData` messages. RFC 8656 §12.

use std::fmt;

/// Length of the channel number and length fields in front of the data. RFC 8656 §12.4.
pub const HEADER_LEN: usize = 4;

/// A channel number: 0x4000 to 0x4FFF of RFC 8656 §12, or one up to 0x7FFF that RFC 5766 §11 allowed too and older
/// clients choose from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest channel number. RFC 8656 §12.
    pub const MIN: Self = Self(0x4000);
    /// The highest channel number that RFC 8656 allows.
    pub const RFC_8656_MAX: Self = Self(0x4FFF);
    /// The highest channel number that RFC 5766 allowed.
    pub const MAX: Self = Self(0x7FFF);

    /// The channel of this number; `None` outside 0x4000 to 0x7FFF. RFC 8656 §12, RFC 5766 §11.
    pub fn new(number: u16) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&number).then_some(Self(number))
    }

    /// Whether RFC 8656 has reserved the number, for other protocols on the same port.
    pub fn is_reserved(self) -> bool {
        // RFC 8656 §12: 0x4000 through 0x4FFF are the allowed channel numbers; the rest is reserved.
        self > Self::RFC_8656_MAX
    }

    /// The number. RFC 8656 §12.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Reads the value of a CHANNEL-NUMBER attribute. RFC 8656 §18.1.
    pub fn from_attribute(value: &[u8]) -> Option<Self> {
        let &[high, low, _, _] = value else { return None };
        Self::new(u16::from_be_bytes([high, low]))
    }

    /// The value of a CHANNEL-NUMBER attribute. RFC 8656 §18.1.
    pub fn to_attribute(self) -> [u8; 4] {
        let [high, low] = self.0.to_be_bytes();
        [high, low, 0, 0]
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.0)
    }
}

/// The header's two fields: channel number and length of the data in bytes. RFC 8656 §12.4.
pub fn header(channel: ChannelNumber, length: u16) -> [u8; HEADER_LEN] {
    let [c0, c1] = channel.0.to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    [c0, c1, l0, l1]
}

/// Reads a whole `ChannelData` message: its channel and the length of the data behind the header. Padding
/// behind the data is allowed. `None` when the channel is out of range or the data is cut. RFC 8656 §12.4.
pub fn parse(bytes: &[u8]) -> Option<(ChannelNumber, usize)> {
    let (&[c0, c1, l0, l1], data) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let channel = ChannelNumber::new(u16::from_be_bytes([c0, c1]))?;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    // RFC 8656 §12.6: a message whose length field is longer than what arrived is silently discarded.
    (length <= data.len()).then_some((channel, length))
}

/// How many zero bytes follow `length` bytes of data on a stream. RFC 8656 §12.5.
pub fn stream_padding(length: usize) -> usize {
    crate::padded(length) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8656_12_channel_numbers_are_4000_to_4fff_and_older_ones_told_apart() {
        for (number, valid, reserved) in [
            (0x3FFF, false, false),
            (0x4000, true, false),
            (0x4FFF, true, false),
            (0x5000, true, true),
            (0x7FFF, true, true),
            (0x8000, false, false),
        ] {
            assert_eq!(ChannelNumber::new(number).is_some(), valid, "{number:#x}");
            assert_eq!(ChannelNumber::new(number).is_some_and(ChannelNumber::is_reserved), reserved);
            let [high, low] = u16::to_be_bytes(number);
            assert_eq!(parse(&[high, low, 0, 1, 9]).is_some(), valid, "{number:#x}");
        }
    }

    #[test]
    fn rfc8656_12_6_cut_data_is_no_message_and_padding_is_skipped() {
        let channel = ChannelNumber::MIN;
        assert_eq!(parse(&[0x40, 0, 0, 3, 1, 2]), None);
        assert_eq!(parse(&[0x40, 0, 0]), None);
        assert_eq!(parse(&[0x40, 0, 0, 0]), Some((channel, 0)));
        assert_eq!(parse(&[0x40, 0, 0, 3, 1, 2, 3, 0]), Some((channel, 3)));
        assert_eq!(header(channel, 258), [0x40, 0, 1, 2]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(stream_padding), [0, 3, 2, 1, 0, 3]);
    }
}
