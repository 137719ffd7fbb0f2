//! The servers that can be measured, each on core 0 and with one relay thread, but for a Turnery that is given more.

use std::fmt;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use credentials::{Claims, CustomIdentifier, Keyring, TurnKeyId};
use serde::Serialize;
use testkit::client::BlockingClient;
use testkit::pinned;
use turn::Transport;

use crate::idle::kilobytes;
use crate::stream::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    Turnery,
    Coturn,
    /// A bare forwarder: what is left without TURN.
    Floor,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Turnery => "turnery",
            Self::Coturn => "coturn",
            Self::Floor => "floor",
        })
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    subject: Subject,
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) username: String,
    pub(crate) password: String,
    _directory: Directory,
}

/// A directory of its own below the system's temporary one; removed when dropped.
#[derive(Debug)]
struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts it and waits until it answers. With `challenges` the floor asks for credentials, as all others do.
    pub(crate) fn start(
        subject: Subject,
        transport: Transport,
        (turnery, workers): (&Path, usize),
        challenges: bool,
    ) -> anyhow::Result<Self> {
        // Taken and let go: nobody else is after ports on this machine while it measures.
        let at = Listener { transport, address: free_address(transport)? };
        let api = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = Directory(std::env::temp_dir().join(format!("bench-relay-{}", std::process::id())));
        std::fs::create_dir_all(&directory.0)?;
        let (child, username, password) = match subject {
            Subject::Turnery => start_turnery((turnery, workers), &directory.0, at, api)?,
            Subject::Coturn => start_coturn(&directory.0, at)?,
            Subject::Floor => start_floor(at, challenges)?,
        };
        let address = at.address;
        let mut server =
            Self { child, subject, address, transport, username, password, _directory: directory };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            // A stream that nobody listens to yet is refused.
            if let Ok(mut client) = self.connect() {
                client.set_patience(Duration::from_millis(300));
                if client.binding().is_ok() {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!("the server does not answer on {}", self.address);
            }
        }
    }

    /// Whether its responses carry an integrity.
    pub(crate) fn signs(&self) -> bool {
        self.subject != Subject::Floor
    }

    /// A client that may allocate.
    fn connect(&self) -> anyhow::Result<BlockingClient> {
        Ok(BlockingClient::connect(self.address, self.transport, &self.username, &self.password)?)
    }

    /// A client with an allocation and a channel on a stream of its own, and its relayed address.
    pub(crate) fn connect_stream(&self, peer: SocketAddr, seed: u64) -> anyhow::Result<(Stream, SocketAddr)> {
        let mut stream = Stream::connect(self.address, self.transport == Transport::Tls)?;
        let relayed = stream.allocate((&self.username, &self.password), peer, seed)?;
        Ok((stream, relayed))
    }

    /// Nanoseconds of CPU time of all its threads so far.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        Ok(pinned::cpu_ns(self.child.id())?)
    }

    /// Lets it go before all others, or not any more; whether the system allows it.
    pub(crate) fn put_first(&self, first: bool) -> bool {
        pinned::put_first(self.child.id(), first)
    }

    /// Bytes of it that are in memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        kilobytes(&text, "Rss:").context("smaps_rollup without Rss")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the server listens, and how.
#[derive(Debug, Clone, Copy)]
struct Listener {
    transport: Transport,
    address: SocketAddr,
}

fn free_address(transport: Transport) -> std::io::Result<SocketAddr> {
    if transport.is_stream() {
        TcpListener::bind("127.0.0.1:0")?.local_addr()
    } else {
        UdpSocket::bind("127.0.0.1:0")?.local_addr()
    }
}

/// Puts a certificate with an ECDSA key there; the certificate's and the key's file.
fn certificate_in(directory: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let files = ["cert.pem", "key.pem"].map(|name| directory.join(name));
    for (file, text) in files.iter().zip([made.cert.pem(), made.signing_key.serialize_pem()]) {
        std::fs::write(file, text)?;
    }
    Ok(files)
}

fn start_turnery(
    (binary, workers): (&Path, usize),
    directory: &Path,
    at: Listener,
    api: SocketAddr,
) -> anyhow::Result<(Child, String, String)> {
    if !binary.exists() {
        bail!("{} does not exist: run `cargo build --release` first", binary.display());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let keyring = Keyring::generate(now)?;
    std::fs::write(directory.join("keyring.toml"), keyring.to_text().as_bytes())?;
    let claims = Claims {
        key: TurnKeyId::from_bytes([1; 16]),
        issued_at: now,
        ttl_secs: 3_600,
        custom_identifier: CustomIdentifier::default(),
    };
    let credential = keyring.mint(&claims)?;
    let listener = format!("{}://{}", at.transport.label(), at.address);
    let mut command = pinned::command(binary, format!("0-{}", workers - 1));
    command
        .args([
            "serve",
            "--workers",
            &workers.to_string(),
            "--relay-address",
            "127.0.0.1",
            "--allow-peer",
            "127.0.0.0/8",
        ])
        .arg("--data-dir")
        .arg(directory)
        .args(["--api-listen", &api.to_string(), "--turn-listen", &listener]);
    if at.transport.is_secured() {
        let [certificate, key] = certificate_in(directory)?;
        command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
    }
    let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
    Ok((child, credential.username, credential.password))
}

fn start_coturn(directory: &Path, at: Listener) -> anyhow::Result<(Child, String, String)> {
    let port = at.address.port().to_string();
    let mut command = pinned::command(Path::new("turnserver"), 0);
    match at.transport {
        Transport::Udp | Transport::Dtls => command.args(["--no-tls", "--no-tcp", "--listening-port", &port]),
        Transport::Tcp => command.args(["--no-tls", "--no-udp", "--listening-port", &port]),
        Transport::Tls => {
            let [certificate, key] = certificate_in(directory)?;
            command.args(["--no-udp", "--no-tcp", "--tls-listening-port", &port]);
            command.arg("--cert").arg(certificate).arg("--pkey").arg(key)
        }
    };
    let child = command
        .args(["-n", "--no-dtls", "--no-cli", "--relay-threads", "1"])
        .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--allow-loopback-peers"])
        .args(["--lt-cred-mech", "--realm", "turnery", "--user", "bench:bench"])
        .args(["--no-stdout-log", "--log-file", "/dev/null"])
        .spawn()
        .context("starting turnserver (of Debian's package coturn)")?;
    Ok((child, "bench".to_owned(), "bench".to_owned()))
}

/// This very program, in another role.
fn start_floor(at: Listener, challenges: bool) -> anyhow::Result<(Child, String, String)> {
    if at.transport != Transport::Udp {
        bail!("the floor is there for UDP only");
    }
    let mut command = pinned::command(&std::env::current_exe()?, 0);
    command.args(["floor", &at.address.to_string()]);
    if challenges {
        command.arg("--challenges");
    }
    let child = command.spawn().context("starting the floor")?;
    Ok((child, "bench".to_owned(), "bench".to_owned()))
}
