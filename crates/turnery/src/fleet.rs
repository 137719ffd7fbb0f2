//! This node among others: it says in the store that it is there and how busy it is, looks at who else is, and has the
//! relay send new clients elsewhere when it is full, about to end, or does not hear what is revoked.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Result;
use control::store::{KnownNode, NodeReport, NodeState, Store, StoreError};
use control::{Control, Feed, Steering};
use relay::Listener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use turn::{AlternateServer, Command, RelayAddress};

use crate::admission::Admission;
use crate::config::{Role, Settings};
use crate::keyring_file::unix_now;
use crate::keyring_in_use::KeyringInUse;
use crate::relaying::RelayHandle;

/// How often a node of many says that it is there, and looks at the others.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same for the only one there can be.
const ALONE_INTERVAL: Duration = Duration::from_mins(1);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How often it is looked whether live allocations have ended.
const DRAIN_POLL: Duration = Duration::from_millis(100);
/// In which time the relay is told to drain, whatever the database does.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How many others clients are sent to in turn.
const ALTERNATES: usize = 4;
/// Who sends clients elsewhere because it is full takes them again below so much, in thousandths of what it wants; and
/// sends them to nodes below that.
const ROOM_PERMILLE: u64 = 900;
/// The kernel counts processor time in hundredths of a second for everybody who asks.
const TICKS_PER_SEC: u64 = 100;

/// This node among others.
pub(crate) struct Membership {
    store: Store,
    feed: Feed,
    relay: RelayHandle,
    name: String,
    /// What it says of itself that does not change.
    said: NodeReport,
    steering: Steering,
    /// Whether an operator has chosen the URLs that it is handed out by.
    has_chosen_urls: bool,
    admission: Arc<Admission>,
    /// Whether the relay has been told so.
    relay_drains: AtomicBool,
    /// Which version of the store's keyring is in use; 0: none of them.
    keyring_version: AtomicU64,
    hurry: Notify,
}

/// What was counted at a moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    packets: u64,
    bytes: u64,
    /// In hundredths of a second.
    cpu: u64,
}

/// What is remembered from one time to the next.
struct Round {
    sample: Sample,
    /// Whether it is full, until there is some room.
    is_full: bool,
    /// What the relay was told last.
    told: (Vec<AlternateServer>, bool),
    failed: bool,
    /// It was said that steering changes nothing.
    is_pointless: bool,
}

