//! Usage, when there is much of it at once.

use control::store::usage::{REPORTS_AT_ONCE, SessionReport, Usage};

use super::server::server;
use super::usage::{START, made_key, node, report, total};

#[tokio::test]
async fn an_account_with_much_usage_is_deleted_by_and_by() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    store.record_usage(&node("a"), &[report(1, key, 1, START, 10)]).await.unwrap();
    let many = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 25000)";
    server
        .place
        .execute(&format!(
            "INSERT INTO usage_buckets {many} SELECT account_id, start + 60 * (n / 7), series + n % 7, span, egress_bytes, \
             egress_packets, ingress_bytes, ingress_packets, live_ms, sessions FROM usage_buckets, n"
        ))
        .await;
    assert_eq!(total(store, &server).await.egress_bytes, 25_000 * 10 + 10);
    let deleted = store.delete_account(&server.account.id).await.unwrap();
    assert_eq!(deleted.as_ref(), Some(&server.account));
    assert_eq!(total(store, &server).await, Usage::default());
    server.stop().await;
}

/// As many reports as are recorded at once, each with hours of minutes to tell of.
#[tokio::test]
async fn what_waited_while_the_store_was_away_is_recorded() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let reports = |sequence: u64, when: &str| -> Vec<SessionReport> {
        let one = |n: u16| {
            let mut report = report(1, key, sequence, when, sequence * 1_000);
            report.id.0[..2].copy_from_slice(&n.to_be_bytes());
            report.username = format!("user{n}");
            report
        };
        (0..u16::try_from(REPORTS_AT_ONCE).unwrap()).map(one).collect()
    };
    store.record_usage(&node("a"), &reports(1, "2026-03-01T10:00:35Z")).await.unwrap();
    store.record_usage(&node("a"), &reports(2, "2026-03-01T13:00:35Z")).await.unwrap();
    assert_eq!(total(store, &server).await.egress_bytes, 500 * 2_000);
    server.stop().await;
}
