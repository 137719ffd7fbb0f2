//! Everything against PostgreSQL, and what only it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use control::store::{Revocation, Store, StoreError};
use control::{Feed, News};
use credentials::{CredentialId, Denial, Keyring, SealingKey};
use testkit::postgres::{Cluster, PASSWORD_USER, cluster};

use crate::{line, open_error};
use suite::server::now;

mod locks;
mod many;
mod sums;

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

    /// How many rows a table has.
    #[expect(clippy::unused_async, reason = "another database is asked")]
    pub(crate) async fn count(&self, table: &str) -> u64 {
        self.sql(&format!("SELECT COUNT(*) FROM {table}")).parse().unwrap()
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
    check("postgres://me:pa?s3cret@127.0.0.1/x", &["a parameter has no name", "%3F"]).await;
    check("postgres://me@127.0.0.1/x?password=a&s3cret", &["a parameter has no name", "%26"]).await;
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

/// What is asked for as often as a connection from before is in the way: there are at most ten.
async fn soon<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> T {
    for _ in 0..10 {
        match call().await {
            Err(StoreError::Unavailable(_)) => {}
            done => return done.unwrap(),
        }
    }
    panic!("the store does not come back");
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
        soon(async || store.create_key(&account.id, "").await).await;
    }
    assert_eq!(soon(async || store.keys(&account.id).await).await.len(), 2);
}

