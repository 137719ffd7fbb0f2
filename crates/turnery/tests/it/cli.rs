//! The commands beside `serve`, alone and while a service runs on the same store.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use turn::Transport;

use crate::fixture::{
    ACCOUNT, Key, LONG, LOOPBACK, SharedSecret, finish, keys_path, known, signal, start, start_command, text,
    turnery,
};

/// A command that must succeed: what it prints.
fn run(dir: &Path, args: &[&str]) -> String {
    let output = finish(command(dir, args));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let printed = run(dir, &[args, &["--json"]].concat());
    assert_eq!(printed.lines().count(), 1, "{printed}");
    serde_json::from_str(&printed).unwrap()
}

/// A command that must fail with this exit code and one line that holds `hint`.
fn refuse(dir: &Path, args: &[&str], code: i32, hint: &str) {
    let output = finish(command(dir, args));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert!(errors.lines().count() == 1 && errors.contains(hint), "{args:?}: {errors}");
    assert!(output.stdout.is_empty());
}

fn command(dir: &Path, args: &[&str]) -> std::process::Command {
    let mut command = turnery(args);
    command.env("TURNERY_DATA_DIR", dir);
    command
}

#[test]
fn accounts_tokens_and_keys_are_made_shown_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let account = text(&json(dir, &["account", "create", "--name", "first", "--id", ACCOUNT])["id"]);
    assert_eq!(account, ACCOUNT);
    let table = run(dir, &["account", "list"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("ID   ") && lines[1].starts_with(ACCOUNT), "{table}");
    assert_eq!(lines[0].find("NAME"), lines[1].find("first"), "{table}");

    let token = json(dir, &["token", "create", "--name", "ci", "--permission", "calls-read"]);
    assert_eq!(
        (text(&token["permission"]), text(&token["account_id"])),
        ("Calls Read".into(), ACCOUNT.into())
    );
    assert_eq!(text(&token["token"]).len(), 40);
    let human = run(dir, &["token", "create", "--expires", "2099-01-01T00:00:00Z"]);
    assert!(human.contains("shown this once"), "{human}");
    let listed = json(dir, &["token", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(text(&listed[1]["expires_on"]), "2099-01-01T00:00:00Z");
    assert!(!listed.to_string().contains(&text(&token["token"])), "a token is shown once");
    assert_eq!(json(dir, &["token", "delete", &text(&token["id"])])["id"], token["id"]);
    assert_eq!(run(dir, &["token", "list"]).lines().count(), 2);

    let key = json(dir, &["key", "create", "--name", "web", "--account", ACCOUNT]);
    assert_eq!((text(&key["secret"]).len(), &key["secret"]), (64, &key["key"]));
    let uid = text(&key["uid"]);
    assert_eq!(json(dir, &["key", "rename", &uid, "site"])["name"], "site");
    let listed = json(dir, &["key", "list"]);
    assert_eq!((&listed[0]["uid"], &listed[0]["name"]), (&key["uid"], &Value::from("site")));
    assert!(listed[0].get("secret").is_none());
    assert!(run(dir, &["key", "delete", &uid]).contains(&uid));
    assert_eq!(run(dir, &["key", "list"]), "The account has no TURN key.\n");

    assert_eq!(json(dir, &["account", "delete", ACCOUNT])["id"], ACCOUNT);
    assert_eq!(json(dir, &["account", "list"]), Value::Array(vec![]));
}

#[test]
fn shared_secrets_are_added_shown_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, &["account", "create"]);
    let uid = text(&json(dir, &["key", "create"])["uid"]);
    let add = ["key", "secret", "add", &uid];
    refuse(dir, &add, 1, "there is no keyring");
    run(dir, &["keyring", "rotate"]);
    assert_eq!(run(dir, &["key", "secret", "list", &uid]), "The TURN key has no shared secret.\n");
    let human = run(dir, &[&add[..], &["--generate"]].concat());
    assert!(human.starts_with("id      ") && human.contains("shown this once"), "{human}");
    assert_eq!(text(&json(dir, &add)["secret"]).len(), 64);
    let file = dir.join("secret");
    let from_file = [&add[..], &["--secret-file", file.to_str().unwrap()]].concat();
    refuse(dir, &from_file, 1, "No such file");
    for (content, hint) in [
        (String::new(), "there is no secret"),
        ("fifteen bytes..\n".to_owned(), "16 to 256 printable"),
        ("sixteen bytes...\nand more".to_owned(), "16 to 256 printable"),
        ("a".repeat(300), "16 to 256 printable"),
    ] {
        std::fs::write(&file, content).unwrap();
        refuse(dir, &from_file, 1, hint);
    }
    std::fs::write(&file, "my own shared secret\r\n").unwrap();
    assert_eq!(json(dir, &from_file)["secret"], "my own shared secret");
    refuse(dir, &from_file, 1, "in use already");
    refuse(dir, &[&from_file[..], &["--generate"]].concat(), 2, "--generate");
    // Standard input is /dev/null here.
    refuse(dir, &[&add[..], &["--secret-file", "-"]].concat(), 1, "there is no secret in -");
    let listed = json(dir, &["key", "secret", "list", &uid]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert!(listed[2].get("secret").is_none());
    let id = text(&listed[2]["id"]);
    let table = run(dir, &["key", "secret", "list", &uid]);
    assert!(table.starts_with("ID   ") && table.contains(&id) && !table.contains("my own"), "{table}");
    let remove = ["key", "secret", "remove", &uid, &id];
    assert_eq!(json(dir, &remove)["id"], listed[2]["id"]);
    refuse(dir, &remove, 1, "no TURN key");
    let nobody = "0".repeat(32);
    refuse(dir, &["key", "secret", "list", &nobody], 1, "no TURN key");
    refuse(dir, &["key", "secret", "add", &nobody], 1, "no TURN key");
    (0..6).for_each(|_| drop(run(dir, &add)));
    refuse(dir, &add, 1, "8 shared secrets");
}

#[test]
fn a_keys_limits_are_shown_and_changed_and_hold_within_a_second() {
    let server = start();
    let (dir, key) = (server.data_dir(), server.create_key());
    let args = ["key", "limits", &key.uid];
    let limits = |more: &[&'static str]| [&args[..], more].concat();
    assert_eq!(run(&dir, &limits(&[])), "The TURN key has no limits of its own.\n");
    let minted = server.mint(&key, 600);
    let mut held = server.client(Transport::Udp, &minted);
    held.allocate().unwrap();
    assert_eq!(server.refusal(Transport::Udp, &minted), None);
    let set = json(&dir, &limits(&["--max-allocations", "1", "--max-key-bits-per-second", "10M"]));
    assert_eq!((&set["allocations"], &set["key_bits_per_second"]), (&1.into(), &10_000_000.into()));
    let begun = Instant::now();
    while server.refusal(Transport::Udp, &minted) != Some(486) {
        assert!(begun.elapsed() < Duration::from_secs(1), "the relay does not know the limit yet");
    }
    let changed = json(&dir, &limits(&["--max-key-bits-per-second", "none", "--max-channels", "3"]));
    assert_eq!((&changed["allocations"], &changed["key_bits_per_second"]), (&1.into(), &Value::Null));
    let table = run(&dir, &limits(&[]));
    let find = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(find("LIMIT").ends_with("VALUE") && find("channels").ends_with(" 3"), "{table}");
    assert!(find("key_bits_per_second").ends_with("none"), "{table}");
    assert_eq!(json(&dir, &limits(&["--clear"])), Value::Null);
    let begun = Instant::now();
    while server.refusal(Transport::Udp, &minted).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(1), "the relay still limits the key");
    }
    refuse(&dir, &limits(&["--clear", "--max-channels", "3"]), 1, "by itself");
    refuse(&dir, &limits(&["--max-channels", "0"]), 2, "limit of 0");
    refuse(&dir, &limits(&["--max-channels", "x"]), 2, "number such as");
    refuse(&dir, &limits(&["--max-channels", "5G"]), 1, "at most 4294967295");
    refuse(&dir, &["key", "limits", &"0".repeat(32)], 1, "no TURN key");
}

