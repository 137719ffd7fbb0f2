//! A chart of stacked bars. The drawing is an SVG without text, which stretches to any width; what is written stands
//! beside it, and all the numbers in a table below it.

use crate::dashboard::format::{grouped, short_bytes, short_count};
use crate::dashboard::range::Range;

/// A span of time.
#[derive(Debug)]
pub(super) struct Point {
    /// When it begins.
    pub(super) at: String,
    /// Of each series, then of all others.
    pub(super) amounts: Vec<u64>,
}

/// Height of the drawing; each bar is ten wide, with the gap.
const HEIGHT: f64 = 1_000.0;

/// A piece of a bar.
pub(super) struct Piece {
    pub(super) x: usize,
    pub(super) y: String,
    pub(super) height: String,
    pub(super) colour: usize,
    /// What it shows.
    pub(super) title: String,
}

/// A line of the table.
pub(super) struct Line {
    pub(super) at: String,
    /// The amounts, short and exact.
    pub(super) cells: Vec<(String, String)>,
}

/// What a template draws.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) width: usize,
    pub(super) pieces: Vec<Piece>,
    /// From the top to the bottom.
    pub(super) ticks: Vec<String>,
    pub(super) times: Vec<String>,
    /// The series' names with their colours.
    pub(super) legend: Vec<(usize, String)>,
    /// Whether there is anything that has no colour of its own.
    pub(super) has_others: bool,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    pub(super) fn new(
        what: &str,
        range: &Range,
        mut series: Vec<String>,
        points: &[Point],
        is_bytes: bool,
    ) -> Self {
        let short = if is_bytes { short_bytes } else { short_count };
        let is_single = series.is_empty();
        // Of one series there is nothing to tell apart.
        series.push(if is_single { "All together".to_owned() } else { "All others".to_owned() });
        let colour = |index: usize| if index + 1 == series.len() && !is_single { 5 } else { index };
        let total = |point: &Point| point.amounts.iter().fold(0_u64, |sum, it| sum.saturating_add(*it));
        let peak = points.iter().max_by_key(|point| total(point));
        let greatest = peak.map_or(0, total);
        let top = round_up(greatest);
        let mut pieces = Vec::new();
        for (index, point) in points.iter().enumerate() {
            let mut below = 0.0;
            for (amount, (at, name)) in point.amounts.iter().zip(series.iter().enumerate()) {
                if *amount == 0 {
                    continue;
                }
                let height = share(*amount, top) * HEIGHT;
                below += height;
                pieces.push(Piece {
                    x: index * 10,
                    y: format!("{:.1}", HEIGHT - below),
                    height: format!("{height:.1}"),
                    colour: colour(at),
                    title: format!("{}, {name}: {}", point.at, short(*amount)),
                });
            }
        }
        let title = format!("{what}, {} to {}", range.since, range.until);
        let description = match peak.filter(|_| greatest > 0) {
            Some(peak) => format!(
                "A bar for each of {} spans of time. The highest is {} at {}.",
                points.len(),
                short(greatest),
                peak.at
            ),
            None => "There is nothing in this time.".to_owned(),
        };
        let legend: Vec<(usize, String)> =
            series.iter().enumerate().map(|(at, name)| (colour(at), name.clone())).collect();
        let cell = |amount: &u64| (short(*amount), grouped(*amount));
        // What was nothing needs no line.
        let lines = points.iter().filter(|point| total(point) > 0);
        let lines =
            lines.map(|point| Line { at: point.at.clone(), cells: point.amounts.iter().map(cell).collect() });
        let time = |at: usize| points.get(at).map(|point| short_time(&point.at));
        let times = [time(0), time(points.len() / 2), time(points.len().saturating_sub(1))];
        Self {
            title,
            description,
            width: points.len().max(1) * 10,
            pieces,
            ticks: [top, top / 2, 0].map(short).into(),
            times: times.into_iter().flatten().collect(),
            lines: lines.collect(),
            has_others: is_single || points.iter().any(|it| it.amounts.last().is_some_and(|rest| *rest > 0)),
            legend,
        }
    }
}

/// `11-15 05:00` of a moment; a date as it is. The table has all of it.
fn short_time(at: &str) -> String {
    match at.split_once('T') {
        Some((date, time)) => format!("{} {}", date.get(5..).unwrap_or(date), time.get(..5).unwrap_or(time)),
        None => at.to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a drawing is not that exact")]
fn share(amount: u64, of: u64) -> f64 {
    amount as f64 / of.max(1) as f64
}

/// The next number that is round, and half of which is.
fn round_up(number: u64) -> u64 {
    const ROUND: [u64; 10] = [10, 12, 16, 20, 24, 30, 40, 50, 60, 80];
    if number <= 10 {
        return number.next_multiple_of(2).max(2);
    }
    let mut unit = 1_u64;
    while unit < u64::MAX / 800 {
        if let Some(round) = ROUND.iter().find(|round| unit * **round >= number) {
            return unit * round;
        }
        unit *= 10;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number() {
        for (number, top) in
            [(0, 2), (2, 2), (3, 4), (5, 6), (11, 12), (39, 40), (41, 50), (204, 240), (999_999, 1_000_000)]
        {
            assert_eq!(round_up(number), top, "{number}");
        }
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }
}
