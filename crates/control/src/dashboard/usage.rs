//! Usage: what was relayed, when and for whom, as a chart, as a table and as CSV.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use credentials::TurnKeyId;

use crate::control::Shared;
use crate::dashboard::chart::{Chart, Point};
use crate::dashboard::fault::Fault;
use crate::dashboard::form::Form;
use crate::dashboard::format::{Bytes, grouped, in_query};
use crate::dashboard::keys::shown_name;
use crate::dashboard::range::{self, Range};
use crate::dashboard::session::Visitor;
use crate::dashboard::{Frame, page};
use crate::store::analytics::{
    Comparison, Condition, Dimension, MAX_GROUPS, Metric, Order, UsageGroup, UsageQuery,
};
use crate::store::{AccountId, Timestamp};
use crate::usage_table::csv;

/// Rows of the table of totals on one page.
const PAGE: usize = 25;
/// Groups that have a colour of their own; the others share one.
const SERIES: usize = 5;

/// What usage may be told apart by: name, label, dimension.
const BY: [(&str, &str, Option<Dimension>); 6] = [
    ("total", "All together", None),
    ("key", "Key", Some(Dimension::Key)),
    ("custom_identifier", "Custom identifier", Some(Dimension::CustomIdentifier)),
    ("transport", "Transport", Some(Dimension::Transport)),
    ("node", "Node", Some(Dimension::Node)),
    ("country", "Country of the node", Some(Dimension::Country)),
];

/// What may be shown: name, label, metric.
const SHOW: [(&str, &str, Metric); 3] = [
    ("egress", "Bytes to clients", Metric::EgressBytes),
    ("ingress", "Bytes from clients", Metric::IngressBytes),
    ("sessions", "Sessions begun", Metric::Sessions),
];

/// A question, as the form asks it.
struct Asked {
    range: Range,
    by: &'static (&'static str, &'static str, Option<Dimension>),
    show: &'static (&'static str, &'static str, Metric),
    key: Option<TurnKeyId>,
    custom_identifier: Option<String>,
}

impl Asked {
    fn read(form: &Form, now: Timestamp) -> Result<Self, Fault> {
        let range = Range::read(form, now).map_err(Fault::Invalid)?;
        let key = form.filled("key").map(str::parse).transpose();
        let key =
            key.map_err(|_| Fault::Invalid("Key: it is no key id. Choose one of the list.".to_owned()))?;
        let by = form.text("by").unwrap_or("total");
        let show = form.text("show").unwrap_or("egress");
        let chosen = |field: &str| {
            Fault::Invalid(format!("{field}: there is no such choice. Choose one of the list."))
        };
        let by = BY.iter().find(|(name, ..)| *name == by).ok_or_else(|| chosen("Told apart by"))?;
        let show = SHOW.iter().find(|(name, ..)| *name == show).ok_or_else(|| chosen("Show"))?;
        let custom_identifier = form.text("custom_identifier").filter(|text| !text.is_empty());
        Ok(Self { range, by, show, key, custom_identifier: custom_identifier.map(ToOwned::to_owned) })
    }

    fn conditions(&self) -> Result<Vec<Condition>, Fault> {
        let time = |comparison, at: Timestamp| {
            Condition::new(Dimension::Datetime, comparison, &at.to_string())
                .map_err(|error| Fault::Invalid(error.to_string()))
        };
        let mut conditions =
            vec![time(Comparison::AtLeast, self.range.since)?, time(Comparison::Below, self.range.until)?];
        conditions.extend(self.key.map(|key| one_of(Dimension::Key, vec![key.to_string()])));
        let custom = self.custom_identifier.clone();
        conditions.extend(custom.map(|it| one_of(Dimension::CustomIdentifier, vec![it])));
        Ok(conditions)
    }

    /// As a query, from the `?` on.
    fn query(&self) -> String {
        let mut query = format!("?{}&by={}&show={}", self.range.query(), self.by.0, self.show.0);
        if let Some(key) = self.key {
            query = format!("{query}&key={key}");
        }
        if let Some(custom) = &self.custom_identifier {
            query = format!("{query}&custom_identifier={}", in_query(custom));
        }
        query
    }
}

fn one_of(dimension: Dimension, values: Vec<String>) -> Condition {
    Condition::Values { dimension, values, is_in: true }
}

fn amount(group: &UsageGroup, metric: Metric) -> u64 {
    match metric {
        Metric::EgressBytes => group.usage.egress_bytes,
        Metric::IngressBytes => group.usage.ingress_bytes,
        Metric::EgressPackets => group.usage.egress_packets,
        Metric::IngressPackets => group.usage.ingress_packets,
        _ => group.sessions,
    }
}

