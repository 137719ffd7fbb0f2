//! Webhooks: where an account is told of events, and what has not arrived there yet.
//!
//! An event is written in the transaction of the change that it tells of, so that it is told if, and only if, the change
//! was made. It is tried until the receiver says that it has it, for a day, and then kept as dead until somebody has it
//! delivered again.

use credentials::Keyring;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::audit::{Change, Note};
use super::usage::Session;
use super::{AccountId, Backend, Store, StoreError, Timestamp, secret};

/// Most webhooks of an account.
pub const MAX_WEBHOOKS: u32 = 20;
/// Most deliveries of a webhook that wait, or are dead; what comes when there are as many is lost, and logged.
pub const MAX_DELIVERIES: u32 = 10_000;
/// For how long a delivery is tried, in seconds: a day.
pub const DELIVERY_LIFETIME_SECS: u64 = 86_400;
/// How long dead deliveries are kept, in seconds: a week.
pub const DEAD_LIFETIME_SECS: u64 = 604_800;

/// What there is to be told of.
pub const EVENTS: [&str; 11] = [
    "turn_key.created",
    "turn_key.deleted",
    "turn_key.rolled",
    "turn_key.suspended",
    "turn_key.resumed",
    "turn_key.limit_neared",
    "turn_key.limit_reached",
    "turn_key.limit_lifted",
    "credential.revoked",
    SESSION_ENDED,
    "webhook.test",
];
pub(super) const SESSION_ENDED: &str = "session.ended";
/// How many ends of sessions are told in one transaction.
pub(super) const ENDS_AT_ONCE: u32 = 500;

/// Where an account is told of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Webhook {
    /// Its id, 32 hex digits.
    pub id: String,
    /// The account it belongs to.
    #[serde(skip)]
    pub account: AccountId,
    /// Where to.
    pub url: String,
    /// Of which events; none named are all.
    pub events: Vec<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Its secret, sealed.
    #[serde(skip)]
    pub(crate) sealed: Vec<u8>,
}

/// A webhook that was just made.
#[derive(Clone, Serialize)]
pub struct NewWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// What its deliveries are signed with, as `whsec_` and base64. This is the only time it is to be seen.
    pub secret: String,
}

/// What has not arrived yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// Its place in the order of events.
    pub seq: i64,
    /// The webhook it is for.
    pub webhook: String,
    /// The event's id: `webhook-id`.
    pub event: String,
    /// What it tells, such as `turn_key.created`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is delivered.
    #[serde(skip)]
    pub body: String,
    /// When it was.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next; `null` when it was given up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due: Option<Timestamp>,
    /// What became of the last attempt.
    pub fault: String,
}

/// An event to be written with its change.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) kind: &'static str,
    pub(super) id: String,
    pub(super) body: String,
}

impl Event {
    /// What a change tells; `None` where nobody is told.
    pub(super) fn of(note: &Note) -> Result<Option<Self>, StoreError> {
        let kind = match note.change {
            Change::KeyCreated => "turn_key.created",
            Change::KeyDeleted => "turn_key.deleted",
            Change::KeyRolled => "turn_key.rolled",
            Change::KeySuspended => "turn_key.suspended",
            Change::KeyResumed => "turn_key.resumed",
            Change::MonthLimitNeared | Change::MonthLimitReached | Change::MonthLimitLifted => {
                note.change.name()
            }
            Change::CredentialRevoked | Change::CredentialsRevoked => "credential.revoked",
            Change::WebhookTested => "webhook.test",
            _ => return Ok(None),
        };
        let body = json!({
            "type": kind,
            "timestamp": note.at,
            "data": { "account_id": note.account, "target": note.target, "details": note.details },
        });
        Ok(Some(Self { kind, id: event_id()?, body: body.to_string() }))
    }

    /// That a session has ended.
    pub(super) fn session_ended(session: &Session) -> Result<Self, StoreError> {
        let body = json!({
            "type": SESSION_ENDED,
            "timestamp": session.ended,
            "data": { "account_id": session.account, "target": session.key_id.to_string(), "details": session },
        });
        Ok(Self { kind: SESSION_ENDED, id: event_id()?, body: body.to_string() })
    }
}

fn event_id() -> Result<String, StoreError> {
    Ok(format!("msg_{}", hex::encode(secret::random_bytes::<16>()?)))
}

impl Webhook {
    /// Whether it is to be told of events of this kind.
    pub(super) fn wants(&self, kind: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|it| it == kind)
    }
}

/// What a webhook's secret is sealed for.
fn context(id: &str) -> Vec<u8> {
    format!("webhook {id}").into_bytes()
}

impl Webhook {
    /// The bytes that its deliveries are signed with; `None` where the keyring cannot open them.
    pub(crate) fn open(&self, keyring: &Keyring) -> Option<Zeroizing<Vec<u8>>> {
        keyring.open_text(&context(&self.id), &self.sealed).ok()
    }
}

