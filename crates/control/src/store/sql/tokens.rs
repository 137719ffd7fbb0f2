use sqlx::Row as _;

use super::{Database, Row, Transaction, accounts, is_duplicate, text};
use crate::store::audit::Note;
use crate::store::{
    AccountId, ApiToken, Permission, SecretHash, StoreError, Timestamp, TokenId, TokenStatus,
};

impl Database {
    pub(in crate::store) async fn insert_token(
        &self,
        token: &ApiToken,
        hash: &SecretHash,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        insert(&mut tx, token, hash).await?;
        super::audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn tokens(&self, account: &AccountId) -> Result<Vec<ApiToken>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, account_id, name, permission, created_on, expires_on, status FROM api_tokens \
             WHERE account_id = $1 ORDER BY created_on, id",
        )
        .bind(account.as_str())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn token_with_hash(
        &self,
        hash: &SecretHash,
    ) -> Result<Option<ApiToken>, StoreError> {
        let row = sqlx::query(
            "SELECT id, account_id, name, permission, created_on, expires_on, status FROM api_tokens \
             WHERE token_hash = $1",
        )
        .bind(hash.as_bytes())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    pub(in crate::store) async fn delete_token(
        &self,
        id: &TokenId,
        mut note: Note,
    ) -> Result<Option<ApiToken>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM api_tokens WHERE id = $1 \
             RETURNING id, account_id, name, permission, created_on, expires_on, status",
        )
        .bind(id.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let gone = from_row(&row)?;
        note.account = Some(gone.account.clone());
        super::audit::write(&mut tx, &note).await?;
        tx.commit().await?;
        Ok(Some(gone))
    }
}

pub(super) async fn insert(
    tx: &mut Transaction,
    token: &ApiToken,
    hash: &SecretHash,
) -> Result<(), StoreError> {
    accounts::require(tx, &token.account).await?;
    sqlx::query(
        "INSERT INTO api_tokens (id, account_id, name, token_hash, permission, created_on, expires_on, status) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id.as_str())
    .bind(token.account.as_str())
    .bind(text(&token.name))
    .bind(hash.as_bytes())
    .bind(token.permission.as_column())
    .bind(token.created_on.unix_micros())
    .bind(token.expires_on.map(Timestamp::unix_micros))
    .bind(token.status.as_column())
    .execute(&mut **tx)
    .await
    .map_err(|error| if is_duplicate(&error) { StoreError::TokenExists } else { error.into() })?;
    Ok(())
}

pub(super) fn from_row(row: &Row) -> Result<ApiToken, StoreError> {
    let id: &str = row.try_get("id")?;
    let expires_on: Option<i64> = row.try_get("expires_on")?;
    Ok(ApiToken {
        id: id.parse().map_err(|_| StoreError::Corrupt { what: "token id" })?,
        account: accounts::id(row.try_get("account_id")?)?,
        name: row.try_get("name")?,
        permission: Permission::from_column(row.try_get("permission")?)
            .ok_or(StoreError::Corrupt { what: "token permission" })?,
        created_on: Timestamp::from_unix_micros(row.try_get("created_on")?),
        expires_on: expires_on.map(Timestamp::from_unix_micros),
        status: TokenStatus::from_column(row.try_get("status")?)
            .ok_or(StoreError::Corrupt { what: "token status" })?,
    })
}
