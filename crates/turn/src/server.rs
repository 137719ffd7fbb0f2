use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use credentials::{DenySet, TurnKeyId};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use stun::{AttributeType, Class, Fingerprint, Kind, Message, Method};

use crate::allocation::{Allocation, AllocationId, Allocations, Relayed};
use crate::auth::{Authenticated, Authority, Unproven, integrity_algorithm, is_known, nonce_holder};
use crate::binding::{binding, known_at};
use crate::connection::Connections;
use crate::departed::Departed;
use crate::discovery::Place;
pub(crate) use crate::outcome::{Action, DropReason, EndReason, Output};
use crate::own_relays::OwnRelays;
use crate::redirect::Redirection;
use crate::reply::{Answer, Asked, Response};
use crate::reservation::Due;
use crate::send;
use crate::shared_secrets::SharedSecrets;
use crate::ticket::TicketKey;
use crate::usage::Endings;
use crate::verified::Verified;
use crate::{
    Client, Config, FiveTuple, KeyLimits, MAX_REPLY, Packet, Refusal, RelayId, RelaySockets, Reply, Shared,
    Time, WorkerId,
};

/// How often denials that refuse nothing any more are forgotten; nothing waits for it.
const PURGE_INTERVAL_SECS: u32 = 60;

/// A TURN server: see the crate's documentation for how it is driven. RFC 8656 §5.
#[derive(Debug)]
pub struct Server {
    pub(crate) config: Config,
    pub(crate) shared: Shared,
    pub(crate) rng: ChaCha12Rng,
    pub(crate) allocations: Allocations,
    pub(crate) own_relays: OwnRelays,
    pub(crate) connections: Connections,
    /// The limits of keys that have some of their own; at most 65,536.
    pub(crate) key_limits: BTreeMap<TurnKeyId, KeyLimits>,
    /// Keys whose credentials are refused for now; at most 65,536.
    pub(crate) suspended: BTreeSet<TurnKeyId>,
    pub(crate) shared_secrets: SharedSecrets,
    pub(crate) verified: Verified,
    pub(crate) tickets: TicketKey,
    pub(crate) departed: Departed,
    pub(crate) denials: DenySet,
    /// When expired denials are forgotten next, in monotonic milliseconds.
    purge_ms: u64,
    /// Reservations made here, in the order in which they expire.
    pub(crate) reservations_due: VecDeque<Due>,
    /// The place in the table of allocations from which reports go on.
    pub(crate) report_from: usize,
    pub(crate) endings: Endings,
    /// Where new allocations are sent to instead.
    pub(crate) redirection: Redirection,
    /// Nothing new is allocated: a credential may be denied by now.
    pub(crate) are_denials_stale: bool,
    /// At most one entry for the end of each relay socket, one for that of each allocation, two for each connection,
    /// and what one call of `report` may queue, not taken yet.
    pub(crate) outputs: VecDeque<Output>,
}

impl Server {
    /// A server without allocations. All its randomness comes from `seed`, which must be secret and its own.
    ///
    /// # Panics
    /// When the realm is empty or longer than 127 bytes, or the lifetimes are out of order.
    pub fn new(config: Config, shared: Shared, seed: [u8; 32]) -> Self {
        assert!((1..=127).contains(&config.realm.len()), "a realm has 1 to 127 bytes");
        assert!(
            config.default_lifetime_secs <= config.max_lifetime_secs,
            "the default is within the maximum"
        );
        let mut rng = ChaCha12Rng::from_seed(seed);
        let allocations = Allocations::new(rng.next_u64());
        let own_relays = OwnRelays::new(&config.relay_addresses, shared.ports.range());
        let departed = Departed::new(rng.next_u64());
        let tickets = TicketKey::new(&shared.nonces);
        let denials = DenySet::new(config.limits.denials);
        Self {
            config,
            shared,
            rng,
            allocations,
            own_relays,
            tickets,
            departed,
            connections: Connections::default(),
            denials,
            key_limits: BTreeMap::new(),
            suspended: BTreeSet::new(),
            shared_secrets: SharedSecrets::default(),
            verified: Verified::default(),
            purge_ms: 0,
            reservations_due: VecDeque::new(),
            report_from: 0,
            endings: Endings::default(),
            redirection: Redirection::default(),
            are_denials_stale: false,
            outputs: VecDeque::new(),
        }
    }

