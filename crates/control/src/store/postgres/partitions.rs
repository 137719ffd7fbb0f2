//! The parts of the tables of sums: one for each day, each thirty days, or each twenty weeks. An old one is dropped, which costs nothing, however
//! many rows it has.

use sqlx::{AssertSqlSafe, Executor as _};

use super::{Database, Transaction};
use crate::store::StoreError;
use crate::store::spans::Sums;

const DAY: i64 = 86_400;
/// A question that began before this is over.
const QUESTION_SECS: i64 = 3_600;
/// Whoever drops a part waits no longer than this for questions that are under way, and others wait for it.
const DROPPING: &str = "SET LOCAL lock_timeout = '1s'";

/// How many seconds a part of the table has.
fn part_secs(sums: Sums) -> i64 {
    match sums {
        Sums::Minutes | Sums::Hours => DAY,
        Sums::Days => 30 * DAY,
        // What begins with a week is in the part that the week's days would be in.
        Sums::Weeks => 20 * 7 * DAY,
    }
}

/// Makes the part of the table for what begins then, if it is not there. Whoever reads or writes others does not wait.
pub(in crate::store) async fn make_room(
    tx: &mut Transaction,
    sums: Sums,
    start: i64,
) -> Result<(), StoreError> {
    let (table, secs) = (sums.table(), part_secs(sums));
    let number = start.div_euclid(secs);
    let part = format!("{table}_{number}");
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&part).fetch_one(&mut **tx).await?;
    if exists {
        return Ok(());
    }
    let (from, until) = (number * secs, (number + 1) * secs);
    tx.execute(AssertSqlSafe(format!("CREATE TABLE {part} (LIKE {table} INCLUDING ALL)"))).await?;
    let attach = format!("ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES FROM ({from}) TO ({until})");
    tx.execute(AssertSqlSafe(attach)).await?;
    Ok(())
}

impl Database {
    /// Drops what is all older than this, for so long that nobody reads it any more.
    pub(super) async fn forget_before(&self, sums: Sums, before: i64) -> Result<bool, StoreError> {
        let (table, secs) = (sums.table(), part_secs(sums));
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        let parts: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = to_regclass($1)",
        )
        .bind(table)
        .fetch_all(&mut *tx)
        .await?;
        let is_old = |part: &&String| {
            let number = part.rsplit('_').next().and_then(|number| number.parse::<i64>().ok());
            // Others are whoever made them's.
            number.is_some_and(|number| {
                **part == format!("{table}_{number}") && (number + 1) * secs + QUESTION_SECS <= before
            })
        };
        // One at a time: so nobody waits long.
        if let Some(part) = parts.iter().find(is_old) {
            if let Err(error) = drop_part(&mut tx, part).await {
                // Left to itself it would end later, and what comes next find somebody tidying.
                drop(tx.rollback().await);
                return Err(error);
            }
            tx.commit().await?;
            return Ok(false);
        }
        tx.rollback().await?;
        Ok(true)
    }
}

async fn drop_part(tx: &mut Transaction, part: &str) -> Result<(), StoreError> {
    tx.execute(DROPPING).await?;
    tx.execute(AssertSqlSafe(format!("DROP TABLE {part}"))).await?;
    Ok(())
}
