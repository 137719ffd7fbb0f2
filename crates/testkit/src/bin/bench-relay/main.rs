//! Measures how many packets a TURN server relays, and what one costs it, beside another server in the same run.
//!
//! Servers take turns on one core, the load has another to itself; the figures are the medians of the rounds.
//! Only ratios within one run mean anything: machines, kernels and neighbours differ too much for the rest.

mod load;
mod stream;
mod subject;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde::Serialize;
use turn::Transport;

use load::{Load, Sample};
use subject::{Subject, Tester};

/// Relay ChannelData in both directions through Turnery and coturn, in turns, and compare.
#[derive(Debug, Parser)]
#[command(name = "bench-relay")]
struct Options {
    /// Servers to measure, in the order they take turns.
    #[arg(long, value_delimiter = ',', default_value = "turnery,coturn")]
    subjects: Vec<Subject>,
    /// How clients reach the server.
    #[arg(long, default_value = "udp")]
    transport: Carriage,
    /// Clients and packets each sends at a time, as CLIENTS:BURST; several with commas.
    #[arg(long, value_delimiter = ',', default_value = "1:16,100:4,1000:1")]
    cases: Vec<Case>,
    /// Bytes of application data in a packet, 1 to 1400.
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u16).range(1..=1400))]
    payload: u16,
    /// Packets on the way at once, over all clients.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// The Turnery binary; `cargo build --release` makes it.
    #[arg(long, default_value = "target/release/turnery")]
    turnery: std::path::PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured, as it is written.
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

#[derive(Debug, Clone, Copy, Serialize)]
struct Case {
    clients: usize,
    burst: usize,
}

impl std::str::FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (clients, burst) = text.split_once(':').context("a case is written CLIENTS:BURST")?;
        let case = Self { clients: clients.parse()?, burst: burst.parse()? };
        ensure!((1..=2_000).contains(&case.clients), "clients must be 1 to 2000");
        ensure!((1..=64).contains(&case.burst), "a burst is 1 to 64 packets");
        Ok(case)
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    subject: Subject,
    case: Case,
    /// Medians over the rounds.
    packets_per_sec: f64,
    /// Nanoseconds of the server's CPU time for each packet it relayed.
    cpu_ns_per_packet: f64,
    /// Packets that had to be sent anew because they never came back, of all rounds.
    lost: u64,
    rounds: Vec<Sample>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        bail!("two cores are needed: one for the server, one for the load");
    }
    testkit::pinned::pin(std::process::id(), 1)?;
    let mut rows = Vec::new();
    for case in &options.cases {
        let mut samples = vec![Vec::new(); options.subjects.len()];
        for round in 0..usize::from(options.rounds) {
            // Every subject is first and last as often as the others.
            for turn in 0..options.subjects.len() {
                let index = (round + turn) % options.subjects.len();
                let (Some(subject), Some(of_subject)) = (options.subjects.get(index), samples.get_mut(index))
                else {
                    continue;
                };
                let sample = measure(&options, *subject, *case)
                    .with_context(|| format!("measuring {subject} with {} clients", case.clients))?;
                eprintln!(
                    "{subject} {}:{} round {}: {:.0} packets/s, {:.2} µs",
                    case.clients,
                    case.burst,
                    round + 1,
                    sample.packets_per_sec(),
                    sample.cpu_ns_per_packet() / 1_000.0
                );
                of_subject.push(sample);
            }
        }
        for (subject, rounds) in options.subjects.iter().zip(samples) {
            rows.push(Row {
                subject: *subject,
                case: *case,
                packets_per_sec: median(rounds.iter().map(Sample::packets_per_sec)),
                cpu_ns_per_packet: median(rounds.iter().map(Sample::cpu_ns_per_packet)),
                lost: rounds.iter().map(|sample| sample.lost).sum(),
                rounds,
            });
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&options, &rows);
    }
    Ok(())
}

fn measure(options: &Options, subject: Subject, case: Case) -> anyhow::Result<Sample> {
    let server = Tester::start(subject, options.transport.transport(), &options.turnery)?;
    let mut load = Load::start(&server, case.clients, case.burst, options.payload.into(), options.window)?;
    load.run(&server, Duration::from_millis(500))?;
    load.run(&server, Duration::from_secs(options.seconds.into()))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_table(options: &Options, rows: &[Row]) {
    println!(
        "ChannelData over {} on loopback, both directions, {} B, window {}, medians of {} rounds",
        options.transport.transport().label().to_uppercase(),
        options.payload,
        options.window,
        options.rounds
    );
    println!(
        "{:<10} {:>8} {:>6} {:>12} {:>12} {:>7} {:>10}",
        "server", "clients", "burst", "packets/s", "CPU µs/pkt", "lost", "vs last"
    );
    for case in rows.chunk_by(|a, b| (a.case.clients, a.case.burst) == (b.case.clients, b.case.burst)) {
        let base = case.last().map_or(f64::NAN, |row| row.cpu_ns_per_packet);
        for row in case {
            println!(
                "{:<10} {:>8} {:>6} {:>12.0} {:>12.2} {:>7} {:>9.2}×",
                row.subject.to_string(),
                row.case.clients,
                row.case.burst,
                row.packets_per_sec,
                row.cpu_ns_per_packet / 1_000.0,
                row.lost,
                base / row.cpu_ns_per_packet
            );
        }
    }
}
