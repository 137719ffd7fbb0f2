//! The rows, as relays would have left them: made by the database itself, with statements that each understands.

use std::fmt::Write as _;

use control::store::AccountId;

use crate::Kind;

/// Keys of the account that has most.
pub(crate) const KEYS: u64 = 40;
/// Whom its credentials were minted for.
pub(crate) const CUSTOM_IDENTIFIERS: u64 = 5_000;
/// Its usernames.
pub(crate) const USERNAMES: u64 = 20_000;
/// Its series: some of its users come to several nodes.
const SERIES: u64 = 30_000;
/// Of the other accounts together.
const OTHER_SERIES: u64 = 3_000;
const OTHER_ACCOUNTS: u64 = 20;
const LIVE_SESSIONS: u64 = 5_000;
const ENDED_SESSIONS: u64 = 300_000;
const AUDIT_ROWS: u64 = 200_000;
/// Minutes that a session relays.
const SESSION_MINUTES: u64 = 20;

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// The numbers from 0 up to, not including, this one, as a table `n` with a column `n`.
fn numbers(kind: Kind, count: u64) -> String {
    match kind {
        Kind::Postgres => format!("(SELECT generate_series(0, {count}::bigint - 1) AS n) n"),
        Kind::Sqlite => format!(
            "(WITH RECURSIVE r (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < {count} - 1) SELECT n FROM r) n"
        ),
    }
}

/// Bytes that a number makes, as long as an id.
fn id(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Postgres => format!("decode(md5(({text})::text), 'hex')"),
        Kind::Sqlite => format!("CAST(printf('%016d', {text}) AS BLOB)"),
    }
}

/// A part of the rows each: what runs within the next hours is as full as what was.
pub(crate) fn parts(kind: Kind, account: &AccountId, rows: u64) -> Vec<String> {
    let now = control::store::Timestamp::now().unix_secs();
    let mut parts = vec![names(kind, account), series(kind, account, now), sessions(kind, account, now)];
    let today = now / DAY * DAY;
    // 700 days by the day, 86 by the hour, 14 by the minute.
    let days = Spans { kind, span: DAY, each: (rows / 20).div_ceil(700), minutes: 1 };
    for first in (100..800).rev().step_by(70) {
        parts.push(days.rows(today - (first + 1) * DAY, 70, now));
    }
    let hours = Spans { kind, span: HOUR, each: (rows * 15 / 100).div_ceil(86 * 24), minutes: 1 };
    for day in (15..=100).rev().step_by(2) {
        parts.push(hours.rows(today - day * DAY, 48, now));
    }
    let each = (rows * 80 / 100).div_ceil(14 * 24 * SESSION_MINUTES);
    let minutes = Spans { kind, span: 60, each, minutes: SESSION_MINUTES };
    for day in (0..14).rev() {
        parts.push(minutes.rows(today - day * DAY, 24, now));
    }
    parts
}

/// As much again for other accounts: what lies beside the rows that are asked for.
pub(crate) fn copies(account: &AccountId, count: u32) -> String {
    let counts = "egress_bytes, egress_packets, ingress_bytes, ingress_packets, live_ms, sessions";
    let mut statements = Vec::new();
    for copy in 0..count {
        // Behind the account and before it.
        let other = format!("{}{copy:031x}", if copy % 2 == 0 { 'f' } else { '0' });
        for table in ["usage_minutes", "usage_hours", "usage_days", "usage_weeks"] {
            statements.push(format!(
                "INSERT INTO {table} (account_id, grain, start, series, {counts}) SELECT '{other}', grain, start, series, \
                 {counts} FROM {table} WHERE account_id = '{account}' ORDER BY start, grain, series \
                 ON CONFLICT DO NOTHING"
            ));
        }
    }
    statements.join(";\n")
}

/// Rows of one span.
struct Spans {
    kind: Kind,
    span: u64,
    /// Series that have any in an hour or day.
    each: u64,
    /// Rows that each has there.
    minutes: u64,
}

impl Spans {
    /// Those of so many hours or days from this one on, until now. Some series have far more than others.
    fn rows(&self, from: u64, count: u64, now: u64) -> String {
        let Self { kind, span, each, minutes } = self;
        let outer = if *span == DAY { DAY } else { HOUR };
        let start = match span {
            60 => "t.at + 60 * ((t.h / 7) % 41 + m.n)",
            _ => "t.at",
        };
        let bytes = "(t.h % 977) * 1000 + 20000";
        let prefix = match kind {
            // The rows' accounts are there.
            Kind::Postgres => "SET session_replication_role = replica;\n",
            Kind::Sqlite => "",
        };
        format!(
            "{prefix}INSERT INTO usage_buckets (account_id, start, series, span, egress_bytes, egress_packets, \
             ingress_bytes, ingress_packets, live_ms, sessions) \
             SELECT s.account_id, {start}, s.id, {span}, {bytes}, {bytes} / 900, {bytes} / 2, {bytes} / 1800, \
             {span} * 1000, CASE WHEN m.n = 0 THEN 1 ELSE 0 END FROM (\
             SELECT at, h, CASE WHEN h % 100 < 92 THEN 1 + ((h % {SERIES}) * (h % {SERIES})) / {SERIES} \
             ELSE {SERIES} + 1 + h % {OTHER_SERIES} END AS series FROM (\
             SELECT {from} + o.n * {outer} AS at, \
             (n.n * 7919 + ({from} / {outer} + o.n) * 104729) % 1000003 AS h \
             FROM {hours}, {series}) hashed) t \
             JOIN usage_series s ON s.id = t.series, {minutes} WHERE {start} <= {now} - 60 \
             ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING",
            hours = numbers(*kind, count).replace(") n", ") o"),
            series = numbers(*kind, *each),
            minutes = numbers(*kind, *minutes).replace(") n", ") m"),
        )
    }
}

