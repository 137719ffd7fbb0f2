//! The files that the pages are made from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::File;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file of every crate, sorted by path.
///
/// # Errors
/// When one cannot be read.
pub fn sources() -> io::Result<Vec<File>> {
    files("crates", "rs")
}

/// Every list of requirements, sorted by path.
///
/// # Errors
/// When one cannot be read.
pub fn requirements() -> io::Result<Vec<File>> {
    files("docs/rfc/requirements", "toml")
}

fn files(folder: &str, ending: &str) -> io::Result<Vec<File>> {
    let root = root();
    let (mut found, mut open) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == ending) {
                let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                found.push(File { path: name, text: fs::read_to_string(&path)? });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}
