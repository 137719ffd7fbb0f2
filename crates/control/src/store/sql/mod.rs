//! The statements of the store.
//!
//! They are the same for every database, and compiled once for each: the module above says what [`Database`], its
//! rows and its transactions are, and what a transaction that is begun holds. So they keep to what all of them
//! understand: numbered placeholders, `ON CONFLICT`, `RETURNING`, whole numbers of 64 bits, and no statement that counts on
//! others standing still unless [`Database::begin`] has seen to that.

mod accounts;
mod acme;
mod analytics;
mod answers;
mod audit;
mod denials;
mod groups;
mod key_state;
mod keyring;
mod keys;
mod month_limits;
mod nodes;
mod record;
mod sessions;
mod shared_secrets;
mod sign_ins;
mod sums;
mod tokens;
mod usage;
mod webhooks;

use std::borrow::Cow;

use sqlx::Row as _;

use super::{
    Database, Db, KEPT_SIZES, MOST_ROWS, Row, Transaction, beginnings, hold_ends, make_room, sum_of, take_out,
};
use crate::store::StoreError;

/// Rows that one statement forgets, of what is forgotten by and by.
const ROWS_AT_ONCE: i64 = 10_000;

/// Cuts rows into portions for a statement each, and says of each whether the statement is worth keeping.
fn portions<T>(rows: &[T]) -> impl Iterator<Item = (&[T], bool)> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let kept = KEPT_SIZES.into_iter().find(|size| *size <= rest.len());
        let (portion, behind) = rest.split_at(kept.unwrap_or(rest.len().min(MOST_ROWS)));
        rest = behind;
        (!portion.is_empty()).then_some((portion, kept.is_some()))
    })
}

/// Whether a statement was refused because a row with the same unique columns exists.
fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// The bytes of a column that has a fixed length.
fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt { what })
}

/// A column that counts something small.
fn count(row: &Row, column: &str) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Corrupt { what: "count" })
}

/// Adds what is about to be written to a row's column, up to as much as can be kept: what one node says, or has written itself,
/// must not keep others from adding to it.
fn raised(table: &str, column: &str) -> String {
    let most = i64::MAX;
    format!(
        "{column} = CASE WHEN {table}.{column} > {most} - excluded.{column} THEN {most} \
         ELSE {table}.{column} + excluded.{column} END"
    )
}

/// Text from outside as every database keeps it: not all do so with a NUL in it.
fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}
