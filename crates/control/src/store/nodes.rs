//! The nodes of a deployment: what each last said of itself, and how long ago that is.
//!
//! Times are the database's, so nothing depends on the nodes' clocks being right.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Backend, Store, StoreError, Timestamp};

/// Most nodes that are read at once.
pub const MAX_NODES: u32 = 10_000;

/// How long a node is remembered that is not heard of any more.
const FORGET_AFTER_SECS: u32 = 86_400;

/// The most that a node's weight counts for, whatever it says of itself: what one node says cannot take everything.
pub const MAX_NODE_WEIGHT: u32 = 1_000;

/// So many times in a row a node may miss saying that it is there.
const MISSED: u64 = 3;

/// What a node says of itself. What it leaves out is empty or zero: nodes of another version may say less, or more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeReport {
    /// What runs.
    pub version: String,
    /// `all`, or `relay` for one without an API.
    pub role: String,
    /// The city that it is in.
    pub city: String,
    /// The code of that place, such as `LIS`.
    pub code: String,
    /// Its country.
    pub country: String,
    /// Its region.
    pub region: String,
    /// Where TURN clients reach it, such as `udp://198.51.100.7:3478`: addresses, never names.
    pub addresses: Vec<String>,
    /// The host name in its URLs; of its certificate, if it has one.
    pub host: String,
    /// The `stun:`, `turn:` and `turns:` URLs that lead to it.
    pub urls: Vec<String>,
    /// How much of what comes anew it is to be given, compared with others.
    pub weight: u32,
    /// When it started, Unix seconds by its own clock.
    pub started: u64,
    /// Whether it takes no new allocations because it is about to end.
    pub draining: bool,
    /// Whether it takes no new allocations because it has not heard for too long what is revoked.
    pub stale: bool,
    /// Whether it has ended in order.
    pub ended: bool,
    /// Allocations that live there.
    pub allocations: u64,
    /// Above how many allocations it sends clients elsewhere, if it does.
    pub redirect_above: Option<u64>,
    /// Packets relayed in a second, both ways.
    pub packets_per_second: u64,
    /// Bytes relayed in a second, both ways.
    pub bytes_per_second: u64,
    /// What it uses of all its cores, in thousandths.
    pub cpu_permille: u32,
    /// The last entry of the deny feed that it has.
    pub feed_position: i64,
    /// How old its last successful look at the feed is, in milliseconds; `None` before the first.
    pub feed_age_ms: Option<u64>,
    /// How often it says that it is there, in seconds.
    pub interval_secs: u64,
    /// Which version of the store's keyring it uses; `None` where it has its keyring from elsewhere.
    pub keyring_version: Option<u64>,
}

/// What is to be thought of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It works.
    Up,
    /// It has as many allocations as it wants, and sends clients elsewhere.
    Full,
    /// It is about to end, and takes no new allocations.
    Draining,
    /// It has not heard for too long what is revoked, and takes no new allocations.
    Stale,
    /// It has ended in order.
    Ended,
    /// It is not heard of, and has not said that it would end.
    Lost,
}

impl NodeState {
    /// The name that the API has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Stale => "stale",
            Self::Ended => "ended",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A node as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KnownNode {
    /// Its name.
    pub name: String,
    /// What is to be thought of it.
    pub state: NodeState,
    /// When it was last heard of, by the database's clock.
    #[schema(value_type = String, format = DateTime)]
    pub seen: Timestamp,
    /// How long ago that is, in milliseconds.
    pub seen_ms_ago: u64,
    /// What it said.
    #[serde(flatten)]
    pub report: NodeReport,
}

impl KnownNode {
    pub(super) fn new(name: String, about: &str, seen: Timestamp, micros_ago: i64) -> Self {
        let seen_ms_ago = u64::try_from(micros_ago / 1_000).unwrap_or(0);
        // What another version says and this one cannot read must not hide the other nodes.
        let (state, report) = match serde_json::from_str::<NodeReport>(about) {
            Ok(report) => (report.state(Duration::from_millis(seen_ms_ago)), report),
            Err(_) => (NodeState::Lost, NodeReport::default()),
        };
        Self { name, state, seen, seen_ms_ago, report }
    }
}

impl NodeReport {
    /// What is to be thought of the node so long after it said this.
    fn state(&self, age: Duration) -> NodeState {
        let patience = Duration::from_secs(self.interval_secs.max(1).saturating_mul(MISSED));
        match self {
            Self { ended: true, .. } => NodeState::Ended,
            _ if age > patience => NodeState::Lost,
            Self { draining: true, .. } => NodeState::Draining,
            Self { stale: true, .. } => NodeState::Stale,
            _ if self.is_full() => NodeState::Full,
            _ => NodeState::Up,
        }
    }

