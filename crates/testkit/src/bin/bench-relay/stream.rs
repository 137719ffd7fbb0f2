//! A client over TCP or TLS: frames out, frames in, without a thread or a copy more than that takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::ClientConnection;
use stun::ChannelNumber;
use testkit::client::{Client, Config, Event, Frames};
use testkit::tls;
use turn::Transport;

const PATIENCE: Duration = Duration::from_secs(5);
const READ: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    /// Boxed, for without TLS there is none.
    tls: Option<Box<ClientConnection>>,
    frames: Frames,
    buffer: Vec<u8>,
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
        Ok(Self { socket, tls, frames: Frames::default(), buffer: vec![0; READ] })
    }

    /// Allocates, and binds a channel to a peer.
    pub(crate) fn allocate(
        &mut self,
        (username, password): (&str, &str),
        peer: SocketAddr,
        seed: u64,
    ) -> anyhow::Result<ChannelNumber> {
        let transport = if self.tls.is_some() { Transport::Tls } else { Transport::Tcp };
        let mut client = Client::new(Config::new(username, password, transport), seed);
        let begun = Instant::now();
        client.allocate(0, None);
        let mut channel = None;
        loop {
            while let Some(packet) = client.poll_transmit() {
                self.send(&packet, packet.len())?;
            }
            while let Some(event) = client.poll_event() {
                match event {
                    Event::Allocated { .. } => channel = Some(client.channel_bind(0, peer)),
                    Event::ChannelBound { .. } => return channel.context("a channel that was asked for"),
                    other => bail!("{other:?}"),
                }
            }
            if begun.elapsed() > PATIENCE {
                bail!("the server does not answer");
            }
            self.read()?;
            while let Some(frame) = self.frames.next_frame()? {
                client.handle_packet(0, &frame);
            }
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

    /// Takes what is there; how many frames are whole.
    pub(crate) fn receive(&mut self) -> anyhow::Result<usize> {
        self.read()?;
        let mut count = 0;
        while self.frames.next_frame()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = self.buffer.get(..length).unwrap_or_default();
        let Some(tls) = &mut self.tls else {
            self.frames.push(bytes);
            return Ok(());
        };
        let mut content = [0; 1 << 14];
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let mut left = tls.process_new_packets()?.plaintext_bytes_to_read();
            while left > 0 {
                let count = tls.reader().read(&mut content)?;
                self.frames.push(content.get(..count).unwrap_or_default());
                left -= count;
            }
        }
        Ok(())
    }
}
