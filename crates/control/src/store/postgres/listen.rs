//! Being told of what is new in the feed. Whoever is told looks at the tables: they are the truth, and are looked at now and
//! then without being told.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification};
use tokio::time::{sleep, timeout};

use super::Database;
use crate::store::secret::random_bytes;
use crate::store::{Backoff, StoreError, Waker, part_of};

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
/// So long it is waited at first, and up to so much longer: when a database is back, all come at once.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// Pauses between attempts: what does not work may never do so, as behind some poolers of connections.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(15);

impl Database {
    /// Wakes for as long as it is polled.
    pub(in crate::store) async fn listen(&self, waker: &Waker) -> ! {
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        loop {
            let Err(error) = self.listen_once(waker, &mut backoff).await;
            waker.give_up();
            tracing::debug!(error = &error as &dyn std::error::Error, "the store does not say what is new");
            sleep(backoff.pause()).await;
        }
    }

    async fn listen_once(
        &self,
        waker: &Waker,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, StoreError> {
        let own = hex::encode(random_bytes::<8>()?);
        let mut listener = PgListener::connect_with(&self.read).await?;
        // What is lost with a connection is looked for.
        listener.eager_reconnect(false);
        timeout(PROBE_TIMEOUT, listener.listen_all([CHANNEL, PROBES])).await.map_err(|_| silent())??;
        let mut patience = FIRST_PROBE;
        loop {
            let heard = timeout(patience + part_of(patience), listener.try_recv()).await;
            match heard {
                Ok(heard) => drop(hear(heard?, waker)?),
                Err(_) => {
                    let probed = self.probe(&mut listener, &own, waker);
                    timeout(PROBE_TIMEOUT, probed).await.map_err(|_| silent())??;
                }
            }
            backoff.reset();
            if !waker.is_reliable() {
                waker.rely(LOOK_INTERVAL);
            }
            patience = PROBE_INTERVAL;
        }
    }

    /// Says something, and waits until it is heard.
    async fn probe(&self, listener: &mut PgListener, own: &str, waker: &Waker) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_notify($1, $2)").bind(PROBES).bind(own).execute(&self.read).await?;
        while hear(listener.try_recv().await?, waker)? != own {}
        Ok(())
    }
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
