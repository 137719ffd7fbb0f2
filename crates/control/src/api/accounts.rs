//! `/accounts`: how set-up scripts find the account of their token.

use std::sync::Arc;

use axum::extract::{RawQuery, State};

use crate::api::ApiError;
use crate::api::auth::Caller;
use crate::api::envelope::List;
use crate::control::Shared;
use crate::store::Account;

pub(super) async fn list(
    Caller(token): Caller,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<Account>, ApiError> {
    let own = shared.store.account(&token.account).await?;
    Ok(List::new(own.into_iter().collect(), query.as_deref()))
}
