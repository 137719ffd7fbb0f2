//! `turnery nodes`.

use anyhow::Result;
use control::store::KnownNode;

use crate::cli::Output;
use crate::config::Place;
use crate::table::{printable, table};

pub(crate) async fn nodes(place: &Place, output: Output) -> Result<()> {
    let nodes = place.open_store().await?.nodes().await?;
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let headings = [
        "NODE",
        "STATE",
        "VERSION",
        "ROLE",
        "REGION",
        "ALLOCATIONS",
        "BYTES/S",
        "CPU",
        "FEED",
        "FEED AGE",
        "SEEN",
    ];
    output.show(&nodes, || table(headings, &rows, "No node was heard of within the last day."))
}

fn row(node: &KnownNode) -> [String; 11] {
    let report = &node.report;
    let most = report.redirect_above.map(|most| format!("/{most}")).unwrap_or_default();
    [
        printable(&node.name),
        node.state.to_string(),
        printable(&report.version),
        printable(&report.role),
        printable(&report.region),
        format!("{}{most}", report.allocations),
        report.bytes_per_second.to_string(),
        format!("{}.{}%", report.cpu_permille / 10, report.cpu_permille % 10),
        report.feed_position.to_string(),
        report.feed_age_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
        format!("{} s ago", node.seen_ms_ago / 1_000),
    ]
}
