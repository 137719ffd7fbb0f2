//! Killed at any moment, a hundred times: what was acknowledged is there afterwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::store::Store;
use credentials::{CredentialId, Denial, Keyring, TurnKeyId};
use serde_json::Value;
use turn::Transport;

use crate::fixture::{
    Key, LONG, LOOPBACK, Minted, Server, TOKEN, keys_path, known, revoke_path, start_command, text,
};

const ROUNDS: u32 = 100;
const WRITERS: u64 = 3;
/// More keys than this that nobody works with any more are deleted, oldest first.
const KEPT_KEYS: usize = 30;
const LONGEST_ROUND_MS: u64 = 150;

/// What the service has acknowledged. What was asked and not answered may have happened or not, and is not in it.
#[derive(Default)]
struct Ledger {
    keys: BTreeMap<String, Key>,
    /// Those of them that their writer has done with, oldest first.
    settled: VecDeque<String>,
    deleted: BTreeSet<String>,
    /// Of keys that are not deleted themselves, so that it is this revocation that refuses.
    revoked: Vec<(String, Minted)>,
    /// Credentials of deleted keys.
    orphaned: Vec<Minted>,
    /// The last credential of each key, never revoked.
    good: BTreeMap<String, Minted>,
    requests: u64,
    revocations: u64,
}

/// Chance from a seed. Not the kind that secrets are made of.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[test]
fn what_was_acknowledged_survives_a_hundred_kills() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let ledger = Mutex::new(Ledger::default());
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let mut server = start_command(known(dir.path(), &LOOPBACK));
        check_served(&server, &ledger.lock().unwrap(), &mut dice);
        let life = Duration::from_millis(dice.below(LONGEST_ROUND_MS));
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| while write(&server, &ledger).is_some() {});
            }
            std::thread::sleep(life);
            // SIGKILL, by the child's own handle. It is reaped only once the writers have seen it gone.
            let pid = server.child.0.id();
            let killed = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status();
            assert!(killed.unwrap().success(), "round {round}, seed {seed}");
        });
        server.child.wait(LONG).expect("what is killed ends");
    }
    check_stored(dir.path(), &ledger.lock().unwrap());
    let server = start_command(known(dir.path(), &LOOPBACK));
    let ledger = ledger.lock().unwrap();
    check_served(&server, &ledger, &mut dice);
    println!(
        "{ROUNDS} kills in {:.1?}: {} requests acknowledged, {} keys kept, {} deleted, {} credentials revoked",
        begun.elapsed(),
        ledger.requests,
        ledger.keys.len(),
        ledger.deleted.len(),
        ledger.revocations
    );
    assert!(ledger.deleted.len() >= 100 && ledger.revocations >= 100, "too little happened to show anything");
    assert!(begun.elapsed() < Duration::from_mins(5), "too slow to be run often");
}

/// One writer's turn: a key, two credentials, a revocation, perhaps a deletion. `None` once the service is gone.
fn write(server: &Server, ledger: &Mutex<Ledger>) -> Option<()> {
    let ask = |method: &str, path: &str, bearer: &str, body: Option<&str>, status: u16| -> Option<Value> {
        let (got, json) = server.http(method, path, bearer, body).ok()?;
        assert_eq!(got, status, "{method} {path}: {json}");
        ledger.lock().unwrap().requests += 1;
        Some(json)
    };
    let made = ask("POST", &keys_path(), TOKEN, Some("{}"), 201)?;
    let key = Key { uid: text(&made["result"]["uid"]), secret: text(&made["result"]["secret"]) };
    ledger.lock().unwrap().keys.insert(key.uid.clone(), key.clone());
    let mint = || {
        let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
        let minted = &ask("POST", &path, &key.secret, Some("{}"), 201)?["iceServers"];
        Some(Minted { username: text(&minted["username"]), password: text(&minted["credential"]) })
    };
    let (good, bad) = (mint()?, mint()?);
    ledger.lock().unwrap().good.insert(key.uid.clone(), good);
    ask("POST", &revoke_path(&key, &bad), &key.secret, None, 204)?;
    {
        let mut ledger = ledger.lock().unwrap();
        ledger.revoked.push((key.uid.clone(), bad));
        ledger.revocations += 1;
    }

    let victim = {
        let mut ledger = ledger.lock().unwrap();
        ledger.settled.push_back(key.uid.clone());
        let oldest = if ledger.settled.len() > KEPT_KEYS { ledger.settled.pop_front() } else { None };
        // From here until the answer nobody knows whether it is there.
        oldest.map(|uid| {
            ledger.keys.remove(&uid);
            ledger.revoked.retain(|(of, _)| *of != uid);
            let good = ledger.good.remove(&uid);
            (uid, good)
        })
    };
    if let Some((uid, good)) = victim {
        ask("DELETE", &format!("{}/{uid}", keys_path()), TOKEN, None, 200)?;
        let mut ledger = ledger.lock().unwrap();
        ledger.deleted.insert(uid);
        ledger.orphaned.extend(good);
    }
    Some(())
}

/// Asks the service: all keys over HTTP, some credentials by real Allocates.
fn check_served(server: &Server, ledger: &Ledger, dice: &mut Dice) {
    let json = server.ask("GET", &keys_path(), TOKEN, None, 200);
    let listed: BTreeSet<String> =
        json["result"].as_array().unwrap().iter().map(|key| text(&key["uid"])).collect();
    for uid in ledger.keys.keys() {
        assert!(listed.contains(uid), "key {uid} was acknowledged and is lost");
    }
    for uid in &ledger.deleted {
        assert!(!listed.contains(uid), "key {uid} was deleted and is back");
    }
    let mut any = |count: usize| usize::try_from(dice.below(count.max(1) as u64)).unwrap();
    let revoked: Vec<&Minted> = ledger.revoked.iter().map(|(_, minted)| minted).collect();
    for refused in [&revoked, &ledger.orphaned.iter().collect::<Vec<_>>()] {
        for minted in [refused.last(), refused.get(any(refused.len()))].into_iter().flatten() {
            assert_eq!(server.refusal(Transport::Udp, minted), Some(401), "it was refused before the kill");
        }
    }
    if let Some(minted) = ledger.good.values().nth(any(ledger.good.len())) {
        assert_eq!(server.refusal(Transport::Udp, minted), None, "it was good before the kill");
    }
}

/// Reads the store itself: every acknowledged revocation and deletion is in the deny feed.
fn check_stored(dir: &Path, ledger: &Ledger) {
    let keyring = Keyring::parse(&std::fs::read_to_string(dir.join("keyring.toml")).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let denials = runtime.block_on(async {
        let store = Store::open(&format!("sqlite:{}", dir.join("turnery.db").display())).await.unwrap();
        let entries = store.denials_after(0, 1_000_000).await.unwrap();
        store.close().await;
        entries
    });
    let (mut credentials, mut keys) = (BTreeSet::<CredentialId>::new(), BTreeSet::<TurnKeyId>::new());
    for entry in denials {
        match entry.denial {
            Denial::Credential { id, .. } => _ = credentials.insert(id),
            Denial::Key { key, .. } => _ = keys.insert(key),
            Denial::Issued { .. } | Denial::Identifier { .. } => {}
        }
    }
    for (_, minted) in &ledger.revoked {
        let id = keyring.open(minted.username.as_bytes()).unwrap().id;
        assert!(credentials.contains(&id), "the revocation of {id} was acknowledged and is lost");
    }
    for uid in &ledger.deleted {
        assert!(keys.contains(&uid.parse().unwrap()), "the deletion of {uid} was acknowledged and is lost");
    }
}
