//! Relay sockets that are only numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use turn::{OpenError, RelayId, RelaySockets, ReservedSocket};

/// The relay sockets of one worker, each by the number it has there.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: BTreeMap<RelayId, SocketAddr>,
    /// Those of TCP.
    listening: BTreeSet<RelayId>,
    /// What the system refuses: so many times that a port is in use, the last time that there is any.
    pub(super) failing: u8,
}

impl Sockets {
    pub(super) fn at(&self, relay: RelayId) -> Option<SocketAddr> {
        self.open.get(&relay).copied()
    }

    pub(super) fn is_listening(&self, relay: RelayId) -> bool {
        self.listening.contains(&relay)
    }

    pub(super) fn with(&self, local: SocketAddr) -> Option<RelayId> {
        self.open.iter().find(|(_, held)| **held == local).map(|(relay, _)| *relay)
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = RelayId> {
        self.open.keys().copied()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.values().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Closes a socket, or gives it away. What peers reach it at.
    pub(super) fn remove(&mut self, relay: RelayId) -> SocketAddr {
        self.listening.remove(&relay);
        self.open.remove(&relay).expect("what is closed was open")
    }

    /// Takes a socket that another worker had.
    pub(super) fn adopt(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        self.fail()?;
        assert!(self.with(local).is_none(), "{local} is opened twice");
        let free = (0..=u32::MAX).map(RelayId).find(|relay| !self.open.contains_key(relay));
        let relay = free.ok_or(OpenError::Failed)?;
        self.open.insert(relay, local);
        Ok(relay)
    }

    fn fail(&mut self) -> Result<(), OpenError> {
        match self.failing {
            0 => Ok(()),
            _ => {
                self.failing -= 1;
                Err(if self.failing == 0 { OpenError::Failed } else { OpenError::InUse })
            }
        }
    }
}

impl RelaySockets for Sockets {
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        self.adopt(local)
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        let relay = self.adopt(local)?;
        self.listening.insert(relay);
        Ok(relay)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        self.fail()?;
        Ok(ReservedSocket::new(local))
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        self.adopt(socket.into_socket().ok_or(OpenError::Failed)?)
    }
}
