use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, ROWS_AT_ONCE, Row, Transaction, accounts, text};
use crate::store::audit::{Actor, ActorKind, AuditEntry, AuditQuery, MAX_AUDIT_ROWS, Note};
use crate::store::{StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn audit(
        &self,
        query: &AuditQuery,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        // Only what is asked for is in it, so that an index serves it.
        let mut sql = QueryBuilder::new(
            "SELECT seq, at, account_id, actor, actor_id, actor_name, address, request_id, action, target, \
             result, details FROM audit WHERE 1 = 1",
        );
        if let Some(account) = &query.account {
            sql.push(" AND account_id = ").push_bind(account.as_str());
        }
        if let Some(target) = &query.target {
            sql.push(" AND target = ").push_bind(text(target));
        }
        if let Some(action) = &query.action {
            sql.push(" AND (action = ").push_bind(text(action));
            sql.push(" OR substr(action, 1, length(").push_bind(text(action));
            sql.push(") + 1) = ").push_bind(text(action)).push(" || '.')");
        }
        if let Some(before) = query.before {
            sql.push(" AND seq < ").push_bind(before);
        }
        if let Some(since) = query.since {
            sql.push(" AND at >= ").push_bind(since.unix_micros());
        }
        sql.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::from(limit));
        let rows = sql.build().fetch_all(&self.read).await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn purge_audit(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let old = sqlx::query(
                "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at < $1 ORDER BY at LIMIT $2)",
            )
            .bind(before.unix_micros())
            .bind(ROWS_AT_ONCE)
            .execute(&self.write)
            .await?;
            forgotten += old.rows_affected();
            if old.rows_affected() < ROWS_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        let full = sqlx::query("SELECT account_id FROM audit GROUP BY account_id HAVING count(*) > $1")
            .bind(i64::from(MAX_AUDIT_ROWS))
            .fetch_all(&self.read)
            .await?;
        for account in full {
            let account: Option<String> = account.try_get("account_id")?;
            forgotten += self.purge_audit_of(account.as_deref()).await?;
        }
        Ok(forgotten)
    }

    /// Forgets the oldest rows of an account, or of none, beyond those that are kept.
    async fn purge_audit_of(&self, account: Option<&str>) -> Result<u64, StoreError> {
        let is_of = |sql: &mut QueryBuilder<Db>| {
            match account {
                Some(account) => sql.push("account_id = ").push_bind(account),
                None => sql.push("account_id IS NULL"),
            };
        };
        let mut last = QueryBuilder::new("SELECT seq FROM audit WHERE ");
        is_of(&mut last);
        last.push(" ORDER BY seq DESC LIMIT 1 OFFSET ").push_bind(i64::from(MAX_AUDIT_ROWS));
        let last: Option<i64> = last.build_query_scalar().fetch_optional(&self.read).await?;
        let Some(last) = last else { return Ok(0) };
        let mut forgotten = 0;
        loop {
            let mut delete =
                QueryBuilder::new("DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE ");
            is_of(&mut delete);
            delete.push(" AND seq <= ").push_bind(last);
            delete.push(" ORDER BY seq LIMIT ").push_bind(ROWS_AT_ONCE).push(")");
            let gone = delete.build().execute(&self.write).await?.rows_affected();
            forgotten += gone;
            if gone < ROWS_AT_ONCE.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

/// Writes what is noted, with the change that it is about, and has webhooks told of it.
pub(super) async fn write(tx: &mut Transaction, note: &Note) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (at, account_id, actor, actor_id, actor_name, address, request_id, action, target, \
         result, details) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'ok', $10)",
    )
    .bind(note.at.unix_micros())
    .bind(note.account.as_ref().map(crate::store::AccountId::as_str))
    .bind(note.actor.kind.name())
    .bind(&note.actor.id)
    .bind(text(&note.actor.name))
    .bind(note.actor.address.map(|address| address.to_string()))
    .bind(note.actor.request_id.as_deref().map(text))
    .bind(note.change.name())
    .bind(&note.target)
    .bind(note.details.to_string())
    .execute(&mut **tx)
    .await?;
    super::webhooks::tell(tx, note).await
}

fn from_row(row: &Row) -> Result<AuditEntry, StoreError> {
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
