//! Usage summed up: what relays have added is moved into sums of minutes, hours, days and weeks, which questions are answered from.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Row as _};

use super::groups::group;
use super::usage::{DAY, MINUTE};
use super::{Database, Transaction, make_room, raised, sum_of, take_out};
use crate::store::StoreError;
use crate::store::spans::{Grain, Kept, Sums};
use crate::store::usage::{Retention, TIDY_ROWS, TIDY_STEPS};

const QUARTER: i64 = 900;
const HOUR: i64 = 3_600;
const WEEK: i64 = 7 * DAY;
/// What is moved together begins and ends with five minutes: so most of them are summed up once.
const STEP: i64 = 300;
/// How much later than the day that is noted of a group it may have had usage.
const NOTE_SECS: i64 = 30 * DAY;
/// A group is kept so much longer than the day that is noted of it.
const LATE_SECS: i64 = 2 * NOTE_SECS;
/// Relays have told of a minute by then, also of sessions without traffic, of which they tell every five. What they tell of
/// later, or while it is moved, is moved later.
const SETTLE_SECS: i64 = 360;

/// The rows that are moved: whoever tidied up before this table had others made hours and days of them.
const MOVED: &str = "b.span IN (60, 3600, 86400) AND b.start >= $1 AND b.start < $2 AND b.series <= $3";
/// Those whose groups are there, and are not forgotten before what is moved; and what nobody asks for any more. Each group is
/// looked up by its id: as many as all have the newest of days, and where that is newer than what was last counted, whoever
/// plans takes them for few.
const GROUPED: &str = "(4 = (SELECT COUNT(*) FROM usage_grouped g JOIN usage_groups o \
                       ON o.id IN (g.grain_1, g.grain_2, g.grain_3, g.grain_4) \
                       WHERE g.series = b.series AND o.last_day + 0 >= $4) \
                       OR NOT EXISTS (SELECT 1 FROM usage_series s WHERE s.id = b.series))";
const COUNTS: &str = "egress_bytes, egress_packets, ingress_bytes, ingress_packets, live_ms, sessions";

/// About so many rows are moved in one transaction.
const ROWS_AT_ONCE: i64 = 20_000;
/// Five minutes are moved in about so many pieces, or smaller ones.
const MOST_PIECES: i64 = 16;
/// No more is begun after so long: there is other tidying to do.
const SPELL: Duration = Duration::from_secs(30);

/// What is moved in one transaction: what begins within these, of these series. It is in one day.
struct Piece {
    from: i64,
    until: i64,
    /// The last of them; none where it is all.
    series: Option<i64>,
}

impl Database {
    /// Moves what relays have added into the sums, an hour at most in one transaction, and less where there is much: that
    /// makes each byte be in one place or the other.
    pub(super) async fn sum_up(&self, now: i64) -> Result<bool, StoreError> {
        let until = (now - SETTLE_SECS).div_euclid(STEP) * STEP;
        // Rows that are gone are passed over one by one until the database has cleared them away.
        let (mut from, begun) = (0, Instant::now());
        for _ in 0..TIDY_STEPS {
            if begun.elapsed() > SPELL {
                break;
            }
            let Some(mut tx) = self.begin_moving().await? else { return Ok(true) };
            let Some((first, span)) = first(&mut tx, from).await?.filter(|(first, _)| *first < until) else {
                // Left to itself it would end later, and what comes next find somebody tidying.
                tx.rollback().await?;
                return Ok(true);
            };
            // Of what earlier versions made hours and days of there is less.
            let together = if span == MINUTE { HOUR } else { DAY };
            let next = (first.div_euclid(together) + 1) * together;
            let moved = move_some(&mut tx, first.div_euclid(STEP) * STEP, until.min(next)).await;
            let Ok(reached) = moved else {
                drop(tx.rollback().await);
                return moved.map(|_| false);
            };
            tx.commit().await?;
            from = reached;
        }
        Ok(false)
    }

