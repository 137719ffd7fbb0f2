//! What requests are answered with.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use stun::{AttributeType as A, Integrity, IntegrityAlgorithm, LongTermKey, Message, Method, address};
use turn::{Client, Time, Transport};

use super::expected::Expected;
use super::{
    Account, Allocation, CHANNEL_MS, DEFAULT_LIFETIME_SECS, MAX_LIFETIME_SECS, Model, PERMISSION_MS,
};

/// The comprehension-required attributes the server is to understand.
const KNOWN: [A; 20] = [
    A::MAPPED_ADDRESS,
    A::USERNAME,
    A::MESSAGE_INTEGRITY,
    A::MESSAGE_INTEGRITY_SHA256,
    A::PASSWORD_ALGORITHM,
    A::EVEN_PORT,
    A::RESERVATION_TOKEN,
    A::DONT_FRAGMENT,
    A::ERROR_CODE,
    A::UNKNOWN_ATTRIBUTES,
    A::CHANNEL_NUMBER,
    A::LIFETIME,
    A::XOR_PEER_ADDRESS,
    A::DATA,
    A::REALM,
    A::NONCE,
    A::XOR_RELAYED_ADDRESS,
    A::REQUESTED_ADDRESS_FAMILY,
    A::REQUESTED_TRANSPORT,
    A::XOR_MAPPED_ADDRESS,
];

/// How many nonces are kept before those that are too old anyway are forgotten.
const KEPT_NONCES: usize = 100;

pub(super) fn unknown_attributes(message: &Message<'_>) -> Vec<u16> {
    message.unknown_attributes(|kind| KNOWN.contains(&kind)).map(|kind| kind.0).collect()
}

/// Every XOR-PEER-ADDRESS, `None` for one that is malformed.
pub(super) fn peers(message: &Message<'_>) -> Vec<Option<SocketAddr>> {
    let all = message.attributes().filter(|attribute| attribute.kind == A::XOR_PEER_ADDRESS);
    all.map(|attribute| address::decode_xor(attribute.value, message.transaction())).collect()
}

/// An attribute's four bytes: absent, malformed, or there.
fn four(message: &Message<'_>, kind: A) -> Result<Option<[u8; 4]>, u16> {
    message.attribute(kind).map(|value| value.try_into().map_err(|_| 400)).transpose()
}

/// What comes of a request whose sender is not proven to be anyone.
enum Unproven {
    Silence,
    SilenceOrChallenge,
    Refused(u16),
}

/// Collects what is wrong with a request.
#[derive(Default)]
struct Faults(BTreeSet<u16>);

impl Faults {
    fn when(&mut self, wrong: bool, code: u16) {
        if wrong {
            self.0.insert(code);
        }
    }

    fn take<T>(&mut self, value: Result<T, u16>) -> Option<T> {
        value.map_err(|code| self.0.insert(code)).ok()
    }
}

impl Model {
    /// What a request must be answered with. `opens`: whether the next relay socket can be opened.
    pub(super) fn request(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        opens: bool,
    ) -> Expected {
        let unknown = unknown_attributes(message);
        if message.method() == Method::BINDING {
            return if unknown.is_empty() {
                Expected::Mapped { mapped: client.five_tuple.client }
            } else {
                Expected::Refused { codes: BTreeSet::from([420]), key: None, unknown }
            };
        }
        let ours = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
        if !ours.contains(&message.method()) {
            return Expected::Silence;
        }
        let account = match self.authenticate(now, client, message) {
            Ok(account) => account,
            Err(Unproven::Silence) => return Expected::Silence,
            Err(Unproven::SilenceOrChallenge) => return Expected::SilenceOrChallenge,
            Err(Unproven::Refused(code)) => {
                return Expected::Refused { codes: BTreeSet::from([code]), key: None, unknown: vec![] };
            }
        };
        let key = self.key_of(&account);
        if !unknown.is_empty() {
            return Expected::Refused { codes: BTreeSet::from([420]), key: Some(key), unknown };
        }
        let outcome = match message.method() {
            Method::ALLOCATE => self.allocate(now, client, message, &account, opens),
            Method::REFRESH => self.refresh(now, client, message, &account),
            Method::CREATE_PERMISSION => self.create_permission(now, client, message, &account),
            _ => self.channel_bind(now, client, message, &account),
        };
        outcome.unwrap_or_else(|codes| Expected::Refused { codes, key: Some(key), unknown })
    }

