//! What is known of sessions: running totals, and the usage that is made of them.
//!
//! A relay reports running totals, and reports them again. A report and what it adds to the usage are one transaction,
//! and one that is not newer than what is known adds nothing: so nothing is counted twice, whoever repeats it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use credentials::{CredentialId, TurnKeyId};
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use super::audit::Change;
use super::{AccountId, Backend, Store, StoreError, Timestamp, TypeError};

/// Most reports that are recorded in one transaction: others wait for it.
pub const REPORTS_AT_ONCE: usize = 500;
/// A session that lives is reported at least every five minutes: one of which nothing was heard for so many is over.
pub(super) const SILENT_SECS: u64 = 1_800;
/// How long the order to end sessions is kept, in seconds: nodes read it within one.
pub(super) const ORDER_KEPT_SECS: u64 = 600;
/// Hours, days and rows that one run of [`Store::tidy_usage`] sees to: the next goes on.
pub(super) const TIDY_STEPS: usize = 24;
pub(super) const TIDY_ROWS: u32 = 5_000;
/// The most bytes, and packets, by which a session counts for more with one report: it relays less in days at 10 Gbit/s. A
/// relay that says more is mistaken, or worse.
pub(super) const MOST_ADDED: u64 = 1 << 48;
/// A session is not counted as alive for longer before its first report, or between two: a year.
pub(super) const LONGEST_LIFE_SECS: u64 = 31_536_000;
/// How many sessions' ends may be read later: the oldest are forgotten.
pub(super) const ENDS_KEPT: i64 = 1_000_000;

/// A session's name: 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for SessionId {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        const FORM: TypeError = TypeError("a session's id is 32 lower-case hex digits");
        let mut bytes = [0; 16];
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::decode_to_slice(text, &mut bytes).ok().filter(|()| is_lower).ok_or(FORM)?;
        Ok(Self(bytes))
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which process a session is at, and where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, the same after a restart and no other node's.
    pub name: String,
    /// This start of it.
    pub epoch: [u8; 16],
    /// Where it is.
    pub location: Location,
}

impl Node {
    /// This start of the node with this name.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(name: &str, location: Location) -> Result<Self, StoreError> {
        Ok(Self { name: name.to_owned(), epoch: super::secret::random_bytes()?, location })
    }
}

/// Where a node is, in its operator's words; empty where he says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Location {
    /// Such as `Lisbon`.
    pub city: String,
    /// Such as `LIS`.
    pub code: String,
    /// Such as `PT`.
    pub country: String,
    /// Such as `EU`.
    pub region: String,
}

/// What was relayed: with TURN's headers, without those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// To clients.
    pub egress_bytes: u64,
    /// To clients.
    pub egress_packets: u64,
    /// From clients.
    pub ingress_bytes: u64,
    /// From clients.
    pub ingress_packets: u64,
}

impl Usage {
    /// What is more in this than in `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            egress_bytes: self.egress_bytes.saturating_sub(before.egress_bytes),
            egress_packets: self.egress_packets.saturating_sub(before.egress_packets),
            ingress_bytes: self.ingress_bytes.saturating_sub(before.ingress_bytes),
            ingress_packets: self.ingress_packets.saturating_sub(before.ingress_packets),
        }
    }

    /// The same, each count no more than this.
    pub(super) fn at_most(self, most: u64) -> Self {
        Self {
            egress_bytes: self.egress_bytes.min(most),
            egress_packets: self.egress_packets.min(most),
            ingress_bytes: self.ingress_bytes.min(most),
            ingress_packets: self.ingress_packets.min(most),
        }
    }

    pub(super) fn plus(self, more: Self) -> Self {
        Self {
            egress_bytes: self.egress_bytes.saturating_add(more.egress_bytes),
            egress_packets: self.egress_packets.saturating_add(more.egress_packets),
            ingress_bytes: self.ingress_bytes.saturating_add(more.ingress_bytes),
            ingress_packets: self.ingress_packets.saturating_add(more.ingress_packets),
        }
    }
}

/// What a relay says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// Which.
    pub id: SessionId,
    /// Whose.
    pub turn_key: TurnKeyId,
    /// Whose.
    pub credential: CredentialId,
    /// Its username, up to 508 bytes.
    pub username: String,
    /// Whom the credential was minted for.
    pub custom_identifier: String,
    /// How the client reaches the relay: `udp`, `tcp`, `tls` or `dtls`.
    pub transport: &'static str,
    /// Where the client is.
    pub client: SocketAddr,
    /// Its relayed addresses.
    pub relayed: [Option<SocketAddr>; 2],
    /// Whether it relays TCP connections.
    pub relays_tcp: bool,
    /// When it began.
    pub started: Timestamp,
    /// When this was said.
    pub at: Timestamp,
    /// When it ends unless it is refreshed.
    pub expires: Timestamp,
    /// Which of two reports is the newer.
    pub sequence: u64,
    /// Everything since it began.
    pub usage: Usage,
    /// Why it has ended, if it has.
    pub ended: Option<&'static str>,
}

