use std::os::unix::fs::PermissionsExt;

use control::store::{AccountId, Permission, Store, StoreError, Timestamp, TokenText};
use credentials::{CredentialId, Denial};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use crate::server::{now, url};

async fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&url(&dir)).await.unwrap();
    (dir, store)
}

/// The error's text with its causes, as it would be printed.
fn line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", line(source)),
        None => error.to_string(),
    }
}

async fn open_error(url: &str) -> String {
    let text = line(&Store::open(url).await.expect_err(url));
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let dir = TempDir::new().unwrap();
    let check = async |url: &str, words: &[&str]| {
        let text = open_error(url).await;
        for word in words {
            assert!(text.contains(word), "{url}: {text:?} says {word:?}");
        }
    };
    check("postgres://db/turnery", &["sqlite:", "postgres://db/turnery"]).await;
    check("turnery.db", &["sqlite:"]).await;
    check("sqlite:", &["names no file"]).await;
    check("sqlite::memory:", &["names no file"]).await;
    let missing = dir.path().join("missing/turnery.db");
    check(&format!("sqlite:{}", missing.display()), &["missing/turnery.db", "No such file"]).await;
    check(&format!("sqlite:{}", dir.path().display()), &["cannot open", "directory"]).await;
    check("sqlite:/proc/turnery.db", &["/proc/turnery.db", "cannot open"]).await;
    let other = dir.path().join("other.db");
    std::fs::write(&other, "this is no database, but it is longer than a header would be. ".repeat(40))
        .unwrap();
    check(&format!("sqlite:{}", other.display()), &["other.db", "not an SQLite database"]).await;
}

#[tokio::test]
async fn a_store_from_the_future_is_left_alone() {
    let (dir, store) = store().await;
    store.close().await;
    let path = dir.path().join("turnery.db");
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'future', TRUE, x'00', 1)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let text = open_error(&url(&dir)).await;
    let want = format!(
        "the store {} was written by a newer Turnery (migration 9999); upgrade turnery or restore an older backup",
        path.display()
    );
    assert_eq!(text, want);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let (dir, _store) = store().await;
    for name in ["turnery.db", "turnery.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn the_first_start_makes_an_account_and_a_token_once() {
    let (_dir, store) = store().await;
    assert!(store.is_empty().await.unwrap());
    let id: AccountId = "00112233445566778899aabbccddeeff".parse().unwrap();
    let text: TokenText = "A".repeat(40).parse().unwrap();
    let made = store.bootstrap(Some(id.clone()), Some(text.clone())).await.unwrap().unwrap();
    assert_eq!(made.account.id, id);
    assert_eq!(made.token.text.as_str(), text.as_str());
    assert_eq!(made.token.token.permission, Permission::Write);
    assert!(!store.is_empty().await.unwrap());
    assert!(store.bootstrap(None, Some(text.clone())).await.unwrap().is_none());
    let found = store.token_with_text(text.as_str()).await.unwrap().unwrap();
    assert_eq!((&found, &found.account), (&made.token.token, &id));
    assert_eq!(store.accounts().await.unwrap(), [made.account]);
}

