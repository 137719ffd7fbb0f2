use credentials::{CredentialId, Denial, IdentifierId, TurnKeyId};
use sqlx::Row as _;

use super::{Database, ROWS_AT_ONCE, Row, Transaction, fixed, text};
use crate::store::audit::Note;
use crate::store::revocations::NewDenial;
use crate::store::{
    AccountId, FeedEnds, FeedEntry, KeyringMark, MAX_IDENTIFIER_RULES_OF_KEY, Revoked, StoreError, Timestamp,
};

const CREDENTIAL: &str = "credential";
const KEY: &str = "key";
const ISSUED: &str = "issued";
const IDENTIFIER: &str = "identifier";

/// What a look at the feed asks.
macro_rules! look {
    ($more:literal) => {
        concat!(
            "SELECT ends.*, page.seq, page.kind, page.subject, page.turn_key, page.before, page.until FROM \
             (SELECT COALESCE((SELECT MAX(seq) FROM denials), 0) AS denials, \
             COALESCE((SELECT MAX(seq) FROM setting_changes), 0) AS settings, \
             COALESCE((SELECT MAX(seq) FROM session_orders), 0) AS orders, ",
            $more,
            feed_tables!(),
            " AS tables, ",
            clock_micros!(),
            " AS now) AS ends LEFT JOIN (SELECT seq, kind, subject, turn_key, before, until FROM denials \
             WHERE seq > $1 ORDER BY seq LIMIT $2) AS page ON TRUE ORDER BY page.seq"
        )
    };
}

const LOOK: &str = look!("");
/// The same of a store that has the keyring. Others may have no right to look at that.
const LOOK_WITH_KEYRING: &str = look!(
    "(SELECT version FROM sealed_keyring) AS keyring_version, (SELECT changed FROM sealed_keyring) AS keyring_changed, "
);

impl Database {
    pub(in crate::store) async fn insert_denial(
        &self,
        new: NewDenial<'_>,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if let Denial::Identifier { key, identifier, .. } = new.denial {
            expect_room(&mut tx, key, identifier, note.at).await?;
        }
        if insert(&mut tx, new).await? {
            super::audit::write(&mut tx, note).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn denials_after(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<FeedEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, kind, subject, turn_key, before, until FROM denials WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(seq)
        .bind(i64::from(limit))
        .fetch_all(&self.feed)
        .await?;
        rows.iter().map(|row| Ok(FeedEntry { seq: row.try_get("seq")?, denial: denial(row)? })).collect()
    }

    /// One question, so that what is read is what was there when it ended so.
    pub(in crate::store) async fn feed_look(
        &self,
        after: i64,
        limit: u32,
        with_keyring: bool,
    ) -> Result<(FeedEnds, Vec<FeedEntry>), StoreError> {
        let look = if with_keyring { LOOK_WITH_KEYRING } else { LOOK };
        let rows = sqlx::query(look).bind(after).bind(i64::from(limit)).fetch_all(&self.feed).await?;
        let row = rows.first().ok_or(StoreError::Corrupt { what: "end of the feed" })?;
        let ends = FeedEnds {
            denials: row.try_get("denials")?,
            settings: row.try_get("settings")?,
            orders: row.try_get("orders")?,
            tables: row.try_get("tables")?,
            now: row.try_get("now")?,
            keyring: if with_keyring { keyring_mark(row)? } else { None },
        };
        let mut page = Vec::new();
        for row in &rows {
            // Without any entry there is one row all the same.
            if let Some(seq) = row.try_get("seq")? {
                page.push(FeedEntry { seq, denial: denial(row)? });
            }
        }
        Ok((ends, page))
    }

    pub(in crate::store) async fn revocations(
        &self,
        key: TurnKeyId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Revoked>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, kind, subject, turn_key, identifier, before, until, created FROM denials \
             WHERE turn_key = $1 AND ($2 IS NULL OR seq < $2) ORDER BY seq DESC LIMIT $3",
        )
        .bind(key.as_bytes().as_slice())
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(revoked).collect()
    }

