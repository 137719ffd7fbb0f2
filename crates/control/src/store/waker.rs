//! When it is worth looking at the store again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::duty::Standing;

/// How often who may take his time looks without being told.
const QUIET_INTERVAL: Duration = Duration::from_secs(30);
/// How often who leaves it to another node looks all the same.
const OTHERS_INTERVAL: Duration = Duration::from_secs(10);

/// Says that there may be something new, before it is looked for.
#[derive(Debug, Default)]
pub(crate) struct Waker(watch::Sender<Said>);

/// What was said so far.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    /// How often it is to be looked without being told, while the database was seen to say so a short while ago.
    interval: Option<Duration>,
}

impl Waker {
    /// For somebody who looks, and is told from now on.
    pub(crate) fn ear(&self) -> Ear {
        Ear(self.0.subscribe())
    }

    pub(super) fn is_reliable(&self) -> bool {
        self.0.borrow().interval.is_some()
    }

    pub(super) fn wake(&self) {
        self.0.send_modify(|_| ());
    }

    /// The database says so from now on, and is looked at so often all the same. What was not said before is looked for.
    pub(super) fn rely(&self, interval: Duration) {
        self.0.send_modify(|said| said.interval = Some(interval));
    }

    /// It does not any more.
    pub(super) fn give_up(&self) {
        self.0.send_if_modified(|said| said.interval.take().is_some());
    }
}

/// Hears what a [`Waker`] says.
#[derive(Debug)]
pub(crate) struct Ear(watch::Receiver<Said>);

impl Ear {
    /// Waits until it is worth a look. What was said since the last wait is not lost.
    pub(crate) async fn woken(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How often to look without being told, where the database says what is new.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.0.borrow().interval
    }
}

/// Waits between looks at the store: for something to change, where the database says that anything does.
#[derive(Debug)]
pub struct Looks {
    ear: Option<Ear>,
    /// Whether another node looks for all.
    duty: Option<watch::Receiver<Standing>>,
    has_found: bool,
    interval: Duration,
    last: Instant,
}

impl Looks {
    pub(super) fn new(ear: Option<Ear>, duty: Option<watch::Receiver<Standing>>, interval: Duration) -> Self {
        Self { ear, duty, has_found: false, interval, last: Instant::now() }
    }

    /// Whether there was something to do: then the next look is left to nobody else, for many do more than one.
    pub(crate) fn has_found(&mut self, some: bool) {
        self.has_found = some;
    }

    /// Whether changes are told.
    pub fn are_told(&self) -> bool {
        self.ear.as_ref().is_some_and(|ear| ear.interval().is_some())
    }

    /// Waits until the next look is due: the interval after the last, or where changes are told, when there is one, or where
    /// another node looks for all, seldom; but never sooner. What the passing of time brings is due at `by`.
    pub async fn next(&mut self, by: Option<Instant>) {
        sleep_until(self.last + self.interval).await;
        if let Some(ear) = &mut self.ear
            && ear.interval().is_some()
        {
            let anyway = self.last + QUIET_INTERVAL;
            let _ = timeout_at(by.map_or(anyway, |by| by.min(anyway)), ear.woken()).await;
        }
        if let Some(duty) = &mut self.duty
            && !self.has_found
        {
            let mine = duty.wait_for(|standing| *standing != Standing::Off);
            let _ = timeout_at(self.last + OTHERS_INTERVAL, mine).await;
        }
        self.last = Instant::now();
    }
}
