//! The keyring in the store: made once, whoever asks first, and rotated with all nodes knowing.

use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use control::store::{KeyringChange, KeyringMark, KnownNode, NodeState, SealedKeyring, Store, StoreError};
use credentials::{Keyring, SealingKey};
use tokio::time::{Instant, sleep};

use crate::config::{KEYRING_VARIABLE, Sealing};
use crate::keyring_file::unix_now;
use crate::table::printable;

/// How often it is looked whether all nodes know a new key.
const POLL: Duration = Duration::from_millis(300);
/// For how long a node that was heard of keeps another keyring from being made.
const REMEMBERED_MS: u64 = 86_400_000;
/// How often a node that did not say so says that it is there.
const UNSAID_INTERVAL_SECS: u64 = 60;
/// So many times as long as that a node that is lost is given to be heard of again.
const MISSED: u32 = 3;

/// The keyring that the store has, and which it is.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) keyring: Keyring,
    pub(crate) mark: KeyringMark,
}

/// The keyring, which must be there.
pub(crate) async fn expect(store: &Store, sealing: &Sealing) -> Result<Held> {
    find(store, sealing).await?.context(
        "there is no keyring in the store; `turnery serve` with an API makes one, and `turnery keyring import` puts one there",
    )
}

/// Which keyring the store has, for who has one of its own; who may not read it does not know of it.
pub(crate) async fn beside(store: &Store) -> Result<Option<KeyringMark>> {
    match store.keyring().await {
        Err(error) if error.is_denied() => Ok(None),
        found => Ok(found.map_err(unread)?.map(|sealed| sealed.mark)),
    }
}

async fn find(store: &Store, sealing: &Sealing) -> Result<Option<Held>> {
    let sealed = store.keyring().await.map_err(unread)?;
    sealed.map(|sealed| open(&sealed, sealing)).transpose()
}

/// The keyring; one is made where there is none. Of several that do so at once all have the same. `own` is the name of the
/// node that asks.
pub(crate) async fn find_or_make(store: &Store, sealing: &Sealing, own: &str) -> Result<Held> {
    // Whoever says that it is there has a keyring, and another may have been made meanwhile.
    let mut nodes = store.nodes().await?;
    nodes.retain(|node| node.seen_ms_ago <= REMEMBERED_MS);
    if let Some(held) = find(store, sealing).await? {
        return Ok(held);
    }
    // One that was lost, with a restore of the database or the move of a file, would be missed by all who had it.
    let is_alone = nodes.iter().all(|node| node.name == own);
    ensure!(
        nodes.is_empty() || (is_alone && !store.holds_sealed().await?),
        "there is no keyring in the store, but nodes that have one were heard of within the last day: {}; put theirs into the \
         store with `turnery keyring import` where it was in a file or {KEYRING_VARIABLE}, or restore the row of \
         sealed_keyring from a backup where it was in the store",
        names(&nodes)
    );
    let keyring = Keyring::generate(unix_now())?;
    let made =
        store.make_keyring(&sealing.key, &keyring).await.context("cannot put a keyring into the store")?;
    open(&made, sealing)
}

/// Puts a keyring into the store; `false` where it is there already.
pub(crate) async fn import(store: &Store, sealing: &Sealing, keyring: &Keyring) -> Result<(Held, bool)> {
    let (held, is_new) = match find(store, sealing).await? {
        Some(held) => (held, false),
        None => (open(&store.make_keyring(&sealing.key, keyring).await?, sealing)?, true),
    };
    ensure!(
        held.keyring == *keyring,
        "the store has another keyring already, its version {}; nothing is changed",
        held.mark.version
    );
    Ok((held, is_new))
}

fn unread(error: StoreError) -> Error {
    let hint =
        if error.is_denied() { "; its user needs a right: GRANT SELECT ON sealed_keyring" } else { "" };
    Error::new(error).context(format!("cannot read the keyring in the store{hint}"))
}

/// Seals the keyring with another key. Who has the old one goes on with the keyring that it has, until it is given the new
/// one.
pub(crate) async fn reseal_with(store: &Store, sealing: &Sealing, key: &SealingKey) -> Result<Held> {
    let held = expect(store, sealing).await?;
    let done = store.change_keyring(held.mark.version, KeyringChange::Resealed, (key, &held.keyring)).await?;
    ensure!(done, "the keyring was changed by somebody else meanwhile: do this again");
    Ok(Held { mark: KeyringMark { version: held.mark.version + 1, ..held.mark }, ..held })
}

