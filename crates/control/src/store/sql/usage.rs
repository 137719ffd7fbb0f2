//! Usage: what is kept of it, for how long, and what has ended.

use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, Row, Transaction, hold_ends, portions, sessions};
use crate::store::usage::{
    ENDS_KEPT, Node, ORDER_KEPT_SECS, Retention, SILENT_SECS, Session, TIDY_ROWS, Usage,
};
use crate::store::{StoreError, Timestamp};

pub(super) const MINUTE: i64 = 60;
pub(super) const DAY: i64 = 86_400;

pub(super) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn usage(row: &Row) -> Result<Usage, StoreError> {
    // Less than nothing no node of ours writes, and whoever did must not keep others' limits from being looked at.
    let count = |name: &str| row.try_get::<i64, _>(name).map(|count| count.max(0).unsigned_abs());
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
        let forget = now - i64::from(retention.sessions_days) * DAY;
        // What cannot be moved or dropped keeps nothing else from being done.
        let moved = self.sum_up(now).await;
        let forgotten = self.forget_sums(retention, now).await;
        let mut is_done = self.close_silent(now).await?;
        is_done &= self.forget_sessions(now, forget).await?;
        is_done &= moved?;
        Ok(forgotten? && is_done)
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
    for (portion, is_kept) in portions(sessions) {
        let mut insert: QueryBuilder<Db> = QueryBuilder::new("INSERT INTO session_ends (session, created) ");
        insert.push_values(portion, |mut row, session| {
            row.push_bind(session).push_bind(now);
        });
        insert.build().persistent(is_kept).execute(&mut **tx).await?;
    }
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
