//! Allocations, their permissions and channels, and the tables they are found by. RFC 8656 §6.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use credentials::{CredentialId, Denial, Issued, Subject, TurnKeyId};
use foldhash::fast::FixedState;
use slab::Slab;
use stun::{ChannelNumber, TransactionId};

use crate::allocate::{Family, Protocol};
use crate::auth::Authenticated;
use crate::icmp::Told;
use crate::mobility::Mobility;
use crate::pace::Pace;
use crate::port::RelayPort;
use crate::quota::{Allowance, Direction, KeyLimits, Meter, Quota};
use crate::reply::Allocated;
use crate::reservation::Token;
use crate::shared_secrets::{SecretRef, SharedSecrets};
use crate::ticket::{Identity, Ticket};
use crate::usage::{Ending, Session, Tally};
use crate::{Client, DropReason, FiveTuple, Refusal, RelayAddress, RelayId, WorkerId};

/// Where an allocation is in its table; used again after the allocation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AllocationId(usize);

/// A relayed transport address and its socket.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) id: RelayId,
    pub(crate) port: RelayPort,
    /// The address that peers see.
    pub(crate) address: SocketAddr,
}

/// Where an allocation's client is. Anything but `Here` is for mobile ones only. RFC 8016 §3.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Here,
    /// It has come with its ticket from elsewhere, and has not sent data from there yet.
    Moving,
    /// Its connection is closed, and it has not come back yet.
    Away,
}

impl Relayed {
    pub(crate) fn new(id: RelayId, port: RelayPort, address: RelayAddress) -> Self {
        let address = SocketAddr::new(address.public, port.local().port());
        Self { id, port, address }
    }
}

/// What data for a peer is sent from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) relay: RelayId,
    /// The address that peers see.
    pub(crate) address: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) client: Client,
    /// One, or one of each family; the second apart, for most have none. RFC 8656 §7.2.
    relay: Option<Relayed>,
    second_relay: Option<Box<Relayed>>,
    /// What is relayed.
    pub(crate) protocol: Protocol,
    /// Monotonic milliseconds; nothing is relayed from this moment on.
    pub(crate) expires_ms: u64,
    pub(crate) credential: CredentialId,
    pub(crate) turn_key: TurnKeyId,
    /// Of a sealed credential.
    issued: Option<Issued>,
    /// What its time-limited username was signed with.
    pub(crate) shared_secret: Option<SecretRef>,
    /// The Allocate request that made it, and what it was answered beside the relayed addresses.
    pub(crate) transaction: TransactionId,
    lifetime_secs: u32,
    reservation: Option<Token>,
    failed: Option<(Family, Refusal)>,
    /// Its place in the counts of its key and credential.
    pub(crate) quota: Quota,
    /// Its rates, if they are limited.
    pub(crate) meter: Option<Box<Meter>>,
    /// The bucket that new peers are taken from.
    pub(crate) new_peers: u64,
    pub(crate) whereabouts: Whereabouts,
    /// Set if its client may take it along.
    pub(crate) mobility: Option<Box<Mobility>>,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    pub(crate) icmp_told: Told,
    /// What it has relayed.
    pub(crate) tally: Tally,
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
    /// Whether the peer may be an allocation of this host: decided once, not for each packet.
    is_own_relay: bool,
    expires_ms: u64,
}

impl Allocation {
    pub(crate) fn new(
        client: Client,
        (protocol, [relay, second_relay]): (Protocol, [Option<Relayed>; 2]),
        expires_ms: u64,
        identity: &Authenticated,
        transaction: TransactionId,
        answer: Allocated,
        (quota, meter, session): (Quota, Option<Box<Meter>>, Session),
    ) -> Self {
        Self {
            client,
            relay,
            second_relay: second_relay.map(Box::new),
            protocol,
            expires_ms,
            credential: identity.credential,
            turn_key: identity.turn_key,
            issued: identity.issued,
            shared_secret: identity.shared_secret,
            transaction,
            lifetime_secs: answer.lifetime_secs,
            reservation: answer.reservation,
            failed: answer.failed,
            quota,
            meter,
            new_peers: 0,
            whereabouts: Whereabouts::Here,
            mobility: None,
            permissions: Vec::new(),
            channels: Vec::new(),
            icmp_told: Told::default(),
            tally: Tally::new(session),
        }
    }