impl SessionReport {
    pub(super) fn client_family(&self) -> &'static str {
        family(self.client)
    }

    pub(super) fn relay_family(&self) -> &'static str {
        match self.relayed {
            [Some(_), Some(_)] => "both",
            [Some(only), None] | [None, Some(only)] => family(only),
            [None, None] => "",
        }
    }
}

fn family(address: SocketAddr) -> &'static str {
    if address.ip().to_canonical().is_ipv4() { "ipv4" } else { "ipv6" }
}

/// A session as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Which.
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    pub id: SessionId,
    /// The account it belongs to.
    #[serde(skip)]
    pub account: AccountId,
    /// Whose.
    #[serde(serialize_with = "as_display")]
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    pub key_id: TurnKeyId,
    /// Whom the credential was minted for.
    pub custom_identifier: String,
    /// Its credential's username.
    pub username: String,
    /// At which node.
    pub node: String,
    /// How the client reaches the relay.
    pub transport: String,
    /// Where the client is; `None` once it has ended, or where it is not to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    /// What peers see, one address or two.
    pub relay_addresses: Vec<String>,
    /// `udp` or `tcp`: what is relayed.
    pub relays: &'static str,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// When it was last heard of.
    #[schema(value_type = String, format = DateTime)]
    pub reported: Timestamp,
    /// When it ends unless it is refreshed.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Everything since it began.
    #[serde(flatten)]
    pub usage: Usage,
    /// When it ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
}

fn as_display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Which live sessions to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFilter {
    /// Of this account.
    pub account: AccountId,
    /// Of this key.
    pub key: Option<TurnKeyId>,
    /// Of this customIdentifier.
    pub custom_identifier: Option<String>,
    /// Of this username.
    pub username: Option<String>,
    /// At most so many.
    pub limit: u32,
    /// Those behind this one.
    pub after: Option<SessionCursor>,
}

/// A place in the list of sessions, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCursor {
    /// When the session there began.
    pub started: Timestamp,
    /// Its name.
    pub id: SessionId,
}

impl fmt::Display for SessionCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.started.unix_micros(), self.id)
    }
}

impl FromStr for SessionCursor {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        const FORM: TypeError = TypeError("a cursor is what the last answer gave");
        let (started, id) = text.split_once('-').ok_or(FORM)?;
        let started = started.parse().map_err(|_| FORM)?;
        Ok(Self { started: Timestamp::from_unix_micros(started), id: id.parse().map_err(|_| FORM)? })
    }
}

/// Which live sessions to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOrder {
    /// This one.
    Session(TurnKeyId, SessionId),
    /// All of a credential.
    Credential(TurnKeyId, CredentialId),
    /// All of a TURN key.
    Key(TurnKeyId),
    /// All of a key that its credentials were minted for this one.
    CustomIdentifier(TurnKeyId, String),
}

/// How long what is known of usage is kept, each in days, 1 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Usage by the minute; older usage is kept by the hour.
    pub minutes_days: u32,
    /// Usage by the hour, at least as long; older usage is kept by the day.
    pub hours_days: u32,
    /// Usage by the day, at least as long; what is older is forgotten.
    pub days_days: u32,
    /// Sessions that have ended.
    pub sessions_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { minutes_days: 14, hours_days: 100, days_days: 800, sessions_days: 30 }
    }
}

impl Store {
    /// Records what a relay has reported, at most [`REPORTS_AT_ONCE`]: in one transaction the sessions, and the usage
    /// that is new in them. Usage counts for the minute in which it was reported. A report that is not newer than what
    /// is known is passed over, and so is one whose account is gone.
    pub async fn record_usage(&self, node: &Node, reports: &[SessionReport]) -> Result<(), StoreError> {
        on_backend!(self, db => db.record_usage(node, reports))
    }

    /// Ends, as `node_lost`, sessions of earlier starts of this node, which it can know nothing of any more.
    pub async fn close_lost_sessions(&self, node: &Node) -> Result<(), StoreError> {
        on_backend_for_long!(self, db => db.close_lost_sessions(node))
    }

    /// Makes hours of old minutes and days of old hours, forgets what is older than that, and ends sessions of nodes
    /// that are silent. Does a bounded part of it: `false` when there is more to do.
    pub async fn tidy_usage(&self, retention: &Retention) -> Result<bool, StoreError> {
        self.tidy_usage_at(retention, Timestamp::now().unix_secs()).await
    }

    /// The same at a moment, in unix seconds.
    #[doc(hidden)]
    pub async fn tidy_usage_at(&self, retention: &Retention, now: u64) -> Result<bool, StoreError> {
        match on_backend_for_long!(self, db => db.tidy_usage(retention, now)) {
            // Others were at the same rows: they go first.
            Err(StoreError::Conflict(_)) => Ok(false),
            done => done,
        }
    }

    /// What a TURN key has relayed in a calendar month (UTC): 202611 is November 2026.
    pub async fn usage_in_month(&self, key: TurnKeyId, month: u32) -> Result<Usage, StoreError> {
        on_backend!(self, db => db.usage_in_month(key, month))
    }

