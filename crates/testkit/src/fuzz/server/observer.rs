//! Somebody who sees all packets and knows from them what may be relayed. It believes no more than what the
//! server has granted, so it needs no rule of how a request is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use credentials::{CredentialId, Denial, TurnKeyId};
use stun::{
    AttributeType, ChannelNumber, Class, Integrity, IntegrityAlgorithm, Kind, LongTermKey, Message, Method,
    PasswordAlgorithm, address, channel_data,
};
use turn::{Client, ConnectionId, FiveTuple, RelayId, Reply, Time};

use super::world::{Account, LISTENERS, REALM, address as socket_address};

/// How long a permission and a channel last, in milliseconds. RFC 8656 §9 and §12.
const PERMISSION_MS: u64 = 300_000;
const CHANNEL_MS: u64 = 600_000;
/// An answer to somebody unknown is at most this many tenths of the question.
const MAX_TENTHS: usize = 34;

/// What one relay socket may do.
#[derive(Debug)]
struct Held {
    client: FiveTuple,
    account: Account,
    expires_ms: u64,
    /// Until when, in monotonic milliseconds.
    permissions: BTreeMap<IpAddr, u64>,
    channels: BTreeMap<ChannelNumber, (SocketAddr, u64)>,
}

/// A connection with a peer.
#[derive(Debug)]
struct Link {
    relay: RelayId,
    /// It waits for a data connection.
    waits: bool,
    /// Somebody waits for it to be made.
    is_asked: bool,
    /// The server has been told that it failed.
    failed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Observer {
    links: BTreeMap<ConnectionId, Link>,
    held: BTreeMap<RelayId, Held>,
    denied: BTreeSet<CredentialId>,
    denied_keys: BTreeSet<TurnKeyId>,
    /// Whether a 401 lists password algorithms, and is longer for it.
    offers_algorithms: bool,
    /// How many ports may be reserved beside those in use.
    pub(super) reserved: usize,
    /// Whether 9.9.9.0/24 is out of reach, too.
    pub(super) narrow: bool,
}

impl Observer {
    pub(super) fn new(offers_algorithms: bool) -> Self {
        Self { offers_algorithms, ..Self::default() }
    }

    pub(super) fn relays(&self) -> usize {
        self.held.len()
    }

    /// A response went out.
    pub(super) fn reply(
        &mut self,
        now: Time,
        client: Client,
        request: &[u8],
        (reply, response): (Reply, &[u8]),
        opened: &[RelayId],
        accounts: &[Account],
    ) {
        let request = Message::parse(request).expect("only messages are answered");
        let parsed = Message::parse(response).expect("a response is a message");
        super::super::message(response);
        assert_eq!(request.class(), Class::Request, "only requests are answered");
        assert_eq!((parsed.transaction(), parsed.method()), (request.transaction(), request.method()));
        let class = if matches!(reply, Reply::Success(_)) { Class::Success } else { Class::Error };
        assert_eq!(parsed.class(), class);
        assert_eq!(parsed.attribute(AttributeType::ERROR_CODE).is_some(), class == Class::Error);
        if !self.offers_algorithms && algorithm_of(&parsed).is_none() {
            let (asked, answered) = (request.as_bytes().len(), response.len());
            assert!(10 * answered <= MAX_TENTHS * asked, "{answered} bytes for {asked}");
        }
        let Reply::Success(method) = reply else {
            assert!(opened.is_empty(), "no socket is opened for a refusal");
            return;
        };
        if method == Method::BINDING {
            return;
        }
        // A data connection has no allocation of its own.
        if method == Method::CONNECTION_BIND {
            let account = signer(&request, &parsed, accounts);
            assert!(self.is_valid(account, now), "a credential that is over is good for nothing");
            return;
        }
        let account = signer(&request, &parsed, accounts);
        assert!(self.is_valid(account, now), "a credential that is over is good for nothing");
        self.granted(now, client.five_tuple, &request, &parsed, opened, account);
    }

    fn is_valid(&self, account: &Account, now: Time) -> bool {
        now.unix_secs() < account.expires_at
            && !self.denied.contains(&account.id)
            && !self.denied_keys.contains(&account.turn_key)
    }

