//! The fleet: nodes with an API and nodes without, one database, and what stands between.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use testkit::client::BlockingClient;
use testkit::postgres::Cluster;
use turn::Transport;

use crate::fixture::{ACCOUNT, Key, LONG, Minted, Server, TOKEN, finish, start_command, turnery};
use crate::network::{HUB, Network, STORE};

const GUIDE: &str = include_str!("../../../../docs/fleet.md");
/// What nodes with an API are in the database: the owner, but no superuser.
const OWNER: &str = "turnery_fleet";
const DATABASE: &str = "fleet";
const PORT: u16 = 3_478;

/// The fleet. Nodes with an API come first.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Option<Server>>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proxy: Proxy,
    pub(crate) network: Network,
    dirs: Vec<TempDir>,
    apis: usize,
    more: Vec<Vec<String>>,
    skews: Vec<i64>,
    /// When each was started, in Unix seconds.
    started: Vec<i64>,
}

/// How a fleet is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) apis: usize,
    pub(crate) relays: usize,
    /// Flags of all nodes.
    pub(crate) more: Vec<&'static str>,
    /// How far each node's clock is ahead, in seconds; the rest are right.
    pub(crate) skews: Vec<i64>,
    /// Whether the database tells nobody of what is new.
    pub(crate) is_silent: bool,
    /// Whether the database has the keyring, and each node the key to it.
    pub(crate) is_keyring_in_store: bool,
}

impl Fleet {
    /// Two nodes with an API and three without.
    pub(crate) fn usual() -> Self {
        Self::start(&Plan { apis: 2, relays: 3, ..Plan::default() })
    }

    pub(crate) fn start(plan: &Plan) -> Self {
        let count = plan.apis + plan.relays;
        let network = Network::new(count);
        let cluster = Arc::new(Cluster::start());
        cluster.sql("postgres", &format!("CREATE ROLE {OWNER} LOGIN"));
        cluster.sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"));
        if plan.is_silent {
            cluster.sql(DATABASE, "REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC");
        }
        let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], cluster.port())));
        let mut fleet = Self {
            nodes: (0..count).map(|_| None).collect(),
            cluster,
            proxy,
            network,
            dirs: (0..count).map(|_| tempfile::tempdir().unwrap()).collect(),
            apis: plan.apis,
            more: vec![plan.more.iter().map(|it| (*it).to_owned()).collect(); count],
            skews: plan.skews.iter().copied().chain(std::iter::repeat(0)).take(count).collect(),
            started: vec![0; count],
        };
        if plan.is_keyring_in_store {
            let key = fleet.sealing_key();
            let key = key.to_str().unwrap();
            assert!(finish(turnery(&["keyring", "new-key", key])).status.success());
            let flags = ["--keyring-in-store", "--keyring-key-file", key].map(str::to_owned);
            fleet.more.iter_mut().for_each(|more| more.extend(flags.clone()));
        }
        fleet.start_node(0);
        if plan.is_silent {
            let nothing = "CREATE OR REPLACE FUNCTION turnery_wake() RETURNS trigger LANGUAGE plpgsql AS \
                           $$ BEGIN RETURN NULL; END $$";
            fleet.cluster.sql(DATABASE, nothing);
        }
        let grants = GUIDE.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
        fleet.cluster.sql(DATABASE, grants);
        let keyring = |dir: &TempDir| dir.path().join("keyring.toml");
        for index in 1..count {
            if !plan.is_keyring_in_store {
                fs::copy(keyring(&fleet.dirs[0]), keyring(&fleet.dirs[index])).unwrap();
            }
            fleet.start_node(index);
        }
        fleet
    }

    /// Starts a node that is not running.
    pub(crate) fn start_node(&mut self, index: usize) {
        let address = Network::address(index);
        let is_api = index < self.apis;
        let user = if is_api { OWNER } else { "turnery_relay" };
        let store = format!("postgres://{user}@{STORE}:{}/{DATABASE}", self.proxy.address.port());
        let (turn, host) = (format!("udp://{address}:{PORT}"), address.to_string());
        let (name, api) = (format!("node{index}"), format!("{address}:8080"));
        let dir = self.dirs[index].path().to_str().unwrap().to_owned();
        let mut args = vec!["serve", "--data-dir", &dir, "--store", &store, "--node-name", &name];
        args.extend(["--turn-listen", &turn, "--public-host", &host, "--relay-address", &host]);
        args.extend(["--allow-peer", "10.77.0.0/16", "--workers", "1"]);
        args.extend(["--max-unauthenticated-answers-per-second", "none"]);
        args.extend(if is_api { ["--api-listen", &api] } else { ["--role", "relay"] });
        args.extend(if is_api { ["--max-calls-per-address", "none"] } else { ["--metrics-listen", &api] });
        args.extend(self.more[index].iter().map(String::as_str));
        let mut command = turnery(&args);
        command.env("TURNERY_BOOTSTRAP_ACCOUNT", ACCOUNT).env("TURNERY_BOOTSTRAP_TOKEN", TOKEN);
        skew(&mut command, self.skews[index]);
        self.started[index] = unix_now();
        self.nodes[index] = Some(self.network.on(index, || start_command(command)));
    }

    pub(crate) fn node(&self, index: usize) -> &Server {
        self.nodes[index].as_ref().unwrap()
    }

    /// Where a node's relay is.
    pub(crate) fn turn_address(index: usize) -> SocketAddr {
        (Network::address(index), PORT).into()
    }

    pub(crate) fn client(index: usize, minted: &Minted) -> BlockingClient {
        let at = Self::turn_address(index);
        BlockingClient::connect(at, Transport::Udp, &minted.username, &minted.password).unwrap()
    }

    /// The code with which an Allocate at a node is refused.
    pub(crate) fn refusal(index: usize, minted: &Minted) -> Option<u16> {
        let mut client = Self::client(index, minted);
        client.set_patience(Duration::from_secs(10));
        let done = client.allocate().and_then(|_| client.refresh(0));
        done.err().map(|error| error.code().unwrap_or_else(|| panic!("node {index}: {error:?}")))
    }

    /// The nodes as a node with an API tells of them, by name.
    pub(crate) fn states(&self, asked: usize) -> Vec<(String, String)> {
        let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_nodes");
        let nodes = self.node(asked).ask("GET", &path, TOKEN, None, 200);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let nodes = nodes["result"].as_array().unwrap().iter();
        nodes.map(|node| (text(&node["name"]), text(&node["state"]))).collect()
    }

    /// Waits until a node is in this state for another one.
    pub(crate) fn until_state(&self, asked: usize, index: usize, state: &str) {
        let name = format!("node{index}");
        until(&format!("{name} is {state}"), || {
            self.states(asked).iter().any(|(it, is)| *it == name && is == state)
        });
    }

    /// How far a node's clock is ahead of this process's, in seconds: by when it says that it started.
    pub(crate) fn own_clock(&self, index: usize) -> i64 {
        let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_nodes");
        let nodes = self.node(0).ask("GET", &path, TOKEN, None, 200);
        let name = format!("node{index}");
        let node = nodes["result"].as_array().unwrap().iter().find(|node| node["name"] == *name).unwrap();
        node["started"].as_i64().unwrap() - self.started[index]
    }

    /// What was relayed of a key as far as it is recorded: packets from clients.
    pub(crate) fn ingress_packets(&self, asked: usize, key: &Key) -> u64 {
        let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_keys/{}/usage", key.uid);
        let rows = self.node(asked).ask("GET", &path, TOKEN, None, 200);
        let rows = rows["result"].as_array().unwrap().clone();
        rows.iter().map(|row| row["ingressPackets"].as_u64().unwrap()).sum()
    }

    /// Where a node has its keyring.
    pub(crate) fn keyring(&self, index: usize) -> PathBuf {
        self.dirs[index].path().join("keyring.toml")
    }

    /// Where the key is to a keyring that the database has.
    pub(crate) fn sealing_key(&self) -> PathBuf {
        self.dirs[0].path().join("keyring.key")
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut node = self.nodes[index].take().unwrap();
        node.child.0.kill().unwrap();
        node.child.0.wait().unwrap();
    }
}

