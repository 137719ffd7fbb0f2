//! The pages about the RFCs say what the code says.

use std::fs;

use testkit::rfc_pages::{COMMAND, File, pages, tree};

#[test]
fn the_pages_are_up_to_date() {
    for page in pages(&tree::sources().unwrap(), &tree::requirements().unwrap()).unwrap() {
        let held = fs::read_to_string(tree::root().join(&page.path)).unwrap_or_default();
        assert!(held == page.text, "{} is out of date: run {COMMAND}", page.path);
        assert!(
            !page.text.contains("## Sections that the RFC does not have"),
            "{} names sections that do not exist",
            page.path
        );
    }
}

const REQUIREMENTS: &str = r#"
number = 9999
title = "Tea"
[sections]
"2" = "Leaves"
"2.1" = "Water"
"3" = "Milk"
[[requirement]]
section = "2.1"
text = "It boils."
[[requirement]]
section = "3"
text = "It comes last."
note = "Or first."
"#;

const SOURCE: &str = r"
impl<'t> Brew for Pot<'t> {
    fn pour(&self) {
        if self.is_hot() {
            // RFC 9999 §2.1: water boils, and this goes
            // on. RFC 9999 §2 and §7: leaves | more.
            steep();
        }
    }

    // RFC 9998 §3: another's. RFC 9999 §3 is mentioned.
    fn drink(&self) {}
}

/// RFC 9999 §2: what holds for an item.
#[derive(Debug)]
pub struct Cup;

#[cfg(test)]
mod tests {
    // RFC 9999 §3: no line of the code.
    #[test]
    fn rfc9999_2_1_and_3_100_degrees() {}
}
";

#[test]
fn lines_tests_and_demands_meet() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let sources = [file("crates/tea/src/pot.rs", SOURCE), file("crates/testkit/src/tea.rs", SOURCE)];
    let made = pages(&sources, &[file("9999.toml", REQUIREMENTS)]).unwrap();
    let text = &made[0].text;
    for expected in [
        "| §2 Leaves | leaves \\| more. ([`tea/pot.rs`](../../crates/tea/src/pot.rs) `Pot::pour`)<br>\
         what holds for an item. ([`tea/pot.rs`](../../crates/tea/src/pot.rs) `Cup`) |  |\n",
        "| §2.1 Water | water boils, and this goes on. ([`tea/pot.rs`](../../crates/tea/src/pot.rs) `Pot::pour`) | \
         [`rfc9999_2_1_and_3_100_degrees`](../../crates/tea/src/pot.rs)<br>\
         [`rfc9999_2_1_and_3_100_degrees`](../../crates/testkit/src/tea.rs) |\n",
        "| §2.1 | It boils. | yes | yes |\n",
        "| §3 | It comes last. *Or first.* | **no** | yes |\n",
        "## Not yet shown\n\n- §3: It comes last. *Or first.*\n",
        "## Sections that the RFC does not have\n\n| section | line | tests |\n|---|---|---|\n| §7 | leaves",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
    assert!(made[1].text.ends_with("| [RFC 9999](9999.md) | Tea | 2 | 1 |\n"), "{}", made[1].text);
}

#[test]
fn a_demand_of_no_section_is_refused() {
    let text = REQUIREMENTS.replace("section = \"3\"", "section = \"3.1\"");
    let error = pages(&[], &[File { path: "9999.toml".to_owned(), text }]).unwrap_err();
    assert_eq!(error.to_string(), "9999.toml has a requirement of §3.1, which is not among its sections");
}