    /// A request succeeded: what it asked for may happen from now on.
    fn granted(
        &mut self,
        now: Time,
        client: FiveTuple,
        request: &Message<'_>,
        response: &Message<'_>,
        opened: &[RelayId],
        account: &Account,
    ) {
        let method = request.method();
        let lifetime =
            response.attribute(AttributeType::LIFETIME).and_then(|it| <[u8; 4]>::try_from(it).ok());
        let expires_ms =
            now.monotonic_ms + 1_000 * u64::from(u32::from_be_bytes(lifetime.unwrap_or_default()));
        assert!(opened.is_empty() || method == Method::ALLOCATE, "only Allocate opens sockets");
        for relay in opened {
            let (permissions, channels) = (BTreeMap::new(), BTreeMap::new());
            let held = Held { client, account: account.clone(), expires_ms, permissions, channels };
            assert!(self.held.insert(*relay, held).is_none());
        }
        self.reserved += usize::from(response.attribute(AttributeType::RESERVATION_TOKEN).is_some());
        let number = request.attribute(AttributeType::CHANNEL_NUMBER).and_then(ChannelNumber::from_attribute);
        let mut found = false;
        for held in self.held.values_mut().filter(|held| held.client == client) {
            found = true;
            assert_eq!(held.account.id, account.id, "an allocation is its credential's");
            match method {
                // What is still there after a deletion is the other address of a dual allocation.
                Method::REFRESH if expires_ms == now.monotonic_ms => {}
                Method::REFRESH => held.expires_ms = expires_ms,
                Method::CREATE_PERMISSION => peers(request).for_each(|peer| held.permit(peer, now)),
                Method::CHANNEL_BIND => {
                    let (number, peer) = number.zip(peers(request).next()).expect("both were there");
                    held.bind(number, peer, now);
                }
                _ => {}
            }
        }
        assert!(found || method == Method::REFRESH, "{method:?} succeeds where there is an allocation");
    }