#[test]
fn a_keys_month_and_webhooks_are_seen_to_from_the_shell() {
    let server = start();
    let (dir, key) = (server.data_dir(), server.create_key());
    let args = ["key", "month-limit", &key.uid];
    let month = |more: &[&'static str]| [&args[..], more].concat();
    assert_eq!(run(&dir, &month(&[])), "The TURN key has no monthly limit.\n");
    refuse(&dir, &month(&["--action", "cut"]), 1, "give --bytes");
    let set = json(&dir, &month(&["--bytes", "500G", "--notify-at", "50, 90"]));
    assert_eq!((&set["bytes"], &set["action"]), (&500_000_000_000_u64.into(), &"refuse".into()));
    let changed = json(&dir, &month(&["--action", "cut"]));
    assert_eq!((&changed["action"], &changed["notify_at"]), (&"cut".into(), &serde_json::json!([50, 90])));
    assert!(run(&dir, &month(&[])).starts_with("bytes      500000000000 (egress)\naction     cut\n"));
    refuse(&dir, &month(&["--notify-at", "100"]), 1, "from 1 to 99");
    refuse(&dir, &month(&["--counts", "ingress"]), 2, "`egress` or `total`");
    refuse(&dir, &month(&["--clear", "--bytes", "1"]), 1, "by itself");
    assert_eq!(json(&dir, &month(&["--clear"])), Value::Null);

    assert_eq!(run(&dir, &["webhook", "list"]), "The account has no webhook.\n");
    refuse(&dir, &["webhook", "create", "ftp://a/"], 1, "https://HOST/PATH");
    let made = json(&dir, &["webhook", "create", "http://127.0.0.1:9/", "--event", "turn_key.created"]);
    assert!(text(&made["secret"]).starts_with("whsec_"));
    let id = text(&made["id"]);
    assert!(run(&dir, &["webhook", "list"]).contains("turn_key.created"));
    server.create_key();
    let waiting = json(&dir, &["webhook", "deliveries", &id]);
    assert_eq!(waiting[0]["type"], "turn_key.created");
    assert_eq!(json(&dir, &["webhook", "redeliver", &id])["count"], 0, "it is not given up yet");
    assert_eq!(json(&dir, &["webhook", "delete", &id])["id"], id);
    refuse(&dir, &["webhook", "deliveries", &id], 1, "has no webhook");
}

#[test]
fn a_shared_secret_from_the_shell_is_good_within_a_second() {
    let server = start();
    let (dir, key) = (server.data_dir(), server.create_key());
    let made = json(&dir, &["key", "secret", "add", &key.uid]);
    let begun = Instant::now();
    let secret = SharedSecret { id: text(&made["id"]), text: text(&made["secret"]) };
    while server.refusal(Transport::Udp, &secret.mint(60)).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(1), "the relay does not know the secret yet");
    }
}

