//! Old sums are forgotten row by row.

use sqlx::AssertSqlSafe;

use super::Database;
use crate::store::StoreError;
use crate::store::spans::Sums;

/// Rows that one call forgets.
const ROWS_AT_ONCE: u32 = 20_000;

impl Database {
    /// Forgets sums of spans that begin before this; `false` when there are more.
    pub(super) async fn forget_before(&self, sums: Sums, before: i64) -> Result<bool, StoreError> {
        let Some(mut tx) = self.begin_tidying().await? else { return Ok(true) };
        let table = sums.table();
        // A walk along the key for each account and grain.
        let gone = sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM {table} WHERE (account_id, grain, start, series) IN (\
             SELECT m.account_id, m.grain, m.start, m.series FROM accounts a \
             CROSS JOIN (SELECT 0 AS grain UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) g \
             CROSS JOIN {table} m ON m.account_id = a.id AND m.grain = g.grain AND m.start < $1 LIMIT $2)"
        )))
        .bind(before)
        .bind(ROWS_AT_ONCE)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(gone.rows_affected() < ROWS_AT_ONCE.into())
    }
}
