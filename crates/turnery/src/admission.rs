//! Whether new allocations are taken here: not by a node that is about to end, nor, where that is asked for, by one that has
//! not heard for too long what is revoked.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::{Check, Feed};
use tokio::sync::Notify;
use tokio::time::sleep;
use turn::Command;

use crate::relaying::RelayHandle;

/// How often it is looked how old the feed is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether new allocations are taken here.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    draining: AtomicBool,
    /// What is revoked was not heard for too long.
    stale: AtomicBool,
    turned: Notify,
}

impl Admission {
    /// None are from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Waits until it is, or is not any more, since the last call.
    pub(crate) async fn stale_turned(&self) {
        self.turned.notified().await;
    }

    /// What `/readyz` asks.
    pub(crate) fn check(self: &Arc<Self>) -> Check {
        let admission = Arc::clone(self);
        Check::new("admission", move || !admission.is_draining() && !admission.is_stale())
    }

    /// Has the relay refuse what is new while the feed is older than that, for as long as it is polled.
    pub(crate) async fn watch(&self, feed: &Feed, relay: &RelayHandle, most: Option<Duration>) -> ! {
        match most {
            Some(most) => self.keep_to(feed, relay, most).await,
            None => pending().await,
        }
    }

    async fn keep_to(&self, feed: &Feed, relay: &RelayHandle, most: Duration) -> ! {
        loop {
            let is_stale = feed.age().is_none_or(|age| age > most);
            if is_stale != self.stale.swap(is_stale, Ordering::Relaxed) {
                relay.command(&Command::DenialsStale(is_stale));
                self.turned.notify_one();
                if is_stale {
                    tracing::warn!(
                        secs = most.as_secs(),
                        "what is revoked was not heard for too long; new allocations are refused"
                    );
                } else {
                    tracing::info!("what is revoked is heard again; new allocations are taken");
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}
