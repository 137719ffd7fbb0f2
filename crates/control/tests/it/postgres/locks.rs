//! Who waits for whom.

use std::time::Duration;

use control::store::usage::SessionReport;
use credentials::CredentialId;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::timeout;

use super::{Place, suite};
use suite::server::{Server, now, server};
use suite::usage::{made_key, node, report};

const PATIENCE: Duration = Duration::from_secs(30);
/// Who waits for a lock waits for longer.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Somebody else in the database.
async fn other(place: &Place) -> PgConnection {
    PgConnection::connect(&place.url()).await.unwrap()
}

/// Until so many wait for a lock with a statement like this.
async fn until_waiting(place: &Place, statement: &str) {
    let waiting = format!(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
         AND query LIKE '{statement}%'"
    );
    let waits = async {
        while place.sql(&waiting) == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waits).await.expect("somebody waits");
}

async fn until_count(place: &Place, table: &str, count: u64) {
    let counted = async {
        while place.count(table).await != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{count} in {table}"));
}

/// Webhooks that nobody answers, so many, and a session's end to tell them.
async fn with_an_end(server: &Server, webhooks: usize) -> (Vec<String>, SessionReport) {
    let key = made_key(server).await;
    let mut ids = Vec::new();
    for _ in 0..webhooks {
        let keyring = server.keyring.load_full();
        let events = ["session.ended".to_owned()];
        let made = server.store.create_webhook(&keyring, &server.account.id, "http://127.0.0.1:1/", &events);
        ids.push(made.await.unwrap().webhook.id);
    }
    let ended = report(1, key, 2, "2026-03-01T10:01:00Z", 7);
    (ids, SessionReport { ended: Some("expired"), ..ended })
}

#[tokio::test]
async fn a_revocation_waits_for_nobody_who_tells_of_sessions_ends() {
    let server = server().await;
    let (_, ended) = with_an_end(&server, 1).await;
    let mut holding = other(&server.place).await;
    holding.execute("BEGIN; LOCK TABLE deliveries IN SHARE MODE").await.unwrap();
    server.store.record_usage(&node("a"), &[ended]).await.unwrap();
    until_waiting(&server.place, "INSERT INTO deliveries").await;
    let revoked = server.store.revoke(CredentialId::from_bytes([7; 16]), now() + 1_000);
    timeout(AT_ONCE, revoked).await.expect("it does not wait").unwrap();
    let made = server.store.create_key(&server.account.id, "");
    timeout(AT_ONCE, made).await.expect("nor does this").unwrap();
    holding.execute("COMMIT").await.unwrap();
    until_count(&server.place, "deliveries", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn others_are_told_of_ends_also_when_a_webhook_is_deleted_meanwhile() {
    let server = server().await;
    let (webhooks, ended) = with_an_end(&server, 2).await;
    server.place.sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$; \
         CREATE TRIGGER wait BEFORE INSERT ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION wait()",
    );
    let mut holding = other(&server.place).await;
    holding.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    server.store.record_usage(&node("a"), &[ended]).await.unwrap();
    until_waiting(&server.place, "INSERT INTO deliveries").await;
    let deleted = server.store.delete_webhook(&server.account.id, &webhooks[0]);
    timeout(AT_ONCE, deleted).await.expect("it does not wait").unwrap().unwrap();
    holding.execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    until_count(&server.place, "deliveries", 1).await;
    assert_eq!(server.place.sql("SELECT webhook FROM deliveries"), webhooks[1]);
    let mark = "SELECT t.seq = MAX(e.seq) FROM told_session_ends t, session_ends e GROUP BY t.seq";
    assert_eq!(server.place.sql(mark), "t");
    server.stop().await;
}
