//! Measures how long questions about usage take when there is much of it: over HTTP, as scripts and the dashboard ask them.
//!
//! `cargo bench-usage` makes a database of its own, fills it with rows as relays would have left them there, tidies up as
//! nodes do, asks, and removes it again.

#![allow(missing_docs)]

mod ask;
mod place;
mod questions;
mod rows;
mod write;

use std::time::Instant;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use control::store::Store;
use control::store::usage::Retention;
use serde::Serialize;

use ask::Service;
use place::Place;

/// Fill a store with usage, ask it everything that scripts and the dashboard ask, and tell how long the answers took.
#[derive(Debug, Parser)]
#[command(name = "bench-usage")]
struct Options {
    /// Rows of usage, most of them by the minute; nine of ten are one account's.
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u64).range(10_000..=200_000_000))]
    rows: u64,
    /// So many other accounts each get a copy of the first one's sums, before anything is asked.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=20))]
    copies: u32,
    /// The database: a PostgreSQL cluster of its own, or a file.
    #[arg(long, value_enum, default_value_t = Kind::Postgres)]
    store: Kind,
    /// How often each question is asked, each time about another time, key or name.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Longest time for all rounds of one question, in seconds; it is asked five times at least.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
    /// Only questions with this in their name.
    #[arg(long)]
    only: Option<String>,
    /// Then show the plan of each of their statements (PostgreSQL).
    #[arg(long)]
    plans: bool,
    /// Once all is filled, wait for a line on standard input: for the machine to become quiet.
    #[arg(long)]
    wait: bool,
    /// Ask a store in PostgreSQL that was filled before, and is left waiting with `--wait` on this machine.
    #[arg(long)]
    url: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Postgres,
    Sqlite,
}

/// How long something took, in milliseconds.
#[derive(Debug, Serialize)]
struct Taken {
    what: String,
    times: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    /// Lines or groups of the last answer.
    groups: usize,
}

impl Taken {
    fn new(what: &str, mut took_ms: Vec<f64>, groups: usize) -> Self {
        took_ms.sort_by(f64::total_cmp);
        let of = |percent: usize| {
            let index = (took_ms.len() * percent).div_ceil(100).saturating_sub(1);
            took_ms.get(index).copied().unwrap_or(f64::NAN)
        };
        let (p50_ms, p95_ms, p99_ms) = (of(50), of(95), of(99));
        Self { what: what.to_owned(), times: took_ms.len(), p50_ms, p95_ms, p99_ms, groups }
    }

    fn print(&self) {
        let Self { what, times, p50_ms, p95_ms, p99_ms, groups } = self;
        println!("{what:<52} {times:>5} {p50_ms:>9.1} {p95_ms:>9.1} {p99_ms:>9.1} {groups:>7}");
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    store: Kind,
    /// As they were generated.
    rows: u64,
    /// Of tables about usage: the name, rows, bytes with indexes.
    tables: Vec<(String, i64, i64)>,
    filling_secs: f64,
    /// Tidying up what was generated.
    tidying_secs: f64,
    writing: Vec<Taken>,
    questions: Vec<Taken>,
    plans: Vec<(String, String)>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(&options))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

async fn run(options: &Options) -> anyhow::Result<Report> {
    let place = match &options.url {
        Some(url) => Place::at(url).await?,
        None => Place::new(options.store)?,
    };
    let store = Store::open(&place.url()).await.context("opening the store")?;
    let (service, (filling_secs, tidying_secs)) = if options.url.is_some() {
        let account = place.account().await?.parse()?;
        (Service::of(store, account).await?, (0.0, 0.0))
    } else {
        let service = Service::start(store).await?;
        let took = fill(&place, &service, options.rows).await?;
        (service, took)
    };
    if options.copies > 0 {
        place.execute(&rows::copies(&service.account, options.copies)).await.context("copying")?;
        place.settle().await?;
    }
    let tables = place.tables().await?;
    for (table, rows, bytes) in &tables {
        eprintln!("{table}: {rows} rows, {} MB", bytes / 1_000_000);
    }
    if options.wait {
        eprintln!("filled: {}", place.url());
        std::io::stdin().read_line(&mut String::new())?;
    }
    let mut questions = Vec::new();
    let mut plans = Vec::new();
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let all = questions::all();
    for question in all.iter().filter(|question| wanted(question.name)) {
        let taken = question.measure(&service, options.rounds, options.patience).await?;
        eprintln!("{}: p95 {:.1} ms", taken.what, taken.p95_ms);
        questions.push(taken);
    }
    if options.plans {
        place.explain(true).await?;
        // The plans of connections that are made now are written down.
        let again = Store::open(&place.url()).await?;
        let explained = Service::of(again, service.account.clone()).await?;
        for question in all.iter().filter(|question| wanted(question.name)) {
            let before = place.log_length();
            question.ask(&explained, 1).await?;
            plans.push((question.name.to_owned(), place.plans_since(before)?));
        }
        place.explain(false).await?;
    }
    let writing = if options.only.is_none() { write::measure(&service).await? } else { vec![] };
    Ok(Report {
        store: options.store,
        rows: options.rows,
        tables,
        filling_secs,
        tidying_secs,
        writing,
        questions,
        plans,
    })
}

/// Fills the store, a day after the other, and tidies up after each, as nodes do every minute. Says how long each took.
async fn fill(place: &Place, service: &Service, rows: u64) -> anyhow::Result<(f64, f64)> {
    let (mut filling_secs, mut tidying_secs) = (0.0, 0.0);
    let parts = rows::parts(place.kind, &service.account, rows);
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let start = Instant::now();
        place.execute(&part).await.with_context(|| part.clone())?;
        if index < 3 {
            place.settle().await?;
        }
        filling_secs += start.elapsed().as_secs_f64();
        let start = Instant::now();
        while !service.store.tidy_usage(&Retention::default()).await? {}
        tidying_secs += start.elapsed().as_secs_f64();
        place.vacuum().await?;
        eprint!("\r{} of {count} parts, {filling_secs:.0} s to fill, {tidying_secs:.0} s to tidy", index + 1);
    }
    eprintln!();
    place.settle().await?;
    place.make_safe().await?;
    Ok((filling_secs, tidying_secs))
}

fn print(report: &Report) {
    println!(
        "{} rows, generated in {:.0} s, tidied up in {:.0} s",
        report.rows, report.filling_secs, report.tidying_secs
    );
    for (table, rows, bytes) in &report.tables {
        println!("    {table:<24} {rows:>10} rows {:>8} MB", bytes / 1_000_000);
    }
    println!(
        "{:<52} {:>5} {:>9} {:>9} {:>9} {:>7}",
        "question", "times", "p50 ms", "p95 ms", "p99 ms", "groups"
    );
    for taken in report.questions.iter().chain(&report.writing) {
        taken.print();
    }
    for (name, plan) in &report.plans {
        println!("\n## {name}\n\n{plan}");
    }
}
