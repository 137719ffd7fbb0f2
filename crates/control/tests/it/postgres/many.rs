//! Many nodes at one database: what they cost it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use control::store::usage::{REPORTS_AT_ONCE, SessionReport};
use control::store::{AccountId, Store};
use control::{Control, Feed, News};
use credentials::{CredentialId, Keyring};
use sqlx::postgres::PgListener;
use testkit::postgres::Cluster;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Place, soon, suite};
use suite::server::{config, now};
use suite::usage::{node, report};

/// Nodes with an API, as long as this is kept.
async fn serving(url: &str, nodes: usize) -> JoinSet<()> {
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let mut serving = JoinSet::new();
    for _ in 0..nodes {
        let store = Store::open(url).await.unwrap();
        let control = Control::new(config(), store, Arc::clone(&keyring)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serving.spawn(async move { control.serve(listener, None, std::future::pending()).await.unwrap() });
    }
    serving
}

/// What one node can do for all, one does: usage is held against limits, and webhooks are looked after.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_nodes_at_rest_one_looks() {
    const NODES: usize = 5;
    const SECS: usize = 10;
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let nodes = serving(&url, NODES).await;
    sleep(Duration::from_secs(6)).await;
    cluster.sql("postgres", "ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf()");
    sleep(Duration::from_secs(1)).await;
    let log = || std::fs::read_to_string(cluster.dir().join("log")).unwrap();
    let before = log().len();
    sleep(Duration::from_secs(SECS as u64)).await;
    let said = log().split_off(before);
    drop(nodes);
    let count = |words: &str| said.lines().filter(|line| line.contains(words)).count();
    let all = count("LOG:  execute ") + count("LOG:  statement: ");
    println!("{NODES} nodes at rest ask {all} times in {SECS} seconds");
    for words in ["FROM month_limits", "FROM session_ends", "FROM webhooks w WHERE"] {
        let looks = count(words);
        println!("{looks} times {words}");
        assert!((SECS / 2..2 * SECS).contains(&looks), "{looks} looks in {SECS} seconds: {words}");
    }
}

/// A webhook of an account, and a key, for what is told of.
async fn with_a_webhook(store: &Store) -> AccountId {
    let account = store.create_account(None, "").await.unwrap().id;
    let keyring = Keyring::generate(now()).unwrap();
    store.create_webhook(&keyring, &account, "http://127.0.0.1:1/", &[]).await.unwrap();
    account
}

