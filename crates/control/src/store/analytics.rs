//! Questions about usage: what to sum up, apart by what, of which times and whom.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::usage::Usage;
use super::{AccountId, Backend, Store, StoreError, Timestamp, TypeError};

/// Most rows of an answer.
pub const MAX_GROUPS: u32 = 10_000;

/// How many questions about usage a process asks at once: fewer than it has connections.
pub(super) const QUESTIONS_AT_ONCE: usize = 3;
/// How long a question waits until others are answered.
const QUESTION_PATIENCE: Duration = Duration::from_secs(10);

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// What usage is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// As fine as usage is known: the minute, of what is older the hour or day.
    Datetime,
    /// The minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// Fifteen minutes.
    FifteenMinutes,
    /// The hour.
    Hour,
    /// The day, in UTC.
    Date,
    /// The TURN key.
    Key,
    /// Whom the credential was minted for.
    CustomIdentifier,
    /// The credential's username.
    Username,
    /// The city of the node's location.
    City,
    /// Its code.
    Code,
    /// Its country.
    Country,
    /// Its region.
    Region,
    /// The node's name.
    Node,
    /// How the client reaches the relay: `udp`, `tcp`, `tls`, `dtls`.
    Transport,
    /// The client's address family: `ipv4`, `ipv6`.
    ClientFamily,
    /// That of the relayed addresses: `ipv4`, `ipv6`, `both`.
    RelayFamily,
}

impl Dimension {
    /// All of them, with the names that the interfaces use.
    pub const ALL: [(Self, &'static str); 17] = [
        (Self::Datetime, "datetime"),
        (Self::Minute, "datetimeMinute"),
        (Self::FiveMinutes, "datetimeFiveMinutes"),
        (Self::FifteenMinutes, "datetimeFifteenMinutes"),
        (Self::Hour, "datetimeHour"),
        (Self::Date, "date"),
        (Self::Key, "keyId"),
        (Self::CustomIdentifier, "customIdentifier"),
        (Self::Username, "username"),
        (Self::City, "datacenterCity"),
        (Self::Code, "datacenterCode"),
        (Self::Country, "datacenterCountry"),
        (Self::Region, "datacenterRegion"),
        (Self::Node, "node"),
        (Self::Transport, "transport"),
        (Self::ClientFamily, "clientFamily"),
        (Self::RelayFamily, "relayFamily"),
    ];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, named)| *named == name).map(|(dimension, _)| *dimension)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(dimension, _)| *dimension == self).map_or("", |(_, name)| name)
    }

    /// How many seconds it takes together, if it is about time.
    pub fn span_secs(self) -> Option<i64> {
        match self {
            Self::Datetime | Self::Minute => Some(MINUTE),
            Self::FiveMinutes => Some(5 * MINUTE),
            Self::FifteenMinutes => Some(15 * MINUTE),
            Self::Hour => Some(HOUR),
            Self::Date => Some(DAY),
            _ => None,
        }
    }
}

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Bytes to clients.
    EgressBytes,
    /// Packets to clients.
    EgressPackets,
    /// Bytes from clients.
    IngressBytes,
    /// Packets from clients.
    IngressPackets,
    /// Sessions that began.
    Sessions,
    /// Sessions that lived, on average.
    Concurrent,
}

impl Metric {
    /// All that are sums.
    pub const SUMS: [Self; 5] =
        [Self::EgressBytes, Self::EgressPackets, Self::IngressBytes, Self::IngressPackets, Self::Sessions];

    /// Every one.
    pub fn all() -> Vec<Self> {
        Self::ALL.map(|(metric, _)| metric).into()
    }

    /// All of them, with the names that the interfaces use.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::EgressBytes, "egressBytes"),
        (Self::EgressPackets, "egressPackets"),
        (Self::IngressBytes, "ingressBytes"),
        (Self::IngressPackets, "ingressPackets"),
        (Self::Sessions, "sessions"),
        (Self::Concurrent, "concurrentConnectionsFiveMinutes"),
    ];
}

/// How a dimension is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Another.
    NotEqual,
    /// Not before.
    AtLeast,
    /// After.
    Above,
    /// Not after.
    AtMost,
    /// Before.
    Below,
}

/// Which usage counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// That of spans which begin in one of these ranges, in unix seconds.
    Times(Vec<Range<i64>>),
    /// That where this dimension is one of these values, or is none of them.
    Values {
        /// Which; not one of time.
        dimension: Dimension,
        /// The values.
        values: Vec<String>,
        /// Whether they are meant.
        is_in: bool,
    },
}