#[test]
fn shared_secrets_outlive_the_keyrings_keys() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["account", "create", "--id", ACCOUNT]);
    run(dir.path(), &["keyring", "rotate"]);
    let uid = text(&json(dir.path(), &["key", "create"])["uid"]);
    let made = json(dir.path(), &["key", "secret", "add", &uid]);
    let secret = SharedSecret { id: text(&made["id"]), text: text(&made["secret"]) };
    run(dir.path(), &["keyring", "rotate"]);
    // Two days and a bit go by: whatever the first key has sealed has expired, but for the secret.
    let file = dir.path().join("keyring.toml");
    let aged = |line: &str| match line.strip_prefix("superseded_at = ") {
        Some(at) => format!("superseded_at = {}\n", at.parse::<u64>().unwrap() - 50 * 3_600),
        None => format!("{line}\n"),
    };
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.lines().map(aged).collect::<String>()).unwrap();
    let rotated = json(dir.path(), &["keyring", "rotate"]);
    let ids: Vec<_> = rotated["keys"].as_array().unwrap().iter().map(|key| key["id"].clone()).collect();
    assert_eq!(ids, [2, 3], "the first key has left");
    let server = start_command(known(dir.path(), &LOOPBACK));
    assert_eq!(server.refusal(Transport::Udp, &secret.mint(60)), None);
    let (status, log) = server.end();
    assert!(status.success() && !log.contains("shared secret"), "{log}");
    // What cannot be sealed again stops a rotation.
    std::fs::write(dir.path().join("turnery.db"), "no database").unwrap();
    refuse(dir.path(), &["keyring", "rotate"], 1, "not an SQLite database");
    assert_eq!(json(dir.path(), &["keyring", "show"]), rotated);
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    refuse(dir, &["key", "list"], 1, "there is no store");
    refuse(dir, &["keyring", "show"], 1, "there is no keyring");
    run(dir, &["account", "create", "--id", ACCOUNT]);
    let nobody = "0".repeat(32);
    refuse(dir, &["account", "create", "--id", ACCOUNT], 1, "already");
    refuse(dir, &["account", "delete", &nobody], 1, "there is no account 0000");
    refuse(dir, &["token", "delete", &nobody], 1, "there is no API token");
    refuse(dir, &["key", "delete", &nobody], 1, "no TURN key");
    refuse(dir, &["key", "rename", &nobody, "x"], 1, "no TURN key");
    refuse(dir, &["key", "create", "--account", "abc"], 1, "there is no account abc");
    refuse(dir, &["key", "create", "--name", &"n".repeat(256)], 2, "255");
    refuse(dir, &["key", "delete", "XYZ"], 2, "32 lower-case hex digits");
    refuse(dir, &["token", "create", "--permission", "admin"], 2, "calls-read");
    refuse(dir, &["tokens"], 2, "tokens");
    run(dir, &["account", "create"]);
    refuse(dir, &["key", "list"], 1, "--account");
}

