//! The real binary, started as an operator would, well and badly, killed, and met by real clients.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod acme;
mod bad_starts;
mod bench_relay;
mod certificates;
mod cli;
mod conformance;
mod coturn;
mod dtls;
mod durability;
mod fixture;
mod fleet;
mod keyring_in_store;
mod metrics;
mod month_limits;
mod revocation;
mod serve;
mod spoof;
mod tidy;
mod tls;
mod usage;
