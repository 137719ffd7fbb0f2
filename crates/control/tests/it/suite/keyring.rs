use control::Feed;
use control::store::{AuditQuery, KeyringChange, Store};
use credentials::{Keyring, SealedKeyringError, SealingKey};

use super::Place;
use super::server::now;

async fn store() -> (Place, Store) {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    (place, store)
}

fn keyring() -> Keyring {
    Keyring::generate(now()).unwrap()
}

#[tokio::test]
async fn the_keyring_is_kept_sealed_and_changed_from_a_known_version_only() {
    let (place, store) = store().await;
    assert_eq!(store.keyring().await.unwrap(), None);
    let key = SealingKey::generate().unwrap();
    let mut ring = keyring();
    let made = store.make_keyring(&key, &ring).await.unwrap();
    assert_eq!((made.mark.version, &made.open(&key).unwrap()), (1, &ring));
    let kept = store.make_keyring(&key, &keyring()).await.unwrap();
    assert_eq!(kept, made, "there is one already");
    let other = SealingKey::generate().unwrap();
    assert!(matches!(made.open(&other), Err(SealedKeyringError::Forged)));

    ring.prepare(now()).unwrap();
    assert!(store.change_keyring(1, KeyringChange::Prepared, (&key, &ring)).await.unwrap());
    assert!(!store.change_keyring(1, KeyringChange::Rotated, (&key, &keyring())).await.unwrap());
    let prepared = store.keyring().await.unwrap().unwrap();
    assert_eq!((prepared.mark.version, &prepared.open(&key).unwrap()), (2, &ring));
    assert!(prepared.mark.changed > made.mark.changed);
    ring.rotate(now()).unwrap();
    assert!(store.change_keyring(2, KeyringChange::Rotated, (&key, &ring)).await.unwrap());
    let rotated = Store::open(&place.url()).await.unwrap().keyring().await.unwrap().unwrap();
    assert_eq!((rotated.mark.version, &rotated.open(&key).unwrap()), (3, &ring));
    assert!(!place.holds(b"[[key]]") && !place.holds(b"superseded_at"), "it is never there in clear");

    let query = AuditQuery { action: Some("keyring".to_owned()), ..AuditQuery::default() };
    let told = store.audit(&query, 10).await.unwrap();
    let told: Vec<_> = told.iter().map(|row| (row.action.as_str(), row.target.as_str())).collect();
    assert_eq!(told, [("keyring.rotate", "3"), ("keyring.prepare", "2"), ("keyring.create", "1")]);
}

/// What was sealed as one version is none when it stands as another: whoever can write to the database cannot mix them.
#[tokio::test]
async fn a_keyring_that_was_tampered_with_is_refused() {
    let (place, store) = store().await;
    let key = SealingKey::generate().unwrap();
    store.make_keyring(&key, &keyring()).await.unwrap();
    place.execute("UPDATE sealed_keyring SET version = 2").await;
    let found = store.keyring().await.unwrap().unwrap();
    assert!(matches!(found.open(&key), Err(SealedKeyringError::Forged)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_make_one_at_once_all_have_the_same() {
    let (place, store) = store().await;
    let key = SealingKey::generate().unwrap();
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (url, key) = (place.url(), key.clone());
        making.spawn(async move {
            let store = Store::open(&url).await.unwrap();
            store.make_keyring(&key, &keyring()).await.unwrap()
        });
    }
    let all = making.join_all().await;
    let kept = store.keyring().await.unwrap().unwrap();
    assert!(all.iter().all(|made| *made == kept), "{all:?}");
    // And of many that change it one does.
    let mut changing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (url, key) = (place.url(), key.clone());
        changing.spawn(async move {
            let store = Store::open(&url).await.unwrap();
            store.change_keyring(1, KeyringChange::Prepared, (&key, &keyring())).await.unwrap()
        });
    }
    let changed = changing.join_all().await;
    assert_eq!(changed.iter().filter(|done| **done).count(), 1);
    assert_eq!(store.keyring().await.unwrap().unwrap().mark.version, 2);
}

/// Who reads the feed sees it with the same question.
#[tokio::test]
async fn a_feed_that_follows_the_keyring_sees_that_it_changed() {
    let (place, store) = store().await;
    let key = SealingKey::generate().unwrap();
    let following = Store::open(&place.url()).await.unwrap().following_keyring();
    let shared = std::sync::Arc::new(arc_swap::ArcSwap::from_pointee(keyring()));
    let feed = Feed::new(following.clone(), shared);
    feed.subscribe(|_| ()).await.unwrap();
    assert_eq!(following.seen_keyring(), None);
    let made = store.make_keyring(&key, &keyring()).await.unwrap();
    feed.catch_up().await.unwrap();
    assert_eq!(following.seen_keyring(), Some(made.mark));
    assert!(store.change_keyring(1, KeyringChange::Rotated, (&key, &keyring())).await.unwrap());
    feed.catch_up().await.unwrap();
    let changed = store.keyring().await.unwrap().unwrap();
    assert_eq!(following.seen_keyring(), Some(changed.mark));
    // A restore brings an older one back: its number may come again, but it is another.
    place.execute("UPDATE sealed_keyring SET changed = 7").await;
    feed.catch_up().await.unwrap();
    assert_ne!(following.seen_keyring(), Some(changed.mark));
    place.execute("DELETE FROM sealed_keyring").await;
    feed.catch_up().await.unwrap();
    assert_eq!((following.seen_keyring(), store.seen_keyring()), (None, None));
}
