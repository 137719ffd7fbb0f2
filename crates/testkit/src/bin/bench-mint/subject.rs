//! The servers that can be measured, each on core 0.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use axum::routing::get;
use serde::Serialize;
use testkit::pinned;

const ACCOUNT: &str = "00112233445566778899aabbccddeeff";
const TOKEN: &str = "a-token-for-this-benchmark-alone_0123456789";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// Mints a credential for each request.
    Turnery,
    /// Answers with one word.
    Hello,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Turnery => "turnery",
            Self::Hello => "hello",
        })
    }
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// The request that is measured.
    request: String,
    /// The server's files, while it runs.
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(subject: Subject, turnery: &Path) -> anyhow::Result<Self> {
        // Taken and let go: nobody else is after ports on this machine while it measures.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = tempfile::tempdir()?;
        let child = match subject {
            Subject::Turnery => start_turnery(turnery, directory.path(), address)?,
            Subject::Hello => {
                pinned::command(&std::env::current_exe()?, 0).args(["hello", &address.to_string()]).spawn()?
            }
        };
        let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
        let mut server = Self { child, address, request, _directory: directory };
        server.wait_until_it_listens()?;
        if subject == Subject::Turnery {
            server.create_key()?;
        }
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn request(&self) -> &str {
        &self.request
    }

    /// Nanoseconds of CPU time of all its threads so far.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        Ok(pinned::cpu_ns(self.child.id())?)
    }

    fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("the server does not listen on {}", self.address);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Makes the TURN key that mints, and the request that does.
    fn create_key(&mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "POST /client/v4/accounts/{ACCOUNT}/calls/turn_keys HTTP/1.1\r\nhost: bench\r\n\
             authorization: Bearer {TOKEN}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").context("no answer")?.1;
        let json: serde_json::Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        let field = |name: &str| json.get(name).and_then(serde_json::Value::as_str).context(answer.clone());
        let body = r#"{"ttl":86400}"#;
        self.request = format!(
            "POST /v1/turn/keys/{}/credentials/generate-ice-servers HTTP/1.1\r\nhost: {}\r\n\
             authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            field("uid")?,
            self.address,
            field("secret")?,
            body.len()
        );
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_turnery(binary: &Path, directory: &Path, api: SocketAddr) -> anyhow::Result<Child> {
    if !binary.exists() {
        bail!("{} does not exist: run `cargo build --release` first", binary.display());
    }
    pinned::command(binary, 0)
        .args([
            "serve",
            "--workers",
            "1",
            "--relay-address",
            "127.0.0.1",
            "--public-host",
            "turn.example.org",
        ])
        .arg("--data-dir")
        .arg(directory)
        .args(["--api-listen", &api.to_string(), "--turn-listen", "udp://127.0.0.1:0"])
        // The load comes from one address.
        .args(["--max-calls-per-address", "none"])
        .env("TURNERY_BOOTSTRAP_ACCOUNT", ACCOUNT)
        .env("TURNERY_BOOTSTRAP_TOKEN", TOKEN)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

/// Serves one word until it is killed.
pub(crate) fn hello(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let app = Router::new().route("/", get(async || "hello"));
        Ok(axum::serve(listener, app).await?)
    })
}
