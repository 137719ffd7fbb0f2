use credentials::TurnKeyId;
use sqlx::{QueryBuilder, Row as _};

use super::{Database, Db, Row, fixed, text, usage};
use crate::store::StoreError;
use crate::store::analytics::{
    Condition, Dimension, DimensionValue, MAX_GROUPS, Metric, Order, UsageGroup, UsageQuery,
};

type Builder = QueryBuilder<Db>;

impl Database {
    pub(in crate::store) async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageGroup>, StoreError> {
        let places: Vec<String> = (0..query.dimensions.len()).map(|place| format!("d{place}")).collect();
        let mut sql: Builder = QueryBuilder::new("SELECT ");
        for place in &places {
            sql.push(place).push(", ");
        }
        // First what there was in each span of time, then the sums of these: without a look at each row's span twice, and so
        // that several may work at it at once.
        sql.push(
            "CAST(COALESCE(SUM(egress_bytes), 0) AS BIGINT) AS egress_bytes, \
             CAST(COALESCE(SUM(egress_packets), 0) AS BIGINT) AS egress_packets, \
             CAST(COALESCE(SUM(ingress_bytes), 0) AS BIGINT) AS ingress_bytes, \
             CAST(COALESCE(SUM(ingress_packets), 0) AS BIGINT) AS ingress_packets, \
             CAST(COALESCE(SUM(sessions), 0) AS BIGINT) AS sessions, \
             COALESCE(CAST(SUM(live_ms) AS DOUBLE PRECISION) / (1000 * SUM(secs)), 0.0) AS concurrent \
             FROM (SELECT ",
        );
        for (dimension, place) in query.dimensions.iter().zip(&places) {
            sql.push(expression(*dimension)).push(format!(" AS {place}, "));
        }
        sql.push(spans(&query.dimensions)).push(
            "CAST(SUM(b.egress_bytes) AS BIGINT) AS egress_bytes, \
             CAST(SUM(b.egress_packets) AS BIGINT) AS egress_packets, \
             CAST(SUM(b.ingress_bytes) AS BIGINT) AS ingress_bytes, \
             CAST(SUM(b.ingress_packets) AS BIGINT) AS ingress_packets, \
             CAST(SUM(b.sessions) AS BIGINT) AS sessions, CAST(SUM(b.live_ms) AS BIGINT) AS live_ms \
             FROM usage_buckets b",
        );
        if needs_series(query) {
            sql.push(" JOIN usage_series s ON s.id = b.series");
        }
        sql.push(" WHERE b.account_id = ").push_bind(query.account.as_str().to_owned());
        for condition in &query.conditions {
            sql.push(" AND ");
            push_condition(&mut sql, condition);
        }
        sql.push(" GROUP BY ");
        for place in &places {
            sql.push(place).push(", ");
        }
        sql.push("secs, slot) AS spans");
        if !places.is_empty() {
            sql.push(" GROUP BY ").push(places.join(", "));
        }
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
        sql.push(" LIMIT ").push_bind(i64::from(query.limit.min(MAX_GROUPS)));
        let rows: Vec<Row> = sql.build().fetch_all(&self.read).await?;
        rows.iter().map(|row| group(row, &query.dimensions)).collect()
    }
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

/// The spans of time in which any sessions lived: how long each is, and its beginning. It is five minutes (or one), or longer
/// where usage is kept so.
fn spans(dimensions: &[Dimension]) -> String {
    let is_fine = dimensions.iter().any(|it| it.span_secs() == Some(60));
    let unit = if is_fine { 60 } else { 300 };
    format!(
        "CASE b.span WHEN 60 THEN {unit} ELSE b.span END AS secs, \
         CASE b.span WHEN 60 THEN b.start - b.start % {unit} ELSE b.start END AS slot, "
    )
}

/// Whether more than times is asked for.
fn needs_series(query: &UsageQuery) -> bool {
    query.dimensions.iter().any(|it| it.span_secs().is_none())
        || query.conditions.iter().any(|it| matches!(it, Condition::Values { .. }))
}

fn push_condition(sql: &mut Builder, condition: &Condition) {
    match condition {
        Condition::Times(ranges) => {
            sql.push("(1 = 0");
            for range in ranges {
                sql.push(" OR (b.start >= ").push_bind(range.start);
                sql.push(" AND b.start < ").push_bind(range.end).push(")");
            }
            sql.push(")");
        }
        Condition::Values { dimension, values, is_in } => {
            // In any of none is nothing, in none of none everything.
            if values.is_empty() {
                sql.push(if *is_in { "1 = 0" } else { "1 = 1" });
                return;
            }
            sql.push(column(*dimension)).push(if *is_in { " IN (" } else { " NOT IN (" });
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
}

fn group(row: &Row, dimensions: &[Dimension]) -> Result<UsageGroup, StoreError> {
    let mut values = Vec::with_capacity(dimensions.len());
    for (place, dimension) in dimensions.iter().enumerate() {
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
    let sessions: i64 = row.try_get("sessions")?;
    Ok(UsageGroup {
        values,
        usage: usage::usage(row)?,
        sessions: u64::try_from(sessions).unwrap_or(0),
        concurrent: row.try_get("concurrent")?,
    })
}
