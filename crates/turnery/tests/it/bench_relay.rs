//! The benchmark harness at its smallest: what it measures means something only if it counts right.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::conformance::built;
use crate::fixture::{LONG, finish_within};

#[test]
fn every_mode_counts_what_it_sends_through_turnery_and_the_floor() {
    let mut command = Command::new(built("bench-relay"));
    command
        // A window that fits into the sockets' usual buffers: nothing may be lost.
        .args(["--smoke", "--json", "--subjects", "turnery,floor", "--window", "32"])
        .args(["--turnery", env!("CARGO_BIN_EXE_turnery")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = finish_within(4 * LONG, command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = BTreeSet::new();
    for line in told["lines"].as_array().unwrap() {
        for figures in line["subjects"].as_array().unwrap() {
            let name = ["mode", "transport"].map(|key| line[key].as_str().unwrap());
            seen.insert((name, figures["subject"].as_str().unwrap()));
            for round in figures["rounds"].as_array().unwrap() {
                let number = |key: &str| round[key].as_u64().unwrap();
                assert!(number("sent") > 0, "{line}");
                assert_eq!(number("received"), number("sent"), "{line}");
                for none in ["lost", "reordered", "wrong", "stalls"] {
                    assert_eq!(number(none), 0, "{none}: {line}");
                }
            }
        }
    }
    let udp =
        ["channel-data", "indications", "relay-to-relay", "allocations", "binding", "fixed-rate", "idle"];
    let streams = ["tcp", "tls"].map(|transport| (["channel-data", transport], "turnery"));
    let floor = ["channel-data", "allocations", "fixed-rate"].map(|mode| ([mode, "udp"], "floor"));
    let expected = udp.map(|mode| ([mode, "udp"], "turnery")).into_iter().chain(streams).chain(floor);
    assert_eq!(seen, expected.collect());
}
