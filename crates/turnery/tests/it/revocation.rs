//! What ends a credential ends the traffic that runs on it within a second, while its client keeps sending.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use turn::Transport;

use crate::fixture::{
    Key, LONG, LOOPBACK, Minted, Server, SharedSecret, TOKEN, finish, keys_path, known, revoke_path,
    secrets_path, start, start_command, turnery,
};

const INTERVAL: Duration = Duration::from_millis(5);
/// How long a peer waits for a packet before it looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);
const MESSAGE: &[u8] = b"still here";
/// What is promised, and how long silence is watched for after that.
const CUT_WITHIN_MS: u64 = 1_000;
const WATCHED_MS: u64 = 1_800;
/// Packets that must have arrived before anything is cut.
const ALIVE: u64 = 40;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// How a client reaches its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through a channel, from a client on this transport.
    Channel(Transport),
    /// Through a data connection of a TCP allocation. RFC 6062.
    DataConnection,
}

impl Way {
    /// Every way.
    const ALL: [Self; 3] =
        [Self::Channel(Transport::Udp), Self::Channel(Transport::Tcp), Self::DataConnection];

    fn transport(self) -> Transport {
        match self {
            Self::Channel(transport) => transport,
            Self::DataConnection => Transport::Tcp,
        }
    }
}

/// A client that sends until it is dropped, and what its peer sees of it.
struct Flow {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    last_ms: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Flow {
    fn start(server: &Server, way: Way, minted: &Minted) -> Self {
        let flow = match way {
            Way::Channel(transport) => Self::through_channel(server, transport, minted),
            Way::DataConnection => Self::through_data_connection(server, minted),
        };
        flow.wait_until_alive();
        flow
    }

    fn through_channel(server: &Server, transport: Transport, minted: &Minted) -> Self {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(POLL)).unwrap();
        let address = peer.local_addr().unwrap();
        let mut client = server.client(transport, minted);
        client.allocate().unwrap();
        client.channel_bind(address).unwrap();
        Self::run(
            // Over TCP the connection may be closed: that is one way of being cut.
            move || drop(client.send_to(address, MESSAGE)),
            move || peer.recv_from(&mut [0; 64]).is_ok(),
        )
    }

