use std::ops::Range;

use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::sums::kept;
use super::usage::MINUTE;
use super::{Database, Db, Row, beginnings, fixed, sum_of, text};
use crate::store::StoreError;
use crate::store::analytics::{
    Condition, Dimension, DimensionValue, MAX_GROUPS, Metric, Order, UsageGroup, UsageQuery,
};
use crate::store::spans::{Grain, Piece, Pieces};
use crate::store::usage::Usage;

type Builder = QueryBuilder<Db>;

impl Database {
    pub(in crate::store) async fn usage(
        &self,
        query: &UsageQuery,
        now: i64,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        // What is moved from one table to another meanwhile is seen in one.
        let mut tx = self.begin_reading().await?;
        let kept = kept(&mut tx).await?;
        let mut sql = question(query, &Pieces::of(query, kept, now));
        // Each question has a plan of its own: what is best for an hour is not for a year.
        let rows: Vec<Row> = sql.build().persistent(false).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        rows.iter().map(|row| group(row, query)).collect()
    }
}

fn question(query: &UsageQuery, pieces: &Pieces) -> Builder {
    let places: Vec<String> = (0..query.dimensions.len()).map(|place| format!("d{place}")).collect();
    let mut dimensions = places.join(", ");
    if !places.is_empty() {
        dimensions.push_str(", ");
    }
    // Sorted behind the groups, which are fewer than what they are made of: whoever plans takes that for little to sort.
    let mut sql: Builder = QueryBuilder::new("SELECT * FROM (SELECT ");
    sql.push(&dimensions);
    for metric in Metric::SUMS.into_iter().filter(|it| query.asks(*it)) {
        let count = metric_column(metric);
        sql.push(format!("COALESCE({}, 0) AS {count}, ", sum_of(count)));
    }
    let has_concurrent = query.asks(Metric::Concurrent);
    if has_concurrent {
        // First what there was in each span of time, then the sums of these: a span counts once, whatever lived in it.
        sql.push("COALESCE(SUM(CAST(live_ms AS DOUBLE PRECISION)) / (1000 * SUM(secs)), 0.0) AS concurrent ");
        sql.push(format!("FROM (SELECT {dimensions}secs, {} FROM (", sums_of(query, "")));
    } else {
        sql.push("CAST(0 AS DOUBLE PRECISION) AS concurrent FROM (");
    }
    for piece in &pieces.pieces {
        push_piece(&mut sql, query, piece);
        sql.push(" UNION ALL ");
    }
    push_fresh(&mut sql, query, &pieces.ranges);
    sql.push(") AS pieces");
    if has_concurrent {
        sql.push(format!(" GROUP BY {dimensions}secs, slot) AS spans"));
    }
    if !places.is_empty() {
        sql.push(" GROUP BY ").push(places.join(", "));
    }
    sql.push(") AS answer");
    push_order(&mut sql, query, places);
    sql.push(" LIMIT ").push_bind(i64::from(query.limit.min(MAX_GROUPS)));
    sql
}

/// The columns that are needed of each row: few, where little is asked for.
fn counts(query: &UsageQuery) -> impl Iterator<Item = &'static str> {
    let sums = Metric::SUMS.into_iter().filter(|it| query.asks(*it)).map(metric_column);
    // One at least, where only dimensions are asked for.
    let live = query.asks(Metric::Concurrent) || Metric::SUMS.iter().all(|it| !query.asks(*it));
    sums.chain(live.then_some("live_ms"))
}

fn sums_of(query: &UsageQuery, table: &str) -> String {
    let sums = counts(query).map(|count| format!("{} AS {count}", sum_of(&format!("{table}{count}"))));
    sums.collect::<Vec<_>>().join(", ")
}

fn counts_of_row(query: &UsageQuery) -> String {
    counts(query).map(|count| format!("b.{count}")).collect::<Vec<_>>().join(", ")
}

fn push_order(sql: &mut Builder, query: &UsageQuery, places: Vec<String>) {
    let mut order = Vec::new();
    for (by, is_descending) in &query.order {
        let column = match by {
            Order::Metric(metric) => metric_column(*metric).to_owned(),
            Order::Dimension(dimension) => {
                let place = query.dimensions.iter().position(|it| it == dimension);
                let Some(place) = place else { continue };
                format!("d{place}")
            }
        };
        order.push(format!("{column}{}", if *is_descending { " DESC" } else { "" }));
    }
    order.extend(places);
    if !order.is_empty() {
        sql.push(" ORDER BY ").push(order.join(", "));
    }
}

