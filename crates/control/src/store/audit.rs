//! The audit log: who changed what, when, and from where. A row is written in the transaction of its change.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{AccountId, Backend, Store, StoreError, Timestamp};

/// Most rows of the audit log that one account has; beyond that its oldest go, however short they were kept.
pub const MAX_AUDIT_ROWS: u32 = 1_000_000;

/// Who changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// An API token.
    Token,
    /// Whoever holds a TURN key's secret.
    TurnKey,
    /// The command line.
    Cli,
    /// Somebody at the dashboard.
    Dashboard,
    /// The service itself.
    Service,
}

impl ActorKind {
    const ALL: [Self; 5] = [Self::Token, Self::TurnKey, Self::Cli, Self::Dashboard, Self::Service];

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::TurnKey => "turn_key",
            Self::Cli => "cli",
            Self::Dashboard => "dashboard",
            Self::Service => "service",
        }
    }

    pub(super) fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

/// Who changes something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// What it is.
    pub kind: ActorKind,
    /// Its id: an API token's or a TURN key's, or empty.
    pub id: String,
    /// Its name for people: an API token's, or the user of the operating system, or empty.
    pub name: String,
    /// The address that the request came from.
    pub address: Option<IpAddr>,
    /// The request's id.
    pub request_id: Option<String>,
}

impl Actor {
    /// The service itself.
    pub fn service() -> Self {
        Self::new(ActorKind::Service, "", "")
    }

    /// Somebody, from nowhere in particular.
    pub fn new(kind: ActorKind, id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, id: id.into(), name: name.into(), address: None, request_id: None }
    }
}

/// A change that the log knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    AccountCreated,
    AccountDeleted,
    TokenCreated,
    TokenDeleted,
    KeyCreated,
    KeyRenamed,
    KeyDeleted,
    KeyRolled,
    KeySuspended,
    KeyResumed,
    KeyLimitsSet,
    MonthLimitSet,
    MonthLimitNeared,
    MonthLimitReached,
    MonthLimitLifted,
    SharedSecretAdded,
    SharedSecretRemoved,
    CredentialRevoked,
    CredentialsRevoked,
    SessionEnded,
    SessionsEnded,
    WebhookCreated,
    WebhookDeleted,
    WebhookTested,
    WebhookRedelivered,
    KeyringMade,
    KeyringPrepared,
    KeyringRotated,
    KeyringResealed,
}

impl Change {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AccountCreated => "account.create",
            Self::AccountDeleted => "account.delete",
            Self::TokenCreated => "token.create",
            Self::TokenDeleted => "token.delete",
            Self::KeyCreated => "turn_key.create",
            Self::KeyRenamed => "turn_key.rename",
            Self::KeyDeleted => "turn_key.delete",
            Self::KeyRolled => "turn_key.roll",
            Self::KeySuspended => "turn_key.suspend",
            Self::KeyResumed => "turn_key.resume",
            Self::KeyLimitsSet => "turn_key.limits",
            Self::MonthLimitSet => "turn_key.month_limit",
            Self::MonthLimitNeared => "turn_key.limit_neared",
            Self::MonthLimitReached => "turn_key.limit_reached",
            Self::MonthLimitLifted => "turn_key.limit_lifted",
            Self::SharedSecretAdded => "shared_secret.create",
            Self::SharedSecretRemoved => "shared_secret.delete",
            Self::CredentialRevoked => "credential.revoke",
            Self::CredentialsRevoked => "credential.revoke_many",
            Self::SessionEnded => "session.end",
            Self::SessionsEnded => "session.end_many",
            Self::WebhookCreated => "webhook.create",
            Self::WebhookDeleted => "webhook.delete",
            Self::WebhookTested => "webhook.test",
            Self::WebhookRedelivered => "webhook.redeliver",
            Self::KeyringMade => "keyring.create",
            Self::KeyringPrepared => "keyring.prepare",
            Self::KeyringRotated => "keyring.rotate",
            Self::KeyringResealed => "keyring.reseal",
        }
    }
}

/// A row to be written with its change.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) at: Timestamp,
    pub(super) account: Option<AccountId>,
    pub(super) actor: Arc<Actor>,
    pub(super) change: Change,
    pub(super) target: String,
    pub(super) details: Value,
}

/// One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its place in the order of changes.
    pub seq: i64,
    /// When it was.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The account it is about; none for what is about no account.
    #[serde(rename = "account_id")]
    #[schema(value_type = Option<String>)]
    pub account: Option<AccountId>,
    /// Who it was.
    #[serde(serialize_with = "actor")]
    #[schema(value_type = Object)]
    pub actor: Actor,
    /// What was done, such as `turn_key.create`.
    pub action: String,
    /// To what: an id.
    pub target: String,
    /// What came of it; `ok` for all that was changed.
    pub result: String,
    /// What else there is to say, by the action. Never a secret.
    #[schema(value_type = Object)]
    pub details: Value,
}

fn actor<S: Serializer>(actor: &Actor, serializer: S) -> Result<S::Ok, S::Error> {
    let mut fields = Map::new();
    fields.insert("kind".to_owned(), actor.kind.name().into());
    fields.insert("id".to_owned(), actor.id.as_str().into());
    fields.insert("name".to_owned(), actor.name.as_str().into());
    fields.insert("address".to_owned(), actor.address.map(|it| it.to_string()).into());
    fields.insert("request_id".to_owned(), actor.request_id.clone().into());
    fields.serialize(serializer)
}

/// Which rows of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// About this account only.
    pub account: Option<AccountId>,
    /// With this action, or the actions of this kind: `turn_key.create`, or `turn_key`.
    pub action: Option<String>,
    /// To this target.
    pub target: Option<String>,
    /// Older than this row.
    pub before: Option<i64>,
    /// At or after this moment.
    pub since: Option<Timestamp>,
}

impl Store {
    /// The same store, for changes that this one makes.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self { actor: Arc::new(actor), ..self.clone() }
    }

    pub(super) fn note(
        &self,
        change: Change,
        account: Option<&AccountId>,
        target: &dyn Display,
        details: Value,
    ) -> Note {
        Note {
            at: Timestamp::now(),
            account: account.cloned(),
            actor: Arc::clone(&self.actor),
            change,
            target: target.to_string(),
            details,
        }
    }

    /// The newest `limit` rows that the query asks for, newest first.
    pub async fn audit(&self, query: &AuditQuery, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        on_backend!(self, db => db.audit(query, limit))
    }

    /// Forgets the audit log's rows from before a moment, and each account's oldest beyond [`MAX_AUDIT_ROWS`]; says how many.
    pub async fn purge_audit(&self, before: Timestamp) -> Result<u64, StoreError> {
        on_backend_for_long!(self, db => db.purge_audit(before))
    }
}