    /// What denials are held against.
    pub(crate) fn subject(&self) -> Subject {
        Subject { key: self.turn_key, credential: self.credential, issued: self.issued }
    }

    pub(crate) fn relays(&self) -> impl Iterator<Item = &Relayed> {
        self.relay.iter().chain(self.second_relay.as_deref())
    }

    /// What a late retransmission of the Allocate is answered: not what is gone meanwhile.
    pub(crate) fn answer(&self) -> Allocated {
        let Self { lifetime_secs, reservation, failed, .. } = *self;
        Allocated { relayed: self.relayed(), lifetime_secs, reservation, failed }
    }

    /// The addresses that peers see.
    pub(crate) fn relayed(&self) -> [Option<SocketAddr>; 2] {
        [self.relay.as_ref(), self.second_relay.as_deref()].map(|relay| relay.map(|relay| relay.address))
    }

    pub(crate) fn relays_mut(&mut self) -> impl Iterator<Item = &mut Relayed> {
        self.relay.iter_mut().chain(self.second_relay.as_deref_mut())
    }

    /// Where its client is heard, or will be.
    pub(crate) fn clients(&self) -> impl Iterator<Item = FiveTuple> + use<> {
        let here = (self.whereabouts != Whereabouts::Away).then_some(self.client.five_tuple);
        let next = self.mobility.as_ref().and_then(|mobility| mobility.next).map(|next| next.five_tuple);
        here.into_iter().chain(next)
    }

    /// Whether this client was going to somewhere else and is heard there now.
    pub(crate) fn is_arriving(&self, client: &FiveTuple) -> bool {
        self.whereabouts == Whereabouts::Moving && self.client.five_tuple != *client
    }

    pub(crate) fn has_identity(&self, identity: Identity) -> bool {
        self.mobility.as_ref().is_some_and(|mobility| mobility.identity == identity)
    }

    /// The relay socket that reaches peers of this family.
    pub(crate) fn relay_of(&self, family: Family) -> Option<&Relayed> {
        self.relays().find(|relay| Family::of(relay.address) == family)
    }

    /// What reaches this peer.
    pub(crate) fn source_to(&self, peer: SocketAddr) -> Option<Source> {
        self.relay_of(Family::of(peer)).map(|relay| Source { relay: relay.id, address: relay.address })
    }

    /// Its sockets, when it has ended.
    pub(crate) fn into_relays(self) -> impl Iterator<Item = Relayed> {
        self.relay.into_iter().chain(self.second_relay.map(|relay| *relay))
    }

    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.expires_ms
    }

    pub(crate) fn permits(&self, peer: IpAddr, now_ms: u64) -> bool {
        self.permissions.iter().any(|permission| permission.peer == peer && now_ms < permission.expires_ms)
    }

    /// Whether this many more permissions for these peers fit, expired ones making room, and so many new peers may be
    /// named now; what is left in their bucket then.
    pub(crate) fn reserve_permissions(
        &mut self,
        peers: impl Iterator<Item = IpAddr>,
        now_ms: u64,
        limit: usize,
        new_peers: Option<Pace>,
    ) -> Result<u64, Refusal> {
        self.permissions.retain(|permission| now_ms < permission.expires_ms);
        let new: BTreeSet<IpAddr> = peers.filter(|peer| !self.permits(*peer, now_ms)).collect();
        // A limit that was lowered keeps nobody from refreshing what there is.
        if !new.is_empty() && self.permissions.len() + new.len() > limit {
            return Err(Refusal::TooManyPermissions);
        }
        match new_peers.filter(|_| !new.is_empty()) {
            Some(pace) => {
                pace.take_whole(self.new_peers, now_ms, new.len() as u64).ok_or(Refusal::TooManyNewPeers)
            }
            None => Ok(self.new_peers),
        }
    }

    /// Counts a datagram against its rates.
    ///
    /// # Errors
    /// When it is to be dropped.
    #[inline]
    pub(crate) fn pass(&mut self, direction: Direction, now_ms: u64, bytes: usize) -> Result<(), DropReason> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.pass(direction, now_ms, bytes))
    }

    /// Counts what was read of a stream against its rates; how much may be read next.
    pub(crate) fn stream(&mut self, direction: Direction, now_ms: u64, bytes: usize) -> Allowance {
        let Some(meter) = &mut self.meter else { return Allowance::Bytes(usize::MAX) };
        if bytes > 0 {
            meter.charge(direction, now_ms, bytes);
        }
        meter.allowance(direction, now_ms)
    }

    /// Other limits from now on.
    pub(crate) fn limit(&mut self, limits: &KeyLimits) {
        match &mut self.meter {
            Some(meter) => meter.limit(limits),
            None => self.meter = Meter::new(limits, &self.quota),
        }
    }

    /// Installs a permission or refreshes it.
    pub(crate) fn permit(&mut self, peer: IpAddr, expires_ms: u64) {
        match self.permissions.iter_mut().find(|permission| permission.peer == peer) {
            Some(permission) => permission.expires_ms = expires_ms,
            None => {
                reserve_first(&mut self.permissions);
                self.permissions.push(Permission { peer, expires_ms });
            }
        }
    }

    /// The peer a channel is bound to, and whether it may be an allocation of this host.
    pub(crate) fn peer_of(&self, number: ChannelNumber, now_ms: u64) -> Option<(SocketAddr, bool)> {
        let channel = self.channels.iter().find(|channel| channel.number == number)?;
        (now_ms < channel.expires_ms).then_some((channel.peer, channel.is_own_relay))
    }

    pub(crate) fn channel_to(&self, peer: SocketAddr, now_ms: u64) -> Option<ChannelNumber> {
        let channel = self.channels.iter().find(|channel| channel.peer == peer)?;
        (now_ms < channel.expires_ms).then_some(channel.number)
    }

    /// Binds a channel to a peer or refreshes the binding.
    pub(crate) fn bind(
        &mut self,
        number: ChannelNumber,
        (peer, is_own_relay): (SocketAddr, bool),
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
        reserve_first(&mut self.channels);
        self.channels.push(Channel { number, peer, is_own_relay, expires_ms });
        Ok(())
    }
}