    /// The first `limit` sessions whose end was recorded after `seq`, each with its place in that order.
    pub async fn sessions_ended_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Session)>, StoreError> {
        on_backend!(self, db => db.sessions_ended_after(seq, limit))
    }

    /// The last place in that order; 0 when there is none.
    pub async fn last_session_end(&self) -> Result<i64, StoreError> {
        on_backend!(self, db => db.last_session_end())
    }

    /// Live sessions, newest first.
    pub async fn sessions(&self, filter: &SessionFilter) -> Result<Vec<Session>, StoreError> {
        on_backend!(self, db => db.sessions(filter))
    }

    /// A session of an account, live or not.
    pub async fn session(&self, account: &AccountId, id: SessionId) -> Result<Option<Session>, StoreError> {
        on_backend!(self, db => db.session(account, id))
    }

    /// Which credential a session of an account has.
    pub async fn credential_of_user(
        &self,
        account: &AccountId,
        username: &str,
    ) -> Result<Vec<(TurnKeyId, CredentialId)>, StoreError> {
        on_backend!(self, db => db.credential_of_user(account, username))
    }

    /// Has relays end sessions of an account: all of these, or when it fails none. Relays know within a second; who
    /// still has a good credential may come back.
    pub async fn order_ends(&self, account: &AccountId, orders: &[SessionOrder]) -> Result<(), StoreError> {
        let noted = |order: &SessionOrder| {
            let (change, key, details) = match order {
                SessionOrder::Session(key, id) => (Change::SessionEnded, key, json!({ "session_id": id })),
                SessionOrder::Credential(key, id) => {
                    (Change::SessionsEnded, key, json!({ "credential_id": id.to_string() }))
                }
                SessionOrder::Key(key) => (Change::SessionsEnded, key, json!({})),
                SessionOrder::CustomIdentifier(key, custom) => {
                    (Change::SessionsEnded, key, json!({ "customIdentifier": custom }))
                }
            };
            (order.clone(), self.note(change, Some(account), key, details))
        };
        let orders: Vec<_> = orders.iter().map(noted).collect();
        on_backend!(self, db => db.insert_session_orders(&orders))
    }

    /// The first `limit` orders after `seq`.
    pub async fn session_orders_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<(i64, SessionOrder)>, StoreError> {
        on_backend!(self, db => db.session_orders_after(seq, limit))
    }
}

/// The calendar month (UTC) of a moment, as 202611.
pub fn month_of(at: Timestamp) -> u32 {
    let secs = at.unix_micros().div_euclid(1_000_000);
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(secs) else { return 0 };
    u32::try_from(at.year()).unwrap_or(0) * 100 + u32::from(u8::from(at.month()))
}

/// The pieces of minutes between two moments, as their starts (seconds) and milliseconds. Of more than two hours the
/// last two are told apart; what was before counts for the first of them.
pub(super) fn minutes(from: Timestamp, to: Timestamp) -> Vec<(i64, i64)> {
    const MINUTE_MS: i64 = 60_000;
    let (from, to) = (from.unix_micros() / 1_000, to.unix_micros() / 1_000);
    let first = from.max(to.saturating_sub(120 * MINUTE_MS).div_euclid(MINUTE_MS) * MINUTE_MS);
    let mut pieces = Vec::new();
    let mut at = first;
    while at < to {
        let start = at.div_euclid(MINUTE_MS) * MINUTE_MS;
        let end = to.min(start + MINUTE_MS);
        pieces.push((start / 1_000, end - at));
        at = end;
    }
    if let Some((_, ms)) = pieces.first_mut() {
        *ms += first - from;
    }
    pieces
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_time_is_cut_into_minutes() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let pieces = |from: &str, to: &str| minutes(at(from), at(to));
        let day = at("2026-01-02T00:00:00Z").unix_micros() / 1_000_000;
        assert_eq!(pieces("2026-01-02T00:00:10Z", "2026-01-02T00:00:15.5Z"), [(day, 5_500)]);
        assert_eq!(
            pieces("2026-01-01T23:59:50Z", "2026-01-02T00:01:01Z"),
            [(day - 60, 10_000), (day, 60_000), (day + 60, 1_000)]
        );
        assert_eq!(pieces("2026-01-02T00:00:10Z", "2026-01-02T00:00:10Z"), []);
        assert_eq!(pieces("2026-01-02T00:00:10Z", "2026-01-02T00:00:09Z"), [], "a clock was set back");
        let long = pieces("2026-01-01T00:00:00Z", "2026-01-02T00:00:30Z");
        assert_eq!(long.len(), 121);
        assert_eq!(long.iter().map(|(_, ms)| ms).sum::<i64>(), 86_430_000);
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        assert_eq!(month_of("2026-11-30T23:59:59.9Z".parse().unwrap()), 202_611);
        assert_eq!(month_of("2026-12-01T00:00:00Z".parse().unwrap()), 202_612);
    }

    #[test]
    fn cursors_are_read_back() {
        let cursor = SessionCursor { started: Timestamp::from_unix_micros(1_234), id: SessionId([0xab; 16]) };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!("x".parse::<SessionCursor>().is_err());
        assert!("ABABABABABABABABABABABABABABABAB".parse::<SessionId>().is_err());
    }
}
