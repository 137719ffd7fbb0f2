//! The conformance suite against the real binary: it judges any server from outside, this one too.

use std::path::PathBuf;
use std::process::Command;

use turn::Transport;

use crate::fixture::{LONG, finish, finish_within, known, start_command};

/// The suite is another package's binary: cargo builds it, if the same build has not done so already. All of the
/// workspace, for a part would be built with other features, and with it everything it depends on.
fn suite() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--workspace", "--no-run"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success(), "cargo could not build the conformance suite");
    // Beside this very binary: target/debug/conformance beside target/debug/turnery.
    PathBuf::from(env!("CARGO_BIN_EXE_turnery")).with_file_name("conformance")
}

#[test]
fn every_requirement_holds_over_udp_tcp_tls_and_dtls() {
    let suite = suite();
    let dir = tempfile::tempdir().unwrap();
    let tls = ["--turn-listen", "tls://127.0.0.1:0", "--turn-listen", "dtls://127.0.0.1:0"];
    let server = start_command(known(dir.path(), &[&["--dev", "--strict-channels"], &tls[..]].concat()));
    let key = server.create_key();
    let (user, other) = (server.mint(&key, 7_200), server.mint(&key, 7_200));
    for (transport, name) in
        [(Transport::Udp, "udp"), (Transport::Tcp, "tcp"), (Transport::Tls, "tls"), (Transport::Dtls, "dtls")]
    {
        let mut command = Command::new(&suite);
        command
            .arg(server.listener(transport).to_string())
            .args(["--user", &user.username, "--password", &user.password])
            .args(["--alt-user", &other.username, "--alt-password", &other.password])
            .args(["--transport", name])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        // One check watches a connection that is closed after 30 seconds.
        let output = finish_within(2 * LONG, command);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {told}{}", String::from_utf8_lossy(&output.stderr));
        // A run in which nothing applies would pass too.
        let passed = told.lines().filter(|line| line.contains('\u{2713}')).count();
        assert!(passed > 200, "{name}: only {passed} checks passed: {told}");
    }
}

#[test]
fn rfc5780_every_requirement_holds_where_discovery_is_offered() {
    let suite = suite();
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev", "--alternate-address", "127.0.0.2"]));
    let user = server.mint(&server.create_key(), 7_200);
    let mut command = Command::new(&suite);
    command
        .arg(server.listener(Transport::Udp).to_string())
        .args(["--user", &user.username, "--password", &user.password, "--only", "rfc5780-*"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let output = finish(command);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let passed = told.lines().filter(|line| line.contains('\u{2713}')).count();
    assert!(passed >= 13, "only {passed} checks passed: {told}");
}
