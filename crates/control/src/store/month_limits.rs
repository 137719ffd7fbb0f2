//! What a TURN key may relay in a calendar month (UTC), and what happens when it has.
//!
//! Usage is looked at once a second. What follows from it, the state, the audit row and so the webhooks' events, is one
//! transaction, so it happens once, however many nodes look.

use std::str::FromStr;

use credentials::TurnKeyId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit::{Change, Note};
use super::usage::{Usage, month_of};
use super::{AccountId, Backend, Store, StoreError, Timestamp, TypeError};

/// Most thresholds of a limit.
pub const MAX_THRESHOLDS: usize = 10;

/// What a TURN key may relay in a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MonthLimit {
    /// So many bytes, 1 to 2^53, as usage counts them.
    #[schema(minimum = 1)]
    pub bytes: u64,
    /// Which of them count.
    pub counts: MonthBytes,
    /// What happens when they are reached.
    pub action: MonthAction,
    /// At which percentages of them somebody is told, each 1 to 99; the limit itself is always told.
    pub notify_at: Vec<u8>,
}

/// Which bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MonthBytes {
    /// Those to clients, `egressBytes`.
    Egress,
    /// Those from clients, too.
    Total,
}

/// What happens at the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MonthAction {
    /// Nothing new is minted or allocated; what relays goes on.
    Refuse,
    /// That, and what relays ends.
    Cut,
    /// It is told, and nothing else.
    Notify,
}

/// What the limit does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Nothing new is minted or allocated.
    Refuse,
    /// Nor is anything relayed.
    Cut,
}

/// A key's monthly limit, and how far the month has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MonthStatus {
    /// The limit.
    #[serde(flatten)]
    pub limit: MonthLimit,
    /// The month, such as `2026-11`.
    pub month: String,
    /// What was relayed in it, of the bytes that count.
    pub used_bytes: u64,
    /// When the limit was reached; `null` while it is not.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub reached: Option<Timestamp>,
}

/// What was done about a limit already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// In this month.
    pub(super) month: u32,
    /// The highest percentage that was told.
    pub(super) told: u8,
    pub(super) reached: Option<Timestamp>,
}

/// Something to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Lift,
    Tell(u8),
    Stop,
}

/// A limit with whose it is.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) key: TurnKeyId,
    pub(super) account: AccountId,
    pub(super) limit: MonthLimit,
    pub(super) before: Progress,
    /// What the key has relayed in the month.
    pub(super) usage: Usage,
}

impl MonthBytes {
    const ALL: [Self; 2] = [Self::Egress, Self::Total];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Total => "total",
        }
    }

    fn of(self, usage: Usage) -> u64 {
        match self {
            Self::Egress => usage.egress_bytes,
            Self::Total => usage.egress_bytes.saturating_add(usage.ingress_bytes),
        }
    }
}

impl MonthAction {
    const ALL: [Self; 3] = [Self::Refuse, Self::Cut, Self::Notify];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Cut => "cut",
            Self::Notify => "notify",
        }
    }

    pub(super) fn stop(self) -> Option<Stop> {
        match self {
            Self::Refuse => Some(Stop::Refuse),
            Self::Cut => Some(Stop::Cut),
            Self::Notify => None,
        }
    }
}

impl FromStr for MonthBytes {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let found = Self::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or(TypeError("what counts is `egress` or `total`"))
    }
}

impl FromStr for MonthAction {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let found = Self::ALL.into_iter().find(|it| it.name() == text);
        found.ok_or(TypeError("an action is `refuse`, `cut` or `notify`"))
    }
}

impl Stop {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Cut => "cut",
        }
    }

    pub(super) fn from_column(text: &str) -> Option<Self> {
        [Self::Refuse, Self::Cut].into_iter().find(|stop| stop.name() == text)
    }
}

impl MonthLimit {
    /// What is to be done, in this order, and what was done then.
    pub(super) fn judge(&self, before: Progress, now: Timestamp, usage: Usage) -> (Progress, Vec<Step>) {
        let used = u128::from(self.counts.of(usage));
        let is_at = |percent: u8| used * 100 >= u128::from(self.bytes) * u128::from(percent);
        let month = month_of(now);
        // Another node's clock is ahead, and has begun the next month: this one's says nothing about it.
        if month < before.month {
            return (before, Vec::new());
        }
        let mut after =
            if before.month == month { before } else { Progress { month, told: 0, reached: None } };
        let mut steps = Vec::new();
        if before.reached.is_some() && (after.reached.is_none() || !is_at(100)) {
            after.reached = None;
            steps.push(Step::Lift);
        }
        if is_at(100) && after.reached.is_none() {
            (after.reached, after.told) = (Some(now), 100);
            steps.push(Step::Stop);
        }
        let passed = self.notify_at.iter().copied().filter(|percent| is_at(*percent)).max();
        if let Some(percent) = passed.filter(|percent| *percent > after.told) {
            after.told = percent;
            steps.push(Step::Tell(percent));
        }
        (after, steps)
    }
}

impl Watched {
    pub(super) fn judge(&self, now: Timestamp) -> (Progress, Vec<Step>) {
        self.limit.judge(self.before, now, self.usage)
    }

