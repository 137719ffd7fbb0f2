//! Reports of sessions, and the usage made of them in the same transaction.

use std::collections::BTreeMap;

use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, Row, Transaction, hold_ends, sessions, text};
use crate::store::usage::{
    ENDS_KEPT, Node, ORDER_KEPT_SECS, Retention, SILENT_SECS, Session, SessionReport, TIDY_ROWS, TIDY_STEPS,
    Usage, minutes, month_of,
};
use crate::store::{StoreError, Timestamp};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// What was known of a session before a report.
struct Known {
    account: String,
    series: i64,
    transport: String,
    client_family_is: String,
    sequence: i64,
    reported: Timestamp,
    usage: Usage,
    is_ended: bool,
}

/// What one report adds.
struct Added {
    usage: Usage,
    live_from: Timestamp,
    is_new: bool,
}

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
    pub(in crate::store) async fn record_usage(
        &self,
        node: &Node,
        reports: &[SessionReport],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_usage(&node.name).await?;
        let mut owners: BTreeMap<TurnKeyId, Option<String>> = BTreeMap::new();
        let mut months: BTreeMap<(TurnKeyId, u32), (String, Usage)> = BTreeMap::new();
        let mut ended = Vec::new();
        for report in reports {
            let known = known(&mut tx, report).await?;
            let account = match &known {
                Some(known) => Some(known.account.clone()),
                None => owner(&mut tx, &mut owners, report.turn_key).await?,
            };
            let Some(account) = account else {
                tracing::debug!(session = %report.id, "a report of an account that is gone");
                continue;
            };
            if known.as_ref().is_some_and(|known| known.sequence >= column(report.sequence)) {
                continue;
            }
            let added = match &known {
                Some(known) => {
                    Added { usage: report.usage.since(known.usage), live_from: known.reported, is_new: false }
                }
                None => Added { usage: report.usage, live_from: report.started, is_new: true },
            };
            let series = series(&mut tx, node, &account, report, known.as_ref()).await?;
            put(&mut tx, node, (&account, series), report).await?;
            count(&mut tx, (&account, series), report, &added).await?;
            // One that was given up for lost and has ended in order is told of once.
            if report.ended.is_some() && !known.is_some_and(|known| known.is_ended) {
                ended.push(report.id.0.to_vec());
            }
            let month = months.entry((report.turn_key, month_of(report.at))).or_default();
            *month = (account, month.1.plus(added.usage));
        }
        for ((key, month), (account, usage)) in months {
            add_to_month(&mut tx, key, month, &account, usage).await?;
        }
        tell_ends(&mut tx, &ended).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn close_lost_sessions(&self, node: &Node) -> Result<(), StoreError> {
        loop {
            let mut tx = self.begin_usage(&node.name).await?;
            let lost = sqlx::query_scalar(
                "SELECT id FROM turn_sessions WHERE ended IS NULL AND node = $1 AND epoch <> $2 LIMIT $3",
            )
            .bind(&node.name)
            .bind(node.epoch.as_slice())
            .bind(i64::from(TIDY_ROWS))
            .fetch_all(&mut *tx)
            .await?;
            let count = lost.len();
            close(&mut tx, lost).await?;
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
        let silent =
            sqlx::query_scalar("SELECT id FROM turn_sessions WHERE ended IS NULL AND reported < $1 LIMIT $2")
                .bind(heard)
                .bind(i64::from(TIDY_ROWS))
                .fetch_all(&mut *tx)
                .await?;
        let count = silent.len();
        close(&mut tx, silent).await?;
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

async fn known(tx: &mut Transaction, report: &SessionReport) -> Result<Option<Known>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT s.account_id, s.series, s.transport, u.client_family, s.sequence, s.reported, \
         s.egress_bytes, s.egress_packets, s.ingress_bytes, s.ingress_packets, s.ended \
         FROM turn_sessions s LEFT JOIN usage_series u ON u.id = s.series WHERE s.id = $1",
        for_update!("s")
    ))
    .bind(report.id.0.as_slice())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Known {
        account: row.try_get("account_id")?,
        series: row.try_get("series")?,
        transport: row.try_get("transport")?,
        client_family_is: row.try_get::<Option<String>, _>("client_family")?.unwrap_or_default(),
        sequence: row.try_get("sequence")?,
        reported: Timestamp::from_unix_micros(row.try_get("reported")?),
        usage: usage(&row)?,
        is_ended: row.try_get::<Option<i64>, _>("ended")?.is_some(),
    }))
}

