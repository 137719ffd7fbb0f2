//! Reserved ports: the second half of an EVEN-PORT request, kept until a RESERVATION-TOKEN claims it.
//! RFC 8656 §7.2, §18.7 and §18.10.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use credentials::CredentialId;

use crate::RelayAddress;
use crate::port::RelayPort;

/// How long a reservation is kept. RFC 8656 §7.2: at least 30 seconds.
pub(crate) const LIFETIME_SECS: u32 = 30;
/// Reservations at once, of all workers.
const MOST: usize = 4_096;

/// Names a reservation.
pub(crate) type Token = [u8; 8];

/// The reservations of all workers: a client's second request may reach another worker than its first.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<BTreeMap<Token, Reservation>>);

#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) address: RelayAddress,
    pub(crate) port: RelayPort,
    /// Only the credential that reserved the port may claim it.
    pub(crate) credential: CredentialId,
}

impl Reservations {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Token, Reservation>> {
        // Each change of the table is one call on it: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a reservation; whether there was room.
    pub(crate) fn keep(&self, token: Token, reservation: Reservation) -> bool {
        let mut table = self.table();
        let fits = table.len() < MOST && !table.contains_key(&token);
        if fits {
            table.insert(token, reservation);
        }
        fits
    }

    /// Takes a reservation, if this credential made it.
    pub(crate) fn claim(&self, token: Token, credential: CredentialId) -> Option<Reservation> {
        let mut table = self.table();
        table.get(&token).filter(|reservation| reservation.credential == credential)?;
        table.remove(&token)
    }

    /// Lets a reservation go, if it was not claimed.
    pub(crate) fn expire(&self, token: Token) {
        self.table().remove(&token);
    }
}
