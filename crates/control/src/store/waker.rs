use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Says that there may be something new in the feed, before it is looked for.
#[derive(Debug, Default)]
pub(crate) struct Waker {
    woken: Notify,
    is_reliable: AtomicBool,
}

impl Waker {
    /// Waits until it is worth a look. What was said since the last wait is not lost.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether the database was seen to say so a short while ago. Even then it is looked for without being told, but less
    /// often.
    pub(crate) fn is_reliable(&self) -> bool {
        self.is_reliable.load(Ordering::Relaxed)
    }

    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    pub(super) fn set_reliable(&self, is_reliable: bool) {
        self.is_reliable.store(is_reliable, Ordering::Relaxed);
    }
}