impl Condition {
    /// A comparison of a dimension with a value, as the interfaces write it.
    ///
    /// # Errors
    /// When the value is no time where it has to be one, or the dimension has no order.
    pub fn new(dimension: Dimension, comparison: Comparison, value: &str) -> Result<Self, TypeError> {
        let Some(span) = dimension.span_secs() else {
            let is_in = match comparison {
                Comparison::Equal => true,
                Comparison::NotEqual => false,
                _ => return Err(TypeError("only times are compared by their order")),
            };
            return Ok(Self::Values { dimension, values: vec![value.to_owned()], is_in });
        };
        let micros = moment(value)?.unix_micros();
        // The first whole second not before it, and the first span's beginning neither.
        let at = micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) != 0);
        let floor = at.div_euclid(span) * span;
        let ceil = if floor == at { at } else { floor + span };
        // A date is compared with the day that a time is in.
        let (floor, ceil) = if dimension == Dimension::Date { (floor, floor) } else { (floor, ceil) };
        let is_one = floor == ceil && (micros.rem_euclid(1_000_000) == 0 || dimension == Dimension::Date);
        let one = |range: Range<i64>| std::iter::once(range).collect::<Vec<_>>();
        let ranges = match comparison {
            Comparison::Equal if is_one => one(floor..floor + span),
            Comparison::Equal => vec![],
            Comparison::NotEqual if is_one => vec![i64::MIN..floor, floor + span..i64::MAX],
            Comparison::NotEqual => one(i64::MIN..i64::MAX),
            Comparison::Above if is_one => one(floor + span..i64::MAX),
            Comparison::AtLeast | Comparison::Above => one(ceil..i64::MAX),
            Comparison::AtMost if is_one => one(i64::MIN..floor + span),
            Comparison::AtMost | Comparison::Below => one(i64::MIN..ceil),
        };
        Ok(Self::Times(ranges))
    }

    /// The same with any of several values.
    ///
    /// # Errors
    /// As [`Condition::new`].
    pub fn any_of(dimension: Dimension, values: &[String]) -> Result<Self, TypeError> {
        if dimension.span_secs().is_none() {
            return Ok(Self::Values { dimension, values: values.to_vec(), is_in: true });
        }
        let mut all = Vec::new();
        for value in values {
            if let Self::Times(ranges) = Self::new(dimension, Comparison::Equal, value)? {
                all.extend(ranges);
            }
        }
        Ok(Self::Times(all))
    }
}

/// A time in RFC 3339, or a date: its midnight in UTC.
///
/// # Errors
/// When it is neither.
pub fn moment(text: &str) -> Result<Timestamp, TypeError> {
    let day = || format!("{text}T00:00:00Z").parse().ok().filter(|_| text.len() == "2026-01-02".len());
    text.parse().ok().or_else(day).ok_or(TypeError(
        "a time is written in RFC 3339, as in 2026-01-02T03:04:05Z, and a date as in 2026-01-02",
    ))
}

/// What the answer is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A dimension that the answer tells apart.
    Dimension(Dimension),
    /// A sum.
    Metric(Metric),
}

/// A question about an account's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Whose.
    pub account: AccountId,
    /// What to tell apart, each once; nothing: one row.
    pub dimensions: Vec<Dimension>,
    /// Everything that must hold.
    pub conditions: Vec<Condition>,
    /// What to sort by, and whether the greatest comes first. Then by the dimensions.
    pub order: Vec<(Order, bool)>,
    /// At most so many rows, up to [`MAX_GROUPS`].
    pub limit: u32,
    /// What is asked for, beside what is sorted by: the rest may be 0 in the answer. The less, the sooner.
    pub metrics: Vec<Metric>,
}

impl UsageQuery {
    /// Whether this is asked for, or sorted by.
    pub(super) fn asks(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric) || self.order.iter().any(|(by, _)| *by == Order::Metric(metric))
    }
}

/// One row of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageGroup {
    /// The dimensions' values, in the question's order.
    pub values: Vec<DimensionValue>,
    /// What was relayed.
    pub usage: Usage,
    /// Sessions that began.
    pub sessions: u64,
    /// Sessions that lived, on average over the spans of five minutes in which any did; over minutes where those are
    /// told apart; over hours or days where a long time is asked about.
    pub concurrent: f64,
}

/// A dimension's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum DimensionValue {
    /// The beginning of a span.
    Time(Timestamp),
    /// A day.
    Day(String),
    /// Anything else.
    Text(String),
}

impl DimensionValue {
    pub(crate) fn at(dimension: Dimension, secs: i64) -> Self {
        if dimension != Dimension::Date {
            return Self::Time(Timestamp::from_unix_micros(secs.saturating_mul(1_000_000)));
        }
        let date = OffsetDateTime::from_unix_timestamp(secs).map(OffsetDateTime::date);
        Self::Day(date.map(|date| date.to_string()).unwrap_or_default())
    }

