//! Allocations, their permissions and channels, and the tables they are found by. RFC 8656 §6.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use credentials::{CredentialId, Denial, TurnKeyId};
use foldhash::fast::FixedState;
use slab::Slab;
use stun::{ChannelNumber, TransactionId};

use crate::port::RelayPort;
use crate::{Client, FiveTuple, Refusal, RelayId};

/// Where an allocation is in its table; used again after the allocation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AllocationId(usize);

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) client: Client,
    pub(crate) relay: RelayId,
    pub(crate) port: RelayPort,
    /// The address that peers see.
    pub(crate) relayed: SocketAddr,
    /// Monotonic milliseconds; nothing is relayed from this moment on.
    pub(crate) expires_ms: u64,
    pub(crate) credential: CredentialId,
    pub(crate) turn_key: TurnKeyId,
    /// The Allocate request that made it, and the lifetime it was answered with.
    pub(crate) transaction: TransactionId,
    pub(crate) first_lifetime_secs: u32,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

/// RFC 8656 §9: an address, without a port, and a time to expiry.
#[derive(Debug, Clone, Copy)]
struct Permission {
    peer: IpAddr,
    expires_ms: u64,
}

/// RFC 8656 §12: a channel number, a transport address and a time to expiry.
#[derive(Debug, Clone, Copy)]
struct Channel {
    number: ChannelNumber,
    peer: SocketAddr,
    expires_ms: u64,
}

impl Allocation {
    #[expect(clippy::too_many_arguments, reason = "a record's fields, each of its own type")]
    pub(crate) fn new(
        client: Client,
        relay: RelayId,
        port: RelayPort,
        relayed: SocketAddr,
        expires_ms: u64,
        (turn_key, credential): (TurnKeyId, CredentialId),
        transaction: TransactionId,
        first_lifetime_secs: u32,
    ) -> Self {
        Self {
            client,
            relay,
            port,
            relayed,
            expires_ms,
            credential,
            turn_key,
            transaction,
            first_lifetime_secs,
            permissions: Vec::new(),
            channels: Vec::new(),
        }
    }

    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms
    }

    pub(crate) fn permits(&self, peer: IpAddr, now_ms: u64) -> bool {
        self.permissions.iter().any(|permission| permission.peer == peer && now_ms < permission.expires_ms)
    }

    /// Whether this many more permissions for these peers fit, expired ones making room.
    pub(crate) fn reserve_permissions(
        &mut self,
        peers: impl Iterator<Item = IpAddr>,
        now_ms: u64,
        limit: usize,
    ) -> Result<(), Refusal> {
        self.permissions.retain(|permission| now_ms < permission.expires_ms);
        let new: BTreeSet<IpAddr> = peers.filter(|peer| !self.permits(*peer, now_ms)).collect();
        if self.permissions.len() + new.len() > limit { Err(Refusal::TooManyPermissions) } else { Ok(()) }
    }

    /// Installs a permission or refreshes it.
    pub(crate) fn permit(&mut self, peer: IpAddr, expires_ms: u64) {
        match self.permissions.iter_mut().find(|permission| permission.peer == peer) {
            Some(permission) => permission.expires_ms = expires_ms,
            None => self.permissions.push(Permission { peer, expires_ms }),
        }
    }

    pub(crate) fn peer_of(&self, number: ChannelNumber, now_ms: u64) -> Option<SocketAddr> {
        let channel = self.channels.iter().find(|channel| channel.number == number)?;
        (now_ms < channel.expires_ms).then_some(channel.peer)
    }

    pub(crate) fn channel_to(&self, peer: SocketAddr, now_ms: u64) -> Option<ChannelNumber> {
        let channel = self.channels.iter().find(|channel| channel.peer == peer)?;
        (now_ms < channel.expires_ms).then_some(channel.number)
    }

    /// Binds a channel to a peer or refreshes the binding.
    pub(crate) fn bind(
        &mut self,
        number: ChannelNumber,
        peer: SocketAddr,
        now_ms: u64,
        expires_ms: u64,
        limit: usize,
    ) -> Result<(), Refusal> {
        self.channels.retain(|channel| now_ms < channel.expires_ms);
        let mut touching = self.channels.iter_mut().filter(|c| c.number == number || c.peer == peer);
        match (touching.next(), touching.next()) {
            (Some(channel), None) if channel.number == number && channel.peer == peer => {
                channel.expires_ms = expires_ms;
                return Ok(());
            }
            // RFC 8656 §12.2: a channel bound to another peer, or a peer bound to another channel, is 400.
            (Some(_), _) => return Err(Refusal::ChannelConflict),
            (None, _) => {}
        }
        if self.channels.len() >= limit {
            return Err(Refusal::TooManyChannels);
        }
        self.channels.push(Channel { number, peer, expires_ms });
        Ok(())
    }
}

