//! The servers that can be measured, each on core 0 and with one relay thread.

use std::fmt;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use credentials::{Claims, CustomIdentifier, Keyring, TurnKeyId};
use serde::Serialize;
use testkit::client::BlockingClient;
use turn::Transport;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    Turnery,
    Coturn,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turnery => "turnery",
            Self::Coturn => "coturn",
        })
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Tester {
    child: Child,
    pub(crate) address: SocketAddr,
    username: String,
    password: String,
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

/// Lets a process run on one core only.
pub(crate) fn pin_to_core(pid: u32, core: usize) -> anyhow::Result<()> {
    let status = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &pid.to_string()])
        .stdout(Stdio::null())
        .status()
        .context("running taskset (of util-linux)")?;
    if !status.success() {
        bail!("taskset could not pin process {pid} to core {core}");
    }
    Ok(())
}

impl Tester {
    pub(crate) fn start(subject: Subject, turnery: &Path) -> anyhow::Result<Self> {
        // Taken and let go: nobody else is after ports on this machine while it measures.
        let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let api = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = Directory(std::env::temp_dir().join(format!("bench-relay-{}", std::process::id())));
        std::fs::create_dir_all(&directory.0)?;
        let (child, username, password) = match subject {
            Subject::Turnery => start_turnery(turnery, &directory.0, udp, api)?,
            Subject::Coturn => start_coturn(udp)?,
        };
        let mut tester = Self { child, address: udp, username, password, _directory: directory };
        tester.wait_until_it_answers()?;
        Ok(tester)
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            let mut client = self.connect()?;
            client.set_patience(Duration::from_millis(300));
            if client.binding().is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the server does not answer on {}", self.address);
            }
        }
    }

    /// A client that may allocate.
    pub(crate) fn connect(&self) -> anyhow::Result<BlockingClient> {
        Ok(BlockingClient::connect(self.address, Transport::Udp, &self.username, &self.password)?)
    }

    /// Nanoseconds of CPU time of all its threads so far, by the scheduler's own accounting.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(sum)
    }
}

impl Drop for Tester {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn on_core_0(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0"]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn start_turnery(
    binary: &Path,
    directory: &Path,
    udp: SocketAddr,
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
    let child = on_core_0(binary)
        .args(["serve", "--workers", "1", "--relay-address", "127.0.0.1", "--allow-peer", "127.0.0.0/8"])
        .arg("--data-dir")
        .arg(directory)
        .args(["--api-listen", &api.to_string(), "--turn-listen", &format!("udp://{udp}")])
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))?;
    Ok((child, credential.username, credential.password))
}

fn start_coturn(udp: SocketAddr) -> anyhow::Result<(Child, String, String)> {
    let child = on_core_0(Path::new("turnserver"))
        .args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--no-tcp", "--relay-threads", "1"])
        .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--allow-loopback-peers"])
        .args(["--listening-port", &udp.port().to_string()])
        .args(["--lt-cred-mech", "--realm", "turnery", "--user", "bench:bench"])
        .args(["--no-stdout-log", "--log-file", "/dev/null"])
        .spawn()
        .context("starting turnserver (of Debian's package coturn)")?;
    Ok((child, "bench".to_owned(), "bench".to_owned()))
}
