//! coturn's own client against this server: another reading of the same RFCs.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::client::BlockingClient;
use turn::Transport;

use crate::fixture::{LONG, Running, Server, finish, known, start_command};

const MESSAGES: u32 = 200;
const CLIENTS: u32 = 4;

/// A tool of Debian's package coturn.
fn tool(name: &str) -> Command {
    let found = Command::new(name).arg("--help").stdin(Stdio::null()).output();
    assert!(
        !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound),
        "{name} is missing: apt-get install coturn (its client tools are what this test compares with)"
    );
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// coturn's echoing peer, on a port that was free a moment ago.
fn echo_peer() -> (Running, u16) {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = tool("turnutils_peer");
    command
        .args(["-L", "127.0.0.1", "-L", "::1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let peer = Running(command.spawn().unwrap());
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    probe.connect(("127.0.0.1", port)).unwrap();
    probe.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let begun = Instant::now();
    loop {
        let _ = probe.send(b"are you there");
        if probe.recv(&mut [0; 32]).is_ok() {
            return (peer, port);
        }
        assert!(begun.elapsed() < LONG, "turnutils_peer does not echo");
    }
}

/// The number that follows `label` on the last line that has it.
fn number_after(text: &str, label: &str) -> Option<u32> {
    let rest = text.lines().rev().find_map(|line| line.split(label).nth(1))?;
    rest.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn check(server: &Server, peer: u16, flags: &[&str]) {
    let minted = server.mint(&server.create_key(), 600);
    check_as(server, peer, &["-u", &minted.username, "-w", &minted.password], flags);
}

/// The client mints by itself, with the second of two shared secrets.
fn check_with_secret(server: &Server, peer: u16, flags: &[&str]) {
    let key = server.create_key();
    server.add_secret(&key);
    let secret = server.add_secret(&key).text;
    check_as(server, peer, &["-u", "alice", "-W", &secret], flags);
}

fn check_as(server: &Server, peer: u16, user: &[&str], flags: &[&str]) {
    let over_tcp = flags.iter().any(|flag| ["-t", "-T"].contains(flag));
    let transport = match (over_tcp, flags.contains(&"-S")) {
        (false, _) => Transport::Udp,
        (true, false) => Transport::Tcp,
        (true, true) => Transport::Tls,
    };
    let peer_address = if flags.contains(&"-x") { "::1" } else { "127.0.0.1" };
    let mut command = tool("turnutils_uclient");
    command
        .args(["-L", "127.0.0.1", "-e", peer_address, "-r", &peer.to_string()])
        .args(user)
        .args(["-p", &server.listener(transport).port().to_string()])
        .args(["-n", &MESSAGES.to_string(), "-m", &CLIENTS.to_string(), "-l", "170", "-z", "5"])
        .args(flags)
        .arg("127.0.0.1");
    let output = finish(command);
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The exit code is 0 even when packets are lost.
    assert!(output.status.success(), "{flags:?}: {told}");
    // It has room for tickets of 32 bytes, and moves nothing when it gets a longer one.
    assert!(!told.contains("smid_len"), "{flags:?}: {told}");
    let (sent, received) = (number_after(&told, "tot_send_msgs="), number_after(&told, "tot_recv_msgs="));
    assert_eq!(number_after(&told, "Total lost packets "), Some(0), "{flags:?}: {told}");
    assert!(sent.is_some_and(|sent| sent >= MESSAGES * CLIENTS), "{flags:?}: {told}");
    assert_eq!(sent, received, "{flags:?}: {told}");
}

#[test]
fn uclient_loses_no_packet() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev", "--turn-listen", "tls://127.0.0.1:0"]));
    let (_peer, port) = echo_peer();
    // ChannelData with a reserved port for each even one, without, Send, the same over TCP, from client to client
    // through two relayed addresses, with DONT-FRAGMENT, padded, with an IPv6 relayed address, moving to another port
    // with a ticket, through data connections of TCP allocations, and the same within TLS. `-P`, where peers connect, is not among them: the
    // tool then loses half of its messages with coturn's own server, too.
    let with_secret: [&[&str]; 3] = [&[], &["-t"], &["-s"]];
    let runs: [&[&str]; 19] = [
        &[],
        &["-c"],
        &["-s"],
        &["-t"],
        &["-t", "-s"],
        &["-y"],
        &["-t", "-y"],
        &["-g"],
        &["-D"],
        &["-x"],
        &["-M"],
        &["-M", "-t"],
        &["-M", "-s"],
        &["-T"],
        &["-t", "-T"],
        &["-t", "-S"],
        &["-t", "-S", "-s"],
        &["-t", "-S", "-y"],
        &["-t", "-S", "-T"],
    ];
    // At once: each spends most of its time waiting for stragglers.
    std::thread::scope(|scope| {
        for flags in runs {
            let server = &server;
            scope.spawn(move || check(server, port, flags));
        }
        for flags in with_secret {
            let server = &server;
            scope.spawn(move || check_with_secret(server, port, flags));
        }
    });
    // A wrong password is refused, so the runs above did authenticate.
    let minted = server.mint(&server.create_key(), 60);
    let address = server.listener(Transport::Udp);
    let wrong =
        BlockingClient::connect(address, Transport::Udp, &minted.username, "wrong").unwrap().allocate();
    assert_eq!(wrong.unwrap_err().code(), Some(401));
}

/// How long a run may take whose client waits for an answer that cannot come.
const DAMAGED_RUN: Duration = Duration::from_secs(12);

/// `-R` writes random bytes into every tenth message that it sends, requests too, and sends none again. What became
/// unreadable a strict server drops in silence, and the client waits for good: about half of the runs end, here as
/// with coturn's own server. What is asked is that some do, and that the server is as well as before.
#[test]
fn uclient_with_damaged_messages_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev"]));
    let (_peer, port) = echo_peer();
    let minted = server.mint(&server.create_key(), 600);
    let mut runs: Vec<Running> = (0..24)
        .map(|n| {
            let transport = if n % 4 == 0 { Transport::Tcp } else { Transport::Udp };
            let mut command = tool("turnutils_uclient");
            command
                .args(["-L", "127.0.0.1", "-e", "127.0.0.1", "-r", &port.to_string(), "-c", "-R", "-n", "10"])
                .args(["-u", &minted.username, "-w", &minted.password])
                .args(["-p", &server.listener(transport).port().to_string()])
                .args((transport == Transport::Tcp).then_some("-t"))
                .arg("127.0.0.1")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Running(command.spawn().unwrap())
        })
        .collect();
    let begun = Instant::now();
    let mut succeeded = 0;
    while !runs.is_empty() && begun.elapsed() < DAMAGED_RUN {
        runs.retain_mut(|run| match run.0.try_wait().unwrap() {
            Some(status) => {
                succeeded += u32::from(status.success());
                false
            }
            None => true,
        });
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(succeeded > 0, "no run of 24 ended well");
    drop(runs);
    check(&server, port, &[]);
}

/// What a tool that only prints says about a server with two addresses.
fn told_by(name: &str, flags: &[&str], server: &Server) -> String {
    let mut command = tool(name);
    command.args(flags).args(["-p", &server.listener(Transport::Udp).port().to_string(), "127.0.0.1"]);
    let output = finish(command);
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {flags:?}: {told}");
    told
}

/// The addresses that stand behind a label, line by line.
fn addresses<'t>(told: &'t str, label: &str) -> Vec<&'t str> {
    told.lines()
        .filter_map(|line| line.split(label).nth(1))
        .map(|text| text.trim_start_matches([':', ' ']))
        .collect()
}

