//! A TURN client without I/O: packets, time and wishes go in; packets and events come out.
//!
//! After every call that takes something in (a wish such as [`Client::allocate`], [`Client::handle_packet`] or
//! [`Client::handle_timeout`]), take all of [`Client::poll_transmit`] and [`Client::poll_event`], and look at
//! [`Client::poll_timeout`] again. Time is in milliseconds of any clock that never goes back.
//!
//! The client signs its requests once the server has told realm and nonce (401), takes a new nonce when it is
//! told one (438), sends again over UDP what is not answered, and believes only responses to its own requests
//! and with their integrity.

pub mod blocking;
pub mod dtls;
mod frames;
mod pending;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, Integrity, Kind, Message, Method, PasswordAlgorithm,
    TransactionId, address, channel_data,
};
use turn::{Icmp, Transport};

pub use blocking::{BlockingClient, Error};
pub use frames::Frames;
pub use pending::{RELIABLE_TIMEOUT_MS, RTO_MS, TRANSMISSIONS};

use crate::dice::Dice;
use crate::message::{self, Signature};
use pending::Pending;

/// How many times one wish follows a 438 before it counts as refused.
const STALE_NONCES: u32 = 3;
/// Permissions last 300 s; they are renewed this long after they were made.
const RENEW_PERMISSION_MS: u64 = 240_000;

/// An address family. RFC 8656 §18.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a client is told when it is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// USERNAME.
    pub username: String,
    /// Its password.
    pub password: String,
    /// How packets reach the server: decides retransmission and padding.
    pub transport: Transport,
    /// REQUESTED-ADDRESS-FAMILY in Allocate; left out with `None`.
    pub family: Option<Family>,
    /// Whether Allocate asks for an IPv6 address beside the IPv4 one (ADDITIONAL-ADDRESS-FAMILY).
    pub additional: bool,
    /// Whether Allocate asks for an even port (EVEN-PORT), and then whether the next one is to be reserved.
    pub even_port: Option<bool>,
    /// Whether Allocate asks for a ticket to move with (MOBILITY-TICKET).
    pub mobility: bool,
    /// Whether Allocate asks for a relay of TCP connections (RFC 6062), and not of datagrams.
    pub relays_tcp: bool,
    /// Whether SHA-256 is used where the server offers it.
    pub sha256: bool,
    /// Whether every message ends with FINGERPRINT.
    pub fingerprint: bool,
    /// Whether allocation, permissions and channels are refreshed before they run out.
    pub keep_alive: bool,
}

impl Config {
    /// A client with these credentials that asks for nothing special.
    pub fn new(username: &str, password: &str, transport: Transport) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
            transport,
            family: None,
            additional: false,
            even_port: None,
            mobility: false,
            relays_tcp: false,
            sha256: false,
            fingerprint: false,
            keep_alive: false,
        }
    }
}

/// What a client has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Binding was answered.
    Mapped {
        /// The client's address as the server sees it.
        mapped: SocketAddr,
    },
    /// There is an allocation.
    Allocated {
        /// The relayed address.
        relayed: SocketAddr,
        /// The client's address as the server sees it.
        mapped: SocketAddr,
        /// LIFETIME.
        lifetime_secs: u32,
    },
    /// The allocation lives longer now, or with 0 is over.
    Refreshed {
        /// LIFETIME.
        lifetime_secs: u32,
    },
    /// These peers have a permission.
    Permitted {
        /// As asked for.
        peers: Vec<SocketAddr>,
    },
    /// The channel is bound.
    ChannelBound {
        /// Its number.
        channel: ChannelNumber,
        /// Its peer.
        peer: SocketAddr,
    },
    /// There is a connection to a peer, which waits for a data connection. RFC 6062 §4.3.
    Connected {
        /// CONNECTION-ID.
        connection: u32,
        /// The peer.
        peer: SocketAddr,
    },
    /// A peer has connected. RFC 6062 §4.4.
    ConnectionAttempt {
        /// CONNECTION-ID.
        connection: u32,
        /// The peer.
        peer: SocketAddr,
    },
    /// This client's own connection is a data connection now: what follows is the peer's.
    ConnectionBound {
        /// CONNECTION-ID.
        connection: u32,
    },
    /// A request was refused.
    Refused {
        /// Which request.
        method: Method,
        /// Why.
        code: ErrorCode,
    },
    /// A request was never answered.
    TimedOut {
        /// Which request.
        method: Method,
    },
    /// A datagram to a peer did not arrive. RFC 8656 §11.6.
    Undelivered {
        /// To whom.
        peer: SocketAddr,
        /// What the network said.
        icmp: Icmp,
    },
    /// A peer's data arrived.
    Data {
        /// From whom.
        peer: SocketAddr,
        /// The data.
        bytes: Vec<u8>,
        /// Through which channel; `None` for a Data indication.
        channel: Option<ChannelNumber>,
    },
}

