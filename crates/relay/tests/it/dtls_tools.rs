//! DTLS with other people's clients: OpenSSL's, and coturn's on top of it.

use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::dtls::binding;
use crate::fixture::{Running, config};

const CLIENTS: u32 = 20;
const MESSAGES: u32 = 50;

struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(name: &str, package: &str, flags: &[&str]) -> Started {
    let mut command = Command::new(name);
    command.args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Started(child),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{name} is missing: apt-get install {package}")
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Runs to the end with nothing on standard input; what it said.
fn finish(mut started: Started) -> String {
    drop(started.0.stdin.take());
    let mut told = String::new();
    started.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    started.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    told
}

#[test]
fn openssl_shakes_hands_asks_and_says_farewell() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let address = running.listeners[0].address.to_string();
    let client = ["s_client", "-dtls1_2", "-connect", &address];
    let told = finish(start("openssl", "openssl", &client));
    assert!(told.contains("New, TLSv1.2, Cipher is ECDHE-ECDSA-AES"), "{told}");
    running.wait_for("it says farewell", |totals| totals.sessions == 0);
    // A hello in fragments, on a path that is as narrow as it may be.
    let name = ["a"; 63].concat();
    let name = [&*name, &*name, &*name, "example"].join(".");
    let told =
        finish(start("openssl", "openssl", &[&client[..], &["-mtu", "256", "-servername", &name]].concat()));
    assert!(told.contains("New, TLSv1.2, Cipher is ECDHE-ECDSA-AES"), "{told}");

    let mut quiet = start("openssl", "openssl", &[&client[..], &["-quiet"]].concat());
    quiet.0.stdin.as_mut().unwrap().write_all(&binding()).unwrap();
    let mut answer = [0; 20];
    quiet.0.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    assert_eq!((&answer[..2], &answer[8..]), (&[1, 1][..], &binding()[8..]));
}

/// Sends everything back until the test ends.
fn echo(socket: &UdpSocket, ended: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 2_048];
    while !ended.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// The number that follows `label` on the last line that has it.
fn number_after(text: &str, label: &str) -> Option<u32> {
    let rest = text.lines().rev().find_map(|line| line.split(label).nth(1))?;
    rest.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[test]
fn coturns_client_loses_no_packet_within_dtls() {
    let mut config = config(&["dtls://127.0.0.1:0"]);
    // It takes numbers that RFC 8656 does not have any more.
    config.turn.strict_channels = false;
    let running = Running::start(config);
    let credential = running.credential(600);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let [port, peer_port] =
        [running.listeners[0].address, peer.local_addr().unwrap()].map(|it| it.port().to_string());
    let (clients, messages) = (CLIENTS.to_string(), MESSAGES.to_string());
    let common = ["-S", "-u", &credential.username, "-w", &credential.password, "-p", &port];
    let load = ["-L", "127.0.0.1", "-e", "127.0.0.1", "-r", &peer_port, "-l", "170", "-z", "5"];
    let amount = ["-n", &messages, "-m", &clients];
    let ended = AtomicBool::new(false);
    // ChannelData, Send, both without RTCP, whose peer would be at another port, and from client to client.
    let runs: [&[&str]; 3] = [&["-c"], &["-s", "-c"], &["-y"]];
    std::thread::scope(|scope| {
        scope.spawn(|| echo(&peer, &ended));
        let started = runs.map(|flags| {
            let flags = [&common[..], &load, &amount, flags, &["127.0.0.1"]].concat();
            start("turnutils_uclient", "coturn", &flags)
        });
        let told = started.map(finish);
        ended.store(true, Ordering::Relaxed);
        for (told, flags) in told.iter().zip(runs) {
            let (sent, received) =
                (number_after(told, "tot_send_msgs="), number_after(told, "tot_recv_msgs="));
            assert_eq!(number_after(told, "Total lost packets "), Some(0), "{flags:?}: {told}");
            assert!(sent.is_some_and(|sent| sent >= MESSAGES * CLIENTS), "{flags:?}: {told}");
            assert_eq!(sent, received, "{flags:?}: {told}");
        }
    });
}
