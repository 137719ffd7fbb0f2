//! What is measured, and what is aimed at.

use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;
use turn::Transport;

use crate::frames::MIN_PAYLOAD;
use crate::sample::Sample;
use crate::subject::Subject;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Packets between clients and a peer, in channels.
    ChannelData,
    /// The same in Send and Data indications.
    Indications,
    /// Packets between clients of the server: each one's peer is another's relayed address.
    RelayToRelay,
    /// 401, Allocate, Refresh with 0, each time from another client.
    Allocations,
    /// Binding requests.
    Binding,
    /// Packets at a fixed rate, and how long they take.
    FixedRate,
    /// Memory and CPU time of allocations that nobody uses.
    Idle,
}

impl Mode {
    /// What is counted.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::ChannelData | Self::Indications | Self::RelayToRelay | Self::FixedRate => "packets",
            Self::Allocations => "cycles",
            Self::Binding => "requests",
            Self::Idle => "allocations",
        }
    }

    /// Whether the floor can do it over this transport.
    const fn has_floor(self, transport: Transport) -> bool {
        matches!(transport, Transport::Udp)
            && matches!(self, Self::ChannelData | Self::Allocations | Self::FixedRate)
    }
}

/// Clients, packets each sends at a time, and bytes of data in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) clients: usize,
    pub(crate) burst: usize,
    pub(crate) payload: u16,
}

/// A case as it is written: CLIENTS:BURST or CLIENTS:BURST:PAYLOAD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) clients: usize,
    pub(crate) burst: usize,
    pub(crate) payload: Option<u16>,
}

impl std::str::FromStr for Written {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (clients, rest) =
            text.split_once(':').context("a case is written CLIENTS:BURST or CLIENTS:BURST:PAYLOAD")?;
        let (burst, payload) = match rest.split_once(':') {
            Some((burst, payload)) => (burst, Some(payload.parse()?)),
            None => (rest, None),
        };
        let written = Self { clients: clients.parse()?, burst: burst.parse()?, payload };
        ensure!((1..=2_000).contains(&written.clients), "clients must be 1 to 2000");
        ensure!((1..=64).contains(&written.burst), "a burst is 1 to 64 packets");
        let payloads = MIN_PAYLOAD..=1_400;
        ensure!(written.payload.is_none_or(|it| payloads.contains(&it)), "a payload is 20 to 1400 bytes");
        Ok(written)
    }
}

/// One line of the plan: all subjects in turns.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) mode: Mode,
    #[serde(serialize_with = "label")]
    pub(crate) transport: Transport,
    pub(crate) case: Case,
    /// Packets a second, at a fixed rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<u64>,
    #[serde(skip)]
    pub(crate) targets: Vec<Target>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn label<S: serde::Serializer>(transport: &Transport, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(transport.label())
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, transport, case: Case { clients, burst, payload }, .. } = self;
        let over = transport.label().to_uppercase();
        let who = if *clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let what = match burst {
            1 => format!("single packets, {payload} B"),
            _ => format!("bursts of {burst}, {payload} B"),
        };
        match mode {
            Mode::ChannelData => write!(f, "ChannelData over {over}, {who}, {what}"),
            Mode::Indications => write!(f, "Send and Data indications over {over}, {who}, {what}"),
            Mode::RelayToRelay => write!(f, "relay to relay over {over}, {who}, {what}"),
            Mode::Allocations => write!(f, "401, Allocate, Refresh 0 over {over}, {who} at once"),
            Mode::Binding if *burst == 1 => write!(f, "Binding over {over}, {who}, single requests"),
            Mode::Binding => write!(f, "Binding over {over}, {who}, bursts of {burst}"),
            Mode::FixedRate => {
                write!(f, "{} packets/s over {over}, {who}, {what}", self.rate.unwrap_or_default())
            }
            Mode::Idle => write!(f, "{clients} idle allocations, a permission and a channel each"),
        }
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    Rate,
    Cpu,
    P99,
    Resident,
    IdleCpu,
}

impl Measure {
    /// Its value in one sample.
    pub(crate) fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Rate => sample.per_sec(),
            Self::Cpu => sample.cpu_us(),
            Self::P99 => sample.latency.map_or(f64::NAN, |latency| latency.p99_us),
            Self::Resident => sample.memory.map_or(f64::NAN, |memory| memory.resident_per_allocation()),
            Self::IdleCpu => sample.cpu_share(),
        }
    }

    /// Of a rate more is better, of all else less.
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::Rate)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Cpu => "CPU",
            Self::P99 => "p99",
            Self::Resident => "resident",
            Self::IdleCpu => "CPU of a core",
        }
    }
}

/// A ratio of Turnery's figure to another's, or without another the figure itself: at least so much of a rate, at
/// most so much of anything else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Target {
    pub(crate) measure: Measure,
    pub(crate) against: Option<Subject>,
    pub(crate) wanted: f64,
}

const fn coturn(measure: Measure, wanted: f64) -> Target {
    Target { measure, against: Some(Subject::Coturn), wanted }
}

