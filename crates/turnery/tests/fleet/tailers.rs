//! Many relays that follow the deny feed of one database: what that costs, and how long news takes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use control::store::Store;
use control::{Feed, News};
use credentials::{CredentialId, Keyring};
use testkit::postgres::Cluster;

use crate::{alone, given};

/// How long the quiet fleet is watched, and then the busy one.
const WATCHED: Duration = Duration::from_secs(5);
/// The same for figures: longer than nodes wait until they try whether they are told.
const WATCHED_LONG: Duration = Duration::from_secs(25);
/// Between two revocations of the busy one.
const PAUSE: Duration = Duration::from_millis(100);

/// One simulated relay: the real feed on connections of its own.
struct Tailer {
    store: Store,
    /// When its newest denial came, in microseconds since the beginning.
    heard_us: Arc<AtomicU64>,
    count: Arc<AtomicU64>,
}

async fn tailer(url: &str, begun: Instant) -> Tailer {
    let store = Store::open(url).await.unwrap();
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(0).unwrap()));
    let feed = Feed::new(store.clone(), keyring);
    let (heard_us, count) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let (heard, counted) = (Arc::clone(&heard_us), Arc::clone(&count));
    let hear = move |news: &News| {
        if matches!(news, News::Denied(_)) {
            heard.store(u64::try_from(begun.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    feed.subscribe(hear).await.unwrap();
    tokio::spawn(async move { feed.run().await });
    Tailer { store, heard_us, count }
}

/// What all of the server's processes have used of a processor.
fn database_cpu(cluster: &Cluster) -> Duration {
    let file = fs::read_to_string(cluster.dir().join("data/postmaster.pid")).unwrap();
    let postmaster = file.lines().next().unwrap().to_owned();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let is_server = entry.file_name().to_string_lossy() == postmaster || fields[1] == postmaster;
        if is_server {
            // Its own, and those of its children that have ended.
            ticks += fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum::<u64>();
        }
    }
    Duration::from_millis(ticks * 10)
}

#[test]
fn many_relays_follow_one_database() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(follow(given("TURNERY_FLEET_TAILERS", 40)));
}

async fn follow(count: usize) {
    let cluster = Cluster::start();
    let url = cluster.database();
    let writer = Store::open(&url).await.unwrap();
    let begun = Instant::now();
    let mut tailers = Vec::new();
    for _ in 0..count {
        tailers.push(tailer(&url, begun).await);
    }
    let watch = if count > 40 { WATCHED_LONG } else { WATCHED };
    let until = control::store::Timestamp::now().unix_secs() + 1_000;
    // Until each is told of what is new.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let sessions = || -> u64 {
        let asked = "SELECT pg_stat_force_next_flush(); SELECT sum(sessions) FROM pg_stat_database";
        cluster.sql("postgres", asked).lines().last().unwrap().parse().unwrap()
    };
    let (before, sessions_before) = (database_cpu(&cluster), sessions());
    tokio::time::sleep(watch).await;
    let quiet = database_cpu(&cluster).saturating_sub(before);
    println!("{} connections were made meanwhile", sessions() - sessions_before);

    let (mut delays, mut revoked, before) = (Vec::new(), 0, database_cpu(&cluster));
    let watched = Instant::now();
    while watched.elapsed() < watch {
        revoked += 1;
        let id = CredentialId::from_bytes([u8::try_from(revoked % 251).unwrap(); 16]);
        writer.revoke(id, until + revoked).await.unwrap();
        let committed = begun.elapsed();
        let all_have_it = async {
            while tailers.iter().any(|tailer| tailer.count.load(Ordering::Relaxed) < revoked) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_have_it).await.expect("all hear of it");
        delays.extend(tailers.iter().map(|tailer| {
            Duration::from_micros(tailer.heard_us.load(Ordering::Relaxed)).saturating_sub(committed)
        }));
        tokio::time::sleep(PAUSE).await;
    }
    let busy = database_cpu(&cluster).saturating_sub(before);
    let busy_for = watched.elapsed();
    delays.sort_unstable();
    let at = |permille: usize| delays[(delays.len() - 1) * permille / 1_000];
    let share = |cpu: Duration, of: Duration| 100.0 * cpu.as_secs_f64() / of.as_secs_f64();
    println!(
        "{count} relays: the database used {:.1} % of a core when nothing happened, {:.1} % with {:.1} revocations a second; \
         each was heard after p50 {:?}, p99 {:?}, at most {:?}",
        share(quiet, watch),
        share(busy, busy_for),
        f64::from(u32::try_from(revoked).unwrap()) / busy_for.as_secs_f64(),
        at(500),
        at(990),
        at(1_000)
    );
    assert!(at(990) < Duration::from_secs(1), "{:?}", at(990));
    for tailer in tailers {
        tailer.store.close().await;
    }
    writer.close().await;
}