/// Most have one: the first gets the room that it needs, and not that of four.
fn reserve_first<T>(list: &mut Vec<T>) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
}

/// Every live allocation of a server, found by client, relay socket, ticket, expiry, credential and key.
#[derive(Debug)]
pub(crate) struct Allocations {
    slab: Slab<Allocation>,
    /// Only authenticated clients get into it, so a fast hash is enough.
    by_client: HashMap<FiveTuple, AllocationId, FixedState>,
    /// Indexed by the relay's number, which the caller keeps small.
    by_relay: Vec<Option<AllocationId>>,
    /// The relay sockets by the addresses that peers see, looked up for peers of this host only.
    by_address: HashMap<SocketAddr, RelayId, FixedState>,
    /// Those that are mobile.
    by_identity: HashMap<Identity, AllocationId, FixedState>,
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
            by_address: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            by_identity: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
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
    pub(crate) fn of_relay(&mut self, relay: RelayId, now_ms: u64) -> Option<&mut Allocation> {
        let id = (*self.by_relay.get(relay.index())?)?;
        self.slab.get_mut(id.0).filter(|allocation| allocation.is_live(now_ms))
    }

    /// The relay socket with this relayed address.
    pub(crate) fn relay_at(&self, address: SocketAddr) -> Option<RelayId> {
        self.by_address.get(&address).copied()
    }

    /// The client of a relay socket, that of an allocation included which has expired but was not ended yet.
    pub(crate) fn client_of(&self, relay: RelayId) -> Option<Client> {
        self.at_relay(relay).map(|allocation| allocation.client)
    }

    pub(crate) fn holds(&self, client: &FiveTuple) -> bool {
        self.by_client.contains_key(client)
    }

