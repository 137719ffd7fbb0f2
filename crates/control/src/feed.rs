//! The deny feed: who subscribes hears of every denial once, in order.
//!
//! The denials table is the truth; the feed only reads on from the last entry it saw. [`Feed::run`] does so five
//! times a second, so that what another process or node denies arrives too. Whoever denies something in this
//! process calls [`Feed::catch_up`] after the commit: when it returns, every subscriber has been called.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use credentials::Denial;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::store::{FeedEntry, Store, StoreError, Timestamp};

const POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// An expired denial is kept a little longer, for nodes whose clocks are behind.
const PURGE_GRACE_SECS: u64 = 300;
const PAGE: u32 = 1_000;

type Subscriber = Box<dyn FnMut(Denial) + Send>;

/// A handle to the process's one deny feed. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    store: Store,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The last entry that every subscriber has.
    seq: i64,
    subscribers: Vec<Subscriber>,
}

impl Feed {
    /// A feed of this store's denials, without any subscriber.
    pub fn new(store: Store) -> Self {
        Self { store, state: Arc::new(Mutex::new(State { seq: 0, subscribers: Vec::new() })) }
    }

    /// Calls `on` with every denial in force, before this returns, and from then on with every new one: in the
    /// feed's order, each once. `on` runs on the feed's path: it must not block, and hands over at most.
    ///
    /// # Errors
    /// When the store cannot be read; then `on` is not subscribed.
    pub async fn subscribe(&self, mut on: impl FnMut(Denial) + Send + 'static) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        // First all others, so that everybody stands at the same entry.
        state.read_on(&self.store).await?;
        let (end, mut seq) = (state.seq, 0);
        let mut denials = Vec::new();
        while seq < end {
            let page = self.store.denials_after(seq, PAGE).await?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            denials.extend(page.into_iter().filter(|entry| entry.seq <= end).map(|entry| entry.denial));
        }
        let now = Timestamp::now().unix_secs();
        denials.into_iter().filter(|denial| denial.until() >= now).for_each(&mut on);
        state.subscribers.push(Box::new(on));
        Ok(())
    }

    /// Reads everything committed before the call and calls the subscribers with it, unless they had it already.
    ///
    /// # Errors
    /// When the store cannot be read. [`Feed::run`] will come back to it.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        self.state.lock().await.read_on(&self.store).await
    }

    /// Follows the feed, and forgets expired denials, for as long as it is polled. A failing store is logged and
    /// asked again, less and less often.
    pub async fn run(&self) -> ! {
        let mut wait = POLL_INTERVAL;
        let mut purged = Instant::now();
        loop {
            sleep(wait).await;
            match self.step(&mut purged).await {
                Ok(()) if wait > POLL_INTERVAL => {
                    tracing::info!("the deny feed follows the store again");
                    wait = POLL_INTERVAL;
                }
                Ok(()) => {}
                Err(error) => {
                    if wait == POLL_INTERVAL {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the deny feed cannot read the store; revocations made elsewhere arrive late"
                        );
                    }
                    wait = (wait * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    async fn step(&self, purged: &mut Instant) -> Result<(), StoreError> {
        self.catch_up().await?;
        if purged.elapsed() >= PURGE_INTERVAL {
            let now = Timestamp::now().unix_secs();
            self.store.purge_denials(now.saturating_sub(PURGE_GRACE_SECS)).await?;
            *purged = Instant::now();
        }
        Ok(())
    }
}

impl State {
    async fn read_on(&mut self, store: &Store) -> Result<(), StoreError> {
        loop {
            let page = store.denials_after(self.seq, PAGE).await?;
            // No await from here: a page is handed out whole or, if the caller goes away, not at all.
            for FeedEntry { seq, denial } in &page {
                self.subscribers.iter_mut().for_each(|on| on(*denial));
                self.seq = *seq;
            }
            if page.len() < PAGE as usize {
                return Ok(());
            }
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}
