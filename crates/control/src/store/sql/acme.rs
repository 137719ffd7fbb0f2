use sqlx::Row as _;

use super::{Database, Row, count, text};
use crate::store::acme::{AcmeAccount, AcmeCertificate, AcmeChallenge, AcmeId, ObtainedCertificate};
use crate::store::{StoreError, Timestamp};

impl Database {
    pub(in crate::store) async fn acme_certificate(
        &self,
        id: &AcmeId,
    ) -> Result<Option<AcmeCertificate>, StoreError> {
        let row = sqlx::query("SELECT * FROM acme_certificates WHERE directory = $1 AND names = $2")
            .bind(&id.directory)
            .bind(&id.names)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(certificate).transpose()
    }

    pub(in crate::store) async fn insert_acme_certificate(
        &self,
        id: &AcmeId,
    ) -> Result<AcmeCertificate, StoreError> {
        let row = sqlx::query(
            "INSERT INTO acme_certificates (directory, names) VALUES ($1, $2) \
             ON CONFLICT (directory, names) DO UPDATE SET names = excluded.names RETURNING *",
        )
        .bind(&id.directory)
        .bind(&id.names)
        .fetch_one(&self.write)
        .await?;
        certificate(&row)
    }

    pub(in crate::store) async fn acme_certificates(&self) -> Result<Vec<AcmeCertificate>, StoreError> {
        let query = sqlx::query("SELECT * FROM acme_certificates ORDER BY directory, names");
        let rows = query.fetch_all(&self.read).await?;
        rows.iter().map(certificate).collect()
    }

    pub(in crate::store) async fn claim_acme(
        &self,
        id: &AcmeId,
        claimant: &str,
        now: i64,
        until: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE acme_certificates SET claimant = $1, claimed_until = $2, tried = $3 \
             WHERE directory = $4 AND names = $5 AND renew_at <= $6 AND next_try <= $7 \
             AND (claimant IS NULL OR claimed_until <= $8)",
        )
        .bind(claimant)
        .bind(until)
        .bind(now)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(now)
        .bind(now)
        .bind(now)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(in crate::store) async fn keep_acme_claim(
        &self,
        id: &AcmeId,
        claimant: &str,
        until: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE acme_certificates SET claimed_until = $1 \
             WHERE directory = $2 AND names = $3 AND claimant = $4",
        )
        .bind(until)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(claimant)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(in crate::store) async fn release_acme(&self, claimant: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE acme_certificates SET claimant = NULL, claimed_until = 0 WHERE claimant = $1")
            .bind(claimant)
            .execute(&self.write)
            .await?;
        self.delete_acme_challenges(claimant).await
    }

