//! Starts that cannot work: one clear line, an exit code that is not 0, and nothing half-started.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use crate::fixture::{LOOPBACK, finish, serve_in, start_command, turnery};

/// Requires one line on standard error that holds every hint, and no word on standard output.
fn check_refused(command: Command, hints: &[&str]) {
    let shown = format!("{command:?}");
    let output = finish(command);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.code().is_some_and(|code| code != 0), "{shown}: {} {stderr}", output.status);
    assert_eq!(stdout, "", "{shown}");
    assert_eq!(stderr.lines().count(), 1, "{shown}: {stderr}");
    assert!(stderr.starts_with("turnery: "), "{shown}: {stderr}");
    for hint in hints {
        assert!(stderr.contains(hint), "{shown}: {stderr:?} lacks {hint:?}");
    }
}

/// A start on this directory must still be the first one.
fn check_token_is_unspent(dir: &Path) {
    let server = start_command(serve_in(dir, &LOOPBACK));
    assert!(server.announced.contains("First start"), "{}", server.announced);
    server.end();
}

#[test]
fn a_taken_port_is_named_and_spends_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) = (&udp.local_addr().unwrap().to_string(), &tcp.local_addr().unwrap().to_string());
    let free = "127.0.0.1:0";
    for (api, turn, hints) in [
        (
            free,
            format!("udp://{udp}"),
            [format!("cannot listen on udp://{udp}: Address already in use"), "--turn-listen".into()],
        ),
        (
            free,
            format!("tcp://{tcp}"),
            [format!("cannot listen on tcp://{tcp}: Address already in use"), "another TURN server".into()],
        ),
        (
            tcp,
            format!("udp://{free}"),
            [format!("cannot listen on http://{tcp}: Address already in use"), "--api-listen".into()],
        ),
    ] {
        let mut command =
            turnery(&["serve", "--data-dir", data_dir, "--api-listen", api, "--turn-listen", &turn]);
        command.args(LOOPBACK);
        check_refused(command, &hints.each_ref().map(String::as_str));
    }
    check_token_is_unspent(dir.path());
}

#[test]
fn a_second_instance_on_the_same_ports_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = start_command(serve_in(dir.path(), &LOOPBACK));
    let other = tempfile::tempdir().unwrap();
    for (transport, address) in &first.listeners {
        let url = format!("{}://{address}", format!("{transport:?}").to_lowercase());
        let dir = other.path().to_str().unwrap();
        let mut command =
            turnery(&["serve", "--data-dir", dir, "--api-listen", "127.0.0.1:0", "--turn-listen", &url]);
        command.args(LOOPBACK);
        check_refused(command, &[&format!("cannot listen on {url}: Address already in use")]);
    }
    check_token_is_unspent(other.path());
}

