//! The connections with peers of TCP allocations, and the tables they are found by. RFC 6062 §3.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;
use stun::{IntegrityAlgorithm, LongTermKey, TransactionId};

use crate::reply::Asked;
use crate::{RelayId, WorkerId};

/// How many numbers are tried before a connection is given up for want of a free one.
const NUMBER_TRIES: usize = 64;

/// What names a connection with a peer to clients: CONNECTION-ID. RFC 6062 §6.2.1.
///
/// Eight bits are the worker's, so that a ConnectionBind that arrives at another worker finds its way; the others are
/// random. It is a name and no secret: only the credential that made the allocation can bind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// The worker whose server made it, of those with a number below 256.
    pub fn worker(self) -> WorkerId {
        let [worker, ..] = self.0.to_be_bytes();
        WorkerId(worker.into())
    }
}

/// A connection between a relayed address and a peer.
#[derive(Debug)]
pub(crate) struct PeerConnection {
    pub(crate) relay: RelayId,
    pub(crate) peer: SocketAddr,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    /// The peer has not answered yet; the client gets its answer afterwards.
    Connecting { until_ms: u64, connect: Box<Connect> },
    /// It waits for a ConnectionBind. With a transaction: of the Connect that made it.
    Unbound { until_ms: u64, connect: Option<TransactionId> },
    /// Data goes through it.
    Bound,
}

/// What is needed to answer a Connect later.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) asked: Asked,
    pub(crate) integrity: IntegrityAlgorithm,
    pub(crate) key: LongTermKey,
}

impl PeerConnection {
    /// When it ends if nothing happens, in monotonic milliseconds.
    fn due_ms(&self) -> Option<u64> {
        match self.state {
            State::Connecting { until_ms, .. } | State::Unbound { until_ms, .. } => Some(until_ms),
            State::Bound => None,
        }
    }
}

/// Every connection of a server with peers, found by its name, by relay socket, and by what ends when.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: BTreeMap<ConnectionId, PeerConnection>,
    by_relay: BTreeSet<(RelayId, ConnectionId)>,
    by_due: BTreeSet<(u64, ConnectionId)>,
}

impl Connections {
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn entry(&self, id: ConnectionId) -> Option<&PeerConnection> {
        self.held.get(&id)
    }

    /// The connections of a relay socket.
    pub(crate) fn of_relay(&self, relay: RelayId) -> impl Iterator<Item = (ConnectionId, &PeerConnection)> {
        let range = (relay, ConnectionId(0))..=(relay, ConnectionId(u32::MAX));
        self.by_relay.range(range).filter_map(|(_, id)| Some((*id, self.held.get(id)?)))
    }

    /// The connections to the peers that are asked for.
    pub(crate) fn to_peers(&self, mut is_wanted: impl FnMut(SocketAddr) -> bool) -> Vec<ConnectionId> {
        self.held.iter().filter(|(_, held)| is_wanted(held.peer)).map(|(id, _)| *id).collect()
    }

    /// Which connection ends next if nothing happens, and when (monotonic milliseconds).
    pub(crate) fn next_due(&self) -> Option<(u64, ConnectionId)> {
        self.by_due.first().copied()
    }

    /// Adds a connection under a name that no other has; `None` when none was found.
    pub(crate) fn insert(
        &mut self,
        worker: WorkerId,
        rng: &mut impl Rng,
        connection: PeerConnection,
    ) -> Option<ConnectionId> {
        let [_, worker] = worker.0.to_be_bytes();
        let id = std::iter::repeat_with(|| {
            let [_, a, b, c] = rng.next_u32().to_be_bytes();
            ConnectionId(u32::from_be_bytes([worker, a, b, c]))
        });
        let id = id.take(NUMBER_TRIES).find(|id| !self.held.contains_key(id))?;
        self.by_relay.insert((connection.relay, id));
        self.by_due.extend(connection.due_ms().map(|due_ms| (due_ms, id)));
        self.held.insert(id, connection);
        Some(id)
    }

    /// Puts a connection into its next state; the one it was in.
    pub(crate) fn set_state(&mut self, id: ConnectionId, state: State) -> Option<State> {
        let held = self.held.get_mut(&id)?;
        if let Some(due_ms) = held.due_ms() {
            self.by_due.remove(&(due_ms, id));
        }
        let before = std::mem::replace(&mut held.state, state);
        self.by_due.extend(held.due_ms().map(|due_ms| (due_ms, id)));
        Some(before)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<PeerConnection> {
        let held = self.held.remove(&id)?;
        self.by_relay.remove(&(held.relay, id));
        if let Some(due_ms) = held.due_ms() {
            self.by_due.remove(&(due_ms, id));
        }
        Some(held)
    }
}
