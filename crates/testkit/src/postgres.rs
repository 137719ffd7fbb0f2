//! A PostgreSQL server for tests: a cluster of its own in a temporary directory, which ends with the test's process
//! however that ends.
//!
//! It needs the server's programs (Debian's package `postgresql`). They refuse to run as root: then they run as the user
//! `postgres`, or `nobody`.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Users that the server's programs may run as, when the tests are root's.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Who has to give a password, and which. Everybody else on this machine is believed.
pub const PASSWORD_USER: (&str, &str) = ("guarded", "opensesame");

/// Runs the server, and ends it and removes its directory when nobody holds the other end of standard input any more.
const GUARD: &str = r#"
dir=$1 bin=$2
"$bin/postgres" -D "$dir/data" >>"$dir/log" 2>&1 &
# Those that it has started end a moment later, and it does not start again before.
gone() {
    for _ in $(seq 200); do
        ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -q "$dir/data" || return
        sleep 0.05
    done
}
while read -r word; do
    case $word in
    stop) kill -INT "$!"; wait "$!" ;;
    kill) kill -KILL "$!"; wait "$!"; gone ;;
    start) "$bin/postgres" -D "$dir/data" >>"$dir/log" 2>&1 & ;;
    esac
    echo "$word"
done
kill -INT "$!" 2>/dev/null
wait
rm -rf "$dir"
"#;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    port: u16,
    databases: AtomicU32,
    guard: Mutex<Child>,
}

/// The cluster of this process. Tests that stop theirs take one of their own.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

impl Cluster {
    /// Makes one and starts it.
    pub fn start() -> Self {
        let bin = programs();
        let dir = tempfile::Builder::new().prefix("turnery-postgres-").tempdir().expect("a directory").keep();
        let user = user();
        if let Some((uid, gid)) = user {
            chown(&dir, Some(uid), Some(gid)).expect("the directory is root's to give");
        }
        let data = dir.join("data");
        let made = as_user(&bin.join("initdb"), user)
            .args([
                "--no-sync",
                "--no-instructions",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
            ])
            .args(["--locale=C.UTF-8", "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 1000\n\
             shared_buffers = 64MB\nfsync = off\nfull_page_writes = off\n",
            dir.display()
        );
        append(&data.join("postgresql.conf"), &settings);
        let (guarded, _) = PASSWORD_USER;
        let rules = format!(
            "local all all trust\nhost all {guarded} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        );
        fs::write(data.join("pg_hba.conf"), rules).expect("the rules are written");
        let guard = as_user(Path::new("/bin/sh"), user)
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .arg(&bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell runs");
        let cluster = Self { dir, bin, port, databases: AtomicU32::new(0), guard: Mutex::new(guard) };
        cluster.expect_ready();
        let (user, password) = PASSWORD_USER;
        cluster.sql("postgres", &format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'"));
        cluster
    }

    /// A new database, by its URL; the superuser's.
    pub fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url("postgres", &name)
    }

    /// The URL of a database for a user.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are, and its socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a script prints that the superuser runs in the database with this name, or URL: one row a line, columns
    /// separated by `|`.
    pub fn sql(&self, database: &str, script: &str) -> String {
        let database = database.rsplit('/').next().unwrap_or(database);
        let ran = self.psql(database, script);
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()
    }

    fn psql(&self, database: &str, script: &str) -> Output {
        let mut psql = Command::new(self.bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .args(["--username=postgres", "--dbname", database, "--file", "-", "--host"])
            .arg(&self.dir)
            .args(["--port", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql runs");
        // What it cannot take it complains of itself.
        drop(psql.stdin.take().expect("it is piped").write_all(script.as_bytes()));
        psql.wait_with_output().expect("psql ends")
    }

    /// Ends it in order: it answers nobody until it is started again.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// Kills it.
    pub fn kill(&self) {
        self.tell("kill");
    }

    /// Starts it again, and waits until it answers.
    pub fn start_again(&self) {
        self.tell("start");
        self.expect_ready();
    }

    fn tell(&self, word: &str) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = guard.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{word}").expect("the guard listens");
        let stdout = guard.stdout.as_mut().expect("it is piped");
        let mut answer = vec![0; word.len() + 1];
        std::io::Read::read_exact(stdout, &mut answer).expect("the guard answers");
    }

    fn expect_ready(&self) {
        let start = Instant::now();
        while !self.psql("postgres", "SELECT 1").status.success() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(start.elapsed() < START_TIMEOUT, "PostgreSQL does not start: {log}");
            sleep(PAUSE);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(guard.stdin.take());
        drop(guard.wait());
    }
}

/// Where the server's programs are: Debian has them beside each other by version, and not on the path.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).find(|dir| dir.join("initdb").exists());
    found.max().or(on_path).expect("these tests need PostgreSQL's server: apt-get install postgresql")
}

/// Whom the server's programs run as, when it cannot be whoever runs the tests.
fn user() -> Option<(u32, u32)> {
    if !nix::unistd::Uid::effective().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("this is a Unix");
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(USERS.into_iter().find_map(ids).expect("there is a user without rights"))
}

fn as_user(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid).current_dir("/");
    }
    command
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("initdb has made it");
    file.write_all(text.as_bytes()).expect("there is room");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a port");
    listener.local_addr().expect("it is bound").port()
}