struct Row {
    label: String,
    egress: Bytes,
    ingress: Bytes,
    sessions: String,
}

/// A choice of a list: its value, its label, and whether it is made.
type Choice = (String, String, bool);

#[derive(Template)]
#[template(path = "dashboard/usage.html")]
struct UsagePage {
    frame: Frame,
    ranges: Vec<Choice>,
    shows: Vec<Choice>,
    bys: Vec<Choice>,
    keys: Vec<Choice>,
    custom_identifier: String,
    since: String,
    until: String,
    by_label: &'static str,
    is_told_apart: bool,
    egress: Bytes,
    ingress: Bytes,
    sessions: String,
    concurrent: String,
    is_empty: bool,
    chart: Chart,
    rows: Vec<Row>,
    page: usize,
    is_more: bool,
    query: String,
}

pub(super) async fn show(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let form = Form::of_query(&uri);
    let now = Timestamp::now();
    let asked = Asked::read(&form, now)?;
    let turned = form.text("page").and_then(|page| page.parse().ok()).unwrap_or(1_usize).clamp(1, 100);
    let keys = shared.store.keys(visitor.account()).await?;
    let names: HashMap<String, String> =
        keys.iter().map(|key| (key.uid.to_string(), shown_name(&key.name).to_owned())).collect();
    let found = Found::read(&shared, visitor.account(), &asked, turned).await?;
    let label = |value: &str| label(asked.by.2, value, &names);
    let rows = found.page.iter().map(|group| Row {
        label: label(&value(group)),
        egress: Bytes(group.usage.egress_bytes),
        ingress: Bytes(group.usage.ingress_bytes),
        sessions: grouped(group.sessions),
    });
    let series = found.series.iter().map(|value| label(value)).collect();
    let is_bytes = asked.show.2 != Metric::Sessions;
    let chosen = |list: &[(&'static str, &'static str)], name: &str| -> Vec<Choice> {
        list.iter().map(|(it, label)| ((*it).to_owned(), (*label).to_owned(), *it == name)).collect()
    };
    let key_choice =
        |uid: TurnKeyId, name: &str| (uid.to_string(), shown_name(name).to_owned(), asked.key == Some(uid));
    let shown = UsagePage {
        frame: Frame::new(&visitor, "usage"),
        ranges: chosen(&range::CHOICES, asked.range.name),
        shows: chosen(&SHOW.map(|(name, label, _)| (name, label)), asked.show.0),
        bys: chosen(&BY.map(|(name, label, _)| (name, label)), asked.by.0),
        keys: keys.iter().map(|key| key_choice(key.uid, &key.name)).collect(),
        custom_identifier: asked.custom_identifier.clone().unwrap_or_default(),
        since: asked.range.first_day(),
        until: asked.range.last_day(),
        by_label: asked.by.1,
        is_told_apart: asked.by.2.is_some(),
        egress: Bytes(found.total.usage.egress_bytes),
        ingress: Bytes(found.total.usage.ingress_bytes),
        sessions: grouped(found.total.sessions),
        concurrent: format!("{:.1}", found.total.concurrent),
        is_empty: found.points.iter().all(|point| point.amounts.iter().all(|it| *it == 0)),
        chart: Chart::new(asked.show.1, &asked.range, series, &found.points, is_bytes),
        rows: rows.collect(),
        page: turned,
        is_more: found.is_more,
        query: asked.query(),
    };
    Ok(page(StatusCode::OK, &shown))
}

/// What a value of a dimension is called.
fn label(by: Option<Dimension>, value: &str, names: &HashMap<String, String>) -> String {
    match by {
        None => "All together".to_owned(),
        Some(Dimension::Key) => {
            let short = value.get(..8).unwrap_or(value);
            names.get(value).map_or_else(|| format!("(deleted) {short}"), |name| format!("{name} ({short})"))
        }
        Some(Dimension::Transport) => value.to_uppercase(),
        Some(_) if value.is_empty() => "(none)".to_owned(),
        Some(_) => value.to_owned(),
    }
}

fn value(group: &UsageGroup) -> String {
    group.values.last().map(crate::store::analytics::DimensionValue::text).unwrap_or_default()
}

/// The answers that a page is made of.
struct Found {
    total: UsageGroup,
    /// One page of the groups, the greatest first.
    page: Vec<UsageGroup>,
    is_more: bool,
    /// The groups that have a colour of their own.
    series: Vec<String>,
    /// What there was in each span of time: of each series, then of all others.
    points: Vec<Point>,
}

