//! A peer: a UDP socket that knows nothing of TURN.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::client::{PATIENCE, SILENCE};
use crate::outcome::{Outcome, Verdict, ensure, fail};
use crate::target::Target;

#[derive(Debug)]
pub(crate) struct Peer(UdpSocket);

impl Peer {
    pub(crate) fn open(target: &Target) -> Result<Self, Verdict> {
        Self::at(target.peer_host)
    }

    pub(crate) fn at(host: IpAddr) -> Result<Self, Verdict> {
        Ok(Self(UdpSocket::bind(SocketAddr::new(host, 0))?))
    }

    pub(crate) fn address(&self) -> Result<SocketAddr, Verdict> {
        Ok(self.0.local_addr()?)
    }

    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) -> Outcome {
        self.0.send_to(data, to)?;
        Ok(())
    }

    pub(crate) fn receive(&self, patience: Duration) -> Result<Option<(Vec<u8>, SocketAddr)>, Verdict> {
        self.0.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 1 << 16];
        // A timeout, or an ICMP error about something sent before: nothing came.
        let Ok((length, from)) = self.0.recv_from(&mut buffer) else { return Ok(None) };
        buffer.truncate(length);
        Ok(Some((buffer, from)))
    }

    /// Waits for this very datagram; where it came from.
    pub(crate) fn expect(&self, what: &str, data: &[u8]) -> Result<SocketAddr, Verdict> {
        match self.receive(PATIENCE)? {
            None => fail(format!("{what}: expected {} bytes at the peer, got nothing", data.len())),
            Some((got, from)) => {
                let same = got == data;
                ensure(
                    same,
                    format!("{what}: expected {} bytes as sent, got {} others", data.len(), got.len()),
                )?;
                Ok(from)
            }
        }
    }

    pub(crate) fn expect_nothing(&self, what: &str) -> Outcome {
        match self.receive(SILENCE)? {
            None => Ok(()),
            Some((got, _)) => fail(format!("{what}: expected nothing at the peer, got {} bytes", got.len())),
        }
    }
}
