//! A worker makes no system calls but those of its batches, few of them, and none while nobody wants anything. Needs
//! strace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use nix::unistd::Pid;
use testkit::client::Family;

use crate::fixture::{LONG, Running, peer};
use crate::lanes::over_udp;
use crate::{alone, start, unreported};

const BATCH_CALLS: [&str; 4] = ["epoll_wait", "recvmmsg", "sendmmsg", "sendmsg"];
const BURST: usize = 32;
const ROUNDS: usize = 50;
const IDLE: Duration = Duration::from_secs(2);

/// Counts the system calls of the one worker of this process.
struct Trace(Child);

impl Trace {
    fn begin() -> Self {
        let threads = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let is_worker = |name: String| name == "relay-0\n";
        let worker = threads
            .into_iter()
            .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(is_worker))
            .expect("a worker runs");
        let mut strace = Command::new("strace")
            .args(["-c", "-U", "name,calls", "-p", worker.file_name().unwrap().to_str().unwrap()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut told = String::new();
        BufReader::with_capacity(1, strace.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
        assert!(told.contains("attached"), "this test needs root (CAP_SYS_PTRACE): {told}");
        Self(strace)
    }

    /// How many there were, by name.
    fn end(self) -> BTreeMap<String, usize> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = self.0.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let rows = told.lines().filter_map(|line| {
            let (name, calls) = line.trim().split_once(' ')?;
            Some((name.to_owned(), calls.trim().parse().ok()?))
        });
        rows.filter(|(name, _)| name != "total").collect()
    }
}

fn calls_during(running: &Running, mut load: impl FnMut()) -> BTreeMap<String, usize> {
    unreported(running, || {
        let trace = Trace::begin();
        load();
        trace.end()
    })
}

/// Only these calls were made, and at most so many.
fn check(what: &str, calls: &BTreeMap<String, usize>, most: usize) {
    let are_of_batches = calls.keys().all(|name| BATCH_CALLS.contains(&name.as_str()));
    assert!(are_of_batches && calls.values().sum::<usize>() <= most, "{what}, at most {most}: {calls:?}");
}

#[test]
fn packets_take_only_the_calls_of_their_batches() {
    let _alone = alone();
    let running = start();
    for family in [Family::V4, Family::V6] {
        for lane in over_udp(&running, family) {
            lane.pass(BURST);
            let calls = calls_during(&running, || (0..ROUNDS).for_each(|_| lane.pass(BURST)));
            println!("{} {family:?}: {} packets, {calls:?}", lane.name, ROUNDS * BURST);
            check(lane.name, &calls, ROUNDS * BURST / 4);
            assert!(calls["recvmmsg"] > 0, "calls are counted");
            // One by one, each with an answer waited for: wait, receive, send. A little more where it looks again.
            let calls = calls_during(&running, || (0..ROUNDS).for_each(|_| lane.pass(1)));
            check(lane.name, &calls, 3 * ROUNDS * lane.sent_for(1) + 10);
        }
    }
}

/// Sends a burst of equal datagrams, which arrive together.
fn send_burst(from: &UdpSocket, to: SocketAddr) {
    let bytes = [7; BURST * 160];
    let to: SockaddrStorage = to.into();
    let cut = [ControlMessage::UdpGsoSegments(&160)];
    let sent =
        sendmsg(from.as_raw_fd(), &[IoSlice::new(&bytes)], &cut, MsgFlags::empty(), Some(&to)).unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn a_burst_for_a_client_on_a_stream_leaves_in_one_call() {
    let _alone = alone();
    let running = start();
    for (listener, name) in [(2, "TCP"), (3, "TLS")] {
        let peer = peer("127.0.0.1:0");
        let to = peer.local_addr().unwrap();
        let mut client = running.connect(listener, &running.credential(600));
        client.allocate().unwrap();
        client.channel_bind(to).unwrap();
        client.send_to(to, b"here").unwrap();
        let (_, relayed) = peer.recv_from(&mut [0; 200]).unwrap();
        let calls = calls_during(&running, || {
            for _ in 0..ROUNDS {
                send_burst(&peer, relayed);
                for _ in 0..BURST {
                    assert!(client.recv(LONG).unwrap().is_some());
                }
            }
        });
        println!("{name}: {} packets, {calls:?}", ROUNDS * BURST);
        let writes = ["sendto", "write", "writev", "sendmsg"].iter().filter_map(|name| calls.get(*name));
        assert_eq!(writes.sum::<usize>(), ROUNDS, "{name}: {calls:?}");
    }
}

#[test]
fn nothing_happens_while_nobody_wants_anything() {
    let _alone = alone();
    let running = start();
    let idle = || std::thread::sleep(IDLE);
    check("without allocations", &calls_during(&running, idle), 0);
    let _allocations = over_udp(&running, Family::V4);
    // Usage is looked through from time to time.
    check("idle allocations", &calls_during(&running, idle), 4);
}
