//! Monthly limits.

use credentials::TurnKeyId;
use sqlx::Row as _;

use super::{Database, Row, Transaction, accounts, audit, count, fixed, shared_secrets, usage};
use crate::store::audit::Note;
use crate::store::month_limits::{MonthLimit, Progress, Step, Stop, Watched};
use crate::store::usage::month_of;
use crate::store::{AccountId, StoreError, Timestamp};

/// Limits with the usage of a month.
macro_rules! watched {
    ($more:literal) => {
        concat!(
            "SELECT l.*, k.account_id, COALESCE(m.egress_bytes, 0) AS egress_bytes, \
             COALESCE(m.egress_packets, 0) AS egress_packets, COALESCE(m.ingress_bytes, 0) AS ingress_bytes, \
             COALESCE(m.ingress_packets, 0) AS ingress_packets FROM month_limits l \
             JOIN turn_keys k ON k.uid = l.turn_key \
             LEFT JOIN usage_months m ON m.turn_key = l.turn_key AND m.month = $1",
            $more
        )
    };
}

impl Database {
    pub(in crate::store) async fn month_limit(
        &self,
        key: TurnKeyId,
        month: u32,
    ) -> Result<Option<Watched>, StoreError> {
        let row = sqlx::query(watched!(" WHERE l.turn_key = $2"))
            .bind(i64::from(month))
            .bind(key.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(watched).transpose()
    }

    pub(in crate::store) async fn set_month_limit(
        &self,
        (account, key): (&AccountId, TurnKeyId),
        limit: Option<&MonthLimit>,
        month: u32,
        (note, lifted): (&Note, impl Fn(&Watched) -> Note),
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let is_there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM turn_keys WHERE uid = $1 AND account_id = $2)")
                .bind(key.as_bytes().as_slice())
                .bind(account.as_str())
                .fetch_one(&mut *tx)
                .await?;
        if !is_there {
            return Ok(false);
        }
        let held = one(&mut tx, key, month).await?;
        match limit {
            Some(limit) => put(&mut tx, key, limit).await?,
            None => {
                sqlx::query("DELETE FROM month_limits WHERE turn_key = $1")
                    .bind(key.as_bytes().as_slice())
                    .execute(&mut *tx)
                    .await?;
            }
        }
        audit::write(&mut tx, note).await?;
        let held = held.filter(|held| held.before.reached.is_some());
        if let Some(held) = &held {
            if limit.is_none() {
                audit::write(&mut tx, &lifted(held)).await?;
            }
            stop(&mut tx, key, limit.and_then(|limit| limit.action.stop())).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn watch_month_limits(
        &self,
        now: Timestamp,
        note: impl Fn(&Watched, Step) -> Note,
    ) -> Result<usize, StoreError> {
        let rows = sqlx::query(watched!("")).bind(i64::from(month_of(now))).fetch_all(&self.read).await?;
        let mut count = 0;
        for row in &rows {
            let held = watched(row)?;
            // Mostly nothing follows, and nothing is written then.
            if held.judge(now).1.is_empty() {
                continue;
            }
            let mut tx = self.begin().await?;
            let Some(held) = one(&mut tx, held.key, month_of(now)).await? else { continue };
            let (after, steps) = held.judge(now);
            if steps.is_empty() {
                continue;
            }
            sqlx::query("UPDATE month_limits SET month = $1, told = $2, reached = $3 WHERE turn_key = $4")
                .bind(i64::from(after.month))
                .bind(i64::from(after.told))
                .bind(after.reached.map(Timestamp::unix_micros))
                .bind(held.key.as_bytes().as_slice())
                .execute(&mut *tx)
                .await?;
            for step in steps {
                audit::write(&mut tx, &note(&held, step)).await?;
            }
            if after.reached != held.before.reached {
                let action = after.reached.and_then(|_| held.limit.action.stop());
                stop(&mut tx, held.key, action).await?;
            }
            tx.commit().await?;
            count += 1;
        }
        Ok(count)
    }
}

async fn one(tx: &mut Transaction, key: TurnKeyId, month: u32) -> Result<Option<Watched>, StoreError> {
    let row = sqlx::query(watched!(" WHERE l.turn_key = $2"))
        .bind(i64::from(month))
        .bind(key.as_bytes().as_slice())
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(watched).transpose()
}

/// Another limit is told of anew.
async fn put(tx: &mut Transaction, key: TurnKeyId, limit: &MonthLimit) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO month_limits (turn_key, bytes, counts, action, notify_at, month, told) \
         VALUES ($1, $2, $3, $4, $5, 0, 0) ON CONFLICT (turn_key) DO UPDATE SET \
         told = CASE WHEN month_limits.bytes = excluded.bytes AND month_limits.counts = excluded.counts \
         THEN month_limits.told ELSE 0 END, \
         bytes = excluded.bytes, counts = excluded.counts, action = excluded.action, \
         notify_at = excluded.notify_at",
    )
    .bind(key.as_bytes().as_slice())
    .bind(usage::column(limit.bytes))
    .bind(limit.counts.name())
    .bind(limit.action.name())
    .bind(serde_json::to_string(&limit.notify_at).unwrap_or_default())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Relays and the credential API are told what holds for the key from now on.
async fn stop(tx: &mut Transaction, key: TurnKeyId, stop: Option<Stop>) -> Result<(), StoreError> {
    sqlx::query("UPDATE turn_keys SET stopped = $1 WHERE uid = $2")
        .bind(stop.map(Stop::name))
        .bind(key.as_bytes().as_slice())
        .execute(&mut **tx)
        .await?;
    shared_secrets::changed(tx, key).await
}

fn watched(row: &Row) -> Result<Watched, StoreError> {
    const CORRUPT: StoreError = StoreError::Corrupt { what: "monthly limit" };
    let (counts, action): (&str, &str) = (row.try_get("counts")?, row.try_get("action")?);
    let notify_at: &str = row.try_get("notify_at")?;
    let reached: Option<i64> = row.try_get("reached")?;
    Ok(Watched {
        key: TurnKeyId::from_bytes(fixed(row.try_get("turn_key")?, "limited key")?),
        account: accounts::id(row.try_get("account_id")?)?,
        limit: MonthLimit {
            bytes: u64::try_from(row.try_get::<i64, _>("bytes")?).map_err(|_| CORRUPT)?,
            counts: counts.parse().map_err(|_| CORRUPT)?,
            action: action.parse().map_err(|_| CORRUPT)?,
            notify_at: serde_json::from_str(notify_at).map_err(|_| CORRUPT)?,
        },
        before: Progress {
            month: count(row, "month")?,
            told: u8::try_from(count(row, "told")?).map_err(|_| CORRUPT)?,
            reached: reached.map(Timestamp::from_unix_micros),
        },
        usage: usage::usage(row)?,
    })
}
