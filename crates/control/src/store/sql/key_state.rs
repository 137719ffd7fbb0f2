use credentials::TurnKeyId;
use sqlx::Row as _;

use super::{Database, answers, audit, keys, shared_secrets};
use crate::store::audit::Note;
use crate::store::key_state::{Rolled, Settings};
use crate::store::{AccountId, Answer, KeyLimits, KeyState, SecretHash, Stop, StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn roll_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        (secret, now, former_until): (&SecretHash, Timestamp, Option<Timestamp>),
        (note, answer): (&Note, impl Fn(&Rolled) -> Result<Option<Answer>, StoreError>),
    ) -> Result<Option<Rolled>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE turn_keys SET former_secret_hash = CASE WHEN $1 IS NULL THEN NULL ELSE secret_hash END, \
             former_until = $1, secret_hash = $2, modified = $3 WHERE uid = $4 AND account_id = $5 \
             RETURNING uid, name, created, modified, account_id, secret_hash, former_secret_hash, former_until, \
             suspended, stopped",
        )
        .bind(former_until.map(Timestamp::unix_micros))
        .bind(secret.as_bytes())
        .bind(now.unix_micros())
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let rolled = (keys::from_row(&row)?, keys::record(&row)?);
        if let Some(answer) = answer(&rolled)? {
            answers::keep(&mut tx, &answer).await?;
        }
        shared_secrets::changed(&mut tx, uid).await?;
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(Some(rolled))
    }

    pub(in crate::store) async fn suspend_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        suspended: bool,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE turn_keys SET suspended = $1 WHERE uid = $2 AND account_id = $3 AND (suspended IS NULL) = $4",
        )
        .bind(suspended.then_some(note.at.unix_micros()))
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .bind(suspended)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        shared_secrets::changed(&mut tx, uid).await?;
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn key_state(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
    ) -> Result<Option<KeyState>, StoreError> {
        let row = sqlx::query(
            "SELECT suspended, stopped, former_until FROM turn_keys WHERE uid = $1 AND account_id = $2",
        )
        .bind(uid.as_bytes().as_slice())
        .bind(account.as_str())
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let time = |column| {
            let micros: Option<i64> = row.try_get(column)?;
            Ok::<_, StoreError>(micros.map(Timestamp::from_unix_micros))
        };
        let suspended_since = time("suspended")?;
        let stopped: Option<&str> = row.try_get("stopped")?;
        Ok(Some(KeyState {
            suspended: suspended_since.is_some(),
            suspended_since,
            former_secret_until: time("former_until")?,
            stopped: stopped.and_then(Stop::from_column),
        }))
    }

    pub(in crate::store) async fn key_settings(
        &self,
        uid: TurnKeyId,
    ) -> Result<Option<Settings>, StoreError> {
        let row = sqlx::query(
            "SELECT account_id, secret_hash, former_secret_hash, former_until, suspended, stopped, limits \
             FROM turn_keys WHERE uid = $1",
        )
        .bind(uid.as_bytes().as_slice())
        .fetch_optional(&self.feed)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let limits: Option<&str> = row.try_get("limits")?;
        let limits = limits.map(KeyLimits::from_column).transpose()?;
        Ok(Some(Settings { record: keys::record(&row)?, limits }))
    }
}
