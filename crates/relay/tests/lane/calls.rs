//! A worker makes no system calls but those of its batches, few of them, and none while nobody wants anything. Needs
//! strace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::client::Family;

use crate::fixture::Running;
use crate::lanes::{over_streams, over_udp};
use crate::{alone, start, unreported};

const BATCH_CALLS: [&str; 4] = ["epoll_wait", "recvmmsg", "sendmmsg", "sendmsg"];
const BURST: usize = 32;
const ROUNDS: usize = 50;
const LONG: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(2);

/// Counts the system calls of the one worker of this process.
struct Trace {
    strace: Child,
    /// The worker's place in `/proc`.
    worker: PathBuf,
}

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
        Self { strace, worker }
    }

    /// Whether the worker waits in a call.
    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(self.worker.join("stat")).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    }

    /// How many there were, by name. The last is counted once it has returned, which may be after its packets have
    /// come: the worker waits again then.
    fn end(self) -> BTreeMap<String, usize> {
        let deadline = Instant::now() + LONG;
        while !self.sleeps() {
            assert!(Instant::now() < deadline, "the worker waits again");
            std::thread::yield_now();
        }
        kill(Pid::from_raw(self.strace.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = self.strace.wait_with_output().unwrap();
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

#[test]
fn a_burst_of_a_client_on_a_stream_takes_one_call_in_and_one_out() {
    let _alone = alone();
    let running = start();
    for stream in over_streams(&running) {
        let mut stream = stream;
        let calls = calls_during(&running, || (0..ROUNDS).for_each(|_| stream.reach_client(BURST)));
        println!("{} to the client: {} packets, {calls:?}", stream.name, ROUNDS * BURST);
        let count = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<usize>();
        assert_eq!(count(&["sendto", "write", "writev", "sendmsg", "sendmmsg"]), ROUNDS, "{calls:?}");
        assert!(calls["recvmmsg"] <= ROUNDS && calls.len() <= 3, "{}: {calls:?}", stream.name);
        let calls = calls_during(&running, || (0..ROUNDS).for_each(|_| stream.reach_peer(BURST)));
        println!("{} from the client: {} packets, {calls:?}", stream.name, ROUNDS * BURST);
        let count = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<usize>();
        assert_eq!(count(&["sendmmsg", "sendmsg"]), ROUNDS, "{}: {calls:?}", stream.name);
        assert_eq!(count(&["recvfrom", "read", "readv", "recvmsg"]), ROUNDS, "{calls:?}");
        assert!(calls.len() <= 3, "{}: {calls:?}", stream.name);
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
