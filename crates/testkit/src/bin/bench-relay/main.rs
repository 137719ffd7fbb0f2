//! Measures what a TURN server does and what that costs it, beside other servers in the same run.
//!
//! Servers take turns on one core, the load has another to itself; the figures are the medians of the rounds.
//! Only ratios within one run mean anything: machines, kernels and neighbours differ too much for the rest.

mod callers;
mod cycles;
mod datagrams;
mod floor;
mod frames;
mod idle;
mod load;
mod plan;
mod report;
mod sample;
mod stream;
mod subject;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde::Serialize;
use turn::Transport;

use cycles::Cycles;
use load::Load;
use plan::{Line, Mode, Wishes, Written};
use report::{Figures, Measured};
use sample::{Pace, Sample};
use subject::{Server, Subject};
use testkit::pinned;

/// How long idle allocations are left alone, and then watched: reports of new sessions come within 5 seconds.
const IDLE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(6));

/// Measure Turnery beside coturn and a bare forwarder, in turns, and hold it against its targets.
#[derive(Debug, Parser)]
#[command(name = "bench-relay", max_term_width = 100)]
struct Options {
    /// Servers to measure, in the order they take turns.
    #[arg(long, value_delimiter = ',', default_value = "turnery,coturn,floor")]
    subjects: Vec<Subject>,
    /// What to measure; all of it by default.
    #[arg(long, value_delimiter = ',')]
    modes: Vec<Mode>,
    /// How clients reach the server; over TCP and TLS ChannelData is measured only.
    #[arg(long, value_delimiter = ',', default_value = "udp,tcp,tls")]
    transport: Vec<Carriage>,
    /// Instead of each mode's own cases: clients and packets each sends at a time, as CLIENTS:BURST or
    /// CLIENTS:BURST:PAYLOAD; several with commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Written>,
    /// Bytes of application data in a packet, 20 to 1400, instead of each case's own.
    #[arg(long, value_parser = clap::value_parser!(u16).range(i64::from(frames::MIN_PAYLOAD)..=1400))]
    payload: Option<u16>,
    /// Packets on the way at once, over all clients, and at least a burst of each.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Packets a second at the fixed rate, both directions together.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Idle allocations.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    allocations: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// Workers of Turnery, each with a core of its own; of more than one the load shares the cores, so that only the CPU
    /// time for each packet means anything.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// One round of short measurements: whether everything works, about a minute.
    #[arg(long)]
    quick: bool,
    /// As few of everything as there can be: for a test of this program itself.
    #[arg(long, hide = true)]
    smoke: bool,
    /// The Turnery binary; `cargo build --release` makes it.
    #[arg(long, default_value = "target/release/turnery")]
    turnery: PathBuf,
    /// Print JSON with every round instead of a table.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the bare forwarder: what this program starts for itself.
    #[command(hide = true)]
    Floor {
        address: SocketAddr,
        /// Whether an Allocate without credentials is refused, and nothing is ever signed.
        #[arg(long)]
        challenges: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Carriage {
    Udp,
    Tcp,
    Tls,
}

impl Carriage {
    fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
        }
    }
}

/// What is said as JSON.
#[derive(Debug, Serialize)]
struct Told {
    machine: Machine,
    window: u32,
    rounds: u8,
    lines: Vec<Measured>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
}

impl Machine {
    fn here(cores: usize) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.map_or_else(String::new, |(_, model)| model.to_owned()),
            cores,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Floor { address, challenges }) = options.role {
        return floor::serve(address, challenges);
    }
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        bail!("two cores are needed: one for the server, one for the load");
    }
    if options.workers == 1 {
        pinned::pin(std::process::id(), 1)?;
    }
    raise_open_files()?;
    let lines = plan(&options).into_iter().map(|line| measure_in_turns(&options, line));
    let lines = lines.collect::<anyhow::Result<Vec<_>>>()?;
    if options.json {
        let told =
            Told { machine: Machine::here(cores), window: options.window, rounds: rounds(&options), lines };
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        let Machine { kernel, cpu, cores } = Machine::here(cores);
        println!("Linux {kernel}, {cores} cores, {cpu}");
        println!("loopback, a window of {}, medians of {} rounds", options.window, rounds(&options));
        report::print(&lines);
    }
    Ok(())
}

