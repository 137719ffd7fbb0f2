//! Machines in one network: namespaces behind a bridge. The test's thread is on a machine of its own, the hub, with the
//! database, clients and peers.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

const PREFIX: &str = "turnfleet";
/// Where clients and peers are.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where the database is: a node can lose the way to it alone.
pub(crate) const STORE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The hub and so many machines; gone when it is dropped. The thread that made it is on the hub meanwhile.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    machines: usize,
    home: File,
}

impl Network {
    pub(crate) fn new(machines: usize) -> Self {
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        let network = Self { name, machines, home };
        ip(&["netns", "add", &network.hub()]);
        network.at_hub(&["link", "set", "lo", "up"]);
        network.at_hub(&["link", "add", "br0", "type", "bridge"]);
        network.at_hub(&["addr", "add", &format!("{HUB}/24"), "dev", "br0"]);
        network.at_hub(&["addr", "add", &format!("{STORE}/32"), "dev", "br0"]);
        network.at_hub(&["link", "set", "br0", "up"]);
        for index in 0..machines {
            let (machine, port) = (network.machine(index), format!("port{index}"));
            ip(&["netns", "add", &machine]);
            network
                .at_hub(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &machine]);
            network.at_hub(&["link", "set", &port, "master", "br0", "up"]);
            let inside = |args: &[&str]| ip(&[&["-n", &machine], args].concat());
            inside(&["link", "set", "lo", "up"]);
            inside(&["addr", "add", &format!("{}/24", Self::address(index)), "dev", "eth0"]);
            inside(&["link", "set", "eth0", "up"]);
            inside(&["route", "add", "default", "via", &HUB.to_string()]);
        }
        enter(&network.hub());
        network
    }

    /// A machine's address.
    pub(crate) fn address(index: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + u8::try_from(index).unwrap())
    }

    fn hub(&self) -> String {
        format!("{}h", self.name)
    }

    fn machine(&self, index: usize) -> String {
        format!("{}m{index}", self.name)
    }

    fn at_hub(&self, args: &[&str]) {
        ip(&[&["-n", &self.hub()], args].concat());
    }

    /// Does something on a machine: what it starts runs there.
    pub(crate) fn on<T>(&self, index: usize, action: impl FnOnce() -> T) -> T {
        enter(&self.machine(index));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
        enter(&self.hub());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The machine has no way to the database any more, or has it again.
    pub(crate) fn cut_off(&self, index: usize, is_cut: bool) {
        let verb = if is_cut { "add" } else { "del" };
        ip(&["-n", &self.machine(index), "route", verb, "blackhole", &format!("{STORE}/32")]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = setns(&self.home, CloneFlags::CLONE_NEWNET);
        for name in (0..self.machines).map(|index| self.machine(index)).chain([self.hub()]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn enter(name: &str) {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Removes what a run has left that was killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    let ran = Command::new("ip").args(args).output().expect("these tests need iproute2");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "ip {}: {said} (these tests need root)", args.join(" "));
}