#[tokio::test]
async fn those_who_waited_in_vain_leave_no_connection_unusable() {
    let (place, store) = store().await;
    // As another node would that is stuck in the middle of a change, for longer than anybody waits for it.
    let name = place.name().to_owned();
    let stuck = std::thread::spawn(move || {
        cluster().sql(&name, "BEGIN; SELECT pg_advisory_xact_lock(1953854062, 1), pg_sleep(7); COMMIT")
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..30 {
        let store = store.clone();
        waiting.spawn(async move {
            // Some give up themselves, as when a caller goes away.
            let patience = Duration::from_millis(if n % 2 == 0 { 60_000 } else { 2_000 });
            let change = store.create_account(None, "waits");
            tokio::time::timeout(patience, change).await.is_ok_and(|made| made.is_ok())
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..5 {
        let read = tokio::time::timeout(Duration::from_secs(1), store.denials_after(0, 10));
        read.await.expect("who waits for others keeps nobody from the feed").unwrap();
    }
    let mut acknowledged = 0;
    while let Some(made) = waiting.join_next().await {
        acknowledged += u32::from(made.unwrap());
    }
    assert!(acknowledged < 30, "not all wait so long");
    let kept: u32 = place.sql("SELECT COUNT(*) FROM accounts WHERE name = 'waits'").parse().unwrap();
    assert!(kept >= acknowledged, "what is acknowledged is committed: {acknowledged} of {kept}");
    tokio::task::spawn_blocking(|| stuck.join().unwrap()).await.unwrap();
    for n in 0..30 {
        let account = store.create_account(None, &format!("after {n}")).await.unwrap();
        let seen = place.sql(&format!("SELECT COUNT(*) FROM accounts WHERE id = '{}'", account.id));
        assert_eq!(seen, "1", "what is acknowledged is committed");
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    let (place, store) = store().await;
    let connections = async || -> std::collections::BTreeSet<String> {
        for _ in 0..20 {
            store.accounts().await.unwrap();
            store.denials_after(0, 1).await.unwrap();
        }
        let listed = place.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'turnery' AND datname = current_database()");
        listed.lines().map(str::to_owned).collect()
    };
    let (before, after) = (connections().await, connections().await);
    assert!(after.is_superset(&before) && after.len() <= 10, "{before:?} {after:?}");
}

#[tokio::test]
async fn a_database_that_may_only_be_read_does_not_answer() {
    let (place, store) = store().await;
    place.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", place.name()));
    let failed = store.create_account(None, "").await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)), "{}", line(&failed));
}

/// What another process revokes by the time of issue is what was issued until then, whatever its clock says.
#[tokio::test]
async fn clocks_that_are_apart_revoke_what_was_issued_before() {
    use control::Control;
    let (place, _store) = store().await;
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let node = async |ahead: i64| {
        let store = Store::open(&place.url()).await.unwrap().with_clock_ahead(ahead);
        let control =
            Control::new(suite::server::config(), store.clone(), Arc::clone(&keyring)).await.unwrap();
        control.feed().catch_up().await.unwrap();
        (store, control)
    };
    let nodes = [node(30).await, node(-30).await, node(0).await];
    let account = nodes[0].0.create_account(None, "").await.unwrap().id;
    for (store, _) in &nodes {
        let made = store.create_key(&account, "").await.unwrap();
        store.revoke_of(&account, made.key.uid, &Revocation::IssuedBefore(u64::MAX)).await.unwrap();
    }
    for entry in nodes[2].0.denials_after(0, 10).await.unwrap() {
        let Denial::Issued { before, .. } = entry.denial else { panic!("{entry:?}") };
        assert!(before.abs_diff(now()) <= 3, "{before} is now, at {}", now());
    }
}

/// Three denials, then other tables as this statement makes them, and three more: all are heard, once.
async fn check_heard_after(change: &[&str], looks_between: bool) {
    let (place, store) = store().await;
    let until = now() + 1_000;
    for n in 1..=3 {
        store.revoke(CredentialId::from_bytes([n; 16]), until).await.unwrap();
    }
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let feed = Feed::new(Store::open(&place.url()).await.unwrap(), keyring);
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let on = move |news: &News| {
        if let News::Denied(Denial::Credential { id, .. }) = news {
            into.lock().unwrap().push(id.as_bytes()[0]);
        }
    };
    feed.subscribe(on).await.unwrap();
    assert_eq!(feed.position(), 3);
    for sql in change {
        place.sql(sql);
    }
    if looks_between {
        soon(async || feed.catch_up().await).await;
        assert_eq!(feed.position(), 0);
    }
    for n in 4..=6 {
        soon(async || store.revoke(CredentialId::from_bytes([n; 16]), until).await).await;
    }
    soon(async || feed.catch_up().await).await;
    assert_eq!(
        (heard.lock().unwrap().as_slice(), feed.position()),
        (&[1, 2, 3, 4, 5, 6][..], 3),
        "{change:?}"
    );
}

/// As from a backup of before the entries: the numbers begin again.
const RESTORED: &str = "BEGIN; CREATE TABLE again (LIKE denials INCLUDING ALL); DROP TABLE denials; \
                        ALTER TABLE again RENAME TO denials; COMMIT";

#[tokio::test]
async fn another_database_in_its_place_is_read_from_its_beginning() {
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
    check_heard_after(&[RESTORED, ended], false).await;
}

#[tokio::test]
async fn a_backup_that_is_restored_under_its_connections_is_read_from_its_beginning() {
    check_heard_after(&[RESTORED], false).await;
    check_heard_after(&["TRUNCATE denials RESTART IDENTITY"], false).await;
    let emptied = ["DELETE FROM denials", "ALTER TABLE denials ALTER COLUMN seq RESTART"];
    check_heard_after(&emptied, true).await;
}

/// With an hour between two looks, only what the database says can be heard.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_heard_at_once_also_after_the_store_was_away() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let (here, elsewhere) = (Store::open(&url).await.unwrap(), Store::open(&url).await.unwrap());
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
    let mut expect = async |n: u8| {
        let (id, until) = (CredentialId::from_bytes([n; 16]), now() + 1_000);
        soon(async || elsewhere.revoke(id, until).await).await;
        let next = tokio::time::timeout(Duration::from_mins(1), heard.recv()).await;
        assert_eq!(next.expect("it is told"), Some(Denial::Credential { id, until }));
    };
    for n in 0..5 {
        expect(n).await;
    }
    tokio::task::block_in_place(|| {
        cluster.kill();
        cluster.start_again();
    });
    for n in 5..10 {
        expect(n).await;
    }
    following.abort();
}

/// PostgreSQL wakes all who listen whenever anybody says something.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_are_told_few_ask_whether_they_still_are() {
    const NODES: usize = 10;
    let place = Place::new();
    let mut following = tokio::task::JoinSet::new();
    for _ in 0..NODES {
        let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
        let feed = Feed::new(Store::open(&place.url()).await.unwrap(), keyring);
        following.spawn(async move { feed.run().await });
    }
    // Each asks when it begins.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut listener = sqlx::postgres::PgListener::connect(&place.url()).await.unwrap();
    listener.listen("turnery_probe").await.unwrap();
    let (begun, mut asked) = (tokio::time::Instant::now(), 0);
    // As long as everybody must have asked, or heard somebody ask.
    while tokio::time::timeout_at(begun + Duration::from_secs(21), listener.recv()).await.is_ok() {
        asked += 1;
    }
    assert!((1..=NODES / 2).contains(&asked), "{asked} of {NODES} asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_copied_from_sqlite_and_only_into_an_empty_store() {
    use suite::usage::{node, report};
    let dir = tempfile::tempdir().unwrap();
    let old = Store::open(&format!("sqlite:{}", dir.path().join("turnery.db").display())).await.unwrap();
    let made = old.bootstrap(None, None).await.unwrap().unwrap();
    let account = made.account.id;
    let keyring = Keyring::generate(now()).unwrap();
    let mut keys = Vec::new();
    for name in ["first", "nu\0l"] {
        keys.push(old.create_key(&account, name).await.unwrap());
    }
    let uid = keys[0].key.uid;
    old.add_shared_secret(&keyring, &account, uid, "a secret that is long enough".parse().unwrap())
        .await
        .unwrap();
    for n in 0..=250 {
        old.revoke(CredentialId::from_bytes([n; 16]), now() + 1_000).await.unwrap();
    }
    old.purge_denials(now() + 2_000).await.unwrap();
    old.revoke(CredentialId::from_bytes([251; 16]), now() + 1_000).await.unwrap();
    let reports: Vec<_> = (1..9).map(|n| report(n, uid, 1, "2026-03-01T10:00:35Z", 100)).collect();
    old.record_usage(&node("a"), &reports).await.unwrap();
    let sealing = SealingKey::generate().unwrap();
    old.make_keyring(&sealing, &keyring).await.unwrap();

    let (place, new) = store().await;
    let mut told = Vec::new();
    let copied = old.copy_to(&new, |table| told.push(table)).await.unwrap();
    assert_eq!(told, copied);
    let tables = place.sql(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'",
    );
    // Nodes say themselves that they are there.
    let names: std::collections::BTreeSet<_> =
        copied.iter().map(|it| it.table).chain(["nodes", "duties"]).collect();
    assert_eq!(names, tables.lines().collect(), "no table is forgotten");
    let rows = |table: &str| copied.iter().find(|it| it.table == table).unwrap().rows;
    assert_eq!((rows("turn_keys"), rows("turn_sessions"), rows("denials")), (2, 8, 1));
    assert!(rows("audit") > 250);
    assert_eq!(new.keyring().await.unwrap().unwrap().open(&sealing).unwrap(), keyring);

    assert_eq!(new.keys(&account).await.unwrap()[0], old.keys(&account).await.unwrap()[0]);
    assert_eq!(new.denials_after(0, 10).await.unwrap(), old.denials_after(0, 10).await.unwrap());
    assert_eq!(new.usage_in_month(uid, 202_603).await.unwrap().egress_bytes, 800);
    assert_eq!(new.shared_secrets(uid).await.unwrap().len(), 1);
    assert!(new.token_with_text(made.token.text.as_str()).await.unwrap().is_some());
    let last = old.denials_after(0, 10).await.unwrap()[0].seq;
    assert!(last > 250);
    new.revoke(CredentialId::from_bytes([252; 16]), now() + 1_000).await.unwrap();
    assert_eq!(new.denials_after(last, 10).await.unwrap().len(), 1, "numbers go on");

    let again = old.copy_to(&new, |_| {}).await.unwrap_err();
    assert!(line(&again).contains("not empty: there are accounts"), "{}", line(&again));
    assert!(new.copy_to(&old, |_| {}).await.is_err());
}

/// Also what is summed up already; and what is summed up later goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn sums_are_copied_and_added_to() {
    use suite::much_usage::{all_answers, tidy};
    use suite::usage::{node, report};
    let dir = tempfile::tempdir().unwrap();
    let old = Store::open(&format!("sqlite:{}", dir.path().join("turnery.db").display())).await.unwrap();
    let account = old.bootstrap(None, None).await.unwrap().unwrap().account.id;
    let uid = old.create_key(&account, "").await.unwrap().key.uid;
    for (sequence, when) in (1..).zip([
        "2026-01-20T10:00:35Z",
        "2026-03-01T10:02:35Z",
        "2026-03-02T23:59:00Z",
        "2026-03-03T01:00:00Z",
    ]) {
        let reports: Vec<_> = (1..13).map(|id| report(id, uid, sequence, when, sequence * 100)).collect();
        old.record_usage(&node("node1"), &reports).await.unwrap();
    }
    tidy(&old, "2026-03-03T01:01:00Z").await;
    let expected = all_answers(&old, &account).await;
    assert!(expected.len() > 100, "{}", expected.len());

    let (place, new) = store().await;
    let copied = old.copy_to(&new, |_| {}).await.unwrap();
    let rows = |table: &str| copied.iter().find(|it| it.table == table).unwrap().rows;
    for table in [
        "usage_groups",
        "usage_grouped",
        "usage_buckets",
        "usage_minutes",
        "usage_hours",
        "usage_days",
        "usage_weeks",
    ] {
        assert!(rows(table) > 0, "{table}");
    }
    assert_eq!(all_answers(&new, &account).await, expected);
    tidy(&new, "2026-03-03T02:00:00Z").await;
    assert_eq!(place.count("usage_buckets").await, 0);
    assert_eq!(all_answers(&new, &account).await, expected);
    // Whom nobody has heard of yet is in groups of his own.
    for store in [&old, &new] {
        let told = report(99, uid, 1, "2026-03-03T01:30:00Z", 100);
        store.record_usage(&node("node2"), &[told]).await.unwrap();
        tidy(store, "2026-03-03T02:00:00Z").await;
    }
    let with_more = all_answers(&new, &account).await;
    assert_ne!(with_more, expected);
    assert_eq!(with_more, all_answers(&old, &account).await);
}