/// What the user of a client wants from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Binding,
    Allocate { lifetime_secs: Option<u32> },
    Refresh { lifetime_secs: Option<u32> },
    Move { ticket: Vec<u8> },
    CreatePermission { peers: Vec<SocketAddr> },
    ChannelBind { channel: ChannelNumber, peer: SocketAddr },
    Connect { peer: SocketAddr },
    ConnectionBind { connection: u32 },
}

impl Wish {
    pub(crate) fn method(&self) -> Method {
        match self {
            Self::Binding => Method::BINDING,
            Self::Allocate { .. } => Method::ALLOCATE,
            Self::Refresh { .. } | Self::Move { .. } => Method::REFRESH,
            Self::CreatePermission { .. } => Method::CREATE_PERMISSION,
            Self::ChannelBind { .. } => Method::CHANNEL_BIND,
            Self::Connect { .. } => Method::CONNECT,
            Self::ConnectionBind { .. } => Method::CONNECTION_BIND,
        }
    }
}

/// A TURN client with at most one allocation.
#[derive(Debug)]
pub struct Client {
    config: Config,
    dice: Dice,
    signature: Option<Signature>,
    relayed: Option<SocketAddr>,
    ticket: Option<Vec<u8>>,
    alternate: Option<SocketAddr>,
    pending: BTreeMap<TransactionId, Pending>,
    /// Bound channels, by number.
    channels: BTreeMap<ChannelNumber, SocketAddr>,
    /// What keep-alive does next, and when.
    renewals: Vec<(u64, Wish)>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Client {
    /// A client that has sent nothing yet. Transaction ids come from `seed`.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            dice: Dice::new(seed),
            signature: None,
            relayed: None,
            ticket: None,
            alternate: None,
            pending: BTreeMap::new(),
            channels: BTreeMap::new(),
            renewals: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The relayed address, from the first Allocated event until the allocation is deleted.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// The server that it was last sent to with 300. RFC 8489 §10.
    pub fn alternate(&self) -> Option<SocketAddr> {
        self.alternate
    }

    /// The newest MOBILITY-TICKET it was told.
    pub fn ticket(&self) -> Option<&[u8]> {
        self.ticket.as_deref()
    }

    /// What it signs requests with, once the server has told realm and nonce.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// The channel bound to this peer, if there is one.
    pub fn channel_to(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.channels.iter().find(|(_, bound)| **bound == peer).map(|(channel, _)| *channel)
    }

    /// How many requests wait for their answer.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Asks for the client's own address.
    pub fn binding(&mut self, now_ms: u64) {
        self.ask(now_ms, Wish::Binding, 0);
    }

    /// Asks for an allocation; without a lifetime the server chooses.
    pub fn allocate(&mut self, now_ms: u64, lifetime_secs: Option<u32>) {
        self.ask(now_ms, Wish::Allocate { lifetime_secs }, 0);
    }

    /// Asks for a longer life of the allocation, or with 0 for its end.
    pub fn refresh(&mut self, now_ms: u64, lifetime_secs: Option<u32>) {
        self.ask(now_ms, Wish::Refresh { lifetime_secs }, 0);
    }

    /// Goes on from another address, over this transport: requests that wait are forgotten, and the allocation is
    /// asked for with its ticket. Without a ticket nothing is sent. RFC 8016 §3.2.1.
    pub fn move_to(&mut self, now_ms: u64, transport: Transport) {
        self.config.transport = transport;
        self.abandon_requests();
        if let Some(ticket) = self.ticket.clone() {
            self.ask(now_ms, Wish::Move { ticket }, 0);
        }
    }

    /// Takes over what another client of the same user knows of its allocation.
    pub fn adopt(&mut self, other: &Self) {
        (self.relayed, self.ticket) = (other.relayed, other.ticket.clone());
        self.signature.clone_from(&other.signature);
        self.channels.clone_from(&other.channels);
    }

    /// Asks for permissions.
    pub fn create_permission(&mut self, now_ms: u64, peers: &[SocketAddr]) {
        self.ask(now_ms, Wish::CreatePermission { peers: peers.to_vec() }, 0);
    }

    /// Asks for a channel to this peer: the one it has, or else the lowest free number, which is returned.
    ///
    /// # Panics
    /// When all 4,096 channels are bound.
    pub fn channel_bind(&mut self, now_ms: u64, peer: SocketAddr) -> ChannelNumber {
        let asked = |channel: &ChannelNumber| {
            self.pending.values().any(
                |pending| matches!(&pending.wish, Wish::ChannelBind { channel: c, peer: p } if c == channel && *p != peer),
            )
        };
        let free = || {
            (ChannelNumber::MIN.number()..=ChannelNumber::MAX.number())
                .filter_map(ChannelNumber::new)
                .find(|channel| !self.channels.contains_key(channel) && !asked(channel))
        };
        let channel = self.channel_to(peer).or_else(free).expect("a channel is free");
        self.channel_bind_as(now_ms, channel, peer);
        channel
    }

    /// Asks for this very channel to this peer, whatever the client knows of them.
    pub fn channel_bind_as(&mut self, now_ms: u64, channel: ChannelNumber, peer: SocketAddr) {
        self.ask(now_ms, Wish::ChannelBind { channel, peer }, 0);
    }

    /// Asks for a connection to this peer.
    pub fn connect(&mut self, now_ms: u64, peer: SocketAddr) {
        self.ask(now_ms, Wish::Connect { peer }, 0);
    }

    /// Asks that this client's own connection, which has no allocation, carries what goes through this one.
    pub fn connection_bind(&mut self, now_ms: u64, connection: u32) {
        self.ask(now_ms, Wish::ConnectionBind { connection }, 0);
    }

    /// Sends data: through the peer's channel if one is bound, else as a Send indication.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        match self.channel_to(peer) {
            Some(channel) => self.send_channel_data(channel, data),
            None => self.send_indication(peer, data),
        }
    }

    /// Sends data in a Send indication.
    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let transaction = self.dice.transaction();
        self.transmits.push_back(message::send_indication(transaction, peer, data));
    }

    /// Sends data through a channel, bound or not.
    pub fn send_channel_data(&mut self, channel: ChannelNumber, data: &[u8]) {
        self.transmits.push_back(message::channel_data(self.config.transport, channel, data));
    }

    /// Stops waiting for answers.
    pub fn abandon_requests(&mut self) {
        self.pending.clear();
    }

    /// Takes in one datagram or one frame of the stream. What is not the answer to one of its own requests, nor
    /// data, is ignored.
    pub fn handle_packet(&mut self, now_ms: u64, packet: &[u8]) {
        match Kind::of(packet) {
            Kind::ChannelData => {
                let Some((channel, length)) = channel_data::parse(packet) else { return };
                let Some(bytes) = packet.get(4..4 + length) else { return };
                if let Some(&peer) = self.channels.get(&channel) {
                    self.events.push_back(Event::Data {
                        peer,
                        bytes: bytes.to_vec(),
                        channel: Some(channel),
                    });
                }
            }
            Kind::Stun => {
                let Ok(message) = Message::parse(packet) else { return };
                match (message.class(), message.method()) {
                    (Class::Indication, Method::DATA) => self.data_indication(&message),
                    (Class::Indication, Method::CONNECTION_ATTEMPT) => self.attempt(&message),
                    (Class::Success | Class::Error, _) => self.response(now_ms, &message),
                    _ => {}
                }
            }
            Kind::Tls | Kind::Unknown => {}
        }
    }

    /// Does what time has made due: retransmissions, timeouts, keep-alive.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        let due: Vec<TransactionId> =
            self.pending.iter().filter(|(_, pending)| pending.next_ms <= now_ms).map(|(id, _)| *id).collect();
        for transaction in due {
            let Some(pending) = self.pending.get_mut(&transaction) else { continue };
            if pending.retransmit(now_ms) {
                self.transmits.push_back(pending.packet.clone());
            } else if let Some(pending) = self.pending.remove(&transaction) {
                self.events.push_back(Event::TimedOut { method: pending.wish.method() });
            }
        }
        while let Some(place) = self.renewals.iter().position(|(at_ms, _)| *at_ms <= now_ms) {
            let (_, wish) = self.renewals.swap_remove(place);
            self.ask(now_ms, wish, 0);
        }
    }

    /// When [`Client::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<u64> {
        let requests = self.pending.values().map(|pending| pending.next_ms);
        requests.chain(self.renewals.iter().map(|(at_ms, _)| *at_ms)).min()
    }

    /// The next packet to send to the server.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn ask(&mut self, now_ms: u64, wish: Wish, stale_nonces: u32) {
        let transaction = self.dice.transaction();
        let signature = self.signature.as_ref().filter(|_| wish != Wish::Binding);
        let packet =
            message::request(wish.method(), transaction, |writer| {
                match &wish {
                    Wish::Binding => {}
                    Wish::Allocate { lifetime_secs } => {
                        let tcp = self.config.relays_tcp;
                        let transport = if tcp { message::REQUESTED_TCP } else { message::REQUESTED_UDP };
                        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &transport);
                        match self.config.family {
                            Some(Family::V4) => writer
                                .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &message::FAMILY_IPV4),
                            Some(Family::V6) => writer
                                .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &message::FAMILY_IPV6),
                            None => writer,
                        };
                        if self.config.additional {
                            writer.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &message::FAMILY_IPV6);
                        }
                        if let Some(reserve) = self.config.even_port {
                            let value = if reserve { message::EVEN_AND_NEXT } else { message::EVEN };
                            writer.attribute(AttributeType::EVEN_PORT, &value);
                        }
                        lifetime_secs.map(|secs| writer.attribute_u32(AttributeType::LIFETIME, secs));
                        if self.config.mobility {
                            writer.attribute(AttributeType::MOBILITY_TICKET, &[]);
                        }
                    }
                    Wish::Move { ticket } => _ = writer.attribute(AttributeType::MOBILITY_TICKET, ticket),
                    Wish::Refresh { lifetime_secs } => {
                        lifetime_secs.map(|secs| writer.attribute_u32(AttributeType::LIFETIME, secs));
                    }
                    Wish::CreatePermission { peers } => {
                        for peer in peers {
                            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
                        }
                    }
                    Wish::ChannelBind { channel, peer } => {
                        writer.attribute(AttributeType::CHANNEL_NUMBER, &channel.to_attribute());
                        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
                    }
                    Wish::Connect { peer } => {
                        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
                    }
                    Wish::ConnectionBind { connection } => {
                        writer.attribute_u32(AttributeType::CONNECTION_ID, *connection);
                    }
                }
                if let Some(signature) = signature {
                    signature.sign(writer);
                }
                if self.config.fingerprint {
                    writer.fingerprint();
                }
            });
        let key = signature.map(|signature| (signature.integrity, signature.key.clone()));
        self.transmits.push_back(packet.clone());
        let pending = Pending::new(now_ms, self.config.transport, wish, packet, key, stale_nonces);
        self.pending.insert(transaction, pending);
    }

    fn data_indication(&mut self, message: &Message<'_>) {
        let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| address::decode_xor(value, message.transaction()));
        let Some(peer) = peer else { return };
        if let Some(data) = message.attribute(AttributeType::DATA) {
            self.events.push_back(Event::Data { peer, bytes: data.to_vec(), channel: None });
        } else if let Some(&[_, _, kind, code, a, b, c, d]) = message.attribute(AttributeType::ICMP) {
            let icmp = Icmp { kind, code, data: u32::from_be_bytes([a, b, c, d]) };
            self.events.push_back(Event::Undelivered { peer, icmp });
        }
    }

    fn attempt(&mut self, message: &Message<'_>) {
        let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| address::decode_xor(value, message.transaction()));
        if let (Some(peer), Some(connection)) = (peer, connection_id(message)) {
            self.events.push_back(Event::ConnectionAttempt { connection, peer });
        }
    }

    fn response(&mut self, now_ms: u64, message: &Message<'_>) {
        let Some(pending) = self.pending.get(&message.transaction()) else { return };
        if pending.wish.method() != message.method() {
            return;
        }
        let code =
            message.attribute(AttributeType::ERROR_CODE).and_then(ErrorCode::parse).map(|(code, _)| code);
        if (message.class() == Class::Error) != code.is_some() {
            return;
        }
        // RFC 8489 §9.2.5: 401 and 438 need no integrity, every other response to a signed request does.
        let challenge = matches!(code, Some(ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE));
        let trusted = pending
            .key
            .as_ref()
            .is_none_or(|(by, key)| message.integrity_by(*by, key) == Integrity::Verified);
        if !trusted && !challenge {
            return;
        }
        let Some(pending) = self.pending.remove(&message.transaction()) else { return };
        match code {
            Some(code) => self.refused(now_ms, pending, code, message),
            None => self.succeeded(now_ms, pending.wish, message),
        }
    }

    fn refused(&mut self, now_ms: u64, pending: Pending, code: ErrorCode, message: &Message<'_>) {
        let again = match code {
            ErrorCode::UNAUTHENTICATED => pending.key.is_none(),
            ErrorCode::STALE_NONCE => pending.stale_nonces < STALE_NONCES,
            _ => false,
        };
        let realm = message.attribute(AttributeType::REALM);
        let nonce = message.attribute(AttributeType::NONCE);
        match (again, realm, nonce) {
            (true, Some(realm), Some(nonce)) => {
                let Config { username, password, .. } = &self.config;
                let signature = Signature::new(username, password, realm, nonce);
                // RFC 8489 §9.2.5: what is offered counts when the nonce says so, too.
                let offered = message
                    .attribute(AttributeType::PASSWORD_ALGORITHMS)
                    .filter(|_| self.config.sha256 && nonce.starts_with(b"obMatJos2g"));
                self.signature = Some(match offered {
                    Some(offered) => signature.choosing(PasswordAlgorithm::Sha256, password, offered),
                    None => signature,
                });
                let stale = u32::from(code == ErrorCode::STALE_NONCE);
                self.ask(now_ms, pending.wish, pending.stale_nonces + stale);
            }
            _ => {
                let server =
                    message.attribute(AttributeType::ALTERNATE_SERVER).and_then(stun::address::decode);
                self.alternate = server.filter(|_| code == ErrorCode::TRY_ALTERNATE).or(self.alternate);
                self.events.push_back(Event::Refused { method: pending.wish.method(), code });
            }
        }
    }

    fn succeeded(&mut self, now_ms: u64, wish: Wish, message: &Message<'_>) {
        let address_of = |kind| {
            message.attribute(kind).and_then(|value| address::decode_xor(value, message.transaction()))
        };
        let lifetime = message.attribute(AttributeType::LIFETIME).and_then(|value| value.try_into().ok());
        let lifetime = lifetime.map(u32::from_be_bytes);
        let mapped = address_of(AttributeType::XOR_MAPPED_ADDRESS);
        let relayed = address_of(AttributeType::XOR_RELAYED_ADDRESS);
        let ticket = message.attribute(AttributeType::MOBILITY_TICKET);
        self.ticket = ticket.map(<[u8]>::to_vec).or(self.ticket.take());
        let event = match (wish.clone(), mapped, relayed, lifetime) {
            (Wish::Binding, Some(mapped), _, _) => Event::Mapped { mapped },
            (Wish::Allocate { .. }, Some(mapped), Some(relayed), Some(lifetime_secs)) => {
                self.relayed = Some(relayed);
                self.renew(now_ms + u64::from(lifetime_secs) * 500, Wish::Refresh { lifetime_secs: None });
                Event::Allocated { relayed, mapped, lifetime_secs }
            }
            (Wish::Refresh { .. }, _, _, Some(0)) => {
                (self.relayed, self.ticket) = (None, None);
                self.channels.clear();
                self.renewals.clear();
                Event::Refreshed { lifetime_secs: 0 }
            }
            (Wish::Refresh { .. } | Wish::Move { .. }, _, _, Some(lifetime_secs)) => {
                self.renew(now_ms + u64::from(lifetime_secs) * 500, Wish::Refresh { lifetime_secs: None });
                Event::Refreshed { lifetime_secs }
            }
            (Wish::CreatePermission { peers }, ..) => {
                self.renew(now_ms + RENEW_PERMISSION_MS, wish);
                Event::Permitted { peers }
            }
            (Wish::ChannelBind { channel, peer }, ..) => {
                self.channels.insert(channel, peer);
                self.renew(now_ms + RENEW_PERMISSION_MS, wish);
                Event::ChannelBound { channel, peer }
            }
            (Wish::Connect { peer }, ..) => match connection_id(message) {
                Some(connection) => Event::Connected { connection, peer },
                None => return,
            },
            (Wish::ConnectionBind { connection }, ..) => Event::ConnectionBound { connection },
            // A success response without what it must say is none.
            _ => return,
        };
        self.events.push_back(event);
    }

    fn renew(&mut self, at_ms: u64, wish: Wish) {
        if self.config.keep_alive {
            self.renewals.retain(|(_, held)| *held != wish);
            self.renewals.push((at_ms, wish));
        }
    }
}

fn connection_id(message: &Message<'_>) -> Option<u32> {
    let value = message.attribute(AttributeType::CONNECTION_ID)?;
    value.try_into().ok().map(u32::from_be_bytes)
}
