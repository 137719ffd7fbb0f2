//! Many nodes at one database: what they cost it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use control::store::Store;
use control::{Feed, News};
use credentials::{CredentialId, Keyring};
use sqlx::postgres::PgListener;
use testkit::postgres::Cluster;
use tokio::time::{Instant, timeout, timeout_at};

use super::{soon, suite};
use suite::server::now;

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
    let mut following = tokio::task::JoinSet::new();
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
    tokio::time::sleep(Duration::from_secs(4)).await;
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
