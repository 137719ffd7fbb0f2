use credentials::{SealedSecret, SharedSecretId, TurnKeyId};
use sqlx::Row as _;

use super::{Database, Row, Transaction, fixed};
use crate::store::audit::Note;
use crate::store::{
    AccountId, Answer, MAX_SHARED_SECRETS, MAX_SHARED_SECRETS_OF_KEY, SettingChange, StoreError,
    StoredSecret, Timestamp,
};

impl Database {
    /// `check` is given all that there are, and may refuse. `false`: the account has no such key.
    pub(in crate::store) async fn insert_shared_secret(
        &self,
        account: &AccountId,
        new: &StoredSecret,
        check: impl Fn(&[StoredSecret]) -> Result<(), StoreError>,
        (note, answer): (&Note, Option<Answer>),
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let known: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM turn_keys WHERE uid = $1 AND account_id = $2)")
                .bind(new.key.as_bytes().as_slice())
                .bind(account.as_str())
                .fetch_one(&mut *tx)
                .await?;
        if !known {
            return Ok(false);
        }
        let all = all(&mut tx).await?;
        if all.iter().filter(|it| it.key == new.key).count() >= MAX_SHARED_SECRETS_OF_KEY {
            return Err(StoreError::TooManySharedSecretsOfKey);
        }
        if all.len() >= MAX_SHARED_SECRETS {
            return Err(StoreError::TooManySharedSecrets);
        }
        check(&all)?;
        sqlx::query("INSERT INTO shared_secrets (id, turn_key, sealed, created) VALUES ($1, $2, $3, $4)")
            .bind(new.id.as_bytes().as_slice())
            .bind(new.key.as_bytes().as_slice())
            .bind(new.sealed.as_bytes())
            .bind(new.created.unix_micros())
            .execute(&mut *tx)
            .await?;
        changed(&mut tx, new.key).await?;
        super::audit::write(&mut tx, note).await?;
        if let Some(answer) = &answer {
            super::answers::keep(&mut tx, answer).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn shared_secrets(
        &self,
        key: TurnKeyId,
    ) -> Result<Vec<StoredSecret>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, turn_key, sealed, created FROM shared_secrets WHERE turn_key = $1 ORDER BY created, id",
        )
        .bind(key.as_bytes().as_slice())
        .fetch_all(&self.feed)
        .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn delete_shared_secret(
        &self,
        account: &AccountId,
        key: TurnKeyId,
        id: SharedSecretId,
        note: &Note,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM shared_secrets WHERE id = $1 AND turn_key = $2 \
             AND turn_key IN (SELECT uid FROM turn_keys WHERE account_id = $3) \
             RETURNING id, turn_key, sealed, created",
        )
        .bind(id.as_bytes().as_slice())
        .bind(key.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        changed(&mut tx, key).await?;
        super::audit::write(&mut tx, note).await?;
        tx.commit().await?;
        from_row(&row).map(Some)
    }

    /// Seals each one again for which `again` gives another text.
    pub(in crate::store) async fn reseal_shared_secrets(
        &self,
        mut again: impl FnMut(&StoredSecret) -> Option<SealedSecret>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let mut is_changed = false;
        for old in all(&mut tx).await? {
            let Some(sealed) = again(&old) else { continue };
            is_changed = true;
            sqlx::query("UPDATE shared_secrets SET sealed = $1 WHERE id = $2")
                .bind(sealed.as_bytes())
                .bind(old.id.as_bytes().as_slice())
                .execute(&mut *tx)
                .await?;
        }
        if is_changed {
            tx.commit().await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn setting_changes_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<SettingChange>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, turn_key FROM setting_changes WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(seq)
                .bind(i64::from(limit))
                .fetch_all(&self.feed)
                .await?;
        let read = |row: &Row| Ok(SettingChange { seq: row.try_get("seq")?, key: key(row)? });
        rows.iter().map(read).collect()
    }
}

async fn all(tx: &mut Transaction) -> Result<Vec<StoredSecret>, StoreError> {
    let rows = sqlx::query("SELECT id, turn_key, sealed, created FROM shared_secrets ORDER BY created, id");
    rows.fetch_all(&mut **tx).await?.iter().map(from_row).collect()
}

/// Says that a key's settings are others now. It takes the place of what was said of the key before.
pub(super) async fn changed(tx: &mut Transaction, key: TurnKeyId) -> Result<(), StoreError> {
    let key = key.as_bytes().as_slice();
    sqlx::query("DELETE FROM setting_changes WHERE turn_key = $1").bind(key).execute(&mut **tx).await?;
    sqlx::query("INSERT INTO setting_changes (turn_key) SELECT uid FROM turn_keys WHERE uid = $1")
        .bind(key)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn key(row: &Row) -> Result<TurnKeyId, StoreError> {
    Ok(TurnKeyId::from_bytes(fixed(row.try_get("turn_key")?, "key uid")?))
}

fn from_row(row: &Row) -> Result<StoredSecret, StoreError> {
    Ok(StoredSecret {
        id: SharedSecretId::from_bytes(fixed(row.try_get("id")?, "shared secret id")?),
        key: key(row)?,
        sealed: SealedSecret::from_bytes(row.try_get("sealed")?),
        created: Timestamp::from_unix_micros(row.try_get("created")?),
    })
}
