//! `…/calls/turn_nodes`: the nodes of the deployment. They are nobody's own: every account sees the same.

use std::sync::Arc;

use axum::extract::{RawQuery, State};

use crate::api::ApiError;
use crate::api::auth::InAccount;
use crate::api::envelope::List;
use crate::control::Shared;
use crate::store::KnownNode;

/// By name, those that were heard of within the last day.
pub(super) async fn list(
    _caller: InAccount,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<List<KnownNode>, ApiError> {
    Ok(List::new(shared.store.nodes().await?, query.as_deref()))
}
