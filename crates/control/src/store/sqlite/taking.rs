//! Usage is put where it belongs, and taken out of the table that relays add to: nobody does meanwhile.

use sqlx::AssertSqlSafe;

use super::Transaction;
use crate::store::StoreError;

/// Does `adds` with rows, all of which have their groups, and takes them out. Says how many it was.
pub(super) async fn take_out(
    tx: &mut Transaction,
    (moved, _): (&str, &str),
    adds: &[String],
    ((from, until, series), _): ((i64, i64, i64), i64),
) -> Result<u64, StoreError> {
    let delete = format!("DELETE FROM usage_buckets AS b WHERE {moved}");
    let mut rows = 0;
    for statement in adds.iter().chain(std::iter::once(&delete)) {
        let done = sqlx::query(AssertSqlSafe(statement.as_str())).bind(from).bind(until).bind(series);
        rows = done.execute(&mut **tx).await?.rows_affected();
    }
    Ok(rows)
}