    /// Forgets sums that are too old, and series and groups that had none since.
    pub(super) async fn forget_sums(&self, retention: &Retention, now: i64) -> Result<bool, StoreError> {
        let since = |days: u32, span: i64| (now - i64::from(days) * DAY).div_euclid(span) * span;
        let hours = since(retention.hours_days, DAY);
        let wanted = [
            (MINUTE, since(retention.minutes_days, HOUR).max(hours)),
            (HOUR, hours),
            (DAY, since(retention.days_days, DAY)),
        ];
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        for (span, since) in wanted {
            let update = sqlx::query("UPDATE usage_kept SET since = $1 WHERE span = $2 AND since < $3");
            update.bind(since).bind(span).bind(since).execute(&mut *tx).await?;
        }
        // Whose clock was ahead has forgotten too much, but what came after is not to be forgotten too.
        let next = |span: i64| (now.div_euclid(span) + 1) * span;
        for (span, latest) in [(MINUTE, next(HOUR)), (HOUR, next(DAY)), (DAY, next(DAY) - DAY)] {
            let update = sqlx::query("UPDATE usage_kept SET since = $1 WHERE span = $2 AND since > $3");
            update.bind(latest).bind(span).bind(latest).execute(&mut *tx).await?;
        }
        let kept = kept(&mut tx).await?;
        let mut is_done = true;
        for (table, before) in [("usage_series", kept.days), ("usage_groups", kept.days - LATE_SECS)] {
            let gone = sqlx::query(AssertSqlSafe(format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE last_day < $1 LIMIT $2)"
            )))
            .bind(before)
            .bind(i64::from(TIDY_ROWS))
            .execute(&mut *tx)
            .await?;
            is_done &= gone.rows_affected() < TIDY_ROWS.into();
        }
        tx.commit().await?;
        for sums in Sums::ALL {
            is_done &= self.forget_before(sums, kept.since(sums)).await?;
        }
        Ok(is_done)
    }
}

/// From when on the tables tell of usage.
pub(super) async fn kept(tx: &mut Transaction) -> Result<Kept, StoreError> {
    let rows = sqlx::query("SELECT span, since FROM usage_kept").fetch_all(&mut **tx).await?;
    let mut kept = Kept { minutes: 0, quarters: 0, hours: 0, days: 0, weeks: 0 };
    for row in rows {
        let since = row.try_get("since")?;
        match row.try_get("span")? {
            MINUTE => kept.minutes = since,
            QUARTER => kept.quarters = since,
            HOUR => kept.hours = since,
            DAY => kept.days = since,
            WEEK => kept.weeks = since,
            _ => {}
        }
    }
    kept.minutes = kept.minutes.max(kept.hours);
    Ok(kept)
}

/// When the oldest begins of what is not summed up yet and does not begin before `from`, and how long its span is.
async fn first(tx: &mut Transaction, from: i64) -> Result<Option<(i64, i64)>, StoreError> {
    let mut first: Option<(i64, i64)> = None;
    for span in [MINUTE, HOUR, DAY] {
        let oldest: Option<i64> =
            sqlx::query_scalar("SELECT MIN(start) FROM usage_buckets WHERE span = $1 AND start >= $2")
                .bind(span)
                .bind(from)
                .fetch_one(&mut **tx)
                .await?;
        first = [first, oldest.map(|start| (start, span))].into_iter().flatten().min();
    }
    Ok(first)
}

/// Moves what begins within these, or some of it; up to when all is.
async fn move_some(tx: &mut Transaction, from: i64, until: i64) -> Result<i64, StoreError> {
    let piece = piece(tx, from, until).await?;
    let rows = move_rows(tx, &piece).await?;
    // What is left where it is, is moved the next time.
    Ok(if piece.series.is_some() && rows > 0 { from } else { piece.until })
}

