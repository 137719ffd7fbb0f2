//! The APIs against a real listener and a real store, and the store by itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod account_api;
mod credential_api;
mod deny_feed;
mod http;
mod key_limits;
mod server;
mod shared_secrets;
mod store;
mod try_page;
mod usage;
