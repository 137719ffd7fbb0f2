//! Which rows answer a question about usage: the fewest that tell it exactly.
//!
//! Usage is kept in sums of minutes, hours, days and weeks, each at several grains: apart by everything, or by the few things
//! that are asked about. A question is answered from whole weeks where it may be, days and hours before and behind them, and
//! minutes at the edges.

use std::ops::Range;

use super::analytics::{Condition, Dimension, Metric, UsageQuery};

const FIVE_MINUTES: i64 = 300;
const QUARTER: i64 = 900;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// More than anything lasts, and can be added to.
const END: i64 = 1_800_000 * WEEK;
/// The present is not summed up before so many seconds are over.
const OPEN_SECS: i64 = 600;
/// More times than these are looked for in one go over all that is between them.
const MAX_PIECES: usize = 16;

/// What rows are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grain {
    /// Everything.
    Series,
    /// Key, customIdentifier, username.
    Username,
    /// Key, customIdentifier.
    CustomIdentifier,
    /// Key, transport, address families, node.
    Key,
    /// The node.
    Node,
}

impl Grain {
    /// Those that groups are made of.
    pub(super) const GROUPS: [Self; 4] = [Self::Username, Self::CustomIdentifier, Self::Key, Self::Node];

    /// As the tables have it.
    pub(super) fn column(self) -> i64 {
        match self {
            Self::Series => 0,
            Self::Username => 1,
            Self::CustomIdentifier => 2,
            Self::Key => 3,
            Self::Node => 4,
        }
    }

    /// Whether it tells this apart; times are told apart by all.
    pub(super) fn has(self, dimension: Dimension) -> bool {
        use Dimension as D;
        match dimension {
            D::Username => self <= Self::Username,
            D::CustomIdentifier => self <= Self::CustomIdentifier,
            D::Key => self <= Self::Key,
            D::Transport | D::ClientFamily | D::RelayFamily => matches!(self, Self::Series | Self::Key),
            D::City | D::Code | D::Country | D::Region | D::Node => {
                matches!(self, Self::Series | Self::Key | Self::Node)
            }
            _ => true,
        }
    }

    /// The coarsest that tells all this apart.
    fn of(dimensions: &[Dimension]) -> Self {
        let mut coarsest = Self::GROUPS.into_iter().rev();
        let found = coarsest.find(|grain| dimensions.iter().all(|it| grain.has(*it)));
        found.unwrap_or(Self::Series)
    }
}

/// A table of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sums {
    Minutes,
    Hours,
    Days,
    Weeks,
}

impl Sums {
    pub(super) const ALL: [Self; 4] = [Self::Minutes, Self::Hours, Self::Days, Self::Weeks];

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Minutes => "usage_minutes",
            Self::Hours => "usage_hours",
            Self::Days => "usage_days",
            Self::Weeks => "usage_weeks",
        }
    }

    /// How long its rows' spans are at this grain; none where it has no such rows.
    pub(super) fn span_secs(self, grain: Grain) -> Option<i64> {
        match (self, grain) {
            (Self::Minutes, Grain::Series | Grain::Node) => Some(60),
            (Self::Minutes, Grain::Key) => Some(FIVE_MINUTES),
            (Self::Minutes, Grain::Username | Grain::CustomIdentifier) => Some(QUARTER),
            (Self::Hours, _) => Some(HOUR),
            (Self::Days, _) => Some(DAY),
            (Self::Weeks, Grain::Series) => None,
            (Self::Weeks, _) => Some(WEEK),
        }
    }
}

/// From when on each table tells of usage, in unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) minutes: i64,
    /// Of the minutes, those that are summed up in quarters of an hour.
    pub(super) quarters: i64,
    pub(super) hours: i64,
    pub(super) days: i64,
    pub(super) weeks: i64,
}

impl Kept {
    pub(super) fn since(self, sums: Sums) -> i64 {
        match sums {
            Sums::Minutes => self.minutes,
            Sums::Hours => self.hours,
            Sums::Days => self.days,
            Sums::Weeks => self.days.max(self.weeks),
        }
    }
}

/// Rows of one table that begin in one of these ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) sums: Sums,
    pub(super) grain: Grain,
    pub(super) ranges: Vec<Range<i64>>,
}

/// What answers a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    /// When it is about: ranges in order that do not touch.
    pub(super) ranges: Vec<Range<i64>>,
    pub(super) pieces: Vec<Piece>,
}

