//! Usage is taken out of the table that relays add to, and put where it belongs, by one statement.

use sqlx::AssertSqlSafe;

use super::Transaction;
use crate::store::StoreError;

/// Takes rows out and does `adds` with them, exactly with what is taken. A row that somebody is about to change stays where it
/// is: so whoever moves waits for no relay, and has no part in a deadlock with any. Says how many rows it was.
pub(super) async fn take_out(
    tx: &mut Transaction,
    (moved, grouped): (&str, &str),
    adds: &[String],
    ((from, until, series), noted): ((i64, i64, i64), i64),
) -> Result<u64, StoreError> {
    let named = |(place, add): (usize, &String)| format!(", added_{place} AS ({add})");
    let adds = adds.iter().enumerate().map(named).collect::<Vec<_>>().concat();
    // Found once, whatever whoever plans thinks of tables that have just been filled.
    let series_of = format!(
        "SELECT b.series FROM (SELECT DISTINCT b.series FROM usage_buckets b WHERE {moved}) b WHERE {grouped}"
    );
    let statement = format!(
        "WITH found AS MATERIALIZED (SELECT b.account_id, b.start, b.series, b.span FROM usage_buckets b \
         WHERE {moved} AND b.series = ANY (ARRAY({series_of})) FOR UPDATE OF b SKIP LOCKED), \
         gone AS (DELETE FROM usage_buckets AS b USING found f WHERE {moved} AND b.account_id = f.account_id \
         AND b.start = f.start AND b.series = f.series AND b.span = f.span RETURNING b.*){adds} \
         SELECT COUNT(*) FROM gone"
    );
    let taken = sqlx::query_scalar(AssertSqlSafe(statement)).bind(from).bind(until).bind(series).bind(noted);
    let rows: i64 = taken.persistent(false).fetch_one(&mut **tx).await?;
    Ok(rows.unsigned_abs())
}