impl Membership {
    pub(crate) fn new(
        settings: &Settings,
        (store, feed, relay): (Store, Feed, RelayHandle),
        (listeners, urls): (&[Listener], Vec<String>),
        admission: Arc<Admission>,
    ) -> Self {
        let location = settings.location.clone();
        let interval = if store.is_shared() { INTERVAL } else { ALONE_INTERVAL };
        if store.is_shared() && is_near_host(&settings.public_host) {
            tracing::warn!(
                host = %settings.public_host,
                "the other nodes send clients to an address of this machine alone; name the host with --public-host"
            );
        }
        let said = NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: if settings.role == Role::All { "all" } else { "relay" }.to_owned(),
            city: location.city,
            code: location.code,
            country: location.country,
            region: location.region,
            addresses: addresses(listeners, &settings.relay_addresses, &settings.public_host),
            host: settings.public_host.clone(),
            urls,
            weight: settings.fleet.weight,
            started: unix_now(),
            redirect_above: settings.fleet.redirect_above,
            interval_secs: interval.as_secs(),
            ..NodeReport::default()
        };
        Self {
            store,
            feed,
            relay,
            name: settings.node_name.clone(),
            said,
            steering: settings.fleet.steering,
            has_chosen_urls: settings.ice.is_some(),
            admission,
            relay_drains: AtomicBool::new(false),
            keyring_version: AtomicU64::new(0),
            hurry: Notify::new(),
        }
    }

    /// Says which keyring it has, before anybody is served, and looks whether it has become another: from then on a rotation
    /// waits for this node, and what was prepared before is known here.
    pub(crate) async fn enter(&self, keyring: &KeyringInUse) -> Result<()> {
        self.note_keyring(keyring.version().await);
        self.store.note_node(&self.name, &self.report(&mut self.sample(), false)).await?;
        self.feed.catch_up().await?;
        while keyring.look_or_fail().await? {
            // What the one before could not open is read again.
            self.feed.catch_up().await?;
        }
        self.note_keyring(keyring.version().await);
        Ok(())
    }

    /// Says at once which version of the store's keyring is in use.
    pub(crate) fn tell_of_keyring(&self, version: Option<u64>) {
        self.note_keyring(version);
        self.hurry.notify_one();
    }

    fn note_keyring(&self, version: Option<u64>) {
        self.keyring_version.store(version.unwrap_or(0), Ordering::Relaxed);
    }

    fn used_keyring(&self) -> Option<u64> {
        Some(self.keyring_version.load(Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Says that it is there, and looks at the others, for as long as it is polled.
    pub(crate) async fn run(&self, control: Option<&Control>) -> ! {
        let mut round = Round {
            sample: self.sample(),
            is_full: false,
            told: (Vec::new(), false),
            failed: false,
            is_pointless: false,
        };
        let interval = Duration::from_secs(self.said.interval_secs);
        loop {
            let done = self.beat(&mut round, control).await;
            if let Err(error) = &done
                && !round.failed
            {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "the other nodes are not told of this one, nor is it of them"
                );
            }
            round.failed = done.is_err();
            tokio::select! {
                () = sleep(jittered(interval)) => {}
                () = self.hurry.notified() => {}
                () = self.admission.stale_turned() => {}
            }
        }
    }

    async fn beat(&self, round: &mut Round, control: Option<&Control>) -> Result<(), StoreError> {
        let draining = self.admission.is_draining();
        let report = self.report(&mut round.sample, draining);
        let load = report.load_permille();
        round.is_full = report.is_full() || (round.is_full && load >= ROOM_PERMILLE);
        if !self.store.is_shared() {
            self.tell_relay(round, (Vec::new(), draining));
            return self.store.note_node(&self.name, &report).await;
        }
        let sends_away = draining || round.is_full || report.stale;
        let nodes = match self.look_around(&report, sends_away).await {
            Ok(nodes) => nodes,
            Err(error) => {
                // Who the others are is known from before, and whether this one drains from itself.
                let known = if sends_away { round.told.0.clone() } else { Vec::new() };
                self.tell_relay(round, (known, draining));
                return Err(error);
            }
        };
        if let Some(control) = control {
            control.steer(self.steering, &self.said.region, &nodes);
            self.look_at_choice(round, &nodes);
        }
        let own = (self.name.as_str(), self.said.region.as_str());
        let to = if sends_away { alternates(own, &nodes) } else { Vec::new() };
        self.tell_relay(round, (to, draining));
        Ok(())
    }

    /// The nodes, where somebody has to know.
    async fn look_around(&self, report: &NodeReport, sends_away: bool) -> Result<Vec<KnownNode>, StoreError> {
        self.store.note_node(&self.name, report).await?;
        if sends_away || self.steering != Steering::Host { self.store.nodes().await } else { Ok(Vec::new()) }
    }

    /// Says once when all nodes are given the same --ice-url: whichever is chosen, a client hears the same.
    fn look_at_choice(&self, round: &mut Round, nodes: &[KnownNode]) {
        let is_pointless =
            self.steering == Steering::Node && self.has_chosen_urls && are_one_to_clients(nodes);
        if is_pointless && !round.is_pointless {
            tracing::warn!(
                "--steering node changes nothing: all nodes have the same --ice-url; give each one of its own, or none"
            );
        }
        round.is_pointless = is_pointless;
    }

    fn tell_relay(&self, round: &mut Round, tell: (Vec<AlternateServer>, bool)) {
        if round.told != tell {
            let (to, draining) = tell.clone();
            self.relay.command(&Command::Redirect { to, draining });
            self.relay_drains.store(draining, Ordering::Relaxed);
            round.told = tell;
        }
    }

    fn report(&self, last: &mut Sample, draining: bool) -> NodeReport {
        let now = self.sample();
        let millis = u64::try_from((now.at - last.at).as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |now: u64, last: u64| now.saturating_sub(last).saturating_mul(1_000) / millis;
        let cores = available_parallelism().map_or(1, |cores| cores.get() as u64);
        let cpu_permille = rate(now.cpu, last.cpu).saturating_mul(1_000) / TICKS_PER_SEC / cores;
        let report = NodeReport {
            draining,
            stale: self.admission.is_stale(),
            allocations: self.relay.counters().map_or(0, |(totals, _)| totals.allocations),
            packets_per_second: rate(now.packets, last.packets),
            bytes_per_second: rate(now.bytes, last.bytes),
            cpu_permille: u32::try_from(cpu_permille.min(1_000)).unwrap_or(1_000),
            feed_position: self.feed.position(),
            feed_age_ms: self.feed.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            keyring_version: self.used_keyring(),
            ..self.said.clone()
        };
        *last = now;
        report
    }

    fn sample(&self) -> Sample {
        let relayed = self.relay.counters().map(|(totals, _)| totals.relayed).unwrap_or_default();
        Sample {
            at: Instant::now(),
            packets: relayed.packets_to_peers.wrapping_add(relayed.packets_to_clients),
            bytes: relayed.bytes_to_peers.wrapping_add(relayed.bytes_to_clients),
            cpu: cpu_ticks().unwrap_or(0),
        }
    }

    /// Takes no new allocations from now on, and waits until the live ones have ended, for so long at most.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.admission.drain();
        self.hurry.notify_one();
        let live = || self.relay.counters().map_or(0, |(totals, _)| totals.allocations);
        tracing::info!(allocations = live(), secs = patience.as_secs(), "draining");
        let unheard = async {
            sleep(TOLD_WITHIN).await;
            if !self.relay_drains.load(Ordering::Relaxed) {
                // The database does not answer: nobody knows where to send clients, but none is taken.
                self.relay.command(&Command::Redirect { to: Vec::new(), draining: true });
            }
            pending().await
        };
        let ended = async {
            // Who was let in a moment ago is counted.
            while {
                sleep(DRAIN_POLL).await;
                live() > 0
            } {}
        };
        let ended = tokio::select! {
            ended = timeout(patience, ended) => ended,
            never = unheard => never,
        };
        if ended.is_err() {
            tracing::info!(allocations = live(), "live allocations were waited for long enough");
        }
    }

    /// Says that it has ended.
    pub(crate) async fn end(&self) {
        let keyring_version = self.used_keyring();
        let last = NodeReport { draining: true, ended: true, keyring_version, ..self.said.clone() };
        if !matches!(timeout(LAST_WORD, self.store.note_node(&self.name, &last)).await, Ok(Ok(()))) {
            tracing::debug!("the other nodes are not told that this one has ended");
        }
    }
}

/// A little more or less, so that nodes that started together do not write together.
fn jittered(interval: Duration) -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    interval.mul_f64(0.9 + 0.2 * f64::from(nanos % 1_000) / 1_000.0)
}

