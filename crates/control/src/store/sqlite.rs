//! The store in one SQLite file.
//!
//! One connection writes, so writers of this process queue in memory and not on SQLite's lock; other processes
//! (the command line) are waited for with the busy timeout. Reads have connections of their own: with the
//! write-ahead log they neither wait for the writer nor hold it up.

/// What a query adds so that the rows it reads stay as they are until the transaction ends: nobody else writes.
macro_rules! for_update {
    ($table:literal) => {
        ""
    };
}

/// The database has no clock of its own.
macro_rules! clock_micros {
    () => {
        "CAST(NULL AS INTEGER)"
    };
}

/// Nobody puts other tables in the place of the feed's while the file is open.
macro_rules! feed_tables {
    () => {
        "''"
    };
}

/// What a query adds to pass over rows that another process is about to change: no other can be.
macro_rules! skip_locked {
    () => {
        ""
    };
}

/// The database's own time, in microseconds.
macro_rules! now_micros {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}

/// Where rows are that are taken out of the usage which is not summed up yet: nobody adds to them meanwhile.
macro_rules! taken_out {
    () => {
        "usage_buckets"
    };
}

/// Rows of many that one statement writes. Statements of these sizes are compiled once: that takes longer than what they
/// do, and to call one costs next to nothing here.
const KEPT_SIZES: [usize; 3] = [64, 8, 1];
const MOST_ROWS: usize = 64;
/// More than there are that write.
const KEPT_STATEMENTS: usize = 256;

mod forget;
mod listen;
mod taking;

// Compiled once for each database.
#[path = "sql/mod.rs"]
#[allow(clippy::duplicate_mod)]
mod sql;

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::time::{Instant, sleep};

use crate::store::StoreError;
use crate::store::error::cause;
use crate::store::spans::Sums;
use taking::take_out;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READ_CONNECTIONS: u32 = 4;

/// SQLite's result codes.
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const NOT_A_DATABASE: u32 = 26;
}

type Db = sqlx::Sqlite;
type Row = sqlx::sqlite::SqliteRow;
type Transaction = sqlx::Transaction<'static, Db>;

#[derive(Debug, Clone)]
pub(super) struct Database {
    write: SqlitePool,
    read: SqlitePool,
    /// The same: who reads waits for nobody.
    feed: SqlitePool,
    /// What is written ahead: every change is there before it is anywhere else.
    log: PathBuf,
}

impl Database {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let database_error = |error| open_error(path, error);
        let write = connect_for_writing(options.clone()).await.map_err(database_error)?;
        migrate(path, &write).await?;
        let read = connect(options, READ_CONNECTIONS).await.map_err(database_error)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self { write, feed: read.clone(), read, log: log.into() })
    }

    pub(super) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Where it is read from.
    pub(super) fn reader(&self) -> &SqlitePool {
        &self.read
    }

    /// A transaction that holds the write lock from its start: what it reads cannot change before it commits.
    async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(self.write.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The same: there is no beside.
    async fn begin_beside(&self) -> Result<Transaction, StoreError> {
        self.begin().await
    }

    /// A transaction that reads, and sees the tables as they were at its first statement.
    async fn begin_reading(&self) -> Result<Transaction, StoreError> {
        Ok(self.read.begin().await?)
    }

    /// The same as [`Self::begin`]: nobody records usage meanwhile, of whatever node.
    async fn begin_usage(&self, _node: &str) -> Result<Transaction, StoreError> {
        self.begin().await
    }

    /// The same: nobody does anything else meanwhile.
    async fn begin_tidying(&self) -> Result<Option<Transaction>, StoreError> {
        self.begin().await.map(Some)
    }

    /// The same.
    async fn begin_moving(&self) -> Result<Option<Transaction>, StoreError> {
        self.begin_tidying().await
    }
}

/// Only this transaction writes sessions' ends: no other writes anything.
async fn hold_ends(_tx: &mut Transaction) -> Result<(), StoreError> {
    Ok(())
}

/// The sum of a count: no more than can be kept, whatever its rows say. A sum that is larger would be an error: so upper and
/// lower halves are summed up apart.
fn sum_of(count: &str) -> String {
    let (upper, lower) = (format!("SUM({count} >> 32)"), format!("SUM({count} & {})", u32::MAX));
    format!(
        "(CASE WHEN {upper} + ({lower} >> 32) > {} THEN {} WHEN {upper} + ({lower} >> 32) < 0 THEN 0 \
         ELSE ({upper} << 32) + {lower} END)",
        i32::MAX,
        i64::MAX
    )
}

/// Tables have no parts.
async fn make_room(_tx: &mut Transaction, _sums: Sums, _start: i64) -> Result<(), StoreError> {
    Ok(())
}

/// It does not weigh which way is shorter: rows are walked over.
fn beginnings(_range: &Range<i64>, _span: i64) -> Option<String> {
    None
}

/// Makes the file where it is missing, for its owner only.
///
/// A file that is there is not opened: closing it would drop the locks that SQLite, should this process have the
/// store open already, holds on it.
fn create_private(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(()),
        Err(_) => match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        },
    }
}

/// Turns the write-ahead log on, which stays so. That needs the file for itself, and SQLite's own busy timeout does
/// not wait for it: other processes may be starting too.
async fn connect_for_writing(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let options = options.journal_mode(SqliteJournalMode::Wal).statement_cache_capacity(KEPT_STATEMENTS);
    let start = Instant::now();
    loop {
        match connect(options.clone(), 1).await {
            Err(error) if has_code(&error, code::BUSY) && start.elapsed() < BUSY_TIMEOUT => {
                sleep(BUSY_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn connect(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A file does not go away like a server, and asking costs as much as most questions.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
}

/// Brings the tables up to date, under the write lock: of several processes that start at once, one does it.
async fn migrate(path: &Path, pool: &SqlitePool) -> Result<(), StoreError> {
    let database_error = |error| open_error(path, error);
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(database_error)?;
    // Not `run`: a future that borrows a connection through `Acquire` is not `Send`.
    MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(migration) => StoreError::Newer { store: name(path), migration },
        MigrateError::VersionMismatch(migration) => StoreError::Foreign { store: name(path), migration },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => database_error(error),
        error => StoreError::Open { store: name(path), source: error.into() },
    })?;
    tx.commit().await.map_err(database_error)
}

fn open_error(path: &Path, error: sqlx::Error) -> StoreError {
    if has_code(&error, code::NOT_A_DATABASE) || has_code(&error, code::CORRUPT) {
        return StoreError::NotADatabase { path: path.to_owned() };
    }
    StoreError::Open { store: name(path), source: cause(error) }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Whether the database answered with this result code, or one of those that extend it.
fn has_code(error: &sqlx::Error, code: u32) -> bool {
    let answer = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    answer.and_then(|answer| answer.parse::<u32>().ok()).is_some_and(|answer| answer & 0xff == code)
}
