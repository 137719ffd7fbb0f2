//! What it costs one database that many nodes follow its deny feed, and how long news takes: a model with a virtual clock,
//! without any database.
//!
//! Revocations come at random. Each is told to all nodes, or found by looking; a node that is told waits a moment, for what
//! else is about to be said, and asks. The database answers one question after the other on each of its cores. A node has one
//! question under way at a time; what it is told meanwhile it asks about afterwards, at once. So what a fleet asks has a bound,
//! and when the database is at its limit news is late and not lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::dice::Dice;

/// How long a node waits that was told. As `control::feed` has it.
const WAKE_PAUSE_US: u64 = 5_000;
/// How often a node looks that is told, and one that is not.
const WOKEN_POLL_US: u64 = 1_000_000;
const POLL_US: u64 = 200_000;
/// For how long a revocation is in the feed at most: what the longest credential has left.
pub const LONGEST_HOURS: u64 = 48;
const SECOND_US: u64 = 1_000_000;

/// A fleet and its database.
#[derive(Debug, Clone, Copy)]
pub struct Tailing {
    /// Nodes that follow.
    pub nodes: usize,
    /// Revocations in a day.
    pub revocations_a_day: u64,
    /// Whether the database says what is new.
    pub told: bool,
    /// Processor time of the database for one look of a node, in microseconds.
    pub look_us: u64,
    /// The same for telling one node of one revocation.
    pub tell_us: u64,
    /// Cores of the database.
    pub cores: usize,
    /// From node to database, in microseconds.
    pub one_way_us: u64,
    /// How long it is watched, in seconds, after it has settled.
    pub secs: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Looks of all nodes in a second.
    pub looks_a_second: f64,
    /// Cores of the database in use.
    pub busy_cores: f64,
    /// From the commit until a node has it, in microseconds: the middle, and 99 of 100.
    pub p50_us: u64,
    /// 99 of 100 are not later.
    pub p99_us: u64,
    /// The latest.
    pub most_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A revocation is committed.
    Commit,
    /// A node is told of it.
    Told(usize),
    /// A node looks because it is time, or because it was told; if this is still its plan.
    Looks(usize, u64),
    /// Its answer, with everything committed before that time.
    Answered(usize, u64),
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// How many revocations it has.
    has: usize,
    /// A question is under way.
    asks: bool,
    /// It will look soon, or has to once more.
    is_told: bool,
    /// Its newest plan to look.
    plan: u64,
}

struct Run {
    of: Tailing,
    dice: Dice,
    due: BinaryHeap<Reverse<(u64, u64, Happens)>>,
    count: u64,
    nodes: Vec<Node>,
    /// When each revocation was committed.
    commits: Vec<u64>,
    /// When each core is free.
    free: Vec<u64>,
    busy_us: u64,
    looks: u64,
    delays: Vec<u64>,
}

impl Tailing {
    /// The same seed gives the same figures.
    pub fn run(self, seed: u64) -> Figures {
        let end = self.secs * SECOND_US;
        let mut run = Run {
            of: self,
            dice: Dice::new(seed),
            due: BinaryHeap::new(),
            count: 0,
            nodes: vec![Node::default(); self.nodes],
            commits: Vec::new(),
            free: vec![0; self.cores.max(1)],
            busy_us: 0,
            looks: 0,
            delays: Vec::new(),
        };
        let first = run.until_next();
        run.at(first, Happens::Commit);
        for node in 0..self.nodes {
            let first = run.dice.below(run.poll_us());
            run.plan(first, node);
        }
        while let Some(Reverse((now, _, what))) = run.due.pop() {
            if now >= end {
                break;
            }
            run.step(now, what);
        }
        run.figures(end)
    }

    /// How many revocations are in the feed at once, at most.
    pub fn entries(&self) -> u64 {
        self.revocations_a_day * LONGEST_HOURS / 24
    }
}

impl Run {
    fn poll_us(&self) -> u64 {
        if self.of.told { WOKEN_POLL_US } else { POLL_US }
    }

    /// An exponential pause, so that revocations come as a crowd makes them.
    fn until_next(&mut self) -> u64 {
        let mean_us = 86_400.0 * 1e6 / to_f64(self.of.revocations_a_day.max(1));
        let chance = (to_f64(self.dice.below(1 << 32)) + 1.0) / to_f64(1 << 32);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a pause of some seconds"
        )]
        let pause = (-chance.ln() * mean_us) as u64;
        pause
    }

    fn at(&mut self, when: u64, what: Happens) {
        self.count += 1;
        self.due.push(Reverse((when, self.count, what)));
    }

    fn step(&mut self, now: u64, what: Happens) {
        match what {
            Happens::Commit => {
                self.commits.push(now);
                if self.of.told {
                    for node in 0..self.of.nodes {
                        let done = self.serve(now, self.of.tell_us);
                        self.at(done + self.of.one_way_us, Happens::Told(node));
                    }
                }
                let next = now + self.until_next();
                self.at(next, Happens::Commit);
            }
            Happens::Told(index) => {
                let node = self.node(index);
                if !std::mem::replace(&mut node.is_told, true) && !node.asks {
                    self.plan(now + WAKE_PAUSE_US, index);
                }
            }
            Happens::Looks(index, plan) => {
                let node = self.node(index);
                if node.plan == plan {
                    (node.asks, node.is_told) = (true, false);
                    self.looks += 1;
                    let arrived = now + self.of.one_way_us;
                    let done = self.serve(arrived, self.of.look_us);
                    self.at(done + self.of.one_way_us, Happens::Answered(index, done));
                }
            }
            Happens::Answered(index, at) => {
                let seen = self.commits.partition_point(|commit| *commit <= at);
                let poll_us = self.poll_us();
                let node = self.node(index);
                let had = std::mem::replace(&mut node.has, seen);
                node.asks = false;
                let again = if node.is_told { WAKE_PAUSE_US } else { poll_us };
                let new = self.commits.get(had..seen).unwrap_or_default().iter().map(|commit| now - commit);
                self.delays.extend(new);
                self.plan(now + again, index);
            }
        }
    }

    /// A node looks then, and not when it was about to.
    fn plan(&mut self, when: u64, index: usize) {
        let node = self.node(index);
        node.plan += 1;
        let plan = node.plan;
        self.at(when, Happens::Looks(index, plan));
    }

    fn node(&mut self, index: usize) -> &mut Node {
        self.nodes.get_mut(index).expect("a node of the fleet")
    }

    /// When a core has done it that is free first.
    fn serve(&mut self, now: u64, cost_us: u64) -> u64 {
        self.busy_us += cost_us;
        let free = self.free.iter_mut().min().expect("there is a core");
        *free = now.max(*free) + cost_us;
        *free
    }

    fn figures(mut self, end: u64) -> Figures {
        self.delays.sort_unstable();
        let last = self.delays.len().saturating_sub(1);
        let at = |permille: usize| self.delays.get(last * permille / 1_000).copied().unwrap_or_default();
        Figures {
            looks_a_second: to_f64(self.looks) * 1e6 / to_f64(end),
            busy_cores: to_f64(self.busy_us) / to_f64(end),
            p50_us: at(500),
            p99_us: at(990),
            most_us: at(1_000),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures are told with few digits")]
fn to_f64(number: u64) -> f64 {
    number as f64
}
