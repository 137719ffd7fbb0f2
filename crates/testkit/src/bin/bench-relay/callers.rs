//! Clients by the thousand on one socket: each has an address of its own on the loopback network, all have one port.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use testkit::client::{Client, Config, Event};
use turn::Transport;

use crate::datagrams::{self, Batch};
use crate::subject::Server;

/// Requests that wait for their answers at once.
const ON_THE_WAY: usize = 64;
/// How often requests are looked at for being sent again.
const TICK: Duration = Duration::from_millis(50);
/// The first client's address.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 32, 0, 0);

/// Where the client with this number sends from.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST.to_bits().wrapping_add(u32::try_from(index).unwrap_or(u32::MAX)))
}

/// Which client has this address.
pub(crate) fn index(address: Ipv4Addr) -> usize {
    address.to_bits().wrapping_sub(FIRST.to_bits()) as usize
}

/// Clients and the socket they share.
pub(crate) struct Callers {
    pub(crate) socket: UdpSocket,
    pub(crate) server: SocketAddrV4,
    clients: Vec<Client>,
    batch: Batch,
    begun: Instant,
}

impl Callers {
    pub(crate) fn new(server: &Server, count: usize) -> anyhow::Result<Self> {
        let SocketAddr::V4(address) = server.address else { bail!("servers are measured over IPv4") };
        let client = |index: usize| {
            let config = Config::new(&server.username, &server.password, Transport::Udp);
            Client::new(config, index as u64)
        };
        Ok(Self {
            socket: datagrams::socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?,
            server: address,
            clients: (0..count).map(client).collect(),
            batch: Batch::new(),
            begun: Instant::now(),
        })
    }

    /// Allocates for all.
    pub(crate) fn allocate(&mut self) -> anyhow::Result<()> {
        self.ask(|_, client, now_ms| client.allocate(now_ms, None)).context("Allocate")
    }

    /// Permits every client one peer.
    pub(crate) fn create_permission(&mut self, peer: impl Fn(usize) -> SocketAddrV4) -> anyhow::Result<()> {
        self.ask(|index, client, now_ms| client.create_permission(now_ms, &[peer(index).into()]))
            .context("CreatePermission")
    }

    /// Binds every client one channel, all of the same number.
    pub(crate) fn channel_bind(&mut self, peer: impl Fn(usize) -> SocketAddrV4) -> anyhow::Result<()> {
        self.ask(|index, client, now_ms| _ = client.channel_bind(now_ms, peer(index).into()))
            .context("ChannelBind")
    }

    /// Every client's relayed address.
    pub(crate) fn relayed(&self) -> anyhow::Result<Vec<SocketAddrV4>> {
        let relayed = self.clients.iter().map(|client| match client.relayed() {
            Some(SocketAddr::V4(relayed)) => Ok(relayed),
            other => bail!("a relayed address over IPv4, not {other:?}"),
        });
        relayed.collect()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Has every client ask for one thing, and waits until all have it.
    fn ask(&mut self, mut wish: impl FnMut(usize, &mut Client, u64)) -> anyhow::Result<()> {
        let (mut asked, mut done) = (0, 0);
        let mut tick = Instant::now();
        while done < self.clients.len() {
            let now_ms = self.now_ms();
            while asked - done < ON_THE_WAY
                && let Some(client) = self.clients.get_mut(asked)
            {
                wish(asked, client, now_ms);
                done += self.go_on(asked)?;
                asked += 1;
            }
            self.batch.receive(&self.socket)?;
            let mut heard = Vec::new();
            for (train, bytes) in self.batch.trains() {
                let index = index(train.to);
                let Some(client) = self.clients.get_mut(index) else { continue };
                for packet in bytes.chunks(train.segment) {
                    client.handle_packet(now_ms, packet);
                }
                heard.push(index);
            }
            for index in heard {
                done += self.go_on(index)?;
            }
            if tick.elapsed() > TICK {
                tick = Instant::now();
                for index in 0..asked {
                    self.clients.get_mut(index).context("a client")?.handle_timeout(now_ms);
                    done += self.go_on(index)?;
                }
            }
        }
        Ok(())
    }

    /// Sends what a client has to send; whether it has got what it wants.
    fn go_on(&mut self, index: usize) -> anyhow::Result<usize> {
        let client = self.clients.get_mut(index).context("a client")?;
        while let Some(packet) = client.poll_transmit() {
            let pieces = [std::io::IoSlice::new(&packet)];
            datagrams::send(&self.socket, &pieces, 1, packet.len(), Some(address(index)), self.server)?;
        }
        let mut done = 0;
        while let Some(event) = client.poll_event() {
            match event {
                Event::Allocated { .. } | Event::Permitted { .. } | Event::ChannelBound { .. } => done += 1,
                other => bail!("client {index}: {other:?}"),
            }
        }
        Ok(done)
    }
}