impl Store {
    /// Makes a webhook, whose secret is kept sealed.
    ///
    /// # Errors
    /// Beside the database's: when the account has [`MAX_WEBHOOKS`].
    pub async fn create_webhook(
        &self,
        keyring: &Keyring,
        account: &AccountId,
        url: &str,
        events: &[String],
    ) -> Result<NewWebhook, StoreError> {
        let bytes = Zeroizing::new(secret::random_bytes::<32>()?);
        let id = hex::encode(secret::random_bytes::<16>()?);
        let sealed = keyring.seal_text(&context(&id), bytes.as_slice()).map_err(|_| StoreError::Seal)?;
        let (url, events) = (url.to_owned(), events.to_vec());
        let webhook =
            Webhook { id, account: account.clone(), url, events, created: Timestamp::now(), sealed };
        let details = json!({ "url": webhook.url, "events": webhook.events });
        let note = self.note(Change::WebhookCreated, Some(account), &webhook.id, details);
        on_backend!(self, db => db.insert_webhook(&webhook, &note))?;
        Ok(NewWebhook { webhook, secret: format!("whsec_{}", crate::base64::encode(bytes.as_slice())) })
    }

    /// Seals with the keyring's current key what an older one has sealed, for that one will retire.
    pub(super) async fn reseal_webhooks(&self, keyring: &Keyring) -> Result<(), StoreError> {
        let again = |webhook: &Webhook| {
            let secret = webhook.open(keyring).filter(|_| !keyring.sealed_text_currently(&webhook.sealed))?;
            keyring.seal_text(&context(&webhook.id), &secret).ok()
        };
        on_backend!(self, db => db.reseal_webhooks(again))
    }

    /// An account's webhooks, oldest first.
    pub async fn webhooks(&self, account: &AccountId) -> Result<Vec<Webhook>, StoreError> {
        on_backend!(self, db => db.webhooks(account))
    }

    /// Deletes a webhook and what has not arrived there. `None` when the account has no such webhook.
    pub async fn delete_webhook(&self, account: &AccountId, id: &str) -> Result<Option<Webhook>, StoreError> {
        let note = self.note(Change::WebhookDeleted, Some(account), &id, json!({}));
        on_backend!(self, db => db.delete_webhook(account, id, &note))
    }

    /// Tells a webhook an event that says nothing else. `false` when the account has no such webhook.
    pub async fn test_webhook(&self, account: &AccountId, id: &str) -> Result<bool, StoreError> {
        let note = self.note(Change::WebhookTested, Some(account), &id, json!({}));
        on_backend!(self, db => db.test_webhook(account, id, &note))
    }

    /// The first `limit` deliveries of a webhook after `seq`: those that wait, and those that were given up, or (`dead`)
    /// these alone.
    pub async fn deliveries(
        &self,
        id: &str,
        dead: bool,
        seq: i64,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        on_backend!(self, db => db.deliveries(id, dead, seq, limit))
    }

    /// Has what was given up, all or one event, tried again, from now on for another day; says how many.
    pub async fn redeliver(
        &self,
        account: &AccountId,
        id: &str,
        event: Option<&str>,
    ) -> Result<u64, StoreError> {
        let note = self.note(Change::WebhookRedelivered, Some(account), &id, json!({ "event": event }));
        on_backend!(self, db => db.redeliver(account, id, event, &note))
    }

    /// The webhooks for which a delivery is due.
    pub(crate) async fn webhooks_due(&self) -> Result<Vec<Webhook>, StoreError> {
        on_backend!(self, db => db.webhooks_due(Timestamp::now()))
    }

    /// When the next delivery is due, if any waits.
    pub(crate) async fn next_delivery(&self) -> Result<Option<Timestamp>, StoreError> {
        on_backend!(self, db => db.next_delivery())
    }

    /// Up to `limit` deliveries of a webhook that are due, the longest waiting first. Nobody else is given them before
    /// `until`.
    pub(crate) async fn claim_deliveries(
        &self,
        id: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        on_backend!(self, db => db.claim_deliveries(id, Timestamp::now(), until, limit))
    }

    /// Tells webhooks of sessions that have ended since the last call, of a bounded number; `false` when there are more.
    pub(crate) async fn tell_session_ends(&self) -> Result<bool, StoreError> {
        on_backend_for_long!(self, db => db.tell_session_ends())
    }

    /// It has arrived.
    pub(crate) async fn delivered(&self, seq: i64) -> Result<(), StoreError> {
        on_backend!(self, db => db.delivered(seq))
    }

    /// It has not, and is tried again then, or never.
    pub(crate) async fn not_delivered(
        &self,
        seq: i64,
        due: Option<Timestamp>,
        fault: &str,
    ) -> Result<(), StoreError> {
        on_backend!(self, db => db.not_delivered(seq, due, fault))
    }

    /// Forgets deliveries that were given up, of events before a moment; says how many.
    pub(crate) async fn purge_deliveries(&self, before: Timestamp) -> Result<u64, StoreError> {
        on_backend_for_long!(self, db => db.purge_deliveries(before))
    }
}
