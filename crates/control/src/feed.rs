//! The feed: who subscribes hears of every denial once, in order, and of every TURN key's settings.
//!
//! The store's tables are the truth; the feed only reads on from the last entry it saw. [`Feed::run`] does so five
//! times a second, so that what another process or node changes arrives too: or, if the store is one that says when there
//! is something new, at once then, and now and then without being told. Whoever changes something in this process calls
//! [`Feed::catch_up`] after the commit: when it returns, every subscriber has been called.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use credentials::{Denial, Keyring, SharedSecret, TurnKeyId};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::store::usage::SessionOrder;
use crate::store::{
    Backoff, FeedEnds, FeedEntry, KeyLimits, KeyRecord, Settings, Stop, Store, StoreError, Timestamp,
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Who is woken waits for a moment, for what else is about to be said.
const WAKE_PAUSE: Duration = Duration::from_millis(5);
/// Pauses while the store fails, each up to twice as long as the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(400);
const MAX_BACKOFF: Duration = Duration::from_secs(3);
const PAGE: u32 = 1_000;

/// What subscribers hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Something is refused.
    Denied(Denial),
    /// A TURN key's settings, all of them: those that are in force, or have changed. They may come again unchanged.
    /// A deleted key's are not told; its denial is.
    Settings(KeySettings),
    /// Live sessions are to end, now. Only what is said while the feed is followed is told.
    End(SessionOrder),
}

/// What relays must know of a TURN key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// Which key.
    pub key: TurnKeyId,
    /// Its shared secrets, oldest first.
    pub shared_secrets: Vec<SharedSecret>,
    /// What it may use; `None` where the relays' own limits hold.
    pub limits: Option<KeyLimits>,
    /// Whether its credentials are refused for now, because it is suspended or cut by its monthly limit.
    pub suspended: bool,
    /// Whether it is allocated nothing new for now, by its monthly limit.
    pub refuses_new: bool,
    /// What the credential API must know of it; `None` when it is gone.
    pub record: Option<KeyRecord>,
}

type Subscriber = Box<dyn FnMut(&News) + Send>;

/// A handle to the process's one feed. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    store: Store,
    keyring: Arc<ArcSwap<Keyring>>,
    state: Arc<Mutex<State>>,
    /// When the last look at the store that succeeded was begun.
    heard: Arc<ArcSwapOption<Instant>>,
    /// The last denial that every subscriber has.
    position: Arc<AtomicI64>,
    /// How often the store is looked at without being woken, where that is chosen.
    poll_interval: Option<Duration>,
}

#[derive(Default)]
struct State {
    /// The last denial that every subscriber has.
    denials_seq: i64,
    /// The last change of settings that every subscriber has.
    settings_seq: i64,
    /// The last order to end sessions that every subscriber has; `None`: nobody has asked yet. Earlier ones are about
    /// sessions of before.
    orders_seq: Option<i64>,
    /// Which database that was, and how many connections had been made when it was asked.
    history: Option<(u64, String)>,
    /// Which tables in it.
    tables: Option<String>,
    /// Keys whose settings were told.
    told: BTreeSet<TurnKeyId>,
    /// Those that may be others in another database.
    unsure: BTreeSet<TurnKeyId>,
    /// Keys with a shared secret that the keyring could not open, and that keyring.
    unreadable: BTreeSet<TurnKeyId>,
    tried: Option<Arc<Keyring>>,
    subscribers: Vec<Subscriber>,
}

impl Feed {
    /// A feed of this store's denials and settings, without any subscriber. The keyring opens shared secrets.
    pub fn new(store: Store, keyring: Arc<ArcSwap<Keyring>>) -> Self {
        let (state, heard, position) = (Arc::default(), Arc::default(), Arc::default());
        Self { store, keyring, state, heard, position, poll_interval: None }
    }

    /// The same feed, looking so often at the store when it is not woken: for tests of the waking.
    #[doc(hidden)]
    #[must_use]
    pub fn polling_every(mut self, interval: Duration) -> Self {
        self.poll_interval = Some(interval);
        self
    }

