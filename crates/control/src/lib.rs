//! Turnery's HTTP side.

mod feed;
mod ice;
mod keys;
mod rate;
pub mod store;
