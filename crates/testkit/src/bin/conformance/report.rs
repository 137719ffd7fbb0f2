//! Findings as a table, as JSON, and side by side.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::check::{Finding, source};
use crate::outcome::Verdict;
use crate::target::Target;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Result {
    Passed,
    Failed,
    NotApplicable,
}

impl Result {
    fn sign(self) -> &'static str {
        match self {
            Self::Passed => "✓",
            Self::Failed => "✗",
            Self::NotApplicable => "–",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    document: String,
    section: String,
    result: Result,
    /// Why it did not pass.
    reason: Option<String>,
}

/// All that one run found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    server: String,
    transport: String,
    passed: usize,
    pub(crate) failed: usize,
    not_applicable: usize,
    checks: Vec<Row>,
}

impl Report {
    pub(crate) fn new(target: &Target, findings: Vec<Finding>) -> Self {
        let mut checks: Vec<Row> = findings.into_iter().map(row).collect();
        checks.sort_by_key(order);
        let count = |result: Result| checks.iter().filter(|row| row.result == result).count();
        Self {
            server: target.server.to_string(),
            transport: target.transport.to_string(),
            passed: count(Result::Passed),
            failed: count(Result::Failed),
            not_applicable: count(Result::NotApplicable),
            checks,
        }
    }

    fn summary(&self) -> String {
        format!("{} passed, {} failed, {} not applicable", self.passed, self.failed, self.not_applicable)
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for group in self.checks.chunk_by(|a, b| a.document == b.document) {
            let document = group.first().map_or("", |row| &row.document);
            let _ = writeln!(text, "{document}");
            for row in group {
                let _ = writeln!(text, "  {} {}", row.result.sign(), row.name);
                if let Some(reason) = &row.reason {
                    let _ = writeln!(text, "      {reason}");
                }
            }
            let _ = writeln!(text);
        }
        let _ = writeln!(text, "{} over {}: {}", self.server, self.transport, self.summary());
        text
    }

    /// Checks with this result; only those that are hardening, or only those that are not, if that matters.
    fn count(&self, result: Result, hardening: Option<bool>) -> usize {
        let wanted = |row: &&Row| {
            row.result == result && hardening.is_none_or(|is| is == (row.document == "Hardening"))
        };
        self.checks.iter().filter(wanted).count()
    }

    fn result_of(&self, name: &str) -> Option<Result> {
        self.checks.iter().find(|row| row.name == name).map(|row| row.result)
    }
}

fn row(finding: Finding) -> Row {
    let (document, section) = source(finding.name);
    let (result, reason) = match finding.outcome {
        Ok(()) => (Result::Passed, None),
        Err(Verdict::Failed(why)) => (Result::Failed, Some(why)),
        Err(Verdict::NotApplicable(why)) => (Result::NotApplicable, Some(why)),
    };
    Row { name: finding.name.to_owned(), document, section, result, reason }
}

/// The basic protocols first, what no RFC asks for last.
fn order(row: &Row) -> (usize, Vec<u32>) {
    let documents = ["RFC 8489", "RFC 8656", "RFC 6062", "RFC 8016", "RFC 5780"];
    let document = documents.iter().position(|name| *name == row.document).unwrap_or(documents.len());
    (document, row.section.split('.').filter_map(|part| part.parse().ok()).collect())
}

/// Several results side by side: a table of counts, then every check.
pub(crate) fn markdown(columns: &[(String, Report)]) -> String {
    let labels = || columns.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>().join(" | ");
    let rule = || "|:-:".repeat(columns.len());
    let mut text = format!("| | {} |\n|---{}|\n", labels(), rule());
    let rows = [
        ("passed", Result::Passed, None),
        ("failed, required by an RFC", Result::Failed, Some(false)),
        ("failed, hardening", Result::Failed, Some(true)),
        ("not applicable", Result::NotApplicable, None),
    ];
    for (name, result, hardening) in rows {
        let cells: Vec<String> =
            columns.iter().map(|(_, report)| report.count(result, hardening).to_string()).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    let Some((_, first)) = columns.first() else { return text };
    for group in first.checks.chunk_by(|a, b| a.document == b.document) {
        let document = group.first().map_or("", |row| &row.document);
        let _ = write!(text, "\n### {document}\n\n| Check | {} |\n|---{}|\n", labels(), rule());
        for row in group {
            let signs: Vec<&str> = columns
                .iter()
                .map(|(_, report)| report.result_of(&row.name).map_or("", Result::sign))
                .collect();
            let _ = writeln!(text, "| `{}` | {} |", row.name, signs.join(" | "));
        }
    }
    text.push_str("\n### What failed, and how\n");
    for (label, report) in columns {
        let _ = write!(text, "\n**{label}**: {}.\n\n", report.summary());
        for row in report.checks.iter().filter(|row| row.result == Result::Failed) {
            let _ = writeln!(text, "- `{}`: {}", row.name, row.reason.as_deref().unwrap_or_default());
        }
    }
    text
}