async fn owner(
    tx: &mut Transaction,
    owners: &mut BTreeMap<TurnKeyId, Option<String>>,
    key: TurnKeyId,
) -> Result<Option<String>, StoreError> {
    if let Some(owner) = owners.get(&key) {
        return Ok(owner.clone());
    }
    let owner: Option<String> = sqlx::query_scalar("SELECT account_id FROM key_owners WHERE turn_key = $1")
        .bind(key.as_bytes().as_slice())
        .fetch_optional(&mut **tx)
        .await?;
    owners.insert(key, owner.clone());
    Ok(owner)
}

/// The series that a report counts for: mostly the same as before.
async fn series(
    tx: &mut Transaction,
    node: &Node,
    account: &str,
    report: &SessionReport,
    known: Option<&Known>,
) -> Result<i64, StoreError> {
    let day = report.at.unix_micros().div_euclid(1_000_000).div_euclid(DAY) * DAY;
    if let Some(known) = known
        && known.transport == report.transport
        && known.client_family_is == report.client_family()
        && known.reported.unix_micros().div_euclid(1_000_000).div_euclid(DAY) * DAY == day
    {
        return Ok(known.series);
    }
    let location = &node.location;
    let id = sqlx::query_scalar(
        "INSERT INTO usage_series (account_id, turn_key, username, custom_identifier, transport, \
         client_family, relay_family, node, city, code, country, region, last_day) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (turn_key, username, custom_identifier, transport, client_family, relay_family, node, \
         city, code, country, region) DO UPDATE SET last_day = excluded.last_day RETURNING id",
    )
    .bind(account)
    .bind(report.turn_key.as_bytes().as_slice())
    .bind(text(&report.username))
    .bind(text(&report.custom_identifier))
    .bind(report.transport)
    .bind(report.client_family())
    .bind(report.relay_family())
    .bind(&node.name)
    .bind(&location.city)
    .bind(&location.code)
    .bind(&location.country)
    .bind(&location.region)
    .bind(day)
    .fetch_one(&mut **tx)
    .await?;
    Ok(id)
}

