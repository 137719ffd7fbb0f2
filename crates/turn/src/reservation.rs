//! Reserved ports: the second half of an EVEN-PORT request, kept until a RESERVATION-TOKEN claims it.
//! RFC 8656 §7.2, §18.7 and §18.10.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use credentials::CredentialId;

use crate::RelayAddress;
use crate::port::RelayPort;
use crate::quota::Quota;

/// How long a reservation is kept. RFC 8656 §7.2: at least 30 seconds.
pub(crate) const LIFETIME_SECS: u32 = 30;

/// Names a reservation.
pub(crate) type Token = [u8; 8];

/// The reservations of all workers: a client's second request may reach another worker than its first.
/// RFC 8656 §7.2.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    kept: BTreeMap<Token, Reservation>,
    /// Rooms given.
    rooms: usize,
}

/// A bound socket that is not looked at yet: of the caller's own kind, and closed when it is dropped. RFC 8656 §7.2.
#[derive(Debug)]
pub struct ReservedSocket(Box<dyn Any + Send>);

impl ReservedSocket {
    /// Wraps a socket.
    pub fn new(socket: impl Any + Send) -> Self {
        Self(Box::new(socket))
    }

    /// The socket, if it is of this kind.
    pub fn into_socket<S: Any>(self) -> Option<S> {
        self.0.downcast().ok().map(|socket| *socket)
    }
}

/// A reserved port with its socket, which is closed before the port is free.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) socket: ReservedSocket,
    pub(crate) port: RelayPort,
}

/// Room for one reservation and its timer; free again when this is dropped, which is when the timer is over, claimed or
/// not.
#[derive(Debug)]
pub(crate) struct Room(Arc<Reservations>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.table().rooms -= 1;
    }
}

#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) address: RelayAddress,
    /// Bound from the beginning: any program may take a port that nobody has bound.
    pub(crate) reserved: Reserved,
    /// Its place in the counts, which whoever claims it takes over.
    pub(crate) quota: Quota,
    /// Only the credential that reserved the port may claim it.
    pub(crate) credential: CredentialId,
}

/// When a reservation is over.
#[derive(Debug)]
pub(crate) struct Due {
    /// Monotonic milliseconds.
    pub(crate) at_ms: u64,
    pub(crate) token: Token,
    pub(crate) _room: Room,
}

impl Reservations {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change of the table is one step: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many ports are kept. RFC 8656 §7.2.
    pub fn kept(&self) -> usize {
        self.table().kept.len()
    }

    /// Room for one more, if there is any: asked for before a port is taken.
    pub(crate) fn room(self: &Arc<Self>, limit: usize) -> Option<Room> {
        let mut table = self.table();
        let fits = table.rooms < limit;
        table.rooms += usize::from(fits);
        drop(table);
        fits.then(|| Room(Arc::clone(self)))
    }

    /// Keeps a reservation.
    pub(crate) fn keep(&self, token: Token, reservation: Reservation) {
        self.table().kept.insert(token, reservation);
    }

    /// Takes a reservation, if this credential made it.
    pub(crate) fn claim(&self, token: Token, credential: CredentialId) -> Option<Reservation> {
        let mut table = self.table();
        table.kept.get(&token).filter(|reservation| reservation.credential == credential)?;
        table.kept.remove(&token)
    }

    /// Lets a reservation go, if it was not claimed.
    pub(crate) fn expire(&self, token: Token) {
        let expired = self.table().kept.remove(&token);
        // Only now, unlocked, are its port and its place given back.
        drop(expired);
    }
}