fn rounds(options: &Options) -> u8 {
    if options.quick || options.smoke { 1 } else { options.rounds }
}

fn plan(options: &Options) -> Vec<Line> {
    let all = <Mode as clap::ValueEnum>::value_variants();
    let transports: Vec<Transport> = options.transport.iter().map(|it| it.transport()).collect();
    let (allocations, most_clients) = match (options.smoke, options.quick) {
        (true, _) => (20, 4),
        (false, true) => (1_000, usize::MAX),
        (false, false) => (options.allocations as usize, usize::MAX),
    };
    plan::plan(&Wishes {
        modes: if options.modes.is_empty() { all } else { &options.modes },
        transports: &transports,
        cases: &options.cases,
        payload: options.payload,
        rate: if options.smoke { 1_000 } else { options.rate },
        allocations,
        most_clients: most_clients.max(if options.smoke { 4 } else { allocations }),
    })
}

/// The clients' connections, and the children's relayed addresses.
fn raise_open_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

fn measure_in_turns(options: &Options, line: Line) -> anyhow::Result<Measured> {
    let subjects = line.subjects(&options.subjects);
    let mut samples = vec![Vec::new(); subjects.len()];
    for round in 0..usize::from(rounds(options)) {
        // Every subject is first and last as often as the others.
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let (Some(subject), Some(of_subject)) = (subjects.get(index), samples.get_mut(index)) else {
                continue;
            };
            let sample =
                measure(options, *subject, &line).with_context(|| format!("{line}: measuring {subject}"))?;
            eprintln!("{}", report::round(&line, *subject, round + 1, &sample));
            of_subject.push(sample);
        }
    }
    let figures = subjects.into_iter().zip(samples).map(|(subject, rounds)| Figures::new(subject, rounds));
    let figures = figures.collect();
    Ok(Measured::new(line, figures))
}

fn measure(options: &Options, subject: Subject, line: &Line) -> anyhow::Result<Sample> {
    let challenges = line.mode == Mode::Allocations;
    let server =
        Server::start(subject, line.transport, (&options.turnery, options.workers.into()), challenges)?;
    let measured = match (options.smoke, options.quick) {
        (true, _) => Duration::from_millis(50),
        (false, true) => Duration::from_millis(500),
        (false, false) => Duration::from_secs(options.seconds.into()),
    };
    let pace = Pace {
        warm: measured.min(Duration::from_millis(300)),
        measured,
        // A whole window takes a server a few milliseconds. Where a test shares its cores with others, what is late is
        // not lost.
        stall: Duration::from_millis(if options.smoke { 5_000 } else { 20 }),
        patience: Duration::from_millis(if options.smoke { 5_000 } else { 200 }),
    };
    match line.mode {
        Mode::Allocations => Cycles::start(&server, line.case.clients)?.run(&server, pace),
        Mode::Idle => {
            let (settle, time) = if options.smoke || options.quick { (measured, measured) } else { IDLE };
            idle::measure(&server, line.case.clients, settle, time)
        }
        Mode::FixedRate => {
            let mut load = Load::start(&server, line.mode, line.case, options.window)?;
            // Whatever else the machine does would make packets wait for milliseconds.
            let go_first = |first| server.put_first(first) && pinned::favour(std::process::id(), first);
            let alone = !options.smoke && options.workers == 1;
            if alone && !go_first(true) {
                eprintln!("this system lets nobody go first: others' work makes packets late");
            }
            let measured = load.run_at(line.rate.context("a fixed rate")?, &server, pace);
            if alone {
                go_first(false);
            }
            measured
        }
        Mode::ChannelData | Mode::Indications | Mode::RelayToRelay | Mode::Binding => {
            Load::start(&server, line.mode, line.case, options.window)?.run(&server, pace)
        }
    }
}
