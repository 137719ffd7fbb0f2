use sqlx::Row as _;

use super::{Database, Row};
use crate::store::audit::Note;
use crate::store::{KeyringMark, SealedKeyring, StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn keyring(&self) -> Result<Option<SealedKeyring>, StoreError> {
        let row = sqlx::query("SELECT version, changed, sealed FROM sealed_keyring")
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(keyring).transpose()
    }

    pub(in crate::store) async fn holds_sealed(&self) -> Result<bool, StoreError> {
        let kinds: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (\
             SELECT 1 WHERE EXISTS (SELECT 1 FROM shared_secrets) \
             UNION ALL SELECT 1 WHERE EXISTS (SELECT 1 FROM webhooks) \
             UNION ALL SELECT 1 WHERE EXISTS (SELECT 1 FROM acme_accounts) \
             UNION ALL SELECT 1 WHERE EXISTS (SELECT 1 FROM acme_certificates WHERE sealed_key IS NOT NULL)) AS kinds",
        )
        .fetch_one(&self.read)
        .await?;
        Ok(kinds > 0)
    }

    /// Of several at once the first makes it, and all have the same.
    pub(in crate::store) async fn make_keyring(
        &self,
        sealed: &[u8],
        note: &Note,
    ) -> Result<SealedKeyring, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(concat!(
            "INSERT INTO sealed_keyring (one, version, changed, sealed) VALUES (1, 1, ",
            now_micros!(),
            ", $1) ON CONFLICT (one) DO NOTHING"
        ))
        .bind(sealed)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() > 0 {
            super::audit::write(&mut tx, note).await?;
        }
        let there =
            sqlx::query("SELECT version, changed, sealed FROM sealed_keyring").fetch_one(&mut *tx).await?;
        let there = keyring(&there)?;
        tx.commit().await?;
        Ok(there)
    }

    pub(in crate::store) async fn change_keyring(
        &self,
        (from, to): (u64, u64),
        sealed: &[u8],
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(concat!(
            "UPDATE sealed_keyring SET version = $1, changed = ",
            now_micros!(),
            ", sealed = $2 WHERE version = $3"
        ))
        .bind(number(to)?)
        .bind(sealed)
        .bind(number(from)?)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        super::audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn number(version: u64) -> Result<i64, StoreError> {
    i64::try_from(version).map_err(|_| StoreError::Corrupt { what: "keyring version" })
}

fn keyring(row: &Row) -> Result<SealedKeyring, StoreError> {
    let mark = mark(row.try_get("version")?, row.try_get("changed")?)?;
    Ok(SealedKeyring { mark, sealed: row.try_get("sealed")? })
}

pub(super) fn mark(version: i64, changed: i64) -> Result<KeyringMark, StoreError> {
    let version = u64::try_from(version).map_err(|_| StoreError::Corrupt { what: "keyring version" })?;
    Ok(KeyringMark { version, changed: Timestamp::from_unix_micros(changed) })
}
