//! Which groups a series is in: what it is called at each grain.

use std::collections::BTreeMap;

use sqlx::{QueryBuilder, Row as _};

use super::{Db, Row, Transaction};
use crate::store::StoreError;
use crate::store::analytics::Dimension;
use crate::store::spans::Grain;

/// Series whose groups are looked for at once: each group binds 13 values, and SQLite takes 32,766.
const SERIES_AT_ONCE: usize = 1_000;

const LOST_GROUP: StoreError = StoreError::Corrupt { what: "usage group" };

/// All texts that series are told apart by.
const TEXTS: [(&str, Dimension); 10] = [
    ("username", Dimension::Username),
    ("custom_identifier", Dimension::CustomIdentifier),
    ("transport", Dimension::Transport),
    ("client_family", Dimension::ClientFamily),
    ("relay_family", Dimension::RelayFamily),
    ("node", Dimension::Node),
    ("city", Dimension::City),
    ("code", Dimension::Code),
    ("country", Dimension::Country),
    ("region", Dimension::Region),
];

/// A group's account, key and texts: empty where its grain does not tell them apart, and so the same for all.
type Name = (String, Vec<u8>, [String; 10]);

/// Puts series into groups, making those that are not there. `day` is one on which they had usage, which is noted.
pub(super) async fn group(tx: &mut Transaction, series: &[i64], day: i64) -> Result<(), StoreError> {
    for some in series.chunks(SERIES_AT_ONCE) {
        let mut query: QueryBuilder<Db> = QueryBuilder::new(select("id, "));
        query.push(" FROM usage_series WHERE id IN (");
        let mut ids = query.separated(", ");
        for id in some {
            ids.push_bind(*id);
        }
        query.push(")");
        let mut names = Vec::new();
        for row in &query.build().persistent(false).fetch_all(&mut **tx).await? {
            names.push((row.try_get::<i64, _>("id")?, name(row)?));
        }
        if names.is_empty() {
            continue;
        }
        let mut groups = Vec::new();
        for grain in Grain::GROUPS {
            groups.push(groups_of(tx, grain, &names, day).await?);
        }
        let mut insert: QueryBuilder<Db> =
            QueryBuilder::new("INSERT INTO usage_grouped (series, grain_1, grain_2, grain_3, grain_4) ");
        insert.push_values(names.iter().enumerate(), |mut row, (place, (id, _))| {
            row.push_bind(*id);
            for of_grain in &groups {
                row.push_bind(of_grain.get(place).copied());
            }
        });
        insert.push(
            " ON CONFLICT (series) DO UPDATE SET grain_1 = excluded.grain_1, grain_2 = excluded.grain_2, \
             grain_3 = excluded.grain_3, grain_4 = excluded.grain_4",
        );
        insert.build().persistent(false).execute(&mut **tx).await?;
    }
    Ok(())
}

/// The groups of one grain that these are in, in their order.
async fn groups_of(
    tx: &mut Transaction,
    grain: Grain,
    series: &[(i64, Name)],
    day: i64,
) -> Result<Vec<i64>, StoreError> {
    let names: Vec<Name> = series.iter().map(|(_, name)| at_grain(grain, name)).collect();
    let mut numbers: BTreeMap<&Name, i64> = names.iter().map(|name| (name, 0)).collect();
    let texts = TEXTS.map(|(text, _)| text).join(", ");
    let mut insert: QueryBuilder<Db> = QueryBuilder::new(format!(
        "INSERT INTO usage_groups (grain, last_day, account_id, turn_key, {texts}) "
    ));
    insert.push_values(numbers.keys(), |mut row, (account, key, texts)| {
        row.push_bind(grain.column()).push_bind(day).push_bind(account).push_bind(key);
        for text in texts {
            row.push_bind(text);
        }
    });
    insert.push(format!(
        " ON CONFLICT (account_id, grain, turn_key, {texts}) DO UPDATE SET last_day = CASE \
         WHEN excluded.last_day > usage_groups.last_day THEN excluded.last_day ELSE usage_groups.last_day END \
         RETURNING id, account_id, turn_key, {texts}"
    ));
    for row in &insert.build().persistent(false).fetch_all(&mut **tx).await? {
        *numbers.get_mut(&name(row)?).ok_or(LOST_GROUP)? = row.try_get("id")?;
    }
    Ok(names.iter().filter_map(|name| numbers.get(name).copied()).collect())
}

fn select(first: &str) -> String {
    format!("SELECT {first}account_id, turn_key, {}", TEXTS.map(|(text, _)| text).join(", "))
}

fn name(row: &Row) -> Result<Name, StoreError> {
    let mut texts = <[String; 10]>::default();
    for (text, (column, _)) in texts.iter_mut().zip(TEXTS) {
        *text = row.try_get(column)?;
    }
    Ok((row.try_get("account_id")?, row.try_get("turn_key")?, texts))
}

/// What is left of a name at a grain.
fn at_grain(grain: Grain, (account, key, texts): &Name) -> Name {
    let mut left = texts.clone();
    for (text, (_, dimension)) in left.iter_mut().zip(TEXTS) {
        if !grain.has(dimension) {
            text.clear();
        }
    }
    let key = if grain.has(Dimension::Key) { key.clone() } else { Vec::new() };
    (account.clone(), key, left)
}
