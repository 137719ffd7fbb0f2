//! What a TURN server has to do, said as plainly as possible: maps, looked through from end to end.
//!
//! The model is written from the RFCs and not from the server. For each input it says what must come out
//! ([`Expected`]); when several rules refuse a request and no RFC orders them, any of their codes will do. It has
//! no nonces and ports of its own but learns the server's from its answers. Only the byte formats are shared with
//! the server: they have tests of their own.

mod allocate;
mod binding;
mod expected;
mod limits;
mod mobility;
mod packets;
mod redirect;
mod requests;
mod tcp;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use credentials::{CredentialId, Denial, Issued, SharedSecretId, Subject, TurnKeyId};
use stun::{IntegrityAlgorithm, LongTermKey, PasswordAlgorithm, TransactionId};
use turn::{
    Client, Discovery, EndReason, Ending, FiveTuple, KeyLimits, PortRange, RelayAddress, RelayId,
    StrangerLimit, Time, Transport,
};

pub use allocate::Ports;
pub use binding::Discovered;
use limits::{Debt, Used};
use mobility::Ticket;

pub use expected::{Expected, NewAllocation};
pub use mobility::{Arrival, Claim, Mobile, Place, Verdict};
pub use tcp::{Answer, Link, Stage};

/// RFC 8656 §9: a permission lasts five minutes.
const PERMISSION_MS: u64 = 300_000;
/// RFC 8656 §12: a channel lasts ten minutes.
const CHANNEL_MS: u64 = 600_000;
/// RFC 8656 §7.2: the default and least lifetime of an allocation is ten minutes.
const DEFAULT_LIFETIME_SECS: u64 = 600;
/// RFC 8656 §7.2: the recommended greatest lifetime is one hour.
const MAX_LIFETIME_SECS: u64 = 3_600;
/// RFC 8656 §7.2: a reservation is kept for at least 30 seconds; here for no longer.
const RESERVATION_MS: u64 = 30_000;

/// What differs between one server and another.
#[derive(Debug, Clone)]
pub struct Rules {
    /// REALM.
    pub realm: String,
    /// Relay addresses, at most one of a family.
    pub relays: Vec<RelayAddress>,
    /// Where NAT behaviour discovery is offered.
    pub discovery: Vec<Discovery>,
    /// Relay ports of each.
    pub ports: PortRange,
    /// How old a nonce may be.
    pub nonce_lifetime_secs: u64,
    /// How far ahead a time-limited username may expire.
    pub username_lifetime_secs: u64,
    /// Whether challenges offer password algorithms.
    pub offers_algorithms: bool,
    /// Whether channel numbers end with 0x4FFF, or with 0x7FFF as in RFC 5766.
    pub strict_channels: bool,
    /// Allocations at once.
    pub max_allocations: usize,
    /// Permissions of an allocation.
    pub max_permissions: usize,
    /// Channels of an allocation.
    pub max_channels: usize,
    /// Ports reserved in 30 seconds.
    pub max_reservations: usize,
    /// What every key may use.
    pub key_limits: KeyLimits,
    /// Answers to the unauthenticated of one IPv4 /24 or IPv6 /56.
    pub stranger_limit: Option<StrangerLimit>,
    /// Connections with the peers of an allocation.
    pub max_connections: usize,
    /// Connections with the peers of all of them.
    pub max_all_connections: usize,
    /// Addresses that may not be reached.
    pub forbidden: BTreeSet<IpAddr>,
    /// Whether allocations may be taken along. RFC 8016.
    pub mobility: bool,
    /// The server's own listeners, which may not be reached either.
    pub listeners: BTreeSet<SocketAddr>,
}

/// A credential as the model knows it: with its password.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its username.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Its id.
    pub id: CredentialId,
    /// Whom it was minted for.
    pub custom_identifier: String,
    /// The TURN key that minted it.
    pub turn_key: TurnKeyId,
    /// Unix seconds.
    pub expires_at: u64,
    /// Of a sealed one.
    pub issued: Option<Issued>,
    /// What it was minted with.
    pub minted_with: Minter,
}

/// What a credential is minted with: only while that is in use the credential is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minter {
    /// This key of the keyring.
    Keyring(u8),
    /// This shared secret of its TURN key.
    SharedSecret(SharedSecretId),
}

