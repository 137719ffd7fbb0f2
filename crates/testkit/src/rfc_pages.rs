//! Makes `docs/rfc`: for each RFC, which section is obeyed where and shown by which test, and which of its demands
//! have no such line yet. Text in, text out.
//!
//! A line is a comment of the form `RFC NNNN §x.y: what is obeyed`; several sections are joined by "and". A test
//! is a function named `rfcNNNN_x_y_…`. The demands are the files of `docs/rfc/requirements`.

mod scan;
pub mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;

/// How the pages are made anew.
pub const COMMAND: &str = "cargo run -p testkit --bin rfc-pages";

/// A file, by its path from the repository's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// With `/` between folders.
    pub path: String,
    /// Its contents.
    pub text: String,
}

/// What cannot be made into pages.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A requirements file is not of the expected shape.
    #[error("{path} is no list of requirements")]
    Requirements {
        /// Which one.
        path: String,
        /// What is wrong.
        source: toml::de::Error,
    },
    /// A requirement names a section that the file does not list.
    #[error("{path} has a requirement of §{section}, which is not among its sections")]
    Section {
        /// In which file.
        path: String,
        /// Which one.
        section: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rfc {
    number: u32,
    title: String,
    /// Titles by number.
    sections: BTreeMap<String, String>,
    #[serde(default)]
    requirement: Vec<Requirement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    section: String,
    text: String,
    /// What a line has to contain to be about this demand and not another one of its section.
    word: Option<String>,
    /// What a reader has to know before judging.
    note: Option<String>,
}

/// A line that says what is obeyed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    path: String,
    item: String,
    text: String,
}

/// What is known of a section.
#[derive(Debug, Default)]
struct Shown {
    /// In the order of the files.
    lines: Vec<Line>,
    /// Path and name.
    tests: BTreeSet<(String, String)>,
}

/// Sections by their numbers, as in a table of contents.
type Sections = BTreeMap<Vec<Number>, (String, Shown)>;

/// A part of a section's number; letters are appendices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Digits(u32),
    Letter(String),
}

fn numbers(section: &str) -> Vec<Number> {
    section.split('.').map(|it| it.parse().map_or(Number::Letter(it.to_owned()), Number::Digits)).collect()
}

/// The pages, for the sources of all crates and the lists of requirements; each a file of `docs/rfc`.
///
/// # Errors
/// When a list of requirements is faulty.
pub fn pages(sources: &[File], requirements: &[File]) -> Result<Vec<File>, Error> {
    let mut pages = Vec::new();
    let mut index = String::from(INDEX);
    for file in requirements {
        let rfc: Rfc = toml::from_str(&file.text)
            .map_err(|source| Error::Requirements { path: file.path.clone(), source })?;
        if let Some(unknown) = rfc.requirement.iter().find(|it| !rfc.sections.contains_key(&it.section)) {
            let (path, section) = (file.path.clone(), unknown.section.clone());
            return Err(Error::Section { path, section });
        }
        let sections = sections(&rfc, sources);
        let open = open(&rfc, &sections).count();
        let (number, title, count) = (rfc.number, &rfc.title, rfc.requirement.len());
        _ = writeln!(index, "| [RFC {number}]({number}.md) | {title} | {count} | {open} |");
        pages.push(File { path: format!("docs/rfc/{number}.md"), text: page(&rfc, &sections) });
    }
    pages.push(File { path: "docs/rfc/README.md".to_owned(), text: index });
    Ok(pages)
}

const INDEX: &str = "\
# The RFCs, section by section

Made by `cargo run -p testkit --bin rfc-pages` from the lines `RFC NNNN §x.y: …` of the code, the names of the tests and
the lists in [requirements](requirements); a test says when it has to be run again.

| | title | demands on a server | not yet shown |
|---|---|---|---|
";

fn sections(rfc: &Rfc, sources: &[File]) -> Sections {
    let mut sections: Sections =
        rfc.sections.keys().map(|it| (numbers(it), (it.clone(), Shown::default()))).collect();
    for source in sources {
        if is_shipped(&source.path) {
            for (section, line) in scan::lines(source, rfc.number) {
                let entry = sections.entry(numbers(&section)).or_insert((section, Shown::default()));
                entry.1.lines.push(line);
            }
        }
        for (section, name) in scan::tests(source, rfc.number, |it| rfc.sections.contains_key(it)) {
            let entry = sections.entry(numbers(&section)).or_insert((section, Shown::default()));
            entry.1.tests.insert((source.path.clone(), name));
        }
    }
    sections
}

