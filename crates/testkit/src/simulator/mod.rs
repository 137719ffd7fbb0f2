//! Many clients and peers, right and wrong ones, against one server, held against the model after every step.
//!
//! One seed decides everything: [`run`] with the same seed does the same again, to the byte. A run ends with all
//! allocations closed and checks that no port is left taken.

mod accounts;
mod actions;
mod letters;
mod lockstep;
mod scenario;
mod sockets;
mod tcp;
mod travel;
mod world;
mod wrong;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash};
use std::panic::{AssertUnwindSafe, catch_unwind};

use world::World;

/// How many things a run does, unless told otherwise. Each leads to more: answers, retransmissions, timers.
pub const ACTIONS: u32 = 600;
/// How many of the last events a failure shows.
const SHOWN: usize = 40;

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of every input and output, in order: equal for equal runs.
    pub trace: u64,
    /// How many inputs the server was given.
    pub steps: u64,
    /// How many allocations were made.
    pub allocations: u64,
    /// How many datagrams went from clients to peers.
    pub to_peers: u64,
    /// How many datagrams went from peers to clients.
    pub to_clients: u64,
    /// How many inputs came to nothing.
    pub silences: u64,
    /// How many error responses there were, by code.
    pub refusals: BTreeMap<u16, u64>,
    /// The same by reason, and how many inputs came to nothing by theirs.
    pub reasons: BTreeMap<String, u64>,
    /// How many success responses there were, by method.
    pub successes: BTreeMap<u16, u64>,
    /// How many allocations ended, by reason.
    pub ends: BTreeMap<&'static str, u64>,
    /// How often each of the rarer features was used with success.
    pub features: BTreeMap<&'static str, u64>,
    /// How many payloads the well-behaved clients were handed.
    pub delivered: u64,
}

/// Where server and model came apart.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// Which input, counted from 1.
    pub step: u64,
    /// What differs.
    pub fault: String,
    /// What happened before, the last at the end.
    pub recent: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.recent {
            writeln!(f, "  {event}")?;
        }
        writeln!(f, "seed {} step {}: {}", self.seed, self.step, self.fault)?;
        write!(f, "replay with TURNERY_SIM_SEED={}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// What has happened: all of it as a hash, the last of it in words.
#[derive(Debug, Default)]
struct Trace {
    hasher: DefaultHasher,
    recent: VecDeque<String>,
}

impl Trace {
    fn record(&mut self, event: String, bytes: &[u8]) {
        event.hash(&mut self.hasher);
        bytes.hash(&mut self.hasher);
        if self.recent.len() == SHOWN {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
    }
}

/// Runs one simulation.
///
/// # Errors
/// When the server does not do what the model says.
pub fn run(seed: u64) -> Result<Report, Failure> {
    run_actions(seed, ACTIONS)
}

/// Runs one simulation of this many actions.
///
/// # Errors
/// When the server does not do what the model says, or panics.
pub fn run_actions(seed: u64, actions: u32) -> Result<Report, Failure> {
    let mut world = World::new(seed);
    let done = catch_unwind(AssertUnwindSafe(|| world.run(actions)));
    let fault = match done {
        Ok(Ok(())) => return Ok(world.report()),
        Ok(Err(fault)) => fault,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panicked: {}", text.unwrap_or("without a message"))
        }
    };
    let lane = &world.lockstep;
    Err(Failure { seed, step: lane.report.steps, fault, recent: lane.trace.recent.iter().cloned().collect() })
}