    /// RFC 8489 §9.2.4, whose order is binding.
    fn authenticate(&self, now: Time, client: Client, message: &Message<'_>) -> Result<Account, Unproven> {
        let strongest = if message.attribute(A::MESSAGE_INTEGRITY_SHA256).is_some() {
            IntegrityAlgorithm::Sha256
        } else {
            IntegrityAlgorithm::Sha1
        };
        if message.attribute(strongest.attribute()).is_none() {
            return if message.method() == Method::ALLOCATE || self.live(client, now).is_some() {
                Err(Unproven::Refused(401))
            } else if self.holds(client) {
                // The server may have forgotten already.
                Err(Unproven::SilenceOrChallenge)
            } else {
                // Strangers get no byte back.
                Err(Unproven::Silence)
            };
        }
        let (Some(username), Some(_), Some(nonce)) =
            (message.attribute(A::USERNAME), message.attribute(A::REALM), message.attribute(A::NONCE))
        else {
            return Err(Unproven::Refused(400));
        };
        let told = self.nonces.get(nonce).filter(|(transport, address, at)| {
            let age = (now.monotonic_ms / 1_000).checked_sub(*at);
            (*transport, *address) == (client.five_tuple.transport, client.five_tuple.client)
                && age.is_some_and(|age| age <= self.rules.nonce_lifetime_secs)
        });
        if told.is_none() {
            return Err(Unproven::Refused(438));
        }
        let account = std::str::from_utf8(username).ok().and_then(|name| self.accounts.get(name));
        let valid = account.filter(|account| {
            self.keyring.contains(&account.sealed_by)
                && message.integrity_by(strongest, &self.key_of(account)) == Integrity::Verified
                && now.unix_ms < account.expires_at * 1_000
                && !self.is_refused(account)
        });
        valid.cloned().ok_or(Unproven::Refused(401))
    }

    fn allocate(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        account: &Account,
        opens: bool,
    ) -> Result<Expected, BTreeSet<u16>> {
        let key = self.key_of(account);
        if let Some(held) = self.live(client, now) {
            if held.transaction == message.transaction() && held.username == account.username {
                let relayed = held.relayed;
                return Ok(Expected::AllocatedAgain {
                    relayed,
                    lifetime_secs: held.first_lifetime_secs,
                    key,
                });
            }
            return Err(BTreeSet::from([437]));
        }
        let mut faults = Faults::default();
        let stream = client.five_tuple.transport == Transport::Tcp;
        match faults.take(four(message, A::REQUESTED_TRANSPORT)) {
            Some(None) => faults.when(true, 400),
            Some(Some([17, ..])) | None => {}
            Some(Some([6, ..])) => faults.when(true, if stream { 442 } else { 400 }),
            Some(Some(_)) => faults.when(true, 442),
        }
        let family = faults.take(four(message, A::REQUESTED_ADDRESS_FAMILY));
        let relay = match family {
            Some(None | Some([1, ..])) => self.rules.relays.iter().find(|relay| relay.public.is_ipv4()),
            Some(Some([2, ..])) => self.rules.relays.iter().find(|relay| relay.public.is_ipv6()),
            Some(Some(_)) | None => None,
        };
        faults.when(family.is_some() && relay.is_none(), 440);
        let lifetime = faults.take(lifetime(message)).flatten();
        let live = self.allocations.values().filter(|allocation| allocation.is_live(now)).count();
        let on_this = |a: &&Allocation| relay.is_some_and(|relay| a.relayed.ip() == relay.public);
        let ports_taken = self.allocations.values().filter(on_this).count();
        let full = live >= self.rules.max_allocations || ports_taken >= self.rules.ports.len();
        faults.when(full || !opens, 508);
        match relay {
            Some(relay) if faults.0.is_empty() => {
                let (lifetime_secs, expires_ms) = granted(now, lifetime, account);
                let (ip, username) = (relay.public, account.username.clone());
                Ok(Expected::Allocated { ip, lifetime_secs, expires_ms, username, key })
            }
            _ => Err(faults.0),
        }
    }

    /// RFC 8656 §5: what holds for every request about an allocation.
    fn own_allocation(
        &mut self,
        now: Time,
        client: Client,
        account: &Account,
        faults: &mut Faults,
    ) -> Option<&mut Allocation> {
        let mut live = self.allocations.values_mut().filter(|allocation| allocation.is_live(now));
        let found = live.find(|allocation| allocation.client.five_tuple == client.five_tuple);
        faults.when(found.is_none(), 437);
        let foreign = found.as_ref().is_some_and(|found| found.username != account.username);
        faults.when(foreign, 441);
        found
    }

    fn refresh(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        account: &Account,
    ) -> Result<Expected, BTreeSet<u16>> {
        let key = self.key_of(account);
        let mut faults = Faults::default();
        let lifetime = faults.take(lifetime(message)).flatten();
        let family = faults.take(four(message, A::REQUESTED_ADDRESS_FAMILY)).flatten();
        let found = self.own_allocation(now, client, account, &mut faults);
        if let (Some([family, ..]), Some(found)) = (family, &found) {
            faults.when((family == 1) != found.relayed.is_ipv4() || family > 2 || family == 0, 443);
        }
        match found {
            Some(found) if faults.0.is_empty() => {
                if lifetime == Some(0) {
                    found.deleted = true;
                    return Ok(Expected::Refreshed { lifetime_secs: 0, key });
                }
                let (lifetime_secs, expires_ms) = granted(now, lifetime, account);
                found.expires_ms = expires_ms;
                Ok(Expected::Refreshed { lifetime_secs, key })
            }
            _ => Err(faults.0),
        }
    }