    /// A client's packet went to a peer.
    pub(super) fn to_peer(
        &self,
        now: Time,
        client: Client,
        sent: &[u8],
        (relay, peer): (RelayId, SocketAddr),
        data: &[u8],
    ) {
        let held = self.live(now, relay, peer);
        assert_eq!(held.client, client.five_tuple, "a client uses its own allocation");
        assert!(
            !LISTENERS.map(socket_address).contains(&peer),
            "nothing is relayed to this server's own listeners"
        );
        if Kind::of(sent) == Kind::ChannelData {
            let (number, length) = channel_data::parse(sent).expect("what was relayed was whole");
            assert_eq!(held.channel(number, now), Some(peer));
            assert_eq!(sent.get(4..4 + length), Some(data));
            return;
        }
        let message = Message::parse(sent).expect("what was relayed was a message");
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::SEND));
        assert_eq!(peers(&message).next(), Some(peer));
        assert_eq!(message.attribute(AttributeType::DATA), Some(data));
        assert!(held.permits(peer.ip(), now), "{peer} is not permitted");
        assert!(!(self.narrow && peer.to_string().starts_with("9.9.9.")), "the policy forbids {peer}");
    }

    /// The DF bit is set as the client asks: in a Send indication, by its attribute.
    pub(super) fn dont_fragment(&self, sent: &[u8], is_set: bool) {
        let asked = Message::parse(sent).is_ok_and(|it| it.attribute(AttributeType::DONT_FRAGMENT).is_some());
        assert!(is_set == asked || Kind::of(sent) == Kind::ChannelData, "{} relays", self.relays());
    }

    /// A peer's datagram went to a client.
    pub(super) fn to_client(
        &self,
        now: Time,
        client: Client,
        (relay, peer): (RelayId, SocketAddr),
        data: &[u8],
        sent: &[u8],
    ) {
        let held = self.live(now, relay, peer);
        assert_eq!(held.client, client.five_tuple, "a peer reaches its allocation's client");
        assert!(held.permits(peer.ip(), now), "{peer} is not permitted");
        if Kind::of(sent) == Kind::ChannelData {
            let (number, length) = channel_data::parse(sent).expect("ChannelData is whole");
            assert_eq!(held.channel(number, now), Some(peer));
            let (sent, padding) = sent.get(4..).unwrap_or_default().split_at(length);
            assert_eq!(sent, data);
            let is_stream = client.five_tuple.transport.is_stream();
            assert!(padding.iter().all(|byte| *byte == 0));
            assert_eq!(padding.len(), if is_stream { channel_data::stream_padding(length) } else { 0 });
            return;
        }
        let message = Message::parse(sent).expect("an indication is a message");
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(peers(&message).next(), Some(peer));
        assert_eq!(message.attribute(AttributeType::DATA), Some(data));
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.links.keys().copied()
    }

    /// The server asks for a connection to a peer.
    pub(super) fn connecting(
        &mut self,
        now: Time,
        client: Client,
        (relay, peer): (RelayId, SocketAddr),
        connection: ConnectionId,
    ) {
        let held = self.live(now, relay, peer);
        assert_eq!(held.client, client.five_tuple, "a client uses its own allocation");
        assert!(!LISTENERS.map(socket_address).contains(&peer), "not to this server's own listeners");
        assert!(!(self.narrow && peer.to_string().starts_with("9.9.9.")), "the policy forbids {peer}");
        let link = Link { relay, waits: false, is_asked: true, failed: false };
        assert!(self.links.insert(connection, link).is_none(), "a name for one connection");
    }

    /// A peer's connection was accepted.
    pub(super) fn accepted(
        &mut self,
        now: Time,
        (relay, peer): (RelayId, SocketAddr),
        connection: ConnectionId,
    ) {
        assert!(self.live(now, relay, peer).permits(peer.ip(), now), "{peer} is not permitted");
        let link = Link { relay, waits: true, is_asked: false, failed: false };
        assert!(self.links.insert(connection, link).is_none(), "a name for one connection");
    }

    /// A client's connection becomes a data connection.
    pub(super) fn bound(&mut self, client: Client, connection: ConnectionId) {
        let link = self.links.get_mut(&connection).expect("what is bound is there");
        assert!(link.waits, "nothing is bound twice, or before it is made");
        link.waits = false;
        assert!(client.five_tuple.transport.is_stream());
        assert!(!self.held.values().any(|held| held.client == client.five_tuple), "a connection of its own");
    }

    /// A client was told something that it has not asked for in this moment.
    pub(super) fn told(&mut self, client: Client, reply: Option<Reply>, message: &[u8]) {
        super::super::message(message);
        let message = Message::parse(message).expect("what is told is a message");
        let id = message.attribute(AttributeType::CONNECTION_ID);
        let id = id.and_then(|value| <[u8; 4]>::try_from(value).ok());
        let id = id.map(|id| ConnectionId(u32::from_be_bytes(id)));
        assert!(client.five_tuple.transport.is_stream());
        match reply {
            None => assert_eq!(message.class(), Class::Indication),
            Some(Reply::Success(method)) => {
                assert_eq!((method, message.class()), (Method::CONNECT, Class::Success));
                let link = id.and_then(|id| self.links.get_mut(&id)).expect("it is there");
                assert!(std::mem::take(&mut link.is_asked), "answered once");
                link.waits = true;
            }
            Some(Reply::Refused(refusal)) => assert_eq!(refusal.code().code(), 447),
        }
    }

    /// The server is about to be told that a connection could not be made.
    pub(super) fn disconnected_soon(&mut self, connection: ConnectionId) {
        self.links.get_mut(&connection).into_iter().for_each(|link| link.failed = link.is_asked);
        self.links.retain(|_, link| !link.failed);
    }

    pub(super) fn settled(&self) {
        assert!(self.links.values().all(|link| self.held.contains_key(&link.relay)));
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId) {
        self.links.remove(&connection);
    }

    /// What a relay socket may do, if anything may pass through it at all.
    fn live(&self, now: Time, relay: RelayId, peer: SocketAddr) -> &Held {
        let held = self.held.get(&relay).expect("nothing passes through a closed socket");
        assert!(now.monotonic_ms < held.expires_ms, "nothing passes after the lifetime");
        assert!(self.is_valid(&held.account, now), "nothing passes after the credential");
        let ip = peer.ip().to_canonical().to_string();
        assert!(!ip.starts_with("10.") && !ip.starts_with("127."), "nothing passes to or from {peer}");
        held
    }

    pub(super) fn ended(&mut self, client: Client, relay: RelayId) {
        assert!(self.links.values().all(|link| link.relay != relay), "connections end before their relay");
        let held = self.held.remove(&relay).expect("what ended was there");
        assert_eq!(held.client, client.five_tuple);
    }

    pub(super) fn check_time(&self, now: Time) {
        for held in self.held.values() {
            assert!(now.monotonic_ms < held.expires_ms && self.is_valid(&held.account, now));
        }
    }

    pub(super) fn deny(&mut self, denial: Denial, remembered: bool) {
        let is_denied = |account: &Account| match denial {
            Denial::Credential { id, .. } => account.id == id,
            Denial::Key { key, .. } => account.turn_key == key,
        };
        assert!(!self.held.values().any(|held| is_denied(&held.account)), "a denial ends allocations");
        match denial {
            Denial::Credential { id, .. } if remembered => _ = self.denied.insert(id),
            Denial::Key { key, .. } if remembered => _ = self.denied_keys.insert(key),
            _ => {}
        }
    }
}

