//! The server's rules, one by one. What depends on what came before is the simulator's, in testkit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod allocate;
mod authentication;
mod fixture;
mod messages;
mod reflection;
mod relaying;