fn open(sealed: &SealedKeyring, sealing: &Sealing) -> Result<Held> {
    let keyring = sealed.open(&sealing.key).with_context(|| {
        format!(
            "the keyring in the store cannot be opened with the key of {}: give every node the key that it was sealed with last, \
             when it was made or by `turnery keyring reseal`",
            sealing.given_by
        )
    })?;
    Ok(Held { keyring, mark: sealed.mark })
}

/// Gives the keyring a key that the next rotation makes the current one; without effect where it has one.
pub(crate) async fn prepare(store: &Store, sealing: &Sealing) -> Result<Held> {
    loop {
        let held = expect(store, sealing).await?;
        let mut next = held.keyring.clone();
        if !next.prepare(unix_now())? {
            return Ok(held);
        }
        reseal(store, &held.keyring).await?;
        // Read again in any case, whoever has changed it.
        store.change_keyring(held.mark.version, KeyringChange::Prepared, (&sealing.key, &next)).await?;
    }
}

/// Gives the keyring a new current key, which all nodes know before: first it is prepared, and put to use when each node that
/// runs has said that it has it. Nodes that are lost may only have been cut off, as all are after an outage of the database:
/// each is given time to be heard of again. Where it is interrupted nothing is lost, and done again it goes on. Of two at once one does
/// it, and the other is told what it did.
///
/// # Errors
/// When some node has not said so in time. The prepared key stays.
pub(crate) async fn rotate(store: &Store, sealing: &Sealing, patience: Duration) -> Result<Held> {
    let (deadline, mut said) = (Instant::now() + patience, String::new());
    let mut held = expect(store, sealing).await?;
    let before = current(&held.keyring);
    let mut since = (held.mark, Instant::now());
    while current(&held.keyring) == before {
        if since.0 != held.mark {
            since = (held.mark, Instant::now());
        }
        let mut next = held.keyring.clone();
        let (version, key) = (held.mark.version, &sealing.key);
        if next.prepare(unix_now())? {
            reseal(store, &held.keyring).await?;
            store.change_keyring(version, KeyringChange::Prepared, (key, &next)).await?;
        } else {
            let watch = Watch { version, watched: since.1.elapsed(), is_over: Instant::now() >= deadline };
            let nodes = store.nodes().await?;
            let behind: Vec<_> = nodes.iter().filter(|node| watch.waits_for(node)).cloned().collect();
            if behind.is_empty() {
                reseal(store, &held.keyring).await?;
                next.rotate(unix_now())?;
                if store.change_keyring(version, KeyringChange::Rotated, (key, &next)).await? {
                    tell_of_others(&nodes);
                }
            } else {
                ensure!(!watch.is_over, "{}", unready(&behind, patience));
                let waits = names(&behind);
                if waits != said {
                    eprintln!("waiting until the new key is known to: {waits}");
                    said = waits;
                }
                sleep(POLL).await;
            }
        }
        held = expect(store, sealing).await?;
    }
    Ok(held)
}

/// Seals with the current key what older ones have sealed, which the keyring may be about to lose.
pub(crate) async fn reseal(store: &Store, keyring: &Keyring) -> Result<()> {
    let resealed = store.reseal_shared_secrets(keyring).await;
    resealed.context("shared secrets cannot be sealed again, and a rotation could make them void")?;
    let resealed = store.reseal_acme(keyring).await;
    resealed.context("certificates' keys cannot be sealed again, and a rotation could make them void")?;
    Ok(())
}

/// The key that seals, and when it was made.
fn current(keyring: &Keyring) -> Option<(u8, u64)> {
    keyring.key_ids().last()
}

/// Whether it may mint or be asked for something now.
fn runs(node: &KnownNode) -> bool {
    match node.state {
        NodeState::Up | NodeState::Full | NodeState::Stale | NodeState::Draining => true,
        NodeState::Ended | NodeState::Lost => false,
    }
}

fn has_another(node: &KnownNode) -> bool {
    runs(node) && node.report.keyring_version.is_none()
}

/// What the nodes were watched for.
struct Watch {
    /// Which version they are to know.
    version: u64,
    /// How long they have been watched since that came.
    watched: Duration,
    /// Whether nobody is waited for any longer.
    is_over: bool,
}