    /// # Panics
    /// When the client or the relay socket has an allocation already.
    pub(crate) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let entry = self.slab.vacant_entry();
        let id = AllocationId(entry.key());
        let allocation = entry.insert(allocation);
        for relay in allocation.relays() {
            let index = relay.id.index();
            if self.by_relay.len() <= index {
                self.by_relay.resize(index + 1, None);
            }
            let before = self.by_relay.get_mut(index).and_then(|slot| slot.replace(id));
            assert!(before.is_none(), "a relay socket has one allocation");
            let before = self.by_address.insert(relay.address, relay.id);
            assert!(before.is_none(), "a relayed address has one socket");
        }
        for client in allocation.clients() {
            let before = self.by_client.insert(client, id);
            assert!(before.is_none(), "a client has one allocation");
        }
        if let Some(mobility) = &allocation.mobility {
            self.by_identity.insert(mobility.identity, id);
        }
        self.by_expiry.insert((allocation.expires_ms, id));
        self.by_credential.insert((allocation.credential, id));
        self.by_turn_key.insert((allocation.turn_key, id));
        id
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let allocation = self.slab.try_remove(id.0)?;
        for client in allocation.clients() {
            self.by_client.remove(&client);
        }
        for relay in allocation.relays() {
            forget(&mut self.by_relay, relay);
            self.by_address.remove(&relay.address);
        }
        if let Some(mobility) = &allocation.mobility {
            self.by_identity.remove(&mobility.identity);
        }
        let indexed = self.by_expiry.remove(&(allocation.expires_ms, id))
            && self.by_credential.remove(&(allocation.credential, id))
            && self.by_turn_key.remove(&(allocation.turn_key, id));
        assert!(indexed, "every allocation stands in every index");
        Some(allocation)
    }

    /// Takes one of an allocation's two relayed addresses from it; `None` when it has only that one.
    pub(crate) fn remove_relay(&mut self, id: AllocationId, family: Family) -> Option<(Client, Relayed)> {
        let allocation = self.slab.get_mut(id.0)?;
        if allocation.relays().count() < 2 {
            return None;
        }
        let is_wanted = |relay: &mut Relayed| Family::of(relay.address) == family;
        let first = allocation.relay.take_if(is_wanted);
        let relay =
            first.or_else(|| allocation.second_relay.take_if(|it| is_wanted(it)).map(|relay| *relay))?;
        forget(&mut self.by_relay, &relay);
        self.by_address.remove(&relay.address);
        Some((allocation.client, relay))
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

    /// Every allocation of a key.
    pub(crate) fn of_turn_key(&mut self, key: TurnKeyId, mut act: impl FnMut(&mut Allocation)) {
        let first = (key, AllocationId(0));
        for (_, id) in self.by_turn_key.range(first..).take_while(|found| found.0 == key) {
            if let Some(allocation) = self.slab.get_mut(id.0) {
                act(allocation);
            }
        }
    }

    /// The shared secret that the client's allocation was made with.
    pub(crate) fn secret_of(&self, client: &FiveTuple) -> Option<SecretRef> {
        self.slab.get(self.by_client(client)?.0)?.shared_secret
    }

    /// A key's allocations that were made with a shared secret which is not held any more.
    pub(crate) fn without_secret(&self, key: TurnKeyId, held: &SharedSecrets) -> Vec<AllocationId> {
        let gone = |id: &AllocationId| {
            let secret = self.slab.get(id.0).and_then(|allocation| allocation.shared_secret);
            secret.is_some_and(|secret| held.secret(secret).is_none())
        };
        self.all_of_turn_key(key).filter(gone).collect()
    }

    /// How many places the table has, taken or not.
    pub(crate) fn places(&self) -> usize {
        self.slab.capacity()
    }

    pub(crate) fn at_place(&mut self, place: usize) -> Option<&mut Allocation> {
        self.slab.get_mut(place)
    }

    /// The allocation that a relay socket belongs to, one included which has expired but was not ended yet.
    pub(crate) fn at_relay(&self, relay: RelayId) -> Option<&Allocation> {
        self.slab.get((*self.by_relay.get(relay.index())?)?.0)
    }

    pub(crate) fn at_relay_mut(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        self.slab.get_mut((*self.by_relay.get(relay.index())?)?.0)
    }

    /// Any allocation.
    pub(crate) fn first(&self) -> Option<AllocationId> {
        self.by_expiry.first().map(|(_, id)| *id)
    }

    /// The allocations of these sessions. One session is looked for in the whole table: only operators ask for it.
    pub(crate) fn of_ending(&self, ending: &Ending) -> Vec<AllocationId> {
        let first = AllocationId(0);
        let is_of = |id: &AllocationId| self.slab.get(id.0).is_some_and(|it| ending.is_of(&it.tally.session));
        match ending {
            Ending::Session(_) => {
                let mut all = self.slab.iter();
                let found = all.find(|(_, allocation)| ending.is_of(&allocation.tally.session));
                found.map(|(place, _)| AllocationId(place)).into_iter().collect()
            }
            Ending::Credential(id) => {
                let found = self.by_credential.range((*id, first)..).take_while(|found| found.0 == *id);
                found.map(|found| found.1).collect()
            }
            Ending::Key(key) | Ending::CustomIdentifier { turn_key: key, .. } => {
                let found = self.by_turn_key.range((*key, first)..).take_while(|found| found.0 == *key);
                found.map(|found| found.1).filter(is_of).collect()
            }
        }
    }

    pub(crate) fn peek(&self, id: AllocationId) -> Option<&Allocation> {
        self.slab.get(id.0)
    }

    pub(crate) fn entry(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slab.get_mut(id.0)
    }

    pub(crate) fn make_mobile(&mut self, id: AllocationId, mobility: Mobility) {
        if let Some(allocation) = self.slab.get_mut(id.0) {
            self.by_identity.insert(mobility.identity, id);
            allocation.mobility = Some(Box::new(mobility));
        }
    }

    /// The live allocation that a ticket of this worker's names, whether or not the ticket is its newest.
    pub(crate) fn by_ticket(&self, ticket: &Ticket, worker: WorkerId, now_ms: u64) -> Option<AllocationId> {
        let id = *self.by_identity.get(&ticket.identity).filter(|_| ticket.worker == worker)?;
        self.slab.get(id.0)?.is_live(now_ms).then_some(id)
    }

    /// Has an allocation's client come from somewhere else: it will be there once it has sent data. Where it stays
    /// until then, if that is somewhere else.
    pub(crate) fn redirect(&mut self, id: AllocationId, to: Client) -> Option<Client> {
        self.turn_back(id);
        let allocation = self.slab.get_mut(id.0)?;
        let mobility = allocation.mobility.as_mut()?;
        if allocation.whereabouts == Whereabouts::Away || allocation.client.five_tuple == to.five_tuple {
            allocation.client = to;
            allocation.whereabouts = Whereabouts::Here;
        } else {
            mobility.next = Some(to);
            allocation.whereabouts = Whereabouts::Moving;
        }
        self.by_client.insert(to.five_tuple, id);
        (allocation.whereabouts == Whereabouts::Moving).then_some(allocation.client)
    }

    /// Gives up where an allocation's client was going to.
    pub(crate) fn turn_back(&mut self, id: AllocationId) {
        let Some(allocation) = self.slab.get_mut(id.0) else { return };
        let next = allocation.mobility.as_mut().and_then(|mobility| mobility.next.take());
        if let Some(next) = next {
            self.by_client.remove(&next.five_tuple);
            if allocation.whereabouts == Whereabouts::Moving {
                allocation.whereabouts = Whereabouts::Here;
            }
        }
    }

    /// Discards the old place of a client that has moved; where it was.
    pub(crate) fn settle(&mut self, id: AllocationId) -> Option<Client> {
        let allocation = self.slab.get_mut(id.0)?;
        let next = allocation.mobility.as_mut()?.next.take()?;
        self.by_client.remove(&allocation.client.five_tuple);
        allocation.whereabouts = Whereabouts::Here;
        Some(std::mem::replace(&mut allocation.client, next))
    }

    /// Has an allocation's client gone to nobody knows where.
    pub(crate) fn lose(&mut self, id: AllocationId) {
        if let Some(allocation) = self.slab.get_mut(id.0) {
            self.by_client.remove(&allocation.client.five_tuple);
            allocation.whereabouts = Whereabouts::Away;
        }
    }

    /// The allocations that a denial ends.
    pub(crate) fn denied_by(&self, denial: &Denial) -> Vec<AllocationId> {
        let first = AllocationId(0);
        match *denial {
            Denial::Credential { id, .. } => {
                let of_credential = self.by_credential.range((id, first)..);
                of_credential.take_while(|found| found.0 == id).map(|found| found.1).collect()
            }
            Denial::Key { key, .. } | Denial::Issued { key, .. } | Denial::Identifier { key, .. } => {
                let is_covered = |id: &AllocationId| {
                    self.slab.get(id.0).is_some_and(|allocation| denial.covers(&allocation.subject()))
                };
                self.all_of_turn_key(key).filter(is_covered).collect()
            }
        }
    }

    /// Every allocation of a key, by its place.
    pub(crate) fn all_of_turn_key(&self, key: TurnKeyId) -> impl Iterator<Item = AllocationId> {
        let of_key = self.by_turn_key.range((key, AllocationId(0))..);
        of_key.take_while(move |found| found.0 == key).map(|found| found.1)
    }
}

fn forget(by_relay: &mut [Option<AllocationId>], relay: &Relayed) {
    if let Some(slot) = by_relay.get_mut(relay.id.index()) {
        *slot = None;
    }
}
