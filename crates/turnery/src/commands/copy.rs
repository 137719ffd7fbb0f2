//! `turnery store copy`.

use std::time::{Duration, Instant};

use anyhow::Result;
use control::store::{Copied, Store};

use crate::cli::{Output, StoreCommand};
use crate::table::table;

/// How often it is said how far a large table is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn store(command: StoreCommand) -> Result<()> {
    let StoreCommand::Copy { from, to, output } = command;
    copy(&from, &to, output).await
}

async fn copy(from: &str, to: &str, output: Output) -> Result<()> {
    super::expect_file(from)?;
    let (source, target) = (Store::open(from).await?, Store::open(to).await?);
    let (mut last, mut said) = (None, Instant::now());
    let progress = |copied: Copied| {
        if last != Some(copied.table) || said.elapsed() >= PROGRESS_INTERVAL {
            eprintln!("{}: {} rows", copied.table, copied.rows);
            (last, said) = (Some(copied.table), Instant::now());
        }
    };
    let copied = source.copy_to(&target, progress).await?;
    source.close().await;
    target.close().await;
    let rows: Vec<_> = copied.iter().map(|it| [it.table.to_owned(), it.rows.to_string()]).collect();
    output.show(&copied, || table(["TABLE", "ROWS"], &rows, "Nothing was copied."))
}