impl Held {
    fn permit(&mut self, peer: SocketAddr, now: Time) {
        self.permissions.insert(peer.ip(), now.monotonic_ms + PERMISSION_MS);
    }

    fn permits(&self, peer: IpAddr, now: Time) -> bool {
        self.permissions.get(&peer).is_some_and(|until| now.monotonic_ms < *until)
    }

    fn bind(&mut self, number: ChannelNumber, peer: SocketAddr, now: Time) {
        let others = self.channels.iter().filter(|(_, (_, until))| now.monotonic_ms < *until);
        for (bound, (to, _)) in others {
            assert_eq!(*bound == number, *to == peer, "a channel and its peer stay together");
        }
        self.channels.insert(number, (peer, now.monotonic_ms + CHANNEL_MS));
        self.permit(peer, now);
    }

    fn channel(&self, number: ChannelNumber, now: Time) -> Option<SocketAddr> {
        let (peer, until) = self.channels.get(&number)?;
        (now.monotonic_ms < *until).then_some(*peer)
    }
}

/// Whose request it was: the response proves that it was checked.
fn signer<'a>(request: &Message<'_>, response: &Message<'_>, accounts: &'a [Account]) -> &'a Account {
    let value = |kind| request.attribute(kind).unwrap_or_default();
    let username = value(AttributeType::USERNAME);
    let account = accounts.iter().find(|account| account.username.as_bytes() == username);
    let account = account.expect("only who has a credential is granted anything");
    let algorithm = request.attribute(AttributeType::PASSWORD_ALGORITHM).and_then(PasswordAlgorithm::parse);
    let algorithm = algorithm.unwrap_or(PasswordAlgorithm::Md5);
    let password = account.password.as_bytes();
    let key = LongTermKey::with_algorithm(algorithm, username, REALM.as_bytes(), password);
    for message in [request, response] {
        let by = algorithm_of(message).expect("what is granted is signed, and so is the answer");
        assert_eq!(message.integrity_by(by, &key), Integrity::Verified);
    }
    account
}

/// The stronger one of those that a message is signed with.
fn algorithm_of(message: &Message<'_>) -> Option<IntegrityAlgorithm> {
    let both = [IntegrityAlgorithm::Sha256, IntegrityAlgorithm::Sha1];
    both.into_iter().find(|algorithm| message.attribute(algorithm.attribute()).is_some())
}

fn peers<'m>(message: &Message<'m>) -> impl Iterator<Item = SocketAddr> + use<'m> {
    let transaction = message.transaction();
    let attributes = message.attributes().filter(|it| it.kind == AttributeType::XOR_PEER_ADDRESS);
    attributes.filter_map(move |attribute| address::decode_xor(attribute.value, transaction))
}
