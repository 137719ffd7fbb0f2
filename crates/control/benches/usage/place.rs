//! Where the store is.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;
use testkit::postgres::Cluster;

use crate::Kind;

/// What a server that is meant for this much is given; all else is as it comes. The cluster is made for tests, which do
/// not wait for the disk.
const SETTINGS: [&str; 4] = [
    "ALTER SYSTEM SET shared_buffers = '1GB'",
    "ALTER SYSTEM SET fsync = on",
    "ALTER SYSTEM SET full_page_writes = on",
    "ALTER SYSTEM SET max_wal_size = '2GB'",
];

/// A database that is removed at the end.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    url: String,
    dir: TempDir,
    cluster: Option<Cluster>,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        if kind == Kind::Sqlite {
            let url = format!("sqlite:{}", dir.path().join("turnery.db").display());
            return Ok(Self { kind, url, dir, cluster: None });
        }
        let cluster = Cluster::start();
        for setting in SETTINGS {
            cluster.sql("postgres", setting);
        }
        cluster.stop();
        cluster.start_again();
        let url = cluster.database();
        Ok(Self { kind, url, dir, cluster: Some(cluster) })
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Runs statements beside those of the store.
    pub(crate) async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        if let Some(cluster) = &self.cluster {
            tokio::task::block_in_place(|| cluster.sql(&self.url, sql));
            return Ok(());
        }
        let mut connection = self.sqlite().await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    async fn sqlite(&self) -> anyhow::Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(self.dir.path().join("turnery.db"));
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// What the server does by itself within minutes.
    pub(crate) async fn vacuum(&self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Postgres => self.execute("VACUUM usage_buckets").await,
            Kind::Sqlite => Ok(()),
        }
    }

    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Postgres => self.execute("VACUUM ANALYZE; CHECKPOINT").await,
            Kind::Sqlite => self.execute("ANALYZE").await,
        }
    }

    /// Of tables about usage: the name, rows, bytes with indexes.
    pub(crate) async fn tables(&self) -> anyhow::Result<Vec<(String, i64, i64)>> {
        let Some(cluster) = &self.cluster else {
            let mut connection = self.sqlite().await?;
            let names =
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'usage_%' ORDER BY name";
            let mut tables = Vec::new();
            for row in sqlx::query(names).fetch_all(&mut connection).await? {
                let name: String = row.try_get(0)?;
                let count = AssertSqlSafe(format!("SELECT count(*) FROM {name}"));
                tables.push((name, sqlx::query_scalar(count).fetch_one(&mut connection).await?, 0));
            }
            return Ok(tables);
        };
        let rows = cluster.sql(
            &self.url,
            "SELECT coalesce(p.inhparent::regclass::text, c.oid::regclass::text), sum(c.reltuples)::bigint, \
             sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c LEFT JOIN pg_inherits p ON p.inhrelid = c.oid \
             WHERE c.relkind = 'r' AND c.relname LIKE 'usage_%' GROUP BY 1 ORDER BY 1",
        );
        let table = |line: &str| {
            let mut fields = line.split('|');
            let name = fields.next()?.to_owned();
            Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        Ok(rows.lines().filter_map(table).collect())
    }

    /// Has the server write down the plan of each statement, of connections made from now on.
    pub(crate) async fn explain(&self, is_on: bool) -> anyhow::Result<()> {
        let database = self.url.rsplit('/').next().unwrap_or_default();
        let settings = [
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_buffers", "on"),
            ("auto_explain.log_timing", "off"),
        ];
        for (name, value) in settings {
            let value = if is_on { format!("SET {name} = '{value}'") } else { format!("RESET {name}") };
            self.execute(&format!("LOAD 'auto_explain'; ALTER DATABASE {database} {value}")).await?;
        }
        Ok(())
    }

    fn log(&self) -> Option<PathBuf> {
        Some(self.cluster.as_ref()?.dir().join("log"))
    }

    pub(crate) fn log_length(&self) -> u64 {
        self.log().and_then(|log| fs::metadata(log).ok()).map_or(0, |log| log.len())
    }

    /// The plans of statements about usage that came behind this place.
    pub(crate) fn plans_since(&self, before: u64) -> anyhow::Result<String> {
        let Some(log) = self.log() else { return Ok("only PostgreSQL shows plans".to_owned()) };
        let mut file = fs::File::open(log).context("the server's log")?;
        file.seek(SeekFrom::Start(before))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A message begins with its time; the lines after it begin with a tab.
        let mut plans = String::new();
        let mut is_plan = false;
        for line in text.lines() {
            if !line.starts_with('\t') {
                is_plan = line.contains("plan:");
                continue;
            }
            if is_plan {
                plans.push_str(line.trim_start_matches('\t'));
                plans.push('\n');
            }
        }
        let is_about =
            |plan: &&str| plan.contains("usage_") || plan.contains("turn_sessions") || plan.contains("audit");
        Ok(plans.split("Query Text: ").filter(is_about).collect::<Vec<_>>().join("\n"))
    }
}
