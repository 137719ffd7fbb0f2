//! The rules of the house that no lint can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

const MAX_LINES: usize = 1_000;

/// Which crates of the workspace each crate may use. Nothing may use `testkit` but tests.
const ARROWS: [(&str, &[&str]); 7] = [
    ("stun", &[]),
    ("credentials", &[]),
    ("turn", &["stun", "credentials"]),
    // `credentials` for the keyring that it hands to its servers.
    ("relay", &["turn", "stun", "credentials"]),
    ("control", &["credentials"]),
    ("turnery", &["stun", "credentials", "turn", "relay", "control"]),
    ("testkit", &["stun", "turn", "credentials"]),
];

/// Crates of others that only some may use.
const RESERVED: [(&str, &[&str]); 10] = [
    ("tokio", &["control", "turnery", "testkit"]),
    ("axum", &["control", "testkit"]),
    ("hyper", &["control"]),
    ("sqlx", &["control"]),
    ("clap", &["turnery", "testkit"]),
    ("anyhow", &["turnery", "testkit"]),
    ("libc", &["relay", "testkit"]),
    ("nix", &["relay", "testkit"]),
    ("socket2", &["relay", "testkit"]),
    ("io-uring", &["relay"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn packages() -> BTreeMap<String, Package> {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    metadata.packages.into_iter().map(|package| (package.name.to_string(), package)).collect()
}

fn shipped_dependencies(package: &Package) -> BTreeSet<String> {
    let shipped = package.dependencies.iter().filter(|it| it.kind != DependencyKind::Development);
    shipped.map(|it| it.name.clone()).collect()
}

/// Every file of the workspace's crates with this ending, by its path from the root.
fn files(ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join("crates")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == ending) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                // Another process may be between writing a file and naming it.
                found.extend(fs::read_to_string(&path).ok().map(|text| (name, text)));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn arrows_between_crates_go_one_way() {
    let packages = packages();
    let own: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(
        own,
        ARROWS.iter().map(|(name, _)| *name).collect(),
        "a crate came or went: say what it may use"
    );
    for (name, allowed) in ARROWS {
        for used in shipped_dependencies(&packages[name]) {
            let is_allowed = !own.contains(used.as_str()) || allowed.contains(&used.as_str());
            assert!(is_allowed, "{name} must not use {used}");
        }
    }
}

#[test]
fn runtimes_sql_and_system_calls_stay_where_they_belong() {
    for (name, package) in packages() {
        for used in shipped_dependencies(&package) {
            if let Some((_, allowed)) = RESERVED.iter().find(|(it, _)| *it == used) {
                assert!(allowed.contains(&name.as_str()), "{name} must not use {used}");
            }
        }
    }
}

#[test]
fn unsafe_code_is_only_around_system_calls() {
    let permits = ["allow", "expect", "warn"].map(|level| format!("{level}(unsafe_code"));
    for (name, text) in files("rs") {
        if permits.iter().any(|permit| text.contains(permit)) {
            let is_around_system_calls =
                ["crates/relay/src/", "crates/testkit/src/sys"].iter().any(|it| name.starts_with(it));
            assert!(is_around_system_calls, "{name} permits unsafe code");
        }
    }
    for (name, text) in files("toml") {
        let is_manifest = name.ends_with("Cargo.toml");
        assert!(
            !is_manifest || text.contains("[lints]\nworkspace = true"),
            "{name} does not take the workspace's lints"
        );
    }
}

#[test]
fn files_stay_small_and_no_test_is_passed_over() {
    let ignored = format!("#[{}", "ignore");
    for (name, text) in files("rs") {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines, at most {MAX_LINES} are read with pleasure");
        assert!(!text.contains(&ignored), "{name}: a test runs or is deleted");
    }
}

#[test]
fn the_architecture_names_exactly_the_crates_that_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let named: BTreeSet<String> = headings
        .filter_map(|line| line.split("`crates/").nth(1)?.split('`').next().map(str::to_owned))
        .collect();
    let folders: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(named, folders);
    for (name, package) in packages() {
        let folder = package.manifest_path.parent().unwrap().file_name().unwrap();
        assert_eq!(folder, name, "a folder has its crate's name");
    }
}

#[test]
fn the_readme_and_the_help_name_the_same_settings() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let output = crate::fixture::finish(crate::fixture::turnery(&["serve", "--help"]));
    let help = String::from_utf8(output.stdout).unwrap();
    let flags =
        help.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).filter(|word| word.starts_with("--"));
    for flag in flags.filter(|flag| *flag != "--help" && flag.len() > 2).collect::<BTreeSet<_>>() {
        let variable = format!("TURNERY_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"));
        assert!(readme.contains(&format!("| `{flag}")), "{flag} is not in the README's table");
        assert!(readme.contains(&variable), "{variable} is not in the README");
    }
}
