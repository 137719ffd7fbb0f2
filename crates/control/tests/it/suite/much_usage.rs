//! Usage, when there is much of it at once.

use control::store::analytics::{Comparison, Condition, Dimension, DimensionValue, Metric, UsageQuery};
use control::store::usage::{REPORTS_AT_ONCE, Retention, SessionReport, Usage};
use control::store::{AccountId, MonthAction, MonthBytes, MonthLimit, Store, Timestamp};

use super::Place;
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
    // Some is summed up, some is not.
    tidy(store, "2026-03-02T10:00:00Z").await;
    let tables = [
        "usage_buckets",
        "usage_minutes",
        "usage_hours",
        "usage_days",
        "usage_weeks",
        "usage_series",
        "usage_groups",
        "usage_grouped",
    ];
    for table in tables {
        assert!(server.place.count(table).await > 0, "{table}");
    }
    let deleted = store.delete_account(&server.account.id).await.unwrap();
    assert_eq!(deleted.as_ref(), Some(&server.account));
    assert_eq!(total(store, &server).await, Usage::default());
    for table in tables {
        assert_eq!(server.place.count(table).await, 0, "{table}");
    }
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

/// Tidies up at a moment, until there is nothing more to do.
pub(crate) async fn tidy(store: &Store, now: &str) {
    tidy_with(store, &Retention::default(), now).await;
}

pub(crate) async fn tidy_with(store: &Store, retention: &Retention, now: &str) {
    let now = now.parse::<Timestamp>().unwrap().unix_secs();
    while !store.tidy_usage_at(retention, now).await.unwrap() {}
}

/// What was relayed to clients, by these.
pub(crate) async fn by(store: &Store, account: &AccountId, dimensions: &[Dimension]) -> Vec<(String, u64)> {
    let query = UsageQuery {
        account: account.clone(),
        dimensions: dimensions.to_vec(),
        conditions: vec![],
        order: vec![],
        limit: 10_000,
        metrics: Metric::SUMS.to_vec(),
    };
    let mut rows = Vec::new();
    for group in store.usage(&query).await.unwrap() {
        let values: Vec<String> = group.values.iter().map(DimensionValue::text).collect();
        rows.push((values.join(" "), group.usage.egress_bytes));
    }
    rows.retain(|(_, bytes)| *bytes > 0);
    rows
}

/// What a store says to questions of every kind: what was relayed, and how many sessions began.
pub(crate) async fn all_answers(store: &Store, account: &AccountId) -> Vec<(String, String, Usage, u64)> {
    use Dimension as D;
    let dimensions: [&[D]; 17] = [
        &[],
        &[D::Date],
        &[D::Hour, D::Node],
        &[D::FifteenMinutes],
        &[D::Minute],
        &[D::Key],
        &[D::Transport, D::Country],
        &[D::FiveMinutes, D::Key],
        &[D::CustomIdentifier],
        &[D::Date, D::CustomIdentifier, D::Key],
        &[D::Username],
        &[D::Hour, D::Username],
        &[D::Username, D::Node],
        &[D::CustomIdentifier, D::ClientFamily],
        &[D::CustomIdentifier, D::Key],
        &[D::Key, D::Transport],
        &[D::FifteenMinutes, D::CustomIdentifier],
    ];
    let range = |since: &str, until: &str| {
        let at = |text| Condition::new(D::Datetime, Comparison::AtLeast, text).unwrap();
        vec![at(since), Condition::new(D::Datetime, Comparison::Below, until).unwrap()]
    };
    let is = |dimension, value: &str| Condition::new(dimension, Comparison::Equal, value).unwrap();
    let within = |whom: Condition| {
        let mut conditions = range("2026-03-01T10:03:00Z", "2026-03-02T13:58:00Z");
        conditions.push(whom);
        conditions
    };
    let conditions = [
        vec![],
        range("2026-03-01", "2026-03-03"),
        range("2026-03-01T10:07:00Z", "2026-03-02T23:58:00Z"),
        range("2026-03-01T10:02:00Z", "2026-03-01T10:04:00Z"),
        vec![Condition::new(D::Date, Comparison::NotEqual, "2026-03-02").unwrap()],
        vec![is(D::CustomIdentifier, "alice")],
        vec![is(D::Username, "user3"), is(D::Date, "2026-03-02")],
        vec![is(D::Transport, "udp"), is(D::Node, "node1")],
        within(is(D::CustomIdentifier, "alice")),
        within(Condition::any_of(D::Username, &["user2".to_owned(), "user5".to_owned()]).unwrap()),
        within(Condition::new(D::Username, Comparison::NotEqual, "user2").unwrap()),
    ];
    let mut answers = Vec::new();
    for (dimensions, conditions) in
        dimensions.iter().flat_map(|it| conditions.iter().map(move |that| (it, that)))
    {
        let query = UsageQuery {
            account: account.clone(),
            dimensions: dimensions.to_vec(),
            conditions: conditions.clone(),
            order: vec![],
            limit: 10_000,
            metrics: if dimensions.len() % 2 == 1 { Metric::all() } else { Metric::SUMS.to_vec() },
        };
        for group in store.usage(&query).await.unwrap() {
            let values: Vec<String> = group.values.iter().map(DimensionValue::text).collect();
            let asked = format!("{dimensions:?} {conditions:?}");
            answers.push((asked, values.join(" "), group.usage, group.sessions));
        }
    }
    // Groups without traffic or a beginning may come and go with what is averaged over.
    answers.retain(|(_, _, usage, sessions)| *usage != Usage::default() || *sessions > 0);
    answers
}