/// Lines count where the service is made; a test tool that says the same proves nothing.
fn is_shipped(path: &str) -> bool {
    path.contains("/src/") && !path.starts_with("crates/testkit/")
}

/// The requirements that no line of their section is about.
fn open<'r>(rfc: &'r Rfc, sections: &'r Sections) -> impl Iterator<Item = &'r Requirement> {
    rfc.requirement.iter().filter(|it| !has_line(it, sections))
}

fn has_line(requirement: &Requirement, sections: &Sections) -> bool {
    let word = requirement.word.as_deref().unwrap_or_default().to_lowercase();
    let shown = sections.get(&numbers(&requirement.section));
    shown.is_some_and(|(_, shown)| shown.lines.iter().any(|line| line.text.to_lowercase().contains(&word)))
}

fn page(rfc: &Rfc, sections: &Sections) -> String {
    let mut text =
        format!("# RFC {}: {}\n\nMade by `{COMMAND}`; see [the index](README.md).\n", rfc.number, rfc.title);
    let shown = sections.values().filter(|(_, it)| !it.lines.is_empty() || !it.tests.is_empty());
    let (known, unknown): (Vec<_>, Vec<_>) = shown.partition(|(it, _)| rfc.sections.contains_key(it));
    text.push_str("\n## Shown\n\n| section | what the code says, and where | tests |\n|---|---|---|\n");
    for (section, shown) in known {
        let title = rfc.sections.get(section).map_or("", String::as_str);
        _ = writeln!(text, "| §{section} {title} | {} | {} |", lines(shown), tests(shown));
    }
    text.push_str("\n## Demands\n\nWhat a server MUST do, in our words; whether a line is about it, and whether a test names its section.\n");
    text.push_str("\n| section | demand | line | test |\n|---|---|---|---|\n");
    for it in &rfc.requirement {
        let shown = sections.get(&numbers(&it.section)).map(|(_, shown)| shown);
        let yes = |is: bool| if is { "yes" } else { "**no**" };
        let line = yes(has_line(it, sections));
        let test = yes(shown.is_some_and(|it| !it.tests.is_empty()));
        _ = writeln!(text, "| §{} | {} | {line} | {test} |", it.section, demand(it));
    }
    text.push_str("\n## Not yet shown\n\n");
    let open: Vec<String> =
        open(rfc, sections).map(|it| format!("- §{}: {}\n", it.section, demand(it))).collect();
    text.push_str(if open.is_empty() { "Nothing.\n" } else { "" });
    text.extend(open);
    if !unknown.is_empty() {
        text.push_str(
            "\n## Sections that the RFC does not have\n\n| section | line | tests |\n|---|---|---|\n",
        );
        for (section, shown) in unknown {
            _ = writeln!(text, "| §{section} | {} | {} |", lines(shown), tests(shown));
        }
    }
    text
}

fn demand(requirement: &Requirement) -> String {
    let note = requirement.note.as_ref().map_or(String::new(), |it| format!(" *{it}*"));
    format!("{}{note}", cell(&requirement.text))
}

fn lines(shown: &Shown) -> String {
    let cells = shown.lines.iter().map(|it| {
        format!("{} ([`{}`]({}) `{}`)", cell(&it.text), file_name(&it.path), link(&it.path), it.item)
    });
    cells.collect::<Vec<_>>().join("<br>")
}

fn tests(shown: &Shown) -> String {
    let cells = shown.tests.iter().map(|(path, name)| format!("[`{name}`]({})", link(path)));
    cells.collect::<Vec<_>>().join("<br>")
}

fn link(path: &str) -> String {
    format!("../../{path}")
}

/// `crates/turn/src/server.rs` is called `turn/server.rs`.
fn file_name(path: &str) -> String {
    path.trim_start_matches("crates/").replacen("/src/", "/", 1)
}

/// Text that stays within a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}
