use super::{Database, tokens};
use crate::store::{ApiToken, MAX_SIGN_INS_OF_TOKEN, SecretHash, StoreError, Timestamp, TokenId};

impl Database {
    pub(in crate::store) async fn insert_sign_in(
        &self,
        token: &TokenId,
        hash: &SecretHash,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM sign_ins WHERE until <= $1")
            .bind(now.unix_micros())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM sign_ins WHERE token_id = $1 AND secret_hash NOT IN \
             (SELECT secret_hash FROM sign_ins WHERE token_id = $2 ORDER BY created DESC LIMIT $3)",
        )
        .bind(token.as_str())
        .bind(token.as_str())
        .bind(i64::from(MAX_SIGN_INS_OF_TOKEN - 1))
        .execute(&mut *tx)
        .await?;
        sqlx::query("INSERT INTO sign_ins (secret_hash, token_id, created, until) VALUES ($1, $2, $3, $4)")
            .bind(hash.as_bytes())
            .bind(token.as_str())
            .bind(now.unix_micros())
            .bind(until.unix_micros())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn token_signed_in(
        &self,
        hash: &SecretHash,
        now: Timestamp,
    ) -> Result<Option<ApiToken>, StoreError> {
        let row = sqlx::query(
            "SELECT api_tokens.id, account_id, name, permission, created_on, expires_on, status \
             FROM sign_ins JOIN api_tokens ON api_tokens.id = sign_ins.token_id \
             WHERE sign_ins.secret_hash = $1 AND sign_ins.until > $2",
        )
        .bind(hash.as_bytes())
        .bind(now.unix_micros())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(tokens::from_row).transpose()
    }

    pub(in crate::store) async fn delete_sign_in(&self, hash: &SecretHash) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM sign_ins WHERE secret_hash = $1")
            .bind(hash.as_bytes())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
