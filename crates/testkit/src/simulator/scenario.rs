//! The addresses and limits of one run.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use turn::{
    Cidr, Config, Discovery, KeyLimits, Limits, PeerPolicy, PortRange, Rate, RelayAddress, Source,
    StrangerLimit, Transport,
};

use crate::dice::Dice;
use crate::model::Rules;
use crate::network::Link;

/// Peers that may be reached.
const PEERS: [&str; 8] = [
    "8.8.8.8:5000",
    "8.8.8.8:5001",
    "1.1.1.1:6000",
    "9.9.9.9:7000",
    "[2620:fe::fe]:5000",
    "[2620:fe::fe]:5001",
    "[2606:4700::1111]:6000",
    "[64:ff9b::808:808]:7000",
];

/// Peers that may not, with the default policy and 8.8.4.0/24 denied; the last ones are the server's own.
const FORBIDDEN: [&str; 12] = [
    "10.1.2.3:5000",
    "127.0.0.1:5000",
    "169.254.169.254:80",
    "8.8.4.4:5000",
    "[::1]:5000",
    "[fe80::1]:5000",
    "[::ffff:10.1.2.3]:5000",
    "[64:ff9b::a01:203]:5000",
    "[2002:a01:203::1]:5000",
    "10.0.0.2:22",
    "20.0.0.1:3478",
    "[2606:4700::1]:3478",
];

const DENIED: &str = "8.8.4.0/24";
/// Denied later, by a new policy.
const DENIED_LATER: (&str, &str) = ("1.1.1.0/24", "1.1.1.1");

/// Few enough to be met by clients that begin together.
const FEW_ANSWERS: StrangerLimit = StrangerLimit {
    answers_per_second: 1,
    burst: 4,
    ipv4_prefix: 24,
    ipv6_prefix: 56,
    includes_loopback: false,
};

/// Limits that are met, at rates that divide a second into whole nanoseconds.
pub(super) fn key_limits(dice: &mut Dice) -> KeyLimits {
    let rate = |dice: &mut Dice| Rate {
        packets_per_second: dice.pick(&[None, Some(1), Some(4), Some(20)]),
        bits_per_second: dice.pick(&[None, Some(2_000), Some(80_000)]),
    };
    KeyLimits {
        allocations: dice.pick(&[None, None, Some(1), Some(3)]),
        allocations_per_credential: dice.pick(&[None, None, Some(1), Some(2)]),
        new_peers_per_second: dice.pick(&[None, Some(0), Some(1)]),
        permissions: dice.pick(&[None, Some(2)]),
        channels: dice.pick(&[None, Some(1)]),
        allocation_rate: rate(dice),
        key_rate: rate(dice),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("the scenario's texts are well formed")
}

/// Behind a NAT, which the second address is known by another name for.
fn discovery() -> Discovery {
    let at = |local: &str, public: &str, via| Source { local: parse(local), public: parse(public), via };
    Discovery {
        sources: [
            [at("20.0.0.1:3478", "20.0.0.1:3478", 100), at("20.0.0.1:3479", "20.0.0.1:3479", 101)],
            [at("10.0.0.9:3478", "20.0.0.9:3478", 102), at("10.0.0.9:3479", "20.0.0.9:3479", 103)],
        ],
    }
}

/// One run's surroundings.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) config: Config,
    /// How many workers the server is.
    pub(super) workers: u16,
    pub(super) ports: PortRange,
    pub(super) link: Link,
    pub(super) peers: Vec<SocketAddr>,
    /// Peers that exist and may be reached.
    pub(super) friendly: Vec<SocketAddr>,
    listeners: [SocketAddr; 2],
}

