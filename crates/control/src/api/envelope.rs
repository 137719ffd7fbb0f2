//! The envelope around every answer of the account API, and around every failure of both.

use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::ApiError;

/// A successful answer. The fields' names and order are part of the interface.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names)]
pub(crate) struct Success<T> {
    result: T,
    success: bool,
    errors: [(); 0],
    messages: [(); 0],
}

impl<T: Serialize> Success<T> {
    pub(super) fn new(result: T) -> Self {
        Self { result, success: true, errors: [], messages: [] }
    }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// A successful answer that is a list, all of it on page 1.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    #[serde(flatten)]
    success: Success<Vec<T>>,
    result_info: ResultInfo,
}

#[derive(Debug, Serialize)]
struct ResultInfo {
    page: u64,
    per_page: usize,
    count: usize,
    total_count: usize,
    total_pages: u64,
}

impl<T: Serialize> List<T> {
    /// The list as the page that the query asks for. There is one page; clients that turn pages until one is
    /// empty find the second so.
    pub(super) fn new(mut items: Vec<T>, query: Option<&str>) -> Self {
        let total_count = items.len();
        let page = page(query);
        if page > 1 {
            items.clear();
        }
        let result_info =
            ResultInfo { page, per_page: total_count, count: items.len(), total_count, total_pages: 1 };
        Self { success: Success::new(items), result_info }
    }
}

impl<T: Serialize> IntoResponse for List<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// A page of a long list that is read from its newest end: as many rows as were asked for, and where to go on.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    #[serde(flatten)]
    success: Success<Vec<T>>,
    result_info: CursorInfo,
}

#[derive(Debug, Serialize)]
struct CursorInfo {
    count: usize,
    per_page: usize,
    /// What `cursor` has to be for the next page; `null` on the last one.
    cursor: Option<i64>,
}

/// Which page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskedPage {
    /// The last row that the caller has seen.
    pub(super) cursor: Option<i64>,
    per_page: u32,
}

impl Page<()> {
    const PER_PAGE: u32 = 50;
    const MAX_PER_PAGE: u32 = 1_000;

    /// From `cursor` and `per_page` of a query.
    pub(super) fn asked(query: Option<&str>) -> Result<AskedPage, ApiError> {
        let number = |name| parameter(query, name).map(|text| text.parse::<i64>()).transpose();
        let cursor = number("cursor").map_err(|_| ApiError::Paging)?;
        let per_page = number("per_page").map_err(|_| ApiError::Paging)?.unwrap_or(Self::PER_PAGE.into());
        let per_page = u32::try_from(per_page).ok().filter(|n| (1..=Self::MAX_PER_PAGE).contains(n));
        Ok(AskedPage { cursor, per_page: per_page.ok_or(ApiError::Paging)? })
    }
}

impl AskedPage {
    /// How many rows to read: one more than are shown tells whether there is a next page.
    pub(super) fn limit(self) -> u32 {
        self.per_page + 1
    }

    pub(super) fn page<T: Serialize>(self, mut rows: Vec<T>, place: impl Fn(&T) -> i64) -> Page<T> {
        let per_page = self.per_page as usize;
        let more = rows.len() > per_page;
        rows.truncate(per_page);
        let cursor = rows.last().map(place).filter(|_| more);
        Page { result_info: CursorInfo { count: rows.len(), per_page, cursor }, success: Success::new(rows) }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// The last value of a query's parameter.
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let uri: axum::http::Uri = format!("/?{}", query?).parse().ok()?;
    let Query(all) = Query::<Vec<(String, String)>>::try_from_uri(&uri).ok()?;
    all.into_iter().rev().find(|(it, _)| it == name).map(|(_, value)| value)
}

fn page(query: Option<&str>) -> u64 {
    let pages =
        query.into_iter().flat_map(|query| query.split('&')).filter_map(|it| it.strip_prefix("page="));
    pages.filter_map(|page| page.parse().ok()).next_back().unwrap_or(1)
}

#[derive(Serialize)]
struct Failure<'a> {
    result: Option<()>,
    success: bool,
    errors: [Fault<'a>; 1],
    messages: [(); 0],
}

#[derive(Serialize)]
struct Fault<'a> {
    code: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_chain: Option<[Cause<'a>; 1]>,
}

#[derive(Serialize)]
struct Cause<'a> {
    code: u32,
    message: &'a str,
}

pub(super) fn failure(status: StatusCode, code: u32, message: &str, chain: Option<(u32, &str)>) -> Response {
    let error_chain = chain.map(|(code, message)| [Cause { code, message }]);
    let errors = [Fault { code, message, error_chain }];
    (status, Json(Failure { result: None, success: false, errors, messages: [] })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asked_for_is_found() {
        let check = |query: Option<&str>, want: u64| assert_eq!(page(query), want, "{query:?}");
        check(None, 1);
        check(Some("per_page=50"), 1);
        check(Some("per_page=50&page=2"), 2);
        check(Some("page=x"), 1);
    }
}
