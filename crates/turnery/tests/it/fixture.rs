//! A service of one's own: a child process with its directory, ended when it goes out of scope.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::client::BlockingClient;
use turn::Transport;

/// The binary that the tests start; `TURNERY_BIN` names another build of it.
fn binary() -> std::ffi::OsString {
    std::env::var_os("TURNERY_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_turnery").into())
}

/// An outer bound for a busy machine; what is waited for is an event.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) const ACCOUNT: &str = "00112233445566778899aabbccddeeff";
pub(crate) const TOKEN: &str = "a-token-that-the-operator-chose_0123456789";

/// Listeners on ports that the kernel chooses.
pub(crate) const RANDOM_PORTS: [&str; 6] = [
    "--api-listen",
    "127.0.0.1:0",
    "--turn-listen",
    "udp://127.0.0.1:0",
    "--turn-listen",
    "tcp://127.0.0.1:0",
];
/// The production defaults, but for loopback, which has to be allowed in so many words.
pub(crate) const LOOPBACK: [&str; 6] =
    ["--public-host", "127.0.0.1", "--relay-address", "127.0.0.1", "--allow-peer", "127.0.0.0/8"];

/// The binary with these arguments and nothing of the test's own environment.
pub(crate) fn turnery(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["PATH", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// `turnery serve` with its data here, on random ports.
pub(crate) fn serve_in(dir: &Path, more: &[&str]) -> Command {
    let mut command = turnery(&["serve", "--data-dir", dir.to_str().unwrap()]);
    command.args(RANDOM_PORTS).args(more);
    command
}

/// The same with the account and token chosen.
pub(crate) fn known(dir: &Path, more: &[&str]) -> Command {
    let mut command = serve_in(dir, more);
    command.env("TURNERY_BOOTSTRAP_ACCOUNT", ACCOUNT).env("TURNERY_BOOTSTRAP_TOKEN", TOKEN);
    command
}

/// A process that must end by itself.
pub(crate) fn finish(command: Command) -> Output {
    finish_within(LONG, command)
}

/// The same where it takes its time.
pub(crate) fn finish_within(patience: Duration, mut command: Command) -> Output {
    let child = Running(command.spawn().unwrap());
    child.wait_with_output(patience)
}

/// A child that is killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return Some(status),
                None if Instant::now() >= deadline => return None,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn wait_with_output(mut self, patience: Duration) -> Output {
        let mut stdout = self.0.stdout.take().unwrap();
        let mut stderr = self.0.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let status = self.wait(patience);
        // What has not ended by now has to, or the threads would read for ever.
        drop(self);
        let (stdout, stderr) = (output.join().unwrap(), errors.join().unwrap());
        let told = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        Output { status: status.unwrap_or_else(|| panic!("it did not end: {told}")), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service that is ready.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Running,
    /// Everything on standard output up to and with the ready line.
    pub(crate) announced: String,
    pub(crate) api: String,
    pub(crate) listeners: Vec<(Transport, SocketAddr)>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    pub(crate) dir: Option<TempDir>,
}

/// Starts a service with production defaults on loopback, a directory of its own, and the known account.
pub(crate) fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start_command(known(dir.path(), &LOOPBACK));
    server.dir = Some(dir);
    server
}

/// Starts this command and waits for its ready line.
pub(crate) fn start_command(mut command: Command) -> Server {
    let mut child = Running(command.spawn().unwrap());
    let (lines, stdout) = reading(child.0.stdout.take().unwrap());
    let stderr = Arc::new(Mutex::new(String::new()));
    let (errors, log) = (child.0.stderr.take().unwrap(), Arc::clone(&stderr));
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            writeln!(log.lock().unwrap(), "{line}").unwrap();
        }
    });
    let mut announced = String::new();
    let deadline = Instant::now() + LONG;
    let ready = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(announced, "{line}").unwrap();
                if let Some(ready) = line.strip_prefix("ready ") {
                    break ready.to_owned();
                }
            }
            Err(why) => {
                if why == RecvTimeoutError::Disconnected {
                    child.wait(LONG);
                }
                panic!("no ready line ({why}):\n{announced}\n{}", stderr.lock().unwrap());
            }
        }
    };
    let (api, listeners) = parse_ready(&ready);
    Server { child, announced, api, listeners, stderr, readers: vec![stdout, reader], dir: None }
}

fn reading(stdout: impl Read + Send + 'static) -> (Receiver<String>, JoinHandle<()>) {
    let (sender, lines) = channel();
    let thread = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    (lines, thread)
}

fn parse_ready(ready: &str) -> (String, Vec<(Transport, SocketAddr)>) {
    let (api, turn) = ready.split_once(' ').unwrap();
    let turn = turn.strip_prefix("turn=").unwrap().split(',').map(|listener| {
        let (scheme, address) = listener.split_once("://").unwrap();
        let transport = match scheme {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls,
            "dtls" => Transport::Dtls,
            _ => panic!("{listener}"),
        };
        (transport, address.parse().unwrap())
    });
    (api.strip_prefix("api=").unwrap().to_owned(), turn.collect())
}

/// A TURN key of the service.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) uid: String,
    pub(crate) secret: String,
}

