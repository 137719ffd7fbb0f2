//! A closed loop: clients send bursts of ChannelData, one peer sends back what it gets, clients send that again. So
//! every packet is relayed in both directions, and never more than a window of them is on the way.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg};
use serde::Serialize;

use crate::stream::Stream;
use crate::subject::Tester;

/// Packets taken from a socket in one call.
const BATCH: usize = 64;
/// How long nothing may come back before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_millis(100);
const PEER: u64 = u64::MAX;

/// What one measurement saw.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    seconds: f64,
    packets: u64,
    cpu_ns: u64,
    pub(crate) lost: u64,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn packets_per_sec(&self) -> f64 {
        self.packets as f64 / self.seconds
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn cpu_ns_per_packet(&self) -> f64 {
        self.cpu_ns as f64 / self.packets as f64
    }
}

#[derive(Debug)]
struct Client {
    carrier: Carrier,
    /// A ChannelData header with its data, and over TCP its padding, as often as a batch has packets.
    frames: Vec<u8>,
    /// How long one is.
    size: usize,
    on_the_way: usize,
}

/// How a client reaches the server.
#[derive(Debug)]
enum Carrier {
    Datagrams(UdpSocket),
    Stream(Box<Stream>),
}

impl Client {
    /// Sends this many packets.
    fn send(&mut self, count: usize) -> anyhow::Result<()> {
        match &mut self.carrier {
            Carrier::Datagrams(socket) => send(socket, &self.frames, self.size, count, None),
            Carrier::Stream(stream) => {
                let frames =
                    self.frames.get(..count * self.size).context("more packets than there are frames")?;
                stream.send(frames, self.size)
            }
        }
    }
}

pub(crate) struct Load {
    clients: Vec<Client>,
    peer: UdpSocket,
    data: Vec<u8>,
    payload: usize,
    /// Packets that each client keeps on the way.
    share: usize,
    burst: usize,
    epoll: Epoll,
    received: u64,
    lost: u64,
}

