//! Measures how many credentials `generate-ice-servers` hands out, beside a server that only says hello.
//!
//! The servers take turns on one core, the load has another to itself; the figures are the medians of the rounds.
//! Only ratios within one run mean anything: machines, kernels and neighbours differ too much for the rest.

mod load;
mod subject;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;
use testkit::pinned::median;

use load::Load;
use subject::{Server, Subject};

/// Mint credentials over HTTP/1.1 on one core, beside a bare axum server, in turns, and compare.
#[derive(Debug, Parser)]
#[command(name = "bench-mint")]
struct Options {
    /// Servers to measure, in the order they take turns.
    #[arg(long, value_delimiter = ',', default_value = "turnery,hello")]
    subjects: Vec<Subject>,
    /// Connections that are kept open, each with one request on the way.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// The Turnery binary; `cargo build --release` makes it.
    #[arg(long, default_value = "target/release/turnery")]
    turnery: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be the server that only says hello: what this program starts for itself.
    #[command(hide = true)]
    Hello { address: std::net::SocketAddr },
}

/// What one measurement found.
#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    requests_per_sec: f64,
    /// Of the server.
    cpu_ns_per_request: f64,
    p50_us: f64,
    p99_us: f64,
}

/// One line of the result: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    subject: Subject,
    median: Sample,
    rounds: Vec<Sample>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(Role::Hello { address }) = options.role {
        return subject::hello(address);
    }
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the server, one for the load");
    }
    testkit::pinned::pin(std::process::id(), 1)?;
    let mut samples = vec![Vec::new(); options.subjects.len()];
    for round in 0..usize::from(options.rounds) {
        // Every subject is first and last as often as the others.
        for turn in 0..options.subjects.len() {
            let index = (round + turn) % options.subjects.len();
            let (Some(subject), Some(of_subject)) = (options.subjects.get(index), samples.get_mut(index))
            else {
                continue;
            };
            let sample = measure(&options, *subject).with_context(|| format!("measuring {subject}"))?;
            eprintln!("{subject} round {}: {:.0} requests/s", round + 1, sample.requests_per_sec);
            of_subject.push(sample);
        }
    }
    let rows: Vec<Row> = options
        .subjects
        .iter()
        .zip(samples)
        .map(|(subject, rounds)| Row { subject: *subject, median: of_rounds(&rounds), rounds })
        .collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&options, &rows);
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn measure(options: &Options, subject: Subject) -> anyhow::Result<Sample> {
    let server = Server::start(subject, &options.turnery)?;
    let mut load = Load::connect(server.address(), options.connections, server.request())?;
    load.run(Duration::from_secs(1))?;
    let before_ns = server.cpu_ns()?;
    let seen = load.run(Duration::from_secs(options.seconds.into()))?;
    let cpu_ns = server.cpu_ns()? - before_ns;
    ensure!(seen.requests > 0, "nothing was answered");
    Ok(Sample {
        requests_per_sec: seen.requests as f64 / seen.seconds,
        cpu_ns_per_request: cpu_ns as f64 / seen.requests as f64,
        p50_us: seen.percentile(50),
        p99_us: seen.percentile(99),
    })
}

fn of_rounds(samples: &[Sample]) -> Sample {
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
    Sample {
        requests_per_sec: of(|sample| sample.requests_per_sec),
        cpu_ns_per_request: of(|sample| sample.cpu_ns_per_request),
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
    }
}

fn print_table(options: &Options, rows: &[Row]) {
    println!(
        "HTTP/1.1 on loopback, {} connections, server on one core, medians of {} rounds",
        options.connections, options.rounds
    );
    println!(
        "{:<10} {:>12} {:>12} {:>10} {:>10} {:>8}",
        "server", "requests/s", "CPU µs/req", "p50 µs", "p99 µs", "vs last"
    );
    let last = rows.last().map_or(f64::NAN, |row| row.median.requests_per_sec);
    for Row { subject, median, .. } in rows {
        println!(
            "{subject:<10} {:>12.0} {:>12.2} {:>10.0} {:>10.0} {:>7.2}×",
            median.requests_per_sec,
            median.cpu_ns_per_request / 1_000.0,
            median.p50_us,
            median.p99_us,
            median.requests_per_sec / last
        );
    }
}
