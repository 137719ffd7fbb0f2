//! What is done now and then: forgetting what need not be kept any longer.

use std::time::Duration;

use tokio::time::sleep;

use crate::control::Shared;
use crate::store::{ANSWER_LIFETIME_SECS, DEAD_LIFETIME_SECS, StoreError};

const PURGE_INTERVAL: Duration = Duration::from_mins(1);
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);
/// An expired denial is kept a little longer, for nodes whose clocks are behind.
const DENIAL_GRACE_SECS: u64 = 300;
const DAY_SECS: u64 = 86_400;

/// Does so for as long as it is polled. A failing store is logged and asked again.
pub(crate) async fn run(shared: &Shared) -> ! {
    loop {
        sleep(PURGE_INTERVAL).await;
        if let Err(error) = purge(shared).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "what is too old is not forgotten yet");
        }
    }
}

/// Holds usage against monthly limits, once a second, or less often while nothing is recorded or another node does.
pub(crate) async fn run_limits(shared: &Shared) -> ! {
    let mut looks = shared.store.looks_for_all(LIMITS_INTERVAL);
    loop {
        looks.next(None).await;
        if let Err(error) = watch_limits(shared).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "monthly limits are not looked at");
        }
    }
}

/// Does so now; relays of this process have been told what follows.
pub(crate) async fn watch_limits(shared: &Shared) -> Result<(), StoreError> {
    if shared.store.watch_month_limits().await? > 0 {
        shared.feed.catch_up().await?;
    }
    Ok(())
}

async fn purge(shared: &Shared) -> Result<(), StoreError> {
    // By the store's clock, as everything that is compared with it: this machine's may be ahead.
    let now = shared.store.now();
    shared.store.purge_denials(now.unix_secs().saturating_sub(DENIAL_GRACE_SECS)).await?;
    shared.store.purge_audit(now.minus_secs(u64::from(shared.config.audit_days) * DAY_SECS)).await?;
    shared.store.purge_deliveries(now.minus_secs(DEAD_LIFETIME_SECS)).await?;
    shared.store.forget_nodes().await?;
    shared.store.purge_answers(now.minus_secs(ANSWER_LIFETIME_SECS)).await?;
    Ok(())
}
