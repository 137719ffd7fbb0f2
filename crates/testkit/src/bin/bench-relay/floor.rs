//! The least that a relay on the same sockets can do: one socket for all clients, one for each relayed address, epoll,
//! trains in and trains out, a header of four bytes put in front or taken away. Nobody is asked who he is, and
//! nothing is looked up but sockets. It says what is left for a TURN server to gain, not how to be one.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, bail};
use foldhash::fast::FixedState;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, Kind, Message, MessageWriter, Method, channel_data,
};

use crate::datagrams::{self, Batch, most};

/// The socket of all clients, among the events.
const CLIENTS: u64 = u64::MAX;
const EVENTS: usize = 256;

/// A relayed address.
#[derive(Debug)]
struct Leg {
    socket: UdpSocket,
    client: SocketAddrV4,
    channel: ChannelNumber,
    peer: SocketAddrV4,
}

struct Floor {
    clients: UdpSocket,
    legs: Vec<Option<Leg>>,
    free: Vec<usize>,
    of_client: HashMap<SocketAddrV4, usize, FixedState>,
    epoll: Epoll,
    /// Whether the first Allocate is answered with 401.
    challenges: bool,
}

/// Serves until it is killed.
pub(crate) fn serve(at: SocketAddr, challenges: bool) -> anyhow::Result<()> {
    let SocketAddr::V4(at) = at else { bail!("the floor serves IPv4 only") };
    let clients = datagrams::leg(at)?;
    datagrams::widen(&clients)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&clients, EpollEvent::new(EpollFlags::EPOLLIN, CLIENTS))?;
    let (legs, free, of_client) = (Vec::new(), Vec::new(), HashMap::with_hasher(FixedState::default()));
    let mut floor = Floor { clients, legs, free, of_client, epoll, challenges };
    let mut batch = Batch::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let count = match floor.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in events.iter().take(count) {
            if event.data() == CLIENTS {
                floor.take_from_clients(&mut batch)?;
            } else {
                floor.take_from_peer(usize::try_from(event.data())?, &mut batch)?;
            }
        }
    }
}

impl Floor {
    fn take_from_clients(&mut self, batch: &mut Batch) -> anyhow::Result<()> {
        batch.receive(&self.clients)?;
        let mut trains = batch.trains().peekable();
        while let Some((train, bytes)) = trains.next() {
            if Kind::of(bytes) == Kind::Stun {
                for packet in bytes.chunks(train.segment) {
                    self.request(train.from, packet)?;
                }
                continue;
            }
            let leg = self.of_client.get(&train.from).and_then(|leg| self.legs.get(*leg)?.as_ref());
            let Some(leg) = leg else { continue };
            let mut pieces = Vec::with_capacity(bytes.len().div_ceil(train.segment));
            let most = most(train.segment);
            pieces.extend(without_headers(bytes, train.segment));
            // What follows from the same client goes on in the same train, where it fits.
            while let Some((_, more)) = trains.next_if(|(next, more)| {
                next.from == train.from
                    && next.segment == train.segment
                    && bytes.len().is_multiple_of(train.segment)
                    && more.len().is_multiple_of(train.segment)
                    && pieces.len() + more.len() / train.segment <= most
                    && Kind::of(more) == Kind::ChannelData
            }) {
                pieces.extend(without_headers(more, train.segment));
            }
            let size = train.segment - channel_data::HEADER_LEN;
            datagrams::send(&leg.socket, &pieces, pieces.len(), size, None, leg.peer)?;
        }
        Ok(())
    }

    fn take_from_peer(&mut self, index: usize, batch: &mut Batch) -> anyhow::Result<()> {
        // A leg may be gone since its event.
        let Some(leg) = self.legs.get(index).and_then(Option::as_ref) else { return Ok(()) };
        batch.receive(&leg.socket)?;
        let mut trains = batch.trains().peekable();
        while let Some((train, bytes)) = trains.next() {
            if train.from != leg.peer {
                continue;
            }
            let header = channel_data::header(leg.channel, u16::try_from(train.segment)?);
            let most = most(train.segment + channel_data::HEADER_LEN);
            let mut pieces = Vec::with_capacity(2 * bytes.len().div_ceil(train.segment));
            with_headers(bytes, train.segment, &header, &mut pieces);
            while let Some((_, more)) = trains.next_if(|(next, more)| {
                next.from == train.from
                    && next.segment == train.segment
                    && bytes.len().is_multiple_of(train.segment)
                    && more.len().is_multiple_of(train.segment)
                    && pieces.len() / 2 + more.len() / train.segment <= most
            }) {
                with_headers(more, train.segment, &header, &mut pieces);
            }
            let (count, size) = (pieces.len() / 2, train.segment + channel_data::HEADER_LEN);
            datagrams::send(&self.clients, &pieces, count, size, None, leg.client)?;
        }
        Ok(())
    }

