//! One socket towards the server, as frames.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use stun::framing::{self, Frame};

use testkit::client::dtls::{DtlsSocket, DtlsVersion};
use testkit::tls::Secured;

use crate::outcome::{Verdict, fail};
use crate::target::Transport;

/// What came, or did not.
#[derive(Debug)]
pub(crate) enum Arrival {
    Frame(Vec<u8>),
    Nothing,
    Closed,
}

#[derive(Debug)]
pub(crate) enum Link {
    Udp(UdpSocket),
    /// With the client's end of it as the server sees it.
    Tcp {
        stream: TcpStream,
        unread: Vec<u8>,
        local: SocketAddr,
    },
    Dtls(Box<DtlsSocket>),
}

impl Link {
    pub(crate) fn open(server: SocketAddr, transport: Transport) -> Result<Self, Verdict> {
        match transport {
            Transport::Udp => {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = unused_socket(any)?;
                socket.connect(server)?;
                Ok(Self::Udp(socket))
            }
            Transport::Dtls => {
                let socket = unused_socket(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(server)?;
                match DtlsSocket::over(socket, DtlsVersion::Either) {
                    Ok(session) => Ok(Self::Dtls(Box::new(session))),
                    Err(error) => fail(format!("cannot connect over DTLS: {error}")),
                }
            }
            Transport::Tcp => match TcpStream::connect_timeout(&server, Duration::from_secs(3)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let local = stream.local_addr()?;
                    Ok(Self::Tcp { stream, unread: Vec::new(), local })
                }
                Err(error) => fail(format!("cannot connect over TCP: {error}")),
            },
            Transport::Tls => match testkit::tls::connect(server) {
                Ok(Secured { stream, local, .. }) => Ok(Self::Tcp { stream, unread: Vec::new(), local }),
                Err(error) => fail(format!("cannot connect over TLS: {error}")),
            },
        }
    }

    pub(crate) fn local_address(&self) -> Result<SocketAddr, Verdict> {
        Ok(match self {
            Self::Udp(socket) => socket.local_addr()?,
            Self::Tcp { local, .. } => *local,
            Self::Dtls(session) => session.socket().local_addr()?,
        })
    }

    /// Sends these bytes; a connection that the server has closed takes them without a word.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Verdict> {
        let sent = match self {
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::Tcp { stream, .. } => stream.write_all(bytes),
            Self::Dtls(session) => session.send(bytes),
        };
        match sent {
            Err(error) if is_gone(error.kind()) => Ok(()),
            other => Ok(other?),
        }
    }

    pub(crate) fn receive(&mut self, patience: Duration) -> Result<Arrival, Verdict> {
        let deadline = Instant::now() + patience;
        loop {
            if let Self::Tcp { unread, .. } = self
                && let Some(frame) = take_frame(unread)?
            {
                return Ok(Arrival::Frame(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Arrival::Nothing);
            }
            if let Some(arrival) = self.read(left)? {
                return Ok(arrival);
            }
        }
    }

    /// One read; `None` when that made no frame yet.
    fn read(&mut self, patience: Duration) -> Result<Option<Arrival>, Verdict> {
        if let Self::Dtls(session) = self {
            return match session.receive(patience) {
                Ok(Some(datagram)) => Ok(Some(Arrival::Frame(datagram))),
                Ok(None) => Ok(Some(Arrival::Nothing)),
                Err(error) if is_gone(error.kind()) => Ok(Some(Arrival::Closed)),
                Err(error) => Err(error.into()),
            };
        }
        let patience = Some(patience.max(Duration::from_millis(1)));
        let mut buffer = vec![0; 1 << 16];
        let read = match self {
            Self::Dtls(_) => Ok(0),
            Self::Udp(socket) => {
                socket.set_read_timeout(patience)?;
                socket.recv(&mut buffer)
            }
            Self::Tcp { stream, .. } => {
                stream.set_read_timeout(patience)?;
                stream.read(&mut buffer)
            }
        };
        match (read, self) {
            (_, Self::Dtls(_)) => Ok(None),
            (Ok(0), Self::Tcp { .. }) => Ok(Some(Arrival::Closed)),
            (Ok(length), Self::Udp(_)) => {
                buffer.truncate(length);
                Ok(Some(Arrival::Frame(buffer)))
            }
            (Ok(length), Self::Tcp { unread, .. }) => {
                unread.extend_from_slice(buffer.get(..length).unwrap_or_default());
                Ok(None)
            }
            (Err(error), _) if error.kind() == ErrorKind::Interrupted => Ok(None),
            (Err(error), _) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(Some(Arrival::Nothing))
            }
            (Err(error), Self::Tcp { .. }) if is_gone(error.kind()) => Ok(Some(Arrival::Closed)),
            // An ICMP error about an earlier datagram.
            (Err(error), Self::Udp(_)) if is_gone(error.kind()) => Ok(None),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The connection itself, and what was read from it already.
    pub(crate) fn raw_stream(&mut self) -> Result<(TcpStream, Vec<u8>), Verdict> {
        match self {
            Self::Tcp { stream, unread, .. } => Ok((stream.try_clone()?, std::mem::take(unread))),
            Self::Udp(_) | Self::Dtls(_) => fail("a UDP socket has no stream"),
        }
    }
}

/// A socket on a port that no other check has had: to some servers an allocation is not over when it is over.
fn unused_socket(any: &str) -> Result<UdpSocket, Verdict> {
    static USED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let socket = UdpSocket::bind(any)?;
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        if used.insert(socket.local_addr()?.port()) {
            return Ok(socket);
        }
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}

fn take_frame(unread: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Verdict> {
    match framing::next(unread) {
        Ok(Frame::Complete { length }) => Ok(Some(unread.drain(..length).collect())),
        Ok(Frame::Incomplete { .. }) => Ok(None),
        Err(_) => fail("what the server sent on the stream is neither STUN nor ChannelData"),
    }
}
