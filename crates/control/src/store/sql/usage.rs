//! Usage: what is kept of it, for how long, and what has ended.

use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, Row, Transaction, hold_ends, sessions};
use crate::store::usage::{
    ENDS_KEPT, Node, ORDER_KEPT_SECS, Retention, SILENT_SECS, Session, TIDY_ROWS, TIDY_STEPS, Usage,
};
use crate::store::{StoreError, Timestamp};

pub(super) const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
pub(super) const DAY: i64 = 86_400;

pub(super) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn usage(row: &Row) -> Result<Usage, StoreError> {
    let count = |name: &str| -> Result<u64, StoreError> {
        u64::try_from(row.try_get::<i64, _>(name)?).map_err(|_| StoreError::Corrupt { what: "count" })
    };
    Ok(Usage {
        egress_bytes: count("egress_bytes")?,
        egress_packets: count("egress_packets")?,
        ingress_bytes: count("ingress_bytes")?,
        ingress_packets: count("ingress_packets")?,
    })
}

impl Database {
    pub(in crate::store) async fn close_lost_sessions(&self, node: &Node) -> Result<(), StoreError> {
        loop {
            let mut tx = self.begin_usage(&node.name).await?;
            let lost: Vec<Vec<u8>> = sqlx::query_scalar(
                "SELECT id FROM turn_sessions WHERE ended IS NULL AND node = $1 AND epoch <> $2 LIMIT $3",
            )
            .bind(&node.name)
            .bind(node.epoch.as_slice())
            .bind(i64::from(TIDY_ROWS))
            .fetch_all(&mut *tx)
            .await?;
            let count = lost.len();
            close(&mut tx, &lost).await?;
            tx.commit().await?;
            if count < TIDY_ROWS as usize {
                return Ok(());
            }
        }
    }

    pub(in crate::store) async fn usage_in_month(
        &self,
        key: TurnKeyId,
        month: u32,
    ) -> Result<Usage, StoreError> {
        let row = sqlx::query(
            "SELECT egress_bytes, egress_packets, ingress_bytes, ingress_packets FROM usage_months \
             WHERE turn_key = $1 AND month = $2",
        )
        .bind(key.as_bytes().as_slice())
        .bind(i64::from(month))
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map_or(Ok(Usage::default()), usage)
    }

