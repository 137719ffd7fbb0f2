//! The keyring in the store, sealed: nodes that share one database have it from there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::postgres::{Cluster, cluster};
use turn::Transport;

use crate::fixture::{
    Key, LONG, LOOPBACK, Minted, Running, Server, finish, known, relays, serve_in, signal, start_command,
    turnery,
};

const GUIDE: &str = include_str!("../../../../docs/fleet.md");

/// A key, as the command makes it, and a directory for it and whatever else.
fn new_key() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring.key");
    let made = finish(turnery(&["keyring", "new-key", path.to_str().unwrap()]));
    assert!(made.status.success(), "{made:?}");
    (dir, path)
}

/// A command with the keyring in the store, where it is not in the file's directory.
fn with_key(mut command: Command, key: &Path) -> Command {
    command.args(["--keyring-in-store", "--keyring-key-file", key.to_str().unwrap()]);
    command
}

fn keyring(verb: &[&str], store: &str, key: &Path) -> Output {
    let dir = key.parent().unwrap().join("of-the-commands");
    let args = [&["keyring"][..], verb, &["--store", store, "--data-dir", dir.to_str().unwrap()]].concat();
    finish(with_key(turnery(&args), key))
}

/// What such a command tells, which must succeed.
fn told(verb: &[&str], store: &str, key: &Path) -> Value {
    let output = keyring(&[verb, &["--json"]].concat(), store, key);
    assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The number of the key that sealed a credential.
fn number(minted: &Minted) -> &str {
    &minted.username[..2]
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nodes that share a database: two with an API and one without, each in a directory of its own.
struct Fleet {
    cluster: Cluster,
    store: String,
    nodes: Vec<Server>,
    dirs: Vec<TempDir>,
    key: PathBuf,
    _key_dir: TempDir,
}

impl Fleet {
    fn start() -> Self {
        let cluster = Cluster::start();
        let (store, (key_dir, key)) = (cluster.database(), new_key());
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let node = |index: usize| {
            let name = format!("node{index}");
            let more = [&LOOPBACK[..], &["--store", &store, "--node-name", &name]].concat();
            start_command(with_key(known(dirs[index].path(), &more), &key))
        };
        // Both at once on an empty database.
        let mut nodes: Vec<_> = std::thread::scope(|scope| {
            let starting = [0, 1].map(|index| scope.spawn(move || node(index)));
            starting.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let database = store.rsplit('/').next().unwrap();
        let grants = GUIDE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
        cluster.sql(database, grants);
        let own_url = cluster.url("turnery_relay", database);
        let args = ["--store", &own_url, "--role", "relay", "--node-name", "edge", "--keyring-in-store"];
        let mut command = serve_in(dirs[2].path(), &[&LOOPBACK[..], &args].concat());
        command.env("TURNERY_KEYRING_KEY", fs::read_to_string(&key).unwrap());
        nodes.push(start_command(command));
        Self { cluster, store, nodes, dirs, key, _key_dir: key_dir }
    }

    fn expect_good_everywhere(&self, minted: &Minted) {
        for (index, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.refusal(Transport::Udp, minted), None, "node {index}");
        }
    }

    fn end(self) {
        let secret = fs::read_to_string(&self.key).unwrap();
        for (node, dir) in self.nodes.into_iter().zip(&self.dirs) {
            let (status, log) = node.end();
            assert!(status.success() && !log.contains("ERROR"), "{log}");
            assert!(!log.contains(secret.trim()), "the key is logged");
            assert!(!dir.path().join("keyring.toml").exists());
        }
    }
}

#[test]
fn a_rotation_is_one_command_and_no_credential_is_refused() {
    let fleet = Fleet::start();
    let key = fleet.nodes[0].create_key();
    let first = [0, 1].map(|index| fleet.nodes[index].mint(&key, 600));
    for minted in &first {
        fleet.expect_good_everywhere(minted);
    }
    relays(&mut fleet.nodes[2].client(Transport::Udp, &first[1]));
    assert_eq!(told(&["show"], &fleet.store, &fleet.key)["version"], 1, "both have the same");

    let (done, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let minting = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let round = tried.fetch_add(1, Ordering::Relaxed);
                let minted = fleet.nodes[round % 2].mint(&key, 600);
                let refused = fleet.nodes[round % 3].refusal(Transport::Udp, &minted);
                assert_eq!(refused, None, "round {round}: {}", number(&minted));
            }
        });
        for version in [3, 5] {
            let begun = Instant::now();
            let rotated = told(&["rotate"], &fleet.store, &fleet.key);
            println!("rotated within {:?}", begun.elapsed());
            assert_eq!(rotated["version"], version);
            let sealed_by = format!("{:02x}", (version + 1) / 2);
            until("everybody mints with the new key", || {
                [0, 1].iter().all(|index| number(&fleet.nodes[*index].mint(&key, 60)) == sealed_by)
            });
        }
        done.store(true, Ordering::Relaxed);
        minting.join().unwrap();
    });
    println!("{} credentials minted and used", tried.load(Ordering::Relaxed));
    for minted in &first {
        fleet.expect_good_everywhere(minted);
    }
    fleet.end();
}