/// What the process has used of all processors, in hundredths of a second.
fn cpu_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name may have spaces and is in parentheses; after it come the state and then fields 4 and on.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    ticks(11)?.checked_add(ticks(12)?)
}

/// Where clients reach these listeners: a wildcard at each of the relay's addresses, its own address as the relay's is told.
/// What only this machine reaches is told only where `host` is such an address, so that everybody is on this machine.
fn addresses(listeners: &[Listener], own: &[RelayAddress], host: &str) -> Vec<String> {
    let is_told = |ip: IpAddr| !ip.is_unspecified() && (!is_near(ip) || is_near_host(host));
    let mut all = Vec::new();
    for Listener { transport, address } in listeners {
        let fits = |it: &&RelayAddress| {
            it.local.is_ipv4() == address.is_ipv4()
                && (address.ip().is_unspecified() || it.local == address.ip())
        };
        let public = own.iter().find(fits).map(|it| it.public);
        let ip = public.unwrap_or_else(|| address.ip());
        if is_told(ip) {
            let address = SocketAddr::new(ip, address.port());
            all.push(Listener { transport: *transport, address }.to_string());
        }
    }
    all
}

/// Whether the address leads nowhere from another machine, or elsewhere: it is on loopback or link-local.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn is_near_host(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(is_near)
}