/// Rows of a table of sums: first together by series, of which there are fewer than rows, then with what these are.
fn push_piece(sql: &mut Builder, query: &UsageQuery, piece: &Piece) {
    let Piece { sums, grain, .. } = piece;
    let span = sums.span_secs(*grain).unwrap_or(MINUTE);
    let of_series = names(*grain);
    // The spans over which sessions are averaged are as long as the rows' at least.
    let secs = if span < 3_600 { unit(query).max(span) } else { span };
    // Where each row is a span of its own there is nothing to be put together.
    let has_concurrent = query.asks(Metric::Concurrent);
    let is_apart = has_concurrent && secs == span;
    let (mut outer, mut inner, mut apart) =
        (Vec::new(), vec!["b.series".to_owned()], vec!["b.series".to_owned()]);
    for (place, dimension) in query.dimensions.iter().enumerate() {
        if dimension.span_secs().is_some() {
            outer.push(format!("b.t{place} AS d{place}"));
            inner.push(format!("{} AS t{place}", expression(*dimension)));
            apart.push(expression(*dimension));
        } else {
            outer.push(format!("{} AS d{place}", column(*dimension)));
        }
    }
    if has_concurrent {
        outer.push(format!("{secs} AS secs, b.slot AS slot"));
        inner.push(format!("b.start - b.start % {secs} AS slot"));
        apart.push(format!("b.start - b.start % {secs}"));
    }
    outer.push(counts_of_row(query));
    inner.push(if is_apart { counts_of_row(query) } else { sums_of(query, "b.") });
    let (outer, inner, apart) = (outer.join(", "), inner.join(", "), apart.join(", "));
    sql.push(format!("SELECT {outer} FROM (SELECT {inner} FROM "));
    push_rows(sql, query, piece, span);
    if !is_apart {
        sql.push(format!(" GROUP BY {apart}"));
    }
    sql.push(format!(") b JOIN {of_series} s ON s.id = b.series AND"));
    push_of_grain(sql, query, *grain);
}

/// The rows of a piece, as `b`, and which of them count.
fn push_rows(sql: &mut Builder, query: &UsageQuery, piece: &Piece, span: i64) {
    let Piece { sums, grain, ranges } = piece;
    let push_of_whom = |sql: &mut Builder| {
        sql.push(format!("(SELECT s.id FROM {} s WHERE", names(*grain)));
        push_of_grain(sql, query, *grain);
        push_conditions(sql, query);
        sql.push(")");
    };
    let is_about_some = query.conditions.iter().any(|it| matches!(it, Condition::Values { .. }));
    let beginnings = match &ranges[..] {
        [range] if is_about_few(query, *grain) => beginnings(range, span),
        _ => None,
    };
    let table = sums.table();
    if let Some(beginnings) = &beginnings {
        // Each row of each series can be looked up: that is up to the database, which knows how many they are.
        push_of_whom(sql);
        let on = "b.start = t.start AND b.series = w.id";
        sql.push(format!(" w CROSS JOIN {beginnings} AS t (start) JOIN {table} b ON {on}"));
    } else {
        sql.push(format!("{table} b"));
    }
    sql.push(" WHERE b.account_id = ").push_bind(query.account.as_str().to_owned());
    sql.push(format!(" AND b.grain = {} AND ", grain.column()));
    push_ranges(sql, ranges);
    if is_about_some && beginnings.is_none() {
        // Not by the key: for each series that would be a walk over all of the time.
        sql.push(" AND b.series + 0 IN ");
        push_of_whom(sql);
    }
}

/// Whether few of what the grain tells apart are asked about, however wrong it is estimated how many.
fn is_about_few(query: &UsageQuery, grain: Grain) -> bool {
    let is_coarse = matches!(grain, Grain::Key | Grain::Node);
    query.conditions.iter().any(|condition| match condition {
        Condition::Values { dimension, is_in: true, .. } => {
            is_coarse || matches!(dimension, Dimension::Username | Dimension::CustomIdentifier)
        }
        _ => false,
    })
}

/// Where the names are of what the rows of a grain are about.
fn names(grain: Grain) -> &'static str {
    if grain == Grain::Series { "usage_series" } else { "usage_groups" }
}

/// The account's names of this grain.
fn push_of_grain(sql: &mut Builder, query: &UsageQuery, grain: Grain) {
    sql.push(" s.account_id = ").push_bind(query.account.as_str().to_owned());
    if grain != Grain::Series {
        sql.push(format!(" AND s.grain = {}", grain.column()));
    }
}

/// What is not summed up yet, and what came late.
fn push_fresh(sql: &mut Builder, query: &UsageQuery, ranges: &[Range<i64>]) {
    sql.push("SELECT ");
    for (place, dimension) in query.dimensions.iter().enumerate() {
        sql.push(expression(*dimension)).push(format!(" AS d{place}, "));
    }
    if query.asks(Metric::Concurrent) {
        let unit = unit(query);
        sql.push(format!(
            "CASE b.span WHEN 60 THEN {unit} ELSE b.span END AS secs, \
             CASE b.span WHEN 60 THEN b.start - b.start % {unit} ELSE b.start END AS slot, "
        ));
    }
    sql.push(counts_of_row(query)).push(" FROM usage_buckets b");
    if needs_series(query) {
        sql.push(" JOIN usage_series s ON s.id = b.series");
    }
    sql.push(" WHERE b.account_id = ").push_bind(query.account.as_str().to_owned()).push(" AND ");
    push_ranges(sql, ranges);
    push_conditions(sql, query);
}

