//! `turnery key limits`.

use anyhow::{Context, Result, ensure};
use control::store::{KeyLimits, Store};
use credentials::TurnKeyId;
use serde_json::{Map, Value, json};

use crate::cli::{LimitsChange, Output, Owner};
use crate::table::table;

pub(super) async fn limits(
    store: &Store,
    uid: TurnKeyId,
    change: &LimitsChange,
    (owner, output): (Owner, Output),
) -> Result<()> {
    let account = owner.resolve(store).await?;
    let key = store.key(&account, uid).await?;
    key.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    let held = store.key_limits(uid).await?;
    let named = named(change);
    ensure!(!change.clear || named.is_empty(), "--clear takes all limits away: give it by itself");
    let limits = if named.is_empty() { held.filter(|_| !change.clear) } else { Some(changed(held, &named)?) };
    if change.clear || !named.is_empty() {
        let is_set = store.set_key_limits(&account, uid, limits).await?;
        ensure!(is_set, "account {account} has no TURN key {uid}");
    }
    output.show(&limits, || shown(limits))
}

/// The limits that are named, by their field's name.
fn named(change: &LimitsChange) -> Vec<(&'static str, Option<u64>)> {
    let given = [
        change.max_allocations,
        change.max_allocations_per_credential,
        change.max_new_peers_per_second,
        change.max_permissions,
        change.max_channels,
        change.max_packets_per_second,
        change.max_bits_per_second,
        change.max_key_packets_per_second,
        change.max_key_bits_per_second,
    ];
    let fields = KeyLimits::FIELDS.into_iter().zip(given);
    fields.filter_map(|((field, _), given)| given.map(|limit| (field, limit.0))).collect()
}

fn changed(held: Option<KeyLimits>, named: &[(&'static str, Option<u64>)]) -> Result<KeyLimits> {
    let mut fields = fields(held.unwrap_or_default());
    for (field, limit) in named {
        let most = KeyLimits::FIELDS.iter().find(|(name, _)| name == field).map_or(0, |(_, max)| *max);
        ensure!(limit.is_none_or(|limit| limit <= most), "{field} is at most {most}");
        fields.insert((*field).to_owned(), json!(limit));
    }
    Ok(serde_json::from_value(Value::Object(fields))?)
}

fn fields(limits: KeyLimits) -> Map<String, Value> {
    match json!(limits) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn shown(limits: Option<KeyLimits>) -> String {
    let Some(limits) = limits else {
        return "The TURN key has no limits of its own.\n".to_owned();
    };
    let fields = fields(limits);
    let row = |(field, _): (&'static str, u64)| {
        let limit = fields.get(field).filter(|limit| !limit.is_null());
        [field.to_owned(), limit.map_or_else(|| "none".to_owned(), Value::to_string)]
    };
    table(["LIMIT", "VALUE"], &KeyLimits::FIELDS.map(row), "")
}