    /// Answers with what the load waits for. What stands where an integrity would is none.
    fn request(&mut self, from: SocketAddrV4, packet: &[u8]) -> anyhow::Result<()> {
        let Ok(request) = Message::parse(packet) else { return Ok(()) };
        let mut buffer = [0; 256];
        let is_challenge = request.method() == Method::ALLOCATE
            && self.challenges
            && request.attribute(AttributeType::USERNAME).is_none();
        let class = if is_challenge { Class::Error } else { Class::Success };
        let mut writer = MessageWriter::new(&mut buffer, class, request.method(), request.transaction());
        match request.method() {
            Method::BINDING => {
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, from.into());
            }
            Method::ALLOCATE if is_challenge => {
                writer.error_code(ErrorCode::UNAUTHENTICATED, "Unauthenticated");
                writer.attribute(AttributeType::REALM, b"turnery");
                writer.attribute(AttributeType::NONCE, b"0123456789abcdef");
            }
            Method::ALLOCATE => {
                let relayed = self.open(from)?;
                writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, from.into());
                writer.attribute_u32(AttributeType::LIFETIME, 600);
            }
            Method::REFRESH => {
                if let Some(leg) = self.of_client.remove(&from)
                    && let Some(place) = self.legs.get_mut(leg)
                {
                    // Closing takes it out of epoll.
                    *place = None;
                    self.free.push(leg);
                }
                writer.attribute_u32(AttributeType::LIFETIME, 0);
            }
            Method::CHANNEL_BIND => {
                let channel =
                    request.attribute(AttributeType::CHANNEL_NUMBER).and_then(ChannelNumber::from_attribute);
                let peer = request.attribute(AttributeType::XOR_PEER_ADDRESS);
                let peer = peer.and_then(|value| stun::address::decode_xor(value, request.transaction()));
                let leg = self.of_client.get(&from).and_then(|leg| self.legs.get_mut(*leg)?.as_mut());
                let (Some(leg), Some(channel), Some(SocketAddr::V4(peer))) = (leg, channel, peer) else {
                    return Ok(());
                };
                (leg.channel, leg.peer) = (channel, peer);
            }
            _ => return Ok(()),
        }
        if self.challenges && !is_challenge && request.method() != Method::BINDING {
            writer.attribute(AttributeType::MESSAGE_INTEGRITY, &[0; 20]);
        }
        let length = writer.finish()?;
        let bytes = buffer.get(..length).context("a message's length")?;
        datagrams::send(&self.clients, &[IoSlice::new(bytes)], 1, length, None, from)
    }

    /// Opens a client's relayed address, if it has none yet.
    fn open(&mut self, client: SocketAddrV4) -> anyhow::Result<SocketAddr> {
        if let Some(leg) = self.of_client.get(&client).and_then(|leg| self.legs.get(*leg)?.as_ref()) {
            return Ok(leg.socket.local_addr()?);
        }
        let socket = datagrams::leg(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let relayed = socket.local_addr()?;
        let index = self.free.pop().unwrap_or(self.legs.len());
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        let leg = Leg { socket, client, channel: ChannelNumber::MIN, peer: client };
        match self.legs.get_mut(index) {
            Some(place) => *place = Some(leg),
            None => self.legs.push(Some(leg)),
        }
        self.of_client.insert(client, index);
        Ok(relayed)
    }
}

fn without_headers(bytes: &[u8], size: usize) -> impl Iterator<Item = IoSlice<'_>> {
    let data = bytes.chunks(size).map(|frame| frame.get(channel_data::HEADER_LEN..).unwrap_or_default());
    data.map(IoSlice::new)
}

fn with_headers<'a>(bytes: &'a [u8], size: usize, header: &'a [u8], pieces: &mut Vec<IoSlice<'a>>) {
    for data in bytes.chunks(size) {
        pieces.extend([IoSlice::new(header), IoSlice::new(data)]);
    }
}