/// Keys and the other accounts.
fn names(kind: Kind, account: &AccountId) -> String {
    let key = id(kind, "n.n");
    let hash = format!("{key} || {key}");
    let hash = if kind == Kind::Sqlite { format!("CAST({hash} AS BLOB)") } else { hash };
    let mut script = format!(
        "INSERT INTO turn_keys (uid, account_id, name, secret_hash, created, modified) SELECT {key}, '{account}', \
         'key-' || n.n, {hash}, n.n, n.n FROM {};\n",
        numbers(kind, KEYS)
    );
    for other in 0..OTHER_ACCOUNTS {
        let _ = writeln!(
            script,
            "INSERT INTO accounts (id, name, created_on) VALUES ('{other:032x}', 'other-{other}', {other});"
        );
    }
    script
        + "INSERT INTO key_owners (turn_key, account_id) SELECT uid, account_id FROM turn_keys ON CONFLICT DO NOTHING"
}

fn series(kind: Kind, account: &AccountId, now: u64) -> String {
    let columns = "INSERT INTO usage_series (id, account_id, turn_key, username, custom_identifier, transport, \
                   client_family, relay_family, node, city, code, country, region, last_day)";
    let day = now / DAY * DAY;
    let places = "'node-' || place, 'City ' || place, 'C' || place, 'L' || place / 2, 'R' || place / 3";
    let apart = "CASE WHEN i * 7919 % 100 < 80 THEN 'udp' WHEN i * 7919 % 100 < 88 THEN 'tcp' \
                 WHEN i * 7919 % 100 < 98 THEN 'tls' ELSE 'dtls' END, \
                 CASE WHEN i * 31 % 10 < 7 THEN 'ipv4' ELSE 'ipv6' END, \
                 CASE WHEN i % 50 = 0 THEN 'both' ELSE 'ipv4' END";
    let key = id(kind, &format!("who % 100 * (who % 100) * {KEYS} / 10000"));
    let other_key = id(kind, &format!("{KEYS} + n.n % {OTHER_ACCOUNTS}"));
    let last = match kind {
        Kind::Postgres => {
            "\nSELECT setval(pg_get_serial_sequence('usage_series', 'id'), (SELECT max(id) FROM usage_series));"
        }
        Kind::Sqlite => "",
    };
    format!(
        "{columns} SELECT i + 1, '{account}', {key}, 'username-of-some-length-as-minted-ones-are-' || u, \
         'customer-' || who, {apart}, {places}, {day} FROM (SELECT n.n AS i, n.n % {USERNAMES} AS u, \
         n.n % {USERNAMES} % {CUSTOM_IDENTIFIERS} AS who, (n.n % {USERNAMES} + n.n / {USERNAMES}) % 6 AS place \
         FROM {all}) made;\n\
         {columns} SELECT {SERIES} + 1 + n.n, other_account, {other_key}, 'username-' || n.n, 'customer-' || n.n, 'udp', \
         'ipv4', 'ipv4', 'node-1', 'City 1', 'C1', 'L0', 'R0', {day} FROM {others} JOIN (SELECT id AS other_account, \
         row_number() OVER (ORDER BY id) - 1 AS place FROM accounts WHERE name LIKE 'other-%') a \
         ON a.place = n.n % {OTHER_ACCOUNTS};{last}",
        all = numbers(kind, SERIES),
        others = numbers(kind, OTHER_SERIES),
    )
}

/// Sessions that live, sessions that have ended, and the audit log.
fn sessions(kind: Kind, account: &AccountId, now: u64) -> String {
    let columns = "INSERT INTO turn_sessions (id, account_id, turn_key, credential, username, custom_identifier, node, \
                   epoch, series, transport, client, relayed, relays_tcp, started, reported, expires, sequence, \
                   egress_bytes, egress_packets, ingress_bytes, ingress_packets, ended, end_reason)";
    let micros = now * 1_000_000;
    let rows = |from: u64, count: u64, age: &str, client: &str, ended: &str| {
        format!(
            "{columns} SELECT {id}, '{account}', s.turn_key, s.turn_key, s.username, s.custom_identifier, s.node, \
             {epoch}, s.id, s.transport, {client}, '203.0.113.1:50000', 0, {micros} - {age} - 1200000000, \
             {micros} - {age}, {micros} + 600000000, 9, 1000, 10, 1000, 10, {ended} FROM {numbers} \
             JOIN usage_series s ON s.id = 1 + n.n * 7919 % {SERIES};\n",
            id = id(kind, &format!("n.n + {from} + 1000000")),
            epoch = id(kind, "7"),
            numbers = numbers(kind, count),
        )
    };
    let age = "n.n * 8000000";
    rows(0, LIVE_SESSIONS, "n.n * 1000", "'192.0.2.1:4000'", "NULL, NULL")
        + &rows(LIVE_SESSIONS, ENDED_SESSIONS, age, "NULL", &format!("{micros} - {age}, 'expired'"))
        + &format!(
            "INSERT INTO audit (at, account_id, actor, actor_id, actor_name, address, request_id, action, target, result, \
             details) SELECT {micros} - ({AUDIT_ROWS} - n.n) * 100000000, '{account}', 'token', '', 'ci', '192.0.2.1', \
             NULL, CASE WHEN n.n % 5 = 0 THEN 'turn_key.create' ELSE 'credential.revoke' END, 'target-' || n.n % 1000, \
             'ok', '{{}}' FROM {}",
            numbers(kind, AUDIT_ROWS)
        )
}
