//! A client over TCP or TLS: frames out, frames in, without a thread or a copy more than that takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::ClientConnection;
use stun::framing::{self, Frame};
use testkit::client::{Client, Config, Event};
use testkit::tls;
use turn::Transport;

const PATIENCE: Duration = Duration::from_secs(5);
const READ: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    /// Boxed, for without TLS there is none.
    tls: Option<Box<ClientConnection>>,
    /// What came and is not a whole frame yet.
    rest: Vec<u8>,
}

impl Stream {
    pub(crate) fn connect(server: SocketAddr, is_tls: bool) -> anyhow::Result<Self> {
        let (socket, tls) = if is_tls {
            let (socket, tls) = tls::shake_hands(server)?;
            (socket, Some(Box::new(tls)))
        } else {
            (TcpStream::connect_timeout(&server, PATIENCE)?, None)
        };
        socket.set_nodelay(true)?;
        Ok(Self { socket, tls, rest: Vec::new() })
    }

    /// Allocates, and binds a channel to a peer; the relayed address.
    pub(crate) fn allocate(
        &mut self,
        (username, password): (&str, &str),
        peer: SocketAddr,
        seed: u64,
    ) -> anyhow::Result<SocketAddr> {
        let transport = if self.tls.is_some() { Transport::Tls } else { Transport::Tcp };
        let mut client = Client::new(Config::new(username, password, transport), seed);
        let begun = Instant::now();
        client.allocate(0, None);
        let mut room = vec![0; READ];
        loop {
            while let Some(packet) = client.poll_transmit() {
                self.send(&packet, packet.len())?;
            }
            while let Some(event) = client.poll_event() {
                match event {
                    Event::Allocated { .. } => _ = client.channel_bind(0, peer),
                    Event::ChannelBound { .. } => return client.relayed().context("a relayed address"),
                    other => bail!("{other:?}"),
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("the server does not answer");
            }
            self.receive(&mut room, |frame| client.handle_packet(0, frame))?;
        }
    }

    /// Sends frames of `size` bytes in one call, within TLS each in a record of its own, as browsers do it.
    pub(crate) fn send(&mut self, frames: &[u8], size: usize) -> anyhow::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(self.socket.write_all(frames)?) };
        for frame in frames.chunks(size) {
            tls.writer().write_all(frame)?;
        }
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Takes what is there and hands out the whole frames.
    pub(crate) fn receive(&mut self, room: &mut [u8], mut each: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let length = match recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = room.get(..length).unwrap_or_default();
        if let Some(tls) = &mut self.tls {
            let mut content = [0; 1 << 14];
            while !bytes.is_empty() {
                tls.read_tls(&mut bytes)?;
                let mut left = tls.process_new_packets()?.plaintext_bytes_to_read();
                while left > 0 {
                    let count = tls.reader().read(&mut content)?;
                    self.rest.extend_from_slice(content.get(..count).unwrap_or_default());
                    left -= count;
                }
            }
        } else {
            self.rest.extend_from_slice(bytes);
        }
        let mut done = 0;
        while let Some(unread) = self.rest.get(done..)
            && let Frame::Complete { length } = framing::next(unread)?
        {
            each(unread.get(..length).unwrap_or_default());
            done += length;
        }
        self.rest.drain(..done);
        Ok(())
    }
}