#[test]
fn help_and_version_are_there() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &["--version"]), format!("turnery {}\n", env!("CARGO_PKG_VERSION")));
    for args in [&["--help"][..], &["serve", "--help"], &["key", "create", "--help"], &["help", "keyring"]] {
        assert!(run(dir.path(), args).contains("Usage: turnery"), "{args:?}");
    }
    assert!(run(dir.path(), &["serve", "--help"]).contains("Examples:"));
}

#[test]
fn a_key_made_from_the_shell_mints_at_once() {
    let server = start();
    let dir = server.data_dir();
    let made = json(&dir, &["key", "create", "--name", "shell"]);
    let key = Key { uid: text(&made["uid"]), secret: text(&made["secret"]) };
    let minted = server.mint(&key, 60);
    assert_eq!(server.refusal(Transport::Udp, &minted), None);
    let token = text(&json(&dir, &["token", "create"])["token"]);
    let listed = server.ask("GET", &keys_path(), &token, None, 200);
    assert_eq!(listed["result"][0]["name"], "shell");
}

/// Mints until the credential's first byte, the number of the key that sealed it, is this one.
fn mint_sealed_by(server: &crate::fixture::Server, key: &Key, number: &str) -> crate::fixture::Minted {
    let begun = Instant::now();
    loop {
        let minted = server.mint(key, 60);
        // Whichever key it was sealed with, the relay knows it already.
        assert_eq!(server.refusal(Transport::Udp, &minted), None);
        if minted.username.starts_with(number) {
            return minted;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the service still mints with the old key");
    }
}

#[test]
fn a_rotated_keyring_is_taken_up_and_old_credentials_stay_good() {
    let server = start();
    let (dir, key) = (server.data_dir(), server.create_key());
    let old = server.mint(&key, 600);
    assert!(old.username.starts_with("01"));
    let rotated = json(&dir, &["keyring", "rotate"]);
    assert_eq!(rotated["keys"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&rotated["keys"][0]["current"], &rotated["keys"][1]["current"]),
        (&false.into(), &true.into())
    );
    mint_sealed_by(&server, &key, "02");
    assert_eq!(server.refusal(Transport::Udp, &old), None);
    let shown = run(&dir, &["keyring", "show"]);
    assert!(shown.starts_with("KEY  CREATED") && shown.contains("current"), "{shown}");
    assert!(shown.lines().all(|line| line.len() < 80), "no secret: {shown}");
}

#[test]
fn a_broken_keyring_is_logged_and_the_one_in_use_stays() {
    let server = start();
    let (file, key) = (server.data_dir().join("keyring.toml"), server.create_key());
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "broken").unwrap();
    signal(&server.child, "HUP");
    let begun = Instant::now();
    while !server.log().contains("the keyring in use stays") {
        assert!(begun.elapsed() < LONG, "{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.refusal(Transport::Udp, &server.mint(&key, 60)), None);
    std::fs::write(&file, good).unwrap();
    run(&server.data_dir(), &["keyring", "rotate"]);
    mint_sealed_by(&server, &key, "02");
    assert_eq!(server.end().0.code(), Some(0));
}
