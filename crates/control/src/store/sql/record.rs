//! Reports of sessions, and the usage made of them in the same transaction.
//!
//! A batch of reports is summed up in memory and written with a few statements: the database may be far away, and after
//! it was away for hours each report has hours of minutes to tell of.

use std::collections::{BTreeMap, BTreeSet};

use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::usage::{DAY, MINUTE, column, tell_ends, usage};
use super::{Database, Db, Row, Transaction, fixed, portions, raised, text};
use crate::store::usage::{
    LONGEST_LIFE_SECS, MOST_ADDED, Node, SessionId, SessionReport, Usage, minutes, month_of,
};
use crate::store::{StoreError, Timestamp};

type Builder = QueryBuilder<Db>;

/// What was known of a session before a report.
#[derive(Clone)]
struct Known {
    account: String,
    series: Series,
    transport: String,
    client_family_is: String,
    sequence: i64,
    reported: Timestamp,
    usage: Usage,
    is_ended: bool,
}

/// The series that a report counts for: its number, or its place among those that are asked for.
#[derive(Clone, Copy)]
enum Series {
    Known(i64),
    Asked(usize),
}

/// What tells a series of a node from its others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesName {
    turn_key: Vec<u8>,
    username: String,
    custom_identifier: String,
    transport: String,
    client_family: String,
    relay_family: String,
}

/// A series whose number is asked for.
struct AskedSeries {
    account: String,
    last_day: i64,
}

/// What one report adds.
struct Added {
    usage: Usage,
    live_from: Timestamp,
    is_new: bool,
}

/// What is added to a row of the usage.
#[derive(Clone, Copy, Default)]
struct Bucket {
    usage: Usage,
    live_ms: i64,
    sessions: i64,
}

/// A report that is newer than what was known.
struct Accepted<'a> {
    report: &'a SessionReport,
    account: String,
    series: Series,
    added: Added,
}

/// Which row of the usage by the month: the TURN key, the month.
type MonthName = (TurnKeyId, u32);

/// What a batch of reports comes to.
#[derive(Default)]
struct Batch<'a> {
    accepted: Vec<Accepted<'a>>,
    /// Series that are not known to be there, by their names; the numbers are their places.
    names: BTreeMap<SeriesName, usize>,
    asked: Vec<AskedSeries>,
    months: BTreeMap<MonthName, (String, Usage)>,
    ended: Vec<Vec<u8>>,
}

impl Database {
    pub(in crate::store) async fn record_usage(
        &self,
        node: &Node,
        reports: &[SessionReport],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_usage(&node.name).await?;
        let mut known = known(&mut tx, reports).await?;
        let owners = owners(&mut tx, reports, &known).await?;
        let mut batch = Batch::default();
        for report in reports {
            batch.add(report, &mut known, &owners);
        }
        let numbers = batch.series(&mut tx, node).await?;
        let number = |series: Series| match series {
            Series::Known(number) => Ok(number),
            Series::Asked(place) => numbers.get(place).copied().flatten().ok_or(LOST_SERIES),
        };
        // Of several reports of a session the last is what is known of it then.
        let mut sessions = BTreeMap::new();
        let mut buckets = BTreeMap::new();
        for accepted in &batch.accepted {
            let series = number(accepted.series)?;
            sessions.insert(accepted.report.id, (accepted, series));
            count(&mut buckets, series, accepted);
        }
        put(&mut tx, node, &sessions.into_values().collect::<Vec<_>>()).await?;
        add_to_buckets(&mut tx, &buckets.into_iter().collect::<Vec<_>>()).await?;
        add_to_months(&mut tx, &batch.months.into_iter().collect::<Vec<_>>()).await?;
        tell_ends(&mut tx, &batch.ended).await?;
        tx.commit().await?;
        Ok(())
    }
}

const LOST_SERIES: StoreError = StoreError::Corrupt { what: "usage series" };
/// What a row of the usage by the month counts, and one by the minute.
const MONTH_COUNTS: [&str; 4] = ["egress_bytes", "egress_packets", "ingress_bytes", "ingress_packets"];
const BUCKET_COUNTS: [&str; 6] =
    ["egress_bytes", "egress_packets", "ingress_bytes", "ingress_packets", "live_ms", "sessions"];

fn day_of(at: Timestamp) -> i64 {
    at.unix_micros().div_euclid(1_000_000).div_euclid(DAY) * DAY
}

