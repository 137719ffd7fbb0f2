//! Sums of usage: the parts of their tables, and how they are made while others write.

use std::time::Duration;

use control::store::analytics::Dimension;
use control::store::usage::Retention;
use control::store::{Store, StoreError, Timestamp};
use sqlx::{Connection, Executor, PgConnection};
use testkit::postgres::cluster;
use tokio::time::timeout;

use super::{Place, suite};
use crate::line;
use suite::much_usage::{by, fill, tidy, tidy_with};
use suite::usage::{made_key, node, report};

/// The parts of a table of sums, by their numbers.
fn parts(place: &Place, table: &str) -> Vec<u64> {
    let listed = place.sql(&format!(
        "SELECT substr(c.relname, length('{table}_') + 1) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = '{table}'::regclass"
    ));
    let mut parts: Vec<u64> = listed.lines().map(|number| number.parse().unwrap()).collect();
    parts.sort_unstable();
    parts
}

/// Usage of each of five days, summed up, of which sums by the minute are kept for one and sums by the hour for two.
async fn with_parts() -> (suite::server::Server, Vec<u64>) {
    let server = suite::server::server().await;
    let key = made_key(&server).await;
    for n in 1..=5 {
        let told = report(1, key, n, &format!("2026-03-0{n}T10:02:30Z"), n * 100);
        server.store.record_usage(&node("a"), &[told]).await.unwrap();
    }
    tidy(&server.store, "2026-03-05T12:00:00Z").await;
    let first = "2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap().unix_secs() / 86_400;
    let days: Vec<u64> = (first..first + 5).collect();
    for table in ["usage_minutes", "usage_hours"] {
        assert_eq!(parts(&server.place, table), days, "{table}");
    }
    (server, days)
}

const SHORT: Retention = Retention { minutes_days: 1, hours_days: 2, days_days: 30, sessions_days: 1 };

#[tokio::test]
async fn old_parts_are_dropped_and_others_tell_the_same() {
    let (server, days) = with_parts().await;
    let (store, account) = (&server.store, &server.account.id);
    let before = by(store, account, &[Dimension::Date, Dimension::Username]).await;
    assert_eq!(before.len(), 5);
    // What somebody else has put there is left alone.
    server.place.sql(
        "CREATE TABLE \"others; usage_minutes_1\" PARTITION OF usage_minutes FOR VALUES FROM (86400) TO (172800)",
    );
    tidy_with(store, &SHORT, "2026-03-05T12:00:00Z").await;
    server.place.sql("DROP TABLE \"others; usage_minutes_1\"");
    assert_eq!(parts(&server.place, "usage_minutes"), days[3..]);
    assert_eq!(parts(&server.place, "usage_hours"), days[1..], "until nobody reads it any more");
    assert_eq!(by(store, account, &[Dimension::Date, Dimension::Username]).await, before);
    // A month later nothing is left, and there is room for what is new.
    tidy_with(store, &SHORT, "2026-05-05T12:00:00Z").await;
    for table in ["usage_minutes", "usage_hours", "usage_days"] {
        assert!(parts(&server.place, table).is_empty(), "{table}");
    }
    assert!(by(store, account, &[Dimension::Date]).await.is_empty());
    server.stop().await;
}

/// A long question is under way, as of somebody who makes a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_be_dropped_holds_nothing_else_up() {
    let (server, days) = with_parts().await;
    let told = report(2, made_key(&server).await, 1, "2026-03-05T11:00:00Z", 10);
    server.store.record_usage(&node("a"), &[told]).await.unwrap();
    let name = server.place.name().to_owned();
    let asking = std::thread::spawn(move || {
        cluster().sql(&name, "BEGIN; LOCK usage_minutes IN ACCESS SHARE MODE; SELECT pg_sleep(60)")
    });
    let of_asking = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let is_asking = format!("SELECT COUNT(*) {of_asking}");
    while server.place.sql(&is_asking) != "1" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let at = "2026-03-05T12:00:00Z".parse::<Timestamp>().unwrap().unix_secs();
    let failed = server.store.tidy_usage_at(&SHORT, at).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(_)), "{}", line(&failed));
    assert_eq!(parts(&server.place, "usage_minutes"), days);
    assert_eq!(server.store.sessions_ended_after(0, 9).await.unwrap().len(), 2, "a silent session is closed");
    server.place.sql(&format!("SELECT pg_terminate_backend(pid) {of_asking}"));
    drop(asking.join());
    tidy_with(&server.store, &SHORT, "2026-03-05T12:00:00Z").await;
    assert_eq!(parts(&server.place, "usage_minutes"), days[3..]);
    server.stop().await;
}

/// As of a relay whose clock is behind: it adds to minutes that are being moved.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_added_to_keeps_nothing_else_from_being_summed_up() {
    let server = suite::server::server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let reports: Vec<_> = (1..=9).map(|id| report(id, key, 1, "2026-03-01T10:01:00Z", 100)).collect();
    store.record_usage(&node("a"), &reports).await.unwrap();
    let mut adding = PgConnection::connect(&server.place.url()).await.unwrap();
    let add = "BEGIN; UPDATE usage_buckets SET egress_bytes = egress_bytes + 11 WHERE series = \
               (SELECT id FROM usage_series WHERE username = 'user5')";
    adding.execute(add).await.unwrap();
    let at = "2026-03-01T10:20:00Z";
    timeout(Duration::from_secs(4), tidy(store, at)).await.expect("it waits for nobody");
    assert_eq!(server.place.count("usage_buckets").await, 2, "what is being added to");
    let bytes = async || {
        let all = by(store, &server.account.id, &[Dimension::Username]).await;
        assert_eq!(all.len(), 9);
        all.iter().map(|(_, bytes)| bytes).sum::<u64>()
    };
    assert_eq!(bytes().await, 900);
    adding.execute("COMMIT").await.unwrap();
    assert_eq!(bytes().await, 922);
    tidy(store, at).await;
    assert_eq!(server.place.count("usage_buckets").await, 0);
    assert_eq!(bytes().await, 922);
    server.stop().await;
}

