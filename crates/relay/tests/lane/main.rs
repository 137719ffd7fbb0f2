//! What the packet lane does not do: ask the heap for anything, or the system for more than its batches. A process of its
//! own, for its heap counts, and one test at a time, for it counts what all threads do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod calls;
#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../it/fixture.rs"]
mod fixture;
mod heap;
mod lanes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use testkit::client::dtls::self_signed;
use testkit::sys::CountingHeap;

use crate::fixture::{Running, config};

#[global_allocator]
static HEAP: CountingHeap = CountingHeap;

static PROCESS: Mutex<()> = Mutex::new(());

/// Keeps the other tests waiting. What this thread does itself is not counted.
fn alone() -> MutexGuard<'static, ()> {
    CountingHeap::exempt_this_thread();
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server with one worker and a listener of each kind: UDP over IPv4 and IPv6, TCP, TLS.
fn start() -> Running {
    let listeners = ["udp://127.0.0.1:0", "udp://[::1]:0", "tcp://127.0.0.1:0", "tls://127.0.0.1:0"];
    let mut config = config(&listeners);
    config.workers = 1;
    config.turn.stranger_limit = None;
    let (certificate, key) = self_signed("localhost");
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls = tls.with_single_cert(vec![certificate.into()], key.try_into().unwrap()).unwrap();
    config.tls = Some(Arc::new(ArcSwap::from_pointee(tls)));
    let running = Running::start(config);
    // Whoever has an answer finds the worker at work.
    running.connect(0, &running.credential(60)).binding().unwrap();
    running
}

/// What `measured` gives when no usage was reported meanwhile: that is done every few seconds, and not for a packet.
fn unreported<T>(running: &Running, mut measured: impl FnMut() -> T) -> T {
    loop {
        running.relay().take_reports(usize::MAX);
        let result = measured();
        if running.relay().take_reports(usize::MAX).is_empty() {
            return result;
        }
    }
}
