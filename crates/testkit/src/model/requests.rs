//! What requests are answered with.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use credentials::TimeLimited;
use stun::{AttributeType as A, Integrity, IntegrityAlgorithm, Message, Method, PasswordAlgorithm, address};
use turn::{Client, FiveTuple, Time};

use super::expected::Expected;
use super::{
    Account, Allocation, CHANNEL_MS, DEFAULT_LIFETIME_SECS, MAX_LIFETIME_SECS, Minter, Model, PERMISSION_MS,
    Proof, Relay, Sender,
};

/// The comprehension-required attributes the server is to understand.
pub(super) const KNOWN: [A; 21] = [
    A::CONNECTION_ID,
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

/// The longest request that shared secrets are tried for, unless the one that a client's allocation was made with fits.
const LONGEST_TRIED: usize = 2_048;

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
pub(super) fn four(message: &Message<'_>, kind: A) -> Result<Option<[u8; 4]>, u16> {
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
pub(super) struct Faults(pub(super) BTreeSet<u16>);

impl Faults {
    pub(super) fn when(&mut self, wrong: bool, code: u16) {
        if wrong {
            self.0.insert(code);
        }
    }

    pub(super) fn take<T>(&mut self, value: Result<T, u16>) -> Option<T> {
        value.map_err(|code| self.0.insert(code)).ok()
    }
}

impl Model {
    /// What a request must be answered with. `in_use`: see [`Model::from_client`].
    pub(super) fn request(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        in_use: Option<u32>,
    ) -> Expected {
        let unknown = unknown_attributes(message);
        if message.method() == Method::BINDING {
            return self.binding(client, message);
        }
        let ours = [
            Method::ALLOCATE,
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
            Method::CONNECT,
            Method::CONNECTION_BIND,
        ];
        if !ours.contains(&message.method()) {
            return Expected::Silence;
        }
        let sender = match self.authenticate(now, client, message) {
            Ok(sender) => sender,
            Err(Unproven::Silence) => return Expected::Silence,
            Err(Unproven::SilenceOrChallenge) => return Expected::SilenceOrChallenge,
            Err(Unproven::Refused(code)) => {
                return Expected::Refused { codes: BTreeSet::from([code]), proof: None, unknown: vec![] };
            }
        };
        let proof = Some(sender.proof.clone());
        if !unknown.is_empty() {
            return Expected::Refused { codes: BTreeSet::from([420]), proof, unknown };
        }
        let outcome = match message.method() {
            Method::ALLOCATE => self.allocate(now, client, message, &sender, in_use),
            Method::REFRESH => self.refresh(now, client, message, &sender),
            Method::CREATE_PERMISSION => self.create_permission(now, client, message, &sender),
            Method::CONNECT => self.connect(now, client, message, &sender),
            Method::CONNECTION_BIND => self.connection_bind(now, client, message, &sender),
            _ => self.channel_bind(now, client, message, &sender),
        };
        outcome.unwrap_or_else(|codes| Expected::Refused { codes, proof, unknown })
    }

    /// RFC 8489 §9.2.4, whose order is binding.
    fn authenticate(&self, now: Time, client: Client, message: &Message<'_>) -> Result<Sender, Unproven> {
        let strongest = if message.attribute(A::MESSAGE_INTEGRITY_SHA256).is_some() {
            IntegrityAlgorithm::Sha256
        } else {
            IntegrityAlgorithm::Sha1
        };
        if message.attribute(strongest.attribute()).is_none() {
            let binds =
                message.method() == Method::CONNECTION_BIND && client.five_tuple.transport.is_stream();
            let begins = message.method() == Method::ALLOCATE || binds;
            return if begins || self.live(client, now).is_some() {
                Err(Unproven::Refused(401))
            } else if self.holds(client) {
                // The server may have forgotten already.
                Err(Unproven::SilenceOrChallenge)
            } else {
                // Strangers get no byte back.
                Err(Unproven::Silence)
            };
        }
        let (Some(_), Some(nonce)) = (message.attribute(A::REALM), message.attribute(A::NONCE)) else {
            return Err(Unproven::Refused(400));
        };
        let Some(username) = message.attribute(A::USERNAME) else {
            // Nobody is found by USERHASH, which is not offered.
            let code = if message.attribute(A::USERHASH).is_some() { 401 } else { 400 };
            return Err(Unproven::Refused(code));
        };
        let Some(algorithm) = self.password_algorithm(message) else { return Err(Unproven::Refused(400)) };
        let account = std::str::from_utf8(username).ok().and_then(|name| self.accounts.get(name));
        let signs = |account: &&Account| {
            message.integrity_by(strongest, &self.key_of(account, algorithm)) == Integrity::Verified
        };
        if message.as_bytes().len() > LONGEST_TRIED
            && TimeLimited::parse(username).is_some()
            && !self.shared_secrets.is_empty()
            && message.attribute(A::REALM).is_some_and(|realm| self.realm_is(realm))
            && !account.filter(signs).is_some_and(|account| self.remembers_minter(client, account))
        {
            return Err(Unproven::Silence);
        }
        let valid = account.filter(|account| {
            self.is_accepted(account, now)
                && signs(account)
                && now.unix_ms < account.expires_at * 1_000
                && !self.is_refused(account)
        });
        let account = valid.cloned().ok_or(Unproven::Refused(401))?;
        let told = self.nonces.get(nonce).filter(|(transport, address, at)| {
            let age = (now.monotonic_ms / 1_000).checked_sub(*at);
            let FiveTuple { transport: own_transport, client: own, .. } = client.five_tuple;
            // One told to a data connection is good on all of the client's connections.
            let any_port = matches!(message.method(), Method::CONNECT | Method::CONNECTION_BIND)
                && *address == SocketAddr::new(own.ip(), 0);
            *transport == own_transport
                && (*address == own || any_port)
                && age.is_some_and(|age| age <= self.rules.nonce_lifetime_secs)
        });
        if told.is_none() {
            return Err(Unproven::Refused(438));
        }
        let named = self.rules.offers_algorithms && message.attribute(A::PASSWORD_ALGORITHMS).is_some();
        let integrity = if named { IntegrityAlgorithm::Sha256 } else { IntegrityAlgorithm::Sha1 };
        let proof = Proof { key: self.key_of(&account, algorithm), integrity };
        Ok(Sender { account, proof })
    }

    /// Whether this client's allocation was made with the shared secret that the account was minted with.
    fn remembers_minter(&self, client: Client, account: &Account) -> bool {
        let held = self.allocations.iter().find(|held| self.is_here(held) && held.is_at(&client.five_tuple));
        let owner = held.and_then(|held| self.accounts.get(&held.username));
        owner.is_some_and(|owner| {
            (owner.turn_key, owner.minted_with) == (account.turn_key, account.minted_with)
                && self.shared_secrets.iter().any(|(key, id)| {
                    (*key, Minter::SharedSecret(*id)) == (account.turn_key, account.minted_with)
                })
        })
    }

    /// RFC 8489 §9.2.4: none named is MD5; else the list as it was offered and one of it.
    fn password_algorithm(&self, message: &Message<'_>) -> Option<PasswordAlgorithm> {
        if !self.rules.offers_algorithms {
            return Some(PasswordAlgorithm::Md5);
        }
        match (message.attribute(A::PASSWORD_ALGORITHMS), message.attribute(A::PASSWORD_ALGORITHM)) {
            (None, None) | (Some([0, 2, 0, 0, 0, 1, 0, 0]), Some([0, 1, 0, 0])) => {
                Some(PasswordAlgorithm::Md5)
            }
            (Some([0, 2, 0, 0, 0, 1, 0, 0]), Some([0, 2, 0, 0])) => Some(PasswordAlgorithm::Sha256),
            _ => None,
        }
    }

    /// RFC 8656 §5: what holds for every request about an allocation.
    pub(super) fn own_allocation(
        &mut self,
        now: Time,
        client: Client,
        sender: &Sender,
        faults: &mut Faults,
    ) -> Option<&mut Allocation> {
        let here = super::Place::At(self.worker);
        let mut live = self.allocations.iter_mut().filter(|allocation| allocation.is_live(now));
        let found = live.find(|allocation| allocation.place == here && allocation.is_at(&client.five_tuple));
        faults.when(found.is_none(), 437);
        let foreign = found.as_ref().is_some_and(|found| found.username != sender.account.username);
        faults.when(foreign, 441);
        found
    }

    fn refresh(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
    ) -> Result<Expected, BTreeSet<u16>> {
        let proof = sender.proof.clone();
        if let Some(ticket) = message.attribute(A::MOBILITY_TICKET) {
            return self.refresh_with_ticket(now, client, message, sender, ticket);
        }
        let mut faults = Faults::default();
        let lifetime = faults.take(lifetime(message)).flatten();
        let family = faults.take(four(message, A::REQUESTED_ADDRESS_FAMILY)).flatten();
        let found = self.own_allocation(now, client, sender, &mut faults);
        let is_named =
            |relay: &Relay| family.is_none_or(|[family, ..]| family == family_of(relay.address.ip()));
        faults.when(found.as_ref().is_some_and(|found| !found.relays.iter().any(is_named)), 443);
        match found {
            Some(found) if faults.0.is_empty() => {
                if lifetime == Some(0) {
                    let one_family = found.delete(family.map(|[family, ..]| family));
                    return Ok(Expected::Refreshed { one_family, lifetime_secs: 0, proof });
                }
                let (lifetime_secs, expires_ms) = granted(now, lifetime, &sender.account);
                found.expires_ms = expires_ms;
                Ok(Expected::Refreshed { one_family: false, lifetime_secs, proof })
            }
            _ => Err(faults.0),
        }
    }

    fn create_permission(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
    ) -> Result<Expected, BTreeSet<u16>> {
        let proof = sender.proof.clone();
        let mut faults = Faults::default();
        let peers = peers(message);
        faults.when(peers.is_empty() || peers.contains(&None), 400);
        let peers: Vec<SocketAddr> = peers.into_iter().flatten().collect();
        faults.when(peers.iter().any(|peer| !self.may_permit(peer.ip())), 403);
        let limits = self.limits_of(sender.account.turn_key);
        let max = limits
            .permissions
            .map_or(self.rules.max_permissions, |max| self.rules.max_permissions.min(max as usize));
        let found = self.own_allocation(now, client, sender, &mut faults);
        let Some(found) = found else { return Err(faults.0) };
        faults.when(peers.iter().any(|peer| found.relay_to(*peer).is_none()), 443);
        let new_peers = Self::new_peers(now, &limits, found, peers.iter().map(SocketAddr::ip));
        faults.when(new_peers.is_none(), 508);
        let mut after = found.permissions.clone();
        after.retain(|_, until_ms| now.monotonic_ms < *until_ms);
        let before = after.len();
        after.extend(peers.iter().map(|peer| (peer.ip(), now.monotonic_ms + PERMISSION_MS)));
        // What is there is refreshed whatever the limit has become.
        faults.when(after.len() > max.max(before), 508);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        found.permissions = after;
        found.new_peers = new_peers.unwrap_or_default();
        Ok(Expected::Done { proof })
    }

    fn channel_bind(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
    ) -> Result<Expected, BTreeSet<u16>> {
        let proof = sender.proof.clone();
        let mut faults = Faults::default();
        let number = faults.take(four(message, A::CHANNEL_NUMBER)).flatten();
        let number = number.map(|[high, low, ..]| u16::from_be_bytes([high, low]));
        let last = if self.rules.strict_channels { 0x4FFF } else { 0x7FFF };
        let number = number.filter(|number| (0x4000..=last).contains(number));
        let peer = peers(message).first().copied().flatten();
        faults.when(number.is_none() || peer.is_none(), 400);
        faults.when(peer.is_some_and(|peer| !self.may_reach(peer)), 403);
        let limits = self.limits_of(sender.account.turn_key);
        let least = |max: usize, limit: Option<u32>| limit.map_or(max, |limit| max.min(limit as usize));
        let max_permissions = least(self.rules.max_permissions, limits.permissions);
        let max_channels = least(self.rules.max_channels, limits.channels);
        let found = self.own_allocation(now, client, sender, &mut faults);
        faults.when(found.as_ref().is_some_and(|found| found.tcp), 437);
        let (Some(found), Some(number), Some(peer)) = (found, number, peer) else { return Err(faults.0) };
        faults.when(found.relay_to(peer).is_none(), 443);
        let new_peers = Self::new_peers(now, &limits, found, [peer.ip()]);
        faults.when(new_peers.is_none(), 508);
        // RFC 8656 §12.2: the channel not bound to another peer, the peer not bound to another channel.
        let bound_to = found.channel(number, now);
        faults.when(bound_to.is_some_and(|bound| bound != peer), 400);
        let channel_of = found.channel_to(peer, now);
        faults.when(channel_of.is_some_and(|channel| channel != number), 400);
        let mut permissions = found.permissions.clone();
        permissions.retain(|_, until_ms| now.monotonic_ms < *until_ms);
        let max_permissions = max_permissions.max(permissions.len());
        permissions.insert(peer.ip(), now.monotonic_ms + PERMISSION_MS);
        let mut channels = found.channels.clone();
        channels.retain(|_, (_, until_ms)| now.monotonic_ms < *until_ms);
        let max_channels = max_channels.max(channels.len());
        channels.insert(number, (peer, now.monotonic_ms + CHANNEL_MS));
        faults.when(permissions.len() > max_permissions || channels.len() > max_channels, 508);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        (found.permissions, found.channels) = (permissions, channels);
        found.new_peers = new_peers.unwrap_or_default();
        Ok(Expected::Done { proof })
    }

    pub(super) fn learn_nonce(&mut self, now: Time, client: Client, method: Method, nonce: &[u8]) {
        let FiveTuple { transport, client, .. } = client.five_tuple;
        let port = if method == Method::CONNECTION_BIND { 0 } else { client.port() };
        let told = (transport, SocketAddr::new(client.ip(), port), now.monotonic_ms / 1_000);
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

pub(super) fn lifetime(message: &Message<'_>) -> Result<Option<u32>, u16> {
    Ok(four(message, A::LIFETIME)?.map(u32::from_be_bytes))
}

/// The lifetime told, in seconds rounded up, and the moment it ends.
pub(super) fn granted(now: Time, requested: Option<u32>, account: &Account) -> (u64, u64) {
    let asked = requested.map_or(DEFAULT_LIFETIME_SECS, u64::from);
    let wanted_ms = asked.clamp(DEFAULT_LIFETIME_SECS, MAX_LIFETIME_SECS) * 1_000;
    let credential_ms = account.expires_at * 1_000 - now.unix_ms;
    let lifetime_ms = wanted_ms.min(credential_ms);
    (lifetime_ms.div_ceil(1_000), now.monotonic_ms + lifetime_ms)
}

/// Whether a response's integrity is as expected: made with this and no other, or not there.
pub(super) fn is_signed_as(message: &Message<'_>, proof: Option<&Proof>) -> bool {
    [IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256].into_iter().all(|integrity| {
        match proof.filter(|proof| proof.integrity == integrity) {
            Some(proof) => message.integrity_by(integrity, &proof.key) == Integrity::Verified,
            None => message.attribute(integrity.attribute()).is_none(),
        }
    })
}

/// The number of an address's family. RFC 8656 §18.6.
pub(super) fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 1 } else { 2 }
}
