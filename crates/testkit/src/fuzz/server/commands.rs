//! What a server is told from outside its packets: commands, time, and what becomes of connections.

use std::net::SocketAddr;
use std::sync::Arc;

use credentials::{Denial, TurnKeyId};
use turn::{Command, ConnectFailed, ConnectionId, RelayId};

use super::super::bytes::Bytes;
use super::accounts::{keyring, shared_secrets};
use super::limits::LIMITS;
use super::world::{Path, WORKERS, World};

impl World {
    /// A worker hears a command.
    pub(super) fn command(&mut self, worker: usize, command: Command) {
        let now = self.now();
        let is_done = self.server(worker).command(now, command.clone()).is_ok();
        match &command {
            Command::Policy(policy) => {
                let [_, narrow] = &self.policies;
                self.observer.known(worker).narrow = Arc::ptr_eq(policy, narrow);
            }
            Command::KeyLimits { key, limits } => self.observer.known(worker).limits.set(*key, *limits, now),
            _ => {}
        }
        self.settle();
        match command {
            Command::Deny(denial) => self.observer.deny(worker, denial, is_done),
            Command::SharedSecrets { key, secrets } => {
                let secrets = secrets.iter().map(|secret| secret.id).collect();
                self.observer.set_secrets(worker, key, secrets);
            }
            Command::Suspend { key, suspended } => self.observer.suspend(worker, key, suspended),
            Command::ClientGone(client) => self.observer.gone(worker, client),
            _ => {}
        }
    }

    pub(super) fn deny(&mut self, first: usize, denial: Denial) {
        self.tell_all(first, &Command::Deny(denial));
    }

    pub(super) fn set_keyring(&mut self, id: u8) {
        self.second_ring = id == 2;
        self.tell_all(0, &Command::Keyring(keyring(self.second_ring)));
    }

    pub(super) fn set_policy(&mut self, first: usize, is_narrow: bool) {
        let policy = self.policies.get(usize::from(is_narrow)).map(Arc::clone).expect("one of the two");
        self.tell_all(first, &Command::Policy(policy));
    }

    pub(super) fn set_limits(&mut self, first: usize, key: TurnKeyId, which: u8) {
        let limits = LIMITS.get(usize::from(which) % LIMITS.len()).copied().flatten();
        self.tell_all(first, &Command::KeyLimits { key, limits });
    }

    pub(super) fn set_secrets(&mut self, first: usize, key: TurnKeyId, bits: u8) {
        self.tell_all(first, &Command::SharedSecrets { key, secrets: shared_secrets(key, bits) });
    }

    /// A client's connection is closed; the next one may be another worker's.
    pub(super) fn client_gone(&mut self, path: Path, next: usize) {
        if path.is_handed_over {
            return;
        }
        self.command(path.worker, Command::ClientGone(path.client.five_tuple));
        let same =
            |held: &&mut Path| held.client == path.client && path.client.five_tuple.transport.is_stream();
        self.clients.iter_mut().find(same).into_iter().for_each(|path| path.connect_to(next % WORKERS));
    }

    /// Somebody's connection, if there is one, or any.
    pub(super) fn connection(&self, bytes: &mut Bytes<'_>) -> ConnectionId {
        let index = usize::from(bytes.byte());
        let known = self.observer.connections().nth(index % 4);
        known.unwrap_or_else(|| ConnectionId(u32::from_be_bytes(bytes.array())))
    }

    /// What came of a connection, of which the server has heard or not.
    pub(super) fn connected(&mut self, connection: ConnectionId, works: bool) {
        if !works {
            self.observer.disconnected_soon(connection);
        }
        let (now, worker) = (self.now(), usize::from(connection.worker().0) % WORKERS);
        self.server(worker).connected(now, connection, if works { Ok(()) } else { Err(ConnectFailed) });
        self.settle();
        self.observer.settled();
    }

    pub(super) fn accepted(&mut self, (worker, relay): (usize, RelayId), peer: SocketAddr) {
        let now = self.now();
        if let Ok(connection) = self.server(worker).accepted(now, relay, peer) {
            let local = self.sockets(worker).at(relay).expect("it came to an open socket");
            self.observer.accepted(now, worker, (local, peer), connection);
        }
        self.settle();
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        self.server(usize::from(connection.worker().0) % WORKERS).disconnected(connection);
        self.observer.disconnected(connection);
        self.settle();
    }
}
