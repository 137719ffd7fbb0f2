//! Everything against PostgreSQL, and what only it has.

use std::collections::BTreeMap;

use control::store::{Store, StoreError};
use testkit::postgres::{Cluster, PASSWORD_USER, cluster};

use crate::{line, open_error};

// Compiled once for each database.
#[path = "suite/mod.rs"]
#[allow(clippy::duplicate_mod)]
mod suite;

/// Where a test's store is: a database of its own.
pub(crate) struct Place {
    url: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { url: cluster().database() }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// Runs a statement beside those of the store.
    #[expect(clippy::unused_async, reason = "another database is asked")]
    pub(crate) async fn execute(&self, sql: &str) {
        self.sql(sql);
    }

    fn sql(&self, sql: &str) -> String {
        cluster().sql(self.name(), sql)
    }

    /// A value of bytes as it is written in a statement.
    pub(crate) fn bytes(hex: &str) -> String {
        format!("'\\x{hex}'::bytea")
    }

    /// Whether the database's files have these bytes somewhere.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.sql("CHECKPOINT");
        let number = self.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
        let files = std::fs::read_dir(cluster().dir().join("data/base").join(number)).unwrap();
        let mut files = files.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.any(|file| file.windows(bytes.len()).any(|it| it == bytes))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        cluster().sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name()));
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
    let port = cluster().port();
    let (guarded, _) = PASSWORD_USER;
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    check(
        &format!("postgres://me:s3cret@127.0.0.1:{nowhere}/x"),
        &["cannot reach", "refused", "me@127.0.0.1"],
    )
    .await;
    check(&format!("postgres://{guarded}:s3cret@127.0.0.1:{port}/{}", place.name()), &["password", guarded])
        .await;
    check(
        &format!("postgres://postgres:s3cret@127.0.0.1:{port}/none"),
        &["no database", "/none", "createdb"],
    )
    .await;
    check(&format!("postgres://postgres@127.0.0.1:{port}/x?sslmode=require"), &["cannot reach", "TLS"]).await;
    check("postgres://me:s3cret@127.0.0.1:5432/x?sslmod=require", &["\"sslmod\" is no parameter"]).await;
    check("postgres://me:s3cret@127.0.0.1:70000/x", &["cannot be read", "port"]).await;
    check("postgres:me", &["must begin with"]).await;
    // Public may not make tables since PostgreSQL 15.
    let url = cluster().url("nobody_in_particular", place.name());
    place.sql("CREATE ROLE nobody_in_particular LOGIN");
    check(&url, &["may not make its tables", "permission denied"]).await;
    Store::open(&place.url()).await.unwrap();
    check(&url, &["permission denied"]).await;
}

#[tokio::test]
async fn a_password_is_taken_from_the_url() {
    let place = Place::new();
    let (user, password) = PASSWORD_USER;
    place.sql(&format!("GRANT ALL ON SCHEMA public TO {user}"));
    let url = format!("postgres://{user}:{password}@127.0.0.1:{}/{}", cluster().port(), place.name());
    let store = Store::open(&url).await.unwrap();
    assert!(!format!("{store:?}").contains(password), "it is not shown");
    store.bootstrap(None, None).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_from_the_future_is_left_alone() {
    let (place, store) = store().await;
    store.close().await;
    let migration = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)";
    place.sql(&format!("{migration} VALUES (9999, 'future', TRUE, '\\x00', 1)"));
    let text = open_error(&place.url()).await;
    assert!(text.contains("newer Turnery (migration 9999)"), "{text}");
    place.sql("DELETE FROM _sqlx_migrations WHERE version = 9999");
    place.sql("UPDATE _sqlx_migrations SET checksum = '\\x00'");
    let text = open_error(&place.url()).await;
    assert!(text.contains("another build of Turnery"), "{text}");
}

/// Tables with their columns: whether each may be NULL.
type Tables = BTreeMap<String, BTreeMap<String, bool>>;

fn tables(rows: impl Iterator<Item = (String, String, bool)>) -> Tables {
    let mut tables = Tables::new();
    for (table, column, is_null) in rows {
        tables.entry(table).or_default().insert(column, is_null);
    }
    tables.remove("_sqlx_migrations");
    tables
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    use sqlx::Connection;
    let (place, _store) = store().await;
    let listed = place.sql(
        "SELECT table_name, column_name, is_nullable = 'YES' FROM information_schema.columns \
         WHERE table_schema = 'public'",
    );
    let here = tables(listed.lines().map(|line| {
        let mut fields = line.split('|').map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap() == "t")
    }));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turnery.db");
    Store::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut connection = sqlx::sqlite::SqliteConnection::connect_with(&options).await.unwrap();
    let listed: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT t.name, c.name, c.\"notnull\" = 0 AND c.pk = 0 FROM sqlite_schema t, pragma_table_info(t.name) c \
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let there = tables(listed.into_iter());
    assert!(there.len() > 20, "{there:?}");
    assert_eq!(here, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_comes_back_by_itself() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let store = Store::open(&cluster.database()).await.unwrap();
    let account = store.create_account(None, "a").await.unwrap();
    for end in [Cluster::kill, Cluster::stop] {
        tokio::task::block_in_place(|| end(&cluster));
        let failed = store.create_key(&account.id, "").await.unwrap_err();
        assert!(matches!(failed, StoreError::Unavailable(_)), "{}", line(&failed));
        tokio::task::block_in_place(|| cluster.start_again());
        store.create_key(&account.id, "").await.unwrap();
    }
    assert_eq!(store.keys(&account.id).await.unwrap().len(), 2);
}