#[test]
fn natdiscovery_and_stunclient_find_the_second_address() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev", "--alternate-address", "127.0.0.2"]));
    let first = server.listener(Transport::Udp);
    let first_port_of_the_second = format!("127.0.0.2:{}", first.port());
    for padding in [&[][..], &["-P"]] {
        let told = told_by("turnutils_natdiscovery", &[&["-m", "-f"], padding].concat(), &server);
        // On loopback no NAT is between: nothing is mapped and nothing filtered.
        assert!(told.contains("NAT with Endpoint Independent Mapping!"), "{told}");
        assert!(told.contains("NAT with Endpoint Independent Filtering!"), "{told}");
        assert_eq!(told.matches("No ALG: Mapped == XOR-Mapped").count(), 4, "{told}");
        // RFC 5780 §6.1, table 1: seen from the second address the other one is the first.
        let others = addresses(&told, "Other addr:");
        let ips: Vec<_> = others.iter().filter_map(|other| other.split(':').next()).collect();
        assert_eq!(ips, ["127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.2"], "{told}");
        // The answers of test II come from the second address, once because it was asked and once by CHANGE-REQUEST.
        let origins = addresses(&told, "Response origin:");
        assert!(origins.contains(&first.to_string().as_str()), "{told}");
        assert!(origins.contains(&first_port_of_the_second.as_str()), "{told}");
        assert_eq!(origins.last(), others.last(), "{told}");
    }
    // RESPONSE-PORT: the second answer reaches a port that did not ask for it.
    let told = told_by("turnutils_natdiscovery", &["-t", "-T", "1"], &server);
    assert_eq!(told.matches("RFC 5780 response").count(), 2, "{told}");
    let told = told_by("turnutils_stunclient", &["-f"], &server);
    assert_eq!(told.matches("RFC 5780 response").count(), 3, "{told}");
    // It asks the second address for the first, and the first for an answer from the second: both other to it.
    let (origins, others) = (addresses(&told, "Response origin:"), addresses(&told, "Other addr:"));
    assert_eq!(
        (origins.first(), origins.last()),
        (Some(&first.to_string().as_str()), others.first()),
        "{told}"
    );
    assert_ne!(origins.first(), origins.last());
}
