//! The relay on real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod deadlines;
mod discovery;
mod dtls;
mod dtls_tools;
mod fixture;
mod full_speed;
mod icmp;
mod mixtures;
mod mobility;
mod proxy;
mod relay_to_relay;
mod relaying;
mod start;
mod tcp;
mod tcp_rates;
mod trains;
