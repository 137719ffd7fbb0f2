//! Somebody who sees all packets and knows from them what may be relayed. It believes no more than what the
//! server has granted, so it needs no rule of how a request is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use credentials::{Denial, SharedSecretId, TurnKeyId};
use stun::{AttributeType, ChannelNumber, Class, Kind, Message, Method, address, channel_data};
use turn::{Client, ConnectionId, FiveTuple, Reply, Time};

use super::accounts::Account;
use super::limits::{Direction, Limited, Relayed, Strangers};
use super::tickets::Tickets;
use super::world::{LISTENERS, WORKERS, address as socket_address};

/// How long a permission and a channel last, in milliseconds. RFC 8656 §9 and §12.
const PERMISSION_MS: u64 = 300_000;
const CHANNEL_MS: u64 = 600_000;

/// What one relay socket may do.
#[derive(Debug)]
pub(super) struct Held {
    /// Which allocation's it is: both sockets of a dual one have the same.
    pub(super) number: u64,
    /// The worker that has it; none while it is under way.
    pub(super) at: Option<usize>,
    /// Where its client may be heard, in the order in which that was granted: where it was, and where it came to.
    pub(super) paths: Vec<FiveTuple>,
    /// Some of its paths may have ended, of which only the server knows.
    pub(super) is_vague: bool,
    pub(super) account: Account,
    pub(super) expires_ms: u64,
    /// Until when, in monotonic milliseconds.
    pub(super) permissions: BTreeMap<IpAddr, u64>,
    pub(super) channels: BTreeMap<ChannelNumber, (SocketAddr, u64)>,
    pub(super) relayed: Relayed,
}

/// A connection with a peer.
#[derive(Debug)]
struct Link {
    relay: SocketAddr,
    /// It waits for a data connection.
    waits: bool,
    /// Somebody waits for it to be made.
    is_asked: bool,
    /// The server has been told that it failed.
    failed: bool,
}

/// What a worker has been told.
#[derive(Debug, Default)]
pub(super) struct Known {
    denied: Vec<Denial>,
    suspended: BTreeSet<TurnKeyId>,
    secrets: BTreeMap<TurnKeyId, BTreeSet<SharedSecretId>>,
    pub(super) limits: Limited,
    /// Whether 9.9.9.0/24 is out of reach, too.
    pub(super) narrow: bool,
}

