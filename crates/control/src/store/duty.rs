//! What one node of many does for all of them.
//!
//! It holds a lease in the database for some seconds, and renews it; the others ask when that runs out. The lease spares the
//! others work and decides nothing: whatever is done under it happens once, however many do it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::{Backend, Store, part_of, postgres, secret};

/// For how long one has it.
const LEASE: Duration = Duration::from_secs(3);
/// How often he says so.
const RENEWAL: Duration = Duration::from_secs(1);
/// Those who ask when it has run out do so within this.
const SPREAD: Duration = Duration::from_millis(500);

/// Whether this process does what one does for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// Nobody knows: then it does.
    #[default]
    Unknown,
    On,
    /// Another one does.
    Off,
}

/// Tells whether it does.
#[derive(Debug, Default)]
pub(super) struct Duty(watch::Sender<Standing>);

impl Duty {
    pub(super) fn watch(&self) -> watch::Receiver<Standing> {
        self.0.subscribe()
    }

    fn is(&self, standing: Standing) {
        self.0.send_if_modified(|was| std::mem::replace(was, standing) != standing);
    }
}

impl Store {
    /// Takes what one node of many does for all, whenever nobody else does it, for as long as it is polled.
    pub(crate) async fn share_duty(&self) -> ! {
        match &self.backend {
            Backend::Sqlite(_) => std::future::pending().await,
            Backend::Postgres(db) => self.share_duty_in(db).await,
        }
    }

    async fn share_duty_in(&self, db: &postgres::Database) -> ! {
        let _until_it_ends = Leave(&self.duty);
        let own = secret::random_bytes::<16>().map(hex::encode).unwrap_or_default();
        let mut is_on = false;
        loop {
            let asked = postgres::in_time(db.take_duty(&own, LEASE, is_on)).await;
            is_on = matches!(asked, Ok(None));
            let (standing, pause) = match asked {
                Ok(None) => (Standing::On, RENEWAL),
                Ok(Some(left)) => (Standing::Off, left.min(LEASE) + part_of(SPREAD)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "it is not known who does what one node does for all");
                    (Standing::Unknown, RENEWAL)
                }
            };
            self.duty.is(standing);
            sleep(pause).await;
        }
    }
}

/// Nobody knows any more.
struct Leave<'a>(&'a Duty);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.is(Standing::Unknown);
    }
}
