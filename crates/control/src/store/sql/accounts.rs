use sqlx::{AssertSqlSafe, Row as _};

use super::{Database, ROWS_AT_ONCE, Row, Transaction, is_duplicate, text};
use crate::store::audit::Note;
use crate::store::spans::{Grain, Sums};
use crate::store::{Account, AccountId, ApiToken, SecretHash, StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn is_empty(&self) -> Result<bool, StoreError> {
        let any: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts)").fetch_one(&self.feed).await?;
        Ok(!any)
    }

    pub(in crate::store) async fn bootstrap(
        &self,
        account: &Account,
        token: &ApiToken,
        hash: &SecretHash,
        notes: &[Note],
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let any: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts)").fetch_one(&mut *tx).await?;
        if any {
            return Ok(false);
        }
        insert(&mut tx, account).await?;
        super::tokens::insert(&mut tx, token, hash).await?;
        for note in notes {
            super::audit::write(&mut tx, note).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn insert_account(
        &self,
        account: &Account,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        insert(&mut tx, account).await?;
        super::audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let rows = sqlx::query("SELECT id, name, created_on FROM accounts ORDER BY created_on, id")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let row = sqlx::query("SELECT id, name, created_on FROM accounts WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Ends what an account can do: its keys are gone and denied, and so are its tokens.
    pub(in crate::store) async fn close_account(
        &self,
        id: &AccountId,
        denied_until: u64,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts WHERE id = $1)")
            .bind(id.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if !is_there {
            return Ok(false);
        }
        super::denials::insert_for_keys_of(&mut tx, id, denied_until).await?;
        for table in
            ["DELETE FROM turn_keys WHERE account_id = $1", "DELETE FROM api_tokens WHERE account_id = $1"]
        {
            sqlx::query(table).bind(id.as_str()).execute(&mut *tx).await?;
        }
        super::audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Forgets a part of what is known of an account's usage; `false` when there is more. Nobody waits for it.
    pub(in crate::store) async fn forget_usage_of(&self, id: &AccountId) -> Result<bool, StoreError> {
        let mut is_done = true;
        for statement in [
            "DELETE FROM turn_sessions WHERE id IN (SELECT id FROM turn_sessions WHERE account_id = $1 LIMIT $2)",
            "DELETE FROM usage_series WHERE id IN (SELECT id FROM usage_series WHERE account_id = $1 LIMIT $2)",
            "DELETE FROM usage_groups WHERE id IN (SELECT id FROM usage_groups WHERE account_id = $1 LIMIT $2)",
        ] {
            let gone =
                sqlx::query(statement).bind(id.as_str()).bind(ROWS_AT_ONCE).execute(&self.write).await?;
            is_done &= gone.rows_affected() < ROWS_AT_ONCE.unsigned_abs();
        }
        is_done &= self.forget_oldest("usage_buckets", "", id).await?;
        for sums in Sums::ALL {
            for grain in std::iter::once(Grain::Series).chain(Grain::GROUPS) {
                let of_grain = format!("AND grain = {}", grain.column());
                is_done &= self.forget_oldest(sums.table(), &of_grain, id).await?;
            }
        }
        Ok(is_done)
    }

    /// Forgets an account's oldest rows of a table, so many at most; `false` when there are more.
    async fn forget_oldest(&self, table: &str, and: &str, id: &AccountId) -> Result<bool, StoreError> {
        // Up to which, in the order of the key: a day alone may have millions.
        let last: Option<(i64, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT start, series FROM {table} WHERE account_id = $1 {and} ORDER BY start, series LIMIT 1 OFFSET $2"
        )))
        .bind(id.as_str())
        .bind(ROWS_AT_ONCE - 1)
        .fetch_optional(&self.write)
        .await?;
        let (start, series) = last.unwrap_or((i64::MAX, i64::MAX));
        let delete =
            format!("DELETE FROM {table} WHERE account_id = $1 {and} AND (start, series) <= ($2, $3)");
        let delete = sqlx::query(AssertSqlSafe(delete)).bind(id.as_str()).bind(start).bind(series);
        delete.execute(&self.write).await?;
        Ok(last.is_none())
    }

    pub(in crate::store) async fn delete_account(
        &self,
        id: &AccountId,
    ) -> Result<Option<Account>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query("DELETE FROM accounts WHERE id = $1 RETURNING id, name, created_on")
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        row.as_ref().map(from_row).transpose()
    }
}

async fn insert(tx: &mut Transaction, account: &Account) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO accounts (id, name, created_on) VALUES ($1, $2, $3)")
        .bind(account.id.as_str())
        .bind(text(&account.name))
        .bind(account.created_on.unix_micros())
        .execute(&mut **tx)
        .await
        .map_err(|error| {
            if is_duplicate(&error) { StoreError::AccountExists(account.id.clone()) } else { error.into() }
        })?;
    Ok(())
}

/// That the account exists, for a row that is to belong to it.
pub(super) async fn require(tx: &mut Transaction, id: &AccountId) -> Result<(), StoreError> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts WHERE id = $1)")
        .bind(id.as_str())
        .fetch_one(&mut **tx)
        .await?;
    if exists { Ok(()) } else { Err(StoreError::NoSuchAccount(id.clone())) }
}

fn from_row(row: &Row) -> Result<Account, StoreError> {
    Ok(Account {
        id: id(row.try_get("id")?)?,
        name: row.try_get("name")?,
        created_on: Timestamp::from_unix_micros(row.try_get("created_on")?),
    })
}

/// An account id as it stands in a column.
pub(super) fn id(text: &str) -> Result<AccountId, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { what: "account id" })
}
