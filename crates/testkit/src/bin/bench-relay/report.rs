//! Figures as they are told: medians, ratios of the rounds with their spread, and what was aimed at.

use std::io::IsTerminal;

use serde::Serialize;
use testkit::pinned::median;

use crate::plan::{Line, Measure, Mode, Target};
use crate::sample::{Latency, Memory, Sample};
use crate::subject::Subject;

/// Below this idle share the load is as busy as the server: the rate may be its limit.
const BUSY: f64 = 0.03;
/// Above this share of a core taken by others it is said.
const DISTURBED: f64 = 0.1;

/// One line of the plan, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) line: Line,
    pub(crate) subjects: Vec<Figures>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// What one subject did in all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) subject: Subject,
    /// Medians.
    pub(crate) per_sec: f64,
    /// Microseconds of the server's CPU time for each packet, cycle or request.
    pub(crate) cpu_us: f64,
    pub(crate) load_idle: f64,
    /// Sums.
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) wrong: u64,
    pub(crate) rounds: Vec<Sample>,
}

impl Figures {
    pub(crate) fn new(subject: Subject, rounds: Vec<Sample>) -> Self {
        let sum = |of: fn(&Sample) -> u64| rounds.iter().map(of).sum();
        Self {
            subject,
            per_sec: median(rounds.iter().map(Sample::per_sec)),
            cpu_us: median(rounds.iter().map(Sample::cpu_us)),
            load_idle: median(rounds.iter().map(|sample| sample.load_idle)),
            lost: sum(|sample| sample.lost),
            reordered: sum(|sample| sample.reordered),
            wrong: sum(|sample| sample.wrong),
            rounds,
        }
    }

    fn median_of(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.rounds.iter().map(value))
    }
}

/// A target, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    target: Target,
    /// The median of the rounds, and the least and the greatest.
    value: f64,
    min: f64,
    max: f64,
    met: bool,
    /// The load was the limit: the ratio is that of CPU times, turned round.
    by_cpu: bool,
    /// The load was late by itself: nothing is said of the server, and nothing is met.
    unsound: bool,
}

impl Measured {
    pub(crate) fn new(line: Line, subjects: Vec<Figures>) -> Self {
        let of = |subject| subjects.iter().find(|figures| figures.subject == subject);
        let outcome = |target: &Target| {
            let turnery = of(Subject::Turnery)?;
            match target.against {
                None => {
                    let values = turnery.rounds.iter().map(|sample| target.measure.of(sample));
                    Some(Outcome::new(*target, values.collect(), false))
                }
                Some(other) => Some(Outcome::ratio(*target, turnery, of(other)?)),
            }
        };
        let outcomes = line.targets.iter().filter_map(outcome).collect();
        Self { line, subjects, outcomes }
    }
}

impl Outcome {
    fn ratio(target: Target, turnery: &Figures, other: &Figures) -> Self {
        let by_cpu = target.measure == Measure::Rate && (turnery.load_idle < BUSY || other.load_idle < BUSY);
        let pairs = turnery.rounds.iter().zip(&other.rounds);
        let ratios = pairs.map(|(a, b)| {
            if by_cpu {
                Measure::Cpu.of(b) / Measure::Cpu.of(a)
            } else {
                target.measure.of(a) / target.measure.of(b)
            }
        });
        let of_server = |sample: &Sample| sample.latency.as_ref().is_none_or(Latency::is_sound);
        let mut rounds = turnery.rounds.iter().chain(&other.rounds);
        let unsound = target.measure == Measure::P99 && !rounds.all(of_server);
        let outcome = Self::new(target, ratios.collect(), by_cpu);
        Self { unsound, met: outcome.met && !unsound, ..outcome }
    }

    fn new(target: Target, values: Vec<f64>, by_cpu: bool) -> Self {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let value = median(values.into_iter());
        let met =
            if target.measure.more_is_better() { value >= target.wanted } else { value <= target.wanted };
        Self { target, value, min, max, met, by_cpu, unsound: false }
    }