/// Every live allocation of a server, found by client, relay socket, expiry, credential and key.
#[derive(Debug)]
pub(crate) struct Allocations {
    slab: Slab<Allocation>,
    /// Only authenticated clients get into it, so a fast hash is enough.
    by_client: HashMap<FiveTuple, AllocationId, FixedState>,
    /// Indexed by the relay's number, which the caller keeps small.
    by_relay: Vec<Option<AllocationId>>,
    by_expiry: BTreeSet<(u64, AllocationId)>,
    by_credential: BTreeSet<(CredentialId, AllocationId)>,
    by_turn_key: BTreeSet<(TurnKeyId, AllocationId)>,
}

impl Allocations {
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            slab: Slab::new(),
            by_client: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            by_relay: Vec::new(),
            by_expiry: BTreeSet::new(),
            by_credential: BTreeSet::new(),
            by_turn_key: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The client's allocation, if it has one that lives.
    pub(crate) fn of_client(
        &mut self,
        client: &FiveTuple,
        now_ms: u64,
    ) -> Option<(AllocationId, &mut Allocation)> {
        let id = *self.by_client.get(client)?;
        let allocation = self.slab.get_mut(id.0)?;
        allocation.is_live(now_ms).then_some((id, allocation))
    }

    /// The allocation that a relay socket belongs to, if it lives.
    pub(crate) fn of_relay(&self, relay: RelayId, now_ms: u64) -> Option<&Allocation> {
        let id = (*self.by_relay.get(relay.index())?)?;
        self.slab.get(id.0).filter(|allocation| allocation.is_live(now_ms))
    }

    pub(crate) fn holds(&self, client: &FiveTuple) -> bool {
        self.by_client.contains_key(client)
    }

    /// # Panics
    /// When the client or the relay socket has an allocation already.
    pub(crate) fn insert(&mut self, allocation: Allocation) {
        let entry = self.slab.vacant_entry();
        let id = AllocationId(entry.key());
        let allocation = entry.insert(allocation);
        let relay = allocation.relay.index();
        if self.by_relay.len() <= relay {
            self.by_relay.resize(relay + 1, None);
        }
        let of_relay = self.by_relay.get_mut(relay).and_then(|slot| slot.replace(id));
        let of_client = self.by_client.insert(allocation.client.five_tuple, id);
        assert!(of_relay.is_none() && of_client.is_none(), "a client and a relay socket have one allocation");
        self.by_expiry.insert((allocation.expires_ms, id));
        self.by_credential.insert((allocation.credential, id));
        self.by_turn_key.insert((allocation.turn_key, id));
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let allocation = self.slab.try_remove(id.0)?;
        self.by_client.remove(&allocation.client.five_tuple);
        if let Some(slot) = self.by_relay.get_mut(allocation.relay.index()) {
            *slot = None;
        }
        let indexed = self.by_expiry.remove(&(allocation.expires_ms, id))
            && self.by_credential.remove(&(allocation.credential, id))
            && self.by_turn_key.remove(&(allocation.turn_key, id));
        assert!(indexed, "every allocation stands in every index");
        Some(allocation)
    }

    pub(crate) fn set_expiry(&mut self, id: AllocationId, expires_ms: u64) {
        if let Some(allocation) = self.slab.get_mut(id.0) {
            self.by_expiry.remove(&(allocation.expires_ms, id));
            self.by_expiry.insert((expires_ms, id));
            allocation.expires_ms = expires_ms;
        }
    }

    /// Which allocation expires next, and when (monotonic milliseconds).
    pub(crate) fn next_expiry(&self) -> Option<(u64, AllocationId)> {
        self.by_expiry.first().copied()
    }

    pub(crate) fn by_client(&self, client: &FiveTuple) -> Option<AllocationId> {
        self.by_client.get(client).copied()
    }

    /// One of the allocations that a denial ends.
    pub(crate) fn denied_by(&self, denial: Denial) -> Option<AllocationId> {
        let first = AllocationId(0);
        match denial {
            Denial::Credential { id, .. } => self
                .by_credential
                .range((id, first)..)
                .next()
                .filter(|found| found.0 == id)
                .map(|found| found.1),
            Denial::Key { key, .. } => self
                .by_turn_key
                .range((key, first)..)
                .next()
                .filter(|found| found.0 == key)
                .map(|found| found.1),
        }
    }
}
