//! The fuzzers' corpora, run by the ordinary compiler: what a fuzzer once found stays found.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::dice::Dice;
use testkit::fuzz::{TARGETS, Target, seeds};

/// The corpora are kept small: how many files and bytes they have in all.
const MAX_FILES: usize = 300;
const MAX_BYTES: usize = 200 * 1_024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn run((name, target): Target) {
    for (path, bytes) in corpus(name) {
        let result = std::panic::catch_unwind(|| target(&bytes));
        assert!(result.is_ok(), "{name} fails on {}", path.display());
    }
}

#[test]
fn every_corpus_passes() {
    TARGETS.into_iter().for_each(run);
}

/// One input made of others, as a fuzzer would, only without looking at what it reaches.
fn mutant(dice: &mut Dice, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = corpus[dice.index(corpus.len())].1.clone();
    for _ in 0..=dice.index(4) {
        let at = dice.index(bytes.len() + 1);
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.pick(&[0, 1, 4, 0x40, 0x7F, 0x80, 0xFF])),
            2 => {
                let other = &corpus[dice.index(corpus.len())].1;
                let from = dice.index(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            3 => {
                let until = at + dice.index(bytes.len() + 1 - at);
                bytes.drain(at..until);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => bytes.push(dice.bytes::<1>()[0]),
        }
    }
    bytes.truncate(2_048);
    bytes
}

/// A little fuzzing in every run of the tests, where there is no fuzzer; the same inputs each time.
#[test]
fn mutants_of_the_corpora_pass() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let mut dice = Dice::new(41);
        let count = if name == "server" { 1_500 } else { 20_000 };
        for number in 0..count {
            let input = mutant(&mut dice, &corpus);
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "{name} fails on mutant {number}: {input:02x?}");
        }
    }
}

#[test]
fn the_corpora_are_small_and_hold_the_seeds() {
    let (mut files, mut bytes) = (0, 0);
    for (name, _) in TARGETS {
        let corpus = corpus(name);
        files += corpus.len();
        bytes += corpus.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        for (seed, expected) in seeds(name) {
            let held = corpus.iter().any(|(_, bytes)| *bytes == expected);
            assert!(held, "{name}'s seed {seed} has changed: run cargo run -p testkit --bin fuzz-seeds");
        }
    }
    assert!(
        files <= MAX_FILES && bytes <= MAX_BYTES,
        "{files} files of {bytes} bytes: minimize with cargo fuzz cmin"
    );
}

#[test]
fn every_target_has_its_fuzzer_and_its_corpus() {
    let expected: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for folder in ["fuzz_targets", "corpus"] {
        let entries = fs::read_dir(fuzz().join(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        let mut expected = expected.clone();
        expected.sort_unstable();
        assert_eq!(names, expected, "{folder}");
    }
}