/// Whether choosing among the nodes changes nothing: there are some, and all are handed out by the same URLs.
fn are_one_to_clients(nodes: &[KnownNode]) -> bool {
    let mut urls =
        nodes.iter().filter(|node| node.state == NodeState::Up).map(|node| node.report.urls.as_slice());
    let first = urls.next();
    let mut others = urls.peekable();
    others.peek().is_some() && others.all(|urls| Some(urls) == first)
}

/// The nodes that new clients can be sent to: those that work, this node's region first, and among them those with the
/// fewest allocations for their weight. None that would send them on.
fn alternates((own, region): (&str, &str), nodes: &[KnownNode]) -> Vec<AlternateServer> {
    let has_room = |node: &&KnownNode| {
        node.state == NodeState::Up && node.name != own && node.report.load_permille() < ROOM_PERMILLE
    };
    let mut others: Vec<&KnownNode> = nodes.iter().filter(has_room).collect();
    others.sort_by_key(|node| {
        let per_weight = node.report.allocations.saturating_mul(1_000) / u64::from(node.report.fair_weight());
        (node.report.region != region, per_weight)
    });
    // Each transport of each family has its own others: not all nodes have all.
    let mut counts: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    let mut all = Vec::new();
    for node in others {
        for server in node.report.addresses.iter().filter_map(|address| server(address, &node.report.host)) {
            let count = counts.entry((server.transport.label(), server.address.is_ipv4())).or_default();
            *count += 1;
            if *count <= ALTERNATES {
                all.push(server);
            }
        }
    }
    all
}