const fn floor(measure: Measure, wanted: f64) -> Target {
    Target { measure, against: Some(Subject::Floor), wanted }
}

const fn alone(measure: Measure, wanted: f64) -> Target {
    Target { measure, against: None, wanted }
}

/// What is asked for on the command line.
#[derive(Debug)]
pub(crate) struct Wishes<'a> {
    pub(crate) modes: &'a [Mode],
    pub(crate) transports: &'a [Transport],
    /// Instead of each mode's own.
    pub(crate) cases: &'a [Written],
    pub(crate) payload: Option<u16>,
    pub(crate) rate: u64,
    pub(crate) allocations: usize,
    /// At most so many clients.
    pub(crate) most_clients: usize,
}

/// The whole table, or as much of it as is asked for.
pub(crate) fn plan(wishes: &Wishes<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for mode in wishes.modes {
        for transport in wishes.transports {
            // Streams carry the same messages; what they cost is seen with channels.
            if *transport != Transport::Udp && *mode != Mode::ChannelData {
                continue;
            }
            for case in cases(*mode, wishes) {
                let case = Case { clients: case.clients.min(wishes.most_clients), ..case };
                let rate = (*mode == Mode::FixedRate).then_some(wishes.rate);
                let targets = targets(*mode, *transport, case);
                lines.push(Line { mode: *mode, transport: *transport, case, rate, targets });
            }
        }
    }
    lines
}

fn cases(mode: Mode, wishes: &Wishes<'_>) -> Vec<Case> {
    let own: &[(usize, usize, u16)] = match mode {
        Mode::ChannelData => &[(1, 16, 160), (1, 16, 1_200), (100, 4, 160), (1_000, 1, 160)],
        Mode::Indications | Mode::RelayToRelay => &[(100, 4, 160)],
        Mode::Binding => &[(1, 16, 160), (100, 4, 160), (1_000, 1, 160)],
        Mode::Allocations => &[(1, 1, 160), (32, 1, 160)],
        Mode::FixedRate => &[(1_000, 1, 160)],
        Mode::Idle => {
            return vec![Case { clients: wishes.allocations, burst: 1, payload: 160 }];
        }
    };
    let payload = |own| wishes.payload.unwrap_or(own);
    if wishes.cases.is_empty() {
        let mut all: Vec<Case> =
            own.iter().map(|&(clients, burst, own)| Case { clients, burst, payload: payload(own) }).collect();
        all.dedup();
        return all;
    }
    let given = wishes.cases.iter().map(|written| Case {
        clients: written.clients,
        burst: written.burst,
        payload: written.payload.unwrap_or(payload(160)),
    });
    // Clients that send to each other come in pairs.
    let even = |case: Case| match mode {
        Mode::RelayToRelay => Case { clients: case.clients.next_multiple_of(2), ..case },
        _ => case,
    };
    given.map(even).collect()
}

fn targets(mode: Mode, transport: Transport, case: Case) -> Vec<Target> {
    use Measure::{Cpu, IdleCpu, P99, Rate, Resident};
    match (mode, transport, case.clients, case.burst) {
        (Mode::ChannelData, Transport::Udp, 1, 16) => {
            vec![coturn(Rate, 4.5), coturn(Cpu, 1.0 / 4.5), floor(Rate, 0.85)]
        }
        (Mode::ChannelData, Transport::Udp, 100, 4) => vec![coturn(Rate, 2.5), floor(Rate, 0.85)],
        (Mode::ChannelData, Transport::Udp, 1_000, 1) => vec![coturn(Rate, 1.5), floor(Rate, 0.9)],
        (Mode::ChannelData, Transport::Tcp, 100, _) | (Mode::Binding, Transport::Udp, ..) => {
            vec![coturn(Rate, 2.0)]
        }
        (Mode::ChannelData, Transport::Tls, 100, _) => vec![coturn(Rate, 1.5)],
        (Mode::Indications, Transport::Udp, 100, 4) => vec![coturn(Rate, 2.5)],
        (Mode::RelayToRelay, Transport::Udp, 100, _) => vec![coturn(Rate, 3.0)],
        // One after the other, the server sleeps between any two requests.
        (Mode::Allocations, Transport::Udp, 2.., _) => vec![coturn(Rate, 3.0), floor(Rate, 0.85)],
        (Mode::FixedRate, ..) => vec![coturn(P99, 1.0 / 8.0), floor(P99, 1.5)],
        (Mode::Idle, ..) => {
            vec![coturn(Resident, 0.1), alone(Resident, 2_048.0), alone(IdleCpu, 0.000_5)]
        }
        _ => Vec::new(),
    }
}

impl Line {
    /// Who takes part, of those asked for.
    pub(crate) fn subjects(&self, wanted: &[Subject]) -> Vec<Subject> {
        let takes_part = |it: &&Subject| **it != Subject::Floor || self.mode.has_floor(self.transport);
        wanted.iter().filter(takes_part).copied().collect()
    }
}
