//! The checks by name, and running them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::outcome::{Outcome, Verdict};
use crate::target::Target;

/// One requirement. Its name begins with the document and section it comes from (`rfc8656-7.2-…`), or with
/// `hardening-` when no RFC asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Target) -> Outcome,
}

pub(crate) const fn check(name: &'static str, run: fn(&Target) -> Outcome) -> Check {
    Check { name, run }
}

/// A check's result.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
}

/// Runs checks in parallel; the findings in the checks' order.
pub(crate) fn run(target: &Target, checks: &[Check], threads: usize) -> Vec<Finding> {
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::with_capacity(checks.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((index, check)) = take(checks, &next) {
                    let outcome = run_one(target, check);
                    let mut findings = findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    findings.push((index, Finding { name: check.name, outcome }));
                }
            });
        }
    });
    let mut findings = findings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// The slow checks stand last in the list and are begun first.
fn take<'c>(checks: &'c [Check], next: &AtomicUsize) -> Option<(usize, &'c Check)> {
    let index = checks.len().checked_sub(next.fetch_add(1, Ordering::Relaxed) + 1)?;
    Some((index, checks.get(index)?))
}

fn run_one(target: &Target, check: &Check) -> Outcome {
    std::panic::catch_unwind(|| (check.run)(target))
        .unwrap_or_else(|_| Err(Verdict::Failed("the check itself panicked: a bug of this program".into())))
}

/// Whether a name fits a pattern in which `*` stands for anything.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((front, rest)) => name.strip_prefix(front).is_some_and(|name| {
            let mut tails = (0..=name.len()).filter_map(|at| name.get(at..));
            tails.any(|tail| fits(rest, tail))
        }),
    }
}

/// The document and section a name begins with: `("RFC 8656", "7.2")`.
pub(crate) fn source(name: &str) -> (String, String) {
    let mut parts = name.split('-');
    match (parts.next().and_then(|part| part.strip_prefix("rfc")), parts.next()) {
        (Some(number), Some(section)) => (format!("RFC {number}"), section.to_owned()),
        _ => ("Hardening".to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_they_come_from_and_are_unique() {
        let all = crate::checks::all();
        assert!(all.len() >= 120);
        for (place, check) in all.iter().enumerate() {
            let (document, section) = source(check.name);
            assert!(document == "Hardening" || section.starts_with(|c: char| c.is_ascii_digit()));
            assert!(all[..place].iter().all(|other| other.name != check.name), "{} twice", check.name);
        }
    }

    #[test]
    fn patterns_fit() {
        for (pattern, name, expected) in [
            ("rfc8656-7.2-a", "rfc8656-7.2-a", true),
            ("rfc8656-7.2-a", "rfc8656-7.2-ab", false),
            ("rfc8656-*", "rfc8656-7.2-a", true),
            ("*nonce*", "rfc8489-9.2.4-forged-nonce-438", true),
            ("*nonce", "rfc8489-9.2.4-forged-nonce-438", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