#[tokio::test]
async fn what_is_summed_up_tells_the_same_as_before() {
    let server = server().await;
    let keys = [made_key(&server).await, made_key(&server).await];
    let times =
        ["01T10:02:05Z", "01T10:03:59Z", "01T10:59:00Z", "02T00:00:00Z", "02T13:37:00Z", "03T00:00:01Z"];
    for (sequence, time) in (1..).zip(times) {
        for id in 1..=12 {
            let mut told = report(id, keys[usize::from(id % 2)], sequence, "2026-03-01T10:02:00Z", 0);
            told.at = format!("2026-03-{time}").parse().unwrap();
            told.usage.egress_bytes = sequence * sequence * (1_000 + u64::from(id));
            server.store.record_usage(&node(&format!("node{}", id % 3)), &[told]).await.unwrap();
        }
    }
    let all = async || all_answers(&server.store, &server.account.id).await;
    let before = all().await;
    assert!(before.len() > 250, "{}", before.len());
    // Some of it is summed up, then all, then what came late.
    for now in ["2026-03-02T05:00:00Z", "2026-03-03T01:00:00Z"] {
        tidy(&server.store, now).await;
        assert_eq!(all().await, before, "{now}");
    }
    let mut late = report(20, keys[0], 1, "2026-03-01T10:03:00Z", 7_777);
    late.at = "2026-03-01T10:03:30Z".parse().unwrap();
    server.store.record_usage(&node("node1"), &[late]).await.unwrap();
    let with_late = all().await;
    assert_ne!(with_late, before);
    tidy(&server.store, "2026-03-03T01:00:00Z").await;
    assert_eq!(all().await, with_late);
    // As after an update from a version that summed up neither weeks nor quarters of an hour.
    let since = "2026-03-05T00:00:00Z".parse::<Timestamp>().unwrap().unix_secs();
    server
        .place
        .execute(&format!(
            "UPDATE usage_kept SET since = {since} WHERE span IN (900, 604800); DELETE FROM usage_weeks; \
             DELETE FROM usage_minutes WHERE grain IN (1, 2)"
        ))
        .await;
    assert_eq!(all().await, with_late);
    server.stop().await;
}

/// Sums are made of what is being added to, and all of it is seen at every moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_doubled_while_it_is_summed_up() {
    let server = server().await;
    let key = made_key(&server).await;
    let store = Store::open(&server.place.url()).await.unwrap();
    let recording = tokio::spawn(async move {
        for sequence in 1..=60 {
            let reports: Vec<_> =
                (1..=9).map(|id| report(id, key, sequence, "2026-03-01T10:01:00Z", sequence * 100)).collect();
            store.record_usage(&node("a"), &reports).await.unwrap();
        }
    });
    let now = "2026-03-01T10:20:00Z".parse::<Timestamp>().unwrap().unix_secs();
    let mut last = 0;
    while !recording.is_finished() {
        server.store.tidy_usage_at(&Retention::default(), now).await.unwrap();
        let bytes = total(&server.store, &server).await.egress_bytes;
        assert!(bytes >= last && bytes.is_multiple_of(900), "{bytes} after {last}");
        last = bytes;
    }
    recording.await.unwrap();
    assert_eq!(total(&server.store, &server).await.egress_bytes, 9 * 6_000);
    while !server.store.tidy_usage_at(&Retention::default(), now).await.unwrap() {}
    assert_eq!(total(&server.store, &server).await.egress_bytes, 9 * 6_000);
    server.stop().await;
}

