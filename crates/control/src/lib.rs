//! Turnery's HTTP side: the account and credential APIs, the store behind them, and the feed of what relays must
//! refuse and know of TURN keys.
//!
//! [`Store`](store::Store) holds what has to survive. [`Control`] serves the APIs on it; whoever runs a relay in
//! the same process subscribes to its [`Feed`]. Credentials themselves are sealed by the `credentials` crate and
//! stored nowhere.

mod acme;
mod api;
mod base64;
mod control;
mod dashboard;
mod feed;
mod health;
mod ice;
mod keys;
mod metrics;
mod network;
mod observe;
mod patience;
mod rate;
mod serve;
mod steering;
pub mod store;
mod try_page;
mod upkeep;
pub mod usage_table;
mod webhooks;

pub use acme::HttpChallenges;
pub use api::openapi;
pub use control::{Config, Control, Dev};
pub use dashboard::About;
pub use feed::{Feed, KeySettings, News};
pub use health::Check;
pub use ice::{IceTransport, IceUrlError, IceUrls};
pub use metrics::Metrics;
pub use network::{Network, NetworkError};
pub use observe::Observed;
pub use rate::Rate;
pub use serve::{ServeError, Tls};
pub use steering::Steering;
pub use webhooks::is_webhook_url;