/// A minted credential.
#[derive(Debug, Clone)]
pub(crate) struct Minted {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// A shared secret of a TURN key.
#[derive(Debug, Clone)]
pub(crate) struct SharedSecret {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl SharedSecret {
    /// A time-limited username, as an application mints it.
    pub(crate) fn mint(&self, ttl_secs: u64) -> Minted {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let username = format!("{}:@somebody:example.org", now + ttl_secs);
        let parsed = credentials::TimeLimited::parse(username.as_bytes()).unwrap();
        let password = parsed.password(&self.text.parse().unwrap());
        let password = String::from_utf8(password.to_vec()).unwrap();
        Minted { username, password }
    }
}

impl Server {
    /// Asks it to end, and waits until it has: its status, and its log.
    pub(crate) fn end(self) -> (ExitStatus, String) {
        signal(&self.child, "TERM");
        self.end_by_itself()
    }

    /// Waits until it has ended, which it has been asked for: its status, and its log.
    pub(crate) fn end_by_itself(mut self) -> (ExitStatus, String) {
        let status = self.child.wait(Duration::from_secs(10)).expect("an end within 10 s of SIGTERM");
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        let log = self.log();
        (status, log)
    }

    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.as_ref().unwrap().path().to_owned()
    }

    pub(crate) fn listener(&self, transport: Transport) -> SocketAddr {
        self.listeners.iter().find(|(it, _)| *it == transport).unwrap().1
    }

    /// One request: its status and its JSON, null where the body is empty.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<&str>,
    ) -> Result<(u16, Value), String> {
        http(&format!("{}{path}", self.api), method, bearer, body)
    }

    /// One request that must be answered with this status.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<&str>,
        status: u16,
    ) -> Value {
        let (got, json) = self.http(method, path, bearer, body).unwrap();
        assert_eq!(got, status, "{method} {path}: {json}");
        json
    }

    pub(crate) fn create_key(&self) -> Key {
        let json = self.ask("POST", &keys_path(), TOKEN, Some("{}"), 201);
        Key { uid: text(&json["result"]["uid"]), secret: text(&json["result"]["secret"]) }
    }

    pub(crate) fn mint(&self, key: &Key, ttl_secs: u32) -> Minted {
        let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
        let json = self.ask("POST", &path, &key.secret, Some(&format!("{{\"ttl\":{ttl_secs}}}")), 201);
        Minted {
            username: text(&json["iceServers"]["username"]),
            password: text(&json["iceServers"]["credential"]),
        }
    }

    /// Gives a key a shared secret.
    pub(crate) fn add_secret(&self, key: &Key) -> SharedSecret {
        let json = self.ask("POST", &secrets_path(key), TOKEN, None, 201);
        let (id, secret) = (text(&json["result"]["id"]), text(&json["result"]["secret"]));
        SharedSecret { id, text: secret }
    }

    pub(crate) fn client(&self, transport: Transport, minted: &Minted) -> BlockingClient {
        let address = self.listener(transport);
        BlockingClient::connect(address, transport, &minted.username, &minted.password).unwrap()
    }

    /// The STUN error code with which an Allocate is refused; `None` when it is not.
    pub(crate) fn refusal(&self, transport: Transport, minted: &Minted) -> Option<u16> {
        let mut client = self.client(transport, minted);
        // The kernel may give its port to the next client, which would find an allocation there. It may also be refused
        // just now.
        let done = client.allocate().and_then(|_| client.refresh(0));
        done.err().map(|error| error.code().unwrap_or_else(|| panic!("{error:?}")))
    }
}

pub(crate) fn http(
    url: &str,
    method: &str,
    bearer: &str,
    body: Option<&str>,
) -> Result<(u16, Value), String> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONG));
    let agent: ureq::Agent = config.build().into();
    let request = || {
        let request = ureq::http::Request::builder().method(method).uri(url);
        request.header("authorization", format!("Bearer {bearer}"))
    };
    let response = match body {
        Some(body) => agent.run(request().body(body.to_owned()).unwrap()),
        None => agent.run(request().body(()).unwrap()),
    };
    let mut response = response.map_err(|error| error.to_string())?;
    let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    let json = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    Ok((response.status().as_u16(), json))
}

pub(crate) fn keys_path() -> String {
    format!("/client/v4/accounts/{ACCOUNT}/calls/turn_keys")
}

pub(crate) fn secrets_path(key: &Key) -> String {
    format!("{}/{}/shared_secrets", keys_path(), key.uid)
}

pub(crate) fn revoke_path(key: &Key, minted: &Minted) -> String {
    let username = minted.username.replace(':', "%3A").replace('@', "%40");
    format!("/v1/turn/keys/{}/credentials/{username}/revoke", key.uid)
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// Sends a signal to this very process.
pub(crate) fn signal(child: &Running, name: &str) {
    let pid = child.0.id();
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

/// A peer that sends everything back; it ends with the test's process.
pub(crate) fn echo_peer() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}

/// Sends a message to an echoing peer through a channel, and another one in a Send indication.
pub(crate) fn relays(client: &mut BlockingClient) {
    client.allocate().unwrap();
    let (by_channel, by_send) = (echo_peer(), echo_peer());
    client.channel_bind(by_channel).unwrap();
    client.create_permission(&[by_send]).unwrap();
    for peer in [by_channel, by_send] {
        client.send_to(peer, b"there and back").unwrap();
        let (from, data) = client.recv(LONG).unwrap().expect("an echo");
        assert_eq!((from, &data[..]), (peer, &b"there and back"[..]));
    }
}