    fn status(self, now: Timestamp) -> MonthStatus {
        let month = month_of(now);
        MonthStatus {
            used_bytes: self.limit.counts.of(self.usage),
            month: month_text(month),
            reached: self.before.reached.filter(|_| self.before.month == month),
            limit: self.limit,
        }
    }

    /// What the log and webhooks say of a step.
    pub(super) fn note(&self, by: &Store, step: Step, now: Timestamp) -> Note {
        let change = match step {
            Step::Lift => Change::MonthLimitLifted,
            Step::Tell(_) => Change::MonthLimitNeared,
            Step::Stop => Change::MonthLimitReached,
        };
        let percent = match step {
            Step::Lift => None,
            Step::Tell(percent) => Some(percent),
            Step::Stop => Some(100),
        };
        let details = json!({
            "month": month_text(month_of(now)), "percent": percent, "used_bytes": self.limit.counts.of(self.usage),
            "bytes": self.limit.bytes, "counts": self.limit.counts, "action": self.limit.action,
        });
        by.note(change, Some(&self.account), &self.key, details)
    }
}

fn month_text(month: u32) -> String {
    format!("{:04}-{:02}", month / 100, month % 100)
}

impl Store {
    /// A TURN key's monthly limit, and how far this month has come. `None` where it has none, or there is no such key.
    pub async fn month_limit(&self, key: TurnKeyId) -> Result<Option<MonthStatus>, StoreError> {
        let now = self.now();
        let watched = on_backend!(self, db => db.month_limit(key, month_of(now)))?;
        Ok(watched.map(|watched| watched.status(now)))
    }

    /// Gives a TURN key this monthly limit, or none. What follows from it [`Store::watch_month_limits`] does. `false` when
    /// the account has no such key.
    pub async fn set_month_limit(
        &self,
        account: &AccountId,
        key: TurnKeyId,
        limit: Option<&MonthLimit>,
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let note = self.note(Change::MonthLimitSet, Some(account), &key, json!({ "limit": limit }));
        let lifted = |held: &Watched| held.note(self, Step::Lift, now);
        on_backend!(self, db => db.set_month_limit((account, key), limit, month_of(now), (&note, lifted)))
    }

    /// Holds usage up to now against the limits, and does what follows; of how many keys.
    pub async fn watch_month_limits(&self) -> Result<usize, StoreError> {
        self.watch_month_limits_at(self.now()).await
    }

    /// The same at a moment.
    #[doc(hidden)]
    pub async fn watch_month_limits_at(&self, now: Timestamp) -> Result<usize, StoreError> {
        let note = |held: &Watched, step| held.note(self, step, now);
        on_backend!(self, db => db.watch_month_limits(now, note))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn used(bytes: u64) -> Usage {
        Usage { egress_bytes: bytes, ingress_bytes: 7, ..Usage::default() }
    }

    #[test]
    fn each_step_is_taken_once_and_undone_with_the_month() {
        let limit = MonthLimit {
            bytes: 1_000,
            counts: MonthBytes::Egress,
            action: MonthAction::Cut,
            notify_at: vec![50, 80],
        };
        let mut before = Progress { month: 0, told: 0, reached: None };
        let mut check = |now: &str, bytes: u64, steps: &[Step]| {
            let (after, found) = limit.judge(before, at(now), used(bytes));
            assert_eq!(found, steps, "{now} {bytes}");
            before = after;
        };
        check("2026-11-01T00:00:00Z", 499, &[]);
        check("2026-11-02T00:00:00Z", 500, &[Step::Tell(50)]);
        check("2026-11-02T00:00:01Z", 799, &[]);
        check("2026-11-02T00:00:02Z", 999, &[Step::Tell(80)]);
        check("2026-11-02T00:00:03Z", 1_000, &[Step::Stop]);
        check("2026-11-30T23:59:59Z", 1_200, &[]);
        check("2026-12-01T00:00:00Z", 0, &[Step::Lift]);
        check("2026-12-01T00:00:01Z", 2_000, &[Step::Stop]);
        check("2027-01-01T00:00:00Z", 3_000, &[Step::Lift, Step::Stop]);
    }

    #[test]
    fn a_limit_that_is_raised_is_lifted() {
        let now = at("2026-11-02T00:00:00Z");
        let before = Progress { month: 202_611, told: 0, reached: Some(now) };
        let mut limit = MonthLimit {
            bytes: 2_000,
            counts: MonthBytes::Egress,
            action: MonthAction::Refuse,
            notify_at: vec![50],
        };
        let (after, steps) = limit.judge(before, now, used(1_000));
        assert_eq!(steps, [Step::Lift, Step::Tell(50)]);
        assert_eq!(after, Progress { month: 202_611, told: 50, reached: None });
        limit.bytes = 1_007;
        assert_eq!(limit.judge(after, now, used(1_000)).1, []);
        limit.counts = MonthBytes::Total;
        assert_eq!(limit.judge(after, now, used(1_000)).1, [Step::Stop]);
        limit.bytes = u64::MAX;
        assert_eq!(limit.judge(after, now, used(u64::MAX - 7)).1, [Step::Stop], "no overflow");
    }
}