impl Pieces {
    /// What answers this one at a moment.
    pub(super) fn of(query: &UsageQuery, kept: Kept, now: i64) -> Self {
        let mut asked = query.dimensions.clone();
        asked.extend(query.conditions.iter().filter_map(|condition| match condition {
            Condition::Values { dimension, .. } => Some(*dimension),
            Condition::Times(_) => None,
        }));
        let grain = Grain::of(&asked);
        let ranges = times(&query.conditions, kept.days);
        let mut unit = query.dimensions.iter().filter_map(|it| it.span_secs()).min().unwrap_or(WEEK);
        let mut closed = i64::MAX;
        if query.asks(Metric::Concurrent) {
            let last = ranges.last().map_or(0, |it| it.end.min(now));
            let secs = last - ranges.first().map_or(0, |it| it.start.min(last));
            unit = unit.min(concurrent_secs(grain, secs));
            // What runs is no whole span yet.
            closed = now - OPEN_SECS;
        }
        let cut = Cut { grain, unit, closed, kept };
        let mut pieces = Vec::new();
        for range in &ranges {
            cut.weeks(range, &mut pieces);
        }
        Self { pieces: together(pieces), ranges }
    }
}

/// How long the spans are over which living sessions are averaged: finer than hours where there are few rows.
fn concurrent_secs(grain: Grain, asked_secs: i64) -> i64 {
    let (fine_secs, hours_secs) = match grain {
        Grain::Node => (7 * DAY, 100 * DAY),
        Grain::Key => (2 * DAY, 7 * DAY),
        Grain::Series | Grain::Username | Grain::CustomIdentifier => (2 * HOUR, 2 * DAY),
    };
    match asked_secs {
        secs if secs <= fine_secs => FIVE_MINUTES,
        secs if secs <= hours_secs => HOUR,
        _ => DAY,
    }
}

/// All that holds for a cut of ranges into pieces.
struct Cut {
    grain: Grain,
    /// The longest spans that may be taken.
    unit: i64,
    /// Only quarters, hours, days and weeks that end before.
    closed: i64,
    kept: Kept,
}

impl Cut {
    /// Whole weeks, whatever is known of them, and what is before and behind.
    fn weeks(&self, range: &Range<i64>, pieces: &mut Vec<Piece>) {
        let from = range.start.max(self.kept.since(Sums::Weeks));
        let weeks = whole(from, range.end.min(self.closed), WEEK);
        let has_weeks = self.unit >= WEEK && Sums::Weeks.span_secs(self.grain).is_some();
        if !has_weeks || weeks.is_empty() {
            self.old(range, pieces);
            return self.recent(range, pieces);
        }
        for edge in [range.start..weeks.start, weeks.end..range.end] {
            self.old(&edge, pieces);
            self.recent(&edge, pieces);
        }
        self.add(Sums::Weeks, weeks, pieces);
    }

    /// Of what is not known by the minute: rows that begin in the range.
    fn old(&self, range: &Range<i64>, pieces: &mut Vec<Piece>) {
        let hours = self.kept.hours.max(self.kept.days);
        self.add(Sums::Days, range.start..range.end.min(hours), pieces);
        let from = range.start.max(hours);
        let until = range.end.min(self.kept.minutes);
        if from >= until {
            return;
        }
        if self.unit < DAY {
            return self.add(Sums::Hours, from..until, pieces);
        }
        let days = whole(from, until.min(self.closed), DAY);
        if days.is_empty() {
            return self.add(Sums::Hours, from..until, pieces);
        }
        self.add(Sums::Hours, from..days.start, pieces);
        self.add(Sums::Hours, days.end..until, pieces);
        self.add(Sums::Days, days, pieces);
    }

    /// Of what is: spans that are all in the range.
    fn recent(&self, range: &Range<i64>, pieces: &mut Vec<Piece>) {
        let from = range.start.max(self.kept.minutes).max(self.kept.hours);
        self.split(&[(Sums::Days, DAY), (Sums::Hours, HOUR)], from..range.end, pieces);
    }

    /// The longest spans in the middle, shorter ones on both sides.
    fn split(&self, spans: &[(Sums, i64)], range: Range<i64>, pieces: &mut Vec<Piece>) {
        if range.is_empty() {
            return;
        }
        let Some(((sums, span), shorter)) = spans.split_first() else {
            return self.minutes(range, pieces);
        };
        let inner = whole(range.start, range.end.min(self.closed), *span);
        if self.unit < *span || inner.is_empty() {
            return self.split(shorter, range, pieces);
        }
        self.split(shorter, range.start..inner.start, pieces);
        self.split(shorter, inner.end..range.end, pieces);
        self.add(*sums, inner, pieces);
    }