    /// As it is written.
    pub fn text(&self) -> String {
        match self {
            Self::Time(time) => time.to_string(),
            Self::Day(text) | Self::Text(text) => text.clone(),
        }
    }
}

impl Store {
    /// Sums up usage. The numbers are exact, and as old as the last reports: see [`Store::record_usage`]. Of what is
    /// old only hours or days are known; a condition on the time holds for them where it holds for their beginning.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageGroup>, StoreError> {
        // Whoever records and revokes finds a connection, whatever is asked.
        let turn = timeout(QUESTION_PATIENCE, self.questions.acquire()).await;
        let _turn = turn.map_err(|_| StoreError::Unavailable("too many ask about usage".into()))?;
        let now = Timestamp::now().unix_micros() / 1_000_000;
        on_backend!(self, db => db.usage(query, now))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Which of the beginnings of spans, written as minutes and seconds of an hour, a condition lets in.
    fn check(dimension: &str, comparison: Comparison, value: &str, expected: &[&str]) {
        let dimension = Dimension::named(dimension).unwrap();
        let condition = Condition::new(dimension, comparison, value).unwrap();
        let Condition::Times(ranges) = condition else { panic!("it is about time") };
        let starts = [
            "2026-01-01T23:59:00Z",
            "2026-01-02T00:00:00Z",
            "2026-01-02T00:01:00Z",
            "2026-01-02T00:05:00Z",
            "2026-01-02T01:00:00Z",
            "2026-01-03T00:00:00Z",
        ];
        let holds = |start: &&str| {
            let secs = start.parse::<Timestamp>().unwrap().unix_micros() / 1_000_000;
            ranges.iter().any(|range| range.contains(&secs))
        };
        let found: Vec<&str> = starts.into_iter().filter(holds).collect();
        assert_eq!(found, expected, "{dimension:?} {comparison:?} {value}");
    }

    #[test]
    fn times_are_compared_as_what_they_are_rounded_to() {
        use Comparison::{Above, AtLeast, AtMost, Below, Equal, NotEqual};
        let [before, midnight, one, five, hour, day] = [
            "2026-01-01T23:59:00Z",
            "2026-01-02T00:00:00Z",
            "2026-01-02T00:01:00Z",
            "2026-01-02T00:05:00Z",
            "2026-01-02T01:00:00Z",
            "2026-01-03T00:00:00Z",
        ];
        check("datetimeMinute", Above, midnight, &[one, five, hour, day]);
        check("datetimeMinute", AtLeast, midnight, &[midnight, one, five, hour, day]);
        check("datetimeMinute", AtLeast, "2026-01-02T00:00:30Z", &[one, five, hour, day]);
        check("datetimeMinute", Above, "2026-01-02T00:00:30Z", &[one, five, hour, day]);
        check("datetimeMinute", AtMost, "2026-01-02T00:00:30Z", &[before, midnight]);
        check("datetimeMinute", Below, "2026-01-02T00:00:30Z", &[before, midnight]);
        check("datetimeMinute", Below, midnight, &[before]);
        check("datetimeMinute", AtMost, midnight, &[before, midnight]);
        check("datetimeMinute", Equal, midnight, &[midnight]);
        check("datetimeMinute", Equal, "2026-01-02T00:00:30Z", &[]);
        check("datetimeMinute", NotEqual, midnight, &[before, one, five, hour, day]);
        check("datetimeFiveMinutes", Equal, midnight, &[midnight, one]);
        check("datetimeHour", Equal, midnight, &[midnight, one, five]);
        check("datetimeHour", Above, midnight, &[hour, day]);
        check("datetimeHour", AtMost, midnight, &[before, midnight, one, five]);
        check("date", Equal, "2026-01-02", &[midnight, one, five, hour]);
        check("date", AtLeast, "2026-01-02", &[midnight, one, five, hour, day]);
        check("date", Above, "2026-01-02", &[day]);
        check("date", AtMost, "2026-01-02", &[before, midnight, one, five, hour]);
        check("date", Below, "2026-01-02", &[before]);
        check("date", AtLeast, "2026-01-02T12:00:00Z", &[midnight, one, five, hour, day]);
        check("datetime", AtLeast, "2026-01-02", &[midnight, one, five, hour, day]);
        check("datetime", Equal, "2026-01-02T00:00:00.5Z", &[]);
        check("datetime", AtLeast, "2026-01-02T00:00:00.5Z", &[one, five, hour, day]);
        assert!(Condition::new(Dimension::Date, Equal, "tomorrow").is_err());
        assert!(Condition::new(Dimension::Username, Above, "a").is_err());
    }
}
