//! The simulator: many seeds, each a server's life.
//!
//! `TURNERY_SIM_SEED=N` replays one seed, `TURNERY_SIM_SEEDS=N` runs this many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use testkit::simulator::{self, Report};

/// How many seeds run unless the environment says otherwise.
const SEEDS: u64 = 200;
/// Each kind of event occurs more often than this in them, or the run has said nothing about it.
const ENOUGH: u64 = 5;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn add<K: Ord + Clone>(sum: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *sum.entry(key.clone()).or_default() += count;
    }
}

#[test]
fn server_and_model_agree() {
    let one = number("TURNERY_SIM_SEED");
    let count = number("TURNERY_SIM_SEEDS").unwrap_or(SEEDS);
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    let start = Instant::now();
    let mut all = Report::default();
    for seed in seeds {
        let report = simulator::run(seed)
            .unwrap_or_else(|failure| panic!("{failure}\nafter {:.1} s", start.elapsed().as_secs_f32()));
        all.steps += report.steps;
        all.allocations += report.allocations;
        all.to_peers += report.to_peers;
        all.to_clients += report.to_clients;
        all.silences += report.silences;
        all.delivered += report.delivered;
        add(&mut all.refusals, &report.refusals);
        add(&mut all.reasons, &report.reasons);
        add(&mut all.successes, &report.successes);
        add(&mut all.ends, &report.ends);
        add(&mut all.features, &report.features);
    }
    println!("{all:#?}\nin {:.1} s", start.elapsed().as_secs_f32());
    if one.is_none() && count >= SEEDS {
        // It must have been everywhere to have said anything.
        let codes: BTreeSet<u16> = all.refusals.keys().copied().collect();
        assert_eq!(
            codes,
            [300, 400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 508].into()
        );
        assert_eq!(all.successes.len(), 7, "every method succeeds");
        assert_eq!(all.ends.len(), 7, "allocations and connections end in every way");
        assert_eq!(all.features.len(), 36, "every feature is used: {:?}", all.features);
        assert!(all.features.values().all(|n| *n > ENOUGH), "and often enough: {:?}", all.features);
        assert!(
            all.refusals.values().chain(all.successes.values()).chain(all.ends.values()).all(|n| *n > ENOUGH),
            "{:?} {:?} {:?}",
            all.refusals,
            all.successes,
            all.ends
        );
        for reason in [
            "Draining",
            "DenialsStale",
            "KeyQuotaReached",
            "CredentialQuotaReached",
            "TooManyNewPeers",
            "TooManyReservations",
            "AllocationRateExceeded",
            "KeyRateExceeded",
            "StrangerRateExceeded",
            "TicketInvalid",
            "TicketUsed",
            "NotMoved",
            "MobilityForbidden",
        ] {
            assert!(all.reasons.get(reason).is_some_and(|n| *n > ENOUGH), "{reason}");
        }
        assert!(all.reasons.get("ExpiryTooFar").is_some_and(|n| *n > ENOUGH), "{:?}", all.reasons);
        assert!(all.to_peers > 500 && all.to_clients > 500 && all.delivered > 500);
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in [3, 1 << 40] {
        let first = simulator::run(seed).unwrap();
        assert_eq!(first, simulator::run(seed).unwrap());
        assert_ne!(first.trace, simulator::run(seed + 1).unwrap().trace);
    }
}
