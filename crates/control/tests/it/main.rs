//! The APIs against a real listener and a real store, and the store by itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod account_api;
mod acme;
mod audit;
mod credential_api;
mod dashboard;
mod deny_feed;
mod http;
mod hygiene;
mod key_limits;
mod key_state;
mod month_limits;
mod openapi;
mod server;
mod shared_secrets;
mod store;
mod try_page;
mod usage;
mod webhooks;
