//! Usage as a table: what spreadsheets and terminals show.

use crate::store::analytics::{Dimension, Metric, UsageGroup};

/// The columns' names: the dimensions, then the sums.
pub fn headings(dimensions: &[Dimension]) -> Vec<&'static str> {
    let metrics = Metric::ALL.iter().map(|(_, name)| *name);
    dimensions.iter().map(|dimension| dimension.name()).chain(metrics).collect()
}

/// A group's cells, in the order of [`headings`].
pub fn cells(group: &UsageGroup) -> Vec<String> {
    let usage = group.usage;
    let sums = [usage.egress_bytes, usage.egress_packets, usage.ingress_bytes, usage.ingress_packets];
    let values = group.values.iter().map(super::store::analytics::DimensionValue::text);
    let sums = sums.into_iter().chain([group.sessions]).map(|sum| sum.to_string());
    values.chain(sums).chain([group.concurrent.to_string()]).collect()
}

/// The whole table as CSV (RFC 4180). A text that a spreadsheet would take for a formula begins with an apostrophe: who
/// chooses a username must not choose what the reader's machine calculates.
pub fn csv(dimensions: &[Dimension], groups: &[UsageGroup]) -> String {
    let mut text = headings(dimensions).join(",");
    text.push_str("\r\n");
    for group in groups {
        let line: Vec<String> = cells(group).iter().map(|cell| quoted(cell)).collect();
        text.push_str(&line.join(","));
        text.push_str("\r\n");
    }
    text
}

fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let safe = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if is_formula || safe.contains(['"', ',', '\r', '\n', ';', '\t']) {
        return format!("\"{}\"", safe.replace('"', "\"\""));
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::analytics::DimensionValue;
    use crate::store::usage::Usage;

    #[test]
    fn nothing_in_a_cell_is_a_formula_or_another_cell() {
        for (text, cell) in [
            ("alice", "alice"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("\t=1", "\"'\t=1\""),
            ("a\r\nb", "\"a\r\nb\""),
        ] {
            assert_eq!(quoted(text), cell, "{text:?}");
        }
        let usage = Usage { egress_bytes: 1, egress_packets: 2, ingress_bytes: 3, ingress_packets: 4 };
        let values = vec![DimensionValue::Text("=1".to_owned())];
        let group = UsageGroup { values, usage, sessions: 5, concurrent: 0.5 };
        assert_eq!(
            csv(&[Dimension::CustomIdentifier], &[group]),
            "customIdentifier,egressBytes,egressPackets,ingressBytes,ingressPackets,sessions,\
             concurrentConnectionsFiveMinutes\r\n\"'=1\",1,2,3,4,5,0.5\r\n"
        );
    }
}