    /// Handles what a client sent: one datagram or one frame of a stream, ChannelData with its padding or without.
    /// RFC 8656 §5.
    pub fn from_client(
        &mut self,
        now: Time,
        client: Client,
        packet: &mut Packet<'_>,
        sockets: &mut impl RelaySockets,
    ) -> Action {
        match Kind::of(packet.bytes()) {
            Kind::ChannelData => self.channel_data(now, client, packet),
            Kind::Stun => self.message(now, client, packet, sockets).unwrap_or_else(Action::Drop),
            Kind::Tls | Kind::Unknown => Action::Drop(DropReason::NotStun),
        }
    }

    /// Handles a datagram that a peer sent to a relay socket. RFC 8656 §11.3 and §12.7.
    pub fn from_peer(
        &mut self,
        now: Time,
        relay: RelayId,
        peer: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Action {
        let peer = self.own_relays.public(peer);
        self.data(now, relay, peer, packet)
    }

    /// Does what time has made due. Outputs may follow.
    pub fn handle_timeout(&mut self, now: Time) {
        self.end_expired(now);
        self.departed.expire(now.monotonic_ms);
        self.end_overdue(now);
        if now.monotonic_ms >= self.purge_ms {
            self.denials.purge(now.unix_secs());
            self.verified.purge(now.unix_secs());
            self.shared.quotas.forget_full(now.monotonic_ms);
            self.purge_ms = now.after_secs(PURGE_INTERVAL_SECS);
        }
        while let Some(due) = self.reservations_due.pop_front_if(|due| due.at_ms <= now.monotonic_ms) {
            self.shared.reservations.expire(due.token);
        }
    }

    /// When [`Server::handle_timeout`] is next due, in monotonic milliseconds. Changes with every other call.
    pub fn poll_timeout(&self) -> Option<u64> {
        let expiry = self.allocations.next_expiry().map(|(at, _)| at);
        let reservation = self.reservations_due.front().map(|due| due.at_ms);
        let connection = self.connections.next_due().map(|(at, _)| at);
        [expiry, reservation, connection].into_iter().flatten().min()
    }

    /// The next output, until there is none: to be drained after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether the client has an allocation, one that has expired but was not ended yet included, and one that has
    /// moved to another worker while the client is still heard here.
    pub fn has_allocation(&self, client: &FiveTuple) -> bool {
        self.allocations.holds(client) || self.departed.of_client(client).is_some()
    }

    /// The worker it belongs to.
    pub fn worker(&self) -> WorkerId {
        self.config.worker
    }

    /// How many allocations there are.
    pub fn allocation_count(&self) -> usize {
        self.allocations.len()
    }

    fn message(
        &mut self,
        now: Time,
        client: Client,
        packet: &mut Packet<'_>,
        sockets: &mut impl RelaySockets,
    ) -> Result<Action, DropReason> {
        let message = Message::parse(packet.bytes()).map_err(DropReason::MalformedStun)?;
        // RFC 8489 §6.3: a message with a wrong FINGERPRINT is discarded in silence.
        if message.fingerprint() == Fingerprint::Wrong {
            return Err(DropReason::WrongFingerprint);
        }
        match (message.class(), message.method()) {
            (Class::Request, _) => {
                if let Some(worker) = self.request_goes_to(now, &client, &message) {
                    return Ok(Action::Pass(worker));
                }
                let mut buffer = [0; MAX_REPLY];
                let (action, length) = self.request(now, client, &message, sockets, &mut buffer)?;
                if length > 0 {
                    let bytes = buffer.get(..length).ok_or(DropReason::NoRoom)?;
                    packet.replace(bytes).map_err(|_| DropReason::NoRoom)?;
                }
                Ok(action)
            }
            (Class::Indication, Method::SEND) => {
                let send::Forward { action, offset, length } = match self.send(now, client, &message) {
                    Err(DropReason::NoAllocation) => return Ok(self.elsewhere(&client.five_tuple)),
                    forward => forward?,
                };
                packet.narrow(offset, length).map_err(|_| DropReason::NoRoom)?;
                Ok(action)
            }
            _ => Err(DropReason::UnexpectedClass),
        }
    }

    fn request(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sockets: &mut impl RelaySockets,
        buffer: &mut [u8; MAX_REPLY],
    ) -> Result<(Action, usize), DropReason> {
        let method = message.method();
        let mut key = None;
        let mut known: fn(AttributeType) -> bool = is_known;
        let outcome = match method {
            Method::BINDING => {
                let place = Place::of(&self.config.discovery, &client.five_tuple);
                known = known_at(place);
                binding(place, client, message)
            }
            Method::ALLOCATE
            | Method::REFRESH
            | Method::CREATE_PERMISSION
            | Method::CHANNEL_BIND
            | Method::CONNECT
            | Method::CONNECTION_BIND => {
                self.expect_integrity(client, message)?;
                let authority = self.authority(&client.five_tuple);
                let authenticated = match authority.authenticate(now, &client.five_tuple, message) {
                    Err(Unproven::Dropped(reason)) => return Err(reason),
                    Err(Unproven::Refused(refusal)) => Err(refusal),
                    Ok(identity) => Ok(identity),
                };
                authenticated.and_then(|identity| {
                    let outcome = self.authenticated_request(now, client, message, &identity, sockets);
                    key = Some((identity.response, identity.key));
                    outcome
                })
            }
            // A request of an unknown method tells a scanner nothing.
            _ => return Err(DropReason::UnknownMethod),
        };
        if key.is_none() && !self.may_answer_stranger(now, client, outcome) {
            return Err(DropReason::StrangerRateExceeded);
        }
        let action = match outcome {
            Ok(Answer::Later) => return Ok((Action::Later, 0)),
            Ok(Answer::Connect { connection, relay, peer }) => {
                return Ok((Action::Connect { connection, relay, peer }, 0));
            }
            Ok(Answer::HandOver(worker)) => return Ok((Action::HandOver(worker), 0)),
            Ok(Answer::Connecting) => return Err(DropReason::Connecting),
            Ok(Answer::Bound(connection)) => Action::Bind(connection),
            Ok(Answer::Binding(Some(discovered))) if discovered.route != client => {
                Action::ReplyElsewhere(Reply::Success(method), discovered.route)
            }
            Ok(_) => Action::Reply(Reply::Success(method)),
            Err(refusal) => Action::Reply(Reply::Refused(refusal)),
        };
        let response = Response {
            asked: Asked::by(message),
            request: Some(message),
            client: client.five_tuple.client,
            key: key.as_ref().map(|(algorithm, key)| (*algorithm, key)),
            realm: &self.config.realm,
            nonce: Some(&|| {
                let holder = nonce_holder(method, client.five_tuple);
                self.shared.nonces.issue(now, &holder, self.config.offer_password_algorithms)
            }),
            offers_algorithms: self.config.offer_password_algorithms,
            known,
            alternate_domain: match outcome {
                Err(Refusal::TryAlternate(server)) => self.redirection.domain_of(client, server),
                _ => None,
            },
        };
        let length = response.write(outcome, buffer).map_err(|_| DropReason::NoRoom)?;
        Ok((action, length))
    }

    /// Only Allocate, and ConnectionBind on a stream, may begin without integrity: other requests of strangers are not
    /// worth a reflected byte.
    fn expect_integrity(&self, client: Client, message: &Message<'_>) -> Result<(), DropReason> {
        let binds = message.method() == Method::CONNECTION_BIND && client.five_tuple.transport.is_stream();
        let expected = message.method() == Method::ALLOCATE
            || binds
            || integrity_algorithm(message).is_some()
            || self.allocations.holds(&client.five_tuple);
        if expected { Ok(()) } else { Err(DropReason::Unauthenticated) }
    }

    /// Whether someone who has not authenticated may have an answer of the caller's own; it is counted as one to a
    /// stranger.
    pub fn may_answer_anyone(&self, now: Time, client: Client) -> bool {
        let Some(limit) = &self.config.stranger_limit else { return true };
        self.shared.strangers.admit(limit, now.monotonic_ms, client)
    }

    /// Whether someone who has not authenticated gets one more answer.
    fn may_answer_stranger(&self, now: Time, client: Client, outcome: Result<Answer, Refusal>) -> bool {
        let Some(limit) = &self.config.stranger_limit else { return true };
        // 438 comes after the integrity, which no stranger can make: a flood of strangers takes none of these answers,
        // so a client that has moved to this address (RFC 8016) learns its nonce. Whoever has a credential can have them
        // sent to another all the same, so they are counted, too.
        let is_signed = outcome == Err(Refusal::StaleNonce);
        // Whoever has an allocation needs the new nonce to keep it, whatever is sent in the name of its prefix.
        let keeps_allocation = is_signed && self.allocations.holds(&client.five_tuple);
        let counted = if is_signed { &self.shared.signers } else { &self.shared.strangers };
        keeps_allocation || counted.admit(limit, now.monotonic_ms, client)
    }

    fn authenticated_request(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
        sockets: &mut impl RelaySockets,
    ) -> Result<Answer, Refusal> {
        // RFC 8489 §6.3.1: after authentication, unknown comprehension-required attributes are 420.
        if message.unknown_attributes(is_known).next().is_some() {
            return Err(Refusal::UnknownAttributes);
        }
        match message.method() {
            Method::ALLOCATE => self.allocate(now, client, message, identity, sockets),
            Method::REFRESH => self.refresh(now, client, message, identity),
            Method::CREATE_PERMISSION => self.create_permission(now, client, message, identity),
            Method::CONNECT => self.connect(now, client, message, identity),
            Method::CONNECTION_BIND => self.connection_bind(now, client, message, identity),
            _ => self.channel_bind(now, client, message, identity),
        }
    }

    fn authority(&mut self, client: &FiveTuple) -> Authority<'_> {
        Authority {
            keyring: &self.shared.keyring,
            verified: &mut self.verified,
            known_secret: self.allocations.secret_of(client),
            shared_secrets: &mut self.shared_secrets,
            username_lifetime_secs: self.config.username_lifetime_secs,
            denials: &self.denials,
            suspended: &self.suspended,
            nonces: &self.shared.nonces,
            nonce_lifetime_secs: self.config.nonce_lifetime_secs,
            offers_algorithms: self.config.offer_password_algorithms,
            realm: &self.config.realm,
        }
    }