/// An allocation as the model knows it.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// The client: where it was heard last.
    pub client: Client,
    /// One, or one of each family.
    pub relays: Vec<Relay>,
    /// Whether it relays TCP connections, and not datagrams.
    pub tcp: bool,
    /// Who made it.
    pub username: String,
    /// Monotonic milliseconds; it is dead from then on.
    pub expires_ms: u64,
    /// Peer addresses, and until when.
    pub permissions: BTreeMap<IpAddr, u64>,
    /// Channel numbers, their peers, and until when.
    pub channels: BTreeMap<u16, (SocketAddr, u64)>,
    /// What it has relayed lately, to peers and to the client.
    used: [Used; 2],
    /// The peers it has named lately.
    new_peers: Debt,
    transaction: TransactionId,
    /// What the client was told when it was made.
    first: Told,
    /// Monotonic milliseconds.
    made_ms: u64,
    counted: usage::Counted,
    /// An operator has ended it.
    terminated: bool,
    /// Refreshed with a lifetime of zero.
    deleted: bool,
    /// When the second in which errors are counted began, and how many the client was told of in it.
    errors: (u64, u32),
    /// Its place in the order in which they were made.
    number: u64,
    /// Which worker has it.
    pub place: Place,
    /// If its client may take it along.
    pub mobile: Option<Mobile>,
    /// Sockets of a family deleted for itself, whose end the server has not told yet.
    closing: Vec<RelayId>,
}

/// A relayed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Its socket.
    pub id: RelayId,
    /// What peers see.
    pub address: SocketAddr,
}

/// A port kept for a second Allocate.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// What peers would see.
    pub address: SocketAddr,
    /// Who made it.
    pub username: String,
    /// Monotonic milliseconds; it is over when the server is next told the time.
    pub due_ms: u64,
}

/// What the answer to an Allocate said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// XOR-RELAYED-ADDRESS, all of them.
    pub relayed: Vec<SocketAddr>,
    /// LIFETIME.
    pub lifetime_secs: u64,
    /// RESERVATION-TOKEN.
    pub token: Option<Vec<u8>>,
    /// MOBILITY-TICKET.
    pub ticket: Option<Vec<u8>>,
    /// ADDRESS-ERROR-CODE: the family and the code.
    pub failed: Option<(u8, u16)>,
}

/// What a message's integrity is made with.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The key.
    pub key: LongTermKey,
    /// Which of the two integrities.
    pub integrity: IntegrityAlgorithm,
}

/// Who sent a request.
#[derive(Debug, Clone)]
struct Sender {
    account: Account,
    proof: Proof,
}

impl Allocation {
    /// The relayed address that reaches this peer.
    pub fn relay_to(&self, peer: SocketAddr) -> Option<Relay> {
        self.relays.iter().find(|relay| relay.address.is_ipv4() == peer.is_ipv4()).copied()
    }

    fn has(&self, id: RelayId) -> bool {
        self.relays.iter().any(|relay| relay.id == id)
    }

    fn is_live(&self, now: Time) -> bool {
        !self.deleted && now.monotonic_ms < self.expires_ms
    }

    fn permits(&self, peer: IpAddr, now: Time) -> bool {
        self.permissions.get(&peer).is_some_and(|until_ms| now.monotonic_ms < *until_ms)
    }

    fn channel(&self, number: u16, now: Time) -> Option<SocketAddr> {
        let (peer, until_ms) = self.channels.get(&number)?;
        (now.monotonic_ms < *until_ms).then_some(*peer)
    }

    /// Is over, or the named one of its two families; whether it is only that.
    fn delete(&mut self, family: Option<u8>) -> bool {
        let is_named =
            |relay: &Relay| family.is_none_or(|family| family == requests::family_of(relay.address.ip()));
        // RFC 8656 §8.2: of a dual allocation the named family only.
        let one_family = self.relays.len() == 2 && family.is_some();
        if one_family {
            self.closing.extend(self.relays.iter().filter(|r| is_named(r)).map(|r| r.id));
            self.relays.retain(|relay| !is_named(relay));
            // A late retransmission of the Allocate is not told of what is gone.
            let left: Vec<SocketAddr> = self.relays.iter().map(|relay| relay.address).collect();
            self.first.relayed.retain(|relayed| left.contains(relayed));
        } else {
            self.deleted = true;
        }
        one_family
    }

    fn channel_to(&self, peer: SocketAddr, now: Time) -> Option<u16> {
        self.channels.keys().copied().find(|number| self.channel(*number, now) == Some(peer))
    }
}

