//! A peer of a TCP allocation, and the raw connections of RFC 6062.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::client::{PATIENCE, SILENCE};
use crate::outcome::{Outcome, Verdict, ensure, fail};
use crate::target::Target;

#[derive(Debug)]
pub(crate) struct TcpPeer(TcpListener);

impl TcpPeer {
    pub(crate) fn open(target: &Target) -> Result<Self, Verdict> {
        let listener = TcpListener::bind(SocketAddr::new(target.peer_host, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, Verdict> {
        Ok(self.0.local_addr()?)
    }

    /// The server's connection.
    pub(crate) fn accept(&self) -> Result<Raw, Verdict> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Raw(stream, Vec::new()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return fail("expected the server to connect to the peer, it did not"),
            }
        }
    }
}

/// A connection that carries application data, and what was read from it before.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) TcpStream, pub(crate) Vec<u8>);

impl Raw {
    pub(crate) fn connect(to: SocketAddr) -> Result<Self, Verdict> {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => Ok(Self(stream, Vec::new())),
            Err(error) => fail(format!("expected {to} to accept a connection: {error}")),
        }
    }

    pub(crate) fn send(&mut self, data: &[u8]) -> Outcome {
        self.0.write_all(data)?;
        Ok(())
    }

    pub(crate) fn expect(&mut self, what: &str, data: &[u8]) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        while self.1.len() < data.len() && Instant::now() < deadline {
            if self.read(Duration::from_millis(100))? == Some(0) {
                return fail(format!("{what}: the connection was closed before all data came"));
            }
        }
        let got = std::mem::take(&mut self.1);
        ensure(
            got == data,
            format!("{what}: expected {} bytes as sent, got {} others", data.len(), got.len()),
        )
    }

    /// Waits for the other end to close.
    pub(crate) fn expect_closed(&mut self, what: &str, within: Duration) -> Outcome {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if self.read(Duration::from_millis(100))? == Some(0) {
                return Ok(());
            }
        }
        fail(format!("{what}: expected the connection to be closed within {within:?}"))
    }

    pub(crate) fn expect_open(&mut self, what: &str) -> Outcome {
        let closed = self.read(SILENCE)? == Some(0);
        ensure(!closed, format!("{what}: expected the connection to stay open, it was closed"))
    }

    /// Bytes read, 0 when closed, `None` when nothing came.
    fn read(&mut self, patience: Duration) -> Result<Option<usize>, Verdict> {
        self.0.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 1 << 16];
        match self.0.read(&mut buffer) {
            Ok(length) => {
                self.1.extend_from_slice(buffer.get(..length).unwrap_or_default());
                Ok(Some(length))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(_) => Ok(Some(0)),
        }
    }
}
