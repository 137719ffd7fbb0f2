//! The store in a PostgreSQL database, which many processes share.
//!
//! What SQLite has by letting one process at a time write, is had here by locks that transactions hold until they are
//! committed:
//! - whoever changes what is configured holds one lock. There are few such changes, one after the other: what was
//!   looked at stays so until it is acted upon, and numbers that are read on from become visible in their order;
//! - usage is recorded by many at once. Who does holds the lock of its node, so that a report that is repeated while the
//!   first try is still under way counts once, and another when it writes sessions' ends, at the very end;
//! - webhooks are told of sessions' ends by whoever holds the mark up to which they were told, beside all changes;
//! - one process at a time tidies up, and sees the tables as they were when it began: where others write to the same rows
//!   meanwhile, it gives up and comes again. Usage that somebody is adding to at that moment it leaves where it is.
//!
//! A database that does not answer must hold up nobody for long, on either side: every call has a limit of time, and the
//! server ends what a process that has gone away has left open, with the locks that it held.

mod listen;
mod partitions;
mod place;
mod taking;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, Row as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::store::StoreError;
use crate::store::error::{UNAVAILABLE, cause};
pub(super) use partitions::make_room;
use place::Place;
use taking::take_out;

/// What a query adds so that the rows it reads of a table stay as they are until the transaction ends.
macro_rules! for_update {
    ($table:literal) => {
        concat!(" FOR UPDATE OF ", $table)
    };
}

/// The database's clock, in microseconds: one for all processes.
macro_rules! clock_micros {
    () => {
        "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
    };
}

/// What changes when other tables take the place of the feed's, or they are emptied or written anew.
macro_rules! feed_tables {
    () => {
        "concat_ws('/', pg_relation_filenode('denials'), pg_relation_filenode('setting_changes'), \
         pg_relation_filenode('session_orders'))"
    };
}

/// What a query adds to pass over rows that another process is about to change.
macro_rules! skip_locked {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}

