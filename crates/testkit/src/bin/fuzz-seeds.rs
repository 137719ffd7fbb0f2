//! Writes the seeds into the fuzzers' corpora: `cargo run -p testkit --bin fuzz-seeds`.

use std::path::Path;

use anyhow::{Context, Result};
use testkit::fuzz::{TARGETS, seeds};

fn main() -> Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (target, _) in TARGETS {
        let folder = corpora.join(target);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, bytes) in seeds(target) {
            let path = folder.join(format!("seed-{name}"));
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}