impl Found {
    async fn read(shared: &Shared, account: &AccountId, asked: &Asked, turned: usize) -> Result<Self, Fault> {
        let metric = asked.show.2;
        let conditions = asked.conditions()?;
        let ask = async |dimensions: Vec<Dimension>, more: Option<Condition>, limit: usize| {
            let mut conditions = conditions.clone();
            conditions.extend(more);
            let by_time = dimensions.first().and_then(|it| it.span_secs()).is_some();
            let order = if by_time { vec![] } else { vec![(Order::Metric(metric), true)] };
            let limit = u32::try_from(limit).unwrap_or(MAX_GROUPS).min(MAX_GROUPS);
            // The chart shows one, and the table what is of all its time.
            let metrics = match &dimensions[..] {
                [] => Metric::all(),
                _ if by_time => vec![metric],
                _ => vec![Metric::EgressBytes, Metric::IngressBytes, Metric::Sessions],
            };
            let account = account.clone();
            let query = UsageQuery { account, dimensions, conditions, order, limit, metrics };
            shared.store.usage(&query).await
        };
        let none = UsageGroup {
            values: vec![],
            usage: crate::store::usage::Usage::default(),
            sessions: 0,
            concurrent: 0.0,
        };
        // None waits for another's answer.
        let groups = async {
            match asked.by.2 {
                Some(by) => ask(vec![by], None, turned * PAGE + 1).await,
                None => Ok(vec![]),
            }
        };
        let all = ask(vec![asked.range.step], None, MAX_GROUPS as usize);
        let (mut total, all, mut groups) = tokio::try_join!(ask(vec![], None, 1), all, groups)?;
        let total = total.pop().unwrap_or(none);
        let Some(by) = asked.by.2 else {
            let points = points(&asked.range, &[], &all, &[], metric);
            return Ok(Self { total, page: vec![], is_more: false, series: vec![], points });
        };
        let series: Vec<String> = groups.iter().take(SERIES).map(value).collect();
        let apart = ask(vec![asked.range.step, by], Some(one_of(by, series.clone())), MAX_GROUPS as usize);
        let points = points(&asked.range, &series, &all, &apart.await?, metric);
        let is_more = groups.len() > turned * PAGE;
        groups.truncate(turned * PAGE);
        let page = groups.split_off(groups.len().min((turned - 1) * PAGE));
        Ok(Self { total, page, is_more, series, points })
    }
}

/// Every span of the range with its amounts: of each series, then of what is in none.
fn points(
    range: &Range,
    series: &[String],
    all: &[UsageGroup],
    apart: &[UsageGroup],
    metric: Metric,
) -> Vec<Point> {
    let beginning =
        |group: &UsageGroup| group.values.first().map(crate::store::analytics::DimensionValue::text);
    let mut amounts: HashMap<String, Vec<u64>> = HashMap::new();
    for group in all {
        let Some(at) = beginning(group) else { continue };
        let point = amounts.entry(at).or_insert_with(|| vec![0; series.len() + 1]);
        if let Some(rest) = point.last_mut() {
            *rest = amount(group, metric);
        }
    }
    for group in apart {
        let (Some(at), Some(index)) = (beginning(group), series.iter().position(|it| *it == value(group)))
        else {
            continue;
        };
        let Some(point) = amounts.get_mut(&at) else { continue };
        let amount = amount(group, metric);
        if let Some(own) = point.get_mut(index) {
            *own = amount;
        }
        if let Some(rest) = point.last_mut() {
            *rest = rest.saturating_sub(amount);
        }
    }
    let spans = range.spans();
    let point = |text: String| Point {
        amounts: amounts.remove(&text).unwrap_or_else(|| vec![0; series.len() + 1]),
        at: text,
    };
    spans.into_iter().map(point).collect()
}

/// The same as CSV: by time and what it is told apart by, at most [`MAX_GROUPS`] lines.
pub(super) async fn download(
    visitor: Visitor,
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, Fault> {
    let asked = Asked::read(&Form::of_query(&uri), Timestamp::now())?;
    let dimensions: Vec<Dimension> = [Some(asked.range.step), asked.by.2].into_iter().flatten().collect();
    let query = UsageQuery {
        account: visitor.account().clone(),
        dimensions,
        conditions: asked.conditions()?,
        order: vec![],
        limit: MAX_GROUPS,
        metrics: Metric::all(),
    };
    let groups = shared.store.usage(&query).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"usage.csv\"")),
    ];
    Ok((StatusCode::OK, headers, csv(&query.dimensions, &groups)).into_response())
}
