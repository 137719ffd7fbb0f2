//! `tokens/verify`: how scripts test their token.

use serde::Serialize;

use crate::api::auth::{Caller, InAccount};
use crate::api::envelope::Success;
use crate::store::{TokenId, TokenStatus};

#[derive(Debug, Serialize)]
pub(super) struct Verified {
    id: TokenId,
    status: TokenStatus,
}

pub(super) async fn verify(Caller(token): Caller) -> Success<Verified> {
    Success::new(Verified { id: token.id, status: token.status })
}

pub(super) async fn verify_in_account(InAccount { caller, .. }: InAccount) -> Success<Verified> {
    verify(caller).await
}
