use sqlx::Row as _;

use super::{Database, Transaction, fixed, is_duplicate};
use crate::store::answers::{ANSWER_LIFETIME_SECS, Answer, MAX_ANSWERS};
use crate::store::{StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn answer(
        &self,
        scope: &str,
        key_hash: &[u8; 32],
        oldest: Timestamp,
    ) -> Result<Option<Answer>, StoreError> {
        let row = sqlx::query(
            "SELECT request_hash, sealed FROM answers WHERE scope = $1 AND key_hash = $2 AND created >= $3",
        )
        .bind(scope)
        .bind(key_hash.as_slice())
        .bind(oldest.unix_micros())
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Answer {
            scope: scope.to_owned(),
            key_hash: *key_hash,
            request_hash: fixed(row.try_get("request_hash")?, "request hash")?,
            sealed: row.try_get("sealed")?,
        }))
    }

    pub(in crate::store) async fn purge_answers(&self, before: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM answers WHERE created < $1")
            .bind(before.unix_micros())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }
}

/// Keeps an answer with the change that it tells of; one that is too old gives way.
pub(super) async fn keep(tx: &mut Transaction, answer: &Answer) -> Result<(), StoreError> {
    let now = Timestamp::now();
    sqlx::query("DELETE FROM answers WHERE scope = $1 AND created < $2")
        .bind(&answer.scope)
        .bind(now.minus_secs(ANSWER_LIFETIME_SECS).unix_micros())
        .execute(&mut **tx)
        .await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM answers WHERE scope = $1")
        .bind(&answer.scope)
        .fetch_one(&mut **tx)
        .await?;
    if count >= i64::from(MAX_ANSWERS) {
        return Err(StoreError::TooManyAnswers);
    }
    sqlx::query(
        "INSERT INTO answers (scope, key_hash, request_hash, sealed, created) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&answer.scope)
    .bind(answer.key_hash.as_slice())
    .bind(answer.request_hash.as_slice())
    .bind(&answer.sealed)
    .bind(now.unix_micros())
    .execute(&mut **tx)
    .await
    .map_err(|error| if is_duplicate(&error) { StoreError::AnsweredAlready } else { error.into() })?;
    Ok(())
}
