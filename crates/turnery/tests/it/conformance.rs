//! The conformance suite against the real binary: it judges any server from outside, this one too.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use stun::channel_data;
use turn::Transport;

use crate::fixture::{LONG, Minted, Server, finish, finish_within, known, start_command};

/// A binary of another package: cargo builds it, if the same build has not done so already. All of the
/// workspace, for a part would be built with other features, and with it everything it depends on.
pub(crate) fn built(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--workspace", "--no-run"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success(), "cargo could not build the workspace");
    // Beside this very binary: target/debug/conformance beside target/debug/turnery.
    PathBuf::from(env!("CARGO_BIN_EXE_turnery")).with_file_name(name)
}

/// Runs the whole suite over one transport, and sees that it holds.
fn check_all(suite: &Path, server: &Server, transport: Transport, name: &str) {
    let key = server.create_key();
    let (user, other) = (server.mint(&key, 7_200), server.mint(&key, 7_200));
    let mut command = Command::new(suite);
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

#[test]
fn every_requirement_holds_over_udp_tcp_tls_and_dtls() {
    let suite = built("conformance");
    let dir = tempfile::tempdir().unwrap();
    let tls = ["--turn-listen", "tls://127.0.0.1:0", "--turn-listen", "dtls://127.0.0.1:0"];
    let server = start_command(known(dir.path(), &[&["--dev", "--strict-channels"], &tls[..]].concat()));
    for (transport, name) in
        [(Transport::Udp, "udp"), (Transport::Tcp, "tcp"), (Transport::Tls, "tls"), (Transport::Dtls, "dtls")]
    {
        check_all(&suite, &server, transport, name);
    }
}

/// Sends trains through a channel and back for as long as it may; how many packets were relayed.
fn relay_trains(server: &Server, user: &Minted, go_on: &AtomicBool) -> u64 {
    const COUNT: usize = 32;
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(LONG)).unwrap();
    let mut client = server.client(Transport::Udp, user);
    let relayed = client.allocate().unwrap();
    let channel = client.channel_bind(peer.local_addr().unwrap()).unwrap();
    let socket = client.into_udp_socket().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let send = |socket: &UdpSocket, bytes: &[u8], size: u16, to: Option<SocketAddr>| {
        let to = to.map(SockaddrStorage::from);
        let control = [ControlMessage::UdpGsoSegments(&size)];
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), to.as_ref())
            .unwrap();
    };
    let mut relayed_packets = 0;
    for round in 0..u64::MAX {
        if !go_on.load(Ordering::Relaxed) {
            break;
        }
        let data: Vec<[u8; 160]> = (0..COUNT as u64)
            .map(|n| {
                let mut data = [0; 160];
                data[..8].copy_from_slice(&(round << 8 | n).to_be_bytes());
                data
            })
            .collect();
        let frames = data.iter().flat_map(|data| channel_data::header(channel, 160).into_iter().chain(*data));
        send(&socket, &frames.collect::<Vec<u8>>(), 164, None);
        send(&peer, &data.concat(), 160, Some(relayed));
        for data in &data {
            let mut buffer = [0; 200];
            assert_eq!(peer.recv(&mut buffer).unwrap(), 160);
            assert_eq!(buffer[..160], *data);
            assert_eq!(socket.recv(&mut buffer).unwrap(), 164);
            assert_eq!(buffer[4..164], *data);
        }
        relayed_packets += 2 * data.len() as u64;
    }
    relayed_packets
}

#[test]
fn every_requirement_holds_while_others_relay_at_full_speed() {
    let suite = built("conformance");
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev", "--strict-channels"]));
    let user = server.mint(&server.create_key(), 7_200);
    let (go_on, begun) = (AtomicBool::new(true), Instant::now());
    let relayed: u64 = std::thread::scope(|scope| {
        let load = || scope.spawn(|| relay_trains(&server, &user, &go_on));
        let loads = [load(), load(), load()];
        let checked = scope.spawn(|| check_all(&suite, &server, Transport::Udp, "udp")).join();
        go_on.store(false, Ordering::Relaxed);
        let relayed = loads.map(|load| load.join().expect("nothing is lost, changed or out of order"));
        checked.expect("every requirement holds");
        relayed.iter().sum()
    });
    let rate = relayed / begun.elapsed().as_secs().max(1);
    println!("{relayed} packets, {rate} in a second");
    assert!(rate > 2_000, "{rate} packets in a second are no load");
}

#[test]
fn rfc5780_every_requirement_holds_where_discovery_is_offered() {
    let suite = built("conformance");
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
