use std::path::PathBuf;

use crate::store::{
    AccountId, MAX_ANSWERS, MAX_IDENTIFIER_RULES_OF_KEY, MAX_SHARED_SECRETS, MAX_SHARED_SECRETS_OF_KEY,
    MAX_WEBHOOKS,
};

/// What lies behind an error, whatever database it comes from.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store could not do what it was asked. Each is one line that says what to do; the cause, where there
/// is one, is the error's source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names a kind of store that this binary does not have.
    #[error(
        "the store URL {url:?} must begin with `sqlite:` and a path, as in sqlite:/var/lib/turnery/turnery.db, or with \
         `postgres://`, as in postgres://turnery@db.example/turnery"
    )]
    Scheme {
        /// What was given, without what may be a password.
        url: String,
    },
    /// The URL of a PostgreSQL database cannot be read.
    #[error(
        "the store URL cannot be read: {fault}; it should be like postgres://turnery@db.example:5432/turnery?sslmode=require"
    )]
    Url {
        /// What is wrong with it.
        fault: String,
    },
    /// Nothing answers at the URL.
    #[error("cannot reach the store {store}: check that PostgreSQL runs there and lets this host connect")]
    Unreachable {
        /// Which, without its password.
        store: String,
        /// What came instead of an answer.
        source: Cause,
    },
    /// The server does not believe the user.
    #[error(
        "the store {store} refuses this user: check its name, its password (in PGPASSWORD, a password file or the URL) and \
         the server's pg_hba.conf"
    )]
    SignIn {
        /// Which, without its password.
        store: String,
        /// What the server said.
        source: Cause,
    },
    /// The server has no such database.
    #[error("there is no database for the store {store}: make one with `createdb`")]
    NoDatabase {
        /// Which, without its password.
        store: String,
        /// What the server said.
        source: Cause,
    },
    /// The user may not make or read the tables.
    #[error(
        "the user of the store {store} may not make its tables: let it own the database (or GRANT CREATE ON SCHEMA public), \
         or start a node first whose user may"
    )]
    NoRight {
        /// Which, without its password.
        store: String,
        /// What the server said.
        source: Cause,
    },
    /// The URL has no path to a file.
    #[error(
        "the store URL {url:?} names no file: give a path, as in sqlite:/var/lib/turnery/turnery.db \
         (a store in memory would forget its keys)"
    )]
    NoPath {
        /// What was given.
        url: String,
    },
    /// The store's file cannot be made or opened for writing.
    #[error(
        "cannot open the store {} for writing: check that its directory exists and that this user may write there",
        path.display()
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is not a Turnery store: it is not an SQLite database", path.display())]
    NotADatabase {
        /// Which file.
        path: PathBuf,
    },
    /// The database is one, but could not be opened or brought up to date.
    #[error("cannot open the store {store}")]
    Open {
        /// Which: a file, or a URL without its password.
        store: String,
        /// What the database said.
        source: Cause,
    },
    /// A newer binary has changed the tables.
    #[error(
        "the store {store} was written by a newer Turnery (migration {migration}); upgrade turnery or restore an older backup"
    )]
    Newer {
        /// Which: a file, or a URL without its password.
        store: String,
        /// The first migration that this binary does not know.
        migration: i64,
    },
    /// A migration that ran on this store was another text than this binary's.
    #[error(
        "the store {store} was written by another build of Turnery (its migration {migration} differs); \
         use the build that wrote it or restore a backup"
    )]
    Foreign {
        /// Which: a file, or a URL without its password.
        store: String,
        /// The migration that differs.
        migration: i64,
    },
    /// The operating system gave no randomness for a new id or secret.
    #[error("the operating system's random generator failed")]
    Randomness,
    /// There is no such account.
    #[error("there is no account {0}")]
    NoSuchAccount(AccountId),
    /// The account exists already.
    #[error("there is an account {0} already")]
    AccountExists(AccountId),
    /// Another API token has the same text.
    #[error("there is an API token with this text already")]
    TokenExists,
    /// The account may have no more keys.
    #[error("the account has {limit} TURN keys, and that is the most it may have: delete one first")]
    TooManyKeys {
        /// How many it may have.
        limit: u32,
    },
    /// The TURN key may have no more shared secrets.
    #[error(
        "the TURN key has {MAX_SHARED_SECRETS_OF_KEY} shared secrets, and that is the most it may have: remove one first"
    )]
    TooManySharedSecretsOfKey,
    /// There may be no more shared secrets in the deployment.
    #[error(
        "there are {MAX_SHARED_SECRETS} shared secrets, and that is the most there may be: remove one first"
    )]
    TooManySharedSecrets,
    /// The TURN key may have no more revocations by customIdentifier.
    #[error(
        "the TURN key has {MAX_IDENTIFIER_RULES_OF_KEY} revocations by customIdentifier in force, and that is the most \
         it may have: revoke what was issued before now instead"
    )]
    TooManyIdentifierRules,
    /// The account may have no more webhooks.
    #[error("the account has {MAX_WEBHOOKS} webhooks, and that is the most it may have: delete one first")]
    TooManyWebhooks,
    /// A request with this `Idempotency-Key` was answered already.
    #[error("the request was answered already")]
    AnsweredAlready,
    /// Too many answers are kept for the API token.
    #[error(
        "{MAX_ANSWERS} requests with an Idempotency-Key were answered within a day, and that is the most"
    )]
    TooManyAnswers,
    /// A TURN key has this shared secret.
    #[error("this shared secret is in use already: choose another, or have one generated")]
    SharedSecretExists,
    /// The cipher refused.
    #[error("sealing a shared secret failed")]
    Seal,
    /// The database does not answer. Whether what was asked for was done is not known.
    #[error("the store does not answer")]
    Unavailable(#[source] Cause),
    /// Others changed the same rows; what was asked for was not done, and may be asked for again.
    #[error("the store was busy with the same rows")]
    Conflict(#[source] Cause),
    /// The database refused.
    #[error("the store failed")]
    Database(#[source] Cause),
    /// Only a store in SQLite is copied, and only into one in PostgreSQL.
    #[error("a store is copied from sqlite:PATH to postgres://…")]
    CopyKinds,
    /// The store to copy into is in use.
    #[error("the store to copy into is not empty: there are {table}; make a new database")]
    CopyTarget {
        /// A table with rows.
        table: &'static str,
    },
    /// What was copied is not what there was.
    #[error("of {had} rows of {table}, {has} were copied; nothing is kept: was the store in use?")]
    CopyCount {
        /// Which table.
        table: &'static str,
        /// Its rows in the first store.
        had: i64,
        /// And in the second.
        has: i64,
    },
    /// A row holds what this binary never writes.
    #[error("the store holds an invalid {what}: restore a backup")]
    Corrupt {
        /// Which column.
        what: &'static str,
    },
}

/// The database's own words, without those that sqlx puts around them: it says the cause twice.
pub(super) fn cause(error: sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Database(error) => error.into_error(),
        sqlx::Error::Io(error) => error.into(),
        sqlx::Error::Configuration(error) | sqlx::Error::Tls(error) => error,
        error => error.into(),
    }
}

/// The SQLSTATE code of what this user has no right to.
const DENIED: &str = "42501";

impl StoreError {
    /// Whether the user of the database has no right to what was asked for.
    pub fn is_denied(&self) -> bool {
        let Self::Database(cause) = self else { return false };
        let error = cause.downcast_ref::<sqlx::postgres::PgDatabaseError>();
        error.is_some_and(|error| error.code() == DENIED)
    }
}

/// SQLSTATE codes of a server that is about to end, does not let this process in now, or may only be read from; of a lock
/// that was waited for too long, and of what took too long; and of transactions that were in each other's way. SQLite's codes look otherwise.
pub(super) const UNAVAILABLE: [&str; 11] =
    ["08000", "08003", "08006", "25006", "25P03", "53300", "55P03", "57014", "57P01", "57P02", "57P03"];
const CONFLICT: [&str; 2] = ["40001", "40P01"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let answer = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match (&error, answer.as_deref()) {
            (_, Some(code)) if UNAVAILABLE.contains(&code) => Self::Unavailable(cause(error)),
            (_, Some(code)) if CONFLICT.contains(&code) => Self::Conflict(cause(error)),
            (
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed,
                _,
            ) => Self::Unavailable(cause(error)),
            _ => Self::Database(cause(error)),
        }
    }
}
