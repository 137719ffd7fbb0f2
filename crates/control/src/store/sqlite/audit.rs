use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Sqlite, Transaction, accounts};
use crate::store::audit::{Actor, ActorKind, AuditEntry, AuditQuery, MAX_AUDIT_ROWS, Note};
use crate::store::{StoreError, Timestamp};

impl Sqlite {
    pub(in crate::store) async fn audit(
        &self,
        query: &AuditQuery,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, at, account_id, actor, actor_id, actor_name, address, request_id, action, target, \
             result, details FROM audit \
             WHERE (?1 IS NULL OR account_id = ?1) AND (?2 IS NULL OR action = ?2 OR substr(action, 1, length(?2) + 1) = ?2 || '.') \
             AND (?3 IS NULL OR target = ?3) AND (?4 IS NULL OR seq < ?4) AND (?5 IS NULL OR at >= ?5) \
             ORDER BY seq DESC LIMIT ?6",
        )
        .bind(query.account.as_ref().map(crate::store::AccountId::as_str))
        .bind(query.action.as_deref())
        .bind(query.target.as_deref())
        .bind(query.before)
        .bind(query.since.map(Timestamp::unix_micros))
        .bind(limit)
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn purge_audit(&self, before: Timestamp) -> Result<u64, StoreError> {
        let old = sqlx::query("DELETE FROM audit WHERE at < ?")
            .bind(before.unix_micros())
            .execute(&self.write)
            .await?;
        let many = sqlx::query("DELETE FROM audit WHERE seq <= (SELECT max(seq) FROM audit) - ?")
            .bind(MAX_AUDIT_ROWS)
            .execute(&self.write)
            .await?;
        Ok(old.rows_affected() + many.rows_affected())
    }
}

/// Writes what is noted, with the change that it is about, and has webhooks told of it.
pub(super) async fn write(tx: &mut Transaction, note: &Note) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (at, account_id, actor, actor_id, actor_name, address, request_id, action, target, \
         result, details) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'ok', ?)",
    )
    .bind(note.at.unix_micros())
    .bind(note.account.as_ref().map(crate::store::AccountId::as_str))
    .bind(note.actor.kind.name())
    .bind(&note.actor.id)
    .bind(&note.actor.name)
    .bind(note.actor.address.map(|address| address.to_string()))
    .bind(note.actor.request_id.as_deref())
    .bind(note.change.name())
    .bind(&note.target)
    .bind(note.details.to_string())
    .execute(&mut **tx)
    .await?;
    super::webhooks::tell(tx, note).await
}

fn from_row(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    const CORRUPT: StoreError = StoreError::Corrupt { what: "audit entry" };
    let account: Option<&str> = row.try_get("account_id")?;
    let address: Option<&str> = row.try_get("address")?;
    let details: &str = row.try_get("details")?;
    Ok(AuditEntry {
        seq: row.try_get("seq")?,
        at: Timestamp::from_unix_micros(row.try_get("at")?),
        account: account.map(accounts::id).transpose()?,
        actor: Actor {
            kind: ActorKind::from_column(row.try_get("actor")?).ok_or(CORRUPT)?,
            id: row.try_get("actor_id")?,
            name: row.try_get("actor_name")?,
            address: address.map(|text| text.parse().map_err(|_| CORRUPT)).transpose()?,
            request_id: row.try_get("request_id")?,
        },
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        result: row.try_get("result")?,
        details: serde_json::from_str(details).map_err(|_| CORRUPT)?,
    })
}
