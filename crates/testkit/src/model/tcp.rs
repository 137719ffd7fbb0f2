//! Connections with peers. RFC 6062.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use stun::{AttributeType as A, Class, ErrorCode, Fingerprint, Message, Method, TransactionId, address};
use turn::{Client, ConnectionId, EndReason, FiveTuple, RelayId, Reply, Time};

use super::expected::Expected;
use super::requests::{Faults, four, is_signed_as, peers};
use super::{Model, Proof, Sender};

/// RFC 6062 §5.2: a connection may take at least 30 seconds to be made; here no longer.
const CONNECT_MS: u64 = 30_000;
/// RFC 6062 §5.2 and §5.3: it waits 30 seconds for its ConnectionBind.
const BIND_MS: u64 = 30_000;

/// A connection with a peer, as the model knows it.
#[derive(Debug, Clone)]
pub struct Link {
    /// CONNECTION-ID.
    pub connection: ConnectionId,
    /// The socket of its relayed address.
    pub relay: RelayId,
    /// The peer.
    pub peer: SocketAddr,
    /// How far it is.
    pub stage: Stage,
}

/// How far a connection is.
#[derive(Debug, Clone)]
pub enum Stage {
    /// The peer has not answered.
    Connecting {
        /// Monotonic milliseconds.
        until_ms: u64,
        /// The answer that the client will get.
        answer: Answer,
        /// Whether it has got it.
        told: bool,
    },
    /// Nobody has bound it.
    Unbound {
        /// Monotonic milliseconds.
        until_ms: u64,
        /// Of the Connect.
        transaction: Option<TransactionId>,
    },
    /// It carries data.
    Bound,
}

/// The answer to a Connect.
#[derive(Debug, Clone)]
pub struct Answer {
    transaction: TransactionId,
    proof: Proof,
    fingerprint: bool,
}

/// What a client has to be told.
#[derive(Debug, Clone)]
pub(super) enum Owed {
    Connected { client: Client, answer: Answer, connection: ConnectionId },
    Failed { client: Client, answer: Answer },
    Attempt { client: Client, connection: ConnectionId, peer: SocketAddr },
}

impl Link {
    fn due_ms(&self) -> Option<u64> {
        match self.stage {
            Stage::Connecting { until_ms, .. } | Stage::Unbound { until_ms, .. } => Some(until_ms),
            Stage::Bound => None,
        }
    }

    fn is_overdue(&self, now: Time) -> bool {
        self.due_ms().is_some_and(|due_ms| due_ms <= now.monotonic_ms)
    }
}