/// The database's own time, in microseconds.
macro_rules! now_micros {
    () => {
        "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// Where rows are that are taken out of the usage which is not summed up yet.
macro_rules! taken_out {
    () => {
        "gone"
    };
}

/// Rows of many that one statement writes: each call goes to the database and back, and compiling it is nothing to that.
const KEPT_SIZES: [usize; 0] = [];
const MOST_ROWS: usize = 1_000;

mod duty;

// Compiled once for each database.
#[path = "sql/mod.rs"]
#[allow(clippy::duplicate_mod)]
mod sql;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// How long a connection may take to be made, with everything before it is of use.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call may take with everything in it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for those that tidy up.
const LONG_CALL_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a connection that is asked whether it works may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that was not used for so long is asked before it is used.
const PING_AFTER: Duration = Duration::from_secs(1);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// After a failover the connections move on by and by.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// For all but the feed.
const MAX_CONNECTIONS: u32 = 8;
/// For the feed alone, and for whoever asks whether the database answers: what others do cannot keep them from it.
const FEED_CONNECTIONS: u32 = 2;
/// How many calls of this process wait for the lock of changes with a connection in hand: others wait without.
const WAITING_CHANGES: usize = 3;

/// How many spans of a question are looked up one by one: weeks of hours. A range may have no end.
const MOST_BEGINNINGS: i64 = 4_096;

/// What each connection begins with. The server ends a transaction whose process has gone away, and with it the locks
/// that others wait for; nobody waits for a lock without end, and nothing goes on for which nobody waits any more: before
/// version 14, and where the server's system cannot tell, that ends with the statement's time. Compiling a question about usage
/// takes longer than answering it. What is asked for lies together, in memory or where any place is as near as another; and other
/// processors are for those who ask at the same time.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; \
                       SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '5s'; \
                       SET statement_timeout = '10s'; SET jit = off; SET work_mem = '16MB'; \
                       SET random_page_cost = 1.1; SET max_parallel_workers_per_gather = 0; \
                       DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '2000', false); \
                       EXCEPTION WHEN OTHERS THEN NULL; END $$; \
                       SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// What a transaction begins with that may take its time.
const LONG_STATEMENTS: &str = "SET LOCAL statement_timeout = '5min'";

/// How long a start waits for another that brings the tables up to date.
const MIGRATION_SESSION: &str = "SET lock_timeout = '60s'";

/// The first half of the names of locks: `turn`, in case others have some in the same database. The second half is what
/// only one transaction of all processes may do at a time.
const LOCKS: i32 = 0x7475_726e;
/// Change what is configured. The first that is taken.
const CHANGES: i32 = 1;
/// Say that sessions have ended.
const ENDS: i32 = 2;
/// Tidy up.
const TIDYING: i32 = 3;
/// The first half of the names of locks that each node has one of.
const NODE_LOCKS: i32 = LOCKS + 1;

/// Reads the tables as they are now, whatever others change.
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Begins with the tables as they are now, whatever others change.
const BEGIN_TIDYING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

/// SQLSTATE codes.
mod code {
    pub(super) const INVALID_PASSWORD: &str = "28P01";
    pub(super) const INVALID_AUTHORIZATION: &str = "28000";
    pub(super) const NO_SUCH_DATABASE: &str = "3D000";
    pub(super) const NO_SUCH_SCHEMA: &str = "3F000";
    pub(super) const NO_RIGHT: &str = "42501";
    pub(super) const CANNOT_CONNECT_NOW: &str = "57P03";
    pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";
}

type Db = sqlx::Postgres;
type Row = sqlx::postgres::PgRow;
type Transaction = sqlx::Transaction<'static, Db>;

#[derive(Debug, Clone)]
pub(super) struct Database {
    write: PgPool,
    /// The same: reads need no connections of their own.
    read: PgPool,
    /// The feed has its own.
    feed: PgPool,
    /// How many connections of the feed were made so far.
    feed_connections: Arc<AtomicU64>,
    waiting: Arc<Semaphore>,
}

impl Database {
    pub(super) async fn open(url: &str) -> Result<Self, StoreError> {
        let place = Place::parse(url)?;
        let prepared = timeout(LONG_CALL_TIMEOUT, prepare(&place)).await;
        prepared.unwrap_or_else(|_| Err(place.unreachable("it does not answer".into())))?;
        let feed_connections = Arc::default();
        let write = pool(&place, MAX_CONNECTIONS, &Arc::default());
        let feed = pool(&place, FEED_CONNECTIONS, &feed_connections);
        let waiting = Arc::new(Semaphore::new(WAITING_CHANGES));
        Ok(Self { read: write.clone(), write, feed, feed_connections, waiting })
    }

    pub(super) async fn close(&self) {
        let closed = async {
            self.feed.close().await;
            self.write.close().await;
        };
        if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::debug!("the store's connections did not end in order");
        }
    }

    /// How many connections of the feed were made so far: another database needs another.
    pub(super) fn feed_connections(&self) -> u64 {
        self.feed_connections.load(Ordering::Relaxed)
    }

    /// What tells this database from one that was promoted or recovered to an earlier moment: that needs new connections.
    /// Empty where the server does not say.
    pub(super) async fn history(&self) -> Result<String, StoreError> {
        let history = sqlx::query_scalar(
            "SELECT concat((SELECT system_identifier FROM pg_control_system()), '/', \
             substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))",
        );
        match history.fetch_one(&self.feed).await {
            Err(sqlx::Error::Database(error)) if !is_passing(&*error) => Ok(String::new()),
            done => Ok(done?),
        }
    }

    /// A transaction that changes what is configured: what it reads of that cannot change before it commits.
    pub(super) async fn begin(&self) -> Result<Transaction, StoreError> {
        // Given up once the lock is held: then as many others may wait for it.
        let waits = self.waiting.acquire().await;
        let mut tx = self.write.begin().await?;
        // Not together with BEGIN: whoever gives up in between would leave a transaction that nobody knows of.
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1, $2)").bind(LOCKS).bind(CHANGES);
        lock.execute(&mut *tx).await?;
        drop(waits);
        Ok(tx)
    }

    /// A transaction that changes nothing that is configured, beside those that do.
    async fn begin_beside(&self) -> Result<Transaction, StoreError> {
        Ok(self.write.begin().await?)
    }

    /// A transaction that records usage of a node, beside those of other nodes. No other of this node runs.
    async fn begin_usage(&self, node: &str) -> Result<Transaction, StoreError> {
        let mut tx = self.write.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))")
            .bind(NODE_LOCKS)
            .bind(node)
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// A transaction that reads, and sees the tables as they are now.
    async fn begin_reading(&self) -> Result<Transaction, StoreError> {
        Ok(self.read.begin_with(BEGIN_READING).await?)
    }

    /// A transaction that tidies up, and sees the tables as they are now. `None` while another process does.
    async fn begin_tidying(&self) -> Result<Option<Transaction>, StoreError> {
        self.begin_alone(BEGIN_TIDYING).await
    }

    /// The same for one that sees each row as it is when it comes there, and does not give way to those who write others.
    async fn begin_moving(&self) -> Result<Option<Transaction>, StoreError> {
        self.begin_alone("BEGIN").await
    }

    async fn begin_alone(&self, begin: &'static str) -> Result<Option<Transaction>, StoreError> {
        let mut tx = self.write.begin_with(begin).await?;
        tx.execute(LONG_STATEMENTS).await?;
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, $2)")
            .bind(LOCKS)
            .bind(TIDYING)
            .fetch_one(&mut *tx)
            .await?;
        Ok(is_ours.then_some(tx))
    }
}

/// Connections that are made when they are needed, and counted.
/// The store at this URL, as it is told: without its password.
pub(super) fn name(url: &str) -> Result<String, StoreError> {
    Ok(Place::parse(url)?.to_string())
}

fn pool(place: &Place, connections: u32, made: &Arc<AtomicU64>) -> PgPool {
    let made = Arc::clone(made);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for >= PING_AFTER {
                    ping(connection).await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| Box::pin(is_at_rest(connection)))
        .after_connect(move |connection, _| {
            made.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                connection.execute(SESSION).await?;
                // Behind a name that moves on with a failover may still be one that only follows.
                if is_standby(connection).await? { Err(standby()) } else { Ok(()) }
            })
        })
        .connect_lazy_with(place.options().clone())
}

