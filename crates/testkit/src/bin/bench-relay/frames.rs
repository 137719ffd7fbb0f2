//! What is sent and what is expected back: packets that say who sent them, which of theirs they are, and when.

use std::net::SocketAddrV4;

use anyhow::Context;
use stun::{AttributeType, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, channel_data};
use testkit::message;

use crate::datagrams::{MAX_TRAIN, most};

/// The shortest data that a tag fits in: its sender's number, its own, and when it should have been sent.
pub(crate) const MIN_PAYLOAD: u16 = 20;
/// Binding's answer, before its length.
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];

/// How clients carry their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    ChannelData,
    /// The same, padded to a multiple of four. RFC 8656 §12.5.
    PaddedChannelData,
    /// Send and Data indications.
    Indication,
    /// No data: Binding requests, told apart by their transaction ids.
    Binding,
}

/// Who sent a packet, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) sender: u32,
    pub(crate) number: u64,
    /// Nanoseconds; 0 where there is no room.
    pub(crate) stamp_ns: u64,
}

impl Tag {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (sender, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let stamp_ns = rest.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
        Some(Self { sender: u32::from_be_bytes(*sender), number: u64::from_be_bytes(*number), stamp_ns })
    }
}

/// A train's packets, made once: only their tags change.
#[derive(Debug)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Of one packet.
    pub(crate) size: usize,
    tag_at: usize,
}

impl Frames {
    /// What a client sends.
    pub(crate) fn of_client(form: Form, payload: u16, peer: SocketAddrV4) -> Self {
        let data = vec![0xA5; payload.into()];
        let transaction = TransactionId::from_bytes([0; 12]);
        let (frame, tag_at) = match form {
            Form::ChannelData | Form::PaddedChannelData => {
                let channel = stun::ChannelNumber::MIN;
                let mut frame = [&channel_data::header(channel, payload)[..], &data].concat();
                if form == Form::PaddedChannelData {
                    frame.resize(frame.len().next_multiple_of(4), 0);
                }
                (frame, channel_data::HEADER_LEN)
            }
            Form::Indication => {
                let frame = message::send_indication(transaction, peer.into(), &data);
                let padded = data.len().next_multiple_of(4);
                let tag_at = frame.len() - padded;
                (frame, tag_at)
            }
            Form::Binding => (message::request(Method::BINDING, transaction, |_| {}), 8),
        };
        Self::repeat(&frame, tag_at)
    }

    /// What a peer sends.
    pub(crate) fn of_peer(payload: u16) -> Self {
        Self::repeat(&vec![0x5A; payload.into()], 0)
    }

    fn repeat(frame: &[u8], tag_at: usize) -> Self {
        Self { bytes: frame.repeat(MAX_TRAIN), size: frame.len(), tag_at }
    }

    /// How many packets one message carries at most.
    pub(crate) fn most(&self) -> usize {
        most(self.size)
    }

    /// This many packets of a sender, numbered from `first`'s.
    pub(crate) fn train(&mut self, count: usize, first: Tag) -> anyhow::Result<&[u8]> {
        let train = self.bytes.get_mut(..count * self.size).context("a train is at most 64 packets")?;
        for (frame, number) in train.chunks_exact_mut(self.size).zip(first.number..) {
            let (_, tag) = frame.split_at_mut_checked(self.tag_at).context("a tag fits")?;
            let (sender, rest) = tag.split_first_chunk_mut().context("a tag fits")?;
            *sender = first.sender.to_be_bytes();
            let (own, rest) = rest.split_first_chunk_mut().context("a tag fits")?;
            *own = number.to_be_bytes();
            // Binding requests end here.
            if let Some(stamp) = rest.first_chunk_mut() {
                *stamp = first.stamp_ns.to_be_bytes();
            }
        }
        Ok(train)
    }
}

/// What a client gets: the tag within, when the packet is just what it has to be.
pub(crate) fn read_at_client(form: Form, payload: u16, packet: &[u8]) -> Option<Tag> {
    match form {
        Form::ChannelData | Form::PaddedChannelData => {
            let (header, data) = packet.split_first_chunk::<4>()?;
            let padding = match form {
                Form::PaddedChannelData => channel_data::stream_padding(payload.into()),
                _ => 0,
            };
            let is_whole = *header == channel_data::header(stun::ChannelNumber::MIN, payload)
                && data.len() == usize::from(payload) + padding;
            is_whole.then(|| Tag::read(data))?
        }
        Form::Indication => {
            let is_data = packet.get(..2) == Some(&DATA_INDICATION[..])
                && packet.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes()[..]);
            let data = is_data.then(|| data_within(packet.get(HEADER_LEN..)?))??;
            (data.len() == usize::from(payload)).then(|| Tag::read(data))?
        }
        Form::Binding => {
            let tag = packet.get(8..HEADER_LEN)?;
            (packet.get(..2) == Some(&BINDING_SUCCESS[..])).then(|| Tag::read(tag))?
        }
    }
}

/// What a peer gets: the tag, when the packet is just as long as it has to be.
pub(crate) fn read_at_peer(payload: u16, packet: &[u8]) -> Option<Tag> {
    (packet.len() == usize::from(payload)).then(|| Tag::read(packet))?
}

/// DATA's value, among these attributes.
fn data_within(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&[k0, k1, l0, l1], rest) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if AttributeType(u16::from_be_bytes([k0, k1])) == AttributeType::DATA {
            return rest.get(..length);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}
