use credentials::{CredentialId, TurnKeyId};
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Row, Transaction, accounts, audit, fixed, text, usage};
use crate::store::audit::Note;
use crate::store::usage::{Session, SessionFilter, SessionId, SessionOrder};
use crate::store::{AccountId, StoreError, Timestamp};

const SESSION: &str = "session";
const CREDENTIAL: &str = "credential";
const KEY: &str = "key";
const CUSTOM_IDENTIFIER: &str = "custom_identifier";

impl Database {
    pub(in crate::store) async fn sessions(
        &self,
        filter: &SessionFilter,
    ) -> Result<Vec<Session>, StoreError> {
        let mut query =
            QueryBuilder::new("SELECT * FROM turn_sessions WHERE ended IS NULL AND account_id = ");
        query.push_bind(filter.account.as_str().to_owned());
        if let Some(key) = filter.key {
            query.push(" AND turn_key = ").push_bind(key.as_bytes().to_vec());
        }
        if let Some(custom) = &filter.custom_identifier {
            query.push(" AND custom_identifier = ").push_bind(text(custom));
        }
        if let Some(username) = &filter.username {
            query.push(" AND username = ").push_bind(text(username));
        }
        if let Some(after) = filter.after {
            let started = after.started.unix_micros();
            query.push(" AND (started < ").push_bind(started).push(" OR (started = ").push_bind(started);
            query.push(" AND id < ").push_bind(after.id.0.to_vec()).push("))");
        }
        query.push(" ORDER BY started DESC, id DESC LIMIT ").push_bind(i64::from(filter.limit));
        let rows: Vec<Row> = query.build().fetch_all(&self.read).await?;
        rows.iter().map(from_row).collect()
    }

    pub(in crate::store) async fn session(
        &self,
        account: &AccountId,
        id: SessionId,
    ) -> Result<Option<Session>, StoreError> {
        let row = sqlx::query("SELECT * FROM turn_sessions WHERE id = $1 AND account_id = $2")
            .bind(id.0.as_slice())
            .bind(account.as_str())
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(from_row).transpose()
    }

    pub(in crate::store) async fn credential_of_user(
        &self,
        account: &AccountId,
        username: &str,
    ) -> Result<Vec<(TurnKeyId, CredentialId)>, StoreError> {
        let rows = sqlx::query(
            "SELECT DISTINCT turn_key, credential FROM turn_sessions \
             WHERE ended IS NULL AND account_id = $1 AND username = $2",
        )
        .bind(account.as_str())
        .bind(text(username))
        .fetch_all(&self.read)
        .await?;
        let pair = |row: &Row| {
            let credential = fixed(row.try_get("credential")?, "session credential")?;
            Ok((key(row)?, CredentialId::from_bytes(credential)))
        };
        rows.iter().map(pair).collect()
    }

    pub(in crate::store) async fn insert_session_orders(
        &self,
        orders: &[(SessionOrder, Note)],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for (order, note) in orders {
            insert_order(&mut tx, order).await?;
            audit::write(&mut tx, note).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn session_orders_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<(i64, SessionOrder)>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, kind, turn_key, subject FROM session_orders WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(seq)
        .bind(i64::from(limit))
        .fetch_all(&self.feed)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("seq")?, order(row)?))).collect()
    }
}

async fn insert_order(tx: &mut Transaction, order: &SessionOrder) -> Result<(), StoreError> {
    let (kind, key, subject): (_, _, &[u8]) = match order {
        SessionOrder::Session(key, id) => (SESSION, key, &id.0),
        SessionOrder::Credential(key, id) => (CREDENTIAL, key, id.as_bytes()),
        SessionOrder::Key(key) => (KEY, key, &[]),
        SessionOrder::CustomIdentifier(key, text) => (CUSTOM_IDENTIFIER, key, text.as_bytes()),
    };
    sqlx::query("INSERT INTO session_orders (kind, turn_key, subject, created) VALUES ($1, $2, $3, $4)")
        .bind(kind)
        .bind(key.as_bytes().as_slice())
        .bind(subject)
        .bind(Timestamp::now().unix_micros())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn key(row: &Row) -> Result<TurnKeyId, StoreError> {
    Ok(TurnKeyId::from_bytes(fixed(row.try_get("turn_key")?, "session key")?))
}

fn order(row: &Row) -> Result<SessionOrder, StoreError> {
    const CORRUPT: StoreError = StoreError::Corrupt { what: "session order" };
    let (key, subject): (_, Vec<u8>) = (key(row)?, row.try_get("subject")?);
    match row.try_get("kind")? {
        SESSION => Ok(SessionOrder::Session(key, SessionId(fixed(&subject, "session id")?))),
        CREDENTIAL => {
            let id = CredentialId::from_bytes(fixed(&subject, "session credential")?);
            Ok(SessionOrder::Credential(key, id))
        }
        KEY => Ok(SessionOrder::Key(key)),
        CUSTOM_IDENTIFIER => {
            let text = String::from_utf8(subject).map_err(|_| CORRUPT)?;
            Ok(SessionOrder::CustomIdentifier(key, text))
        }
        _ => Err(CORRUPT),
    }
}

pub(super) fn from_row(row: &Row) -> Result<Session, StoreError> {
    let time =
        |name: &str| -> Result<Timestamp, StoreError> { Ok(Timestamp::from_unix_micros(row.try_get(name)?)) };
    let relayed: &str = row.try_get("relayed")?;
    let ended: Option<i64> = row.try_get("ended")?;
    Ok(Session {
        id: SessionId(fixed(row.try_get("id")?, "session id")?),
        account: accounts::id(row.try_get("account_id")?)?,
        key_id: key(row)?,
        custom_identifier: row.try_get("custom_identifier")?,
        username: row.try_get("username")?,
        node: row.try_get("node")?,
        transport: row.try_get("transport")?,
        client_address: row.try_get("client")?,
        relay_addresses: relayed.split(',').filter(|it| !it.is_empty()).map(ToOwned::to_owned).collect(),
        relays: if row.try_get::<i64, _>("relays_tcp")? == 0 { "udp" } else { "tcp" },
        started: time("started")?,
        reported: time("reported")?,
        expires: time("expires")?,
        usage: usage::usage(row)?,
        ended: ended.map(Timestamp::from_unix_micros),
        end_reason: row.try_get("end_reason")?,
    })
}
