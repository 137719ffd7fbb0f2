//! Whose turn it is to do what one node of many does for all.

use std::time::Duration;

use super::Database;
use crate::store::StoreError;

impl Database {
    /// Takes the lease for so long if nobody has it, or renews it; otherwise for how long another one has it.
    pub(in crate::store) async fn take_duty(
        &self,
        own: &str,
        lease: Duration,
        is_on: bool,
    ) -> Result<Option<Duration>, StoreError> {
        let lease = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        // Who does not have it mostly writes nothing.
        if !is_on && let Some(left) = self.duty_left(lease).await? {
            return Ok(Some(left));
        }
        // The database's clock may have been set back.
        let taken = sqlx::query(concat!(
            "INSERT INTO duties (name, holder, until) VALUES ('look', $1, ",
            now_micros!(),
            " + $2) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until \
             WHERE duties.holder = excluded.holder OR duties.until <= ",
            now_micros!(),
            " OR duties.until > excluded.until + $2"
        ))
        .bind(own)
        .bind(lease)
        .execute(&self.write)
        .await?;
        if taken.rows_affected() > 0 {
            return Ok(None);
        }
        Ok(Some(self.duty_left(lease).await?.unwrap_or_default()))
    }

    /// For how long anybody has it.
    async fn duty_left(&self, lease: i64) -> Result<Option<Duration>, StoreError> {
        let left = concat!("SELECT until - ", now_micros!(), " FROM duties WHERE name = 'look'");
        let left: Option<i64> = sqlx::query_scalar(left).fetch_optional(&self.read).await?;
        let left = left.filter(|left| (1..=lease.saturating_mul(2)).contains(left));
        Ok(left.map(|left| Duration::from_micros(left.unsigned_abs())))
    }
}