    pub(in crate::store) async fn sessions_ended_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Session)>, StoreError> {
        let rows = sqlx::query(
            "SELECT e.seq AS seq, s.* FROM session_ends e JOIN turn_sessions s ON s.id = e.session \
             WHERE e.seq > $1 ORDER BY e.seq LIMIT $2",
        )
        .bind(seq)
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("seq")?, sessions::from_row(row)?))).collect()
    }

    pub(in crate::store) async fn last_session_end(&self) -> Result<i64, StoreError> {
        let last = sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM session_ends");
        Ok(last.fetch_one(&self.read).await?)
    }

    pub(in crate::store) async fn tidy_usage(
        &self,
        retention: &Retention,
        now: u64,
    ) -> Result<bool, StoreError> {
        let now = column(now);
        let days = |days: u32| i64::from(days) * DAY;
        let first_hour = (now - days(retention.minutes_days)).div_euclid(HOUR) * HOUR;
        let first_day = (now - days(retention.hours_days)).div_euclid(DAY) * DAY;
        let oldest = (now - days(retention.days_days)).div_euclid(DAY) * DAY;
        let mut is_done = self.roll_up((MINUTE, HOUR), first_hour).await?;
        is_done &= self.roll_up((HOUR, DAY), first_day).await?;
        is_done &= self.forget_days(oldest).await?;
        is_done &= self.close_silent(now).await?;
        is_done &= self.forget_sessions(now, now - days(retention.sessions_days)).await?;
        Ok(is_done)
    }

    /// Makes one row of the rows of each longer span that ends before `before`; each span is one transaction.
    async fn roll_up(&self, (from, to): (i64, i64), before: i64) -> Result<bool, StoreError> {
        for _ in 0..TIDY_STEPS {
            let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
            let first: Option<i64> =
                sqlx::query_scalar("SELECT MIN(start) FROM usage_buckets WHERE span = $1")
                    .bind(from)
                    .fetch_one(&mut *tx)
                    .await?;
            let Some(start) = first.map(|first| first.div_euclid(to) * to).filter(|it| *it + to <= before)
            else {
                // Left to itself it would end later, and what comes next find somebody tidying.
                tx.rollback().await?;
                return Ok(true);
            };
            sqlx::query(
                "INSERT INTO usage_buckets (account_id, start, series, span, egress_bytes, egress_packets, \
                 ingress_bytes, ingress_packets, live_ms, sessions) \
                 SELECT account_id, $1, series, $2, SUM(egress_bytes), SUM(egress_packets), \
                 SUM(ingress_bytes), SUM(ingress_packets), SUM(live_ms), SUM(sessions) \
                 FROM usage_buckets WHERE span = $3 AND start >= $4 AND start < $5 GROUP BY account_id, series \
                 ON CONFLICT (account_id, start, series, span) DO UPDATE SET \
                 egress_bytes = usage_buckets.egress_bytes + excluded.egress_bytes, \
                 egress_packets = usage_buckets.egress_packets + excluded.egress_packets, \
                 ingress_bytes = usage_buckets.ingress_bytes + excluded.ingress_bytes, \
                 ingress_packets = usage_buckets.ingress_packets + excluded.ingress_packets, \
                 live_ms = usage_buckets.live_ms + excluded.live_ms, \
                 sessions = usage_buckets.sessions + excluded.sessions",
            )
            .bind(start)
            .bind(to)
            .bind(from)
            .bind(start)
            .bind(start + to)
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM usage_buckets WHERE span = $1 AND start >= $2 AND start < $3")
                .bind(from)
                .bind(start)
                .bind(start + to)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(false)
    }

    /// Forgets days, and series that had none since.
    async fn forget_days(&self, before: i64) -> Result<bool, StoreError> {
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        let first: Option<i64> = sqlx::query_scalar("SELECT MIN(start) FROM usage_buckets WHERE span = $1")
            .bind(DAY)
            .fetch_one(&mut *tx)
            .await?;
        let first = first.filter(|first| *first < before);
        if let Some(first) = first {
            sqlx::query("DELETE FROM usage_buckets WHERE span = $1 AND start = $2")
                .bind(DAY)
                .bind(first)
                .execute(&mut *tx)
                .await?;
        }
        let gone = sqlx::query(
            "DELETE FROM usage_series WHERE id IN (SELECT id FROM usage_series WHERE last_day < $1 LIMIT $2)",
        )
        .bind(before)
        .bind(i64::from(TIDY_ROWS))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(first.is_none() && gone.rows_affected() < TIDY_ROWS.into())
    }

    async fn close_silent(&self, now: i64) -> Result<bool, StoreError> {
        let heard = (now - column(SILENT_SECS)).saturating_mul(1_000_000);
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        let silent: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT id FROM turn_sessions WHERE ended IS NULL AND reported < $1 LIMIT $2")
                .bind(heard)
                .bind(i64::from(TIDY_ROWS))
                .fetch_all(&mut *tx)
                .await?;
        let count = silent.len();
        close(&mut tx, &silent).await?;
        tx.commit().await?;
        Ok(count < TIDY_ROWS as usize)
    }

    async fn forget_sessions(&self, now: i64, before: i64) -> Result<bool, StoreError> {
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        let gone = sqlx::query(
            "DELETE FROM turn_sessions WHERE id IN (SELECT id FROM turn_sessions WHERE ended < $1 LIMIT $2)",
        )
        .bind(before.saturating_mul(1_000_000))
        .bind(i64::from(TIDY_ROWS))
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM session_ends WHERE seq <= (SELECT MAX(seq) FROM session_ends) - $1")
            .bind(ENDS_KEPT)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM session_orders WHERE created < $1")
            .bind((now - column(ORDER_KEPT_SECS)).saturating_mul(1_000_000))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(gone.rows_affected() < TIDY_ROWS.into())
    }
}

/// Tells of sessions that have ended, in the order in which that becomes known to all.
pub(super) async fn tell_ends(tx: &mut Transaction, sessions: &[Vec<u8>]) -> Result<(), StoreError> {
    if sessions.is_empty() {
        return Ok(());
    }
    hold_ends(tx).await?;
    let now = Timestamp::now().unix_micros();
    let mut insert: QueryBuilder<Db> = QueryBuilder::new("INSERT INTO session_ends (session, created) ");
    insert.push_values(sessions, |mut row, session| {
        row.push_bind(session).push_bind(now);
    });
    insert.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

/// Ends sessions of which nothing will be heard any more, when they were last heard of.
async fn close(tx: &mut Transaction, sessions: &[Vec<u8>]) -> Result<(), StoreError> {
    if sessions.is_empty() {
        return Ok(());
    }
    let mut update: QueryBuilder<Db> = QueryBuilder::new(
        "UPDATE turn_sessions SET ended = reported, end_reason = 'node_lost', client = NULL \
         WHERE ended IS NULL AND id IN (",
    );
    let mut ids = update.separated(", ");
    for session in sessions {
        ids.push_bind(session);
    }
    update.push(") RETURNING id");
    let rows: Vec<Row> = update.build().persistent(false).fetch_all(&mut **tx).await?;
    let closed: Vec<Vec<u8>> = rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?;
    tell_ends(tx, &closed).await
}
