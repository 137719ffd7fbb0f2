use control::store::Store;
use control::store::acme::{AcmeChallenge, AcmeId, ObtainedCertificate};
use credentials::Keyring;

use super::Place;

const CHAIN: &str = "-----BEGIN CERTIFICATE-----\n";

fn id() -> AcmeId {
    AcmeId {
        directory: "https://ca.example.org/dir".to_owned(),
        names: "a.example.org,b.example.org".to_owned(),
    }
}

fn obtained(renew_at: i64) -> ObtainedCertificate<'static> {
    ObtainedCertificate { chain: CHAIN, key: b"a private key", not_after: 9_000_000_000, renew_at }
}

/// Two connections to one store, as two processes have them.
async fn two() -> (Place, Store, Store, Keyring) {
    let place = Place::new();
    let (one, other) = (Store::open(&place.url()).await.unwrap(), Store::open(&place.url()).await.unwrap());
    (place, one, other, Keyring::generate(1_800_000_000).unwrap())
}

#[tokio::test]
async fn one_at_a_time_obtains_and_all_have_it() {
    let (place, one, other, keyring) = two().await;
    assert_eq!(one.acme_certificate(&id()).await.unwrap().version, 0);
    assert!(one.claim_acme(&id(), "one", 1_000, 1_060).await.unwrap());
    assert!(!other.claim_acme(&id(), "other", 1_001, 1_061).await.unwrap());
    assert!(one.keep_acme_claim(&id(), "one", 1_100).await.unwrap());
    assert!(!other.claim_acme(&id(), "other", 1_099, 1_160).await.unwrap());
    assert!(other.claim_acme(&id(), "other", 1_100, 1_160).await.unwrap(), "the first came to grief");
    assert!(!one.keep_acme_claim(&id(), "one", 1_170).await.unwrap());
    assert!(!one.acme_obtained(&keyring, &id(), "one", obtained(5_000)).await.unwrap());
    assert!(other.acme_obtained(&keyring, &id(), "other", obtained(5_000)).await.unwrap());
    let found = one.acme_certificate(&id()).await.unwrap();
    assert_eq!((found.version, found.chain.as_deref(), found.claimed_until), (1, Some(CHAIN), None));
    assert_eq!(found.key(&keyring).unwrap().unwrap().as_slice(), b"a private key");
    assert!(place.holds(b"example.org") && !place.holds(b"a private key"), "there is no trace of it");
    assert!(!one.claim_acme(&id(), "one", 4_999, 5_060).await.unwrap(), "it is not due");
    assert!(one.claim_acme(&id(), "one", 5_000, 5_060).await.unwrap());
}

#[tokio::test]
async fn a_failure_is_told_and_waited_after() {
    let (_place, one, other, keyring) = two().await;
    one.acme_certificate(&id()).await.unwrap();
    for n in 1..=2 {
        assert!(one.claim_acme(&id(), "one", 1_000 * i64::from(n), 60_000).await.unwrap());
        one.acme_failed(&id(), "one", "the authority is down", 1_000 * i64::from(n) + 500).await.unwrap();
        let known = other.acme_certificate(&id()).await.unwrap();
        assert_eq!((known.failures, known.last_error.as_deref()), (n, Some("the authority is down")));
    }
    assert!(!other.claim_acme(&id(), "other", 2_499, 60_000).await.unwrap());
    // Unless somebody says so.
    assert_eq!(other.renew_acme().await.unwrap(), 1);
    assert!(other.claim_acme(&id(), "other", 2_499, 60_000).await.unwrap());
    assert!(other.acme_obtained(&keyring, &id(), "other", obtained(5_000)).await.unwrap());
    let known = one.acme_certificate(&id()).await.unwrap();
    assert_eq!((known.failures, known.last_error), (0, None));
    assert!(one.claim_acme_question(&id(), 3_000, 4_000).await.unwrap());
    assert!(!other.claim_acme_question(&id(), 3_000, 4_000).await.unwrap(), "one asks");
    one.set_acme_renewal(&id(), 1, (3_500, 6_000)).await.unwrap();
    assert_eq!(other.acme_certificate(&id()).await.unwrap().renew_at, 3_500);
    assert_eq!(one.purge_acme(8_999_999_999).await.unwrap(), 0);
    assert_eq!(one.purge_acme(9_000_000_001).await.unwrap(), 1);
}

#[tokio::test]
async fn every_node_answers_while_one_is_asked() {
    let (_place, one, other, _) = two().await;
    let challenge = AcmeChallenge {
        kind: "http-01".to_owned(),
        subject: "token".to_owned(),
        answer: b"token.thumb".to_vec(),
    };
    one.answer_acme(&challenge, "one", 2_000).await.unwrap();
    assert_eq!(other.acme_challenges(1_999).await.unwrap(), [challenge]);
    assert!(other.acme_challenges(2_000).await.unwrap().is_empty());
    one.release_acme("one").await.unwrap();
    assert!(other.acme_challenges(1_999).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_outlive_the_keyrings_rotation() {
    let (_place, one, _, mut keyring) = two().await;
    one.acme_certificate(&id()).await.unwrap();
    assert!(one.claim_acme(&id(), "one", 1_000, 1_060).await.unwrap());
    assert!(one.acme_obtained(&keyring, &id(), "one", obtained(5_000)).await.unwrap());
    one.set_acme_account(&keyring, &id().directory, "a@example.org", b"the account").await.unwrap();
    keyring.rotate(1_800_000_010).unwrap();
    let resealed = one.reseal_acme(&keyring).await.unwrap();
    assert_eq!((resealed.count, resealed.unreadable), (2, 0));
    // The key that had sealed them leaves the keyring.
    keyring.rotate(1_800_000_010 + 50 * 3_600).unwrap();
    let found = one.acme_certificate(&id()).await.unwrap();
    assert_eq!(found.key(&keyring).unwrap().unwrap().as_slice(), b"a private key");
    let account = one.acme_account(&id().directory).await.unwrap().unwrap();
    assert_eq!(account.open(&keyring).unwrap().as_slice(), b"the account");
    let stranger = Keyring::generate(1_800_000_000).unwrap();
    assert!(found.key(&stranger).is_err() && account.open(&stranger).is_err());
    assert_eq!(one.reseal_acme(&stranger).await.unwrap().unreadable, 2);
    one.forget_acme_account(&id().directory).await.unwrap();
    assert!(one.acme_account(&id().directory).await.unwrap().is_none());
}
