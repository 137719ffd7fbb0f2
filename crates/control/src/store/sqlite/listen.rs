//! Being told of what is new: by the system, whenever any process writes to the log that is written ahead.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::{sleep, timeout};

use super::Database;
use crate::store::{StoreError, Waker};

/// How often who is told looks all the same.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Who is woken looks no oftener than so.
const REST: Duration = Duration::from_millis(20);
/// A writer is there for long when it takes longer than this.
const LONG: Duration = Duration::from_millis(100);
/// How long the system may take to tell of a write.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts.
const MIN_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_mins(1);

impl Database {
    /// Wakes for as long as it is polled.
    pub(in crate::store) async fn listen(&self, waker: &Waker) -> ! {
        let (mut pause, mut is_told) = (MIN_PAUSE, false);
        loop {
            let Err(error) = self.listen_once(waker, &mut pause).await;
            waker.give_up();
            if is_told || self.write.is_closed() {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "nobody tells what is new in the store"
                );
            } else {
                is_told = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    log = %self.log.display(),
                    "nobody tells what is new in the store; it is looked at again and again"
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn listen_once(&self, waker: &Waker, pause: &mut Duration) -> Result<Infallible, StoreError> {
        let mut watch = Watch::on(&self.log).map_err(unheard)?;
        // Where there is no such thing it may seem to work, and tell nothing.
        let (written, heard) = tokio::join!(self.write_something(), timeout(PROBE_TIMEOUT, watch.written()));
        written?;
        heard.map_err(|_| unheard(io::ErrorKind::TimedOut.into()))?.map_err(unheard)?;
        *pause = MIN_PAUSE;
        waker.rely(LOOK_INTERVAL);
        loop {
            watch.written().await.map_err(unheard)?;
            // Whoever writes for long keeps others from knowing.
            while let Err(error) = self.wait_for_writers(waker).await {
                if self.write.is_closed() {
                    return Err(error);
                }
                waker.wake();
                sleep(MIN_PAUSE).await;
            }
            waker.wake();
            sleep(REST).await;
        }
    }

    /// The log is written before a change is to be seen. Whoever makes one holds the lock until it is.
    /// It is not waited for in vain: who holds the lock for long may have come after what is new.
    async fn wait_for_writers(&self, waker: &Waker) -> Result<(), StoreError> {
        let mut begun = pin!(self.begin());
        let begun = match timeout(LONG, &mut begun).await {
            Ok(begun) => begun,
            Err(_) => {
                waker.wake();
                begun.await
            }
        };
        Ok(begun?.rollback().await?)
    }

    /// Something that the log has to hold, and nobody reads.
    async fn write_something(&self) -> Result<(), StoreError> {
        sqlx::query("PRAGMA user_version = 1").execute(&self.write).await?;
        Ok(())
    }
}

fn unheard(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// Tells when a file is written to.
struct Watch {
    path: PathBuf,
    /// Which file that was: its device and number.
    file: (u64, u64),
    events: EventStream<[u8; 1_024]>,
}

impl Watch {
    fn on(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        // A changed attribute may be that the file has no name any more.
        inotify.watches().add(path, WatchMask::MODIFY | WatchMask::ATTRIB | WatchMask::MOVE_SELF)?;
        let (path, file) = (path.to_owned(), identity(path)?);
        Ok(Self { path, file, events: inotify.into_event_stream([0; 1_024])? })
    }

    /// Waits until something was written since the last call.
    ///
    /// # Errors
    /// When it may be another file by now.
    async fn written(&mut self) -> io::Result<()> {
        loop {
            let event = self.events.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            if event.mask.intersects(EventMask::MODIFY | EventMask::Q_OVERFLOW) {
                return Ok(());
            }
            // Whoever opens a log as root gives it to the database's owner.
            let is_it = event.mask == EventMask::ATTRIB && identity(&self.path)? == self.file;
            if !is_it {
                return Err(io::Error::other("the file was moved or removed"));
            }
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
