//! Everything against SQLite, and what only it has.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use control::store::Store;
use control::{Feed, News};
use credentials::{CredentialId, Denial, Keyring};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use self::suite::server::now;
use crate::open_error;

// Compiled once for each database.
#[path = "suite/mod.rs"]
#[allow(clippy::duplicate_mod)]
pub(crate) mod suite;

/// Where a test's store is.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.dir().join("turnery.db").display())
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a statement beside those of the store.
    pub(crate) async fn execute(&self, sql: &str) {
        let options = SqliteConnectOptions::new().filename(self.dir().join("turnery.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> u64 {
        let options = SqliteConnectOptions::new().filename(self.dir().join("turnery.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.unsigned_abs()
    }

    /// A value of bytes as it is written in a statement.
    pub(crate) fn bytes(hex: &str) -> String {
        format!("x'{hex}'")
    }

    /// Whether the database's files, with the log that is written ahead of it, have these bytes somewhere.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        let files = std::fs::read_dir(self.dir()).unwrap();
        let mut files = files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.any(|file| file.windows(bytes.len()).any(|it| it == bytes))
    }
}

async fn store() -> (Place, Store) {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    (place, store)
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let place = Place::new();
    let check = async |url: &str, words: &[&str]| {
        let text = open_error(url).await;
        assert!(!text.contains("s3cret"), "{text}");
        for word in words {
            assert!(text.contains(word), "{url}: {text:?} says {word:?}");
        }
    };
    check("mysql://me:s3cret@db/turnery", &["sqlite:", "postgres://", "mysql://"]).await;
    check("turnery.db", &["sqlite:", "turnery.db"]).await;
    check("sqlite:", &["names no file"]).await;
    check("sqlite::memory:", &["names no file"]).await;
    let missing = place.dir().join("missing/turnery.db");
    check(&format!("sqlite:{}", missing.display()), &["missing/turnery.db", "No such file"]).await;
    check(&format!("sqlite:{}", place.dir().display()), &["cannot open", "directory"]).await;
    check("sqlite:/proc/turnery.db", &["/proc/turnery.db", "cannot open"]).await;
    let other = place.dir().join("other.db");
    std::fs::write(&other, "this is no database, but it is longer than a header would be. ".repeat(40))
        .unwrap();
    check(&format!("sqlite:{}", other.display()), &["other.db", "not an SQLite database"]).await;
}

#[tokio::test]
async fn a_store_from_the_future_is_left_alone() {
    let (place, store) = store().await;
    store.close().await;
    let path = place.dir().join("turnery.db");
    place
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'future', TRUE, x'00', 1)",
        )
        .await;
    let text = open_error(&place.url()).await;
    let want = format!(
        "the store {} was written by a newer Turnery (migration 9999); upgrade turnery or restore an older backup",
        path.display()
    );
    assert_eq!(text, want);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let (place, _store) = store().await;
    for name in ["turnery.db", "turnery.db-wal"] {
        let mode = std::fs::metadata(place.dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_damaged_store_says_its_fault_once() {
    let (place, store) = store().await;
    store.close().await;
    place.execute("DELETE FROM _sqlx_migrations").await;
    let text = open_error(&place.url()).await;
    assert_eq!(text.matches("table accounts already exists").count(), 1, "{text}");
}

/// With an hour between two looks, only what the system says can be heard.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_changes_is_heard_at_once() {
    let (place, here) = store().await;
    let elsewhere = Store::open(&place.url()).await.unwrap();
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let feed = Feed::new(here, keyring).polling_every(Duration::from_hours(1));
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let on = move |news: &News| {
        if let News::Denied(denial) = news {
            said.send(*denial).unwrap();
        }
    };
    feed.subscribe(on).await.unwrap();
    let following = tokio::spawn(async move { feed.run().await });
    for n in 0..100 {
        let (id, until) = (CredentialId::from_bytes([n; 16]), now() + 1_000);
        elsewhere.revoke(id, until).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await;
        assert_eq!(next.expect("it is told"), Some(Denial::Credential { id, until }));
    }
    following.abort();
}

/// Who looks again and again does so while changes are made, and hardly otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_where_nothing_changes() {
    let (place, here) = store().await;
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let feed = Feed::new(here.clone(), keyring);
    let following = tokio::spawn(async move { feed.run().await });
    let mut looks = here.looks(Duration::from_millis(10));
    let patience = Duration::from_secs(30);
    let told = async {
        while !looks.are_told() {
            looks.next(None).await;
        }
        // What was said until now.
        while tokio::time::timeout(Duration::from_secs(1), looks.next(None)).await.is_ok() {}
    };
    tokio::time::timeout(patience, told).await.expect("it is told, and then nothing more");
    let by = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    tokio::time::timeout(Duration::from_secs(5), looks.next(by)).await.expect("something is due");
    place.execute("PRAGMA user_version = 7").await;
    tokio::time::timeout(Duration::from_secs(5), looks.next(None))
        .await
        .expect("another process has written");
    following.abort();
    assert!(following.await.is_err());
    assert!(!looks.are_told(), "nobody listens any more");
    tokio::time::timeout(Duration::from_secs(5), looks.next(None)).await.expect("so it is looked");
}

/// The numbers of rows of a table that others see while this is done.
async fn seen_of(place: &Place, table: &str, done: impl Future) -> BTreeSet<i64> {
    let options = SqliteConnectOptions::new().filename(place.dir().join("turnery.db"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let mut seen = BTreeSet::new();
    let look = async {
        loop {
            let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
            seen.insert(sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        biased;
        _ = done => {}
        () = look => {}
    }
    seen
}

/// So that nobody who writes waits for long.
#[tokio::test]
async fn much_usage_is_summed_up_and_forgotten_in_pieces() {
    use suite::much_usage::{fill, tidy};
    use suite::usage::{made_key, node, report};
    let server = suite::server::server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    store.record_usage(&node("a"), &[report(1, key, 1, "2026-03-01T10:00:35Z", 7)]).await.unwrap();
    fill(&server.place, 15_000, 3).await;
    let seen = seen_of(&server.place, "usage_buckets", tidy(store, "2026-03-01T12:00:00Z")).await;
    assert!(seen.iter().any(|rows| (1..45_001).contains(rows)), "{seen:?}");
    let deleted = async { store.delete_account(&server.account.id).await.unwrap().unwrap() };
    let seen = seen_of(&server.place, "usage_days WHERE grain = 0", deleted).await;
    assert!(seen.contains(&5_001), "{seen:?}");
    server.stop().await;
}