    /// Calls `on` with every denial and all settings in force, before this returns, and from then on with every new
    /// one: denials in the feed's order, each once. `on` runs on the feed's path: it must not block, and hands over
    /// at most.
    ///
    /// # Errors
    /// When the store cannot be read; then `on` is not subscribed.
    pub async fn subscribe(&self, mut on: impl FnMut(&News) + Send + 'static) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut state = self.state.lock().await;
        // First all others, so that everybody stands at the same entry.
        state.read_on(self).await?;
        let (end, mut seq) = (state.denials_seq, 0);
        let mut news = Vec::new();
        let now = Timestamp::now().unix_secs();
        while seq < end {
            let page = self.store.denials_after(seq, PAGE).await?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            let in_force = |entry: &FeedEntry| entry.seq <= end && entry.denial.until() >= now;
            news.extend(page.into_iter().filter(in_force).map(|entry| News::Denied(entry.denial)));
        }
        seq = 0;
        while seq < state.settings_seq {
            let page = self.store.setting_changes_after(seq, PAGE).await?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            for change in &page {
                news.push(state.settings(self, change.key).await?);
            }
        }
        news.iter().for_each(&mut on);
        state.subscribers.push(Box::new(on));
        // A rule that was raised meanwhile stands behind the end now: it was left out above.
        state.read_on(self).await.inspect_err(|_| drop(state.subscribers.pop()))?;
        self.heard.store(Some(Arc::new(begun)));
        Ok(())
    }

    /// Reads everything committed before the call and calls the subscribers with it, unless they had it already.
    ///
    /// # Errors
    /// When the store cannot be read. [`Feed::run`] will come back to it.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.state.lock().await.read_on(self).await?;
        self.heard.store(Some(Arc::new(begun)));
        Ok(())
    }

    /// How old the last look at the store is that succeeded; `None` before the first. What was committed earlier than
    /// that is known to every subscriber.
    pub fn age(&self) -> Option<Duration> {
        self.heard.load().as_ref().map(|begun| begun.elapsed())
    }

    /// The last denial that every subscriber has. Waits for nobody, also while the store does not answer.
    pub fn position(&self) -> i64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Follows the feed for as long as it is polled. A failing store is logged and
    /// asked again, less and less often.
    pub async fn run(&self) -> ! {
        tokio::select! {
            never = self.follow() => never,
            never = self.store.listen() => never,
        }
    }

    async fn follow(&self) -> ! {
        let mut ear = self.store.ear();
        // Of a store that fails.
        let mut backoff: Option<Backoff> = None;
        loop {
            let own = ear.interval().unwrap_or(POLL_INTERVAL);
            let wait = backoff.as_mut().map(Backoff::pause).or(self.poll_interval).unwrap_or(own);
            tokio::select! {
                () = sleep(wait) => {}
                () = ear.woken() => sleep(WAKE_PAUSE).await,
            }
            match self.catch_up().await {
                Ok(()) => {
                    if backoff.take().is_some() {
                        tracing::info!("the feed follows the store again");
                    }
                }
                Err(error) => {
                    if backoff.is_none() {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the feed cannot read the store; what is revoked or changed elsewhere arrives late"
                        );
                    }
                    backoff.get_or_insert_with(|| Backoff::new(FIRST_BACKOFF, MAX_BACKOFF));
                }
            }
        }
    }
}

impl State {
    async fn read_on(&mut self, feed: &Feed) -> Result<(), StoreError> {
        // Mostly there is nothing new, or one denial: that is one question.
        let (ends, page) = feed.store.feed_look(self.denials_seq, PAGE).await?;
        let begins_again = self.look_at_history(feed).await? | self.look_at_tables(&ends);
        // That page was of what was there before.
        let mut page = if begins_again { Vec::new() } else { page };
        loop {
            // No await while it is handed out: that is done whole or, if the caller goes away, not at all.
            for FeedEntry { seq, denial } in &page {
                self.tell(&News::Denied(*denial));
                self.denials_seq = *seq;
            }
            feed.position.store(self.denials_seq, Ordering::Relaxed);
            if self.denials_seq >= ends.denials {
                break;
            }
            page = feed.store.denials_after(self.denials_seq, PAGE).await?;
            if page.is_empty() {
                break;
            }
        }
        while self.settings_seq < ends.settings {
            let page = feed.store.setting_changes_after(self.settings_seq, PAGE).await?;
            for change in &page {
                let settings = self.settings(feed, change.key).await?;
                self.tell(&settings);
                self.settings_seq = change.seq;
            }
            if page.len() < PAGE as usize {
                break;
            }
        }
        self.read_orders(feed, ends.orders).await?;
        while let Some(key) = self.unsure.first().copied() {
            let settings = self.settings(feed, key).await?;
            self.tell(&settings);
            self.unsure.remove(&key);
        }
        self.read_again(feed).await
    }