    fn tell(&self, colours: bool) -> String {
        let Self { target: Target { measure, against, wanted }, value, min, max, .. } = self;
        let sign = if measure.more_is_better() { '≥' } else { '≤' };
        let verdict = match (self.met, colours) {
            (true, true) => "\u{1b}[32mmet\u{1b}[0m",
            (true, false) => "met",
            (false, true) => "\u{1b}[31mmissed\u{1b}[0m",
            (false, false) => "missed",
        };
        let name = measure.name();
        match against {
            Some(other) => {
                let how = match (self.by_cpu, self.unsound) {
                    (true, _) => " (by CPU: the load was busy)",
                    (_, true) => " (worth nothing: the load itself was late)",
                    _ => "",
                };
                let body = format!("{value:.2}× ({min:.2} to {max:.2}), target {sign} {wanted:.2}×");
                format!("  {name} of {other}: {body}: {verdict}{how}")
            }
            None if *measure == Measure::IdleCpu => {
                let [value, min, max, wanted] = [value, min, max, wanted].map(|share| share * 100.0);
                format!("  {name}: {value:.3} % ({min:.3} to {max:.3}), target ≤ {wanted:.2} %: {verdict}")
            }
            None => {
                format!("  {name}: {value:.0} B ({min:.0} to {max:.0}), target ≤ {wanted:.0} B: {verdict}")
            }
        }
    }
}

/// One round of one subject, for whoever waits.
pub(crate) fn round(line: &Line, subject: Subject, round: usize, sample: &Sample) -> String {
    let figures = figures(line.mode, &Figures::new(subject, vec![sample.clone()]));
    format!("{line}: {subject} round {round}: {figures}")
}

/// A subject's figures on one line.
fn figures(mode: Mode, figures: &Figures) -> String {
    let mut text = match mode {
        Mode::Idle => {
            let memory = |of: fn(&Memory) -> f64| {
                figures.median_of(|sample| sample.memory.as_ref().map_or(f64::NAN, of))
            };
            format!(
                "{:>8.0} B resident and {:>6.0} B of the system's slab per allocation, {:.3} % CPU",
                memory(Memory::resident_per_allocation),
                memory(Memory::kernel_per_allocation),
                figures.median_of(Sample::cpu_share) * 100.0
            )
        }
        Mode::FixedRate => {
            let latency = |of: fn(&Latency) -> f64| {
                figures.median_of(|sample| sample.latency.as_ref().map_or(f64::NAN, of))
            };
            let is_unsound =
                |sample: &Sample| sample.latency.as_ref().is_some_and(|latency| !latency.is_sound());
            let note = if figures.rounds.iter().any(is_unsound) { " (too late)" } else { "" };
            format!(
                "p50 {:>7.1} µs, p99 {:>7.1} µs, p99.9 {:>7.1} µs, {:>6.2} µs CPU; sent late (p99) {:.1} µs{note}",
                latency(|latency| latency.p50_us),
                latency(|latency| latency.p99_us),
                latency(|latency| latency.p99_9_us),
                figures.cpu_us,
                latency(|latency| latency.sent_late_p99_us),
            )
        }
        _ => format!(
            "{:>9.0} {}/s {:>8.2} µs CPU, load {:>3.0} % idle",
            figures.per_sec,
            mode.unit(),
            figures.cpu_us,
            figures.load_idle * 100.0
        ),
    };
    for (count, name) in [(figures.lost, "lost"), (figures.reordered, "reordered"), (figures.wrong, "wrong")]
    {
        if count > 0 {
            text.extend([", ", &count.to_string(), " ", name]);
        }
    }
    let elsewhere = figures.median_of(|sample| sample.elsewhere);
    if elsewhere > DISTURBED {
        text.extend([", others took ", &format!("{:.0}", elsewhere * 100.0), " % of a core"]);
    }
    text
}

/// The table that a person reads.
pub(crate) fn print(measured: &[Measured]) {
    let colours =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    for Measured { line, subjects, outcomes } in measured {
        println!("{line}");
        for of in subjects {
            println!("  {:<8} {}", of.subject, figures(line.mode, of));
        }
        for outcome in outcomes {
            println!("{}", outcome.tell(colours));
        }
    }
    let all: Vec<&Outcome> = measured.iter().flat_map(|it| &it.outcomes).collect();
    let met = all.iter().filter(|outcome| outcome.met).count();
    let missed = all.len() - met;
    println!("{met} targets met, {missed} missed");
}
