//! A stretch of time, as a form asks for it, and how finely it is told apart.

use crate::dashboard::form::Form;
use crate::store::Timestamp;
use crate::store::analytics::{Dimension, DimensionValue, moment};

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// The choices, by name and label.
pub(super) const CHOICES: [(&str, &str); 7] = [
    ("1h", "Last hour"),
    ("6h", "Last 6 hours"),
    ("24h", "Last 24 hours"),
    ("7d", "Last 7 days"),
    ("30d", "Last 30 days"),
    ("90d", "Last 90 days"),
    ("days", "Days, as given"),
];

/// Most days of a range.
const MAX_DAYS: u64 = 1_000;

/// From one moment to another, which is not in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// As the form names it.
    pub(super) name: &'static str,
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    /// What it is told apart by.
    pub(super) step: Dimension,
}

impl Range {
    pub(super) fn read(form: &Form, now: Timestamp) -> Result<Self, String> {
        let name = form.text("range").unwrap_or("24h");
        let known = CHOICES.iter().find(|(it, _)| *it == name).map(|(it, _)| *it);
        let name = known.ok_or("Range: there is no such choice. Choose one of the list.")?;
        let (secs, step) = match name {
            "1h" => (HOUR, Dimension::Minute),
            "6h" => (6 * HOUR, Dimension::FiveMinutes),
            "24h" => (DAY, Dimension::FifteenMinutes),
            "7d" => (7 * DAY, Dimension::Hour),
            "30d" => (30 * DAY, Dimension::Date),
            "90d" => (90 * DAY, Dimension::Date),
            _ => return Self::of_days(form, now),
        };
        Ok(Self::ending(name, now.unix_secs(), secs, step))
    }

    /// The last so many seconds, in whole steps: the one that runs is in it.
    fn ending(name: &'static str, now: u64, secs: u64, step: Dimension) -> Self {
        let span = span(step);
        let until = now.div_euclid(span) * span + span;
        Self {
            name,
            since: Timestamp::from_unix_secs(until.saturating_sub(secs)),
            until: Timestamp::from_unix_secs(until),
            step,
        }
    }

    /// Whole days, the last one included.
    fn of_days(form: &Form, now: Timestamp) -> Result<Self, String> {
        let day = |name: &str, label: &str| {
            let Some(text) = form.filled(name) else { return Ok(None) };
            let at = moment(text).map_err(|error| format!("{label}: “{text}” is no day; {error}."))?;
            Ok::<_, String>(Some(at.unix_secs() / DAY))
        };
        let last = day("until", "Last day")?.unwrap_or(now.unix_secs() / DAY);
        let first = day("since", "First day")?.unwrap_or(last.saturating_sub(29));
        if first > last {
            return Err("First day: it is after the last day. Give an earlier one.".to_owned());
        }
        let days = last - first + 1;
        if days > MAX_DAYS {
            return Err(format!(
                "First day: that is {days} days, and {MAX_DAYS} can be shown. Give a later one."
            ));
        }
        // What is older is known by the hour, then by the day.
        let age = (now.unix_secs() / DAY).saturating_sub(first);
        let step = match days {
            1 if age <= 14 => Dimension::FifteenMinutes,
            ..=7 if age <= 100 => Dimension::Hour,
            _ => Dimension::Date,
        };
        let at = |day: u64| Timestamp::from_unix_secs(day * DAY);
        Ok(Self { name: "days", since: at(first), until: at(last + 1), step })
    }

    /// As a query's fields.
    pub(super) fn query(&self) -> String {
        if self.name == "days" {
            return format!("range=days&since={}&until={}", self.first_day(), self.last_day());
        }
        format!("range={}", self.name)
    }

    pub(super) fn first_day(&self) -> String {
        date(self.since.unix_secs())
    }

    pub(super) fn last_day(&self) -> String {
        date(self.until.unix_secs().saturating_sub(1))
    }

    /// The beginnings of its spans, as usage has them.
    pub(super) fn spans(&self) -> Vec<String> {
        let span = span(self.step);
        let first = self.since.unix_secs().div_euclid(span);
        let last = self.until.unix_secs().div_ceil(span);
        (first..last)
            .map(|index| DimensionValue::at(self.step, (index * span).cast_signed()).text())
            .collect()
    }
}

fn span(step: Dimension) -> u64 {
    step.span_secs().and_then(|secs| u64::try_from(secs).ok()).unwrap_or(DAY)
}

fn date(secs: u64) -> String {
    DimensionValue::at(Dimension::Date, secs.cast_signed()).text()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::Uri;

    use super::*;

    fn read(query: &str) -> Result<(String, String, Dimension, usize), String> {
        let uri: Uri = format!("/?{query}").parse().unwrap();
        let now = "2026-03-04T05:06:07Z".parse().unwrap();
        Range::read(&Form::of_query(&uri), now)
            .map(|it| (it.since.to_string(), it.until.to_string(), it.step, it.spans().len()))
    }

    #[test]
    fn a_range_is_whole_spans_up_to_now() {
        let check = |query: &str, since: &str, until: &str, step: Dimension, spans: usize| {
            assert_eq!(read(query), Ok((since.to_owned(), until.to_owned(), step, spans)), "{query}");
        };
        check("", "2026-03-03T05:15:00Z", "2026-03-04T05:15:00Z", Dimension::FifteenMinutes, 96);
        check("range=1h", "2026-03-04T04:07:00Z", "2026-03-04T05:07:00Z", Dimension::Minute, 60);
        check("range=7d", "2026-02-25T06:00:00Z", "2026-03-04T06:00:00Z", Dimension::Hour, 168);
        check("range=90d", "2025-12-05T00:00:00Z", "2026-03-05T00:00:00Z", Dimension::Date, 90);
        let days = "range=days&since=2026-03-01&until=2026-03-02";
        check(days, "2026-03-01T00:00:00Z", "2026-03-03T00:00:00Z", Dimension::Hour, 48);
        let day = "range=days&since=2026-03-01&until=2026-03-01";
        check(day, "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z", Dimension::FifteenMinutes, 96);
    }

    #[test]
    fn what_is_no_range_is_said() {
        for query in [
            "range=2h",
            "range=days&since=tomorrow",
            "range=days&since=2026-03-02&until=2026-03-01",
            "range=days&since=2001-01-01",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}