impl Model {
    /// Every connection with a peer whose end nobody has told.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    pub(super) fn links_due(&self) -> impl Iterator<Item = u64> {
        self.links.iter().filter_map(Link::due_ms)
    }

    fn link(&self, now: Time, connection: ConnectionId) -> Option<&Link> {
        self.links.iter().find(|link| link.connection == connection && !link.is_overdue(now))
    }

    /// The socket of a connection that carries data.
    pub(super) fn bound_to(&self, connection: ConnectionId) -> Option<RelayId> {
        let mut bound = self.links.iter().filter(|link| matches!(link.stage, Stage::Bound));
        bound.find(|link| link.connection == connection).map(|link| link.relay)
    }

    fn has_room(&self, now: Time, relays: &[RelayId]) -> bool {
        let here = |link: &&Link| usize::from(link.connection.worker().0) == self.worker;
        let current = || self.links.iter().filter(here).filter(|link| !link.is_overdue(now));
        current().count() < self.rules.max_all_connections
            && current().filter(|link| relays.contains(&link.relay)).count() < self.rules.max_connections
    }

    /// RFC 6062 §5.2.
    pub(super) fn connect(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
    ) -> Result<Expected, BTreeSet<u16>> {
        let mut faults = Faults::default();
        let peer = peers(message).first().copied().flatten();
        faults.when(peer.is_none(), 400);
        faults.when(peer.is_some_and(|peer| !self.may_reach(peer)), 403);
        let found = self.own_allocation(now, client, sender, &mut faults).cloned();
        faults.when(found.as_ref().is_some_and(|found| !found.tcp), 437);
        let (Some(found), Some(peer)) = (found, peer) else { return Err(faults.0) };
        let relay = found.relay_to(peer).map(|relay| relay.id);
        faults.when(relay.is_none(), 443);
        let held = self
            .links
            .iter()
            .find(|link| Some(link.relay) == relay && link.peer == peer && !link.is_overdue(now));
        let again = held.and_then(|held| match &held.stage {
            Stage::Connecting { answer, .. } if answer.transaction == message.transaction() => {
                Some(Expected::Silence)
            }
            Stage::Unbound { transaction, .. } if *transaction == Some(message.transaction()) => {
                let proof = sender.proof.clone();
                Some(Expected::Connected { connection: held.connection, proof })
            }
            _ => None,
        });
        match again {
            Some(again) if faults.0.is_empty() => return Ok(again),
            _ => {}
        }
        faults.when(held.is_some(), 446);
        let relays: Vec<RelayId> = found.relays.iter().map(|relay| relay.id).collect();
        faults.when(!self.has_room(now, &relays), 508);
        let limits = self.limits_of(sender.account.turn_key);
        let new_peers = Self::new_peers(now, &limits, &found, [peer.ip()]);
        faults.when(new_peers.is_none(), 508);
        match relay {
            Some(relay) if faults.0.is_empty() => {
                let mut held = self.allocations.iter_mut();
                if let Some(held) = held.find(|held| held.has(relay)) {
                    held.new_peers = new_peers.unwrap_or_default();
                }
                let answer = Answer {
                    transaction: message.transaction(),
                    proof: sender.proof.clone(),
                    fingerprint: message.fingerprint() == Fingerprint::Verified,
                };
                Ok(Expected::Connect { relay, peer, to: self.reached_at(peer), answer })
            }
            _ => Err(faults.0),
        }
    }

    /// The server wants a connection that it should want.
    pub(super) fn connecting(
        &mut self,
        now: Time,
        connection: ConnectionId,
        (relay, peer): (RelayId, SocketAddr),
        answer: &Answer,
    ) -> Result<(), String> {
        let until_ms = now.monotonic_ms + CONNECT_MS;
        let stage = Stage::Connecting { until_ms, answer: answer.clone(), told: false };
        self.add(Link { connection, relay, peer, stage })
    }

    fn add(&mut self, link: Link) -> Result<(), String> {
        if self.links.iter().any(|held| held.connection == link.connection) {
            return Err(format!("a name for two: {link:?}"));
        }
        if usize::from(link.connection.worker().0) != self.worker {
            return Err(format!("another worker's name: {link:?}"));
        }
        self.links.push(link);
        Ok(())
    }

    /// What came of a connection is told to the server.
    pub fn connected(&mut self, now: Time, connection: ConnectionId, works: bool) {
        let client = self.link(now, connection).and_then(|link| self.allocation(link.relay));
        let client = client.filter(|allocation| allocation.is_live(now)).map(|allocation| allocation.client);
        let place = self.links.iter().position(|link| link.connection == connection);
        let (Some(client), Some(place)) = (client, place) else { return };
        let Some(link) = self.links.get_mut(place) else { return };
        let Stage::Connecting { answer, .. } = link.stage.clone() else { return };
        if works {
            let transaction = Some(answer.transaction);
            link.stage = Stage::Unbound { until_ms: now.monotonic_ms + BIND_MS, transaction };
            self.owed.push(Owed::Connected { client, answer, connection });
        } else {
            self.links.remove(place);
            self.owed.push(Owed::Failed { client, answer });
        }
    }

    /// A peer connects; whether it may. RFC 6062 §5.3.
    ///
    /// # Errors
    /// When the server thinks otherwise.
    pub fn accepted(
        &mut self,
        now: Time,
        (relay, peer): (RelayId, SocketAddr),
        given: Option<ConnectionId>,
    ) -> Result<(), String> {
        let peer = self.as_known_to_peers(peer);
        let found = self.allocation(relay).filter(|allocation| allocation.is_live(now));
        let found = found.filter(|found| found.permits(peer.ip(), now) && self.may_reach(peer)).cloned();
        let found = found.filter(|found| {
            let relays: Vec<RelayId> = found.relays.iter().map(|relay| relay.id).collect();
            self.has_room(now, &relays)
        });
        match (found, given) {
            (Some(found), Some(connection)) => {
                let until_ms = now.monotonic_ms + BIND_MS;
                let stage = Stage::Unbound { until_ms, transaction: None };
                self.owed.push(Owed::Attempt { client: found.client, connection, peer });
                self.add(Link { connection, relay, peer, stage })
            }
            (None, None) => Ok(()),
            (wanted, given) => Err(format!("{peer} got {given:?} of {wanted:?}")),
        }
    }

    /// RFC 6062 §5.4.
    pub(super) fn connection_bind(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        sender: &Sender,
    ) -> Result<Expected, BTreeSet<u16>> {
        let mut faults = Faults::default();
        faults.when(!client.five_tuple.transport.is_stream() || self.holds(client), 400);
        let id = faults.take(four(message, A::CONNECTION_ID)).flatten();
        faults.when(id.is_none(), 400);
        let Some(connection) = id.map(|id| ConnectionId(u32::from_be_bytes(id))) else {
            return Err(faults.0);
        };
        if faults.0.is_empty() && usize::from(connection.worker().0) != self.worker {
            return Ok(Expected::HandOver { worker: connection.worker() });
        }
        let relay = self.link(now, connection).map(|link| link.relay);
        let found = relay.and_then(|relay| self.allocation(relay)).filter(|found| found.is_live(now));
        let foreign = found.is_some_and(|found| found.username != sender.account.username);
        let waits =
            self.link(now, connection).is_some_and(|link| matches!(link.stage, Stage::Unbound { .. }));
        faults.when(found.is_none() || !waits, 400);
        faults.when(foreign, 441);
        if !faults.0.is_empty() {
            return Err(faults.0);
        }
        self.links
            .iter_mut()
            .filter(|link| link.connection == connection)
            .for_each(|link| link.stage = Stage::Bound);
        Ok(Expected::Bound { connection, proof: sender.proof.clone() })
    }

    /// A connection was closed by its peer or client.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        self.links.retain(|link| link.connection != connection);
    }

    /// The server has told a client something.
    ///
    /// # Errors
    /// When it should not have, or something else.
    pub fn told(&mut self, to: Client, reply: Option<Reply>, message: &[u8]) -> Result<(), String> {
        let message = Message::parse(message).map_err(|error| error.to_string())?;
        if let Some(place) = self.owed.iter().position(|owed| owed.is_paid(to, reply, &message)) {
            self.owed.remove(place);
            return Ok(());
        }
        // The connection ends before it was made: that it has to is seen when it does.
        for link in &mut self.links {
            let client = self
                .allocations
                .iter()
                .find(|held| held.has(link.relay) || held.closing.contains(&link.relay));
            let Some(client) = client.map(|held| held.client) else { continue };
            if let Stage::Connecting { answer, told, .. } = &mut link.stage {
                let owed = Owed::Failed { client, answer: answer.clone() };
                if !*told && owed.is_paid(to, reply, &message) {
                    *told = true;
                    return Ok(());
                }
            }
        }
        Err(format!("{to:?} was told {message:?}, {reply:?}; owed {:?}", self.owed))
    }

    /// The server has closed a connection with a peer.
    ///
    /// # Errors
    /// When it should not have.
    pub fn closed(
        &mut self,
        now: Time,
        connection: ConnectionId,
        reason: EndReason,
        gone: Option<FiveTuple>,
    ) -> Result<(), String> {
        let place = self.links.iter().position(|link| link.connection == connection);
        let link = place.map(|place| self.links.remove(place));
        let link = link.ok_or_else(|| format!("{connection:?} was not there to be closed"))?;
        if matches!(link.stage, Stage::Connecting { told: false, .. }) {
            return Err(format!("a Connect was not answered: {link:?}"));
        }
        let fits = match reason {
            EndReason::TimedOut => link.is_overdue(now),
            EndReason::PeerForbidden => !self.may_reach(link.peer),
            EndReason::Deleted if self.allocations.iter().any(|held| held.closing.contains(&link.relay)) => {
                true
            }
            _ => self.allocation(link.relay).is_some_and(|allocation| {
                gone == Some(allocation.client.five_tuple) && reason == EndReason::ClientGone
                    || self.is_over(allocation, now) == Some(reason)
                    || reason == EndReason::Expired && now.monotonic_ms >= allocation.expires_ms
            }),
        };
        if fits { Ok(()) } else { Err(format!("closed for {reason:?}: {link:?}")) }
    }

    /// After the server has done what is due: nobody is owed anything, and what is over is closed.
    pub(super) fn check_links(&self, now: Time, swept: bool) -> Result<(), String> {
        if let Some(owed) = self.owed.first() {
            return Err(format!("not told: {owed:?}"));
        }
        let left = self.links.iter().find(|link| {
            matches!(link.stage, Stage::Connecting { told: true, .. })
                || swept && link.is_overdue(now)
                || !self.may_reach(link.peer)
                || self.allocation(link.relay).is_none()
        });
        left.map_or(Ok(()), |left| Err(format!("not closed: {left:?}")))
    }
}

