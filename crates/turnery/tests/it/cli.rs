//! The commands beside `serve`, alone and while a service runs on the same store.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use turn::Transport;

use crate::fixture::{ACCOUNT, Key, LONG, finish, keys_path, signal, start, text, turnery};

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