/// How long it takes until it is tried to tell of a change.
async fn tried_after(place: &Place, store: &Store, account: &AccountId) -> Duration {
    place.sql("DELETE FROM deliveries");
    store.create_key(account, "").await.unwrap();
    let begun = Instant::now();
    let tried = async {
        while place.sql("SELECT COUNT(*) FROM deliveries WHERE attempts > 0") == "0" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), tried).await.expect("it is tried");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_within_about_a_second_and_also_when_who_does_is_gone() {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    let account = with_a_webhook(&store).await;
    let first = serving(&place.url(), 1).await;
    sleep(Duration::from_secs(1)).await;
    let _others = serving(&place.url(), 3).await;
    // Longer than anybody goes on looking after he has found something.
    for secs in [4, 5, 6] {
        sleep(Duration::from_secs(secs)).await;
        let took = tried_after(&place, &store, &account).await;
        println!("told after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        place.sql("DELETE FROM deliveries");
    }
    sleep(Duration::from_secs(4)).await;
    drop(first);
    let took = tried_after(&place, &store, &account).await;
    println!("told after {took:?} by another node");
    assert!(took < Duration::from_secs(7), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_once_however_many_nodes_tell() {
    const ENDS: usize = 3 * REPORTS_AT_ONCE;
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    let account = with_a_webhook(&store).await;
    let key = store.create_key(&account, "").await.unwrap().key.uid;
    let ended = |n: usize| {
        let mut report = report(1, key, 2, "2026-03-01T10:01:00Z", 7);
        report.id.0[..8].copy_from_slice(&n.to_be_bytes());
        SessionReport { ended: Some("expired"), ..report }
    };
    let reports: Vec<_> = (0..ENDS).map(ended).collect();
    for some in reports.chunks(REPORTS_AT_ONCE) {
        store.record_usage(&node("a"), some).await.unwrap();
    }
    // Each looks for itself as long as it does not know who does.
    let _nodes = serving(&place.url(), 4).await;
    let told = "SELECT COUNT(*) FROM deliveries WHERE body LIKE '%session.ended%'";
    let all = async {
        while place.sql(told).parse::<usize>().unwrap() < ENDS {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.expect("all are told");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(place.sql(told).parse(), Ok(ENDS));
    let sessions = "SELECT COUNT(DISTINCT body::json #>> '{data,details,id}') FROM deliveries \
                    WHERE body LIKE '%session.ended%'";
    assert_eq!(place.sql(sessions).parse(), Ok(ENDS));
}

/// How often anybody asks whether notifications arrive, until then.
async fn asked(url: &str, until: Instant) -> usize {
    let mut listener = PgListener::connect(url).await.unwrap();
    listener.listen("turnery_probe").await.unwrap();
    let mut asked = 0;
    while timeout_at(until, listener.recv()).await.is_ok() {
        asked += 1;
    }
    asked
}

/// What is revoked is heard of by all within seconds, and few of them ask whether they are told.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_come_back_to_a_database_do_not_come_together() {
    const NODES: usize = 24;
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let url = cluster.database();
    let store = Store::open(&url).await.unwrap();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut following = JoinSet::new();
    for _ in 0..NODES {
        let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
        let feed = Feed::new(Store::open(&url).await.unwrap(), keyring);
        let said = said.clone();
        let on = move |news: &News| {
            if matches!(news, News::Denied(_)) {
                said.send(()).unwrap();
            }
        };
        feed.subscribe(on).await.unwrap();
        following.spawn(async move { feed.run().await });
    }
    // Each listens by then.
    sleep(Duration::from_secs(4)).await;
    tokio::task::block_in_place(|| {
        cluster.kill();
        cluster.start_again();
    });
    let back = Instant::now();
    let counted = tokio::spawn(async move { asked(&url, back + Duration::from_secs(6)).await });
    soon(async || store.revoke(CredentialId::from_bytes([1; 16]), now() + 1_000).await).await;
    for _ in 0..NODES {
        timeout(Duration::from_secs(20), heard.recv()).await.expect("all hear").unwrap();
    }
    let took = back.elapsed();
    let asked = counted.await.unwrap();
    println!("{NODES} nodes heard {took:?} after the database was back, {asked} asked");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(asked <= NODES / 2, "{asked} of {NODES} asked");
}

/// Whoever asks much keeps nobody from recording, minting or revoking.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn questions_about_usage_leave_connections_to_others() {
    let server = suite::server::server().await;
    let key = suite::usage::made_key(&server).await;
    let name = server.place.name().to_owned();
    let blocking = std::thread::spawn(move || {
        testkit::postgres::cluster()
            .sql(&name, "BEGIN; LOCK usage_kept IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)")
    });
    let of_database = "FROM pg_stat_activity WHERE datname = current_database()";
    let count = |and: &str| server.place.sql(&format!("SELECT COUNT(*) {of_database} AND {and}"));
    while count("wait_event = 'PgSleep'") != "1" {
        sleep(Duration::from_millis(20)).await;
    }
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let (store, account) = (server.store.clone(), server.account.id.clone());
        asking.spawn(async move { suite::much_usage::by(&store, &account, &[]).await });
    }
    while count("query LIKE '%usage_kept%' AND wait_event_type = 'Lock'") == "0" {
        sleep(Duration::from_millis(20)).await;
    }
    for sequence in 1..=5 {
        let told = report(1, key, sequence, "2026-03-01T10:00:35Z", sequence * 100);
        timeout(Duration::from_secs(2), server.store.record_usage(&node("a"), &[told]))
            .await
            .unwrap()
            .unwrap();
    }
    timeout(Duration::from_secs(2), server.store.create_key(&server.account.id, "another"))
        .await
        .unwrap()
        .unwrap();
    asking.abort_all();
    server.place.sql(&format!("SELECT pg_terminate_backend(pid) {of_database} AND wait_event = 'PgSleep'"));
    drop(blocking.join());
    server.stop().await;
}