/// All of it, or where that is much of five minutes, or where that is much of some series: so that a series is added to once
/// in a piece.
async fn piece(tx: &mut Transaction, from: i64, until: i64) -> Result<Piece, StoreError> {
    let few = count(tx, (from, until), ROWS_AT_ONCE + 1).await?;
    let until = if few > ROWS_AT_ONCE { until.min(from + STEP) } else { until };
    let rows = if few > ROWS_AT_ONCE { count(tx, (from, until), i64::MAX).await? } else { few };
    if rows <= ROWS_AT_ONCE {
        return Ok(Piece { from, until, series: None });
    }
    // All that is left is walked over for each piece: so there are not many, however much it is.
    let most = ROWS_AT_ONCE.max(rows / MOST_PIECES);
    let series = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT b.series FROM usage_buckets b WHERE {MOVED} ORDER BY b.series LIMIT 1 OFFSET $4"
    )));
    let series = series.bind(from).bind(until).bind(i64::MAX).bind(most).fetch_optional(&mut **tx).await?;
    Ok(Piece { from, until, series })
}

/// How many rows there are, up to so many.
async fn count(tx: &mut Transaction, (from, until): (i64, i64), most: i64) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM usage_buckets b WHERE {MOVED} LIMIT $4) counted"
    )));
    Ok(count.bind(from).bind(until).bind(i64::MAX).bind(most).fetch_one(&mut **tx).await?)
}

/// Says how many rows it has moved.
async fn move_rows(tx: &mut Transaction, piece: &Piece) -> Result<u64, StoreError> {
    let Piece { from, until, series } = *piece;
    let bounds = (from, until, series.unwrap_or(i64::MAX));
    let kept = kept(tx).await?;
    let day = from.div_euclid(DAY) * DAY;
    let noted = day - NOTE_SECS;
    let series: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT b.series FROM (SELECT DISTINCT b.series FROM usage_buckets b WHERE {MOVED}) b WHERE NOT {GROUPED}"
    )))
    .bind(bounds.0)
    .bind(bounds.1)
    .bind(bounds.2)
    .bind(noted)
    .fetch_all(&mut **tx)
    .await?;
    group(tx, &series, day).await?;
    let mut adds = Vec::new();
    for sums in Sums::ALL {
        let since = from.max(kept.since(sums));
        if since >= until {
            continue;
        }
        make_room(tx, sums, since).await?;
        for grain in std::iter::once(Grain::Series).chain(Grain::GROUPS) {
            if let Some(span) = sums.span_secs(grain) {
                adds.push(add((sums, grain, span), since));
            }
        }
    }
    // Whoever is new since then, or is being added to, stays where he is.
    take_out(tx, (MOVED, GROUPED), &adds, (bounds, noted)).await
}

/// What adds them to the sums of one grain, from this moment on.
fn add((sums, grain, span): (Sums, Grain, i64), since: i64) -> String {
    let (table, number) = (sums.table(), grain.column());
    let (series, join) = match grain {
        Grain::Series => ("b.series".to_owned(), ""),
        _ => (format!("g.grain_{number}"), " JOIN usage_grouped g ON g.series = b.series"),
    };
    let counts = COUNTS.split(", ");
    let summed: Vec<String> = counts.clone().map(|it| sum_of(&format!("b.{it}"))).collect();
    let counted: Vec<String> = counts.map(|it| raised(table, it)).collect();
    // Rows of longer spans tell nothing of shorter ones.
    let no_longer = span.max(MINUTE);
    format!(
        "INSERT INTO {table} (account_id, grain, start, series, {COUNTS}) \
         SELECT b.account_id, {number}, b.start - b.start % {span}, {series}, {} \
         FROM {} b{join} WHERE {MOVED} AND b.start >= {since} AND b.span <= {no_longer} \
         GROUP BY b.account_id, b.start - b.start % {span}, {series} \
         ON CONFLICT (account_id, grain, start, series) DO UPDATE SET {}",
        summed.join(", "),
        taken_out!(),
        counted.join(", ")
    )
}
