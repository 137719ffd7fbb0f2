//! The test tools, tested.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod blocking;
mod client;
mod differential;
mod fuzz;
mod independent_client;
mod network;
mod rfc_pages;
mod simulator;
mod tailing;
