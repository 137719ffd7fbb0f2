use serde::Deserialize;
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, Row, Transaction, accounts, audit, count, portions, sessions, text};
use crate::store::audit::Note;
use crate::store::webhooks::{
    Delivery, ENDS_AT_ONCE, Event, MAX_DELIVERIES, MAX_WEBHOOKS, SESSION_ENDED, Webhook,
};
use crate::store::{AccountId, StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn insert_webhook(
        &self,
        webhook: &Webhook,
        note: &Note,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        accounts::require(&mut tx, &webhook.account).await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM webhooks WHERE account_id = $1")
            .bind(webhook.account.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if count >= i64::from(MAX_WEBHOOKS) {
            return Err(StoreError::TooManyWebhooks);
        }
        sqlx::query(
            "INSERT INTO webhooks (id, account_id, url, events, sealed, created) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&webhook.id)
        .bind(webhook.account.as_str())
        .bind(text(&webhook.url))
        .bind(serde_json::to_string(&webhook.events).unwrap_or_default())
        .bind(&webhook.sealed)
        .bind(webhook.created.unix_micros())
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn webhooks(&self, account: &AccountId) -> Result<Vec<Webhook>, StoreError> {
        let rows = sqlx::query("SELECT * FROM webhooks WHERE account_id = $1 ORDER BY created, id")
            .bind(account.as_str())
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(webhook).collect()
    }

    /// Seals each one again for which `again` gives another text.
    pub(in crate::store) async fn reseal_webhooks(
        &self,
        again: impl Fn(&Webhook) -> Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for row in &sqlx::query("SELECT * FROM webhooks").fetch_all(&mut *tx).await? {
            let webhook = webhook(row)?;
            let Some(sealed) = again(&webhook) else { continue };
            sqlx::query("UPDATE webhooks SET sealed = $1 WHERE id = $2")
                .bind(sealed)
                .bind(&webhook.id)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn delete_webhook(
        &self,
        account: &AccountId,
        id: &str,
        note: &Note,
    ) -> Result<Option<Webhook>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query("DELETE FROM webhooks WHERE id = $1 AND account_id = $2 RETURNING *")
            .bind(id)
            .bind(account.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(None) };
        audit::write(&mut tx, note).await?;
        tx.commit().await?;
        webhook(&row).map(Some)
    }

    pub(in crate::store) async fn test_webhook(
        &self,
        account: &AccountId,
        id: &str,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query("SELECT * FROM webhooks WHERE id = $1 AND account_id = $2")
            .bind(id)
            .bind(account.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let (Some(row), Some(event)) = (row, Event::of(note)?) else { return Ok(false) };
        Queues::of(std::iter::once(webhook(&row)?)).tell(&mut tx, account, &event).await?;
        tx.commit().await?;
        Ok(true)
    }

    pub(in crate::store) async fn deliveries(
        &self,
        id: &str,
        dead: bool,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let query = if dead {
            "SELECT * FROM deliveries WHERE webhook = $1 AND seq > $2 AND due IS NULL ORDER BY seq LIMIT $3"
        } else {
            "SELECT * FROM deliveries WHERE webhook = $1 AND seq > $2 ORDER BY seq LIMIT $3"
        };
        let rows = sqlx::query(query).bind(id).bind(seq).bind(i64::from(limit)).fetch_all(&self.read).await?;
        rows.iter().map(delivery).collect()
    }

    pub(in crate::store) async fn redeliver(
        &self,
        account: &AccountId,
        id: &str,
        event: Option<&str>,
        note: &Note,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE deliveries SET due = $1, created = $1, attempts = 0 WHERE due IS NULL AND webhook IN \
             (SELECT id FROM webhooks WHERE id = $2 AND account_id = $3) AND ($4 IS NULL OR event = $4)",
        )
        .bind(note.at.unix_micros())
        .bind(id)
        .bind(account.as_str())
        .bind(event.map(text))
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() > 0 {
            audit::write(&mut tx, note).await?;
            tx.commit().await?;
        }
        Ok(done.rows_affected())
    }

    pub(in crate::store) async fn webhooks_due(&self, now: Timestamp) -> Result<Vec<Webhook>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM webhooks w WHERE EXISTS \
             (SELECT 1 FROM deliveries d WHERE d.webhook = w.id AND d.due <= $1)",
        )
        .bind(now.unix_micros())
        .fetch_all(&self.read)
        .await?;
        rows.iter().map(webhook).collect()
    }

    pub(in crate::store) async fn next_delivery(&self) -> Result<Option<Timestamp>, StoreError> {
        let due: Option<i64> = sqlx::query_scalar(
            "SELECT MIN((SELECT MIN(d.due) FROM deliveries d WHERE d.webhook = w.id AND d.due IS NOT NULL)) \
             FROM webhooks w",
        )
        .fetch_one(&self.read)
        .await?;
        Ok(due.map(Timestamp::from_unix_micros))
    }

    pub(in crate::store) async fn claim_deliveries(
        &self,
        id: &str,
        now: Timestamp,
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = sqlx::query(concat!(
            "UPDATE deliveries SET due = $1, attempts = attempts + 1 WHERE seq IN \
             (SELECT seq FROM deliveries WHERE webhook = $2 AND due <= $3 ORDER BY due, seq LIMIT $4",
            skip_locked!(),
            ") RETURNING *"
        ))
        .bind(until.unix_micros())
        .bind(id)
        .bind(now.unix_micros())
        .bind(i64::from(limit))
        .fetch_all(&self.write)
        .await?;
        let mut claimed: Vec<Delivery> = rows.iter().map(delivery).collect::<Result<_, _>>()?;
        // No database promises an order here.
        claimed.sort_by_key(|it| it.seq);
        Ok(claimed)
    }

    pub(in crate::store) async fn tell_session_ends(&self) -> Result<bool, StoreError> {
        // Mostly there is nothing new, and nothing is written then.
        let are_new = "SELECT COALESCE((SELECT MAX(seq) FROM session_ends), 0) > seq FROM told_session_ends";
        if !sqlx::query_scalar(are_new).fetch_one(&self.read).await? {
            return Ok(true);
        }
        let mut tx = self.begin_beside().await?;
        // Whoever tells holds the mark, and nobody waits for it.
        let mark = concat!("SELECT seq FROM told_session_ends", skip_locked!());
        let told: Option<i64> = sqlx::query_scalar(mark).fetch_optional(&mut *tx).await?;
        let Some(told) = told else { return Ok(true) };
        let last: i64 =
            sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM session_ends").fetch_one(&mut *tx).await?;
        let (done, events) = session_ends(&mut tx, told, last).await?;
        sqlx::query("UPDATE told_session_ends SET seq = $1").bind(done).execute(&mut *tx).await?;
        // At the very end: who deletes a webhook waits for this, and others for him.
        if let Err(error) = insert_all(&mut tx, &events).await {
            tx.rollback().await?;
            // A webhook was deleted meanwhile, and is not told of them again.
            return if is_orphan(&error) { Ok(false) } else { Err(error.into()) };
        }
        tx.commit().await?;
        Ok(done == last)
    }

    pub(in crate::store) async fn delivered(&self, seq: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM deliveries WHERE seq = $1").bind(seq).execute(&self.write).await?;
        Ok(())
    }

    pub(in crate::store) async fn not_delivered(
        &self,
        seq: i64,
        due: Option<Timestamp>,
        fault: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE deliveries SET due = $1, fault = $2 WHERE seq = $3")
            .bind(due.map(Timestamp::unix_micros))
            .bind(text(fault))
            .bind(seq)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    pub(in crate::store) async fn purge_deliveries(&self, before: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM deliveries WHERE due IS NULL AND created < $1")
            .bind(before.unix_micros())
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }
}

/// Puts what a change tells into the queue of each webhook that wants to hear it.
pub(super) async fn tell(tx: &mut Transaction, note: &Note) -> Result<(), StoreError> {
    let (Some(account), Some(event)) = (&note.account, Event::of(note)?) else { return Ok(()) };
    let rows = sqlx::query("SELECT * FROM webhooks WHERE account_id = $1")
        .bind(account.as_str())
        .fetch_all(&mut **tx)
        .await?;
    let listening = rows.iter().map(webhook).collect::<Result<Vec<_>, _>>()?;
    Queues::of(listening.into_iter().filter(|it| it.wants(event.kind))).tell(tx, account, &event).await
}

/// Webhooks, and how many deliveries each of them has, once that was asked.
struct Queues {
    webhooks: Vec<(Webhook, Option<u32>)>,
}

impl Queues {
    fn of(webhooks: impl Iterator<Item = Webhook>) -> Self {
        Self { webhooks: webhooks.map(|webhook| (webhook, None)).collect() }
    }

    async fn tell(
        &mut self,
        tx: &mut Transaction,
        account: &AccountId,
        event: &Event,
    ) -> Result<(), StoreError> {
        let mut events = Vec::new();
        self.add(tx, account, event, &mut events).await?;
        Ok(insert_all(tx, &events).await?)
    }

    /// Adds the deliveries of an event, each to a webhook that has room. What others queue meanwhile may be a little more.
    async fn add(
        &mut self,
        tx: &mut Transaction,
        account: &AccountId,
        event: &Event,
        events: &mut Vec<(String, Event)>,
    ) -> Result<(), StoreError> {
        let own = self.webhooks.iter_mut().filter(|(webhook, _)| webhook.account == *account);
        for (webhook, count) in own {
            let waiting = match *count {
                Some(count) => count,
                None => queued(tx, &webhook.id).await?,
            };
            if waiting < MAX_DELIVERIES {
                events.push((webhook.id.clone(), event.clone()));
            } else {
                tracing::error!(
                    webhook = %webhook.id, event = event.kind,
                    "a webhook has too much waiting, and is not told of an event"
                );
            }
            *count = Some(waiting.saturating_add(1));
        }
        Ok(())
    }
}

/// The events of sessions' ends behind a place in their order up to another, of a bounded number, and how far they go.
async fn session_ends(
    tx: &mut Transaction,
    told: i64,
    last: i64,
) -> Result<(i64, Vec<(String, Event)>), StoreError> {
    let listening = sqlx::query("SELECT * FROM webhooks").fetch_all(&mut **tx).await?;
    let listening = listening.iter().map(webhook).collect::<Result<Vec<_>, _>>()?;
    let mut queues = Queues::of(listening.into_iter().filter(|it| it.wants(SESSION_ENDED)));
    let mut events = Vec::new();
    if queues.webhooks.is_empty() {
        return Ok((last, events));
    }
    let rows = sqlx::query(
        "SELECT e.seq AS seq, s.* FROM session_ends e JOIN turn_sessions s ON s.id = e.session \
         WHERE e.seq > $1 AND e.seq <= $2 ORDER BY e.seq LIMIT $3",
    )
    .bind(told)
    .bind(last)
    .bind(i64::from(ENDS_AT_ONCE))
    .fetch_all(&mut **tx)
    .await?;
    for row in &rows {
        let session = sessions::from_row(row)?;
        queues.add(tx, &session.account, &Event::session_ended(&session)?, &mut events).await?;
    }
    let full = rows.last().filter(|_| rows.len() == ENDS_AT_ONCE as usize);
    Ok((full.map_or(Ok(last), |row| row.try_get("seq"))?, events))
}

async fn queued(tx: &mut Transaction, webhook: &str) -> Result<u32, StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM deliveries WHERE webhook = $1")
        .bind(webhook)
        .fetch_one(&mut **tx)
        .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Queues events, each for a webhook.
async fn insert_all(tx: &mut Transaction, events: &[(String, Event)]) -> Result<(), sqlx::Error> {
    let now = Timestamp::now().unix_micros();
    for (portion, is_kept) in portions(events) {
        let mut insert: QueryBuilder<Db> =
            QueryBuilder::new("INSERT INTO deliveries (webhook, event, body, created, due) ");
        insert.push_values(portion, |mut row, (webhook, event)| {
            row.push_bind(webhook).push_bind(&event.id).push_bind(&event.body);
            row.push_bind(now).push_bind(now);
        });
        insert.build().persistent(is_kept).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Whether a row was refused because what it belongs to is gone.
fn is_orphan(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation)
}

fn webhook(row: &Row) -> Result<Webhook, StoreError> {
    let events: &str = row.try_get("events")?;
    Ok(Webhook {
        id: row.try_get("id")?,
        account: accounts::id(row.try_get("account_id")?)?,
        url: row.try_get("url")?,
        events: serde_json::from_str(events).map_err(|_| StoreError::Corrupt { what: "webhook" })?,
        created: Timestamp::from_unix_micros(row.try_get("created")?),
        sealed: row.try_get("sealed")?,
    })
}

/// What is read of an event's body.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
}

fn delivery(row: &Row) -> Result<Delivery, StoreError> {
    let due: Option<i64> = row.try_get("due")?;
    let body: String = row.try_get("body")?;
    let told: Told = serde_json::from_str(&body).map_err(|_| StoreError::Corrupt { what: "delivery" })?;
    Ok(Delivery {
        seq: row.try_get("seq")?,
        webhook: row.try_get("webhook")?,
        event: row.try_get("event")?,
        kind: told.kind,
        body,
        created: Timestamp::from_unix_micros(row.try_get("created")?),
        attempts: count(row, "attempts")?,
        due: due.map(Timestamp::from_unix_micros),
        fault: row.try_get("fault")?,
    })
}