/// The spans of time in which any sessions lived: five minutes, or one.
fn unit(query: &UsageQuery) -> i64 {
    if query.dimensions.iter().any(|it| it.span_secs() == Some(MINUTE)) { MINUTE } else { 5 * MINUTE }
}

fn metric_column(metric: Metric) -> &'static str {
    match metric {
        Metric::EgressBytes => "egress_bytes",
        Metric::EgressPackets => "egress_packets",
        Metric::IngressBytes => "ingress_bytes",
        Metric::IngressPackets => "ingress_packets",
        Metric::Sessions => "sessions",
        Metric::Concurrent => "concurrent",
    }
}

fn expression(dimension: Dimension) -> String {
    if let Some(span) = dimension.span_secs() {
        return format!("(b.start - b.start % {span})");
    }
    column(dimension).to_owned()
}

fn column(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Key => "s.turn_key",
        Dimension::CustomIdentifier => "s.custom_identifier",
        Dimension::Username => "s.username",
        Dimension::City => "s.city",
        Dimension::Code => "s.code",
        Dimension::Country => "s.country",
        Dimension::Region => "s.region",
        Dimension::Node => "s.node",
        Dimension::Transport => "s.transport",
        Dimension::ClientFamily => "s.client_family",
        Dimension::RelayFamily => "s.relay_family",
        _ => "b.start",
    }
}

/// Whether more than times is asked for.
fn needs_series(query: &UsageQuery) -> bool {
    query.dimensions.iter().any(|it| it.span_secs().is_none())
        || query.conditions.iter().any(|it| matches!(it, Condition::Values { .. }))
}

fn push_ranges(sql: &mut Builder, ranges: &[Range<i64>]) {
    if ranges.is_empty() {
        sql.push("1 = 0");
    }
    for (place, range) in ranges.iter().enumerate() {
        sql.push(if place == 0 { "(" } else { " OR " });
        sql.push("(b.start >= ").push_bind(range.start);
        sql.push(" AND b.start < ").push_bind(range.end).push(")");
    }
    if !ranges.is_empty() {
        sql.push(")");
    }
}

/// All but those on the time.
fn push_conditions(sql: &mut Builder, query: &UsageQuery) {
    for condition in &query.conditions {
        let Condition::Values { dimension, values, is_in } = condition else { continue };
        // In any of none is nothing, in none of none everything.
        if values.is_empty() {
            sql.push(if *is_in { " AND 1 = 0" } else { "" });
            continue;
        }
        sql.push(" AND ").push(column(*dimension)).push(if *is_in { " IN (" } else { " NOT IN (" });
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                sql.push(", ");
            }
            match dimension {
                // What is no key's id is nobody's.
                Dimension::Key => {
                    let key = value.parse::<TurnKeyId>();
                    sql.push_bind(key.map(|key| key.as_bytes().to_vec()).unwrap_or_default())
                }
                _ => sql.push_bind(text(value).into_owned()),
            };
        }
        sql.push(")");
    }
}

fn group(row: &Row, query: &UsageQuery) -> Result<UsageGroup, StoreError> {
    let mut values = Vec::with_capacity(query.dimensions.len());
    for (place, dimension) in query.dimensions.iter().enumerate() {
        values.push(match dimension {
            dimension if dimension.span_secs().is_some() => {
                DimensionValue::at(*dimension, row.try_get(place)?)
            }
            Dimension::Key => {
                let key = TurnKeyId::from_bytes(fixed(row.try_get(place)?, "usage key")?);
                DimensionValue::Text(key.to_string())
            }
            _ => DimensionValue::Text(row.try_get(place)?),
        });
    }
    let count = |metric: Metric| -> Result<u64, StoreError> {
        if !query.asks(metric) {
            return Ok(0);
        }
        u64::try_from(row.try_get::<i64, _>(metric_column(metric))?)
            .map_err(|_| StoreError::Corrupt { what: "count" })
    };
    let usage = Usage {
        egress_bytes: count(Metric::EgressBytes)?,
        egress_packets: count(Metric::EgressPackets)?,
        ingress_bytes: count(Metric::IngressBytes)?,
        ingress_packets: count(Metric::IngressPackets)?,
    };
    let sessions = count(Metric::Sessions)?;
    Ok(UsageGroup { values, usage, sessions, concurrent: row.try_get("concurrent")? })
}
