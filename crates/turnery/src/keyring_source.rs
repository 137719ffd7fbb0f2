//! Where a process has its keyring from: one of three places, never two.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use control::store::{KeyringMark, Store};
use credentials::Keyring;

use crate::config::{KEYRING_VARIABLE, Place, Role, Sealing};
use crate::keyring_file::{KeyringFile, Stamp};
use crate::keyring_store::{self, Held};

/// Where a process has its keyring from.
#[derive(Debug, Clone)]
pub(crate) enum KeyringSource {
    /// The file, which is read again when it changes.
    File(KeyringFile),
    /// The environment, which stays as it is for as long as the process runs.
    Environment(Keyring),
    /// The store, which has it sealed.
    Store(Sealing),
}

/// What changes whenever the keyring does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Of the file.
    File(Stamp),
    /// Of the one in the store.
    Store(KeyringMark),
}

/// A keyring as it was read. There is no mark of one that cannot change.
pub(crate) type Read = (Keyring, Option<Mark>);

impl KeyringSource {
    /// The one that the settings name, or the file in this directory.
    ///
    /// # Errors
    /// When there are two: which one is right is not for a program to guess.
    pub(crate) fn of(place: &Place, dir: &Path) -> Result<Self> {
        let file = KeyringFile::in_dir(dir);
        let path = file.stamp().map(|_| file.path().display());
        match (&place.sealing, &place.keyring, path) {
            (None, None, _) => Ok(Self::File(file)),
            (None, Some(_), Some(path)) => {
                bail!("there are two keyrings, {path} and that of {KEYRING_VARIABLE}; leave one of them out")
            }
            (None, Some(keyring), None) => Ok(Self::Environment(keyring.clone())),
            (Some(sealing), None, None) => Ok(Self::Store(sealing.read()?)),
            (Some(_), None, Some(path)) => bail!(
                "there are two keyrings, {path} and that of --keyring-in-store; put the file's into the store with `turnery \
                 keyring import`, unless it is there already, and move the file away"
            ),
            (Some(_), Some(_), _) => bail!(
                "there are two keyrings, that of {KEYRING_VARIABLE} and that of --keyring-in-store; put the first into the \
                 store with `turnery keyring import`, unless it is there already, and unset the variable"
            ),
        }
    }

    /// The keyring, where it is there without the store.
    ///
    /// # Errors
    /// When it cannot be read, or another than the fleet's would have to be made.
    pub(crate) fn early(&self, role: Role) -> Result<Option<Read>> {
        match self {
            Self::File(file) if role == Role::Relay || file.stamp().is_some() => read_file(file).map(Some),
            Self::Environment(keyring) => Ok(Some((keyring.clone(), None))),
            Self::File(_) | Self::Store(_) => Ok(None),
        }
    }

    /// The store, whose feed looks at its keyring where that is the one.
    pub(crate) fn follow(&self, store: Store) -> Store {
        match self {
            Self::Store(_) => store.following_keyring(),
            Self::File(_) | Self::Environment(_) => store,
        }
    }

    /// The keyring; one is made where there is none and this node, with its name, may.
    pub(crate) async fn open_or_make(&self, store: &Store, (role, own): (Role, &str)) -> Result<Read> {
        match self {
            Self::File(file) => {
                ensure!(
                    keyring_store::beside(store).await?.is_none(),
                    "there is no keyring {}, but one in the store: give --keyring-in-store and the key that it is sealed with",
                    file.path().display()
                );
                file.open_or_create()?;
                read_file(file)
            }
            Self::Store(sealing) if role == Role::All => {
                Ok(of_store(keyring_store::find_or_make(store, sealing, own).await?))
            }
            Self::Environment(_) | Self::Store(_) => self.read(store).await,
        }
    }

    /// The keyring, which must exist.
    pub(crate) async fn read(&self, store: &Store) -> Result<Read> {
        match self {
            Self::File(file) => read_file(file),
            Self::Environment(keyring) => Ok((keyring.clone(), None)),
            Self::Store(sealing) => Ok(of_store(keyring_store::expect(store, sealing).await?)),
        }
    }

    /// The same, for who does not care when it changes.
    pub(crate) async fn open(&self, store: &Store) -> Result<Keyring> {
        Ok(self.read(store).await?.0)
    }

