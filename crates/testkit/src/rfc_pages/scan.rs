//! Finds the lines and the tests in a source file. It reads Rust as this workspace's formatter leaves it.

use super::{File, Line};

/// What begins an item that has a name.
const ITEMS: [&str; 10] =
    ["fn ", "impl", "struct ", "enum ", "trait ", "const ", "static ", "type ", "mod ", "macro_rules! "];

/// The lines about this RFC, with their sections. What follows `#[cfg(test)]` is left out.
pub(super) fn lines(file: &File, rfc: u32) -> Vec<(String, Line)> {
    let text = file.text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    // The items that the current line is in, with their indentation.
    let mut inside: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    for line in text.lines() {
        let code = line.trim_start();
        if let Some(words) = code.strip_prefix("//") {
            comment.push_str(words.trim_start_matches(['/', '!']).trim_start());
            comment.push(' ');
            continue;
        }
        let indent = line.len() - code.len();
        if let Some(name) = item(code) {
            inside.retain(|(outer, _)| *outer < indent);
            inside.push((indent, name));
        }
        // A blank line and an attribute end no item and no comment's neighbourhood.
        if code.is_empty() || (code.starts_with("#[") && !comment.is_empty()) {
            continue;
        }
        for (section, text) in statements(&std::mem::take(&mut comment), rfc) {
            let here =
                inside.iter().filter(|(outer, name)| *outer < indent || item(code).as_ref() == Some(name));
            let item = here.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join("::");
            found.push((section, Line { path: file.path.clone(), item, text }));
        }
        // Fields and variants stand in their item until it is closed.
        if code.starts_with('}') {
            inside.retain(|(outer, _)| *outer < indent);
        }
    }
    found
}

/// The name of the item that begins here.
fn item(code: &str) -> Option<String> {
    let mut code = code;
    while let Some(rest) =
        ["pub ", "pub(crate) ", "pub(super) ", "const fn ", "unsafe ", "async "].iter().find_map(|word| {
            code.strip_prefix(word).map(|rest| if *word == "const fn " { ("fn ", rest) } else { ("", rest) })
        })
    {
        code = rest.1;
        if rest.0 == "fn " {
            return Some(name(code));
        }
    }
    let keyword = ITEMS.iter().find(|keyword| code.starts_with(*keyword))?;
    let rest = code.get(keyword.len()..)?;
    if *keyword != "impl" {
        return Some(name(rest)).filter(|it| !it.is_empty());
    }
    // `impl<'m> Trait for Type<'m> {` is about Type.
    let rest = if rest.starts_with('<') { rest.split_once("> ")?.1 } else { rest.strip_prefix(' ')? };
    let subject = rest.split(" for ").last()?;
    Some(name(subject.rsplit("::").next().unwrap_or(subject)))
}

fn name(code: &str) -> String {
    code.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

/// The statements of a comment: a section and what is said of it, up to the next statement.
fn statements(comment: &str, rfc: u32) -> Vec<(String, String)> {
    let mark = format!("RFC {rfc} §");
    let mut found = Vec::new();
    for part in comment.split(&mark).skip(1) {
        let Some((sections, text)) = part.split_once(": ") else { continue };
        // What comes after a statement about another RFC is that one's.
        let text = text.split("RFC ").next().filter(|it| it.len() < text.len()).map_or(text, |before| {
            let other = text.get(before.len()..).unwrap_or_default();
            if begins_a_statement(other) { before } else { text }
        });
        let sections: Vec<&str> = sections
            .split(" and ")
            .flat_map(|it| it.split(", "))
            .map(|it| it.trim_start_matches('§'))
            .collect();
        if sections.iter().all(|it| is_section(it)) {
            let text = text.trim().trim_end_matches([',', ';']);
            found.extend(sections.iter().map(|it| ((*it).to_owned(), text.to_owned())));
        }
    }
    found
}

/// Whether this is `RFC NNNN §x.y: …`.
fn begins_a_statement(text: &str) -> bool {
    let sections = text.split_once('§').and_then(|(_, rest)| rest.split_once(": "));
    sections.is_some_and(|(it, _)| is_section(it.split(" and ").next().unwrap_or_default()))
}

fn is_section(text: &str) -> bool {
    let is_part = |it: &str| {
        !it.is_empty() && (it.bytes().all(|b| b.is_ascii_digit()) || (it.len() == 1 && it.is_ascii()))
    };
    text.split('.').all(is_part)
}

/// The tests named after this RFC, with their sections: the longest number in the name that is one.
pub(super) fn tests(file: &File, rfc: u32, is_known: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let mark = format!("fn rfc{rfc}_");
    let mut found = Vec::new();
    for line in file.text.lines() {
        let Some(rest) = line.trim_start().strip_prefix(&mark) else { continue };
        let words: Vec<&str> = rest.split('(').next().unwrap_or_default().split('_').collect();
        let name = format!("rfc{rfc}_{}", words.join("_"));
        let mut from = 0;
        while let Some((section, length)) = section_at(words.get(from..).unwrap_or_default(), &is_known) {
            found.push((section, name.clone()));
            from += length;
            // `…_2_2_and_2_3_…` names two.
            if words.get(from) != Some(&"and") {
                break;
            }
            from += 1;
        }
    }
    found
}

/// The section that these words begin with, and how many they are.
fn section_at(words: &[&str], is_known: impl Fn(&str) -> bool) -> Option<(String, usize)> {
    let is_part = |it: &&&str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit());
    let count = words.iter().take_while(is_part).count();
    if count == 0 && words.first().is_some_and(|it| it.len() == 1) {
        return section_of_appendix(words, is_known);
    }
    let candidates = (1..=count).rev().filter_map(|length| Some((words.get(..length)?.join("."), length)));
    let all: Vec<(String, usize)> = candidates.collect();
    all.iter().find(|(section, _)| is_known(section)).or(all.first()).cloned()
}

/// `rfc8489_b_1_…` is about appendix B.1.
fn section_of_appendix(words: &[&str], is_known: impl Fn(&str) -> bool) -> Option<(String, usize)> {
    let numbers = words.iter().skip(1).take_while(|it| it.parse::<u32>().is_ok()).count();
    (0..=numbers).rev().find_map(|count| {
        let section = words.get(..=count)?.join(".").to_uppercase();
        is_known(&section).then_some((section, count + 1))
    })
}