/// The model of one server.
#[derive(Debug)]
pub struct Model {
    rules: Rules,
    /// The worker that hears what comes now, where a server is several.
    worker: usize,
    /// An old path that has just ended, at another worker.
    over: Option<(usize, FiveTuple)>,
    /// How many allocations there were.
    made: u64,
    /// Every ticket that was ever told.
    tickets: BTreeMap<Vec<u8>, Ticket>,
    accounts: BTreeMap<String, Account>,
    /// Keyring keys in use.
    keyring: BTreeSet<u8>,
    shared_secrets: BTreeSet<(TurnKeyId, SharedSecretId)>,
    denied: Vec<Denial>,
    suspended: BTreeSet<TurnKeyId>,
    /// Every nonce the server has told: to whom, and when in seconds.
    nonces: BTreeMap<Vec<u8>, (Transport, SocketAddr, u64)>,
    /// Every allocation whose end the server has not told yet, in the order in which they were made.
    allocations: Vec<Allocation>,
    reservations: BTreeMap<Vec<u8>, Reservation>,
    /// When reservations are over, those included that were claimed before.
    reservations_due: Vec<u64>,
    /// The limits of keys that have some of their own.
    key_limits: BTreeMap<TurnKeyId, KeyLimits>,
    /// What they have relayed lately, to peers and to clients.
    key_used: BTreeMap<TurnKeyId, [Used; 2]>,
    /// What the unauthenticated were answered lately, by prefix, and whether they had signed.
    strangers: BTreeMap<Vec<u8>, Debt>,
    links: Vec<tcp::Link>,
    owed: Vec<tcp::Owed>,
    /// What operators have ended, and when.
    endings: Vec<(u64, Ending)>,
    redirect: redirect::Redirect,
}

impl Model {
    /// The model of a new server.
    pub fn new(rules: Rules, keyring: impl IntoIterator<Item = u8>) -> Self {
        Self {
            rules,
            worker: 0,
            over: None,
            made: 0,
            tickets: BTreeMap::new(),
            accounts: BTreeMap::new(),
            keyring: keyring.into_iter().collect(),
            shared_secrets: BTreeSet::new(),
            denied: Vec::new(),
            suspended: BTreeSet::new(),
            nonces: BTreeMap::new(),
            allocations: Vec::new(),
            reservations: BTreeMap::new(),
            reservations_due: Vec::new(),
            key_limits: BTreeMap::new(),
            key_used: BTreeMap::new(),
            strangers: BTreeMap::new(),
            links: Vec::new(),
            owed: Vec::new(),
            endings: Vec::new(),
            redirect: redirect::Redirect::default(),
        }
    }

    /// What it goes by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Makes a credential known.
    pub fn add_account(&mut self, account: Account) {
        self.accounts.insert(account.username.clone(), account);
    }