impl Scenario {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let listeners = [parse("20.0.0.1:3478"), parse("[2606:4700::1]:3478")];
        let mut relays = vec![RelayAddress { public: parse("20.0.0.2"), local: parse("10.0.0.2") }];
        if dice.permille(750) {
            relays.push(RelayAddress { public: parse("2606:4700::2"), local: parse("2606:4700::2") });
        }
        let last = dice.pick(&[50_002, 50_040, 50_040]);
        let ports = PortRange::new(50_000, last).expect("a range");
        let limits = Limits {
            allocations: dice.pick(&[2, 100, 100]),
            permissions: dice.pick(&[2, 3, 100, 100]),
            reservations: dice.pick(&[0, 1, 100, 100]),
            channels: dice.pick(&[1, 2, 100, 100]),
            connections: dice.pick(&[1, 2, 16, 16]),
            all_connections: dice.pick(&[3, 100, 100]),
            ..Limits::default()
        };
        let config = Config {
            relay_addresses: relays,
            discovery: if dice.permille(500) { vec![discovery()] } else { vec![] },
            nonce_lifetime_secs: dice.pick(&[300, 600, 3_600]),
            username_lifetime_secs: dice.pick(&[700, 604_800, 604_800]),
            offer_password_algorithms: dice.permille(500),
            mobility: dice.permille(850),
            strict_channels: dice.permille(700),
            limits,
            key_limits: if dice.permille(300) { key_limits(dice) } else { KeyLimits::default() },
            stranger_limit: dice.pick(&[None, Some(FEW_ANSWERS), Some(StrangerLimit::default())]),
            ..Config::default()
        };
        let link = Link {
            delay_ms: dice.below(80),
            jitter_ms: dice.below(60),
            loss_permille: dice.pick(&[0, 20, 100, 250]),
            duplicate_permille: dice.pick(&[0, 50, 200]),
            reorder_permille: dice.pick(&[0, 100, 400]),
        };
        let friendly: Vec<SocketAddr> = PEERS.iter().map(|text| parse(text)).collect();
        let peers = friendly.iter().copied().chain(FORBIDDEN.iter().map(|text| parse(text))).collect();
        let workers = dice.pick(&[1, 1, 2, 3]);
        let mut scenario = Self { config, workers, ports, link, peers, friendly, listeners };
        scenario.config.policy = scenario.policy(false);
        scenario
    }

    pub(super) fn listener(&self, v4: bool) -> SocketAddr {
        let [first, second] = self.listeners;
        if v4 { first } else { second }
    }

    /// The server's policy, before and after one more prefix is denied.
    pub(super) fn policy(&self, later: bool) -> PeerPolicy {
        let mut deny: Vec<Cidr> = vec![parse(DENIED)];
        deny.extend(later.then(|| parse::<Cidr>(DENIED_LATER.0)));
        let relays = &self.config.relay_addresses;
        PeerPolicy::new(vec![], deny).with_own_addresses(&self.listeners, relays, self.ports)
    }

    /// A peer that the later policy denies.
    pub(super) fn denied_later(&self) -> SocketAddr {
        let denied: IpAddr = parse(DENIED_LATER.1);
        self.friendly.iter().copied().find(|peer| peer.ip() == denied).expect("there is one")
    }

    /// A relayed address as peers know it: the host itself may reach it by another.
    pub(super) fn public(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.config.relay_addresses.iter().find(|own| own.local == peer.ip());
        let own = own.filter(|_| self.ports.contains(peer.port()));
        own.map_or(peer, |own| SocketAddr::new(own.public, peer.port()))
    }

    /// The same for the model: by address.
    pub(super) fn forbidden(&self, later: bool) -> BTreeSet<IpAddr> {
        let all = FORBIDDEN.iter().map(|text| parse::<SocketAddr>(text));
        let mut addresses: BTreeSet<IpAddr> =
            all.filter(|peer| !self.listeners.contains(peer)).map(|peer| peer.ip()).collect();
        addresses.extend(later.then(|| parse::<IpAddr>(DENIED_LATER.1)));
        addresses
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            realm: self.config.realm.clone(),
            relays: self.config.relay_addresses.clone(),
            discovery: self.config.discovery.clone(),
            ports: self.ports,
            nonce_lifetime_secs: self.config.nonce_lifetime_secs.into(),
            username_lifetime_secs: self.config.username_lifetime_secs.into(),
            offers_algorithms: self.config.offer_password_algorithms,
            strict_channels: self.config.strict_channels,
            max_allocations: self.config.limits.allocations,
            max_permissions: self.config.limits.permissions,
            max_channels: self.config.limits.channels,
            max_reservations: self.config.limits.reservations,
            key_limits: self.config.key_limits,
            stranger_limit: self.config.stranger_limit,
            max_connections: self.config.limits.connections,
            max_all_connections: self.config.limits.all_connections,
            forbidden: self.forbidden(false),
            mobility: self.config.mobility,
            listeners: self.listeners.into(),
        }
    }

    /// Where the stations sit: two behind one address, one on IPv6, four on streams.
    pub(super) fn stations() -> [(Transport, SocketAddr); 8] {
        [
            (Transport::Udp, parse("81.0.0.1:4000")),
            (Transport::Udp, parse("81.0.0.1:4001")),
            (Transport::Udp, parse("82.0.0.1:4000")),
            (Transport::Udp, parse("[2a00::1]:4000")),
            (Transport::Tcp, parse("81.0.0.1:4000")),
            (Transport::Tcp, parse("[2a00::2]:4000")),
            (Transport::Tcp, parse("81.0.0.1:4001")),
            (Transport::Tcp, parse("82.0.0.1:4000")),
        ]
    }
}