#[tokio::test]
async fn tokens_are_listed_and_deleted() {
    let (_dir, store) = store().await;
    let account = store.create_account(None, "a").await.unwrap();
    assert_eq!(account.id.as_str().len(), 32);
    let soon = Timestamp::from_unix_secs(now() + 60);
    let read = store.create_token(&account.id, "r", Permission::Read, Some(soon), None).await.unwrap();
    let write = store.create_token(&account.id, "w", Permission::Write, None, None).await.unwrap();
    assert_eq!(store.tokens(&account.id).await.unwrap(), [read.token.clone(), write.token.clone()]);
    assert!(read.token.is_active(Timestamp::now()));
    assert!(!read.token.is_active(soon), "refused from its expiry on");
    let again = store.create_token(&account.id, "", Permission::Read, None, Some(read.text.clone())).await;
    assert!(matches!(again, Err(StoreError::TokenExists)));
    assert_eq!(store.delete_token(&read.token.id).await.unwrap(), Some(read.token.clone()));
    assert_eq!(store.delete_token(&read.token.id).await.unwrap(), None);
    assert!(store.token_with_text(read.text.as_str()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_account_goes_with_all_it_has() {
    let (_dir, store) = store().await;
    let account = store.create_account(Some("abc".parse().unwrap()), "a").await.unwrap();
    let exists = store.create_account(Some("ABC".parse().unwrap()), "b").await;
    assert!(matches!(exists, Err(StoreError::AccountExists(_))));
    let token = store.create_token(&account.id, "", Permission::Read, None, None).await.unwrap();
    let keys =
        [store.create_key(&account.id, "").await.unwrap(), store.create_key(&account.id, "").await.unwrap()];
    assert_eq!(store.delete_account(&account.id).await.unwrap(), Some(account.clone()));
    assert_eq!(store.delete_account(&account.id).await.unwrap(), None);
    assert!(store.token_with_text(token.text.as_str()).await.unwrap().is_none());
    assert!(store.key_records().await.unwrap().is_empty());
    let denials = store.denials_after(0, 10).await.unwrap();
    for made in keys {
        let denied = denials
            .iter()
            .any(|entry| matches!(entry.denial, Denial::Key { key, .. } if key == made.key.uid));
        assert!(denied, "{:?}", made.key.uid);
    }
    let orphan = store.create_key(&account.id, "").await;
    assert!(matches!(orphan, Err(StoreError::NoSuchAccount(_))));
    let orphan = store.create_token(&account.id, "", Permission::Read, None, None).await;
    assert!(matches!(orphan, Err(StoreError::NoSuchAccount(_))));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let (dir, store) = store().await;
    let account = store.create_account(None, "").await.unwrap();
    let key = store.create_key(&account.id, "k").await.unwrap();
    let gone = store.create_key(&account.id, "g").await.unwrap();
    store.delete_key(&account.id, gone.key.uid).await.unwrap().unwrap();
    store.revoke(CredentialId::from_bytes([1; 16]), now() + 100).await.unwrap();
    store.close().await;
    let store = Store::open(&url(&dir)).await.unwrap();
    assert_eq!(store.keys(&account.id).await.unwrap(), std::slice::from_ref(&key.key));
    let record = store.key_record(key.key.uid).await.unwrap().unwrap();
    assert!(record.secret_hash.matches(key.secret.as_bytes()));
    assert_eq!(store.denials_after(0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn expired_denials_are_forgotten_and_the_feed_goes_on() {
    let (_dir, store) = store().await;
    let id = |n| CredentialId::from_bytes([n; 16]);
    store.revoke(id(1), now() + 10).await.unwrap();
    store.revoke(id(2), now() + 1_000).await.unwrap();
    store.revoke(id(3), now() - 1).await.unwrap();
    let entries = store.denials_after(0, 10).await.unwrap();
    assert_eq!(entries.len(), 2, "an expired credential needs no denial");
    let last = entries[1].seq;
    assert_eq!(store.purge_denials(now() + 100).await.unwrap(), 1);
    assert_eq!(store.purge_denials(now() + 2_000).await.unwrap(), 1);
    store.revoke(id(4), now() + 10).await.unwrap();
    let entries = store.denials_after(last, 10).await.unwrap();
    assert_eq!(entries.len(), 1, "a number is never used twice");
}

#[tokio::test]
async fn two_processes_write_at_once() {
    let (dir, store) = store().await;
    let account = store.create_account(None, "").await.unwrap();
    let other = Store::open(&url(&dir)).await.unwrap();
    let create = async |store: &Store| {
        for _ in 0..50 {
            store.create_key(&account.id, "").await.unwrap();
        }
    };
    tokio::join!(create(&store), create(&other));
    assert_eq!(store.keys(&account.id).await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_may_open_a_new_store_at_once() {
    for _ in 0..10 {
        let dir = TempDir::new().unwrap();
        let opening: Vec<_> = (0..4)
            .map(|_| {
                let url = url(&dir);
                tokio::spawn(async move { Store::open(&url).await.map(drop) })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap_or_else(|error| panic!("{}", line(&error)));
        }
    }
}

#[tokio::test]
async fn a_damaged_store_says_its_fault_once() {
    let (dir, store) = store().await;
    store.close().await;
    let path = dir.path().join("turnery.db");
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    sqlx::query("DELETE FROM _sqlx_migrations").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let text = open_error(&url(&dir)).await;
    assert_eq!(text.matches("table accounts already exists").count(), 1, "{text}");
}