#[test]
fn who_comes_while_a_rotation_waits_knows_its_key() {
    let mut fleet = Fleet::start();
    let key = fleet.nodes[0].create_key();
    // Stopped, so that it cannot say that it knows the new key.
    signal(&fleet.nodes[2].child, "STOP");
    let late = keyring(&["rotate", "--wait-secs", "2"], &fleet.store, &fleet.key);
    let said = String::from_utf8(late.stderr).unwrap();
    assert!(late.status.code() == Some(1) && said.contains("not edge;"), "{said}");
    assert!(said.contains("nothing is rotated"), "{said}");
    let shown = told(&["show"], &fleet.store, &fleet.key);
    assert_eq!((&shown["version"], &shown["keys"][0]["prepared"]), (&2.into(), &true.into()));
    // One is started again meanwhile, the other has the key in the end.
    let (status, log) = fleet.nodes.remove(1).end();
    assert!(status.success(), "{log}");
    let more = [&LOOPBACK[..], &["--store", &fleet.store, "--node-name", "node1"]].concat();
    let again = start_command(with_key(known(fleet.dirs[1].path(), &more), &fleet.key));
    fleet.nodes.insert(1, again);
    signal(&fleet.nodes[2].child, "CONT");
    let rotated = told(&["rotate"], &fleet.store, &fleet.key);
    assert_eq!((&rotated["version"], rotated["keys"].as_array().unwrap().len()), (&3.into(), 2));
    until("the new key seals", || number(&fleet.nodes[1].mint(&key, 60)) == "02");
    fleet.expect_good_everywhere(&fleet.nodes[1].mint(&key, 600));
    fleet.end();
}

/// It has read the keyring, and not yet said that it is there, when the others rotate it.
#[test]
fn who_starts_during_a_rotation_knows_its_key() {
    let fleet = Fleet::start();
    let key = fleet.nodes[0].create_key();
    let (cluster, database) = (&fleet.cluster, fleet.store.rsplit('/').next().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let more = [&LOOPBACK[..], &["--store", &fleet.store, "--node-name", "late"]].concat();
    let late = std::thread::scope(|scope| {
        // What it waits for then: the lock of its usage.
        let lock = "SET statement_timeout = '30s'; DO $$ BEGIN PERFORM pg_advisory_xact_lock(1953854063, hashtext('late')); \
                    WHILE NOT EXISTS (SELECT 1 FROM go_on) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$";
        cluster.sql(database, "CREATE TABLE go_on (n int)");
        scope.spawn(move || cluster.sql(database, lock));
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1953854063";
        until("it is held", || cluster.sql(database, held) == "1");
        let starting = scope.spawn(|| start_command(with_key(known(dir.path(), &more), &fleet.key)));
        until("it waits", || cluster.sql(database, held) == "2");
        assert_eq!(told(&["rotate"], &fleet.store, &fleet.key)["version"], 3);
        until("the new key seals", || number(&fleet.nodes[0].mint(&key, 60)) == "02");
        cluster.sql(database, "INSERT INTO go_on VALUES (1)");
        starting.join().unwrap()
    });
    assert_eq!(late.refusal(Transport::Udp, &fleet.nodes[0].mint(&key, 600)), None);
    fleet.expect_good_everywhere(&late.mint(&key, 600));
    assert_eq!(late.end().0.code(), Some(0));
}

#[test]
fn a_rotation_that_is_killed_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("turnery.db").display());
    let (_key_dir, key) = new_key();
    let server = start_command(with_key(known(dir.path(), &LOOPBACK), &key));
    let turn_key = server.create_key();
    let first = server.mint(&turn_key, 600);
    let mut seen = std::collections::BTreeSet::new();
    for at_ms in (0..20).map(|n| 75 * n) {
        let args = ["keyring", "rotate", "--store", &store, "--data-dir", dir.path().to_str().unwrap()];
        let mut rotation = Running(with_key(turnery(&args), &key).spawn().unwrap());
        rotation.wait(Duration::from_millis(at_ms));
        drop(rotation);
        seen.insert(told(&["show"], &store, &key)["version"].as_u64().unwrap());
        for minted in [&first, &server.mint(&turn_key, 600)] {
            assert_eq!(server.refusal(Transport::Udp, minted), None, "killed after {at_ms} ms");
        }
    }
    println!("versions {seen:?}");
    let before = *seen.last().unwrap();
    let rotated = told(&["rotate"], &store, &key)["version"].as_u64().unwrap();
    assert!(rotated % 2 == 1 && rotated > before, "each is prepared and then put to use: {before} {rotated}");
    let sealed_by = format!("{:02x}", rotated.div_ceil(2));
    until("the new key seals", || number(&server.mint(&turn_key, 60)) == sealed_by);
    assert_eq!(server.refusal(Transport::Udp, &first), None);
    let (status, log) = server.end();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
}

