//! What is asked: by scripts over GraphQL and REST, and by whoever looks at the dashboard.

use std::time::{Duration, Instant};

use control::store::Timestamp;

use crate::Taken;
use crate::ask::Service;
use crate::rows::{CUSTOM_IDENTIFIERS, KEYS, USERNAMES};

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// How a question is put, `{since}` and `{until}`, `{key}`, `{custom}` and `{username}` in it being others each time.
enum Way {
    /// The arguments of the groups, without the times; then what is asked of them.
    Graphql(&'static str, &'static str),
    Rest(&'static str),
    Page(&'static str),
}

pub(crate) struct Question {
    pub(crate) name: &'static str,
    way: Way,
    /// Of the time that is asked about.
    secs: u64,
}

const fn graphql(name: &'static str, secs: u64, arguments: &'static str, fields: &'static str) -> Question {
    Question { name, way: Way::Graphql(arguments, fields), secs }
}

const fn rest(name: &'static str, secs: u64, path: &'static str) -> Question {
    Question { name, way: Way::Rest(path), secs }
}

const fn page(name: &'static str, path: &'static str) -> Question {
    Question { name, way: Way::Page(path), secs: DAY }
}

const EGRESS: &str = "sum { egressBytes ingressBytes }";
const DAILY: &str = "dimensions { date } sum { egressBytes ingressBytes }";
const HOURLY: &str = "dimensions { datetimeHour } sum { egressBytes ingressBytes }";

pub(crate) fn all() -> Vec<Question> {
    let mut all = of_graphql();
    all.extend(of_rest());
    all.extend(of_pages());
    all
}

fn of_graphql() -> Vec<Question> {
    let top = "limit: 100, orderBy: [sum_egressBytes_DESC]";
    vec![
        graphql("GraphQL: total of an hour", HOUR, "limit: 1", EGRESS),
        graphql("GraphQL: total of 24 h", DAY, "limit: 1", EGRESS),
        graphql("GraphQL: total of 30 days", 30 * DAY, "limit: 1", EGRESS),
        graphql("GraphQL: total of 800 days", 800 * DAY, "limit: 1", EGRESS),
        graphql(
            "GraphQL: an hour by minute",
            HOUR,
            "limit: 100, orderBy: [datetimeMinute_ASC]",
            "dimensions { datetimeMinute } sum { egressBytes } avg { concurrentConnectionsFiveMinutes }",
        ),
        graphql("GraphQL: 24 h by hour", DAY, "limit: 100, orderBy: [datetimeHour_ASC]", HOURLY),
        graphql(
            "GraphQL: 24 h by 15 minutes",
            DAY,
            "limit: 100",
            "dimensions { datetimeFifteenMinutes } sum { egressBytes }",
        ),
        graphql(
            "GraphQL: 24 h by 5 minutes, concurrent",
            DAY,
            "limit: 300",
            "dimensions { datetimeFiveMinutes } avg { concurrentConnectionsFiveMinutes }",
        ),
        graphql("GraphQL: 7 days by hour", 7 * DAY, "limit: 1000", HOURLY),
        graphql("GraphQL: 30 days by day", 30 * DAY, "limit: 100, orderBy: [date_ASC]", DAILY),
        graphql("GraphQL: 90 days by day", 90 * DAY, "limit: 100, orderBy: [date_ASC]", DAILY),
        graphql(
            "GraphQL: an hour, top customIdentifiers",
            HOUR,
            top,
            "dimensions { customIdentifier } sum { egressBytes }",
        ),
        graphql(
            "GraphQL: 24 h, top customIdentifiers",
            DAY,
            top,
            "dimensions { customIdentifier } sum { egressBytes }",
        ),
        graphql(
            "GraphQL: 30 days, top customIdentifiers",
            30 * DAY,
            top,
            "dimensions { customIdentifier } sum { egressBytes }",
        ),
        graphql("GraphQL: an hour, top usernames", HOUR, top, "dimensions { username } sum { egressBytes }"),
        graphql("GraphQL: 24 h, top usernames", DAY, top, "dimensions { username } sum { egressBytes }"),
        graphql(
            "GraphQL: 30 days, top usernames",
            30 * DAY,
            top,
            "dimensions { username } sum { egressBytes }",
        ),
        graphql("GraphQL: 24 h by key", DAY, top, "dimensions { keyId } sum { egressBytes }"),
        graphql("GraphQL: 30 days by key", 30 * DAY, top, "dimensions { keyId } sum { egressBytes }"),
        graphql(
            "GraphQL: 30 days by day and key",
            30 * DAY,
            "limit: 10000",
            "dimensions { date keyId } sum { egressBytes }",
        ),
        graphql("GraphQL: 24 h by transport", DAY, top, "dimensions { transport } sum { egressBytes }"),
        graphql(
            "GraphQL: 30 days by transport",
            30 * DAY,
            top,
            "dimensions { transport } sum { egressBytes }",
        ),
        graphql(
            "GraphQL: 30 days by city",
            30 * DAY,
            top,
            "dimensions { datacenterCity } sum { egressBytes }",
        ),
        graphql("GraphQL: a key's 7 days by hour", 7 * DAY, "limit: 1000, filter: keyId: {key}", HOURLY),
        graphql(
            "GraphQL: a customIdentifier's 24 h",
            DAY,
            "limit: 1, filter: customIdentifier: {custom}",
            EGRESS,
        ),
        graphql(
            "GraphQL: a customIdentifier's 30 days by day",
            30 * DAY,
            "limit: 100, filter: customIdentifier: {custom}",
            DAILY,
        ),
        graphql(
            "GraphQL: a username's 30 days by day",
            30 * DAY,
            "limit: 100, filter: username: {username}",
            DAILY,
        ),
    ]
}

fn of_rest() -> Vec<Question> {
    vec![
        rest("REST: 24 h by hour", DAY, "turn_usage?since={since}&until={until}&group_by=datetimeHour"),
        rest(
            "REST: 30 days by day and key",
            30 * DAY,
            "turn_usage?since={since}&until={until}&group_by=date,keyId",
        ),
        rest(
            "REST: a key's 30 days by day",
            30 * DAY,
            "turn_keys/{key}/usage?since={since}&until={until}&group_by=date",
        ),
        rest(
            "REST: 30 days by customIdentifier, CSV",
            30 * DAY,
            "turn_usage?since={since}&until={until}&group_by=customIdentifier&format=csv",
        ),
        rest("REST: live sessions", DAY, "turn_sessions?limit=100"),
        rest(
            "REST: a customIdentifier's live sessions",
            DAY,
            "turn_sessions?custom_identifier={plain_custom}",
        ),
    ]
}

fn of_pages() -> Vec<Question> {
    vec![
        page("page: usage", "/dashboard/usage"),
        page("page: usage, an hour by key", "/dashboard/usage?range=1h&by=key"),
        page("page: usage, 6 h by transport", "/dashboard/usage?range=6h&by=transport"),
        page("page: usage, 24 h by key", "/dashboard/usage?range=24h&by=key"),
        page("page: usage, 24 h by customIdentifier", "/dashboard/usage?range=24h&by=custom_identifier"),
        page("page: usage, 7 days by node", "/dashboard/usage?range=7d&by=node"),
        page("page: usage, 7 days by key", "/dashboard/usage?range=7d&by=key"),
        page("page: usage, 30 days by customIdentifier", "/dashboard/usage?range=30d&by=custom_identifier"),
        page("page: usage, 90 days", "/dashboard/usage?range=90d"),
        page("page: usage, 90 days by key", "/dashboard/usage?range=90d&by=key"),
        page("page: usage, a key's 30 days", "/dashboard/usage?range=30d&key={key}"),
        page(
            "page: usage, a customIdentifier's 30 days",
            "/dashboard/usage?range=30d&custom_identifier={plain_custom}",
        ),
        page("page: sessions", "/dashboard/sessions"),
        page("page: sessions of a username", "/dashboard/sessions?username={plain_username}"),
        page("page: audit log", "/dashboard/audit"),
        page("page: audit log of keys", "/dashboard/audit?action=turn_key"),
    ]
}

impl Question {
    /// Asks again and again, for so many seconds at most.
    pub(crate) async fn measure(
        &self,
        service: &Service,
        rounds: u32,
        patience: u64,
    ) -> anyhow::Result<Taken> {
        // What is asked for the first time is compiled, and comes from the disk.
        let mut groups = self.ask(service, 0).await.unwrap_or(0);
        let begun = Instant::now();
        let mut took_ms = Vec::new();
        for round in 1..=u64::from(rounds) {
            if took_ms.len() >= 5 && begun.elapsed() > Duration::from_secs(patience) {
                break;
            }
            let start = Instant::now();
            match self.ask(service, round).await {
                Ok(found) => groups = found,
                Err(error) => {
                    eprintln!("{}: {error:.100}", self.name);
                    took_ms.push(f64::INFINITY);
                    break;
                }
            }
            took_ms.push(start.elapsed().as_secs_f64() * 1_000.0);
        }
        Ok(Taken::new(self.name, took_ms, groups))
    }

    /// Asks once; says of how many groups or lines the answer was.
    pub(crate) async fn ask(&self, service: &Service, round: u64) -> anyhow::Result<usize> {
        let until = Timestamp::now().unix_secs() - round * 420;
        let since = Timestamp::from_unix_secs(until - self.secs).to_string();
        let until = Timestamp::from_unix_secs(until).to_string();
        let keys = service.store.keys(&service.account).await?;
        let place = usize::try_from(round * 7 % KEYS)?;
        let key = keys.get(place).map(|key| key.uid.to_string()).unwrap_or_default();
        let custom = format!("customer-{}", round * 613 % CUSTOM_IDENTIFIERS);
        let username = format!("username-of-some-length-as-minted-ones-are-{}", round * 613 % USERNAMES);
        let filled = |text: &str| {
            text.replace("{since}", &since)
                .replace("{until}", &until)
                .replace("{plain_custom}", &custom)
                .replace("{plain_username}", &username)
        };
        let answer = match &self.way {
            Way::Rest(path) => service.resource(&filled(path).replace("{key}", &key)).await?,
            Way::Page(path) => service.page(&filled(path).replace("{key}", &key)).await?,
            Way::Graphql(arguments, fields) => {
                let (arguments, filter) = arguments.split_once(", filter: ").unwrap_or((arguments, ""));
                let quoted = |text: &str| format!("\"{text}\"");
                let filter = filter
                    .replace("{key}", &quoted(&key))
                    .replace("{custom}", &quoted(&custom))
                    .replace("{username}", &quoted(&username));
                service
                    .graphql(&format!(
                        "{{ viewer {{ accounts(filter: {{}}) {{ callsTurnUsageAdaptiveGroups({arguments}, filter: {{ \
                         datetimeMinute_geq: \"{since}\", datetimeMinute_lt: \"{until}\" {filter} }}) {{ {fields} }} }} }} }}"
                    ))
                    .await?
            }
        };
        Ok(answer.matches("egressBytes").count().max(answer.lines().count().saturating_sub(1)))
    }
}
