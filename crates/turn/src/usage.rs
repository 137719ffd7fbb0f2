//! What goes through each allocation: running totals, reported while it lives and when it ends. A report repeats all
//! that was said before, so one that is lost, late or heard twice changes nothing once a newer one has come.

use std::net::SocketAddr;
use std::sync::Arc;

use credentials::{CredentialId, TurnKeyId};
use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Message};

use crate::allocate::Protocol;
use crate::allocation::Allocation;
use crate::auth::Authenticated;
use crate::server::{EndReason, Output, Server};
use crate::{ConnectionId, FiveTuple, RelayId, Time};

/// How long nothing is said of an allocation that stays as it is, in milliseconds.
const QUIET_MS: u64 = 240_000;

/// What names a session, an allocation from its beginning to its end and wherever it moves: 48 bits of when it began,
/// in milliseconds since 1970, and 80 random bits, so that no other worker, start or node has the same. Who keeps
/// sessions in the order of their names has those that begin together in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// What went in one direction. RFC 6062 connections have bytes and no packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// ChannelData messages, Send or Data indications that were relayed.
    pub packets: u64,
    /// Their bytes between client and server, with their headers and padding; without those of UDP, TCP, TLS and IP.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.saturating_add(packets);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What has gone through an allocation since it was made: application data only, so nothing that came without a
/// permission, was beyond a limit, or was a request or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// From the client.
    pub ingress: Traffic,
    /// To the client.
    pub egress: Traffic,
}

impl Usage {
    /// All totals together: it changes with any of them, for they only grow.
    fn sum(self) -> u64 {
        let Self { ingress, egress } = self;
        [ingress.packets, ingress.bytes, egress.packets, egress.bytes].into_iter().fold(0, u64::wrapping_add)
    }
}

/// What of a session never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The key that its credential belongs to.
    pub turn_key: TurnKeyId,
    /// Its credential.
    pub credential: CredentialId,
    /// USERNAME, up to 508 bytes.
    pub username: String,
    /// Whom the credential was minted for; empty for a time-limited username.
    pub custom_identifier: String,
    /// Whether it relays TCP connections (RFC 6062), and not datagrams.
    pub relays_tcp: bool,
    /// When it began.
    pub started: Time,
}

/// What there is to say of a session at one moment. Of two the one with the greater sequence is the newer, whichever
/// worker made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which session.
    pub session: Arc<Session>,
    /// 1 for the first report of a session, and one more for each.
    pub sequence: u64,
    /// When it was made.
    pub at: Time,
    /// Where the client is, or was last.
    pub client: FiveTuple,
    /// Its relayed addresses.
    pub relayed: [Option<SocketAddr>; 2],
    /// What has gone through it so far.
    pub usage: Usage,
    /// When it ends unless it is refreshed, in milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// Why it has ended; then this is its last report.
    pub ended: Option<EndReason>,
}

/// Which sessions to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// This one.
    Session(SessionId),
    /// All of a credential.
    Credential(CredentialId),
    /// All of a TURN key.
    Key(TurnKeyId),
    /// All that a TURN key's credentials were minted for this one.
    CustomIdentifier {
        /// Whose.
        turn_key: TurnKeyId,
        /// Which.
        custom_identifier: Arc<str>,
    },
}

impl Ending {
    pub(crate) fn is_of(&self, session: &Session) -> bool {
        match self {
            Self::Session(id) => session.id == *id,
            Self::Credential(id) => session.credential == *id,
            Self::Key(key) => session.turn_key == *key,
            Self::CustomIdentifier { turn_key, custom_identifier } => {
                session.turn_key == *turn_key && session.custom_identifier == **custom_identifier
            }
        }
    }
}

/// An allocation's totals, and what was said of them.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) session: Arc<Session>,
    usage: Usage,
    /// What the totals came to when they were reported last, all of them together.
    reported: u64,
    /// When that was, and when it was to expire, in monotonic milliseconds.
    reported_ms: u64,
    reported_expiry_ms: u64,
    sequence: u64,
}

impl Tally {
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session: Arc::new(session),
            usage: Usage::default(),
            reported: 0,
            reported_ms: 0,
            reported_expiry_ms: 0,
            sequence: 0,
        }
    }

    /// A message of this many bytes from the client is relayed.
    #[inline]
    pub(crate) fn came_in(&mut self, bytes: usize) {
        self.usage.ingress.add(1, bytes as u64);
    }

    /// A message of this many bytes goes to the client.
    #[inline]
    pub(crate) fn went_out(&mut self, bytes: usize) {
        self.usage.egress.add(1, bytes as u64);
    }

    /// Whether anything was relayed since the last report, or there was none.
    fn is_new(&self) -> bool {
        self.sequence == 0 || self.usage.sum() != self.reported
    }
}