#[test]
fn without_the_database_the_keyring_in_use_stays() {
    let fleet = Fleet::start();
    let key = fleet.nodes[0].create_key();
    let minted = fleet.nodes[1].mint(&key, 600);
    fleet.cluster.kill();
    signal(&fleet.nodes[0].child, "HUP");
    until("it is logged", || fleet.nodes[0].log().contains("the keyring in use stays"));
    let rotated = keyring(&["rotate"], &fleet.store, &fleet.key);
    let said = String::from_utf8(rotated.stderr).unwrap();
    assert!(rotated.status.code() == Some(1) && said.contains("cannot reach the store"), "{said}");
    fleet.expect_good_everywhere(&minted);
    fleet.expect_good_everywhere(&fleet.nodes[0].mint(&key, 600));
    fleet.cluster.start_again();
    until("it can be rotated", || keyring(&["rotate"], &fleet.store, &fleet.key).status.success());
    until("the new key seals", || number(&fleet.nodes[0].mint(&key, 60)) != "01");
    fleet.expect_good_everywhere(&fleet.nodes[0].mint(&key, 600));
    fleet.expect_good_everywhere(&minted);
}

#[test]
fn a_keyring_of_a_file_moves_into_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("turnery.db").display());
    let (_key_dir, key) = new_key();
    let at = dir.path().to_str().unwrap();
    let import = || finish(with_key(turnery(&["keyring", "import", "--data-dir", at]), &key));
    let of_file = start_command(known(dir.path(), &LOOPBACK));
    let turn_key = of_file.create_key();
    let minted = of_file.mint(&turn_key, 600);
    let imported = import();
    let said = String::from_utf8(imported.stdout).unwrap();
    assert!(imported.status.success() && said.contains("in the store now: sqlite:"), "{said}");
    assert!(said.contains("keyring.toml away"), "{said}");
    let again = String::from_utf8(import().stdout).unwrap();
    assert!(again.contains("has this keyring already"), "{again}");
    assert_eq!(of_file.end().0.code(), Some(0));
    let rotate = turnery(&["keyring", "rotate", "--data-dir", at]);
    check_refused(rotate, &["is in the store, too", "--keyring-in-store"]);
    // A node that has its file still is told so, and goes on.
    let of_file = start_command(known(dir.path(), &LOOPBACK));
    assert!(of_file.log().contains("--keyring-in-store"), "{}", of_file.log());
    assert_eq!(of_file.refusal(Transport::Udp, &minted), None);
    assert_eq!(of_file.end().0.code(), Some(0));

    let file = dir.path().join("keyring.toml");
    fs::rename(&file, dir.path().join("keyring.toml.old")).unwrap();
    let in_store = start_command(with_key(known(dir.path(), &LOOPBACK), &key));
    assert_eq!(in_store.refusal(Transport::Udp, &minted), None);
    let rotated = told(&["rotate"], &store, &key);
    assert_eq!(rotated["version"], 3);
    until("the new key seals", || number(&in_store.mint(&turn_key, 60)) == "02");
    for minted in [&minted, &in_store.mint(&turn_key, 600)] {
        assert_eq!(in_store.refusal(Transport::Udp, minted), None);
    }
    let secret = finish(with_key(turnery(&["key", "secret", "add", &turn_key.uid, "--data-dir", at]), &key));
    assert!(secret.status.success(), "{secret:?}");
    let (status, log) = in_store.end();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
    assert!(!file.exists(), "none is made");
    fs::rename(dir.path().join("keyring.toml.old"), &file).unwrap();
    let other = String::from_utf8(import().stderr).unwrap();
    assert!(other.contains("another keyring already, its version 3"), "{other}");
    check_refused(
        serve_in(dir.path(), &LOOPBACK),
        &["its version 3", "--keyring-in-store", "move keyring.toml"],
    );
}

