//! `turnery usage` and `turnery sessions`.

use anyhow::{Context, Result, bail};
use control::store::analytics::{Comparison, Condition, Dimension, MAX_GROUPS, Metric, UsageQuery};
use control::store::usage::{Session, SessionFilter, SessionOrder};
use control::store::{AccountId, Store};
use control::usage_table::{cells, csv, headings};
use credentials::TurnKeyId;
use serde_json::{Map, Value, json};

use crate::cli::{SessionChoice, SessionsCommand, UsageQuestion};
use crate::config::Place;
use crate::table::{lines, printable, table};

/// Sessions that are listed unless more are asked for.
const LISTED: u32 = 1_000;

pub(crate) async fn usage(place: &Place, question: UsageQuestion) -> Result<()> {
    let store = place.open_store().await?;
    let UsageQuestion { since, until, key, group_by, csv: as_csv, owner, output } = question;
    let account = owner.resolve(&store).await?;
    let mut conditions = Vec::new();
    for (given, comparison) in [(since, Comparison::AtLeast), (until, Comparison::Below)] {
        if let Some(at) = given {
            conditions.push(Condition::new(Dimension::Datetime, comparison, &at.to_string())?);
        }
    }
    if let Some(key) = key {
        let (dimension, values) = (Dimension::Key, vec![key.to_string()]);
        conditions.push(Condition::Values { dimension, values, is_in: true });
    }
    let mut dimensions = group_by.unwrap_or_default();
    let mut seen = Vec::new();
    dimensions.retain(|dimension| {
        let is_new = !seen.contains(dimension);
        seen.push(*dimension);
        is_new
    });
    let query = UsageQuery {
        account,
        dimensions,
        conditions,
        order: vec![],
        limit: MAX_GROUPS,
        metrics: Metric::all(),
    };
    let groups = store.usage(&query).await?;
    if as_csv {
        return output.show(&Value::Null, || csv(&query.dimensions, &groups));
    }
    let names = headings(&query.dimensions);
    let rows: Vec<Vec<String>> = groups.iter().map(cells).collect();
    let object = |group: &control::store::analytics::UsageGroup| {
        let mut object = Map::new();
        for (dimension, value) in query.dimensions.iter().zip(&group.values) {
            object.insert(dimension.name().to_owned(), json!(value));
        }
        if let Value::Object(sums) = json!(group.usage) {
            object.extend(sums);
        }
        object.insert("sessions".to_owned(), json!(group.sessions));
        Value::Object(object)
    };
    let json: Vec<Value> = groups.iter().map(object).collect();
    output.show(&json, || {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        lines(&names, &rows, "Nothing was relayed.")
    })
}

pub(crate) async fn sessions(place: &Place, command: SessionsCommand) -> Result<()> {
    let store = place.open_store().await?;
    match command {
        SessionsCommand::List { key, custom_identifier, username, owner, output } => {
            let account = owner.resolve(&store).await?;
            let filter =
                SessionFilter { account, key, custom_identifier, username, limit: LISTED, after: None };
            let sessions = store.sessions(&filter).await?;
            let rows: Vec<_> = sessions.iter().map(row).collect();
            let names = [
                "ID",
                "STARTED",
                "KEY",
                "CUSTOM IDENTIFIER",
                "TRANSPORT",
                "CLIENT",
                "RELAY",
                "EGRESS",
                "INGRESS",
            ];
            output.show(&sessions, || table(names, &rows, "There is no live session."))
        }
        SessionsCommand::End { choice, owner, output } => {
            let account = owner.resolve(&store).await?;
            let orders = orders(&store, &account, choice).await?;
            store.order_ends(&account, &orders).await?;
            output.show(&json!({ "orders": orders.len() }), || {
                "The relays are told; it takes up to a second. Who has a good credential may come back.\n"
                    .to_owned()
            })
        }
    }
}

fn row(session: &Session) -> [String; 9] {
    [
        session.id.to_string(),
        session.started.to_string(),
        session.key_id.to_string(),
        printable(&session.custom_identifier),
        session.transport.clone(),
        session.client_address.clone().unwrap_or_default(),
        session.relay_addresses.join(" "),
        session.usage.egress_bytes.to_string(),
        session.usage.ingress_bytes.to_string(),
    ]
}

async fn orders(store: &Store, account: &AccountId, choice: SessionChoice) -> Result<Vec<SessionOrder>> {
    let SessionChoice { id, key, custom_identifier, username } = choice;
    if let Some(id) = id {
        let session = store.session(account, id).await?.filter(|session| session.ended.is_none());
        let session = session.with_context(|| format!("account {account} has no live session {id}"))?;
        return Ok(vec![SessionOrder::Session(session.key_id, id)]);
    }
    let keys: Vec<TurnKeyId> = store.keys(account).await?.iter().map(|key| key.uid).collect();
    if let Some(key) = key.filter(|key| !keys.contains(key)) {
        bail!("account {account} has no TURN key {key}");
    }
    let keys = key.map_or(keys, |key| vec![key]);
    Ok(match (username, custom_identifier) {
        (Some(username), _) => {
            let found = store.credential_of_user(account, &username).await?;
            let found = found.into_iter().filter(|(of, _)| keys.contains(of));
            found.map(|(key, id)| SessionOrder::Credential(key, id)).collect()
        }
        (None, Some(custom)) => {
            keys.into_iter().map(|key| SessionOrder::CustomIdentifier(key, custom.clone())).collect()
        }
        (None, None) => keys.into_iter().map(SessionOrder::Key).collect(),
    })
}