    /// The file, to change it.
    ///
    /// # Errors
    /// When there is none: nobody can change the environment of those who run.
    pub(crate) fn file(&self) -> Result<&KeyringFile> {
        match self {
            Self::File(file) => Ok(file),
            Self::Store(_) => bail!("the keyring is in the store"),
            Self::Environment(_) => bail!(
                "the keyring is in {KEYRING_VARIABLE}, which cannot be changed from here: unset it, change the file that it \
                 was made from, and give its contents to every node"
            ),
        }
    }

    /// What is to be seen of the keyring without reading it, and without asking anybody.
    pub(crate) fn mark(&self, store: &Store) -> Option<Mark> {
        match self {
            Self::File(file) => file.stamp().map(Mark::File),
            Self::Environment(_) => None,
            Self::Store(_) => store.seen_keyring().map(Mark::Store),
        }
    }

    /// The file that it is in, or that has the key to it, where others than its owner may read or write that.
    pub(crate) fn exposed(&self) -> Option<&Path> {
        match self {
            Self::File(file) => file.is_exposed().then(|| file.path()),
            Self::Environment(_) => None,
            Self::Store(sealing) => sealing.exposed(),
        }
    }
}

/// The mark first: what changes while the file is read is then seen as a change.
fn read_file(file: &KeyringFile) -> Result<Read> {
    let mark = file.stamp();
    let keyring = file.open()?;
    Ok((keyring, mark.or_else(|| file.stamp()).map(Mark::File)))
}

fn of_store(held: Held) -> Read {
    (held.keyring, Some(Mark::Store(held.mark)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use credentials::SealingKey;

    use super::*;
    use crate::config::SealingSource;

    #[tokio::test]
    async fn of_two_keyrings_none_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", dir.path().join("s.db").display())).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let given = Keyring::generate(1).unwrap();
        let sealing = SealingSource::Variable(SealingKey::generate().unwrap());
        let place = |keyring: Option<&Keyring>, sealing: Option<&SealingSource>| Place {
            data_dir: None,
            store: None,
            keyring: keyring.cloned(),
            sealing: sealing.cloned(),
        };
        let source = KeyringSource::of(&place(Some(&given), None), dir.path()).unwrap();
        let (keyring, mark) = source.open_or_make(&store, (Role::All, "own")).await.unwrap();
        assert_eq!((&keyring, mark, &source.open(&store).await.unwrap()), (&given, None, &given));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
        assert!(source.file().unwrap_err().to_string().contains("TURNERY_KEYRING"));
        let there = KeyringSource::of(&place(None, None), dir.path()).unwrap();
        assert!(there.early(Role::All).unwrap().is_none() && there.early(Role::Relay).is_err());
        let (made, mark) = there.open_or_make(&store, (Role::All, "own")).await.unwrap();
        assert!(made != given && mark.is_some() && mark == there.mark(&store));
        for (place, hints) in [
            (place(Some(&given), None), ["keyring.toml", "TURNERY_KEYRING", "leave one"]),
            (place(None, Some(&sealing)), ["keyring.toml", "--keyring-in-store", "keyring import"]),
            (place(Some(&given), Some(&sealing)), ["TURNERY_KEYRING", "--keyring-in-store", "import"]),
        ] {
            let error = KeyringSource::of(&place, dir.path()).unwrap_err().to_string();
            assert!(hints.iter().all(|hint| error.contains(hint)), "{error} lacks one of {hints:?}");
        }
    }

    #[tokio::test]
    async fn where_the_store_has_one_no_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", dir.path().join("s.db").display())).await.unwrap();
        let sealing = Sealing::new(SealingKey::generate().unwrap());
        let in_store = KeyringSource::Store(sealing);
        let error = in_store.open_or_make(&store, (Role::Relay, "own")).await.unwrap_err().to_string();
        assert!(error.contains("no keyring in the store"), "{error}");
        in_store.open_or_make(&store, (Role::All, "own")).await.unwrap();
        let file = KeyringSource::File(KeyringFile::in_dir(dir.path()));
        let error = file.open_or_make(&store, (Role::All, "own")).await.unwrap_err().to_string();
        assert!(error.contains("--keyring-in-store"), "{error}");
        assert!(file.mark(&store).is_none());
    }
}
