use credentials::{Denial, TurnKeyId};
use sqlx::Row as _;

use super::{Database, Row, accounts, answers, audit, denials, fixed, shared_secrets, text};
use crate::store::audit::Note;
use crate::store::revocations::NewDenial;
use crate::store::{
    AccountId, Answer, KeyLimits, KeyRecord, SecretHash, Stop, StoreError, Timestamp, TurnKey,
};

/// What a record is read from.
macro_rules! record_columns {
    () => {
        "account_id, secret_hash, former_secret_hash, former_until, suspended, stopped"
    };
}

impl Database {
    pub(in crate::store) async fn insert_key(
        &self,
        key: &TurnKey,
        record: &KeyRecord,
        limit: u32,
        (note, answer): (&Note, Option<Answer>),
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        accounts::require(&mut tx, &record.account).await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM turn_keys WHERE account_id = $1")
            .bind(record.account.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if count >= i64::from(limit) {
            return Err(StoreError::TooManyKeys { limit });
        }
        sqlx::query(
            "INSERT INTO turn_keys (uid, account_id, name, secret_hash, created, modified) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(key.uid.as_bytes().as_slice())
        .bind(record.account.as_str())
        .bind(text(&key.name))
        .bind(record.secret_hash.as_bytes())
        .bind(key.created.unix_micros())
        .bind(key.modified.unix_micros())
        .execute(&mut *tx)
        .await?;
        sqlx::query("INSERT INTO key_owners (turn_key, account_id) VALUES ($1, $2)")
            .bind(key.uid.as_bytes().as_slice())
            .bind(record.account.as_str())
            .execute(&mut *tx)
            .await?;
        audit::write(&mut tx, note).await?;
        if let Some(answer) = &answer {
            answers::keep(&mut tx, answer).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn keys(&self, account: &AccountId) -> Result<Vec<TurnKey>, StoreError> {
        let rows = sqlx::query(
            "SELECT uid, name, created, modified FROM turn_keys WHERE account_id = $1 ORDER BY created, uid",
        )
        .bind(account.as_str())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
    ) -> Result<Option<TurnKey>, StoreError> {
        let row = sqlx::query(
            "SELECT uid, name, created, modified FROM turn_keys WHERE uid = $1 AND account_id = $2",
        )
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&self.read)
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    pub(in crate::store) async fn rename_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        name: &str,
        note: &Note,
    ) -> Result<Option<TurnKey>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE turn_keys SET name = $1, modified = $2 WHERE uid = $3 AND account_id = $4 \
             RETURNING uid, name, created, modified",
        )
        .bind(text(name))
        .bind(Timestamp::now().unix_micros())
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        from_row(&row).map(Some)
    }

    pub(in crate::store) async fn delete_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        denied_until: u64,
        note: &Note,
    ) -> Result<Option<TurnKey>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "DELETE FROM turn_keys WHERE uid = $1 AND account_id = $2 RETURNING uid, name, created, modified",
        )
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let denial = Denial::Key { key: uid, until: denied_until };
        denials::insert(&mut tx, NewDenial { denial, key: Some(uid), identifier: "" }).await?;
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        from_row(&row).map(Some)
    }

    pub(in crate::store) async fn key_records(&self) -> Result<Vec<(TurnKeyId, KeyRecord)>, StoreError> {
        let rows = sqlx::query(concat!("SELECT uid, ", record_columns!(), " FROM turn_keys"))
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(|row| Ok((uid(row)?, record(row)?))).collect()
    }

    pub(in crate::store) async fn key_record(&self, uid: TurnKeyId) -> Result<Option<KeyRecord>, StoreError> {
        let row = sqlx::query(concat!("SELECT ", record_columns!(), " FROM turn_keys WHERE uid = $1"))
            .bind(uid.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(record).transpose()
    }

    pub(in crate::store) async fn key_limits(&self, uid: TurnKeyId) -> Result<Option<KeyLimits>, StoreError> {
        let text: Option<Option<String>> = sqlx::query_scalar("SELECT limits FROM turn_keys WHERE uid = $1")
            .bind(uid.as_bytes().as_slice())
            .fetch_optional(&self.read)
            .await?;
        text.flatten().as_deref().map(KeyLimits::from_column).transpose()
    }

    pub(in crate::store) async fn set_key_limits(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        limits: Option<KeyLimits>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query("UPDATE turn_keys SET limits = $1 WHERE uid = $2 AND account_id = $3")
            .bind(limits.map(KeyLimits::to_column).transpose()?)
            .bind(uid.as_bytes().as_slice())
            .bind(account.as_str())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        shared_secrets::changed(&mut tx, uid).await?;
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn key_with_secret_hash(
        &self,
        hash: &SecretHash,
    ) -> Result<Option<(TurnKeyId, KeyRecord)>, StoreError> {
        let query = concat!(
            "SELECT uid, ",
            record_columns!(),
            " FROM turn_keys WHERE secret_hash = $1 OR former_secret_hash = $1"
        );
        let row = sqlx::query(query).bind(hash.as_bytes()).fetch_optional(&self.read).await?;
        row.map(|row| Ok((uid(&row)?, record(&row)?))).transpose()
    }
}

pub(super) fn from_row(row: &Row) -> Result<TurnKey, StoreError> {
    Ok(TurnKey {
        uid: uid(row)?,
        name: row.try_get("name")?,
        created: Timestamp::from_unix_micros(row.try_get("created")?),
        modified: Timestamp::from_unix_micros(row.try_get("modified")?),
    })
}

fn uid(row: &Row) -> Result<TurnKeyId, StoreError> {
    Ok(TurnKeyId::from_bytes(fixed(row.try_get("uid")?, "key uid")?))
}

/// From [`record_columns`].
pub(super) fn record(row: &Row) -> Result<KeyRecord, StoreError> {
    const CORRUPT: StoreError = StoreError::Corrupt { what: "stop" };
    let hash = |bytes| Ok::<_, StoreError>(SecretHash::from_bytes(fixed(bytes, "key secret hash")?));
    let former: Option<&[u8]> = row.try_get("former_secret_hash")?;
    let until: Option<i64> = row.try_get("former_until")?;
    let suspended: Option<i64> = row.try_get("suspended")?;
    let stopped: Option<&str> = row.try_get("stopped")?;
    Ok(KeyRecord {
        account: accounts::id(row.try_get("account_id")?)?,
        secret_hash: hash(row.try_get("secret_hash")?)?,
        former: former.map(hash).transpose()?.zip(until.map(Timestamp::from_unix_micros)),
        suspended: suspended.is_some(),
        stopped: stopped.map(|text| Stop::from_column(text).ok_or(CORRUPT)).transpose()?,
    })
}
