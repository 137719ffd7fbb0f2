//! From one database to many nodes': everything that a store in SQLite holds, copied into an empty one in PostgreSQL.

use futures_util::TryStreamExt as _;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::postgres::make_room;
use super::spans::Sums;
use super::{Backend, Store, StoreError};

/// Every table, those that others refer to before them; but for what nodes say of themselves while they run.
const TABLES: [&str; 31] = [
    "accounts",
    "api_tokens",
    "turn_keys",
    "denials",
    "shared_secrets",
    "setting_changes",
    "key_owners",
    "turn_sessions",
    "session_ends",
    "usage_series",
    "usage_groups",
    "usage_grouped",
    "usage_buckets",
    "usage_minutes",
    "usage_hours",
    "usage_days",
    "usage_weeks",
    "usage_kept",
    "usage_months",
    "session_orders",
    "audit",
    "answers",
    "webhooks",
    "deliveries",
    "told_session_ends",
    "month_limits",
    "acme_accounts",
    "acme_certificates",
    "acme_challenges",
    "sign_ins",
    "sealed_keyring",
];
/// Have rows in a store that is empty.
const NEVER_EMPTY: [&str; 2] = ["told_session_ends", "usage_kept"];
/// Tables whose rows are numbered, with the number's column. A number is never used twice, also after the copy.
const NUMBERED: [(&str, &str); 8] = [
    ("denials", "seq"),
    ("setting_changes", "seq"),
    ("session_ends", "seq"),
    ("usage_series", "id"),
    ("usage_groups", "id"),
    ("session_orders", "seq"),
    ("audit", "seq"),
    ("deliveries", "seq"),
];
/// Rows written by one statement.
const ROWS_AT_ONCE: usize = 1_000;

/// How many rows of a table were copied, and are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Which table.
    pub table: &'static str,
    /// How many rows.
    pub rows: u64,
}

/// A column's values of some rows.
enum Values {
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

/// A column, and the values that are to be written next.
struct Column {
    name: String,
    values: Values,
}

impl Store {
    /// Copies everything from a store in SQLite into one in PostgreSQL, in one transaction: all, or when it fails nothing.
    /// `progress` is told now and then of a table and how many of its rows are written. Nobody else should use either
    /// meanwhile: what is changed in the first after this began is not copied.
    ///
    /// # Errors
    /// When the stores are not of these kinds, the second holds anything, or a table has another number of rows at the
    /// end.
    pub async fn copy_to(
        &self,
        to: &Self,
        mut progress: impl FnMut(Copied),
    ) -> Result<Vec<Copied>, StoreError> {
        let (Backend::Sqlite(from), Backend::Postgres(to)) = (&self.backend, &to.backend) else {
            return Err(StoreError::CopyKinds);
        };
        let mut source = from.reader().begin().await?;
        let mut target = to.begin().await?;
        // A large table is read for longer than others may leave a transaction idle, and counted for longer than others
        // may ask.
        for limit in ["idle_in_transaction_session_timeout", "statement_timeout"] {
            sqlx::query(AssertSqlSafe(format!("SET LOCAL {limit} = 0"))).execute(&mut *target).await?;
        }
        for table in TABLES.into_iter().filter(|table| !NEVER_EMPTY.contains(table)) {
            let exists = AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {table})"));
            if sqlx::query_scalar(exists).fetch_one(&mut *target).await? {
                return Err(StoreError::CopyTarget { table });
            }
        }
        for table in NEVER_EMPTY {
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *target).await?;
        }
        for sums in Sums::ALL {
            let days = format!("SELECT DISTINCT start - start % 86400 FROM {}", sums.table());
            let days: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(days)).fetch_all(&mut *source).await?;
            for day in days {
                make_room(&mut target, sums, day).await?;
            }
        }
        let mut copied = Vec::with_capacity(TABLES.len());
        for table in TABLES {
            let done = copy_table(table, &mut source, &mut target, &mut progress).await?;
            progress(done);
            copied.push(done);
        }
        for (table, column) in NUMBERED {
            let last: Option<i64> = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = $1")
                .bind(table)
                .fetch_optional(&mut *source)
                .await?;
            let Some(last) = last.filter(|last| *last > 0) else { continue };
            sqlx::query("SELECT setval(pg_get_serial_sequence($1, $2), $3)")
                .bind(table)
                .bind(column)
                .bind(last)
                .execute(&mut *target)
                .await?;
        }
        target.commit().await?;
        Ok(copied)
    }
}