fn server(address: &str, host: &str) -> Option<AlternateServer> {
    let listener: Listener = address.parse().ok()?;
    let is_name = host.parse::<IpAddr>().is_err() && !host.is_empty();
    Some(AlternateServer {
        transport: listener.transport,
        address: listener.address,
        domain: is_name.then(|| host.into()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use control::store::Timestamp;

    use super::*;

    fn node(name: &str, state: NodeState, allocations: u64, more: impl FnOnce(&mut NodeReport)) -> KnownNode {
        let mut report = NodeReport {
            addresses: vec![format!("udp://192.0.2.{}:3478", name.len())],
            host: "turn.example".to_owned(),
            weight: 100,
            allocations,
            ..NodeReport::default()
        };
        more(&mut report);
        let seen = Timestamp::from_unix_secs(0);
        KnownNode { name: name.to_owned(), state, seen, seen_ms_ago: 0, report }
    }

    fn check(nodes: &[KnownNode], expected: &[&str]) {
        let found = alternates(("self", "EU"), nodes);
        let found: Vec<_> = found.iter().map(|server| server.address.ip().to_string()).collect();
        let expected: Vec<_> = expected.iter().map(|name| format!("192.0.2.{}", name.len())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn clients_are_sent_to_working_nodes_with_room_the_emptiest_first() {
        use NodeState::{Draining, Ended, Full, Lost, Stale, Up};
        check(&[node("self", Up, 0, |_| {})], &[]);
        check(&[node("aa", Up, 7, |_| {}), node("b", Up, 3, |_| {})], &["b", "aa"]);
        check(&[node("aa", Up, 7, |it| it.weight = 300), node("b", Up, 3, |_| {})], &["aa", "b"]);
        let greedy = |it: &mut NodeReport| it.weight = u32::MAX;
        check(&[node("aa", Up, 7_000, greedy), node("b", Up, 500, |_| {})], &["b", "aa"]);
        for gone in [Draining, Ended, Full, Lost, Stale] {
            check(&[node("aa", gone, 0, |_| {}), node("b", Up, 3, |_| {})], &["b"]);
        }
        let nearly = |it: &mut NodeReport| it.redirect_above = Some(10);
        check(&[node("aa", Up, 9, nearly), node("b", Up, 8, nearly)], &["b"]);
        let near = node("near", Up, 100, |it| it.region = "EU".to_owned());
        check(&[node("aa", Up, 0, |_| {}), near], &["near", "aa"]);
    }

    #[test]
    fn few_are_named_of_each_transport_and_family() {
        let names = ["a", "aa", "aaa", "aaaa", "aaaaa"];
        let both = |name: &str| {
            let v6 = |it: &mut NodeReport| it.addresses.push("udp://[2001:db8::1]:3478".to_owned());
            node(name, NodeState::Up, 0, v6)
        };
        let found = alternates(("self", ""), &names.map(both));
        let v4 = found.iter().filter(|server| server.address.is_ipv4()).count();
        assert_eq!((found.len(), v4), (2 * ALTERNATES, ALTERNATES));
        assert_eq!(found.first().unwrap().domain.as_deref(), Some("turn.example"));
        assert_eq!(server("udp://192.0.2.1:1", "192.0.2.1").unwrap().domain, None, "no certificate's name");
        assert_eq!(server("sctp://192.0.2.1:1", "x"), None, "of a later version");
    }

    #[test]
    fn clients_are_sent_to_addresses_that_they_can_reach() {
        let own = [RelayAddress { public: [198, 51, 100, 7].into(), local: [10, 0, 0, 5].into() }];
        let listeners = ["udp://0.0.0.0:3478", "tcp://10.0.0.5:80", "tls://192.0.2.1:443", "udp://[::]:3478"];
        let listeners = listeners.map(|text| text.parse().unwrap());
        let expected = ["udp://198.51.100.7:3478", "tcp://198.51.100.7:80", "tls://192.0.2.1:443"];
        assert_eq!(addresses(&listeners, &own, "turn.example"), expected);
    }

    #[test]
    fn what_only_this_machine_reaches_is_told_to_nobody_else() {
        let loopback = [RelayAddress { public: [127, 0, 0, 1].into(), local: [127, 0, 0, 1].into() }];
        let near = [
            "udp://0.0.0.0:1",
            "udp://127.0.0.2:1",
            "tcp://[::1]:1",
            "udp://169.254.0.1:1",
            "udp://[fe80::1]:1",
        ];
        let near = near.map(|text| text.parse().unwrap());
        assert_eq!(addresses(&near, &loopback, "turn.example"), [""; 0]);
        assert_eq!(addresses(&near, &loopback, "192.0.2.1"), [""; 0]);
        for host in ["localhost", "127.0.0.1", "::1", "a.localhost"] {
            assert_eq!(addresses(&near, &loopback, host).len(), 5, "{host}: everybody is here");
        }
        let private = ["udp://10.0.0.5:1".parse().unwrap()];
        assert_eq!(addresses(&private, &loopback, "turn.example"), ["udp://10.0.0.5:1"]);
    }

    #[test]
    fn a_choice_among_nodes_that_clients_cannot_tell_apart_is_none() {
        use NodeState::{Lost, Up};
        let at = |name: &str, state, url: &str| node(name, state, 0, |it| it.urls = vec![url.to_owned()]);
        let same = [at("a", Up, "turn:all"), at("b", Up, "turn:all")];
        assert!(are_one_to_clients(&same));
        assert!(!are_one_to_clients(&same[..1]), "there is no other");
        assert!(!are_one_to_clients(&[]));
        assert!(!are_one_to_clients(&[at("a", Up, "turn:a"), at("b", Up, "turn:b")]));
        assert!(are_one_to_clients(&[at("a", Up, "turn:a"), at("b", Up, "turn:a"), at("c", Lost, "turn:c")]));
    }

    #[test]
    fn what_the_process_used_is_known() {
        assert!(cpu_ticks().is_some());
    }
}
