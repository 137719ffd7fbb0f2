use sqlx::Row as _;

use super::{Database, Row, Transaction, is_duplicate, text};
use crate::store::audit::Note;
use crate::store::{Account, AccountId, ApiToken, SecretHash, StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn is_empty(&self) -> Result<bool, StoreError> {
        let any: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM accounts)").fetch_one(&self.read).await?;
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

    pub(in crate::store) async fn delete_account(
        &self,
        id: &AccountId,
        denied_until: u64,
        note: &Note,
    ) -> Result<Option<Account>, StoreError> {
        let mut tx = self.begin().await?;
        super::denials::insert_for_keys_of(&mut tx, id, denied_until).await?;
        let row = sqlx::query("DELETE FROM accounts WHERE id = $1 RETURNING id, name, created_on")
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        if row.is_some() {
            super::audit::write(&mut tx, note).await?;
        }
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
