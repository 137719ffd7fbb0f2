//! Usage: recorded once, whoever repeats it; and every way to ask for it.

use std::sync::{Arc, Mutex};

use control::News;
use control::store::analytics::{Dimension, Metric, UsageQuery};
use control::store::usage::{
    Location, Node, Retention, SessionFilter, SessionId, SessionOrder, SessionReport, Usage, month_of,
};
use control::store::{AuditQuery, Permission, Store, Timestamp};
use credentials::{CredentialId, TurnKeyId};
use serde_json::{Value, json};

use super::server::{Server, server};
use crate::http::request;

pub(crate) fn node(name: &str) -> Node {
    let text = str::to_owned;
    let location =
        Location { city: text("Lisbon"), code: text("LIS"), country: text("PT"), region: text("EU") };
    Node::new(name, location).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(super) const START: &str = "2026-03-01T10:00:30Z";

pub(crate) fn report(id: u8, key: TurnKeyId, sequence: u64, when: &str, egress: u64) -> SessionReport {
    SessionReport {
        id: SessionId([id; 16]),
        turn_key: key,
        credential: CredentialId::from_bytes([id; 16]),
        username: format!("user{id}"),
        custom_identifier: if id < 10 { "alice" } else { "bob" }.to_owned(),
        transport: if id.is_multiple_of(2) { "udp" } else { "tcp" },
        client: "192.0.2.1:4000".parse().unwrap(),
        relayed: [Some("203.0.113.1:50000".parse().unwrap()), None],
        relays_tcp: false,
        started: at(START),
        at: at(when),
        expires: at("2026-03-01T11:00:00Z"),
        sequence,
        usage: Usage {
            egress_bytes: egress,
            egress_packets: egress / 100,
            ingress_bytes: egress * 2,
            ingress_packets: egress / 50,
        },
        ended: None,
    }
}

pub(super) async fn total(store: &Store, server: &Server) -> Usage {
    let query = UsageQuery {
        account: server.account.id.clone(),
        dimensions: vec![],
        conditions: vec![],
        order: vec![],
        limit: 10,
        metrics: Metric::all(),
    };
    let groups = store.usage(&query).await.unwrap();
    assert_eq!(groups.len(), 1);
    groups[0].usage
}

pub(crate) async fn made_key(server: &Server) -> TurnKeyId {
    server.key().await.0.parse().unwrap()
}

#[tokio::test]
async fn nothing_counts_twice_and_the_newest_counts() {
    let server = server().await;
    let (key, store, node) = (made_key(&server).await, &server.store, node("a"));
    assert_eq!(total(store, &server).await, Usage::default(), "one row of nothing");
    let [first, second, third] = [
        report(1, key, 1, "2026-03-01T10:00:35Z", 100),
        report(1, key, 2, "2026-03-01T10:00:40Z", 300),
        report(1, key, 3, "2026-03-01T10:01:05Z", 1_000),
    ];
    for reports in [vec![first.clone()], vec![second.clone(), first.clone()], vec![second.clone()]] {
        store.record_usage(&node, &reports).await.unwrap();
    }
    assert_eq!(total(store, &server).await, second.usage);
    store.record_usage(&node, &[third.clone(), second, first]).await.unwrap();
    // Two at once that are both new.
    let other = report(12, key, 1, "2026-03-01T10:01:05Z", 7);
    store.record_usage(&node, &[other.clone(), third.clone()]).await.unwrap();
    let sum = total(store, &server).await;
    assert_eq!((sum.egress_bytes, sum.ingress_bytes), (1_007, 2_014));
    assert_eq!(store.usage_in_month(key, month_of(third.at)).await.unwrap(), sum);
    assert_eq!(store.usage_in_month(key, 202_602).await.unwrap(), Usage::default());
    // Its minutes: where it was reported, and all the time that it lived.
    let query = UsageQuery {
        account: server.account.id.clone(),
        dimensions: vec![Dimension::Minute, Dimension::Username],
        conditions: vec![],
        order: vec![],
        limit: 10,
        metrics: Metric::all(),
    };
    let groups = store.usage(&query).await.unwrap();
    let rows: Vec<_> = groups
        .iter()
        .map(|it| (it.values[0].text(), it.values[1].text(), it.usage.egress_bytes, it.concurrent))
        .collect();
    let row = |minute: &str, user: &str, egress, concurrent| {
        (format!("2026-03-01T10:{minute}:00Z"), user.to_owned(), egress, concurrent)
    };
    assert_eq!(
        rows,
        [
            row("00", "user1", 300, 0.5),
            row("00", "user12", 0, 0.5),
            row("01", "user1", 700, 5.0 / 60.0),
            row("01", "user12", 7, 5.0 / 60.0)
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn old_usage_becomes_coarse_and_loses_nothing() {
    let server = server().await;
    let (key, store, node) = (made_key(&server).await, &server.store, node("a"));
    for (n, when) in (1..).zip(["2026-03-01T10:00:35Z", "2026-03-01T10:59:59Z", "2026-03-01T12:00:00Z"]) {
        store.record_usage(&node, &[report(1, key, n, when, n * 100)]).await.unwrap();
    }
    let before = total(store, &server).await;
    let retention = Retention { minutes_days: 1, hours_days: 2, days_days: 3, sessions_days: 1 };
    let spans = async |now: &str| {
        while !store.tidy_usage_at(&retention, at(now).unix_secs()).await.unwrap() {}
        let query = UsageQuery {
            account: server.account.id.clone(),
            dimensions: vec![Dimension::Datetime],
            conditions: vec![],
            order: vec![],
            limit: 1_000,
            metrics: Metric::all(),
        };
        let groups = store.usage(&query).await.unwrap();
        let of_traffic = groups.into_iter().filter(|group| group.usage.egress_bytes > 0);
        of_traffic.map(|group| (group.values[0].text(), group.usage.egress_bytes)).collect::<Vec<_>>()
    };
    let span = |when: &str, bytes| (format!("2026-03-01T{when}:00Z"), bytes);
    assert_eq!(
        spans("2026-03-02T10:30:00Z").await,
        [span("10:00", 100), span("10:59", 100), span("12:00", 100)]
    );
    assert_eq!(spans("2026-03-02T11:00:00Z").await, [span("10:00", 200), span("12:00", 100)]);
    assert_eq!(total(store, &server).await, before);
    assert_eq!(spans("2026-03-04T00:00:00Z").await, [span("00:00", 300)]);
    assert_eq!(total(store, &server).await, before);
    // What comes late comes to the day, too.
    store.record_usage(&node, &[report(2, key, 1, "2026-03-01T10:00:35Z", 11)]).await.unwrap();
    assert_eq!(spans("2026-03-04T00:00:00Z").await, [span("00:00", 311)]);
    assert_eq!(spans("2026-03-05T00:00:00Z").await, []);
    server.stop().await;
}

#[tokio::test]
async fn sessions_of_a_dead_process_end_and_may_turn_out_to_live() {
    let server = server().await;
    let (key, store) = (made_key(&server).await, &server.store);
    let (before, after, other) = (node("a"), node("a"), node("b"));
    let live = async || {
        let account = server.account.id.clone();
        let (key, custom_identifier, username, after) = (None, None, None, None);
        let filter = SessionFilter { account, key, custom_identifier, username, limit: 10, after };
        let ids = store.sessions(&filter).await.unwrap();
        ids.iter().map(|session| session.id.0[0]).collect::<Vec<u8>>()
    };
    store.record_usage(&before, &[report(1, key, 1, START, 1)]).await.unwrap();
    store.record_usage(&other, &[report(2, key, 1, START, 1)]).await.unwrap();
    assert_eq!(live().await, [2, 1]);
    store.close_lost_sessions(&after).await.unwrap();
    assert_eq!(live().await, [2]);
    let ends = store.sessions_ended_after(0, 10).await.unwrap();
    let [(seq, lost)] = &ends[..] else { panic!("{ends:?}") };
    assert_eq!((lost.end_reason.as_deref(), lost.client_address.as_deref()), (Some("node_lost"), None));
    assert_eq!(store.last_session_end().await.unwrap(), *seq);
    // It was only slow.
    store.record_usage(&before, &[report(1, key, 2, START, 5)]).await.unwrap();
    assert_eq!(live().await, [2, 1]);
    let mut last = report(1, key, 3, START, 5);
    last.ended = Some("deleted");
    store.record_usage(&before, &[last.clone()]).await.unwrap();
    store.record_usage(&before, &[last]).await.unwrap();
    assert_eq!(store.sessions_ended_after(*seq, 10).await.unwrap().len(), 1, "told once");
    // Silent for too long.
    while !store.tidy_usage_at(&Retention::default(), at("2026-03-01T10:45:00Z").unix_secs()).await.unwrap() {
    }
    assert!(live().await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn usage_of_a_deleted_key_stays_its_accounts() {
    let server = server().await;
    let (key, store, node) = (made_key(&server).await, &server.store, node("a"));
    store.delete_key(&server.account.id, key).await.unwrap().unwrap();
    store.record_usage(&node, &[report(1, key, 1, START, 10)]).await.unwrap();
    assert_eq!(total(store, &server).await.egress_bytes, 10);
    let nobody = TurnKeyId::from_bytes([9; 16]);
    store.record_usage(&node, &[report(2, nobody, 1, START, 10)]).await.unwrap();
    assert_eq!(total(store, &server).await.egress_bytes, 10);
    store.delete_account(&server.account.id).await.unwrap();
    store.record_usage(&node, &[report(3, key, 1, START, 10)]).await.unwrap();
    server.stop().await;
}

/// Three sessions in three minutes, and an answer of GraphQL: its data, or its first error.
async fn asked(server: &Server, query: &str, variables: Value) -> Result<Value, String> {
    let body = json!({ "query": query, "variables": variables }).to_string();
    let token = server.token(Permission::Read, None).await;
    let reply = server.send(request("POST", "/client/v4/graphql").bearer(&token).body(body)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = reply.json();
    match answer.get("errors").expect("it is always there") {
        Value::Null => Ok(answer["data"].clone()),
        errors => Err(errors[0]["message"].as_str().unwrap().to_owned()),
    }
}

async fn with_usage() -> (Server, TurnKeyId) {
    let server = server().await;
    let (key, node) = (made_key(&server).await, node("a"));
    let mut reports = [
        report(1, key, 1, "2026-03-01T10:00:35Z", 100),
        report(2, key, 1, "2026-03-01T10:06:35Z", 1_000),
        report(11, key, 1, "2026-03-02T00:00:00Z", 10_000),
    ];
    reports[2].started = reports[2].at;
    server.store.record_usage(&node, &reports).await.unwrap();
    (server, key)
}

/// Questions as scripts put them, their variables, and the groups that answer them.
fn questions(key: TurnKeyId) -> Vec<(String, Value, Value)> {
    let groups = |rest: &str| format!("callsTurnUsageAdaptiveGroups({rest})");
    let viewer = |declared: &str, inner: &str| {
        format!("query {declared} {{ viewer {{ accounts(filter: {{accountTag: $acc}}) {{ {inner} }} }} }}")
    };
    let sum = "{ sum { egressBytes } }";
    vec![
        // No dimensions: one row.
        (
            viewer("($acc: string!)", &format!("{} {sum}", groups("limit: 1"))),
            json!({}),
            json!([{"sum": {"egressBytes": 11_100}}]),
        ),
        // Lower-case names, times and a filter.
        (
            viewer(
                "($acc: string!, $t: Time!)",
                &format!("{} {sum}", groups("limit: 9, filter: {datetimeMinute_gt: $t}")),
            ),
            json!({"t": "2026-03-01T10:00:00Z"}),
            json!([{"sum": {"egressBytes": 11_000}}]),
        ),
        (
            viewer(
                "($acc: String, $a: Date!, $b: Date)",
                &format!("{} {sum}", groups("limit: 9, filter: {date_geq: $a, date_leq: $b}")),
            ),
            json!({"a": "2026-03-01", "b": "2026-03-01"}),
            json!([{"sum": {"egressBytes": 1_100}}]),
        ),
        // A string where a time is meant, and the other way round.
        (
            viewer(
                "($acc: Time!, $t: string)",
                &format!("{} {sum}", groups("filter: {datetime_geq: $t, datetime_lt: \"2026-03-02\"}")),
            ),
            json!({"t": "2026-03-01T10:06:00Z"}),
            json!([{"sum": {"egressBytes": 1_000}}]),
        ),
        // Two orders, a limit by variable, aliases, `_in`.
        (
            viewer(
                "($acc: string!, $n: uint64!, $who: [string!])",
                &format!(
                    "top: {} {{ dimensions {{ who: customIdentifier }} sum {{ egressBytes ingressBytes }} }}",
                    groups("limit: $n, filter: {customIdentifier_in: $who}, orderBy: [sum_egressBytes_DESC]")
                ),
            ),
            json!({"n": 1, "who": ["alice", "bob"]}),
            json!([{"dimensions": {"who": "bob"}, "sum": {"egressBytes": 10_000, "ingressBytes": 20_000}}]),
        ),
        (
            viewer(
                "($acc: string!)",
                &format!(
                    "{} {{ dimensions {{ datetimeHour transport }} sum {{ sessions }} }}",
                    groups(
                        "limit: 10, orderBy: [datetimeHour_DESC, transport_ASC], filter: {transport_neq: \"udp\", datetimeHour_geq: \"2026-03-02T00:00:00Z\"}"
                    )
                ),
            ),
            json!({}),
            json!([{"dimensions": {"datetimeHour": "2026-03-02T00:00:00Z", "transport": "tcp"}, "sum": {"sessions": 1}}]),
        ),
        // A whole filter and the order as variables.
        (
            viewer(
                "($acc: string!, $f: AccountCallsTurnUsageAdaptiveGroupsFilter_InputObject!, $o: [accountCallsTurnUsageAdaptiveGroupsOrderBy!])",
                &format!(
                    "{} {{ dimensions {{ date keyId datacenterCity datacenterCode datacenterCountry datacenterRegion }} sum {{ egressPackets }} }}",
                    groups("limit: 2, filter: $f, orderBy: $o")
                ),
            ),
            json!({"f": {"keyId": key.to_string(), "username": "user2"}, "o": ["date_DESC"]}),
            json!([{"dimensions": {"date": "2026-03-01", "keyId": key.to_string(), "datacenterCity": "Lisbon", "datacenterCode": "LIS", "datacenterCountry": "PT", "datacenterRegion": "EU"}, "sum": {"egressPackets": 10}}]),
        ),
        (
            viewer(
                "($acc: string!)",
                &format!(
                    "{} {{ dimensions {{ datetimeFiveMinutes }} avg {{ concurrentConnectionsFiveMinutes }} }}",
                    groups("limit: 1, filter: {username: \"user1\"}")
                ),
            ),
            json!({}),
            json!([{"dimensions": {"datetimeFiveMinutes": "2026-03-01T10:00:00Z"}, "avg": {"concurrentConnectionsFiveMinutes": 5.0 / 300.0}}]),
        ),
        // A dimension in a fragment, an empty answer.
        (
            viewer(
                "($acc: string!)",
                &format!("{} {{ ...G }}", groups("limit: 5, filter: {keyId: \"none\"}")),
            ) + " fragment G on AccountCallsTurnUsageAdaptiveGroups { dimensions { username } }",
            json!({}),
            json!([]),
        ),
    ]
}

#[tokio::test]
async fn scripts_are_answered_as_they_ask() {
    let (server, key) = with_usage().await;
    let account = server.account.id.to_string();
    for (query, mut variables, expected) in questions(key) {
        variables["acc"] = json!(account);
        let data = asked(&server, &query, variables).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        let found = &data["viewer"]["accounts"][0];
        let found = found.get("top").unwrap_or(&found["callsTurnUsageAdaptiveGroups"]);
        assert_eq!(*found, expected, "{query}");
    }
    // Nobody's account named: the token's own. Two questions side by side.
    let query = "{ viewer { accounts(filter: {}) { accountTag a: callsTurnUsageAdaptiveGroups(limit: 1, filter: {date: \"2026-03-01\"}) { sum { egressBytes } } b: callsTurnUsageAdaptiveGroups(limit: 1, filter: {date: \"2026-03-02\"}) { sum { egressBytes } } } } }";
    let data = asked(&server, query, Value::Null).await.unwrap();
    let found = &data["viewer"]["accounts"][0];
    assert_eq!(
        *found,
        json!({"accountTag": account, "a": [{"sum": {"egressBytes": 1_100}}], "b": [{"sum": {"egressBytes": 10_000}}]})
    );
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_answered_is_explained() {
    let (server, _) = with_usage().await;
    let viewer = |inner: &str| format!("{{ viewer {{ accounts(filter: {{}}) {{ {inner} }} }} }}");
    let sum = "{ sum { egressBytes } }";
    let many: Vec<String> =
        (0..21).map(|n| format!("a{n}: callsTurnUsageAdaptiveGroups(limit: 1) {sum}")).collect();
    let deep = "{ viewer ".repeat(20) + &"}".repeat(20);
    for (query, hint) in [
        ("{".to_owned(), "expected"),
        (viewer("callsTurnUsageAdaptiveGroups(limit: 0) { sum { egressBytes } }"), "1 to 10000"),
        (viewer("callsTurnUsageAdaptiveGroups(limit: 10001) { sum { egressBytes } }"), "1 to 10000"),
        (viewer("callsTurnUsageAdaptiveGroups(filter: {nothing: \"x\"}) { sum { egressBytes } }"), "nothing"),
        (
            viewer("callsTurnUsageAdaptiveGroups(filter: {date: \"soon\"}) { sum { egressBytes } }"),
            "RFC 3339",
        ),
        (viewer("callsTurnUsageAdaptiveGroups(orderBy: [date_ASC]) { sum { egressBytes } }"), "dimensions"),
        (viewer("callsTurnUsageAdaptiveGroups(limit: 1) { sum { bytes } }"), "bytes"),
        (viewer(&many.join(" ")), "20 questions"),
        (deep, "deep"),
        (
            "{ viewer { accounts(filter: {accountTag: \"abc\"}) { accountTag } } }".to_owned(),
            "not authorized",
        ),
    ] {
        let error = asked(&server, &query, Value::Null).await.expect_err(&query);
        assert!(error.contains(hint), "{query}: {error}");
    }
    let path = "/client/v4/graphql";
    server.send(request("POST", path).body("{}")).await.failure(400, 9106, "nobody");
    let token = &server.token;
    server.send(request("POST", path).bearer(token).body("x")).await.failure(400, 20_012, "no JSON");
    server.send(request("POST", path).bearer(token).body("[]")).await.failure(400, 20_013, "no object");
    server.send(request("GET", path).bearer(token)).await.failure(405, 10_405, "GET");
    server.stop().await;
}

#[tokio::test]
async fn rest_gives_the_same_as_json_and_csv() {
    let (server, key) = with_usage().await;
    let token = server.token(Permission::Read, None).await;
    let base = format!("/client/v4/accounts/{}/calls", server.account.id);
    let get = async |path: &str| server.send(request("GET", format!("{base}{path}")).bearer(&token)).await;
    let rows = get("/turn_usage?group_by=date,customIdentifier&since=2026-03-01&until=2026-03-02").await;
    let rows = rows.success(200, "json");
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(
        (&rows[0]["date"], &rows[0]["customIdentifier"], &rows[0]["egressBytes"], &rows[0]["ingressPackets"]),
        (&json!("2026-03-01"), &json!("alice"), &json!(1_100), &json!(22))
    );
    let of_key = get(&format!("/turn_keys/{key}/usage")).await.success(200, "of a key");
    assert_eq!(of_key[0]["egressBytes"], 11_100);
    let csv = get("/turn_usage?group_by=username&format=csv").await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let lines: Vec<&str> = csv.body.lines().collect();
    assert!(lines[0].starts_with("username,egressBytes,"), "{}", csv.body);
    assert_eq!((lines.len(), lines[1].split(',').take(2).collect::<Vec<_>>()), (4, vec!["user1", "100"]));
    let accept =
        request("GET", format!("{base}/turn_usage")).bearer(&token).header("Accept", "text/csv, */*");
    assert!(server.send(accept).await.body.contains("\r\n11100,"));
    for wrong in ["since=x", "until=x", "group_by=x", "limit=0", "limit=10001", "format=xml"] {
        get(&format!("/turn_usage?{wrong}")).await.failure(400, 20_040, wrong);
    }
    get("/turn_keys/00000000000000000000000000000000/usage").await.failure(404, 20_008, "no key");
    server.stop().await;
}

#[tokio::test]
async fn live_sessions_are_listed_and_ended() {
    let server = server().await;
    let (key, node) = (made_key(&server).await, node("a"));
    let reports: Vec<_> = (1..=12).map(|n| report(n, key, 1, START, n.into())).collect();
    server.store.record_usage(&node, &reports).await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    let hear = move |news: &News| {
        if let News::End(order) = news {
            hears.lock().unwrap().push(order.clone());
        }
    };
    server.control.feed().subscribe(hear).await.unwrap();
    let reader = server.token(Permission::Read, None).await;
    let base = format!("/client/v4/accounts/{}/calls/turn_sessions", server.account.id);
    let list = async |query: &str, token: &str| {
        let reply = server.send(request("GET", format!("{base}{query}")).bearer(token)).await;
        reply.success(200, query);
        reply.json()
    };
    let all = list("", &server.token).await;
    assert_eq!(all["result"].as_array().unwrap().len(), 12);
    assert_eq!(all["result"][0]["clientAddress"], "192.0.2.1:4000");
    assert_eq!(all["result"][0]["relayAddresses"], json!(["203.0.113.1:50000"]));
    assert_eq!(list("", &reader).await["result"][0].get("clientAddress"), None, "with Calls Write only");
    assert_eq!(list("?custom_identifier=bob", &reader).await["result"].as_array().unwrap().len(), 3);
    assert_eq!(list("?username=user7", &reader).await["result"][0]["egressBytes"], 7);
    // Page by page.
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let page = list(&format!("?limit=5&cursor={cursor}"), &reader).await;
        seen += page["result"].as_array().unwrap().len();
        let Some(next) = page["result_info"]["cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(seen, 12);
    let delete = async |query: &str, token: &str| {
        server.send(request("DELETE", format!("{base}{query}")).bearer(token)).await
    };
    let id = SessionId([3; 16]);
    delete(&format!("/{id}"), &reader).await.failure(403, 10_000, "a reader");
    delete(&format!("/{id}"), &server.token).await.success(200, "one");
    delete("?username=user4", &server.token).await.success(200, "a credential");
    delete(&format!("?custom_identifier=bob&key={key}"), &server.token)
        .await
        .success(200, "a customIdentifier");
    delete(&format!("?key={key}"), &server.token).await.success(200, "a key");
    delete("", &server.token).await.failure(400, 20_040, "everything");
    delete(&format!("/{}", SessionId([99; 16])), &server.token).await.failure(404, 20_041, "none");
    let expected = [
        SessionOrder::Session(key, id),
        SessionOrder::Credential(key, CredentialId::from_bytes([4; 16])),
        SessionOrder::CustomIdentifier(key, "bob".to_owned()),
        SessionOrder::Key(key),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
    let ends = AuditQuery { action: Some("session".to_owned()), ..AuditQuery::default() };
    let noted = server.store.audit(&ends, 10).await.unwrap();
    let noted: Vec<_> = noted.iter().rev().map(|it| (it.action.as_str(), it.details.clone())).collect();
    let expected = [
        ("session.end", json!({ "session_id": id })),
        ("session.end_many", json!({ "credential_id": "04".repeat(16) })),
        ("session.end_many", json!({ "customIdentifier": "bob" })),
        ("session.end_many", json!({})),
    ];
    assert_eq!(noted, expected);
    // Whoever comes later is not told of what was.
    let late = Arc::new(Mutex::new(0));
    let counts = Arc::clone(&late);
    let count = move |news: &News| *counts.lock().unwrap() += usize::from(matches!(news, News::End(_)));
    server.control.feed().subscribe(count).await.unwrap();
    assert_eq!(*late.lock().unwrap(), 0);
    server.stop().await;
}

/// As many relays do, each repeating a report whose answer was lost while the first is still being recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_nodes_record_at_once_and_each_byte_counts_once() {
    const NODES: u8 = 6;
    const SESSIONS: u8 = 5;
    const REPORTS: u8 = 8;
    let server = server().await;
    let key = made_key(&server).await;
    let mut nodes = Vec::new();
    for n in 0..NODES {
        let store = Store::open(&server.place.url()).await.unwrap();
        let node = node(&format!("node{n}"));
        nodes.push(tokio::spawn(async move {
            for sequence in 1..=REPORTS {
                let when = format!("2026-03-01T10:00:{:02}Z", 40 + sequence);
                let bytes = 1_000 * u64::from(sequence);
                let mut reports: Vec<_> = (0..SESSIONS)
                    .map(|it| report(n * SESSIONS + it, key, u64::from(sequence), &when, bytes))
                    .collect();
                if sequence == REPORTS {
                    for report in &mut reports {
                        report.ended = Some("expired");
                    }
                }
                let (first, again) =
                    tokio::join!(store.record_usage(&node, &reports), store.record_usage(&node, &reports));
                first.and(again).unwrap();
            }
        }));
    }
    // Ends are read on as they come.
    let (mut last, mut ended) = (0, Vec::new());
    loop {
        // Asked first: a node may end its sessions after the page was read.
        let are_done = nodes.iter().all(tokio::task::JoinHandle::is_finished);
        let page = server.store.sessions_ended_after(last, 4).await.unwrap();
        if page.is_empty() && are_done {
            break;
        }
        last = page.last().map_or(last, |(seq, _)| *seq);
        ended.extend(page.into_iter().map(|(_, session)| session.id));
    }
    for node in nodes {
        node.await.unwrap();
    }
    ended.sort();
    assert_eq!(ended, (0..NODES * SESSIONS).map(|id| SessionId([id; 16])).collect::<Vec<_>>());
    let sum = total(&server.store, &server).await;
    let bytes = u64::from(NODES) * u64::from(SESSIONS) * u64::from(REPORTS) * 1_000;
    assert_eq!((sum.egress_bytes, sum.ingress_bytes), (bytes, 2 * bytes));
    assert_eq!(server.store.usage_in_month(key, 202_603).await.unwrap(), sum);
}

/// A username is whatever somebody has signed.
#[tokio::test]
async fn a_nul_in_a_name_holds_nothing_up() {
    let server = server().await;
    let key = server.store.create_key(&server.account.id, "a\0b").await.unwrap().key.uid;
    let mut named = report(1, key, 1, "2026-03-01T10:00:35Z", 100);
    (named.username, named.custom_identifier) = ("us\0er".to_owned(), "\0".to_owned());
    server.store.record_usage(&node("a"), &[named]).await.unwrap();
    let filter = SessionFilter {
        account: server.account.id.clone(),
        key: None,
        custom_identifier: Some("\0".to_owned()),
        username: Some("us\0er".to_owned()),
        limit: 10,
        after: None,
    };
    let found = server.store.sessions(&filter).await.unwrap();
    assert_eq!(found.iter().map(|it| it.username.as_str()).collect::<Vec<_>>(), ["us\u{fffd}er"]);
}