    /// Begins again where another database has taken the place of the one that was read: after a failover or from a backup
    /// its numbers may have gone back, and then on again with other entries. A new database needs new connections.
    async fn look_at_history(&mut self, feed: &Feed) -> Result<bool, StoreError> {
        let made = feed.store.feed_connections();
        if self.history.as_ref().is_some_and(|(seen, _)| *seen == made) {
            return Ok(false);
        }
        let history = feed.store.history().await?;
        let is_another = self.history.as_ref().is_some_and(|(_, known)| *known != history);
        if is_another {
            tracing::warn!("the store is another database than before; all that it denies is read again");
            (self.denials_seq, self.settings_seq, self.orders_seq) = (0, 0, None);
            self.unsure.extend(&self.told);
        }
        self.history = Some((made, history));
        Ok(is_another)
    }

    /// The same where only the tables are others, as when a backup is restored into the database that is in use: that is seen
    /// on the same connections. And no number that was seen is larger than the last there is: where the newest entries are
    /// gone, those that take their numbers are new.
    fn look_at_tables(&mut self, ends: &FeedEnds) -> bool {
        let are_others = self.tables.as_ref().is_some_and(|known| *known != ends.tables);
        if are_others {
            tracing::warn!("the store's tables were written anew; all that they deny is read again");
            (self.denials_seq, self.settings_seq) = (0, 0);
            self.unsure.extend(&self.told);
        }
        if self.tables.as_ref() != Some(&ends.tables) {
            self.tables = Some(ends.tables.clone());
        }
        self.denials_seq = self.denials_seq.min(ends.denials);
        self.settings_seq = self.settings_seq.min(ends.settings);
        self.orders_seq = self.orders_seq.map(|seq| seq.min(ends.orders));
        are_others
    }

    async fn read_orders(&mut self, feed: &Feed, end: i64) -> Result<(), StoreError> {
        let mut seq = *self.orders_seq.get_or_insert(end);
        while seq < end {
            let page = feed.store.session_orders_after(seq, PAGE).await?;
            for (at, order) in &page {
                self.tell(&News::End(order.clone()));
                seq = *at;
                self.orders_seq = Some(seq);
            }
            if page.len() < PAGE as usize {
                break;
            }
        }
        Ok(())
    }

    /// With another keyring, what the last one could not open may open.
    async fn read_again(&mut self, feed: &Feed) -> Result<(), StoreError> {
        let keyring = feed.keyring.load_full();
        if self.unreadable.is_empty() || self.tried.as_ref().is_some_and(|it| Arc::ptr_eq(it, &keyring)) {
            return Ok(());
        }
        for key in self.unreadable.clone() {
            let settings = self.settings(feed, key).await?;
            self.tell(&settings);
        }
        self.tried = Some(keyring);
        Ok(())
    }

    fn tell(&mut self, news: &News) {
        self.subscribers.iter_mut().for_each(|on| on(news));
    }

    /// A key's settings as they are now. A shared secret that cannot be opened is logged and left out.
    async fn settings(&mut self, feed: &Feed, key: TurnKeyId) -> Result<News, StoreError> {
        let stored = feed.store.shared_secrets(key).await?;
        let settings = feed.store.key_settings(key).await?;
        let keyring = feed.keyring.load();
        let mut shared_secrets = Vec::with_capacity(stored.len());
        self.unreadable.remove(&key);
        for secret in stored {
            match secret.open(&keyring) {
                Ok(opened) => shared_secrets.push(opened),
                Err(error) => {
                    tracing::error!(
                        %key, shared_secret = %secret.id, error = &error as &dyn std::error::Error,
                        "a shared secret cannot be opened and is not in force"
                    );
                    self.unreadable.insert(key);
                }
            }
        }
        let (record, limits) = match settings {
            Some(Settings { record, limits }) => (Some(record), limits),
            None => (None, None),
        };
        let stopped = record.as_ref().and_then(|record| record.stopped);
        let suspended = record.as_ref().is_some_and(|record| record.suspended) || stopped == Some(Stop::Cut);
        let refuses_new = stopped == Some(Stop::Refuse);
        if record.is_some() {
            self.told.insert(key);
        } else {
            self.told.remove(&key);
        }
        Ok(News::Settings(KeySettings { key, shared_secrets, limits, suspended, refuses_new, record }))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}