impl Owed {
    fn is_paid(&self, to: Client, reply: Option<Reply>, message: &Message<'_>) -> bool {
        let id = message.attribute(A::CONNECTION_ID).and_then(|value| <[u8; 4]>::try_from(value).ok());
        let id = id.map(|id| ConnectionId(u32::from_be_bytes(id)));
        let code = message.attribute(A::ERROR_CODE).and_then(ErrorCode::parse).map(|(code, _)| code.code());
        let is_answer = |answer: &Answer, class| {
            (message.class(), message.method(), message.transaction())
                == (class, Method::CONNECT, answer.transaction)
                && is_signed_as(message, Some(&answer.proof))
                && (message.fingerprint() == Fingerprint::Verified) == answer.fingerprint
        };
        match self {
            Self::Connected { client, answer, connection } => {
                *client == to
                    && is_answer(answer, Class::Success)
                    && id == Some(*connection)
                    && reply == Some(Reply::Success(Method::CONNECT))
            }
            Self::Failed { client, answer } => {
                let says = matches!(reply, Some(Reply::Refused(refusal)) if refusal.code().code() == 447);
                *client == to && is_answer(answer, Class::Error) && code == Some(447) && id.is_none() && says
            }
            Self::Attempt { client, connection, peer } => {
                let from = message.attribute(A::XOR_PEER_ADDRESS);
                let from = from.and_then(|value| address::decode_xor(value, message.transaction()));
                *client == to
                    && (message.class(), message.method()) == (Class::Indication, Method::CONNECTION_ATTEMPT)
                    && (id, from, reply) == (Some(*connection), Some(*peer), None)
            }
        }
    }
}
