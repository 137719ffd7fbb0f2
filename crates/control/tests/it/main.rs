//! The APIs against a real listener and a real store, and the store by itself: all of it with each database.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod http;
mod openapi;
mod postgres;
mod sqlite;

/// The error's text with its causes, as it would be printed.
fn line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", line(source)),
        None => error.to_string(),
    }
}

/// Why this store cannot be opened, in one line.
async fn open_error(url: &str) -> String {
    let text = line(&control::store::Store::open(url).await.expect_err(url));
    assert!(!text.contains('\n'), "one line: {text}");
    text
}
