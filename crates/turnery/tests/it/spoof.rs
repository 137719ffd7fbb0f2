//! A flood from sources that do not exist, in network namespaces of its own: it costs the server no memory and its
//! clients nothing. Needs root, for the namespaces and for packets with a foreign source.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use stun::{AttributeType as A, Method, TransactionId};
use testkit::client::BlockingClient;
use testkit::dice::Dice;
use testkit::message;
use turn::Transport;

use crate::fixture::{Running, Server, known, start_command};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// A neighbour of the client's, in whose name some of the packets come.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
/// The first of the sources that do not exist.
const FIRST: u32 = 0x0B00_0000;
const WARM_UP: u32 = 20_000;
const SOURCES: u32 = 200_000;
/// After so many the client asks for something: its answer says that they have been read.
const ROUND: u32 = 400;
const MOST_KIB: u64 = 2_048;

fn ip(args: &str) -> Output {
    Command::new("ip").args(args.split(' ')).output().expect("iproute2 is installed")
}

/// Two namespaces with a cable between them, gone with this value.
struct Namespaces {
    inside: String,
    outside: String,
}

impl Namespaces {
    fn new() -> Self {
        let pid = std::process::id();
        let made =
            Self { inside: format!("turnery-spoof-{pid}-in"), outside: format!("turnery-spoof-{pid}-out") };
        let Self { inside, outside } = &made;
        for name in [inside, outside] {
            let output = ip(&format!("netns add {name}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "this test needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN): {said}");
        }
        for line in [
            format!("link add spf{pid}i netns {inside} type veth peer name spf{pid}o netns {outside}"),
            format!("-n {inside} link set lo up"),
            format!("-n {inside} address add {SERVER}/24 dev spf{pid}i"),
            format!("-n {outside} address add {OUTSIDE}/24 dev spf{pid}o"),
            format!("-n {inside} link set spf{pid}i up"),
            format!("-n {outside} link set spf{pid}o up"),
            // So that answers to anywhere leave, and packets from anywhere come in.
            format!("-n {inside} route add default via {OUTSIDE}"),
            format!("netns exec {inside} sysctl -qw net.ipv4.conf.all.rp_filter=0"),
        ] {
            let output = ip(&line);
            assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        made
    }

    /// The same command, inside.
    fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("ip");
        wrapped.args(["netns", "exec", &self.inside]).arg(command.get_program()).args(command.get_args());
        wrapped.env_clear().stdin(std::process::Stdio::null());
        wrapped.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        wrapped.envs(set);
        wrapped
    }

    /// This thread, and those that it starts, are outside from now on.
    fn enter_outside(&self) {
        let file = fs::File::open(format!("/run/netns/{}", self.outside)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.inside, &self.outside] {
            // One that could not be made is not there.
            ip(&format!("netns delete {name}"));
        }
    }
}

fn resident_kib(server: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How many UDP sockets there are in the server's namespace: its listener's, and one for each relayed address.
fn udp_sockets(server: &Running) -> usize {
    let table = fs::read_to_string(format!("/proc/{}/net/udp", server.0.id())).unwrap();
    table.lines().count() - 1
}

/// Something that nobody has authenticated, each time another.
fn packet(n: u32, dice: &mut Dice) -> Vec<u8> {
    let id: TransactionId = dice.transaction();
    match n % 6 {
        0 => message::request(Method::BINDING, id, |_| {}),
        1 => message::request(Method::ALLOCATE, id, |writer| {
            writer.attribute(A::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
        }),
        2 => dice.data(64),
        3 => message::request(Method::ALLOCATE, id, |writer| {
            writer.attribute(A::REQUESTED_TRANSPORT, &message::REQUESTED_UDP);
            writer.attribute(A::USERNAME, &dice.data(96)).attribute(A::REALM, b"turnery");
            writer.attribute(A::NONCE, &dice.data(24)).attribute(A::MESSAGE_INTEGRITY, &dice.data(20));
        }),
        4 => [&[0x40, 0, 0, 60][..], &dice.data(60)].concat(),
        _ => message::send_indication(id, "8.8.8.8:53".parse().unwrap(), b"out"),
    }
}

/// An IPv4 packet with this UDP datagram; the kernel adds length and checksum.
fn datagram(from: Ipv4Addr, port: u16, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    bytes.extend(from.octets());
    bytes.extend(SERVER.octets());
    bytes.extend(port.to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    // No checksum.
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// Sends these packets; `after_round` is called now and then.
fn flood(raw: &Socket, to: SocketAddr, numbers: std::ops::Range<u32>, mut after_round: impl FnMut()) {
    let mut dice = Dice::new(numbers.start.into());
    let address = SockAddr::from(SocketAddr::from((SERVER, 0)));
    for n in numbers {
        let data = packet(n, &mut dice);
        let port = u16::try_from(1_024 + n % 60_000).unwrap();
        raw.send_to(&datagram(Ipv4Addr::from_bits(FIRST + n), port, to, &data), &address).unwrap();
        if n.is_multiple_of(20) {
            raw.send_to(&datagram(NEIGHBOUR, port, to, &data), &address).unwrap();
        }
        if (n + 1).is_multiple_of(ROUND) {
            after_round();
        }
    }
}

fn keep(client: &mut BlockingClient) {
    client.refresh(600).unwrap();
}

fn scenario(namespaces: &Namespaces) {
    namespaces.enter_outside();
    let dir = tempfile::tempdir().unwrap();
    let address = SERVER.to_string();
    let mut command = crate::fixture::turnery(&["serve", "--data-dir", dir.path().to_str().unwrap()]);
    command.args(["--api-listen", &format!("{address}:0"), "--turn-listen", &format!("udp://{address}:0")]);
    command.args(["--relay-address", &address, "--allow-peer", "10.77.0.0/24", "--workers", "1"]);
    // The account and the token, as everywhere.
    let envs = known(dir.path(), &[]);
    command.envs(envs.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server: Server = start_command(namespaces.wrap(&command));
    let listener = server.listener(Transport::Udp);
    let key = server.create_key();
    let minted = server.mint(&key, 3_600);
    let mut client = server.client(Transport::Udp, &minted);
    client.set_patience(Duration::from_secs(20));
    client.allocate().unwrap();
    assert_eq!(udp_sockets(&server.child), 2);

    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("root has raw sockets");
    flood(&raw, listener, 0..WARM_UP, || keep(&mut client));
    let before = resident_kib(&server.child);
    flood(&raw, listener, WARM_UP..WARM_UP + SOURCES, || keep(&mut client));
    let after = resident_kib(&server.child);
    println!("VmRSS {before} KiB after {WARM_UP} packets, {after} KiB after {SOURCES} more");
    assert!(after.abs_diff(before) < MOST_KIB, "{before} KiB, then {after} KiB");
    // Nobody has an allocation but the client, and soon neither has that one.
    assert_eq!(udp_sockets(&server.child), 2);
    client.refresh(0).unwrap();
    let mut another = server.client(Transport::Udp, &minted);
    another.binding().unwrap();
    another.allocate().unwrap();
    another.refresh(0).unwrap();
    another.binding().unwrap();
    assert_eq!(udp_sockets(&server.child), 1);
    let (status, log) = server.end();
    assert!(status.success() && !log.contains("panicked"), "{status} {log}");
}

#[test]
fn two_hundred_thousand_spoofed_sources_cost_no_memory() {
    let namespaces = Namespaces::new();
    // A thread of its own, for it does not come back from where it goes.
    let done = std::thread::scope(|scope| scope.spawn(|| scenario(&namespaces)).join());
    drop(namespaces);
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}