/// Also while nodes run that cannot read the keyring any more.
#[test]
fn another_key_takes_the_place_of_the_sealing_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", dir.path().join("turnery.db").display());
    let ((_key_dir, key), (_other_dir, other)) = (new_key(), new_key());
    let server = start_command(with_key(known(dir.path(), &LOOPBACK), &key));
    let turn_key = server.create_key();
    let minted = server.mint(&turn_key, 600);
    assert_eq!(told(&["reseal", "--with", other.to_str().unwrap()], &store, &key)["version"], 2);
    until("it is logged", || server.log().contains("another key"));
    for minted in [&minted, &server.mint(&turn_key, 600)] {
        assert_eq!(server.refusal(Transport::Udp, minted), None);
    }
    let rotated = keyring(&["rotate", "--wait-secs", "1"], &store, &other);
    assert_eq!(rotated.status.code(), Some(1), "a node would not know the key");
    let (status, log) = server.end();
    assert!(status.success() && log.matches("another key").count() <= 2, "it is said once of each: {log}");
    let server = start_command(with_key(known(dir.path(), &LOOPBACK), &other));
    assert_eq!(server.refusal(Transport::Udp, &minted), None);
    assert_eq!(told(&["rotate"], &store, &other)["version"], 4);
    assert_eq!(server.end().0.code(), Some(0));
}

/// A role made for a fleet that had its keyring elsewhere.
#[test]
fn a_relay_that_may_not_read_the_keyring_is_told_which_right_it_needs() {
    let url = cluster().database();
    let database = url.rsplit('/').next().unwrap();
    let ((_key_dir, key), dir) = (new_key(), tempfile::tempdir().unwrap());
    told_to_make(&url, &key);
    cluster().sql(database, "CREATE ROLE keyless LOGIN; GRANT SELECT ON _sqlx_migrations TO keyless");
    let url = cluster().url("keyless", database);
    let command = serve_in(dir.path(), &[&LOOPBACK[..], &["--role", "relay", "--store", &url]].concat());
    check_refused(with_key(command, &key), &["permission denied", "GRANT SELECT ON sealed_keyring"]);
    // Who has one of its own needs no such right: it comes further than that.
    let own = turnery(&["keyring", "rotate", "--data-dir", dir.path().to_str().unwrap()]);
    assert!(finish(own).status.success());
    let more = [&LOOPBACK[..], &["--role", "relay", "--store", &url]].concat();
    check_refused(serve_in(dir.path(), &more), &["permission denied for table turn_sessions"]);
}