    pub(in crate::store) async fn purge_denials(&self, now: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query(
                "DELETE FROM denials WHERE seq IN (SELECT seq FROM denials WHERE until < $1 ORDER BY until LIMIT $2)",
            )
            .bind(secs(now))
            .bind(ROWS_AT_ONCE)
            .execute(&self.write)
            .await?;
            forgotten += done.rows_affected();
            if done.rows_affected() < ROWS_AT_ONCE.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

/// That one more identifier can be revoked; one that is already, always.
async fn expect_room(
    tx: &mut Transaction,
    key: TurnKeyId,
    identifier: IdentifierId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM denials WHERE kind = 'identifier' AND turn_key = $1 AND until >= $2 AND subject <> $3",
    )
    .bind(key.as_bytes().as_slice())
    .bind(secs(now.unix_secs()))
    .bind(identifier.as_bytes().as_slice())
    .fetch_one(&mut **tx)
    .await?;
    if count >= i64::from(MAX_IDENTIFIER_RULES_OF_KEY) {
        return Err(StoreError::TooManyIdentifierRules);
    }
    Ok(())
}

/// Whether it was new: a denial of the same thing stands as it is, and one of what was issued before a moment gives way
/// to one with a later moment, which readers hear again.
pub(super) async fn insert(tx: &mut Transaction, new: NewDenial<'_>) -> Result<bool, StoreError> {
    let (kind, subject, before) = match &new.denial {
        Denial::Credential { id, .. } => (CREDENTIAL, id.as_bytes(), None),
        Denial::Key { key, .. } => (KEY, key.as_bytes(), None),
        Denial::Issued { key, before, .. } => (ISSUED, key.as_bytes(), Some(secs(*before))),
        Denial::Identifier { identifier, before, .. } => {
            (IDENTIFIER, identifier.as_bytes(), Some(secs(*before)))
        }
    };
    if let Some(before) = before {
        sqlx::query("DELETE FROM denials WHERE kind = $1 AND subject = $2 AND before < $3")
            .bind(kind)
            .bind(subject.as_slice())
            .bind(before)
            .execute(&mut **tx)
            .await?;
    }
    let done = sqlx::query(
        "INSERT INTO denials (kind, subject, turn_key, identifier, before, until, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, subject) DO NOTHING",
    )
    .bind(kind)
    .bind(subject.as_slice())
    .bind(new.key.as_ref().map(|key| key.as_bytes().as_slice()))
    .bind(text(new.identifier))
    .bind(before)
    .bind(secs(new.denial.until()))
    .bind(Timestamp::now().unix_micros())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Denies every key of an account.
pub(super) async fn insert_for_keys_of(
    tx: &mut Transaction,
    account: &AccountId,
    until: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO denials (kind, subject, turn_key, until, created) \
         SELECT $1, uid, uid, $2, $3 FROM turn_keys WHERE account_id = $4 ON CONFLICT (kind, subject) DO NOTHING",
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

fn denial(row: &Row) -> Result<Denial, StoreError> {
    let subject = fixed(row.try_get("subject")?, "denial subject")?;
    let moment = |secs: i64| u64::try_from(secs).map_err(|_| StoreError::Corrupt { what: "denial time" });
    let until = moment(row.try_get("until")?)?;
    let before = || moment(row.try_get("before")?);
    let denial = match row.try_get("kind")? {
        CREDENTIAL => Denial::Credential { id: CredentialId::from_bytes(subject), until },
        KEY => Denial::Key { key: TurnKeyId::from_bytes(subject), until },
        ISSUED => Denial::Issued { key: TurnKeyId::from_bytes(subject), before: before()?, until },
        IDENTIFIER => {
            let key = TurnKeyId::from_bytes(fixed(row.try_get("turn_key")?, "denial key")?);
            let identifier = IdentifierId::from_bytes(subject);
            Denial::Identifier { key, identifier, before: before()?, until }
        }
        _ => return Err(StoreError::Corrupt { what: "denial kind" }),
    };
    Ok(denial)
}

fn keyring_mark(row: &Row) -> Result<Option<KeyringMark>, StoreError> {
    let version: Option<i64> = row.try_get("keyring_version")?;
    let changed: Option<i64> = row.try_get("keyring_changed")?;
    version.zip(changed).map(|(version, changed)| super::keyring::mark(version, changed)).transpose()
}

fn revoked(row: &Row) -> Result<Revoked, StoreError> {
    let identifier: String = row.try_get("identifier")?;
    let denial = denial(row)?;
    let (kind, credential_id, identifier, before) = match denial {
        Denial::Credential { id, .. } => {
            ("credential", Some(id.to_string()), Some(identifier).filter(|it| !it.is_empty()), None)
        }
        Denial::Key { .. } => ("key", None, None, None),
        Denial::Issued { before, .. } => ("issued_before", None, None, Some(before)),
        Denial::Identifier { before, .. } => ("custom_identifier", None, Some(identifier), Some(before)),
    };
    Ok(Revoked {
        seq: row.try_get("seq")?,
        kind,
        credential_id,
        identifier,
        issued_before: before.map(Timestamp::from_unix_secs),
        created: Timestamp::from_unix_micros(row.try_get("created")?),
        until: Timestamp::from_unix_secs(denial.until()),
    })
}