impl<'a> Batch<'a> {
    fn add(
        &mut self,
        report: &'a SessionReport,
        all_known: &mut BTreeMap<SessionId, Known>,
        owners: &BTreeMap<Vec<u8>, String>,
    ) {
        let known = all_known.get(&report.id);
        let account = match known {
            Some(known) => Some(&known.account),
            None => owners.get(report.turn_key.as_bytes().as_slice()),
        };
        let Some(account) = account.cloned() else {
            tracing::debug!(session = %report.id, "a report of an account that is gone");
            return;
        };
        if known.is_some_and(|known| known.sequence >= column(report.sequence)) {
            return;
        }
        // As it is kept of a session: what is beyond is not told again and again.
        let total = report.usage.at_most(i64::MAX.unsigned_abs());
        let (usage, live_from) = match known {
            Some(known) => (total.since(known.usage), known.reported),
            None => (total, report.started),
        };
        let counted = usage.at_most(MOST_ADDED);
        if counted != usage {
            tracing::warn!(
                session = %report.id, key = %report.turn_key, most = MOST_ADDED,
                "a session is said to have relayed more than any can; what is beyond does not count"
            );
        }
        let live_from = live_from.max(report.at.minus_secs(LONGEST_LIFE_SECS));
        let added = Added { usage: counted, live_from, is_new: known.is_none() };
        // One that was given up for lost and has ended in order is told of once.
        if report.ended.is_some() && !known.is_some_and(|known| known.is_ended) {
            self.ended.push(report.id.0.to_vec());
        }
        let series = self.series_of(report, &account, known);
        let month = self.months.entry((report.turn_key, month_of(report.at))).or_default();
        *month = (account.clone(), month.1.plus(added.usage));
        let now_known = Known {
            account: account.clone(),
            series,
            transport: report.transport.to_owned(),
            client_family_is: report.client_family().to_owned(),
            sequence: column(report.sequence),
            reported: report.at,
            usage: report.usage,
            is_ended: report.ended.is_some(),
        };
        all_known.insert(report.id, now_known);
        self.accepted.push(Accepted { report, account, series, added });
    }

    /// The series that a report counts for: mostly the same as before.
    fn series_of(&mut self, report: &SessionReport, account: &str, known: Option<&Known>) -> Series {
        let day = day_of(report.at);
        if let Some(known) = known
            && known.transport == report.transport
            && known.client_family_is == report.client_family()
            && day_of(known.reported) == day
        {
            return known.series;
        }
        let name = SeriesName {
            turn_key: report.turn_key.as_bytes().to_vec(),
            username: text(&report.username).into_owned(),
            custom_identifier: text(&report.custom_identifier).into_owned(),
            transport: report.transport.to_owned(),
            client_family: report.client_family().to_owned(),
            relay_family: report.relay_family().to_owned(),
        };
        let place = *self.names.entry(name).or_insert_with(|| {
            self.asked.push(AskedSeries { account: account.to_owned(), last_day: day });
            self.asked.len() - 1
        });
        if let Some(asked) = self.asked.get_mut(place) {
            asked.last_day = asked.last_day.max(day);
        }
        Series::Asked(place)
    }

    /// The numbers of the series that were asked for, by their places.
    async fn series(&self, tx: &mut Transaction, node: &Node) -> Result<Vec<Option<i64>>, StoreError> {
        let mut numbers = vec![None; self.asked.len()];
        let names: Vec<_> = self.names.iter().collect();
        let location = &node.location;
        for (chunk, is_kept) in portions(&names) {
            let mut insert: Builder = QueryBuilder::new(
                "INSERT INTO usage_series (account_id, turn_key, username, custom_identifier, transport, \
                 client_family, relay_family, node, city, code, country, region, last_day) ",
            );
            let rows = chunk.iter().filter_map(|(name, place)| Some((name, self.asked.get(**place)?)));
            insert.push_values(rows, |mut row, (name, asked)| {
                row.push_bind(&asked.account).push_bind(&name.turn_key).push_bind(&name.username);
                row.push_bind(&name.custom_identifier).push_bind(&name.transport);
                row.push_bind(&name.client_family).push_bind(&name.relay_family).push_bind(&node.name);
                row.push_bind(&location.city).push_bind(&location.code).push_bind(&location.country);
                row.push_bind(&location.region).push_bind(asked.last_day);
            });
            insert.push(
                " ON CONFLICT (turn_key, username, custom_identifier, transport, client_family, relay_family, \
                 node, city, code, country, region) DO UPDATE SET last_day = CASE \
                 WHEN excluded.last_day > usage_series.last_day THEN excluded.last_day \
                 ELSE usage_series.last_day END \
                 RETURNING id, turn_key, username, custom_identifier, transport, client_family, relay_family",
            );
            for row in &insert.build().persistent(is_kept).fetch_all(&mut **tx).await? {
                let place = self.names.get(&name(row)?).ok_or(LOST_SERIES)?;
                *numbers.get_mut(*place).ok_or(LOST_SERIES)? = Some(row.try_get("id")?);
            }
        }
        Ok(numbers)
    }
}

