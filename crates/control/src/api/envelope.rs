//! The envelope around every answer of the account API, and around every failure of both.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A successful answer. The fields' names and order are part of the interface.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names)]
pub(super) struct Success<T> {
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
