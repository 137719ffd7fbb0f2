use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::store::Store;
use control::{Control, Feed, News};
use credentials::{CredentialId, Denial};

use super::Place;
use super::server::{now, server};
use crate::http::request;

type Heard = Arc<Mutex<Vec<Denial>>>;

async fn subscribe(feed: &Feed) -> Heard {
    let heard = Heard::default();
    let into = Arc::clone(&heard);
    let on = move |news: &News| {
        if let News::Denied(denial) = news {
            into.lock().unwrap().push(*denial);
        }
    };
    feed.subscribe(on).await.unwrap();
    heard
}

fn id(n: u8) -> CredentialId {
    CredentialId::from_bytes([n; 16])
}

fn denial(n: u8, until: u64) -> Denial {
    Denial::Credential { id: id(n), until }
}

#[tokio::test]
async fn subscribers_have_a_denial_before_the_answer() {
    let server = server().await;
    let heard = subscribe(&server.control.feed()).await;
    let (uid, secret) = server.key().await;
    let generate = request("POST", format!("/v1/turn/keys/{uid}/credentials/generate")).bearer(&secret);
    let username = server.send(generate).await.json()["iceServers"]["username"].as_str().unwrap().to_owned();

    let revoke = format!("/v1/turn/keys/{uid}/credentials/{username}/revoke");
    assert_eq!(server.send(request("POST", &*revoke).bearer(&secret)).await.status, 204);
    let opened = server.keyring.load().open(username.as_bytes()).unwrap();
    let revoked = Denial::Credential { id: opened.id, until: opened.claims.expires_at() };
    assert_eq!(*heard.lock().unwrap(), [revoked]);

    let delete = request("DELETE", format!("{}/{uid}", server.keys_path())).bearer(&server.token);
    server.send(delete).await.success(200, "delete");
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.len(), 2);
    let Denial::Key { key, until } = heard[1] else { panic!("{heard:?}") };
    assert_eq!(key.to_string(), uid);
    assert!(until >= now() + 48 * 3600, "every credential of the key has expired by then");
}

#[tokio::test]
async fn every_subscriber_hears_all_once_and_in_order() {
    let server = server().await;
    let feed = server.control.feed();
    let until = now() + 1_000;
    let elsewhere = Store::open(&server.place.url()).await.unwrap();
    elsewhere.revoke(id(1), until).await.unwrap();
    elsewhere.revoke(id(2), until).await.unwrap();
    let first = subscribe(&feed).await;
    elsewhere.revoke(id(3), until).await.unwrap();
    let second = subscribe(&feed).await;
    elsewhere.revoke(id(2), until).await.unwrap();
    elsewhere.revoke(id(4), until).await.unwrap();
    // Nobody calls: the polling finds it.
    let arrived = async {
        while second.lock().unwrap().len() < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), arrived).await.expect("polling finds it soon");
    let all: Vec<_> = (1..=4).map(|n| denial(n, until)).collect();
    assert_eq!(*first.lock().unwrap(), all);
    assert_eq!(*second.lock().unwrap(), all);
}

#[tokio::test]
async fn a_long_feed_is_read_in_whole_and_survives_a_restart() {
    let server = server().await;
    let until = now() + 1_000;
    for n in 0..2_500_u32 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        server.store.revoke(CredentialId::from_bytes(bytes), until).await.unwrap();
    }
    let store = Store::open(&server.place.url()).await.unwrap();
    let control = Control::new(super::server::config(), store, Arc::clone(&server.keyring)).await.unwrap();
    let heard = subscribe(&control.feed()).await;
    assert_eq!(heard.lock().unwrap().len(), 2_500);
}

#[tokio::test]
async fn a_failing_store_does_not_end_the_feed() {
    let server = server().await;
    let feed = server.control.feed();
    let heard = subscribe(&feed).await;
    let running = tokio::spawn({
        let feed = feed.clone();
        async move { feed.run().await }
    });
    server.store.close().await;
    assert!(feed.catch_up().await.is_err());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!running.is_finished());
    assert!(heard.lock().unwrap().is_empty());
    running.abort();
}

/// What is committed later has a later number: whoever has read up to one finds everything behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_reads_on_misses_nothing_of_many_writers() {
    const WRITERS: u32 = 6;
    const EACH: u32 = 50;
    let place = Place::new();
    let done = Arc::new(AtomicBool::new(false));
    let until = now() + 1_000;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (store, done) = (Store::open(&place.url()).await.unwrap(), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let (mut last, mut heard) = (0, Vec::new());
            loop {
                let was_done = done.load(Ordering::SeqCst);
                let page = store.denials_after(last, 20).await.unwrap();
                last = page.last().map_or(last, |entry| entry.seq);
                if page.is_empty() && was_done {
                    return heard;
                }
                heard.extend(page.into_iter().map(|entry| entry.denial));
            }
        }));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Store::open(&place.url()).await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                let id = u128::from(writer * EACH + n).to_be_bytes();
                store.revoke(CredentialId::from_bytes(id), until).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        let mut heard: Vec<_> = reader.await.unwrap().iter().map(|denial| format!("{denial:?}")).collect();
        assert_eq!(heard.len(), (WRITERS * EACH) as usize);
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), (WRITERS * EACH) as usize, "each once");
    }
}