    /// Every credential made known.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// Every allocation that has not been told to be over, in the order in which they were made.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.iter()
    }

    /// Every relayed address of theirs.
    pub fn relays(&self) -> impl Iterator<Item = Relay> {
        self.allocations.iter().flat_map(|allocation| allocation.relays.iter().copied())
    }

    /// Every port that is kept, by its token.
    pub fn reservations(&self) -> impl Iterator<Item = (&Vec<u8>, &Reservation)> {
        self.reservations.iter()
    }

    /// When the server has to be told the time next.
    pub fn timeout(&self) -> Option<u64> {
        let held = self.allocations.iter().filter(|allocation| allocation.place != Place::UnderWay);
        let expiries = held.map(|allocation| allocation.expires_ms);
        expiries.chain(self.reservations_due.iter().copied()).chain(self.links_due()).min()
    }

    /// The server was told the time: reservations that are due are over.
    pub fn swept(&mut self, now: Time) {
        self.reservations.retain(|_, reservation| now.monotonic_ms < reservation.due_ms);
        self.reservations_due.retain(|due_ms| now.monotonic_ms < *due_ms);
    }

    /// The allocation of a relay socket.
    pub fn allocation(&self, relay: RelayId) -> Option<&Allocation> {
        self.allocations.iter().find(|allocation| allocation.has(relay))
    }

    /// A client's allocation, if it has one that lives.
    pub fn live(&self, client: Client, now: Time) -> Option<&Allocation> {
        let mut live = self.allocations.iter().filter(|allocation| allocation.is_live(now));
        live.find(|allocation| self.is_here(allocation) && allocation.is_at(&client.five_tuple))
    }

    /// The nonces this client was told, oldest first.
    pub fn nonces_of(&self, client: &FiveTuple) -> Vec<Vec<u8>> {
        let to = (client.transport, client.client);
        let mut found: Vec<_> =
            self.nonces.iter().filter(|(_, (transport, address, _))| (*transport, *address) == to).collect();
        found.sort_by_key(|(_, (_, _, at))| *at);
        found.into_iter().map(|(nonce, _)| nonce.clone()).collect()
    }

    /// Every moment at which something runs out, in monotonic milliseconds.
    pub fn boundaries(&self, now: Time) -> Vec<u64> {
        let mut moments = Vec::new();
        for allocation in &self.allocations {
            moments.push(allocation.expires_ms);
            moments.extend(allocation.permissions.values());
            moments.extend(allocation.channels.values().map(|(_, until_ms)| *until_ms));
        }
        moments.extend(&self.reservations_due);
        moments.extend(self.links_due());
        for account in self.accounts.values() {
            let accepted_from = account.expires_at - self.rules.username_lifetime_secs;
            let accepted_from =
                matches!(account.minted_with, Minter::SharedSecret(_)).then_some(accepted_from);
            for unix_secs in accepted_from.into_iter().chain([account.expires_at]) {
                moments.extend((unix_secs * 1_000).checked_sub(now.unix_ms).map(|ms| now.monotonic_ms + ms));
            }
        }
        moments
    }

    /// A denial was commanded.
    pub fn deny(&mut self, denial: Denial) {
        if let Denial::Key { key, .. } = denial {
            self.key_limits.remove(&key);
            self.suspended.remove(&key);
            self.set_shared_secrets(key, []);
        }
        self.denied.push(denial);
    }

    /// A TURN key is suspended from now on, or not any more.
    pub fn suspend(&mut self, key: TurnKeyId, suspended: bool) {
        if suspended {
            self.suspended.insert(key);
        } else {
            self.suspended.remove(&key);
        }
    }

    /// Whether it is.
    pub fn is_suspended(&self, key: TurnKeyId) -> bool {
        self.suspended.contains(&key)
    }

    /// These are a TURN key's shared secrets from now on.
    pub fn set_shared_secrets(&mut self, key: TurnKeyId, ids: impl IntoIterator<Item = SharedSecretId>) {
        self.shared_secrets.retain(|(held, _)| *held != key);
        self.shared_secrets.extend(ids.into_iter().map(|id| (key, id)));
    }

    /// These keyring keys hold from now on.
    pub fn set_keyring(&mut self, keys: impl IntoIterator<Item = u8>) {
        self.keyring = keys.into_iter().collect();
    }

    /// These addresses may not be reached from now on.
    pub fn set_forbidden(&mut self, forbidden: BTreeSet<IpAddr>) {
        self.rules.forbidden = forbidden;
    }

    /// Whether a credential or its key was denied, or its shared secret is gone.
    pub fn is_refused(&self, account: &Account) -> bool {
        let is_gone = match account.minted_with {
            Minter::SharedSecret(id) => !self.shared_secrets.contains(&(account.turn_key, id)),
            Minter::Keyring(_) => false,
        };
        let subject = Subject { key: account.turn_key, credential: account.id, issued: account.issued };
        is_gone
            || self.suspended.contains(&account.turn_key)
            || self.denied.iter().any(|denial| denies(denial, &subject))
    }

    /// Whether a username is accepted at this time, whoever signs with it.
    fn is_accepted(&self, account: &Account, now: Time) -> bool {
        match account.minted_with {
            Minter::Keyring(key) => self.keyring.contains(&key),
            Minter::SharedSecret(_) => {
                account.expires_at <= now.unix_secs() + self.rules.username_lifetime_secs
            }
        }
    }

    fn is_over(&self, allocation: &Allocation, now: Time) -> Option<EndReason> {
        if allocation.deleted {
            Some(EndReason::Deleted)
        } else if self.accounts.get(&allocation.username).is_some_and(|account| self.is_refused(account)) {
            Some(EndReason::Denied)
        } else if allocation.terminated {
            Some(EndReason::Terminated)
        } else if !allocation.is_live(now) {
            Some(EndReason::Expired)
        } else {
            None
        }
    }

    /// The server has told that an allocation is over. `gone`: whose connection was just closed.
    ///
    /// # Errors
    /// When it is not, or for another reason.
    pub fn ended(
        &mut self,
        now: Time,
        client: Client,
        relay: RelayId,
        reason: EndReason,
        gone: Option<FiveTuple>,
    ) -> Result<(), String> {
        if let Some(link) = self.links.iter().find(|link| link.relay == relay) {
            return Err(format!("{relay:?} ended before {link:?}"));
        }
        if let Some(closing) = self.allocations.iter_mut().find(|held| held.closing.contains(&relay)) {
            closing.closing.retain(|held| *held != relay);
            let fits = (closing.client, EndReason::Deleted) == (client, reason);
            return if fits { Ok(()) } else { Err(format!("{relay:?} ended for {client:?}, {reason:?}")) };
        }
        let place = self.allocations.iter().position(|allocation| allocation.has(relay));
        let place = place.ok_or_else(|| format!("{relay:?} had no allocation to end"))?;
        let mut allocation = self.allocations.remove(place);
        if allocation.client != client {
            return Err(format!("ended for {client:?}, but it is {allocation:?}"));
        }
        let is_gone = gone == Some(client.five_tuple) && allocation.mobile.is_none();
        let gone = is_gone.then_some(EndReason::ClientGone);
        let fits = gone == Some(reason)
            || self.is_over(&allocation, now) == Some(reason)
            // Whoever is denied when its time is over anyway may be told either way.
            || (reason == EndReason::Expired && now.monotonic_ms >= allocation.expires_ms);
        if !fits {
            return Err(format!("ended for {reason:?}: {allocation:?}"));
        }
        if !allocation.has_said(reason) {
            return Err(format!("ended before it was reported: {allocation:?}"));
        }
        allocation.relays.retain(|held| held.id != relay);
        if !allocation.relays.is_empty() || !allocation.closing.is_empty() {
            self.allocations.insert(place, allocation);
        }
        Ok(())
    }

    /// After the server has done all that is due: nothing that is over is left. `swept`: whether it was told the
    /// time; an allocation that has run out may wait for that, one that was ended may not.
    ///
    /// # Errors
    /// Names what is left.
    pub fn check_ends(&self, now: Time, swept: bool) -> Result<(), String> {
        let mut held = self.allocations.iter().filter(|allocation| allocation.place != Place::UnderWay);
        let left = held.find(|allocation| match self.is_over(allocation, now) {
            None => !allocation.closing.is_empty() || allocation.relays.is_empty(),
            Some(EndReason::Expired) => swept,
            Some(_) => true,
        });
        left.map_or(Ok(()), |left| Err(format!("not ended: {left:?}")))?;
        self.check_links(now, swept)
    }

    /// Whether any of a peer address's ports may be reached.
    fn may_permit(&self, peer: IpAddr) -> bool {
        self.is_own_relay(peer) || !self.rules.forbidden.contains(&peer)
    }

    /// Whether a peer may be sent to.
    pub fn may_reach(&self, peer: SocketAddr) -> bool {
        let allowed = if self.is_own_relay(peer.ip()) {
            self.rules.ports.contains(peer.port())
        } else {
            !self.rules.forbidden.contains(&peer.ip())
        };
        allowed && !self.rules.listeners.contains(&peer)
    }

    fn is_own_relay(&self, ip: IpAddr) -> bool {
        self.rules.relays.iter().any(|relay| relay.public == ip || relay.local == ip)
    }

    fn key_of(&self, account: &Account, algorithm: PasswordAlgorithm) -> LongTermKey {
        LongTermKey::with_algorithm(
            algorithm,
            account.username.as_bytes(),
            self.rules.realm.as_bytes(),
            account.password.as_bytes(),
        )
    }
}

/// What a denial means, said another time.
fn denies(denial: &Denial, subject: &Subject) -> bool {
    let Subject { key: of, credential, issued } = *subject;
    let at = issued.map_or(u64::MAX, |issued| issued.at);
    match *denial {
        Denial::Credential { id, .. } => id == credential,
        Denial::Key { key, .. } => key == of,
        Denial::Issued { key, before, .. } => key == of && at < before,
        Denial::Identifier { key, identifier, before, .. } => {
            key == of && at < before && issued.map(|issued| issued.identifier) == Some(identifier)
        }
    }
}