/// Asks again and again, until it is so.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < 2 * LONG, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn unix_now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Another clock for a process.
fn skew(command: &mut Command, secs: i64) {
    if secs == 0 {
        return;
    }
    let found = fs::read_dir("/usr/lib").unwrap().flatten().map(|it| it.path());
    let libraries: Vec<PathBuf> = found.map(|it| it.join("faketime/libfaketime.so.1")).collect();
    let library = libraries.iter().find(|it| it.exists());
    let library = library.expect("these tests need libfaketime: apt-get install faketime");
    command.env("LD_PRELOAD", library).env("FAKETIME", format!("{secs:+}s"));
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// What stands before the database: it passes everything on, as late as it is told, or nothing.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
    hangs: Arc<AtomicBool>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((IpAddr::from(STORE), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let delay_ms = Arc::<AtomicU64>::default();
        let delay = Arc::clone(&delay_ms);
        let hangs = Arc::<AtomicBool>::default();
        let hanging = Arc::clone(&hangs);
        std::thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    to.set_nodelay(true).unwrap();
                    let (delay, hanging) = (Arc::clone(&delay), Arc::clone(&hanging));
                    std::thread::spawn(move || pass(from, to, &delay, &hanging));
                }
            }
        });
        Self { address, delay_ms, hangs }
    }

    /// Connections are taken and nothing goes through any of them from now on, or it does again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Everything takes so much longer from now on, each way.
    pub(crate) fn delay(&self, by: Duration) {
        self.delay_ms.store(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay_ms: &AtomicU64, hangs: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed)));
        while hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}

/// A peer's address for so many flows.
pub(crate) fn peer_address(port: u16) -> SocketAddr {
    (HUB, port).into()
}