impl Watch {
    /// Whether it may mint or be asked for something without knowing this version.
    fn waits_for(&self, node: &KnownNode) -> bool {
        match node.state {
            NodeState::Ended => false,
            _ if node.report.keyring_version == Some(self.version) => false,
            NodeState::Lost => !self.is_silent(node),
            NodeState::Up | NodeState::Full | NodeState::Stale | NodeState::Draining => true,
        }
    }

    /// Whether it was not heard of although it had the time.
    fn is_silent(&self, node: &KnownNode) -> bool {
        let interval = match node.report.interval_secs {
            0 => UNSAID_INTERVAL_SECS,
            said => said,
        };
        let enough = Duration::from_secs(interval).saturating_mul(MISSED);
        let is_watched = self.is_over || self.watched >= enough;
        is_watched && Duration::from_millis(node.seen_ms_ago) > self.watched.min(enough)
    }
}

fn names(nodes: &[KnownNode]) -> String {
    nodes.iter().map(|node| printable(&node.name)).collect::<Vec<_>>().join(", ")
}

/// Tells of those that do not run, and may come back.
fn tell_of_others(nodes: &[KnownNode]) {
    let (lost, ended): (Vec<_>, Vec<_>) =
        nodes.iter().filter(|node| !runs(node)).cloned().partition(|node| node.state == NodeState::Lost);
    if !lost.is_empty() {
        eprintln!("not waited for, since nothing is heard of them: {}", names(&lost));
    }
    let mut elsewhere = [lost, ended].concat();
    elsewhere.retain(|node| node.report.keyring_version.is_none());
    if !elsewhere.is_empty() {
        eprintln!(
            "these had their keyring elsewhere and do not start again before they are given --keyring-in-store: {}",
            names(&elsewhere)
        );
    }
}

