use control::store::{AccountId, Permission, Store, StoreError, Timestamp, TokenText};
use credentials::{CredentialId, Denial};

use super::Place;
use super::server::now;
use crate::line;

async fn store() -> (Place, Store) {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    (place, store)
}

#[tokio::test]
async fn the_first_start_makes_an_account_and_a_token_once() {
    let (_place, store) = store().await;
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
    let (_place, store) = store().await;
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
    let (_place, store) = store().await;
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
    let (place, store) = store().await;
    let account = store.create_account(None, "").await.unwrap();
    let key = store.create_key(&account.id, "k").await.unwrap();
    let gone = store.create_key(&account.id, "g").await.unwrap();
    store.delete_key(&account.id, gone.key.uid).await.unwrap().unwrap();
    store.revoke(CredentialId::from_bytes([1; 16]), now() + 100).await.unwrap();
    store.close().await;
    let store = Store::open(&place.url()).await.unwrap();
    assert_eq!(store.keys(&account.id).await.unwrap(), std::slice::from_ref(&key.key));
    let record = store.key_record(key.key.uid).await.unwrap().unwrap();
    assert!(record.secret_hash.matches(key.secret.as_bytes()));
    assert_eq!(store.denials_after(0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn expired_denials_are_forgotten_and_the_feed_goes_on() {
    let (_place, store) = store().await;
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
    let (place, store) = store().await;
    let account = store.create_account(None, "").await.unwrap();
    let other = Store::open(&place.url()).await.unwrap();
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
        let place = Place::new();
        let opening: Vec<_> = (0..4)
            .map(|_| {
                let url = place.url();
                tokio::spawn(async move { Store::open(&url).await.map(drop) })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap_or_else(|error| panic!("{}", line(&error)));
        }
    }
}
