//! Writes `docs/rfc` anew: `cargo run -p testkit --bin rfc-pages`.

use anyhow::{Context, Result};
use testkit::rfc_pages::{pages, tree};

fn main() -> Result<()> {
    let (sources, requirements) = (tree::sources()?, tree::requirements()?);
    for page in pages(&sources, &requirements)? {
        let path = tree::root().join(&page.path);
        std::fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