    /// The finest rows: longer spans of the grain where they will do, and where there are none everything apart.
    fn minutes(&self, range: Range<i64>, pieces: &mut Vec<Piece>) {
        let inner = match Sums::Minutes.span_secs(self.grain).filter(|span| self.unit >= *span) {
            Some(QUARTER) => whole(range.start.max(self.kept.quarters), range.end.min(self.closed), QUARTER),
            Some(span) => whole(range.start, range.end, span),
            None => range.end..range.end,
        };
        let mut of_grain = |grain, ranges: Vec<Range<i64>>| {
            for range in ranges.into_iter().filter(|range| !range.is_empty()) {
                pieces.push(Piece { sums: Sums::Minutes, grain, ranges: vec![range] });
            }
        };
        if inner.is_empty() {
            return of_grain(Grain::Series, vec![range]);
        }
        of_grain(Grain::Series, vec![range.start..inner.start, inner.end..range.end]);
        of_grain(self.grain, vec![inner]);
    }

    fn add(&self, sums: Sums, range: Range<i64>, pieces: &mut Vec<Piece>) {
        if !range.is_empty() {
            pieces.push(Piece { sums, grain: self.grain, ranges: vec![range] });
        }
    }
}

/// The whole spans between two moments.
fn whole(from: i64, until: i64, span: i64) -> Range<i64> {
    let start = from.saturating_add(span - 1).div_euclid(span) * span;
    start..(until.div_euclid(span) * span).max(start)
}

/// What all conditions on the time leave: ranges in order that do not touch.
fn times(conditions: &[Condition], since: i64) -> Vec<Range<i64>> {
    let mut left = std::iter::once(since.max(0)..END).collect::<Vec<_>>();
    for condition in conditions {
        let Condition::Times(ranges) = condition else { continue };
        let mut ranges: Vec<Range<i64>> = ranges.iter().filter(|it| !it.is_empty()).cloned().collect();
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<i64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let both = |one: &Range<i64>| {
            let one = one.clone();
            merged.iter().map(move |it| it.start.max(one.start)..it.end.min(one.end)).collect::<Vec<_>>()
        };
        left = left.iter().flat_map(both).filter(|it| !it.is_empty()).collect();
    }
    left
}

