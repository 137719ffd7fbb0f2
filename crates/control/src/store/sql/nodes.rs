use sqlx::Row as _;

use super::{Database, text};
use crate::store::nodes::KnownNode;
use crate::store::{StoreError, Timestamp};

impl Database {
    /// One row of one node's: nobody else writes it, so no lock is needed.
    pub(in crate::store) async fn note_node(&self, name: &str, about: &str) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "INSERT INTO nodes (name, seen, about) VALUES ($1, ",
            now_micros!(),
            ", $2) ON CONFLICT (name) DO UPDATE SET seen = excluded.seen, about = excluded.about"
        ))
        .bind(text(name))
        .bind(text(about))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn nodes(&self, limit: u32) -> Result<Vec<KnownNode>, StoreError> {
        let rows = sqlx::query(concat!(
            "SELECT name, about, seen, ",
            now_micros!(),
            " - seen AS age FROM nodes ORDER BY name LIMIT $1"
        ))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        let node = |row: &super::Row| {
            let seen = Timestamp::from_unix_micros(row.try_get("seen")?);
            Ok(KnownNode::new(row.try_get("name")?, row.try_get("about")?, seen, row.try_get("age")?))
        };
        rows.iter().map(node).collect()
    }

    pub(in crate::store) async fn forget_nodes(&self, after_secs: u32) -> Result<(), StoreError> {
        sqlx::query(concat!("DELETE FROM nodes WHERE seen < ", now_micros!(), " - $1"))
            .bind(i64::from(after_secs) * 1_000_000)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}
