//! Usage is taken out of the table that relays add to, and put where it belongs, by one statement.

use sqlx::AssertSqlSafe;

use super::Transaction;
use crate::store::StoreError;

/// Takes rows out and does `adds` with them, exactly with what is taken. A row that somebody is about to change stays where it
/// is: so whoever moves waits for nobody, and has no part in any deadlock.
pub(super) async fn take_out(
    tx: &mut Transaction,
    (moved, grouped): (&str, &str),
    adds: &[String],
    (from, until, noted): (i64, i64, i64),
) -> Result<(), StoreError> {
    let named = |(place, add): (usize, &String)| format!(", added_{place} AS ({add})");
    let adds = adds.iter().enumerate().map(named).collect::<Vec<_>>().concat();
    let statement = format!(
        "WITH found AS MATERIALIZED (SELECT b.account_id, b.start, b.series, b.span FROM usage_buckets b \
         WHERE {moved} AND {grouped} FOR UPDATE OF b SKIP LOCKED), \
         gone AS (DELETE FROM usage_buckets d USING found f WHERE d.account_id = f.account_id \
         AND d.start = f.start AND d.series = f.series AND d.span = f.span RETURNING d.*){adds} \
         SELECT 1"
    );
    let query = sqlx::query(AssertSqlSafe(statement)).bind(from).bind(until).bind(noted).persistent(false);
    query.execute(&mut **tx).await?;
    Ok(())
}
