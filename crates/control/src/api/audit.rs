//! `/accounts/{account_id}/audit`: who changed what.

use std::sync::Arc;

use axum::extract::{RawQuery, State};

use crate::api::ApiError;
use crate::api::auth::InAccount;
use crate::api::envelope::{Page, parameter};
use crate::control::Shared;
use crate::store::{AuditEntry, AuditQuery, Permission};

/// The newest first; `action`, `target` and `since` narrow it down.
pub(super) async fn list(
    InAccount { caller, account, .. }: InAccount,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Page<AuditEntry>, ApiError> {
    let query = query.as_deref();
    let asked = Page::asked(query)?;
    let text = |name| parameter(query, name).filter(|value| !value.is_empty());
    let since = text("since").map(|since| since.parse().map_err(|_| ApiError::Since)).transpose()?;
    let rows = AuditQuery {
        account: Some(account),
        action: text("action"),
        target: text("target"),
        before: asked.cursor,
        since,
    };
    let mut found = shared.store.audit(&rows, asked.limit()).await?;
    // Personal data, as a client's is among the sessions.
    if caller.0.permission < Permission::Write {
        for row in &mut found {
            row.actor.address = None;
        }
    }
    Ok(asked.page(found, |row| row.seq))
}