async fn copy_table(
    table: &'static str,
    source: &mut sqlx::Transaction<'static, sqlx::Sqlite>,
    target: &mut sqlx::Transaction<'static, sqlx::Postgres>,
    progress: &mut impl FnMut(Copied),
) -> Result<Copied, StoreError> {
    let mut columns = columns(table, target).await?;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let arrays: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| format!("${}::{}[]", place + 1, column.values.kind()))
        .collect();
    let (names, arrays) = (names.join(", "), arrays.join(", "));
    let select = format!("SELECT {names} FROM {table}");
    let insert = format!("INSERT INTO {table} ({names}) SELECT * FROM UNNEST({arrays})");
    let (mut rows, mut waiting) = (0, 0);
    {
        let mut read = sqlx::query(AssertSqlSafe(select)).fetch(&mut **source);
        while let Some(row) = read.try_next().await? {
            for (place, column) in columns.iter_mut().enumerate() {
                column.values.push(&row, place)?;
            }
            waiting += 1;
            if waiting == ROWS_AT_ONCE {
                rows += write(&insert, &mut columns, target).await?;
                progress(Copied { table, rows });
                waiting = 0;
            }
        }
    }
    if waiting > 0 {
        rows += write(&insert, &mut columns, target).await?;
    }
    let count = format!("SELECT count(*) FROM {table}");
    let had: i64 = sqlx::query_scalar(AssertSqlSafe(count.clone())).fetch_one(&mut **source).await?;
    let has: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut **target).await?;
    if had != has || u64::try_from(has).ok() != Some(rows) {
        return Err(StoreError::CopyCount { table, had, has });
    }
    Ok(Copied { table, rows })
}

async fn columns(
    table: &str,
    target: &mut sqlx::Transaction<'static, sqlx::Postgres>,
) -> Result<Vec<Column>, StoreError> {
    let rows = sqlx::query(
        "SELECT column_name::text AS name, data_type::text AS kind FROM information_schema.columns \
         WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position",
    )
    .bind(table)
    .fetch_all(&mut **target)
    .await?;
    let column = |row: &PgRow| {
        let values = match row.try_get("kind")? {
            "bigint" => Values::Numbers(Vec::new()),
            "text" => Values::Texts(Vec::new()),
            _ => Values::Bytes(Vec::new()),
        };
        Ok(Column { name: row.try_get("name")?, values })
    };
    rows.iter().map(column).collect()
}

async fn write(
    insert: &str,
    columns: &mut [Column],
    target: &mut sqlx::Transaction<'static, sqlx::Postgres>,
) -> Result<u64, StoreError> {
    let mut statement = sqlx::query(AssertSqlSafe(insert.to_owned()));
    for column in columns {
        statement = match &mut column.values {
            Values::Numbers(values) => statement.bind(std::mem::take(values)),
            Values::Texts(values) => statement.bind(std::mem::take(values)),
            Values::Bytes(values) => statement.bind(std::mem::take(values)),
        };
    }
    Ok(statement.execute(&mut **target).await?.rows_affected())
}

impl Values {
    fn kind(&self) -> &'static str {
        match self {
            Self::Numbers(_) => "bigint",
            Self::Texts(_) => "text",
            Self::Bytes(_) => "bytea",
        }
    }

    fn push(&mut self, row: &SqliteRow, place: usize) -> Result<(), StoreError> {
        match self {
            Self::Numbers(values) => values.push(row.try_get(place)?),
            // PostgreSQL keeps no NUL in a text.
            Self::Texts(values) => {
                let text: Option<String> = row.try_get(place)?;
                values.push(text.map(|text| text.replace('\0', "\u{fffd}")));
            }
            Self::Bytes(values) => values.push(row.try_get(place)?),
        }
        Ok(())
    }
}