impl Allocation {
    /// Whether there is something to say of it. Of one that has relayed nothing there is `thoroughly`: that it was
    /// refreshed, or lives.
    fn is_due(&self, now_ms: u64, thoroughly: bool) -> bool {
        let tally = &self.tally;
        let is_old = || {
            tally.reported_expiry_ms != self.expires_ms
                || now_ms.saturating_sub(tally.reported_ms) >= QUIET_MS
        };
        tally.is_new() || (thoroughly && is_old())
    }

    /// What there is to say of it now.
    pub(crate) fn report(&mut self, now: Time, ended: Option<EndReason>) -> Box<Report> {
        let relayed = self.relayed();
        let tally = &mut self.tally;
        tally.sequence += 1;
        (tally.reported, tally.reported_ms) = (tally.usage.sum(), now.monotonic_ms);
        tally.reported_expiry_ms = self.expires_ms;
        let left_ms = self.expires_ms.saturating_sub(now.monotonic_ms);
        Box::new(Report {
            session: Arc::clone(&tally.session),
            sequence: tally.sequence,
            at: now,
            client: self.client.five_tuple,
            relayed,
            usage: tally.usage,
            expires_unix_ms: now.unix_ms.saturating_add(left_ms),
            ended,
        })
    }
}

impl Server {
    pub(crate) fn session(
        &mut self,
        now: Time,
        message: &Message<'_>,
        identity: &Authenticated,
        protocol: Protocol,
    ) -> Session {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        let [_, _, began @ ..] = now.unix_ms.to_be_bytes();
        if let Some(first) = id.first_chunk_mut() {
            *first = began;
        }
        // It names a credential, so it is UTF-8.
        let username =
            String::from_utf8_lossy(message.attribute(AttributeType::USERNAME).unwrap_or_default());
        Session {
            id: SessionId(id),
            turn_key: identity.turn_key,
            credential: identity.credential,
            username: username.into_owned(),
            custom_identifier: identity.custom_identifier.as_str().to_owned(),
            relays_tcp: protocol == Protocol::Tcp,
            started: now,
        }
    }

    /// Goes on through the table of allocations, at most so many places of it, and queues a report
    /// ([`Output::Report`]) of each that is new or has relayed something since its last; `thoroughly` also of each that
    /// was refreshed since, or was last reported four minutes ago. Whether the end of the table was reached: then the
    /// next call begins anew.
    pub fn report(&mut self, now: Time, places: usize, thoroughly: bool) -> bool {
        let (first, end) = (self.report_from, self.allocations.places());
        let next = first.saturating_add(places).min(end);
        for place in first..next {
            let Some(allocation) = self.allocations.at_place(place) else { continue };
            if allocation.is_due(now.monotonic_ms, thoroughly) {
                self.outputs.push_back(Output::Report(allocation.report(now, None)));
            }
        }
        let is_through = next >= end;
        self.report_from = if is_through { 0 } else { next };
        is_through
    }

    /// What has gone through a relay socket's allocation so far.
    pub fn usage(&self, relay: RelayId) -> Option<Usage> {
        self.allocations.at_relay(relay).map(|allocation| allocation.tally.usage)
    }

    /// So many bytes went through a connection with a peer and its data connection. RFC 6062 §5.4.
    pub fn transferred(&mut self, connection: ConnectionId, to_peer: u64, to_client: u64) {
        let Some(relay) = self.connections.entry(connection).map(|held| held.relay) else { return };
        if let Some(allocation) = self.allocations.at_relay_mut(relay) {
            allocation.tally.usage.ingress.add(0, to_peer);
            allocation.tally.usage.egress.add(0, to_client);
        }
    }

    /// Ends every allocation, because the process does. Outputs follow.
    pub fn stop(&mut self, now: Time) {
        while let Some(id) = self.allocations.first() {
            self.end(now, id, EndReason::Stopped);
        }
    }

    /// Ends what is to be ended.
    pub(crate) fn end_sessions(&mut self, now: Time, ending: Ending) {
        for id in self.allocations.of_ending(&ending) {
            self.end(now, id, EndReason::Terminated);
        }
        self.endings.remember(now.monotonic_ms, ending);
    }
}

/// What was lately to be ended: an allocation on its way between workers has not heard it.
#[derive(Debug, Default)]
pub(crate) struct Endings(std::collections::VecDeque<(u64, Ending)>);

/// How long an allocation may be on its way, in milliseconds; and how much is remembered meanwhile.
const REMEMBERED_MS: u64 = 300_000;
const MAX_REMEMBERED: usize = 1_024;

impl Endings {
    fn remember(&mut self, now_ms: u64, ending: Ending) {
        self.forget(now_ms);
        if self.0.len() >= MAX_REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((now_ms, ending));
    }

    fn forget(&mut self, now_ms: u64) {
        while self.0.front().is_some_and(|(at_ms, _)| at_ms.saturating_add(REMEMBERED_MS) <= now_ms) {
            self.0.pop_front();
        }
    }

    /// Whether this session was to be ended after it began.
    pub(crate) fn include(&self, session: &Session) -> bool {
        let began_ms = session.started.monotonic_ms;
        self.0.iter().any(|(at_ms, ending)| began_ms <= *at_ms && ending.is_of(session))
    }
}