fn name(row: &Row) -> Result<SeriesName, StoreError> {
    Ok(SeriesName {
        turn_key: row.try_get("turn_key")?,
        username: row.try_get("username")?,
        custom_identifier: row.try_get("custom_identifier")?,
        transport: row.try_get("transport")?,
        client_family: row.try_get("client_family")?,
        relay_family: row.try_get("relay_family")?,
    })
}

/// What is known of these sessions, which stays so until the transaction ends.
async fn known(
    tx: &mut Transaction,
    reports: &[SessionReport],
) -> Result<BTreeMap<SessionId, Known>, StoreError> {
    let mut all = BTreeMap::new();
    for (chunk, is_kept) in portions(reports) {
        let mut query: Builder = QueryBuilder::new(
            "SELECT s.id, s.account_id, s.series, s.transport, u.client_family, s.sequence, s.reported, \
             s.egress_bytes, s.egress_packets, s.ingress_bytes, s.ingress_packets, s.ended \
             FROM turn_sessions s LEFT JOIN usage_series u ON u.id = s.series WHERE s.id IN (",
        );
        let mut ids = query.separated(", ");
        for report in chunk {
            ids.push_bind(report.id.0.as_slice());
        }
        // In one order, so that two who hold them do not wait for each other.
        query.push(concat!(") ORDER BY s.id", for_update!("s")));
        for row in &query.build().persistent(is_kept).fetch_all(&mut **tx).await? {
            let known = Known {
                account: row.try_get("account_id")?,
                series: Series::Known(row.try_get("series")?),
                transport: row.try_get("transport")?,
                client_family_is: row.try_get::<Option<String>, _>("client_family")?.unwrap_or_default(),
                sequence: row.try_get("sequence")?,
                reported: Timestamp::from_unix_micros(row.try_get("reported")?),
                usage: usage(row)?,
                is_ended: row.try_get::<Option<i64>, _>("ended")?.is_some(),
            };
            all.insert(SessionId(fixed(row.try_get("id")?, "session id")?), known);
        }
    }
    Ok(all)
}

/// The accounts of the keys of sessions that are new.
async fn owners(
    tx: &mut Transaction,
    reports: &[SessionReport],
    known: &BTreeMap<SessionId, Known>,
) -> Result<BTreeMap<Vec<u8>, String>, StoreError> {
    let new = reports.iter().filter(|report| !known.contains_key(&report.id));
    let keys: BTreeSet<TurnKeyId> = new.map(|report| report.turn_key).collect();
    let mut owners = BTreeMap::new();
    for (chunk, is_kept) in portions(&keys.into_iter().collect::<Vec<_>>()) {
        let mut query: Builder =
            QueryBuilder::new("SELECT turn_key, account_id FROM key_owners WHERE turn_key IN (");
        let mut ids = query.separated(", ");
        for key in chunk {
            ids.push_bind(key.as_bytes().as_slice());
        }
        query.push(")");
        for row in &query.build().persistent(is_kept).fetch_all(&mut **tx).await? {
            owners.insert(row.try_get("turn_key")?, row.try_get("account_id")?);
        }
    }
    Ok(owners)
}