/// Writes the session as the report has it.
async fn put(
    tx: &mut Transaction,
    node: &Node,
    (account, series): (&str, i64),
    report: &SessionReport,
) -> Result<(), StoreError> {
    let relayed: Vec<String> = report.relayed.iter().flatten().map(ToString::to_string).collect();
    sqlx::query(
        "INSERT INTO turn_sessions (id, account_id, turn_key, credential, username, custom_identifier, node, \
         epoch, series, transport, client, relayed, relays_tcp, started, reported, expires, sequence, \
         egress_bytes, egress_packets, ingress_bytes, ingress_packets, ended, end_reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23) \
         ON CONFLICT (id) DO UPDATE SET node = excluded.node, epoch = excluded.epoch, \
         series = excluded.series, transport = excluded.transport, client = excluded.client, \
         relayed = excluded.relayed, reported = excluded.reported, expires = excluded.expires, \
         sequence = excluded.sequence, egress_bytes = excluded.egress_bytes, \
         egress_packets = excluded.egress_packets, ingress_bytes = excluded.ingress_bytes, \
         ingress_packets = excluded.ingress_packets, ended = excluded.ended, end_reason = excluded.end_reason",
    )
    .bind(report.id.0.as_slice())
    .bind(account)
    .bind(report.turn_key.as_bytes().as_slice())
    .bind(report.credential.as_bytes().as_slice())
    .bind(text(&report.username))
    .bind(text(&report.custom_identifier))
    .bind(&node.name)
    .bind(node.epoch.as_slice())
    .bind(series)
    .bind(report.transport)
    // Whose address it was is nobody's business afterwards.
    .bind(report.ended.is_none().then(|| report.client.to_string()))
    .bind(relayed.join(","))
    .bind(i64::from(report.relays_tcp))
    .bind(report.started.unix_micros())
    .bind(report.at.unix_micros())
    .bind(report.expires.unix_micros())
    .bind(column(report.sequence))
    .bind(column(report.usage.egress_bytes))
    .bind(column(report.usage.egress_packets))
    .bind(column(report.usage.ingress_bytes))
    .bind(column(report.usage.ingress_packets))
    .bind(report.ended.map(|_| report.at.unix_micros()))
    .bind(report.ended)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Tells of sessions that have ended, in the order in which that becomes known to all.
async fn tell_ends(tx: &mut Transaction, sessions: &[Vec<u8>]) -> Result<(), StoreError> {
    if sessions.is_empty() {
        return Ok(());
    }
    hold_ends(tx).await?;
    let now = Timestamp::now().unix_micros();
    let mut insert: QueryBuilder<Db> = QueryBuilder::new("INSERT INTO session_ends (session, created) ");
    insert.push_values(sessions, |mut row, session| {
        row.push_bind(session).push_bind(now);
    });
    insert.build().execute(&mut **tx).await?;
    Ok(())
}

/// Ends sessions of which nothing will be heard any more, when they were last heard of.
async fn close(tx: &mut Transaction, sessions: Vec<Vec<u8>>) -> Result<(), StoreError> {
    let mut closed = Vec::with_capacity(sessions.len());
    for session in sessions {
        let done = sqlx::query(
            "UPDATE turn_sessions SET ended = reported, end_reason = 'node_lost', client = NULL \
             WHERE id = $1 AND ended IS NULL",
        )
        .bind(session.as_slice())
        .execute(&mut **tx)
        .await?;
        if done.rows_affected() > 0 {
            closed.push(session);
        }
    }
    tell_ends(tx, &closed).await
}

/// Counts what a report adds: traffic in its minute, the time lived in all minutes since the last.
async fn count(
    tx: &mut Transaction,
    (account, series): (&str, i64),
    report: &SessionReport,
    added: &Added,
) -> Result<(), StoreError> {
    let minute = report.at.unix_micros().div_euclid(1_000_000).div_euclid(MINUTE) * MINUTE;
    let mut lived = minutes(added.live_from, report.at);
    if lived.last().is_none_or(|(start, _)| *start != minute) {
        lived.push((minute, 0));
    }
    for (start, live_ms) in lived {
        let is_now = start == minute;
        let usage = if is_now { added.usage } else { Usage::default() };
        if usage == Usage::default() && live_ms == 0 && !added.is_new {
            continue;
        }
        sqlx::query(
            "INSERT INTO usage_buckets (account_id, start, series, span, egress_bytes, egress_packets, \
             ingress_bytes, ingress_packets, live_ms, sessions) VALUES ($1, $2, $3, 60, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (account_id, start, series, span) DO UPDATE SET \
             egress_bytes = usage_buckets.egress_bytes + excluded.egress_bytes, \
             egress_packets = usage_buckets.egress_packets + excluded.egress_packets, \
             ingress_bytes = usage_buckets.ingress_bytes + excluded.ingress_bytes, \
             ingress_packets = usage_buckets.ingress_packets + excluded.ingress_packets, \
             live_ms = usage_buckets.live_ms + excluded.live_ms, \
             sessions = usage_buckets.sessions + excluded.sessions",
        )
        .bind(account)
        .bind(start)
        .bind(series)
        .bind(column(usage.egress_bytes))
        .bind(column(usage.egress_packets))
        .bind(column(usage.ingress_bytes))
        .bind(column(usage.ingress_packets))
        .bind(live_ms)
        .bind(i64::from(added.is_new && is_now))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

async fn add_to_month(
    tx: &mut Transaction,
    key: TurnKeyId,
    month: u32,
    account: &str,
    usage: Usage,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO usage_months (turn_key, month, account_id, egress_bytes, egress_packets, \
         ingress_bytes, ingress_packets) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (turn_key, month) DO UPDATE SET \
         egress_bytes = usage_months.egress_bytes + excluded.egress_bytes, \
         egress_packets = usage_months.egress_packets + excluded.egress_packets, \
         ingress_bytes = usage_months.ingress_bytes + excluded.ingress_bytes, \
         ingress_packets = usage_months.ingress_packets + excluded.ingress_packets",
    )
    .bind(key.as_bytes().as_slice())
    .bind(i64::from(month))
    .bind(account)
    .bind(column(usage.egress_bytes))
    .bind(column(usage.egress_packets))
    .bind(column(usage.ingress_bytes))
    .bind(column(usage.ingress_packets))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
