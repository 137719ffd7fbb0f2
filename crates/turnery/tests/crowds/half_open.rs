//! What a TLS connection costs the server: many whose handshake does not end, and many that are silent after it. What
//! they took comes back, and clients are served meanwhile.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use testkit::client::BlockingClient;
use testkit::tls::{client_hello, shake_hands};
use turn::Transport;

use crate::fixture::{LONG, Server, echo_peer, known, relays, start_command};

const CONNECTIONS: u32 = 10_000;
/// As many as must be tried where the system does not let a process have more open files.
const AT_LEAST: u32 = 2_000;
/// Files that other tests of this process may have open meanwhile.
const SPARE_FILES: u64 = 1_000;
/// The server takes no more than 1,024 connections from one address.
const PER_SOURCE: u32 = 500;
/// The most that a connection may cost the server on average, in bytes, beside what the system itself keeps for it.
const MOST_BYTES: u64 = 4 << 10;
/// What the server may take for other things meanwhile, in KiB.
const SLACK_KIB: u64 = 2 << 10;
const IDLE: u32 = 1_000;
const TLS: [&str; 5] = ["--dev", "--turn-listen", "tls://127.0.0.1:0", "--workers", "1"];

/// How many connections this process, and the server that it starts, can have.
fn affordable() -> u32 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let count = CONNECTIONS.min(u32::try_from(hard.saturating_sub(SPARE_FILES)).unwrap_or(u32::MAX));
    assert!(count >= AT_LEAST, "{hard} open files are too few for this test: ulimit -Hn");
    count
}

/// A connection from one of many addresses of this machine.
fn connect(server: SocketAddr, number: u32) -> TcpStream {
    let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number / PER_SOURCE);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from((source, 0)))).unwrap();
    socket.connect_timeout(&server.into(), LONG).unwrap();
    socket.into()
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The connections that the server has open, with a client's or without.
fn open_at(server: &Server) -> u32 {
    let mut response = ureq::get(format!("{}/metrics", server.api)).call().unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("turnery_client_connections ")).unwrap();
    line.parse().unwrap()
}

fn echoes(client: &mut BlockingClient, peer: SocketAddr) {
    client.send_to(peer, b"meanwhile").unwrap();
    assert_eq!(client.recv(LONG).unwrap().expect("an echo").1, b"meanwhile");
}

#[test]
fn ten_thousand_half_open_handshakes_cost_little_and_end() {
    let _alone = crate::alone();
    let count = affordable();
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &TLS));
    let listener = server.listener(Transport::Tls);
    let minted = server.mint(&server.create_key(), 600);
    let peer = echo_peer();
    let mut client = server.client(Transport::Tls, &minted);
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    relays(&mut server.client(Transport::Tls, &minted));
    let hello = client_hello().unwrap();
    // Nothing; a record's header and no more; half a hello; a whole one, which is answered and then waited for.
    let begun = [0, 5, hello.len() / 2, hello.len()].map(|length| &hello[..length]);
    let before = resident_kib(&server);
    let started = Instant::now();
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream = connect(listener, number);
        stream.write_all(begun[number as usize % begun.len()]).unwrap();
        held.push(stream);
        if number % 500 == 0 {
            echoes(&mut client, peer);
        }
        if number % 2_000 == 0 {
            relays(&mut server.client(Transport::Tls, &minted));
        }
    }
    // On a busy machine the first have been closed by now.
    let (most, open) = (resident_kib(&server), open_at(&server));
    relays(&mut server.client(Transport::Tls, &minted));
    while open_at(&server) > 1 {
        assert!(started.elapsed() < 3 * LONG, "{} are still open", open_at(&server));
        std::thread::sleep(Duration::from_millis(100));
        echoes(&mut client, peer);
    }
    let after = resident_kib(&server);
    let took = most - before;
    println!(
        "{count} half-open connections: VmRSS {before} KiB, {most} KiB with {open} of them, {after} KiB after {} s",
        started.elapsed().as_secs()
    );
    assert!(open > count / 2 && took < u64::from(open) * MOST_BYTES / 1_024 + SLACK_KIB, "{took} KiB");
    assert!(after < before + took / 4 + SLACK_KIB, "{before} KiB, {most} KiB, and then {after} KiB");
    drop(held);
    let log = server.end().1;
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn an_idle_connection_costs_less_than_4_kib() {
    let _alone = crate::alone();
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &TLS));
    let listener = server.listener(Transport::Tls);
    let connect = |count| (0..count).map(|_| shake_hands(listener).unwrap()).collect::<Vec<_>>();
    drop(connect(IDLE / 10));
    let before = resident_kib(&server);
    let held = connect(IDLE);
    let after = resident_kib(&server);
    let bytes = (after - before) * 1_024 / u64::from(IDLE);
    println!("{IDLE} idle TLS connections: VmRSS {before} KiB, then {after} KiB: {bytes} bytes each");
    assert!(bytes < MOST_BYTES, "{before} KiB, then {after} KiB: {bytes} bytes each");
    drop(held);
}
