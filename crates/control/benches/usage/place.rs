//! Where the store is.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;
use testkit::postgres::Cluster;

use crate::Kind;

/// What a server that is meant for this much is given; all else is as it comes. The cluster is made for tests, which do
/// not wait for the disk: here it does once it is filled.
const SETTINGS: [&str; 2] =
    ["ALTER SYSTEM SET shared_buffers = '1GB'", "ALTER SYSTEM SET max_wal_size = '2GB'"];
const SAFE: &str =
    "ALTER SYSTEM SET fsync = on;\nALTER SYSTEM SET full_page_writes = on;\nSELECT pg_reload_conf();";

/// A database that is removed at the end.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    url: String,
    dir: TempDir,
    /// Ends with this.
    _cluster: Option<Cluster>,
    /// The server's log, where it is known.
    log: Option<PathBuf>,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        if kind == Kind::Sqlite {
            let url = format!("sqlite:{}", dir.path().join("turnery.db").display());
            return Ok(Self { kind, url, dir, _cluster: None, log: None });
        }
        let cluster = Cluster::start();
        for setting in SETTINGS {
            cluster.sql("postgres", setting);
        }
        cluster.stop();
        cluster.start_again();
        let url = cluster.database();
        let log = Some(cluster.dir().join("log"));
        Ok(Self { kind, url, dir, _cluster: Some(cluster), log })
    }

    /// One that another process has made.
    pub(crate) async fn at(url: &str) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut connection = PgConnection::connect(url).await?;
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await?;
        let log = Some(PathBuf::from(data).with_file_name("log"));
        Ok(Self { kind: Kind::Postgres, url: url.to_owned(), dir, _cluster: None, log })
    }

    /// The account that has most usage: it was there first.
    pub(crate) async fn account(&self) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let first = sqlx::query_scalar("SELECT id FROM accounts ORDER BY created_on DESC LIMIT 1");
        Ok(first.fetch_one(&mut connection).await?)
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Runs statements beside those of the store.
    pub(crate) async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        if self.kind == Kind::Postgres {
            let mut connection = PgConnection::connect(&self.url).await?;
            for statement in sql.split(";\n") {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
            }
            connection.close().await?;
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

    /// The same, and numbers for those who plan.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Postgres => self.execute("VACUUM ANALYZE;\nCHECKPOINT").await,
            // A node does not do that.
            Kind::Sqlite => Ok(()),
        }
    }

    /// From now on what is written is safe.
    pub(crate) async fn make_safe(&self) -> anyhow::Result<()> {
        if self.kind == Kind::Postgres { self.execute(SAFE).await } else { Ok(()) }
    }

    /// Of tables about usage: the name, rows, bytes with indexes.
    pub(crate) async fn tables(&self) -> anyhow::Result<Vec<(String, i64, i64)>> {
        if self.kind == Kind::Sqlite {
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
        }
        let mut connection = PgConnection::connect(&self.url).await?;
        let rows = sqlx::query(
            "SELECT coalesce(p.inhparent::regclass::text, c.oid::regclass::text), sum(c.reltuples)::bigint, \
             sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c LEFT JOIN pg_inherits p ON p.inhrelid = c.oid \
             WHERE c.relkind = 'r' AND c.relname LIKE 'usage_%' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut connection)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
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
            self.execute(&format!("LOAD 'auto_explain';\nALTER DATABASE {database} {value}")).await?;
        }
        Ok(())
    }

    pub(crate) fn log_length(&self) -> u64 {
        self.log.as_ref().and_then(|log| fs::metadata(log).ok()).map_or(0, |log| log.len())
    }

    /// The plans of statements about usage that came behind this place.
    pub(crate) fn plans_since(&self, before: u64) -> anyhow::Result<String> {
        let Some(log) = &self.log else { return Ok("only PostgreSQL shows plans".to_owned()) };
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