/// As after a restore to a moment before it came, or when somebody deletes it.
#[test]
fn a_keyring_that_was_lost_is_not_made_anew_nor_another_taken() {
    let url = cluster().database();
    let ((_key_dir, key), dirs) = (new_key(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let more = |name| [&LOOPBACK[..], &["--store", &url, "--node-name", name]].concat();
    let server = start_command(with_key(known(dirs[0].path(), &more("first")), &key));
    let turn_key = server.create_key();
    let minted = server.mint(&turn_key, 600);
    cluster().sql(&url, "DELETE FROM sealed_keyring");
    let other = with_key(serve_in(dirs[1].path(), &more("other")), &key);
    check_refused(other, &["last day: first;", "keyring import", "row of sealed_keyring"]);
    let at = dirs[1].path().to_str().unwrap();
    assert!(finish(turnery(&["keyring", "rotate", "--data-dir", at])).status.success());
    let import = turnery(&["keyring", "import", "--data-dir", at, "--store", &url]);
    assert!(finish(with_key(import, &key)).status.success());
    until("it is logged", || server.log().contains("has no key of the one in use"));
    for minted in [&minted, &server.mint(&turn_key, 600)] {
        assert_eq!(server.refusal(Transport::Udp, minted), None);
    }
    assert_eq!(server.end().0.code(), Some(0));
}

/// Has a node make a keyring, and end.
fn told_to_make(store: &str, key: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let more = [&LOOPBACK[..], &["--store", store]].concat();
    let node = start_command(with_key(known(dir.path(), &more), key));
    assert_eq!(node.end().0.code(), Some(0));
}

/// One line that has all hints, and an exit code that is not 0.
fn check_refused(command: Command, hints: &[&str]) {
    let shown = format!("{command:?}");
    let output = finish(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.lines().count() == 1, "{shown}: {stderr}");
    for hint in hints {
        assert!(stderr.contains(hint), "{shown}: {stderr:?} lacks {hint:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_key_dir, key) = new_key();
    let (_other_dir, other) = new_key();
    let again = turnery(&["keyring", "new-key", key.to_str().unwrap()]);
    check_refused(again, &["keyring.key", "File exists", "name another file"]);
    let serve = || serve_in(dir.path(), &LOOPBACK);
    let mut keyless = serve();
    keyless.arg("--keyring-in-store");
    check_refused(keyless, &["--keyring-in-store:", "--keyring-key-file", "TURNERY_KEYRING_KEY", "new-key"]);
    let mut alone = serve();
    alone.env("TURNERY_KEYRING_KEY", fs::read_to_string(&key).unwrap());
    check_refused(alone, &["TURNERY_KEYRING_KEY", "--keyring-in-store"]);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let server = start_command(with_key(known(dir.path(), &LOOPBACK), &key));
    let warned = server.end().1;
    assert!(warned.contains("may read the key of the keyring") && warned.contains("chmod 600"), "{warned}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let server = start_command(with_key(known(dir.path(), &LOOPBACK), &key));
    let turn_key: Key = server.create_key();
    let minted = server.mint(&turn_key, 600);
    assert_eq!(server.refusal(Transport::Udp, &minted), None);
    assert!(!server.log().contains("WARN"), "{}", server.log());
    assert_eq!(server.end().0.code(), Some(0));
    check_refused(with_key(serve(), &other), &["--keyring-key-file", "another key", "give every node"]);
    let at = dir.path().to_str().unwrap();
    for verb in ["show", "prepare", "rotate"] {
        let command = with_key(turnery(&["keyring", verb, "--data-dir", at]), &other);
        check_refused(command, &["--keyring-key-file", "another key"]);
    }
    let text = fs::read_to_string(&key).unwrap();
    for args in [["--keyring-key-file", text.trim()], ["--with", text.trim()]] {
        let mut given = turnery(&["keyring", "reseal", "--data-dir", at, "--keyring-in-store"]);
        let rest = if args[0] == "--with" { "--keyring-key-file" } else { "--with" };
        let stderr = String::from_utf8(
            finish({
                given.args(args).args([rest, key.to_str().unwrap()]);
                given
            })
            .stderr,
        );
        let stderr = stderr.unwrap();
        assert!(stderr.contains("a key and not a file's name") && !stderr.contains(text.trim()), "{stderr}");
    }
    // Who needs no keyring needs no key.
    let keyless =
        ["account", "list", "--data-dir", at, "--keyring-in-store", "--keyring-key-file", "/nowhere"];
    assert!(finish(turnery(&keyless)).status.success());
    check_refused(serve(), &["there is no keyring", "one in the store", "--keyring-in-store"]);
    assert!(!dir.path().join("keyring.toml").exists(), "none is made");
    check_refused(turnery(&["keyring", "import", "--data-dir", at]), &["--keyring-in-store"]);
    fs::write(dir.path().join("keyring.toml"), "").unwrap();
    let hints = ["two keyrings", "keyring.toml", "keyring import", "move the file away"];
    check_refused(with_key(serve(), &key), &hints);
}
