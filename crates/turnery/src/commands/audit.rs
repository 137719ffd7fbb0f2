//! `turnery audit`.

use anyhow::Result;
use control::store::{AuditEntry, AuditQuery, Store};

use crate::cli::AuditCommand;
use crate::table::{printable, table};

pub(super) async fn audit(store: &Store, command: AuditCommand) -> Result<()> {
    let AuditCommand { action, target, since, limit, account, output } = command;
    let query = AuditQuery { account, action, target, before: None, since };
    let entries = store.audit(&query, limit).await?;
    let rows: Vec<_> = entries.iter().map(row).collect();
    let headings = ["TIME", "ACTOR", "ADDRESS", "ACTION", "TARGET", "RESULT", "DETAILS"];
    output.show(&entries, || table(headings, &rows, "Nothing was changed."))
}

fn row(entry: &AuditEntry) -> [String; 7] {
    let actor = &entry.actor;
    let who = [actor.kind.name(), &actor.id, &actor.name];
    let who: Vec<&str> = who.into_iter().filter(|it| !it.is_empty()).collect();
    [
        entry.at.to_string(),
        printable(&who.join(" ")),
        actor.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        entry.action.clone(),
        entry.target.clone(),
        entry.result.clone(),
        printable(&entry.details.to_string()),
    ]
}
