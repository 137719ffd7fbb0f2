//! The keyring's file: created for its owner only, replaced in one step, never overwritten when it cannot be read.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use credentials::{Keyring, KeyringError};

use crate::config::fault;

const NAME: &str = "keyring.toml";
/// Nobody else may read it.
const PRIVATE: u32 = 0o600;

/// The file in its data directory.
#[derive(Debug, Clone)]
pub(crate) struct KeyringFile {
    dir: PathBuf,
    path: PathBuf,
}

/// What changes whenever the file is replaced or edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of this file, if it is there.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            length: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl KeyringFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(NAME) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keyring; makes it where there is none.
    pub(crate) fn open_or_create(&self) -> Result<Keyring> {
        let _lock = self.lock()?;
        match self.read()? {
            Some(text) => self.parse(&text),
            None => {
                let keyring = Keyring::generate(unix_now())?;
                self.replace(&keyring)?;
                Ok(keyring)
            }
        }
    }

    /// Reads the keyring, which must exist.
    pub(crate) fn open(&self) -> Result<Keyring> {
        let text = self.read()?;
        let text = text.with_context(|| {
            format!(
                "there is no keyring {}; `turnery serve` makes one, or name the right --data-dir",
                self.path.display()
            )
        })?;
        self.parse(&text)
    }

    /// Gives the keyring a key that the next rotation makes the current one; without effect where it has one.
    pub(crate) fn prepare(&self) -> Result<Keyring> {
        let _lock = self.lock()?;
        let mut keyring = self.open()?;
        if keyring.prepare(unix_now())? {
            self.replace(&keyring)?;
        }
        Ok(keyring)
    }

    /// Gives the keyring a new current key, or makes a keyring where there is none.
    pub(crate) fn rotate(&self) -> Result<Keyring> {
        let _lock = self.lock()?;
        let now = unix_now();
        let keyring = match self.read()?.as_deref().map(Keyring::parse) {
            None | Some(Err(KeyringError::Empty)) => Keyring::generate(now)?,
            Some(Err(error)) => return Err(self.refused(&error)),
            Some(Ok(mut keyring)) => {
                keyring.rotate(now)?;
                keyring
            }
        };
        self.replace(&keyring)?;
        Ok(keyring)
    }

    /// Whether others than its owner may read or write it.
    pub(crate) fn is_exposed(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
    }

    /// `None` while there is no such file.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        Stamp::of(&self.path)
    }

    fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => bail!("cannot read the keyring {}: {}", self.path.display(), fault(&error)),
        }
    }

    fn parse(&self, text: &str) -> Result<Keyring> {
        Keyring::parse(text).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &KeyringError) -> anyhow::Error {
        anyhow!("the keyring {} cannot be used: {error}; restore it from a backup", self.path.display())
    }

    /// Held while the file is read and replaced, so that of two processes neither undoes what the other did.
    fn lock(&self) -> Result<File> {
        let lock = File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        lock.map_err(|error| {
            anyhow!("cannot open the data directory {}: {}", self.dir.display(), fault(&error))
        })
    }

    /// Written beside it and renamed over it: whoever reads sees the old or the new one, also after a power cut.
    fn replace(&self, keyring: &Keyring) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix(".keyring-")
                .permissions(Permissions::from_mode(PRIVATE))
                .tempfile_in(&self.dir)?;
            file.write_all(keyring.to_text().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)?;
            File::open(&self.dir)?.sync_all()
        };
        write()
            .map_err(|error| anyhow!("cannot write the keyring {}: {}", self.path.display(), fault(&error)))
    }
}

/// Makes the data directory where it is missing, and finds out whether it can be written.
pub(crate) fn prepare_data_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| anyhow!("cannot make the data directory {}: {}", dir.display(), fault(&error)))?;
    tempfile::tempfile_in(dir)
        .map(drop)
        .map_err(|error| anyhow!("cannot write in the data directory {}: {}", dir.display(), fault(&error)))
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_kept_and_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyringFile::in_dir(dir.path());
        assert!(file.open().unwrap_err().to_string().contains("there is no keyring"));
        let first = file.open_or_create().unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, PRIVATE);
        assert!(!file.is_exposed());
        assert_eq!(file.open_or_create().unwrap(), first);
        let before = file.stamp();
        let rotated = file.rotate().unwrap();
        assert_ne!(file.stamp(), before);
        assert_eq!(rotated.key_ids().count(), 2);
        assert_eq!(file.open().unwrap(), rotated);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_corrupt_one_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyringFile::in_dir(dir.path());
        fs::write(file.path(), "key = 5").unwrap();
        for refused in [file.open(), file.open_or_create(), file.rotate()] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("keyring.toml") && error.contains("backup"), "{error}");
        }
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "key = 5");
        fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
        assert!(file.is_exposed());
    }

    #[test]
    fn two_rotations_at_once_both_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyringFile::in_dir(dir.path());
        file.open_or_create().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| drop(file.rotate().unwrap())));
            }
        });
        assert_eq!(file.open().unwrap().key_ids().count(), 17);
    }
}