fn unready(nodes: &[KnownNode], patience: Duration) -> String {
    let (elsewhere, late): (Vec<_>, Vec<_>) = nodes.iter().cloned().partition(has_another);
    let late = if late.is_empty() { String::new() } else { format!(" not {};", names(&late)) };
    let elsewhere = match names(&elsewhere) {
        none if none.is_empty() => none,
        some => format!(" not {some}, which have their keyring elsewhere: give them --keyring-in-store;"),
    };
    format!(
        "within {} s not all nodes have said that they know the new key:{late}{elsewhere} nothing is rotated, the key stays \
         prepared, and doing this again goes on from there",
        patience.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use control::store::NodeReport;
    use credentials::SecretText;
    use tempfile::TempDir;

    use super::*;

    async fn place() -> (TempDir, Store, Sealing) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", dir.path().join("s.db").display())).await.unwrap();
        (dir, store, Sealing::new(SealingKey::generate().unwrap()))
    }

    async fn say(store: &Store, name: &str, keyring_version: Option<u64>) {
        let report = NodeReport { interval_secs: 60, keyring_version, ..NodeReport::default() };
        store.note_node(name, &report).await.unwrap();
    }

    fn ids(held: &Held) -> Vec<u8> {
        held.keyring.key_ids().map(|(id, _)| id).collect()
    }

    const NOT_LONG: Duration = Duration::from_millis(700);

    #[tokio::test]
    async fn nothing_is_rotated_before_all_know_the_new_key() {
        let (_dir, store, sealing) = place().await;
        let made = find_or_make(&store, &sealing, "own").await.unwrap();
        assert_eq!(find_or_make(&store, &sealing, "own").await.unwrap().keyring, made.keyring);
        say(&store, "knows", Some(2)).await;
        say(&store, "late", Some(1)).await;
        say(&store, "elsewhere", None).await;
        let ended = NodeReport { ended: true, interval_secs: 60, ..NodeReport::default() };
        store.note_node("ended", &ended).await.unwrap();
        for _ in 0..2 {
            let error = rotate(&store, &sealing, NOT_LONG).await.unwrap_err().to_string();
            assert!(error.contains("not late; not elsewhere, which have"), "{error}");
            let held = expect(&store, &sealing).await.unwrap();
            assert_eq!((held.mark.version, ids(&held)), (2, vec![2, 1]), "it stays prepared");
        }
        assert_eq!(prepare(&store, &sealing).await.unwrap().mark.version, 2, "it is prepared already");
        say(&store, "late", Some(2)).await;
        store.note_node("elsewhere", &ended).await.unwrap();
        let rotated = rotate(&store, &sealing, NOT_LONG).await.unwrap();
        assert_eq!((rotated.mark.version, ids(&rotated)), (3, vec![1, 2]));
    }

    /// As after an outage of the database: nobody was heard of for long, and most are again.
    #[tokio::test]
    async fn who_was_lost_is_given_time_to_be_heard_of() {
        let (_dir, store, sealing) = place().await;
        find_or_make(&store, &sealing, "own").await.unwrap();
        let say = async |name: &str, version: u64| {
            let report =
                NodeReport { interval_secs: 1, keyring_version: Some(version), ..NodeReport::default() };
            store.note_node(name, &report).await.unwrap();
        };
        say("back", 1).await;
        say("gone", 1).await;
        sleep(Duration::from_millis(3_100)).await;
        assert!(store.nodes().await.unwrap().iter().all(|node| node.state == NodeState::Lost));
        let back = async {
            sleep(2 * POLL).await;
            for _ in 0..2 {
                say("back", 1).await;
                sleep(Duration::from_secs(2)).await;
                assert_eq!(expect(&store, &sealing).await.unwrap().mark.version, 2, "it is waited for");
            }
            say("back", 2).await;
        };
        let (rotated, ()) = tokio::join!(rotate(&store, &sealing, Duration::from_secs(30)), back);
        assert_eq!(rotated.unwrap().mark.version, 3, "who is not heard of is passed over");
        say("back", 4).await;
        let begun = Instant::now();
        assert_eq!(rotate(&store, &sealing, NOT_LONG).await.unwrap().mark.version, 5);
        assert!(begun.elapsed() >= NOT_LONG, "there was less time than it is given");
    }

    #[tokio::test]
    async fn of_two_rotations_at_once_one_is_made_and_both_are_told() {
        let (_dir, store, sealing) = place().await;
        find_or_make(&store, &sealing, "own").await.unwrap();
        say(&store, "node", Some(1)).await;
        let all = async {
            sleep(2 * POLL).await;
            say(&store, "node", Some(2)).await;
        };
        let rotation = || rotate(&store, &sealing, Duration::from_secs(30));
        let (one, other, ()) = tokio::join!(rotation(), rotation(), all);
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.mark.version, ids(&one)), (3, vec![1, 2]));
        assert_eq!((other.mark, other.keyring), (one.mark, one.keyring));
    }

    #[tokio::test]
    async fn a_node_that_was_alone_makes_one_unless_something_is_sealed() {
        for is_sealed in [false, true] {
            let (_dir, store, sealing) = place().await;
            say(&store, "own", None).await;
            if is_sealed {
                let account = store.create_account(None, "a").await.unwrap().id;
                let uid = store.create_key(&account, "k").await.unwrap().key.uid;
                let (keyring, text) = (Keyring::generate(1).unwrap(), SecretText::generate().unwrap());
                store.add_shared_secret(&keyring, &account, uid, text).await.unwrap();
            }
            assert_eq!(find_or_make(&store, &sealing, "own").await.is_err(), is_sealed);
            assert!(find_or_make(&store, &sealing, "other").await.is_err() == is_sealed);
        }
    }

    #[tokio::test]
    async fn a_keyring_is_imported_once_and_none_is_made_beside_those_elsewhere() {
        let (_dir, store, sealing) = place().await;
        let ended = NodeReport { ended: true, ..NodeReport::default() };
        store.note_node("old", &ended).await.unwrap();
        let error = find_or_make(&store, &sealing, "own").await.unwrap_err().to_string();
        assert!(error.contains("last day: old;") && error.contains("keyring import"), "{error}");
        assert!(error.contains("row of sealed_keyring"), "{error}");
        let own = Keyring::generate(unix_now()).unwrap();
        assert!(import(&store, &sealing, &own).await.unwrap().1);
        assert!(!import(&store, &sealing, &own).await.unwrap().1);
        assert_eq!(find_or_make(&store, &sealing, "own").await.unwrap().keyring, own);
        let other = Keyring::generate(unix_now()).unwrap();
        let error = import(&store, &sealing, &other).await.unwrap_err().to_string();
        assert!(error.contains("another keyring already, its version 1"), "{error}");
        let stranger = Sealing::new(SealingKey::generate().unwrap());
        let error = expect(&store, &stranger).await.unwrap_err().to_string();
        assert!(error.contains("TURNERY_KEYRING_KEY") && error.contains("give every node"), "{error}");
        reseal_with(&store, &sealing, &stranger.key).await.unwrap();
        let held = expect(&store, &stranger).await.unwrap();
        assert_eq!((held.mark.version, held.keyring), (2, own));
        assert!(expect(&store, &sealing).await.is_err());
    }
}