impl Known {
    pub(super) fn is_valid(&self, account: &Account, now: Time) -> bool {
        let secrets = self.secrets.get(&account.turn_key);
        now.unix_secs() < account.expires_at
            && !self.denied.iter().any(|denial| denial.covers(&account.subject()))
            && !self.suspended.contains(&account.turn_key)
            && account.secret.is_none_or(|secret| secrets.is_some_and(|held| held.contains(&secret)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Observer {
    links: BTreeMap<ConnectionId, Link>,
    /// By what a relay socket is bound to.
    pub(super) held: BTreeMap<SocketAddr, Held>,
    /// How many allocations there have been.
    pub(super) allocations: u64,
    pub(super) workers: [Known; WORKERS],
    pub(super) tickets: Tickets,
    pub(super) strangers: Strangers,
    /// Whether a 401 lists password algorithms, and is longer for it.
    pub(super) offers_algorithms: bool,
    /// How many ports may be reserved beside those in use.
    pub(super) reserved: usize,
}

impl Observer {
    pub(super) fn new(offers_algorithms: bool, is_limited: bool) -> Self {
        Self { offers_algorithms, strangers: Strangers::new(is_limited), ..Self::default() }
    }

    pub(super) fn relays(&self) -> usize {
        self.held.len()
    }

    pub(super) fn known(&mut self, worker: usize) -> &mut Known {
        self.workers.get_mut(worker).expect("there is such a worker")
    }

    pub(super) fn is_valid(&self, worker: usize, account: &Account, now: Time) -> bool {
        self.workers.get(worker).is_some_and(|known| known.is_valid(account, now))
    }

    /// A client's packet went to a peer.
    pub(super) fn relayed(
        &mut self,
        now: Time,
        (worker, client): (usize, Client),
        sent: &[u8],
        (relay, peer): (SocketAddr, SocketAddr),
        data: &[u8],
    ) {
        let held = self.live(now, worker, (relay, peer));
        assert!(held.paths.contains(&client.five_tuple), "a client uses its own allocation");
        self.check_reach(worker, peer);
        if Kind::of(sent) == Kind::ChannelData {
            let (number, length) = channel_data::parse(sent).expect("what was relayed was whole");
            assert_eq!(held.channel(number, now), Some(peer));
            assert_eq!(sent.get(4..4 + length), Some(data));
        } else {
            let message = Message::parse(sent).expect("what was relayed was a message");
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::SEND));
            assert_eq!(peers(&message).next(), Some(peer));
            assert_eq!(message.attribute(AttributeType::DATA), Some(data));
            assert!(held.permits(peer.ip(), now), "{peer} is not permitted");
            let policy = self.workers.get(worker).expect("there is such a worker");
            assert!(!(policy.narrow && is_narrowed(peer)), "the policy forbids {peer}");
        }
        self.heard(relay, client.five_tuple);
        self.count(now, worker, relay, Direction::ToPeer, data.len());
    }

    fn check_reach(&self, worker: usize, peer: SocketAddr) {
        assert!(self.workers.get(worker).is_some());
        let own = LISTENERS.map(socket_address);
        assert!(!own.contains(&peer), "nothing is relayed to this server's own listeners");
    }

    /// The DF bit is set as the client asks: in a Send indication, by its attribute.
    pub(super) fn dont_fragment(&self, sent: &[u8], is_set: bool) {
        let asked = Message::parse(sent).is_ok_and(|it| it.attribute(AttributeType::DONT_FRAGMENT).is_some());
        assert!(is_set == asked || Kind::of(sent) == Kind::ChannelData, "{} relays", self.relays());
    }

    /// A peer's datagram went to a client.
    pub(super) fn delivered(
        &mut self,
        now: Time,
        (worker, client): (usize, Client),
        (relay, peer): (SocketAddr, SocketAddr),
        data: &[u8],
        sent: &[u8],
    ) {
        self.check_client(now, (worker, client), (relay, peer));
        let held = self.live(now, worker, (relay, peer));
        if Kind::of(sent) == Kind::ChannelData {
            let (number, length) = channel_data::parse(sent).expect("ChannelData is whole");
            assert_eq!(held.channel(number, now), Some(peer));
            let (sent, padding) = sent.get(4..).unwrap_or_default().split_at(length);
            assert_eq!(sent, data);
            let is_stream = client.five_tuple.transport.is_stream();
            assert!(padding.iter().all(|byte| *byte == 0));
            assert_eq!(padding.len(), if is_stream { channel_data::stream_padding(length) } else { 0 });
        } else {
            let message = Message::parse(sent).expect("an indication is a message");
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
            assert_eq!(peers(&message).next(), Some(peer));
            assert_eq!(message.attribute(AttributeType::DATA), Some(data));
        }
        self.count(now, worker, relay, Direction::ToClient, data.len());
    }

    /// A client was told that what it sent to a peer did not arrive.
    pub(super) fn undelivered(
        &self,
        now: Time,
        (worker, client): (usize, Client),
        (relay, peer): (SocketAddr, SocketAddr),
        sent: &[u8],
    ) {
        self.check_client(now, (worker, client), (relay, peer));
        let policy = self.workers.get(worker).expect("there is such a worker");
        assert!(!(policy.narrow && is_narrowed(peer)), "the policy forbids {peer}");
        let message = Message::parse(sent).expect("an indication is a message");
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(peers(&message).next(), Some(peer));
        assert!(message.attribute(AttributeType::ICMP).is_some_and(|value| value.len() == 8));
        assert!(message.attribute(AttributeType::DATA).is_none());
    }

    fn check_client(
        &self,
        now: Time,
        (worker, client): (usize, Client),
        (relay, peer): (SocketAddr, SocketAddr),
    ) {
        let held = self.live(now, worker, (relay, peer));
        let may = match held.paths.first() {
            // Until it is heard where it has come to, its data goes to where it was.
            Some(first) if !held.is_vague => *first == client.five_tuple,
            _ => held.paths.contains(&client.five_tuple),
        };
        assert!(may, "a peer reaches its allocation's client");
        assert!(held.permits(peer.ip(), now), "{peer} is not permitted");
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.links.keys().copied()
    }

    /// The server asks for a connection to a peer.
    pub(super) fn connecting(
        &mut self,
        now: Time,
        (worker, client): (usize, Client),
        (relay, peer): (SocketAddr, SocketAddr),
        connection: ConnectionId,
    ) {
        let held = self.live(now, worker, (relay, peer));
        assert_eq!(held.paths, [client.five_tuple], "a client uses its own allocation");
        self.check_reach(worker, peer);
        let policy = self.workers.get(worker).expect("there is such a worker");
        assert!(!(policy.narrow && is_narrowed(peer)), "the policy forbids {peer}");
        let link = Link { relay, waits: false, is_asked: true, failed: false };
        assert!(self.links.insert(connection, link).is_none(), "a name for one connection");
    }

    /// A peer's connection was accepted.
    pub(super) fn accepted(
        &mut self,
        now: Time,
        worker: usize,
        (relay, peer): (SocketAddr, SocketAddr),
        connection: ConnectionId,
    ) {
        assert!(self.live(now, worker, (relay, peer)).permits(peer.ip(), now), "{peer} is not permitted");
        let link = Link { relay, waits: true, is_asked: false, failed: false };
        assert!(self.links.insert(connection, link).is_none(), "a name for one connection");
    }

    /// A client's connection becomes a data connection.
    pub(super) fn bound(&mut self, worker: usize, client: Client, connection: ConnectionId) {
        let link = self.links.get_mut(&connection).expect("what is bound is there");
        assert!(link.waits, "nothing is bound twice, or before it is made");
        link.waits = false;
        assert!(client.five_tuple.transport.is_stream());
        assert_eq!(self.held.get(&link.relay).and_then(|held| held.at), Some(worker));
        let mut exact = self.held.values().filter(|held| held.at == Some(worker) && !held.is_vague);
        assert!(!exact.any(|held| held.paths.contains(&client.five_tuple)), "a connection of its own");
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
    fn live(&self, now: Time, worker: usize, (relay, peer): (SocketAddr, SocketAddr)) -> &Held {
        let held = self.held.get(&relay).expect("nothing passes through a closed socket");
        assert_eq!(held.at, Some(worker), "an allocation is one worker's");
        assert!(now.monotonic_ms < held.expires_ms, "nothing passes after the lifetime");
        assert!(self.is_valid(worker, &held.account, now), "nothing passes after the credential");
        let ip = peer.ip().to_canonical().to_string();
        assert!(!ip.starts_with("10.") && !ip.starts_with("127."), "nothing passes to or from {peer}");
        held
    }

    pub(super) fn ended(&mut self, client: Client, relay: SocketAddr) {
        assert!(self.links.values().all(|link| link.relay != relay), "connections end before their relay");
        let held = self.held.remove(&relay).expect("what ended was there");
        assert!(held.paths.contains(&client.five_tuple));
    }

    /// After a worker's timer.
    pub(super) fn check_time(&self, worker: usize, now: Time) {
        for held in self.held.values().filter(|held| held.at == Some(worker)) {
            assert!(now.monotonic_ms < held.expires_ms && self.is_valid(worker, &held.account, now));
        }
    }

    /// A worker has been told a denial.
    pub(super) fn deny(&mut self, worker: usize, denial: Denial, is_remembered: bool) {
        let mut here = self.held.values().filter(|held| held.at == Some(worker));
        assert!(!here.any(|held| denial.covers(&held.account.subject())), "a denial ends allocations");
        let known = self.known(worker);
        if let Denial::Key { key, .. } = denial {
            known.secrets.remove(&key);
            known.limits.forget(key);
            known.suspended.remove(&key);
        }
        if is_remembered {
            known.denied.push(denial);
        }
    }

    /// A worker has been told that a key is suspended, or is no more.
    pub(super) fn suspend(&mut self, worker: usize, key: TurnKeyId, suspended: bool) {
        let mut here = self.held.values().filter(|held| held.at == Some(worker));
        if suspended {
            assert!(!here.any(|held| held.account.turn_key == key), "a suspension ends allocations");
            self.known(worker).suspended.insert(key);
        } else {
            self.known(worker).suspended.remove(&key);
        }
    }

    /// A worker has been told what a key's shared secrets are.
    pub(super) fn set_secrets(&mut self, worker: usize, key: TurnKeyId, secrets: BTreeSet<SharedSecretId>) {
        let mut here = self.held.values().filter(|held| held.at == Some(worker));
        let is_gone = |held: &Held| {
            held.account.turn_key == key && held.account.secret.is_some_and(|held| !secrets.contains(&held))
        };
        assert!(!here.any(is_gone), "an allocation ends with its shared secret");
        self.known(worker).secrets.insert(key, secrets);
    }
}

impl Held {
    pub(super) fn permit(&mut self, peer: SocketAddr, now: Time) {
        self.permissions.insert(peer.ip(), now.monotonic_ms + PERMISSION_MS);
    }

    pub(super) fn permits(&self, peer: IpAddr, now: Time) -> bool {
        self.permissions.get(&peer).is_some_and(|until| now.monotonic_ms < *until)
    }

    pub(super) fn bind(&mut self, number: ChannelNumber, peer: SocketAddr, now: Time) {
        let others = self.channels.iter().filter(|(_, (_, until))| now.monotonic_ms < *until);
        for (bound, (to, _)) in others {
            let stay_together = (*bound == number) == (*to == peer);
            // What is bound may be another one's that is on the same path now.
            assert!(stay_together || self.is_vague, "a channel and its peer stay together");
        }
        self.channels.insert(number, (peer, now.monotonic_ms + CHANNEL_MS));
        self.permit(peer, now);
    }

    pub(super) fn channel(&self, number: ChannelNumber, now: Time) -> Option<SocketAddr> {
        let (peer, until) = self.channels.get(&number)?;
        (now.monotonic_ms < *until).then_some(*peer)
    }
}

fn is_narrowed(peer: SocketAddr) -> bool {
    peer.to_string().starts_with("9.9.9.")
}

pub(super) fn peers<'m>(message: &Message<'m>) -> impl Iterator<Item = SocketAddr> + use<'m> {
    let transaction = message.transaction();
    let attributes = message.attributes().filter(|it| it.kind == AttributeType::XOR_PEER_ADDRESS);
    attributes.filter_map(move |attribute| address::decode_xor(attribute.value, transaction))
}
