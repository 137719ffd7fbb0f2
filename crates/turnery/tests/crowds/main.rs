//! Ten thousand clients of the real binary. They take most of a machine's ports and open files: so this is a process of its own,
//! which runs when no other tests do, and one test of it at a time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../it/fixture.rs"]
mod fixture;
mod half_open;
mod revocation;

use std::sync::{Mutex, MutexGuard, PoisonError};

static MACHINE: Mutex<()> = Mutex::new(());

/// Keeps the other tests waiting.
fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
