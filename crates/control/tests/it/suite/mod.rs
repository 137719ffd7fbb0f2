//! What holds whatever database is behind the store.

mod account_api;
mod acme;
mod audit;
mod credential_api;
mod dashboard;
mod deny_feed;
mod hygiene;
mod key_limits;
mod key_state;
mod keyring;
mod month_limits;
pub(crate) mod much_usage;
mod nodes;
pub(crate) mod server;
mod shared_secrets;
mod store;
mod try_page;
pub(crate) mod usage;
mod webhooks;

use super::Place;