/// Of a clock that is ahead or a node that was away for long, when there are sums of other days.
#[tokio::test]
async fn what_is_told_of_other_days_counts() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let days = async || by(store, &server.account.id, &[Dimension::Date]).await;
    let day = |date: &str, bytes| (date.to_owned(), bytes);
    store.record_usage(&node("a"), &[report(1, key, 1, "2026-03-10T10:00:35Z", 100)]).await.unwrap();
    tidy(store, "2026-03-10T12:00:00Z").await;
    // Before all others, before minutes are kept, after all others; and before anything is kept.
    let times =
        ["2026-03-02T10:00:35Z", "2026-01-02T10:00:35Z", "2026-03-20T10:00:35Z", "2023-03-02T10:00:35Z"];
    for (id, when) in (2..).zip(times) {
        let mut told = report(id, key, 1, when, 100 * u64::from(id));
        told.started = told.at;
        store.record_usage(&node("a"), &[told]).await.unwrap();
    }
    let expected =
        [day("2026-01-02", 300), day("2026-03-02", 200), day("2026-03-10", 100), day("2026-03-20", 400)];
    assert_eq!(days().await, expected);
    for (now, waiting) in [("2026-03-10T12:00:00Z", 1), ("2026-03-20T12:00:00Z", 0)] {
        tidy(store, now).await;
        assert_eq!(days().await, expected, "{now}");
        assert_eq!(server.place.count("usage_buckets").await, waiting, "{now}");
    }
    server.stop().await;
}

#[tokio::test]
async fn groups_without_usage_are_forgotten_and_who_comes_back_counts() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let short = Retention { minutes_days: 1, hours_days: 1, days_days: 2, sessions_days: 1 };
    let reports: Vec<_> = (1..=3).map(|id| report(id, key, 1, "2026-03-01T10:00:35Z", 100)).collect();
    store.record_usage(&node("a"), &reports).await.unwrap();
    tidy_with(store, &short, "2026-03-01T12:00:00Z").await;
    let had = server.place.count("usage_groups").await;
    assert_eq!(had, 3 + 1 + 2 + 1);
    // After months somebody is back just before it is tidied up.
    let mut back = report(3, key, 1, "2026-06-01T10:00:35Z", 100);
    back.id.0[0] = 0;
    back.started = back.at;
    store.record_usage(&node("a"), &[back]).await.unwrap();
    tidy_with(store, &short, "2026-06-01T10:01:00Z").await;
    assert_eq!(server.place.count("usage_groups").await, 0);
    tidy_with(store, &short, "2026-06-01T12:00:00Z").await;
    assert_eq!(server.place.count("usage_groups").await, 4);
    assert_eq!(server.place.count("usage_buckets").await, 0);
    let expected = [("2026-06-01 user3".to_owned(), 100)];
    assert_eq!(by(store, &server.account.id, &[Dimension::Date, Dimension::Username]).await, expected);
    assert_eq!(total(store, &server).await.egress_bytes, 100);
    server.stop().await;
}

/// Who has usage keeps his groups, however long ago they were made.
#[tokio::test]
async fn groups_with_usage_are_kept() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let short = Retention { minutes_days: 1, hours_days: 1, days_days: 2, sessions_days: 400 };
    let days = (2..=22).step_by(10).flat_map(|day| (1..=6).map(move |month| (month, day)));
    let mut days: Vec<_> = days.map(|(month, day)| format!("2026-{month:02}-{day:02}")).collect();
    days.sort();
    for (sequence, day) in (1..).zip(&days) {
        let told = report(1, key, sequence, &format!("{day}T10:00:35Z"), sequence * 100);
        store.record_usage(&node("a"), &[told]).await.unwrap();
        tidy_with(store, &short, &format!("{day}T12:00:00Z")).await;
        let expected = [(format!("{day} user1"), 100)];
        assert_eq!(by(store, &server.account.id, &[Dimension::Date, Dimension::Username]).await, expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_clock_that_was_ahead_once_does_not_have_all_forgotten_for_ever() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    tidy(store, "2036-03-01T12:00:00Z").await;
    tidy(store, "2026-03-01T09:00:00Z").await;
    for (id, when) in [(1, "2026-03-01T10:00:35Z"), (2, "2026-03-02T10:07:35Z")] {
        store.record_usage(&node("a"), &[report(id, key, 1, when, 100)]).await.unwrap();
        tidy(store, "2026-03-02T12:00:00Z").await;
    }
    assert_eq!(server.place.count("usage_buckets").await, 0);
    assert_eq!(total(store, &server).await.egress_bytes, 200);
    let expected = [("2026-03-01T00:00:00Z".to_owned(), 100), ("2026-03-02T10:07:00Z".to_owned(), 100)];
    assert_eq!(by(store, &server.account.id, &[Dimension::Minute]).await, expected);
    server.stop().await;
}

/// So many series with a row in each of so many minutes, each of seven bytes; all of the key that has usage.
pub(crate) async fn fill(place: &Place, series: u32, minutes: u32) {
    let names = "username, custom_identifier, transport, client_family, relay_family, node, city, code, country, region";
    let others = names.split_once(", ").unwrap().1;
    place
        .execute(&format!(
            "INSERT INTO usage_series (account_id, turn_key, {names}, last_day) \
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {series}) \
             SELECT account_id, turn_key, 'many' || n, {others}, last_day FROM usage_series, n"
        ))
        .await;
    place
        .execute(&format!(
            "INSERT INTO usage_buckets \
             WITH RECURSIVE m (m) AS (SELECT 0 UNION ALL SELECT m + 1 FROM m WHERE m < {minutes} - 1) \
             SELECT b.account_id, b.start + 60 * m, s.id, 60, 7, 1, 7, 1, 100, 0 FROM usage_series s, m, \
             (SELECT account_id, MIN(start) AS start FROM usage_buckets GROUP BY account_id) b \
             WHERE s.username LIKE 'many%'"
        ))
        .await;
}

/// More than is moved at once: in an hour, and in five minutes of it.
#[tokio::test]
async fn very_much_usage_is_summed_up_in_pieces() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    store.record_usage(&node("a"), &[report(1, key, 1, START, 10)]).await.unwrap();
    fill(&server.place, 6_000, 7).await;
    let before = by(store, &server.account.id, &[Dimension::Username]).await;
    assert_eq!(before.len(), 6_001);
    tidy(store, "2026-03-01T12:00:00Z").await;
    assert_eq!(server.place.count("usage_buckets").await, 0);
    assert_eq!(by(store, &server.account.id, &[Dimension::Username]).await, before);
    let minutes = by(store, &server.account.id, &[Dimension::Minute]).await;
    assert_eq!(minutes.iter().map(|(_, bytes)| bytes).sum::<u64>(), 10 + 6_000 * 7 * 7);
    assert_eq!(minutes.len(), 7);
    assert_eq!(server.place.count("usage_days WHERE grain = 0").await, 6_001);
    server.stop().await;
}

