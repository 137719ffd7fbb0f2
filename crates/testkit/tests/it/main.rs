//! The test tools, tested.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod blocking;
mod client;
mod fuzz;
mod network;
mod simulator;
