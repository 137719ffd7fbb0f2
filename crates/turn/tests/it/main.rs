//! The server's rules, one by one. What depends on what came before is the simulator's, in testkit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod allocate;
mod arrival;
mod authentication;
mod between_workers;
mod discovery;
mod dual;
mod fixture;
mod icmp;
mod idle;
mod leaks;
mod messages;
mod mobility;
mod own_relay;
mod peer_filter;
mod quota;
mod redirect;
mod reflection;
mod relaying;
mod reservation;
mod sha256;
mod shared_secrets;
mod stranger;
mod tcp;
mod tcp_rates;
mod usage;

#[global_allocator]
static HEAP: testkit::sys::CountingHeap = testkit::sys::CountingHeap;
