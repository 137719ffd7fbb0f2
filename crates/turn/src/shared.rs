//! What all servers of a process have in common.

use std::sync::Arc;

use credentials::Keyring;

use crate::reservation::Reservations;
use crate::stranger::Strangers;
use crate::{NonceKey, Quotas, RelayPorts};

/// What all servers of a process have in common.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Opens usernames.
    pub keyring: Arc<Keyring>,
    /// Makes and checks nonces.
    pub nonces: NonceKey,
    /// The relay ports.
    pub ports: Arc<RelayPorts>,
    /// The ports kept for a second Allocate.
    pub reservations: Arc<Reservations>,
    /// How many allocations each key and credential have.
    pub quotas: Arc<Quotas>,
    pub(crate) strangers: Arc<Strangers>,
    /// Those who signed, but not with a nonce of theirs.
    pub(crate) signers: Arc<Strangers>,
}

impl Shared {
    /// What servers with these ports share.
    pub fn new(keyring: Arc<Keyring>, nonces: NonceKey, ports: RelayPorts) -> Self {
        let (reservations, quotas) = (Arc::default(), Arc::default());
        let [strangers, signers] =
            [&b"strangers"[..], b"signers"].map(|purpose| Arc::new(Strangers::new(nonces.derive(purpose))));
        Self { keyring, nonces, ports: Arc::new(ports), reservations, quotas, strangers, signers }
    }
}