/// A relay whose counters are broken keeps nobody else's usage from being counted.
#[tokio::test]
async fn an_absurd_report_counts_for_no_more_than_a_session_can_relay() {
    const MOST: u64 = 1 << 48;
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let mut absurd = report(1, key, 1, START, 10);
    absurd.usage = Usage {
        egress_bytes: u64::MAX,
        egress_packets: u64::MAX,
        ingress_bytes: u64::MAX,
        ingress_packets: u64::MAX,
    };
    absurd.started = Timestamp::from_unix_micros(i64::MIN);
    store.record_usage(&node("a"), &[absurd.clone(), report(2, key, 1, START, 10)]).await.unwrap();
    absurd.sequence = 2;
    store.record_usage(&node("a"), &[absurd, report(2, key, 2, START, 30)]).await.unwrap();
    for summed_up in [false, true] {
        if summed_up {
            tidy(store, "2026-03-01T12:00:00Z").await;
            assert_eq!(server.place.count("usage_buckets").await, 0);
        }
        let usage = total(store, &server).await;
        assert_eq!((usage.egress_bytes, usage.ingress_bytes), (MOST + 30, MOST + 60));
    }
    assert_eq!(store.usage_in_month(key, 202_603).await.unwrap().egress_bytes, MOST + 30);
    server.stop().await;
}

/// Whoever may write usage may write anything.
#[tokio::test]
async fn rows_that_say_more_than_can_be_kept_stop_no_sum() {
    const MOST: u64 = i64::MAX.unsigned_abs();
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let limit = MonthLimit {
        bytes: 1_000,
        counts: MonthBytes::Egress,
        action: MonthAction::Notify,
        notify_at: vec![],
    };
    assert!(store.set_month_limit(&server.account.id, key, Some(&limit)).await.unwrap());
    let reports =
        |sequence, bytes| (1..=9).map(|id| report(id, key, sequence, START, bytes)).collect::<Vec<_>>();
    store.record_usage(&node("a"), &reports(1, 10)).await.unwrap();
    for (table, other) in [("usage_buckets", "live_ms"), ("usage_months", "egress_packets")] {
        let absurd = format!("UPDATE {table} SET egress_bytes = {MOST}, {other} = {MOST}");
        server.place.execute(&absurd).await;
    }
    store.record_usage(&node("a"), &reports(2, 30)).await.unwrap();
    let expect = async |ingress: u64| {
        let usage = total(store, &server).await;
        assert_eq!((usage.egress_bytes, usage.ingress_bytes), (MOST, 9 * ingress));
    };
    expect(60).await;
    tidy(store, "2026-03-01T12:00:00Z").await;
    expect(60).await;
    store.record_usage(&node("a"), &reports(3, 40)).await.unwrap();
    tidy(store, "2026-03-01T12:00:00Z").await;
    expect(80).await;
    assert_eq!(server.place.count("usage_buckets").await, 0);
    server.place.execute("UPDATE usage_months SET egress_bytes = -1").await;
    store.watch_month_limits_at(START.parse().unwrap()).await.unwrap();
    assert_eq!(store.usage_in_month(key, 202_603).await.unwrap().egress_bytes, 0);
    server.stop().await;
}
