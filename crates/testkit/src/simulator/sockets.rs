//! Relay sockets that are only numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use turn::{OpenError, RelayId, RelaySockets, ReservedSocket};

use crate::model::Relay;

/// The open relay sockets, and what goes wrong with the next ones.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: BTreeMap<RelayId, SocketAddr>,
    /// Those of TCP.
    pub(super) listening: BTreeSet<RelayId>,
    /// How many ports the system says are in use before it gives one.
    pub(super) in_use: u32,
    /// Whether the system gives none at all.
    pub(super) failing: bool,
    /// What was opened since this was last taken.
    pub(super) opened: Vec<RelayId>,
}

impl Sockets {
    pub(super) fn close(&mut self, relay: RelayId) -> bool {
        self.listening.remove(&relay);
        self.open.remove(&relay).is_some()
    }

    /// A socket is another worker's from now on, and has another number.
    pub(super) fn renumber(&mut self, before: RelayId) -> RelayId {
        let free = (0..=u32::MAX).map(RelayId).find(|relay| !self.open.contains_key(relay));
        let after = free.unwrap_or(before);
        if let Some(local) = self.open.remove(&before) {
            self.open.insert(after, local);
        }
        after
    }

    pub(super) fn is_open(&self, relay: RelayId) -> bool {
        self.open.contains_key(&relay)
    }

    /// Those among these that listen.
    pub(super) fn listening_in(&self, relays: impl Iterator<Item = Relay>) -> impl Iterator<Item = RelayId> {
        relays.map(|relay| relay.id).filter(|relay| self.listening.contains(relay))
    }

    pub(super) fn all(&self) -> Vec<RelayId> {
        self.open.keys().copied().collect()
    }
}

impl RelaySockets for Sockets {
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        if self.failing {
            return Err(OpenError::Failed);
        }
        if self.in_use > 0 {
            self.in_use -= 1;
            return Err(OpenError::InUse);
        }
        assert!(!self.open.values().any(|held| *held == local), "{local} is opened twice");
        let free = (0..=u32::MAX).map(RelayId).find(|relay| !self.open.contains_key(relay));
        let relay = free.ok_or(OpenError::Failed)?;
        self.open.insert(relay, local);
        self.opened.push(relay);
        Ok(relay)
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        let relay = self.open(local)?;
        self.listening.insert(relay);
        Ok(relay)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        if self.failing {
            return Err(OpenError::Failed);
        }
        if self.in_use > 0 {
            self.in_use -= 1;
            return Err(OpenError::InUse);
        }
        Ok(ReservedSocket::new(local))
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        // It is bound already, whatever happens to other ports.
        let in_use = std::mem::take(&mut self.in_use);
        let opened = self.open(socket.into_socket().ok_or(OpenError::Failed)?);
        self.in_use = in_use;
        opened
    }
}
