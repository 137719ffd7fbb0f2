//! The regression gate: how many instructions a packet or a request takes in the server's core, counted by callgrind and
//! held against the figures in `figures.txt`. Wall-clock time says nothing on a shared machine; these say the same
//! wherever the compiler is the same.
//!
//!     gate check           counts, and fails where a figure has risen
//!     gate accept          counts, and writes the figures
//!     gate run LANE COUNT  what callgrind watches

mod lanes;
#[path = "../../crates/testkit/src/message.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod message;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::{env, fs};

use lanes::{LANES, Lanes};

const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/figures.txt");
/// What is left between the two counts is what this many packets more take.
const WARM_UP: u64 = 200;
const MORE: u64 = 800;
/// How far a figure may drift, in percent: with the compiler that the figures were made with, and with another.
const TOLERANCE: f64 = 2.0;
const TOLERANCE_ELSEWHERE: f64 = 10.0;
const ACCEPT: &str = "./scripts/gate accept";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["accept"] => accept(),
        ["run", lane, count] => {
            Lanes::new().run(lane, count.parse().expect("a count"));
            ExitCode::SUCCESS
        }
        _ => panic!("gate check, gate accept or gate run LANE COUNT"),
    }
}

/// Instructions that a run of so many packets takes, from the process's beginning to its end.
fn instructions(lane: &str, count: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program"))
        .args(["run", lane, &count.to_string()])
        .output()
        .expect("valgrind is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lane}: {told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    collected.expect("what callgrind has collected").1.trim().parse().expect("a number")
}

fn count_all() -> BTreeMap<String, u64> {
    let each = |lane: &&str| {
        let more = instructions(lane, WARM_UP + MORE) - instructions(lane, WARM_UP);
        ((*lane).to_owned(), more / MORE)
    };
    LANES.iter().map(each).collect()
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("a compiler");
    format!("{} {}", String::from_utf8_lossy(&output.stdout).trim(), env::consts::ARCH)
}

fn accept() -> ExitCode {
    let mut text =
        format!("# Instructions for each packet or request; made by `{ACCEPT}`.\n{}\n", compiler());
    for (lane, count) in count_all() {
        text += &format!("{count:>8} {lane}\n");
    }
    fs::write(FIGURES, &text).expect("the figures can be written");
    print!("{text}");
    ExitCode::SUCCESS
}

fn check() -> ExitCode {
    let text = fs::read_to_string(FIGURES).expect("figures are checked in");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let made_with = lines.next().expect("a compiler");
    let known: BTreeMap<&str, u64> = lines
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(count, lane)| (lane, count.parse().expect("a count")))
        .collect();
    let here = compiler();
    if here.rsplit(' ').next() != made_with.rsplit(' ').next() {
        println!("the figures are of {made_with}: nothing is said of {here}");
        return ExitCode::SUCCESS;
    }
    let tolerance = if here == made_with { TOLERANCE } else { TOLERANCE_ELSEWHERE };
    println!(
        "instructions for each packet or request; {here}, figures of {made_with}; {tolerance} % more may pass"
    );
    let (mut is_slower, mut is_faster) = (false, false);
    for (lane, count) in count_all() {
        let before = known.get(lane.as_str()).copied().unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "counts are small")]
        let drift = (count as f64 / before.max(1) as f64 - 1.0) * 100.0;
        is_slower |= drift > tolerance;
        is_faster |= drift < -tolerance;
        println!("{count:>8} {drift:>+6.1} % {lane}{}", if drift > tolerance { "   <-- more" } else { "" });
    }
    if is_faster {
        println!(
            "\nThe core has become faster. Take the new figures, or the next change may lose it again: {ACCEPT}"
        );
    }
    if !is_slower {
        return ExitCode::SUCCESS;
    }
    let program = env::current_exe().expect("this program");
    println!(
        "\nThe core takes more instructions than it did. If what it does with them is worth it, say so in the commit and"
    );
    println!("take the new figures: {ACCEPT}\nWhere they come from says callgrind_annotate after");
    println!("  valgrind --tool=callgrind {} run 'LANE' 1000", program.display());
    ExitCode::FAILURE
}