/// Several relays that are late, without a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_byte_counts_once_and_sums_come_on_while_late_relays_add_to_them() {
    const ROUNDS: u64 = 120;
    let server = suite::server::server().await;
    let key = made_key(&server).await;
    let mut recording = tokio::task::JoinSet::new();
    for relay in 0..3_u8 {
        let store = Store::open(&server.place.url()).await.unwrap();
        recording.spawn(async move {
            let name = format!("relay{relay}");
            for sequence in 1..=ROUNDS {
                let told =
                    |n: u8| report(1 + relay * 20 + n, key, sequence, "2026-03-01T10:01:00Z", sequence * 100);
                let reports: Vec<_> = (0..20).map(told).collect();
                store.record_usage(&node(&name), &reports).await.unwrap();
            }
        });
    }
    let now = "2026-03-01T10:20:00Z".parse::<Timestamp>().unwrap().unix_secs();
    let bytes = async || {
        let all = by(&server.store, &server.account.id, &[]).await;
        all.iter().map(|(_, bytes)| bytes).sum::<u64>()
    };
    let (mut last, mut moves) = (0, 0);
    loop {
        let is_over = recording.is_empty();
        let before = server.place.sql("SELECT SUM(egress_bytes) FROM usage_days WHERE grain = 4");
        server.store.tidy_usage_at(&Retention::default(), now).await.unwrap();
        moves +=
            u32::from(server.place.sql("SELECT SUM(egress_bytes) FROM usage_days WHERE grain = 4") != before);
        let known = bytes().await;
        assert!(known >= last, "{known} after {last}");
        last = known;
        if is_over {
            break;
        }
        while let Some(done) = recording.try_join_next() {
            done.unwrap();
        }
    }
    println!("{moves} moves while it was recorded");
    assert!(moves > 1, "nothing was summed up before all was recorded");
    assert_eq!((last, server.place.count("usage_buckets").await), (60 * ROUNDS * 100, 0));
    server.stop().await;
}

#[tokio::test]
async fn no_transaction_moves_more_than_it_can_in_time() {
    let server = suite::server::server().await;
    let key = made_key(&server).await;
    server.store.record_usage(&node("a"), &[report(1, key, 1, "2026-03-01T10:00:35Z", 7)]).await.unwrap();
    fill(&server.place, 15_000, 3).await;
    server.place.sql(
        "CREATE TABLE pieces (number BIGINT); \
         CREATE FUNCTION note_piece() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO pieces SELECT COUNT(*) FROM gone; RETURN NULL; END $$; \
         CREATE TRIGGER note_piece AFTER DELETE ON usage_buckets REFERENCING OLD TABLE AS gone \
         FOR EACH STATEMENT EXECUTE FUNCTION note_piece()",
    );
    tidy(&server.store, "2026-03-01T12:00:00Z").await;
    assert_eq!(server.place.sql("SELECT SUM(number) FROM pieces"), "45001");
    let largest: u64 = server.place.sql("SELECT MAX(number) FROM pieces").parse().unwrap();
    assert!(largest < 20_100, "{largest}");
    let times = server.place.sql("SELECT COUNT(*) FROM pieces WHERE number > 0");
    assert_eq!(times, "3");
    let all = by(&server.store, &server.account.id, &[]).await;
    assert_eq!(all[0].1, 45_001 * 7);
    server.stop().await;
}

/// Also of one day, when it has many.
#[tokio::test]
async fn an_account_is_deleted_in_pieces_of_ten_thousand_rows() {
    const TABLES: [&str; 4] = ["usage_buckets", "usage_days", "usage_hours", "usage_series"];
    let server = suite::server::server().await;
    let key = made_key(&server).await;
    server.store.record_usage(&node("a"), &[report(1, key, 1, "2026-03-01T10:00:35Z", 7)]).await.unwrap();
    fill(&server.place, 12_000, 1).await;
    tidy(&server.store, "2026-03-01T12:00:00Z").await;
    fill_again(&server.place);
    server.place.sql(
        "CREATE TABLE pieces (name TEXT, number BIGINT); \
         CREATE FUNCTION note_piece() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO pieces SELECT TG_TABLE_NAME, COUNT(*) FROM gone; RETURN NULL; END $$",
    );
    for table in TABLES {
        server.place.sql(&format!(
            "CREATE TRIGGER note_piece AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone \
             FOR EACH STATEMENT EXECUTE FUNCTION note_piece()"
        ));
    }
    server.store.delete_account(&server.account.id).await.unwrap().unwrap();
    for table in TABLES {
        let gone = |what: &str| -> u64 {
            server
                .place
                .sql(&format!("SELECT {what}(number) FROM pieces WHERE name = '{table}'"))
                .parse()
                .unwrap()
        };
        assert!(gone("SUM") >= 12_001 && gone("MAX") <= 10_000, "{table}: {} {}", gone("SUM"), gone("MAX"));
        assert_eq!(server.place.count(table).await, 0, "{table}");
    }
    server.stop().await;
}

/// What is not summed up yet: of each series a row, all of one minute.
fn fill_again(place: &Place) {
    place.sql(
        "INSERT INTO usage_buckets SELECT account_id, 1772366400, id, 60, 1, 1, 1, 1, 1, 0 FROM usage_series",
    );
}