    /// Whether it has as many allocations as it wants.
    pub fn is_full(&self) -> bool {
        self.redirect_above.is_some_and(|most| self.allocations >= most)
    }

    /// Which share of the allocations that it wants it has, in thousandths; of one that takes any number, none.
    pub fn load_permille(&self) -> u64 {
        let share = |most: u64| self.allocations.saturating_mul(1_000) / most.max(1);
        self.redirect_above.map_or(0, share)
    }

    /// What its weight counts for, 1 to [`MAX_NODE_WEIGHT`].
    pub fn fair_weight(&self) -> u32 {
        self.weight.clamp(1, MAX_NODE_WEIGHT)
    }

    fn to_column(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|error| StoreError::Database(error.into()))
    }
}

impl Store {
    /// Whether other nodes can share this store.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Notes what a node says of itself, and that it is there.
    pub async fn note_node(&self, name: &str, report: &NodeReport) -> Result<(), StoreError> {
        let about = report.to_column()?;
        on_backend!(self, db => db.note_node(name, &about))
    }

    /// The nodes that were heard of within the last day, by name, at most [`MAX_NODES`].
    pub async fn nodes(&self) -> Result<Vec<KnownNode>, StoreError> {
        on_backend!(self, db => db.nodes(MAX_NODES))
    }

    /// Forgets nodes that were not heard of for a day.
    pub(crate) async fn forget_nodes(&self) -> Result<(), StoreError> {
        on_backend!(self, db => db.forget_nodes(FORGET_AFTER_SECS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_heard_of_is_not_lost_until_it_missed_three_times() {
        let up = NodeReport { interval_secs: 5, redirect_above: Some(10), ..NodeReport::default() };
        let check = |report: &NodeReport, age_ms: u64, state: NodeState| {
            assert_eq!(report.state(Duration::from_millis(age_ms)), state, "{report:?} {age_ms}");
        };
        check(&up, 0, NodeState::Up);
        check(&up, 15_000, NodeState::Up);
        check(&up, 15_001, NodeState::Lost);
        check(&NodeReport { allocations: 9, ..up.clone() }, 0, NodeState::Up);
        let full = NodeReport { allocations: 10, ..up.clone() };
        check(&full, 0, NodeState::Full);
        let stale = NodeReport { stale: true, ..full };
        check(&stale, 15_000, NodeState::Stale);
        check(&stale, 15_001, NodeState::Lost);
        let draining = NodeReport { draining: true, ..stale };
        check(&draining, 15_000, NodeState::Draining);
        check(&draining, 15_001, NodeState::Lost);
        check(&NodeReport { ended: true, ..draining }, 99_999, NodeState::Ended);
    }

    #[test]
    fn a_weight_counts_for_something_and_not_for_everything() {
        for (weight, counts) in [(0, 1), (1, 1), (1_000, 1_000), (1_001, 1_000), (u32::MAX, 1_000)] {
            assert_eq!(NodeReport { weight, ..NodeReport::default() }.fair_weight(), counts);
        }
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_is_understood() {
        let report: NodeReport =
            serde_json::from_str(r#"{"version":"9","new":[1],"interval_secs":5}"#).unwrap();
        assert_eq!((report.version.as_str(), report.interval_secs, report.weight), ("9", 5, 0));
    }
}
