//! Being told of what is new in the feed. Whoever is told looks at the tables: they are the truth, and are looked at now and
//! then without being told.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Database;
use crate::store::secret::random_bytes;
use crate::store::{StoreError, Waker};

/// What the tables' triggers say it on.
const CHANNEL: &str = "turnery_feed";
/// How often who is told looks all the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What is said on it only shows that notifications arrive. PostgreSQL wakes all who listen, whatever they listen to: so all
/// listen to all, and mostly one of many asks.
const PROBES: &str = "turnery_probe";
/// For how long nothing may be heard until it is tried whether notifications arrive; up to so much longer, so that of many
/// nodes one tries and the others hear it.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts: what does not work may never do so, as behind some poolers of connections.
const MIN_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(15);

impl Database {
    /// Wakes for as long as it is polled.
    pub(in crate::store) async fn listen(&self, waker: &Waker) -> ! {
        let mut pause = MIN_PAUSE;
        loop {
            let Err(error) = self.listen_once(waker, &mut pause).await;
            waker.give_up();
            tracing::debug!(error = &error as &dyn std::error::Error, "the store does not say what is new");
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn listen_once(
        &self,
        waker: &Waker,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, StoreError> {
        let own = hex::encode(random_bytes::<8>()?);
        let mut listener = PgListener::connect_with(&self.read).await?;
        // What is lost with a connection is looked for.
        listener.eager_reconnect(false);
        timeout(PROBE_TIMEOUT, listener.listen_all([CHANNEL, PROBES])).await.map_err(|_| silent())??;
        loop {
            let probed = self.probe(&mut listener, &own, waker);
            timeout(PROBE_TIMEOUT, probed).await.map_err(|_| silent())??;
            *pause = MIN_PAUSE;
            if !waker.is_reliable() {
                waker.rely(LOOK_INTERVAL);
            }
            while let Ok(heard) = timeout_at(Instant::now() + quiet()?, listener.try_recv()).await {
                hear(heard?, waker)?;
            }
        }
    }

    /// Says something, and waits until it is heard.
    async fn probe(&self, listener: &mut PgListener, own: &str, waker: &Waker) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_notify($1, $2)").bind(PROBES).bind(own).execute(&self.read).await?;
        while hear(listener.try_recv().await?, waker)? != own {}
        Ok(())
    }
}

/// For how long nothing is to be heard until it is asked again.
fn quiet() -> Result<Duration, StoreError> {
    let share = u16::from_be_bytes(random_bytes()?);
    Ok(PROBE_INTERVAL + PROBE_INTERVAL * u32::from(share) / 65_536)
}

/// Wakes where it is the feed's; what it says.
fn hear(heard: Option<PgNotification>, waker: &Waker) -> Result<String, StoreError> {
    let heard = heard.ok_or_else(silent)?;
    if heard.channel() == CHANNEL {
        waker.wake();
    }
    Ok(heard.payload().to_owned())
}

fn silent() -> StoreError {
    StoreError::Unavailable("no notification arrives".into())
}