    /// The client's live allocation, if this credential made it.
    pub(crate) fn allocation_of(
        &mut self,
        now: Time,
        client: Client,
        identity: &Authenticated,
    ) -> Result<(AllocationId, &mut Allocation), Refusal> {
        // RFC 8656 §5: a request about an allocation that does not exist is 437,
        let found = self.allocations.of_client(&client.five_tuple, now.monotonic_ms);
        let (id, allocation) = found.ok_or(Refusal::NoAllocation)?;
        // RFC 8656 §5: and one with another credential than the allocation's is 441.
        if allocation.credential != identity.credential {
            return Err(Refusal::WrongCredentials);
        }
        Ok((id, allocation))
    }

    pub(crate) fn end_expired(&mut self, now: Time) {
        while let Some((at, id)) = self.allocations.next_expiry()
            && at <= now.monotonic_ms
        {
            self.end(now, id, EndReason::Expired);
        }
    }

    pub(crate) fn end(&mut self, now: Time, id: AllocationId, reason: EndReason) {
        if let Some(mut allocation) = self.allocations.remove(id) {
            self.outputs.push_back(Output::Report(allocation.report(now, Some(reason))));
            let client = allocation.client;
            for relay in allocation.into_relays() {
                self.close(client, relay, reason);
            }
        }
    }

    pub(crate) fn close(&mut self, client: Client, relay: Relayed, reason: EndReason) {
        let Relayed { id, port, .. } = relay;
        self.end_connections(client, id, reason);
        self.outputs.push_back(Output::Ended { client, relay: id, port, reason });
    }
}