    pub(in crate::store) async fn acme_obtained(
        &self,
        id: &AcmeId,
        claimant: &str,
        new: ObtainedCertificate<'_>,
        sealed_key: &[u8],
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE acme_certificates SET version = version + 1, chain = $1, sealed_key = $2, not_after = $3, \
             renew_at = $4, ask_at = 0, claimant = NULL, claimed_until = 0, failures = 0, last_error = NULL, \
             next_try = 0 WHERE directory = $5 AND names = $6 AND claimant = $7",
        )
        .bind(new.chain)
        .bind(sealed_key)
        .bind(new.not_after)
        .bind(new.renew_at)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(claimant)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(in crate::store) async fn acme_failed(
        &self,
        id: &AcmeId,
        claimant: &str,
        error: &str,
        next_try: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE acme_certificates SET failures = failures + 1, last_error = $1, next_try = $2, \
             claimant = NULL, claimed_until = 0 WHERE directory = $3 AND names = $4 AND claimant = $5",
        )
        .bind(text(error))
        .bind(next_try)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(claimant)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn renew_acme(&self) -> Result<u64, StoreError> {
        let done = sqlx::query("UPDATE acme_certificates SET renew_at = 0, next_try = 0")
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected())
    }

    pub(in crate::store) async fn claim_acme_question(
        &self,
        id: &AcmeId,
        now: i64,
        ask_at: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE acme_certificates SET ask_at = $1 \
             WHERE directory = $2 AND names = $3 AND ask_at <= $4 AND renew_at > $5 AND chain IS NOT NULL",
        )
        .bind(ask_at)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(now)
        .bind(now)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(in crate::store) async fn set_acme_renewal(
        &self,
        id: &AcmeId,
        version: i64,
        renew_at: i64,
        ask_at: i64,
    ) -> Result<(), StoreError> {
        // Not where it is to be renewed at once: somebody has said so.
        sqlx::query(
            "UPDATE acme_certificates SET renew_at = $1, ask_at = $2 \
             WHERE directory = $3 AND names = $4 AND version = $5 AND renew_at > 0",
        )
        .bind(renew_at)
        .bind(ask_at)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(version)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn purge_acme(&self, before: i64) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM acme_certificates WHERE COALESCE(not_after, 0) < $1 AND tried < $2 AND claimant IS NULL",
        )
        .bind(before)
        .bind(before)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected())
    }

    pub(in crate::store) async fn set_acme_key(
        &self,
        id: &AcmeId,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE acme_certificates SET sealed_key = $1 \
             WHERE directory = $2 AND names = $3 AND sealed_key = $4",
        )
        .bind(new)
        .bind(&id.directory)
        .bind(&id.names)
        .bind(old)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn acme_account(
        &self,
        directory: &str,
    ) -> Result<Option<AcmeAccount>, StoreError> {
        let row = sqlx::query("SELECT directory, contact, sealed FROM acme_accounts WHERE directory = $1")
            .bind(directory)
            .fetch_optional(&self.read)
            .await?;
        row.as_ref().map(account).transpose()
    }

    pub(in crate::store) async fn acme_accounts(&self) -> Result<Vec<AcmeAccount>, StoreError> {
        let rows = sqlx::query("SELECT directory, contact, sealed FROM acme_accounts ORDER BY directory")
            .fetch_all(&self.read)
            .await?;
        rows.iter().map(account).collect()
    }

    pub(in crate::store) async fn set_acme_account(
        &self,
        directory: &str,
        contact: &str,
        sealed: &[u8],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO acme_accounts (directory, contact, sealed, created) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (directory) DO UPDATE SET contact = excluded.contact, sealed = excluded.sealed",
        )
        .bind(directory)
        .bind(contact)
        .bind(sealed)
        .bind(Timestamp::now().unix_micros())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn reseal_acme_account(
        &self,
        directory: &str,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE acme_accounts SET sealed = $1 WHERE directory = $2 AND sealed = $3")
            .bind(new)
            .bind(directory)
            .bind(old)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    pub(in crate::store) async fn delete_acme_account(&self, directory: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM acme_accounts WHERE directory = $1")
            .bind(directory)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    pub(in crate::store) async fn insert_acme_challenge(
        &self,
        challenge: &AcmeChallenge,
        claimant: &str,
        until: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO acme_challenges (kind, subject, answer, claimant, until) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (kind, subject) DO UPDATE SET answer = excluded.answer, \
             claimant = excluded.claimant, until = excluded.until",
        )
        .bind(&challenge.kind)
        .bind(&challenge.subject)
        .bind(&challenge.answer)
        .bind(claimant)
        .bind(until)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    pub(in crate::store) async fn acme_challenges(
        &self,
        now: i64,
        limit: u32,
    ) -> Result<Vec<AcmeChallenge>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, subject, answer FROM acme_challenges WHERE until > $1 ORDER BY kind, subject LIMIT $2",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await?;
        let read = |row: &Row| {
            Ok(AcmeChallenge {
                kind: row.try_get("kind")?,
                subject: row.try_get("subject")?,
                answer: row.try_get("answer")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Those of this claimant, and those of others that have not ended them in time.
    pub(in crate::store) async fn delete_acme_challenges(&self, claimant: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM acme_challenges WHERE claimant = $1 OR until <= $2")
            .bind(claimant)
            .bind(i64::try_from(Timestamp::now().unix_secs()).unwrap_or(i64::MAX))
            .execute(&self.write)
            .await?;
        Ok(())
    }
}

fn account(row: &Row) -> Result<AcmeAccount, StoreError> {
    let directory: String = row.try_get("directory")?;
    Ok(AcmeAccount::stored(&directory, row.try_get("contact")?, row.try_get("sealed")?))
}

fn certificate(row: &Row) -> Result<AcmeCertificate, StoreError> {
    let claimant: Option<String> = row.try_get("claimant")?;
    let claimed_until: i64 = row.try_get("claimed_until")?;
    Ok(AcmeCertificate {
        id: AcmeId { directory: row.try_get("directory")?, names: row.try_get("names")? },
        version: row.try_get("version")?,
        chain: row.try_get("chain")?,
        not_after: row.try_get("not_after")?,
        renew_at: row.try_get("renew_at")?,
        ask_at: row.try_get("ask_at")?,
        claimed_until: claimant.map(|_| claimed_until),
        failures: count(row, "failures")?,
        last_error: row.try_get("last_error")?,
        next_try: row.try_get("next_try")?,
        sealed_key: row.try_get("sealed_key")?,
    })
}