    fn through_data_connection(server: &Server, minted: &Minted) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = server.client(Transport::Tcp, minted);
        client.allocate_tcp().unwrap();
        let connection = client.connect_peer(listener.local_addr().unwrap()).unwrap();
        let (mut near, _) = client.data_connection(connection).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(POLL)).unwrap();
        Self::run(
            move || {
                // The allocation lives as long as the control connection.
                let _ = (&client, near.write_all(MESSAGE));
            },
            move || match far.read(&mut [0; 64]) {
                Ok(length) => length > 0,
                Err(error) => {
                    let is_cut = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                    assert!(is_cut || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                    false
                }
            },
        )
    }

    /// Calls both again and again, each on a thread of its own; the second tells whether something arrived.
    fn run(
        mut send: impl FnMut() + Send + 'static,
        mut receive: impl FnMut() -> bool + Send + 'static,
    ) -> Self {
        let (stop, count, last_ms) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (stopped, ended) = (Arc::clone(&stop), Arc::clone(&stop));
        let (counted, last) = (Arc::clone(&count), Arc::clone(&last_ms));
        let sender = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                send();
                std::thread::sleep(INTERVAL);
            }
        });
        let receiver = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if receive() {
                    last.store(now_ms(), Ordering::Relaxed);
                    counted.fetch_add(1, Ordering::Relaxed);
                } else {
                    // A connection that is cut tells so at once, again and again.
                    std::thread::sleep(INTERVAL);
                }
            }
        });
        Self { stop, count, last_ms, threads: vec![sender, receiver] }
    }

    fn wait_until_alive(&self) {
        let (begun, before) = (now_ms(), self.count.load(Ordering::Relaxed));
        while self.count.load(Ordering::Relaxed) < before + ALIVE {
            assert!(now_ms() - begun < 10_000, "the flow does not flow");
            std::thread::sleep(INTERVAL);
        }
    }

    /// Watches it fall silent after `cut_ms`, unix milliseconds.
    fn check_cut(&self, cut_ms: u64, what: &str) {
        let last = || self.last_ms.load(Ordering::Relaxed);
        while now_ms() < cut_ms + WATCHED_MS {
            std::thread::sleep(INTERVAL);
        }
        let last = last();
        println!(
            "{what}: the last packet arrived {} ms after the cut",
            i128::from(last) - i128::from(cut_ms)
        );
        assert!(last + 500 > cut_ms, "{what}: it was silent before the cut");
        assert!(last <= cut_ms + CUT_WITHIN_MS, "{what}: packets {} ms after the cut", last - cut_ms);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Cuts a flow of every way; another key's flow must go on.
fn check(what: &str, cut: impl Fn(&Server, &Key, &Minted)) {
    check_flows(
        what,
        |server, key| (server.mint(key, 600), ()),
        |server, key, minted, ()| cut(server, key, minted),
    );
}

/// The same for what is minted with a shared secret.
fn check_time_limited(what: &str, cut: impl Fn(&Server, &Key, &Minted, &SharedSecret)) {
    let mint = |server: &Server, key: &Key| {
        let secret = server.add_secret(key);
        (secret.mint(600), secret)
    };
    check_flows(what, mint, |server, key, minted, secret| cut(server, key, minted, &secret));
}

fn check_flows<S>(
    what: &str,
    mint: impl Fn(&Server, &Key) -> (Minted, S),
    cut: impl Fn(&Server, &Key, &Minted, S),
) {
    let server = start();
    let (key, other) = (server.create_key(), server.create_key());
    let bystander = Flow::start(&server, Way::Channel(Transport::Udp), &server.mint(&other, 600));
    for way in Way::ALL {
        let key = if way == Way::ALL[0] { key.clone() } else { server.create_key() };
        let (minted, with) = mint(&server, &key);
        let flow = Flow::start(&server, way, &minted);
        cut(&server, &key, &minted, with);
        flow.check_cut(now_ms(), &format!("{what}, {way:?}"));
        assert_eq!(server.refusal(way.transport(), &minted), Some(401), "{what}, {way:?}");
    }
    bystander.wait_until_alive();
}

#[test]
fn a_revoked_credential() {
    check("revoke", |server, key, minted| {
        server.ask("POST", &revoke_path(key, minted), &key.secret, None, 204);
    });
}

#[test]
fn a_deleted_key() {
    check("delete the key", |server, key, _| {
        server.ask("DELETE", &format!("{}/{}", keys_path(), key.uid), TOKEN, None, 200);
    });
}

#[test]
fn a_suspended_key() {
    check("suspend the key", |server, key, _| {
        server.ask("POST", &format!("{}/{}/suspend", keys_path(), key.uid), TOKEN, None, 200);
    });
}

#[test]
fn a_key_suspended_by_another_process_until_it_is_resumed() {
    let run = |server: &Server, action: &str, key: &Key| {
        let dir = server.data_dir();
        let output = finish(turnery(&["key", action, &key.uid, "--data-dir", dir.to_str().unwrap()]));
        assert!(output.status.success(), "{output:?}");
    };
    check("suspend the key from the shell", |server, key, _| run(server, "suspend", key));
    let server = start();
    let key = server.create_key();
    let minted = server.mint(&key, 600);
    server.ask("POST", &format!("{}/{}/suspend", keys_path(), key.uid), TOKEN, None, 200);
    assert_eq!(server.refusal(Transport::Udp, &minted), Some(401));
    run(&server, "resume", &key);
    let begun = now_ms();
    while server.refusal(Transport::Udp, &minted).is_some() {
        assert!(now_ms() < begun + 1_000, "resumed within a second");
    }
}

#[test]
fn many_credentials_at_once() {
    let revoke = |server: &Server, key: &Key, body: String| {
        let path = format!("/v1/turn/keys/{}/credentials/revoke", key.uid);
        server.ask("POST", &path, &key.secret, Some(&body), 204);
    };
    let identifier = || r#"{"customIdentifier":""}"#.to_owned();
    let issued = || format!(r#"{{"issuedBefore":{}}}"#, now_ms() / 1_000 + 1);
    check("revoke a customIdentifier", |server, key, _| revoke(server, key, identifier()));
    check("revoke what was issued", |server, key, _| revoke(server, key, issued()));
    let server = start();
    let key = server.create_key();
    let bodies: [&dyn Fn() -> String; 3] = [&identifier, &issued, &issued];
    for body in bodies {
        let minted = server.mint(&key, 600);
        revoke(&server, &key, body());
        assert_eq!(server.refusal(Transport::Udp, &minted), Some(401));
        let next = server.mint(&key, 600);
        assert_eq!(server.refusal(Transport::Udp, &next), None, "what is minted next is good");
    }
}

#[test]
fn a_key_deleted_by_another_process() {
    check("delete the key from the shell", |server, key, _| {
        let dir = server.data_dir();
        let output = finish(turnery(&["key", "delete", &key.uid, "--data-dir", dir.to_str().unwrap()]));
        assert!(output.status.success(), "{output:?}");
    });
}

/// The same where the system tells nobody that a file was written to.
#[test]
fn a_key_deleted_by_another_process_that_nobody_tells_of() {
    let dir = tempfile::tempdir().unwrap();
    let serve = known(dir.path(), &LOOPBACK);
    // No process in a user namespace of its own may watch files.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c"]);
    command.arg("echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"");
    command.arg(serve.get_program()).args(serve.get_args()).env_clear();
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = start_command(command);
    let key = server.create_key();
    let minted = server.mint(&key, 600);
    let flow = Flow::start(&server, Way::Channel(Transport::Udp), &minted);
    let output = finish(turnery(&["key", "delete", &key.uid, "--data-dir", dir.path().to_str().unwrap()]));
    assert!(output.status.success(), "{output:?}");
    flow.check_cut(now_ms(), "delete the key, untold");
    assert!(server.log().contains("nobody tells what is new in the store"), "{}", server.log());
}

#[test]
fn a_revoked_time_limited_username() {
    check_time_limited("revoke a time-limited username", |server, key, minted, _| {
        server.ask("POST", &revoke_path(key, minted), &key.secret, None, 204);
    });
}

#[test]
fn a_removed_shared_secret() {
    check_time_limited("remove the shared secret", |server, key, _, secret| {
        let path = format!("{}/{}", secrets_path(key), secret.id);
        server.ask("DELETE", &path, TOKEN, None, 200);
    });
}

#[test]
fn a_shared_secret_removed_by_another_process() {
    check_time_limited("remove the shared secret from the shell", |server, key, _, secret| {
        let dir = server.data_dir();
        let args = ["key", "secret", "remove", &key.uid, &secret.id, "--data-dir", dir.to_str().unwrap()];
        let output = finish(turnery(&args));
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn a_deleted_key_and_what_its_secrets_minted() {
    check_time_limited("delete the key of a shared secret", |server, key, _, _| {
        server.ask("DELETE", &format!("{}/{}", keys_path(), key.uid), TOKEN, None, 200);
    });
}

#[test]
fn an_expired_credential() {
    let server = start();
    let key = server.create_key();
    let secret = server.add_secret(&key);
    for (way, time_limited) in Way::ALL.map(|way| (way, false)).into_iter().chain([(Way::ALL[0], true)]) {
        let minted = if time_limited { secret.mint(3) } else { server.mint(&key, 3) };
        // The time of issue is a whole second that has begun.
        let expires_ms = (now_ms() / 1_000 + 3) * 1_000;
        let flow = Flow::start(&server, way, &minted);
        flow.check_cut(expires_ms, &format!("expiry, {way:?}"));
        assert_eq!(server.refusal(way.transport(), &minted), Some(401));
    }
}

#[test]
fn a_revocation_outlives_a_restart() {
    let mut server = start();
    let key = server.create_key();
    let (revoked, kept) = (server.mint(&key, 600), server.mint(&key, 600));
    let (removed, secret) = (server.add_secret(&key), server.add_secret(&key));
    server.ask("POST", &revoke_path(&key, &revoked), &key.secret, None, 204);
    server.ask("DELETE", &format!("{}/{}", secrets_path(&key), removed.id), TOKEN, None, 200);
    let dir = server.dir.take().unwrap();
    server.child.0.kill().unwrap();
    server.child.wait(LONG).unwrap();
    let again = crate::fixture::start_command(crate::fixture::known(dir.path(), &crate::fixture::LOOPBACK));
    assert_eq!(again.refusal(Transport::Udp, &revoked), Some(401));
    assert_eq!(again.refusal(Transport::Udp, &kept), None);
    // Settings, too, are known before the first client.
    assert_eq!(again.refusal(Transport::Udp, &secret.mint(600)), None);
    assert_eq!(again.refusal(Transport::Udp, &removed.mint(600)), Some(401));
}