/// Few pieces stay apart: each is a walk along an index. Of many, those of one kind become one.
fn together(mut pieces: Vec<Piece>) -> Vec<Piece> {
    if pieces.len() <= MAX_PIECES {
        return pieces;
    }
    pieces.sort_by_key(|piece| (piece.sums, piece.grain));
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if (last.sums, last.grain) == (piece.sums, piece.grain) => {
                last.ranges.extend(piece.ranges);
            }
            _ => merged.push(piece),
        }
    }
    merged
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::analytics::Comparison;

    const KEPT: Kept =
        Kept { minutes: 30 * DAY, quarters: 40 * DAY, hours: 10 * DAY, days: 0, weeks: 10 * WEEK };

    /// The pieces that answer a question about a range, as `table grain from..until`.
    fn check(dimensions: &[Dimension], range: Range<i64>, has_concurrent: bool, expected: &[&str]) {
        let query = UsageQuery {
            account: "0".repeat(32).parse().unwrap(),
            dimensions: dimensions.to_vec(),
            conditions: vec![Condition::Times(vec![range.clone()])],
            order: vec![],
            limit: 1,
            metrics: if has_concurrent { vec![Metric::Concurrent] } else { vec![] },
        };
        let found = Pieces::of(&query, KEPT, 100 * DAY);
        let mut pieces: Vec<(i64, String)> = Vec::new();
        for Piece { sums, grain, ranges } in found.pieces {
            for range in ranges {
                let text = format!("{} {} {}..{}", sums.table(), grain.column(), range.start, range.end);
                pieces.push((range.start, text));
            }
        }
        pieces.sort();
        let pieces: Vec<&str> = pieces.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(pieces, expected, "{dimensions:?} {range:?}");
    }

    #[test]
    fn the_longest_spans_are_in_the_middle() {
        let day = 50 * DAY;
        check(&[], day..day + DAY, false, &["usage_days 4 4320000..4406400"]);
        check(
            &[Dimension::Key],
            day - HOUR - 420..day + DAY + 60,
            false,
            &[
                "usage_minutes 0 4315980..4316100",
                "usage_minutes 3 4316100..4316400",
                "usage_hours 3 4316400..4320000",
                "usage_days 3 4320000..4406400",
                "usage_minutes 0 4406400..4406460",
            ],
        );
        check(&[Dimension::Hour], day..day + DAY, false, &["usage_hours 4 4320000..4406400"]);
        check(
            &[Dimension::Minute, Dimension::Key],
            day..day + 600,
            false,
            &["usage_minutes 0 4320000..4320600"],
        );
        check(&[Dimension::Username], day..day + 600, false, &["usage_minutes 0 4320000..4320600"]);
    }

    #[test]
    fn who_is_told_apart_by_has_quarters_and_weeks() {
        let day = 50 * DAY;
        // Before there were any everything is apart.
        let quarters = [Dimension::FifteenMinutes, Dimension::CustomIdentifier];
        check(&quarters, 39 * DAY..39 * DAY + HOUR, false, &["usage_minutes 0 3369600..3373200"]);
        check(
            &quarters,
            40 * DAY - 900..40 * DAY + 960,
            false,
            &[
                "usage_minutes 0 3455100..3456000",
                "usage_minutes 2 3456000..3456900",
                "usage_minutes 0 3456900..3456960",
            ],
        );
        check(
            &[Dimension::Username],
            day - 960..day + HOUR,
            false,
            &[
                "usage_minutes 0 4319040..4319100",
                "usage_minutes 1 4319100..4320000",
                "usage_hours 1 4320000..4323600",
            ],
        );
        // From ten weeks on.
        check(
            &[Dimension::Username],
            60 * DAY..85 * DAY,
            false,
            &[
                "usage_days 1 5184000..6048000",
                "usage_weeks 1 6048000..7257600",
                "usage_days 1 7257600..7344000",
            ],
        );
        check(&[Dimension::Date], 70 * DAY..84 * DAY, false, &["usage_days 4 6048000..7257600"]);
        check(
            &[Dimension::Username, Dimension::Node],
            70 * DAY..84 * DAY,
            false,
            &["usage_days 0 6048000..7257600"],
        );
        check(&[Dimension::Key], 70 * DAY..84 * DAY, true, &["usage_days 3 6048000..7257600"]);
    }

    #[test]
    fn what_is_not_known_finely_is_taken_by_its_beginning() {
        check(&[Dimension::Minute], 0..DAY + 1, false, &["usage_days 4 0..86401"]);
        check(
            &[Dimension::Minute],
            9 * DAY + 1..31 * DAY,
            false,
            &[
                "usage_days 4 777601..864000",
                "usage_hours 4 864000..2592000",
                "usage_minutes 4 2592000..2678400",
            ],
        );
        check(
            &[Dimension::Date],
            20 * DAY..32 * DAY,
            false,
            &["usage_days 4 1728000..2592000", "usage_days 4 2592000..2764800"],
        );
    }

    #[test]
    fn who_lived_is_averaged_over_spans_that_are_over() {
        let now = 100 * DAY;
        check(&[Dimension::Key], now - DAY..now, true, &["usage_minutes 3 8553600..8640000"]);
        check(
            &[Dimension::CustomIdentifier],
            now - 4 * HOUR..now,
            true,
            &[
                "usage_hours 2 8625600..8636400",
                "usage_minutes 2 8636400..8639100",
                "usage_minutes 0 8639100..8640000",
            ],
        );
        check(&[], now - DAY..now, true, &["usage_minutes 4 8553600..8640000"]);
    }

    #[test]
    fn times_are_cut_with_each_other_and_many_become_one_piece() {
        let at = |comparison, text: &str| Condition::new(Dimension::Datetime, comparison, text).unwrap();
        let conditions = [
            at(Comparison::NotEqual, "1970-01-02"),
            at(Comparison::Below, "1970-01-03"),
            Condition::Times(vec![]),
        ];
        assert_eq!(times(&conditions[..2], 60), [60..DAY, DAY + 60..2 * DAY]);
        assert_eq!(times(&conditions, 0), []);
        let range = |it: i64| std::iter::once(it * 120..it * 120 + 60).collect();
        let piece = |it| Piece { sums: Sums::Minutes, grain: Grain::Node, ranges: range(it) };
        let pieces: Vec<Piece> = (0..40).map(piece).collect();
        let [one] = &together(pieces)[..] else { panic!("they are of one kind") };
        assert_eq!(one.ranges.len(), 40);
    }
}