#[test]
fn wrong_values_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turnery.toml");
    fs::write(&file, "realm = \"x\"\nlisten = \"udp://0.0.0.0:1\"\n").unwrap();
    // Whatever is not refused is asked of nobody.
    let directory = ["--acme-directory", "https://127.0.0.1:9/dir"];
    let acme = [&["--acme-domain", "turn.example.org", "--acme-accept-terms"][..], &directory].concat();
    let not_a_program = dir.path().join("hook");
    fs::write(&not_a_program, "").unwrap();
    let not_a_program = not_a_program.to_str().unwrap();
    let flags: &[(&[&str], &[&str])] = &[
        (&["--allow-peer", "10.0.0.0/40"], &["--allow-peer", "10.0.0.0/40", "above 32"]),
        (&["--deny-peer", "10.0.0.1/8"], &["--deny-peer", "did you mean 10.0.0.0/8"]),
        (&["--deny-peer", "example.org"], &["--deny-peer", "example.org", "192.0.2.0/24"]),
        (&["--turn-listen", "quic://0.0.0.0:1"], &["--turn-listen", "udp://, tcp://"]),
        (&["--turn-listen", "tls://127.0.0.1:1"], &["--turn-listen", "--tls-cert and --tls-key"]),
        (&["--tls-cert", "x.pem"], &["--tls-cert is given 1 times and --tls-key 0 times"]),
        (&["--acme-domain", "turn.example.org"], &["--acme-accept-terms is missing", "terms of service"]),
        (&["--acme-email", "a@b.c"], &["--acme-email", "without --acme-domain"]),
        (&[&acme[..], &["--dev"]].concat(), &["--acme-domain", "--dev makes its certificate itself"]),
        (&[&acme[..], &["--tls-cert", "x", "--tls-key", "y"]].concat(), &["--acme-domain", "leave one out"]),
        (&[&acme[..], &["--acme-domain", "*.example.org"]].concat(), &["\"*.example.org\"", "dns-01"]),
        (&[&acme[..], &["--acme-domain", "192.0.2.1"]].concat(), &["\"192.0.2.1\" is not a name"]),
        (&[&acme[..], &["--acme-challenge", "dns-01"]].concat(), &["dns-01", "--acme-dns-hook"]),
        (&[&acme[..], &["--acme-challenge", "dns"]].concat(), &["--acme-challenge: \"dns\"", "tls-alpn-01"]),
        (&[&acme[..], &["--acme-dns-hook", "/bin/true"]].concat(), &["--acme-dns-hook", "dns-01 only"]),
        (
            &[&acme[..], &["--acme-challenge", "dns-01", "--acme-dns-hook", not_a_program]].concat(),
            &["--acme-dns-hook", "hook\" is not a program"],
        ),
        (&[&acme[..], &["--acme-http-listen", "none"]].concat(), &["--acme-http-listen", "http-01 only"]),
        (
            &[&acme[..3], &["--acme-directory", "http://ca"]].concat(),
            &["--acme-directory: \"http://ca\"", "https"],
        ),
        (&[&acme[..], &["--acme-root-ca", "/etc/hostname"]].concat(), &["--acme-root-ca", "no certificate"]),
        (&[&acme[..], &["--acme-email", "me"]].concat(), &["--acme-email: \"me\"", "admin@example.org"]),
        (&[&acme[..], &["--acme-eab-key-id", "x"]].concat(), &["--acme-eab-key-id and --acme-eab-key-file"]),
        (&["--ice-url", "turn:host"], &["--ice-url", "\"turn:host\" is not"]),
        (&["--turn-listen", "udp://localhost:1"], &["--turn-listen", "IP:PORT"]),
        (
            &["--turn-listen", "udp://192.0.2.1:3478"],
            &["cannot listen on udp://192.0.2.1:3478", "--turn-listen"],
        ),
        (&["--relay-ports", "2000-1000"], &["--relay-ports: \"2000-1000\"", "above"]),
        (&["--relay-ports", "80-1000"], &["--relay-ports", "1024"]),
        (&["--relay-address", "10.0.0.300"], &["--relay-address", "10.0.0.300", "PUBLIC/LOCAL"]),
        (&["--relay-address", "198.51.100.7"], &["--relay-address", "cannot bind 198.51.100.7", "NAT"]),
        (&["--relay-address", "::1/127.0.0.1"], &["--relay-address", "both be IPv4 or both be IPv6"]),
        (&["--public-host", "http://turn"], &["--public-host", "host name"]),
        (&["--workers", "many"], &["--workers: \"many\"", "1 to 256"]),
        (&["--realm", ""], &["--realm", "1 to 127"]),
        (&["--role", "api"], &["--role: \"api\"", "all nor relay"]),
        (&["--role", "relay"], &["--role", "--store postgres://"]),
        (&["--store", "mysql://db"], &["mysql://", "sqlite:", "postgres://"]),
        (
            &["--store", "postgres://me:s3cret@127.0.0.1:1/db"],
            &["cannot reach", "postgres://me@127.0.0.1:1/db"],
        ),
        (&["--config", "/dev/null/x.toml"], &["/dev/null/x.toml", "cannot read"]),
        (&["--config", file.to_str().unwrap()], &["turnery.toml", "line 2", "unknown field `listen`"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ];
    for (args, hints) in flags {
        check_refused(serve_in(&dir.path().join("data"), args), hints);
    }
    for (name, value, hints) in [
        ("TURNERY_BOOTSTRAP_ACCOUNT", "xyz", &["TURNERY_BOOTSTRAP_ACCOUNT: \"xyz\"", "32 hex"]),
        ("TURNERY_BOOTSTRAP_TOKEN", "too-short", &["TURNERY_BOOTSTRAP_TOKEN", "32 to 128"]),
    ] {
        let mut command = serve_in(&dir.path().join("data"), &LOOPBACK);
        command.env(name, value);
        check_refused(command, hints);
    }
    check_token_is_unspent(&dir.path().join("data"));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    // No directory can be made there, whoever asks: the tests may run as root.
    check_refused(
        serve_in(Path::new("/dev/null/x"), &LOOPBACK),
        &["data directory /dev/null/x", "Not a directory"],
    );
    check_refused(serve_in(Path::new("/proc/x"), &LOOPBACK), &["data directory /proc/x"]);
    check_refused(serve_in(Path::new("/proc"), &LOOPBACK), &["cannot write in the data directory /proc"]);
}

#[test]
fn a_corrupt_keyring_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = dir.path().join("keyring.toml");
    for (text, hint) in [("", "holds no key"), ("[[key]\n", "line 1"), ("\u{0}\u{1}", "line 1")] {
        fs::write(&keyring, text).unwrap();
        check_refused(serve_in(dir.path(), &LOOPBACK), &["keyring.toml", hint]);
        assert_eq!(fs::read_to_string(&keyring).unwrap(), text);
    }
    fs::write(&keyring, [0xff, 0xfe]).unwrap();
    check_refused(serve_in(dir.path(), &LOOPBACK), &["keyring.toml", "UTF-8"]);
    fs::remove_file(&keyring).unwrap();
    check_token_is_unspent(dir.path());
}

#[test]
fn a_store_that_is_none_or_newer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("turnery.db");
    fs::write(&store, "this is no database, but it is long enough to be looked at as one".repeat(40))
        .unwrap();
    check_refused(serve_in(dir.path(), &LOOPBACK), &["turnery.db", "not an SQLite database"]);
    fs::remove_file(&store).unwrap();
    start_command(serve_in(dir.path(), &LOOPBACK)).end();
    add_migration_from_the_future(&store);
    check_refused(serve_in(dir.path(), &LOOPBACK), &["turnery.db", "newer Turnery", "9999"]);
}

fn add_migration_from_the_future(store: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use sqlx::{ConnectOptions, Connection};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store);
        let mut connection = options.connect().await.unwrap();
        let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                      VALUES (9999, 'later', TRUE, x'00', 0)";
        sqlx::query(insert).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_keyring_in_the_environment_that_cannot_be_meant_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let start = |keyring: &str| {
        let mut command = serve_in(dir.path(), &LOOPBACK);
        command.env("TURNERY_KEYRING", keyring);
        command
    };
    check_refused(start("none of ours"), &["TURNERY_KEYRING", "keyring.toml", "base64"]);
    check_refused(start("[[key]]\nid = 1"), &["TURNERY_KEYRING", "line 1"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let made = turnery(&["keyring", "rotate", "--data-dir", dir.path().to_str().unwrap()]);
    assert!(finish(made).status.success());
    let keyring = fs::read_to_string(dir.path().join("keyring.toml")).unwrap();
    check_refused(start(&keyring), &["two keyrings", "keyring.toml", "TURNERY_KEYRING"]);
}
