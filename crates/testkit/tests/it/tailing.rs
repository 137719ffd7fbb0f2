//! A fleet's feed on paper: the table in docs/scaling.md is what the model says.

use std::fmt::Write;
use std::path::Path;

use testkit::tailing::Tailing;

const PAGE: &str = "../../docs/scaling.md";
const BEGIN: &str = "<!-- model -->\n";
const END: &str = "<!-- end of model -->\n";

/// Measured: see the page.
const LOOK_US: u64 = 500;
const TELL_US: u64 = 50;

fn fleet(nodes: usize, revocations_a_day: u64, told: bool) -> Tailing {
    let (look_us, tell_us) = (LOOK_US, TELL_US);
    Tailing { nodes, revocations_a_day, told, look_us, tell_us, cores: 8, one_way_us: 500, secs: 10 }
}

fn table() -> String {
    let mut text = "| nodes | revocations a day | nodes are told | looks a second | busy cores of 8 | p50 | p99 | latest |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (nodes, a_day, told) in [
        (10, 100_000, true),
        (200, 1_000_000, true),
        (200, 1_000_000, false),
        (1_000, 0, true),
        (1_000, 0, false),
        (1_000, 1_000_000, true),
        (1_000, 1_000_000, false),
        (1_000, 10_000_000, true),
        (3_000, 1_000_000, true),
        (10_000, 1_000_000, false),
    ] {
        let figures = fleet(nodes, a_day, told).run(1);
        let ms = |us: u64| {
            if figures.most_us == 0 { "–".to_owned() } else { format!("{} ms", (us + 500) / 1_000) }
        };
        writeln!(
            text,
            "| {nodes} | {a_day} | {} | {:.0} | {:.2} | {} | {} | {} |",
            if told { "yes" } else { "no" },
            figures.looks_a_second,
            figures.busy_cores,
            ms(figures.p50_us),
            ms(figures.p99_us),
            ms(figures.most_us)
        )
        .unwrap();
    }
    text
}

#[test]
fn the_page_has_what_the_model_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (table_there, after) = rest.split_once(END).unwrap();
    let table = table();
    if std::env::var_os("TURNERY_WRITE_SCALING").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(table_there, table, "TURNERY_WRITE_SCALING=1 cargo test --workspace --test it tailing");
}

#[test]
fn a_thousand_nodes_and_a_million_revocations_a_day_are_in_time() {
    for told in [true, false] {
        let figures = fleet(1_000, 1_000_000, told).run(2);
        assert!(figures.p99_us < 1_000_000, "{figures:?}");
        assert!(figures.busy_cores < 8.0, "{figures:?}");
        let small = fleet(50, 1_000_000, told);
        assert_eq!(small.run(3), small.run(3), "the same again");
        assert_ne!(small.run(3), small.run(4));
    }
}

#[test]
fn news_is_late_and_not_lost_when_the_database_is_at_its_limit() {
    let small = Tailing { cores: 1, secs: 5, ..fleet(1_000, 10_000_000, true) };
    let figures = small.run(1);
    assert!(figures.busy_cores >= 0.99, "{figures:?}");
    assert!(figures.p50_us > 20_000, "{figures:?}");
}
