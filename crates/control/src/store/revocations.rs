//! Revocations: denials of credentials, and what is shown of them.

use credentials::{CredentialId, CustomIdentifier, Denial, IdentifierId, MAX_TTL_SECS, TurnKeyId};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::audit::Change;
use super::{AccountId, Backend, Store, StoreError, Timestamp};

/// Most revocations by customIdentifier of one TURN key that are in force at once.
pub const MAX_IDENTIFIER_RULES_OF_KEY: u32 = 10_000;

/// Which of a TURN key's credentials to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// This one.
    Credential {
        /// Which.
        id: CredentialId,
        /// Its own expiry, unix seconds.
        until: u64,
        /// For whom it was minted, as far as that is known.
        identifier: CustomIdentifier,
    },
    /// All that were issued before a moment.
    IssuedBefore(u64),
    /// All that were issued until now for one customIdentifier.
    Identifier(CustomIdentifier),
}

/// A revocation that is in force, or was lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Revoked {
    /// Its place in the order of revocations.
    pub seq: i64,
    /// `credential`, `issued_before`, `custom_identifier` or `key`.
    pub kind: &'static str,
    /// The credential's id, of one credential.
    pub credential_id: Option<String>,
    /// For whom the credentials were minted, where that is known.
    #[serde(rename = "customIdentifier")]
    pub identifier: Option<String>,
    /// What was issued before this moment is revoked.
    #[serde(rename = "issuedBefore")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_before: Option<Timestamp>,
    /// When it was revoked.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When the last of what it revokes has expired, and it is forgotten.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

/// A denial as it is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewDenial<'a> {
    pub(super) denial: Denial,
    pub(super) key: Option<TurnKeyId>,
    pub(super) identifier: &'a str,
}

impl Store {
    /// Denies a credential until `until` (its expiry, unix seconds). Denying it again changes nothing, and one
    /// that has expired needs no denial.
    pub async fn revoke(&self, id: CredentialId, until: u64) -> Result<(), StoreError> {
        if until <= self.now().unix_secs() {
            return Ok(());
        }
        let denial = NewDenial { denial: Denial::Credential { id, until }, key: None, identifier: "" };
        let note = self.note(Change::CredentialRevoked, None, &id, json!({}));
        on_backend!(self, db => db.insert_denial(denial, &note))
    }

    /// Revokes credentials of a TURN key. One that is revoked or expired stays so; what is issued from now on is good.
    ///
    /// # Errors
    /// Beside the database's: when the key has [`MAX_IDENTIFIER_RULES_OF_KEY`].
    pub async fn revoke_of(
        &self,
        account: &AccountId,
        key: TurnKeyId,
        revocation: &Revocation,
    ) -> Result<(), StoreError> {
        let now = self.now().unix_secs();
        let rule_until = |before: u64| before.saturating_add(MAX_TTL_SECS.into());
        // Whatever has a time of issue up to now. What is minted next is issued a second later.
        let until_now = now + 1;
        let (denial, identifier, details) = match revocation {
            Revocation::Credential { id, until, identifier } => {
                let details =
                    json!({ "credential_id": id.to_string(), "customIdentifier": identifier.as_str() });
                (Denial::Credential { id: *id, until: *until }, identifier.as_str(), details)
            }
            Revocation::IssuedBefore(moment) => {
                // Nothing was issued later than now.
                let before = until_now.min(*moment);
                let details = json!({ "issuedBefore": Timestamp::from_unix_secs(before) });
                (Denial::Issued { key, before, until: rule_until(before) }, "", details)
            }
            Revocation::Identifier(identifier) => {
                let details = json!({ "customIdentifier": identifier.as_str() });
                let identifier_id = IdentifierId::of(key, identifier);
                let until = rule_until(until_now);
                let denial = Denial::Identifier { key, identifier: identifier_id, before: until_now, until };
                (denial, identifier.as_str(), details)
            }
        };
        if denial.until() <= now {
            return Ok(());
        }
        let change = match revocation {
            Revocation::Credential { .. } => Change::CredentialRevoked,
            _ => Change::CredentialsRevoked,
        };
        let note = self.note(change, Some(account), &key, details);
        let denial = NewDenial { denial, key: Some(key), identifier };
        on_backend!(self, db => db.insert_denial(denial, &note))
    }

    /// The newest `limit` revocations of a TURN key that are kept, newest first, older than `before`.
    pub async fn revocations(
        &self,
        key: TurnKeyId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Revoked>, StoreError> {
        on_backend!(self, db => db.revocations(key, before, limit))
    }
}