/// Writes sessions as their reports have them.
async fn put(tx: &mut Transaction, node: &Node, sessions: &[(&Accepted<'_>, i64)]) -> Result<(), StoreError> {
    for (chunk, is_kept) in portions(sessions) {
        let mut insert: Builder = QueryBuilder::new(
            "INSERT INTO turn_sessions (id, account_id, turn_key, credential, username, custom_identifier, node, \
             epoch, series, transport, client, relayed, relays_tcp, started, reported, expires, sequence, \
             egress_bytes, egress_packets, ingress_bytes, ingress_packets, ended, end_reason) ",
        );
        insert.push_values(chunk, |mut row, (Accepted { report, account, .. }, series)| {
            let relayed: Vec<String> = report.relayed.iter().flatten().map(ToString::to_string).collect();
            row.push_bind(report.id.0.as_slice()).push_bind(account);
            row.push_bind(report.turn_key.as_bytes().as_slice());
            row.push_bind(report.credential.as_bytes().as_slice());
            row.push_bind(text(&report.username)).push_bind(text(&report.custom_identifier));
            row.push_bind(&node.name).push_bind(node.epoch.as_slice()).push_bind(*series);
            row.push_bind(report.transport);
            // Whose address it was is nobody's business afterwards.
            row.push_bind(report.ended.is_none().then(|| report.client.to_string()));
            row.push_bind(relayed.join(",")).push_bind(i64::from(report.relays_tcp));
            row.push_bind(report.started.unix_micros()).push_bind(report.at.unix_micros());
            row.push_bind(report.expires.unix_micros()).push_bind(column(report.sequence));
            row.push_bind(column(report.usage.egress_bytes)).push_bind(column(report.usage.egress_packets));
            row.push_bind(column(report.usage.ingress_bytes)).push_bind(column(report.usage.ingress_packets));
            row.push_bind(report.ended.map(|_| report.at.unix_micros())).push_bind(report.ended);
        });
        insert.push(
            " ON CONFLICT (id) DO UPDATE SET node = excluded.node, epoch = excluded.epoch, \
             series = excluded.series, transport = excluded.transport, client = excluded.client, \
             relayed = excluded.relayed, reported = excluded.reported, expires = excluded.expires, \
             sequence = excluded.sequence, egress_bytes = excluded.egress_bytes, \
             egress_packets = excluded.egress_packets, ingress_bytes = excluded.ingress_bytes, \
             ingress_packets = excluded.ingress_packets, ended = excluded.ended, end_reason = excluded.end_reason",
        );
        insert.build().persistent(is_kept).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Which row of the usage by the minute: the account, the minute, the series.
type BucketName<'a> = (&'a str, i64, i64);

/// Counts what a report adds: traffic in its minute, the time lived in all minutes since the last.
fn count<'a>(buckets: &mut BTreeMap<BucketName<'a>, Bucket>, series: i64, accepted: &'a Accepted<'_>) {
    let Accepted { report, account, added, .. } = accepted;
    let minute = report.at.unix_micros().div_euclid(1_000_000).div_euclid(MINUTE) * MINUTE;
    let mut lived = minutes(added.live_from, report.at);
    if lived.last().is_none_or(|(start, _)| *start != minute) {
        lived.push((minute, 0));
    }
    for (start, live_ms) in lived {
        let is_now = start == minute;
        let usage = if is_now { added.usage } else { Usage::default() };
        if usage == Usage::default() && live_ms == 0 && !added.is_new {
            continue;
        }
        let bucket = buckets.entry((account, start, series)).or_default();
        bucket.usage = bucket.usage.plus(usage);
        bucket.live_ms = bucket.live_ms.saturating_add(live_ms);
        bucket.sessions += i64::from(added.is_new && is_now);
    }
}

async fn add_to_buckets(tx: &mut Transaction, rows: &[(BucketName<'_>, Bucket)]) -> Result<(), StoreError> {
    for (chunk, is_kept) in portions(rows) {
        let mut insert: Builder = QueryBuilder::new(
            "INSERT INTO usage_buckets (account_id, start, series, span, egress_bytes, egress_packets, \
             ingress_bytes, ingress_packets, live_ms, sessions) ",
        );
        insert.push_values(chunk, |mut row, ((account, start, series), bucket)| {
            row.push_bind(*account).push_bind(*start).push_bind(*series).push_bind(MINUTE);
            row.push_bind(column(bucket.usage.egress_bytes)).push_bind(column(bucket.usage.egress_packets));
            row.push_bind(column(bucket.usage.ingress_bytes)).push_bind(column(bucket.usage.ingress_packets));
            row.push_bind(bucket.live_ms).push_bind(bucket.sessions);
        });
        let raised = BUCKET_COUNTS.map(|count| raised("usage_buckets", count)).join(", ");
        insert.push(format!(" ON CONFLICT (account_id, start, series, span) DO UPDATE SET {raised}"));
        insert.build().persistent(is_kept).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Other nodes add to the same rows, in the same order.
async fn add_to_months(
    tx: &mut Transaction,
    rows: &[(MonthName, (String, Usage))],
) -> Result<(), StoreError> {
    for (chunk, is_kept) in portions(rows) {
        let mut insert: Builder = QueryBuilder::new(
            "INSERT INTO usage_months (turn_key, month, account_id, egress_bytes, egress_packets, \
             ingress_bytes, ingress_packets) ",
        );
        insert.push_values(chunk, |mut row, ((key, month), (account, usage))| {
            row.push_bind(key.as_bytes().as_slice()).push_bind(i64::from(*month)).push_bind(account);
            row.push_bind(column(usage.egress_bytes)).push_bind(column(usage.egress_packets));
            row.push_bind(column(usage.ingress_bytes)).push_bind(column(usage.ingress_packets));
        });
        let raised = MONTH_COUNTS.map(|count| raised("usage_months", count)).join(", ");
        insert.push(format!(" ON CONFLICT (turn_key, month) DO UPDATE SET {raised}"));
        insert.build().persistent(is_kept).execute(&mut **tx).await?;
    }
    Ok(())
}
