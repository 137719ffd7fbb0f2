//! What Turnery is tested with, never shipped: a TURN client without I/O and a blocking one over real sockets, a
//! virtual network, a reference model of the server, and a simulator that holds the server against the model.
//!
//! Everything that involves chance is drawn from a seed, so that a run that fails fails again.

pub mod client;
pub mod dice;
pub mod fuzz;
pub mod message;
pub mod model;
pub mod network;
pub mod pinned;
pub mod postgres;
pub mod rfc_pages;
pub mod simulator;
pub mod sys;
pub mod tailing;
pub mod tls;