    fn create_permission(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        account: &Account,
    ) -> Result<Expected, BTreeSet<u16>> {
        let key = self.key_of(account);
        let mut faults = Faults::default();
        let peers = peers(message);
        faults.when(peers.is_empty() || peers.contains(&None), 400);
        let peers: Vec<SocketAddr> = peers.into_iter().flatten().collect();
        faults.when(peers.iter().any(|peer| !self.may_permit(peer.ip())), 403);
        let max = self.rules.max_permissions;
        let found = self.own_allocation(now, client, account, &mut faults);
        let Some(found) = found else { return Err(faults.0) };
        faults.when(peers.iter().any(|peer| peer.is_ipv4() != found.relayed.is_ipv4()), 443);
        let mut after = found.permissions.clone();
        after.retain(|_, until_ms| now.monotonic_ms < *until_ms);
        after.extend(peers.iter().map(|peer| (peer.ip(), now.monotonic_ms + PERMISSION_MS)));
        faults.when(after.len() > max, 508);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        found.permissions = after;
        Ok(Expected::Done { key })
    }

    fn channel_bind(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        account: &Account,
    ) -> Result<Expected, BTreeSet<u16>> {
        let key = self.key_of(account);
        let mut faults = Faults::default();
        let number = faults.take(four(message, A::CHANNEL_NUMBER)).flatten();
        let number = number.map(|[high, low, ..]| u16::from_be_bytes([high, low]));
        let number = number.filter(|number| (0x4000..=0x4FFF).contains(number));
        let peer = peers(message).first().copied().flatten();
        faults.when(number.is_none() || peer.is_none(), 400);
        faults.when(peer.is_some_and(|peer| !self.may_reach(peer)), 403);
        let (max_permissions, max_channels) = (self.rules.max_permissions, self.rules.max_channels);
        let found = self.own_allocation(now, client, account, &mut faults);
        let (Some(found), Some(number), Some(peer)) = (found, number, peer) else { return Err(faults.0) };
        faults.when(peer.is_ipv4() != found.relayed.is_ipv4(), 443);
        // RFC 8656 §12.2: the channel not bound to another peer, the peer not bound to another channel.
        let bound_to = found.channel(number, now);
        faults.when(bound_to.is_some_and(|bound| bound != peer), 400);
        let channel_of = found.channel_to(peer, now);
        faults.when(channel_of.is_some_and(|channel| channel != number), 400);
        let mut permissions = found.permissions.clone();
        permissions.retain(|_, until_ms| now.monotonic_ms < *until_ms);
        permissions.insert(peer.ip(), now.monotonic_ms + PERMISSION_MS);
        let mut channels = found.channels.clone();
        channels.retain(|_, (_, until_ms)| now.monotonic_ms < *until_ms);
        channels.insert(number, (peer, now.monotonic_ms + CHANNEL_MS));
        faults.when(permissions.len() > max_permissions || channels.len() > max_channels, 508);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        (found.permissions, found.channels) = (permissions, channels);
        Ok(Expected::Done { key })
    }

    pub(super) fn learn_nonce(&mut self, now: Time, client: Client, nonce: &[u8]) {
        let told = (client.five_tuple.transport, client.five_tuple.client, now.monotonic_ms / 1_000);
        self.nonces.insert(nonce.to_vec(), told);
        if self.nonces.len() > KEPT_NONCES {
            // One that is too old for long is refused like one that never was.
            let oldest = (now.monotonic_ms / 1_000).saturating_sub(2 * self.rules.nonce_lifetime_secs);
            self.nonces.retain(|_, (_, _, at)| *at > oldest);
        }
    }

    pub(super) fn realm_is(&self, realm: &[u8]) -> bool {
        realm == self.rules.realm.as_bytes()
    }
}

fn lifetime(message: &Message<'_>) -> Result<Option<u32>, u16> {
    Ok(four(message, A::LIFETIME)?.map(u32::from_be_bytes))
}

/// The lifetime told, in seconds rounded up, and the moment it ends.
fn granted(now: Time, requested: Option<u32>, account: &Account) -> (u64, u64) {
    let asked = requested.map_or(DEFAULT_LIFETIME_SECS, u64::from);
    let wanted_ms = asked.clamp(DEFAULT_LIFETIME_SECS, MAX_LIFETIME_SECS) * 1_000;
    let credential_ms = account.expires_at * 1_000 - now.unix_ms;
    let lifetime_ms = wanted_ms.min(credential_ms);
    (lifetime_ms.div_ceil(1_000), now.monotonic_ms + lifetime_ms)
}

/// Whether a response's integrity is as expected: made with the key, or not there.
pub(super) fn is_signed_as(message: &Message<'_>, key: Option<&LongTermKey>) -> bool {
    match key {
        Some(key) => message.integrity(key) == Integrity::Verified,
        None => message.attribute(A::MESSAGE_INTEGRITY).is_none(),
    }
}
