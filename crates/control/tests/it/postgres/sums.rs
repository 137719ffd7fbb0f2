//! Sums of usage: the parts of their tables, and how they are made while others write.

use std::time::Duration;

use control::store::analytics::Dimension;
use control::store::usage::Retention;
use control::store::{StoreError, Timestamp};
use testkit::postgres::cluster;

use super::{Place, suite};
use crate::line;

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
    use suite::much_usage::tidy;
    use suite::usage::{made_key, node, report};
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
    use suite::much_usage::{by, tidy_with};
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
    use suite::usage::{made_key, node, report};
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
    suite::much_usage::tidy_with(&server.store, &SHORT, "2026-03-05T12:00:00Z").await;
    assert_eq!(parts(&server.place, "usage_minutes"), days[3..]);
    server.stop().await;
}
