//! Tests any STUN and TURN server from outside, over its sockets: one named check for each requirement.
//!
//! Exit code 0: no check failed; 1: some did; 2: the tests could not be run.

mod check;
mod checks;
mod client;
mod link;
mod message;
mod outcome;
mod path;
mod peer;
mod report;
mod sha256;
mod target;
mod tcp_peer;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use stun::Method;

use crate::check::Check;
use crate::client::Client;
use crate::message::Request;
use crate::outcome::Verdict;
use crate::report::Report;
use crate::target::{Target, Transport, User};

/// Tests a TURN server against RFC 8489, 8656, 6062, 8016 and 5780.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
struct Options {
    /// The server, as HOST:PORT.
    #[arg(required_unless_present_any = ["list", "markdown"])]
    server: Option<String>,
    /// The user's name.
    #[arg(long, required_unless_present_any = ["list", "markdown"])]
    user: Option<String>,
    /// The user's password.
    #[arg(long, required_unless_present_any = ["list", "markdown"])]
    password: Option<String>,
    /// A second user's name.
    #[arg(long, requires = "alt_password")]
    alt_user: Option<String>,
    /// The second user's password.
    #[arg(long, requires = "alt_user")]
    alt_password: Option<String>,
    /// What clients speak to the server over.
    #[arg(long, default_value = "udp")]
    transport: Transport,
    /// Where peers are: an IPv4 address of this machine that the server may relay to.
    #[arg(long, default_value = "127.0.0.1")]
    peer_host: IpAddr,
    /// Only checks whose name fits, * for anything; repeatable.
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// How many checks run at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only print the checks' names.
    #[arg(long)]
    list: bool,
    /// Test nothing: put saved --json results side by side in a Markdown table.
    #[arg(long, value_name = "LABEL=FILE", num_args = 1.., conflicts_with_all = ["json", "list"])]
    markdown: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if !options.markdown.is_empty() {
        let columns: Vec<(String, Report)> =
            options.markdown.iter().map(|text| read_column(text)).collect::<anyhow::Result<_>>()?;
        write!(out, "{}", report::markdown(&columns))?;
        return Ok(ExitCode::SUCCESS);
    }
    let checks = chosen(&options.only)?;
    if options.list {
        for check in &checks {
            writeln!(out, "{}", check.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let target = target(options)?;
    expect_a_server(&target)?;
    let findings = check::run(&target, &checks, options.threads.into());
    let report = Report::new(&target, findings);
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", report.table())?;
    }
    Ok(ExitCode::from(u8::from(report.failed > 0)))
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<Check>> {
    let mut checks = checks::all();
    checks.retain(|check| only.is_empty() || only.iter().any(|pattern| check::fits(pattern, check.name)));
    ensure!(!checks.is_empty(), "no check's name fits {}; see --list", only.join(" or "));
    Ok(checks)
}

fn target(options: &Options) -> anyhow::Result<Target> {
    let name = options.server.as_deref().context("no server is given")?;
    let mut addresses: Vec<SocketAddr> =
        name.to_socket_addrs().with_context(|| format!("{name} is no HOST:PORT"))?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let server = addresses.first().copied().with_context(|| format!("{name} has no address"))?;
    ensure!(options.peer_host.is_ipv4(), "--peer-host must be an IPv4 address");
    let user = |name: &Option<String>, password: &Option<String>| {
        Some(User { name: name.clone()?, password: password.clone()? })
    };
    Ok(Target {
        server,
        transport: options.transport,
        user: user(&options.user, &options.password).context("--user and --password are needed")?,
        other: user(&options.alt_user, &options.alt_password),
        peer_host: options.peer_host,
    })
}

/// A server that is not there, or a wrong password, is no finding about conformance.
fn expect_a_server(target: &Target) -> anyhow::Result<()> {
    let tried = Client::open(target)
        .and_then(|mut client| client.answer(&Request::new(Method::BINDING).bytes()))
        .and_then(|_| Client::allocated(target));
    match tried {
        Ok(_) => Ok(()),
        Err(Verdict::Failed(why) | Verdict::NotApplicable(why)) => {
            bail!("{} over {} is not ready to be tested: {why}", target.server, target.transport)
        }
    }
}

fn read_column(text: &str) -> anyhow::Result<(String, Report)> {
    let (label, file) = text.split_once('=').with_context(|| format!("{text} is not LABEL=FILE"))?;
    let file = PathBuf::from(file);
    let json = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let report = serde_json::from_str(&json).with_context(|| format!("{} is no result", file.display()))?;
    Ok((label.to_owned(), report))
}