impl Load {
    /// Allocates and binds a channel for every client.
    pub(crate) fn start(
        server: &Tester,
        clients: usize,
        burst: usize,
        payload: usize,
        window: u32,
    ) -> anyhow::Result<Self> {
        let peer = UdpSocket::bind("127.0.0.1:0")?;
        socket2::SockRef::from(&peer).set_recv_buffer_size(8 << 20)?;
        let peer_address = peer.local_addr()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, PEER))?;
        let mut all = Vec::with_capacity(clients);
        for index in 0..clients {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            let (carrier, channel) = if server.transport.is_stream() {
                let (stream, channel) = server.connect_stream(peer_address, index as u64)?;
                epoll.add(&stream.socket, event)?;
                (Carrier::Stream(Box::new(stream)), channel)
            } else {
                let mut client = server.connect()?;
                client.allocate().with_context(|| format!("client {index} allocates"))?;
                let channel = client.channel_bind(peer_address)?;
                let socket = client.into_udp_socket().context("a UDP client has a UDP socket")?;
                epoll.add(&socket, event)?;
                (Carrier::Datagrams(socket), channel)
            };
            let header = stun::channel_data::header(channel, u16::try_from(payload)?);
            let mut frame = [&header[..], &vec![0xA5; payload]].concat();
            if server.transport.is_stream() {
                // RFC 8656 §12.5: over TCP and TLS ChannelData is padded to a multiple of four bytes.
                frame.resize(frame.len().next_multiple_of(4), 0);
            }
            all.push(Client { carrier, size: frame.len(), frames: frame.repeat(BATCH), on_the_way: 0 });
        }
        let share = (window as usize / clients).max(burst);
        let data = vec![0xA5; payload * BATCH];
        Ok(Self { clients: all, peer, data, payload, share, burst, epoll, received: 0, lost: 0 })
    }

    /// Keeps the loop going for a while and says what it cost the server.
    pub(crate) fn run(&mut self, server: &Tester, time: Duration) -> anyhow::Result<Sample> {
        let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(BATCH, None);
        let mut buffers = vec![[0u8; 2_048]; BATCH];
        let mut events = [EpollEvent::empty(); 256];
        (self.received, self.lost) = (0, 0);
        let cpu_before = server.cpu_ns()?;
        let begun = Instant::now();
        let mut last = begun;
        self.fill()?;
        loop {
            let now = Instant::now();
            if now - begun >= time {
                break;
            }
            // Polling keeps the load from sleeping: it has its core to itself.
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            if ready == 0 && now - last > PATIENCE {
                self.count_lost();
                self.fill()?;
                last = now;
            }
            for event in events.iter().take(ready) {
                last = now;
                match event.data() {
                    PEER => self.echo(&mut headers, &mut buffers)?,
                    client => self.again(usize::try_from(client)?, &mut headers, &mut buffers)?,
                }
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu_ns = server.cpu_ns()? - cpu_before;
        Ok(Sample { seconds, packets: self.received, cpu_ns, lost: self.lost })
    }

    /// Tops every client up to its share, a burst at a time.
    fn fill(&mut self) -> anyhow::Result<()> {
        for client in &mut self.clients {
            while client.on_the_way < self.share {
                let count = self.burst.min(self.share - client.on_the_way);
                client.on_the_way += count;
                client.send(count)?;
            }
        }
        Ok(())
    }

    fn count_lost(&mut self) {
        for client in &mut self.clients {
            self.lost += client.on_the_way as u64;
            client.on_the_way = 0;
        }
    }

    /// The peer sends back what it has, in runs to the same relayed address.
    fn echo(
        &mut self,
        headers: &mut MultiHeaders<SockaddrStorage>,
        buffers: &mut [[u8; 2_048]],
    ) -> anyhow::Result<()> {
        let from = receive(&self.peer, headers, buffers)?;
        self.received += from.len() as u64;
        for run in from.chunk_by(|a, b| a == b) {
            let to = run.first().copied().flatten();
            send(&self.peer, &self.data, self.payload, run.len(), to)?;
        }
        Ok(())
    }

    /// A client sends as many packets as it has got back.
    fn again(
        &mut self,
        index: usize,
        headers: &mut MultiHeaders<SockaddrStorage>,
        buffers: &mut [[u8; 2_048]],
    ) -> anyhow::Result<()> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        let count = match &mut client.carrier {
            Carrier::Datagrams(socket) => receive(socket, headers, buffers)?.len(),
            Carrier::Stream(stream) => stream.receive()?,
        };
        self.received += count as u64;
        if count > 0 {
            // What was given up as lost may still arrive: it is then on the way again.
            client.on_the_way = client.on_the_way.max(count);
            let mut left = count;
            while left > 0 {
                client.send(left.min(BATCH))?;
                left = left.saturating_sub(BATCH);
            }
        }
        Ok(())
    }
}

/// Takes what is there; who sent each.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; 2_048]],
) -> anyhow::Result<Vec<Option<SocketAddr>>> {
    let mut slices: Vec<[std::io::IoSliceMut<'_>; 1]> =
        buffers.iter_mut().map(|buffer| [std::io::IoSliceMut::new(buffer)]).collect();
    match recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
        Ok(messages) => Ok(messages
            .map(|message| {
                let v4 = *message.address.as_ref()?.as_sockaddr_in()?;
                Some(SocketAddr::from(std::net::SocketAddrV4::from(v4)))
            })
            .collect()),
        Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Sends `count` packets of `size` bytes in one call: the system cuts them apart.
fn send(
    socket: &UdpSocket,
    packets: &[u8],
    size: usize,
    count: usize,
    to: Option<SocketAddr>,
) -> anyhow::Result<()> {
    // One call carries at most 64 packets and 65,507 bytes.
    let most = (65_507 / size).min(BATCH);
    let mut left = count;
    while left > 0 {
        let now = left.min(most);
        let bytes = packets.get(..now * size).context("more packets than there are frames")?;
        let segment = u16::try_from(size)?;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let to = to.map(SockaddrStorage::from);
        match sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &control,
            MsgFlags::MSG_DONTWAIT,
            to.as_ref(),
        ) {
            Ok(_) | Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        left -= now;
    }
    Ok(())
}