/// Waits until only this transaction writes sessions' ends. Nothing that another may hold is taken after it.
async fn hold_ends(tx: &mut Transaction) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1, $2)").bind(LOCKS).bind(ENDS).execute(&mut **tx).await?;
    Ok(())
}

/// The sum of a count: no more than can be kept, whatever its rows say.
fn sum_of(count: &str) -> String {
    format!("CAST(LEAST(GREATEST(SUM({count}), 0), {}) AS BIGINT)", i64::MAX)
}

/// The beginnings of spans in a range, as a table of one column, if they are not too many. Given as numbers, they tell whoever
/// plans how many there are.
fn beginnings(range: &Range<i64>, span: i64) -> Option<String> {
    let first = range.start.saturating_add(span - 1).div_euclid(span) * span;
    let series = || format!("generate_series({first}::bigint, {}, {span})", range.end - 1);
    (range.end.saturating_sub(first) / span <= MOST_BEGINNINGS).then(series)
}

/// A call to the database, which does not take for ever.
pub(super) async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("it took too long".into())))
}

/// The same for what may take longer.
pub(super) async fn in_long_time<T>(
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let done = timeout(LONG_CALL_TIMEOUT, call).await;
    done.unwrap_or_else(|_| Err(StoreError::Unavailable("it took too long".into())))
}

/// Whether a connection that was given back can be used again. A call that was given up leaves it waiting for an answer that
/// may never come, or within a transaction that nobody knows of.
async fn is_at_rest(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Within a transaction `now` is when that began; within a failed one the question fails too. As one message: of several a
    // transaction begins with the first, and the statement with the last.
    let question = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection);
    let answer = timeout(PING_TIMEOUT, question).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    answer.try_get(0)
}

async fn is_standby(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await
}

/// Whether the server may answer otherwise in a moment.
fn is_passing(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| UNAVAILABLE.contains(&&*code))
}

fn standby() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other("the server is a standby, which takes no changes"))
}

async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    timeout(PING_TIMEOUT, connection.ping()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Looks whether the database is there, and brings its tables up to date.
async fn prepare(place: &Place) -> Result<(), StoreError> {
    let connecting = timeout(CONNECT_TIMEOUT, place.options().connect()).await;
    let connected = connecting.map_err(|_| place.unreachable("it does not answer".into()))?;
    let mut connection = connected.map_err(|error| open_error(place, error))?;
    if is_standby(&mut connection).await.map_err(|error| open_error(place, error))? {
        return Err(open_error(place, standby()));
    }
    migrate(place, &mut connection).await?;
    drop(connection.close().await);
    Ok(())
}

/// Brings the tables up to date: of several processes that start at once, one does it. Where there is nothing to do, no
/// right to make tables is needed.
async fn migrate(place: &Place, connection: &mut PgConnection) -> Result<(), StoreError> {
    if is_up_to_date(place, connection).await? {
        return Ok(());
    }
    connection.execute(MIGRATION_SESSION).await.map_err(|error| open_error(place, error))?;
    // Not `run`: a future that borrows a connection through `Acquire` is not `Send`.
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| migrate_error(place, error))
}

async fn is_up_to_date(place: &Place, connection: &mut PgConnection) -> Result<bool, StoreError> {
    let table = &MIGRATIONS.table_name;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&**table)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| open_error(place, error))?;
    if !exists {
        return Ok(false);
    }
    let applied = connection.list_applied_migrations(table).await;
    let applied = applied.map_err(|error| migrate_error(place, error))?;
    for done in &applied {
        let known = MIGRATIONS.iter().find(|it| it.version == done.version);
        let Some(known) = known else {
            return Err(migrate_error(place, MigrateError::VersionMissing(done.version)));
        };
        if known.checksum != done.checksum {
            return Err(migrate_error(place, MigrateError::VersionMismatch(done.version)));
        }
    }
    Ok(applied.len() == MIGRATIONS.iter().count())
}

fn migrate_error(place: &Place, error: MigrateError) -> StoreError {
    let store = place.to_string();
    match error {
        MigrateError::VersionMissing(migration) => StoreError::Newer { store, migration },
        MigrateError::VersionMismatch(migration) => StoreError::Foreign { store, migration },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => open_error(place, error),
        error => StoreError::Open { store, source: error.into() },
    }
}

fn open_error(place: &Place, error: sqlx::Error) -> StoreError {
    let store = place.to_string();
    let answer = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match answer.as_deref() {
        Some(code::INVALID_PASSWORD | code::INVALID_AUTHORIZATION) => {
            StoreError::SignIn { store, source: cause(error) }
        }
        Some(code::NO_SUCH_DATABASE) => StoreError::NoDatabase { store, source: cause(error) },
        Some(code::NO_RIGHT | code::NO_SUCH_SCHEMA) => StoreError::NoRight { store, source: cause(error) },
        Some(code::CANNOT_CONNECT_NOW | code::TOO_MANY_CONNECTIONS) | None => place.unreachable(cause(error)),
        Some(_) => StoreError::Open { store, source: cause(error) },
    }
}
