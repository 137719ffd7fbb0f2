use credentials::{CredentialId, Denial, TurnKeyId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteExecutor};

use super::{Sqlite, Transaction, fixed};
use crate::store::{AccountId, FeedEntry, StoreError, Timestamp};

const CREDENTIAL: &str = "credential";
const KEY: &str = "key";

impl Sqlite {
    pub(in crate::store) async fn insert_denial(&self, denial: Denial) -> Result<(), StoreError> {
        insert(&self.write, denial).await
    }

    pub(in crate::store) async fn denials_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<FeedEntry>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, kind, subject, until FROM denials WHERE seq > ? ORDER BY seq LIMIT ?")
                .bind(seq)
                .bind(limit)
                .fetch_all(&self.read)
                .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn purge_denials(&self, now: u64) -> Result<u64, StoreError> {
        let done =
            sqlx::query("DELETE FROM denials WHERE until < ?").bind(secs(now)).execute(&self.write).await?;
        Ok(done.rows_affected())
    }
}

/// Says it once: a denial of the same thing stands as it is.
pub(super) async fn insert(executor: impl SqliteExecutor<'_>, denial: Denial) -> Result<(), StoreError> {
    let (kind, subject, until) = match &denial {
        Denial::Credential { id, until } => (CREDENTIAL, id.as_bytes(), *until),
        Denial::Key { key, until } => (KEY, key.as_bytes(), *until),
    };
    sqlx::query(
        "INSERT INTO denials (kind, subject, until, created) VALUES (?, ?, ?, ?) \
         ON CONFLICT (kind, subject) DO NOTHING",
    )
    .bind(kind)
    .bind(subject.as_slice())
    .bind(secs(until))
    .bind(Timestamp::now().unix_micros())
    .execute(executor)
    .await?;
    Ok(())
}

/// Denies every key of an account.
pub(super) async fn insert_for_keys_of(
    tx: &mut Transaction,
    account: &AccountId,
    until: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO denials (kind, subject, until, created) \
         SELECT ?, uid, ?, ? FROM turn_keys WHERE account_id = ? ON CONFLICT (kind, subject) DO NOTHING",
    )
    .bind(KEY)
    .bind(secs(until))
    .bind(Timestamp::now().unix_micros())
    .bind(account.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn secs(unix: u64) -> i64 {
    i64::try_from(unix).unwrap_or(i64::MAX)
}

fn from_row(row: &SqliteRow) -> Result<FeedEntry, StoreError> {
    let subject = fixed(row.try_get("subject")?, "denial subject")?;
    let until: i64 = row.try_get("until")?;
    let until = u64::try_from(until).map_err(|_| StoreError::Corrupt { what: "denial expiry" })?;
    let denial = match row.try_get("kind")? {
        CREDENTIAL => Denial::Credential { id: CredentialId::from_bytes(subject), until },
        KEY => Denial::Key { key: TurnKeyId::from_bytes(subject), until },
        _ => return Err(StoreError::Corrupt { what: "denial kind" }),
    };
    Ok(FeedEntry { seq: row.try_get("seq")?, denial })
}
