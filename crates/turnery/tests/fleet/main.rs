//! A fleet in network namespaces: nodes with addresses of their own that share one PostgreSQL, and what may happen to it.
//!
//! It needs root (for the namespaces), iproute2, PostgreSQL's server and libfaketime. It takes all of the machine: so this
//! is a process of its own, and one test of it runs at a time.
//!
//! What is measured for docs/scaling.md is longer: `TURNERY_FLEET_TRIALS=1000`, `TURNERY_FLEET_CUT_SECS=60` and
//! `TURNERY_FLEET_TAILERS=200` say so.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod faults;
#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../it/fixture.rs"]
mod fixture;
mod flows;
mod network;
mod nodes;
mod rolling;
mod sealed_keyring;
mod silence;
mod steady;
mod tailers;

use std::sync::{Mutex, MutexGuard, PoisonError};

static MACHINE: Mutex<()> = Mutex::new(());

/// Keeps the other tests waiting.
fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of the environment's.
fn given(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?}")))
}
