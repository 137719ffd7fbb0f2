//! What no resource answers: unknown paths and methods.

use crate::api::ApiError;

pub(super) async fn no_route() -> ApiError {
    ApiError::NoRoute
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}
