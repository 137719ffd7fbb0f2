//! What a TURN key may use.

use credentials::TurnKeyId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit::Change;
use super::{AccountId, Backend, Store, StoreError};

/// What a TURN key and each of its allocations may use at most, each 1 or more; `None` is no limit. Relays enforce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Allocations of the key that live at once.
    pub allocations: Option<u32>,
    /// Allocations of one credential that live at once.
    pub allocations_per_credential: Option<u32>,
    /// New peer addresses of one allocation in a second.
    pub new_peers_per_second: Option<u32>,
    /// Permissions of one allocation.
    pub permissions: Option<u32>,
    /// Channels of one allocation.
    pub channels: Option<u32>,
    /// Datagrams of one allocation in a second and direction.
    pub allocation_packets_per_second: Option<u32>,
    /// Bits of application data of one allocation in a second and direction.
    pub allocation_bits_per_second: Option<u64>,
    /// Datagrams of the whole key in a second and direction.
    pub key_packets_per_second: Option<u32>,
    /// Bits of application data of the whole key in a second and direction.
    pub key_bits_per_second: Option<u64>,
}

impl KeyLimits {
    /// The fields' names, with the greatest value of each.
    pub const FIELDS: [(&'static str, u64); 9] = [
        ("allocations", u32::MAX as u64),
        ("allocations_per_credential", u32::MAX as u64),
        ("new_peers_per_second", u32::MAX as u64),
        ("permissions", u32::MAX as u64),
        ("channels", u32::MAX as u64),
        ("allocation_packets_per_second", u32::MAX as u64),
        ("allocation_bits_per_second", 1 << 53),
        ("key_packets_per_second", u32::MAX as u64),
        ("key_bits_per_second", 1 << 53),
    ];

    pub(super) fn to_column(self) -> Result<String, StoreError> {
        serde_json::to_string(&self).map_err(|error| StoreError::Database(error.into()))
    }

    pub(super) fn from_column(text: &str) -> Result<Self, StoreError> {
        serde_json::from_str(text).map_err(|_| StoreError::Corrupt { what: "key limits" })
    }
}

impl Store {
    /// A TURN key's limits. `None` where the relays' own hold; that also where there is no such key.
    pub async fn key_limits(&self, key: TurnKeyId) -> Result<Option<KeyLimits>, StoreError> {
        on_backend!(self, db => db.key_limits(key))
    }

    /// Gives a TURN key these limits, or none of its own. `false` when the account has no such key.
    pub async fn set_key_limits(
        &self,
        account: &AccountId,
        key: TurnKeyId,
        limits: Option<KeyLimits>,
    ) -> Result<bool, StoreError> {
        let note = self.note(Change::KeyLimitsSet, Some(account), &key, json!({ "limits": limits }));
        on_backend!(self, db => db.set_key_limits(account, key, limits, &note))
    }
}
