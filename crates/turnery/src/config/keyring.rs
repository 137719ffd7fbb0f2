//! The keyring where it comes with the environment, as secrets do that an orchestrator keeps; and the key that seals it where
//! the store has it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use credentials::{Keyring, SealingKey};
use zeroize::Zeroizing;

use super::acme::base64url;
use super::layer::{Env, Given, Layers, fault};
use super::switch;

/// Not a setting: it has no flag, which others would see, and is never shown.
pub(crate) const KEYRING_VARIABLE: &str = "TURNERY_KEYRING";

/// Neither is this one.
pub(crate) const SEALING_KEY_VARIABLE: &str = "TURNERY_KEYRING_KEY";

/// What seals the keyring where the store has it.
#[derive(Debug, Clone)]
pub(crate) struct Sealing {
    pub(crate) key: SealingKey,
    /// Who gave it, as an operator would look for it.
    pub(crate) given_by: String,
    /// The file that it came from.
    file: Option<PathBuf>,
}

impl Sealing {
    #[cfg(test)]
    pub(crate) fn new(key: SealingKey) -> Self {
        Self { key, given_by: SEALING_KEY_VARIABLE.to_owned(), file: None }
    }

    /// The file, where others than its owner may read or write it.
    pub(crate) fn exposed(&self) -> Option<&Path> {
        let is_exposed = |path: &&Path| fs::metadata(path).is_ok_and(|it| it.mode() & 0o077 != 0);
        self.file.as_deref().filter(is_exposed)
    }
}

/// Where the key is to be had that seals the keyring in the store. Not read before it is needed: most commands do without it,
/// and who runs them may have no right to it.
#[derive(Debug, Clone)]
pub(crate) enum SealingSource {
    /// The variable had it.
    Variable(SealingKey),
    /// The file with this name.
    File(Given<String>),
    /// Nobody gives one, although the keyring is said to be in the store.
    Missing(Given<String>),
}

impl SealingSource {
    /// The key.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub(crate) fn read(&self) -> Result<Sealing> {
        match self {
            Self::Variable(key) => {
                Ok(Sealing { key: key.clone(), given_by: SEALING_KEY_VARIABLE.to_owned(), file: None })
            }
            Self::File(given) => given.read(|path| {
                let key = sealing_key(Path::new(path))?;
                let given_by = format!("{} ({path})", given.source);
                Ok(Sealing { key, given_by, file: Some(PathBuf::from(path)) })
            }),
            Self::Missing(given) => given.read(|_| {
                bail!(
                    "the keyring in the store is sealed with a key, which is missing: give --keyring-key-file FILE or \
                     {SEALING_KEY_VARIABLE}, the same to every node; `turnery keyring new-key FILE` makes one"
                )
            }),
        }
    }
}

/// Where the key is that seals the keyring in the store; `None` where it is not there.
pub(super) fn sealing(layers: &Layers, env: Env<'_>) -> Result<Option<SealingSource>> {
    const ALONE: &str = "is of use with --keyring-in-store only: give that, too, or leave this out";
    let in_store = layers.first("keyring_in_store", |layer| &layer.keyring_in_store);
    let file = layers.first("keyring_key_file", |layer| &layer.keyring_key_file);
    let variable = variable_key(env)?;
    let Some(in_store) = in_store else {
        return match (file, variable) {
            (Some(file), _) => file.read(|_| bail!(ALONE)),
            (None, Some(_)) => bail!("{SEALING_KEY_VARIABLE}: it {ALONE}"),
            (None, None) => Ok(None),
        };
    };
    // Who says no overrules a file that says yes, and names a key.
    if !switch(Some(in_store.clone()), false)? {
        return Ok(None);
    }
    match (file, variable) {
        (Some(file), Some(_)) => {
            file.read(|_| bail!("there is a key in {SEALING_KEY_VARIABLE}, too; leave one of them out"))
        }
        (Some(file), None) => Ok(Some(SealingSource::File(file))),
        (None, Some(key)) => Ok(Some(SealingSource::Variable(key))),
        (None, None) => Ok(Some(SealingSource::Missing(in_store))),
    }
}

/// The sealing key in a file.
pub(crate) fn sealing_key(file: &Path) -> Result<SealingKey> {
    // What is told of a file has its name, which must be none of a secret's.
    let is_key = file.to_str().is_some_and(|name| name.trim().parse::<SealingKey>().is_ok());
    ensure!(!is_key, "that is a key and not a file's name");
    let text = fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| anyhow!("cannot read {}: {}", file.display(), fault(&error)))?;
    text.trim().parse().with_context(|| format!("what stands in {} cannot be used", file.display()))
}

fn variable_key(env: Env<'_>) -> Result<Option<SealingKey>> {
    let Some(raw) = env(SEALING_KEY_VARIABLE) else { return Ok(None) };
    // What is wrong is told without its text.
    let text = raw.into_string().map_err(|_| anyhow!("{SEALING_KEY_VARIABLE} is not UTF-8"))?;
    let text = Zeroizing::new(text);
    if text.trim().is_empty() {
        return Ok(None);
    }
    text.trim().parse().map(Some).with_context(|| format!("{SEALING_KEY_VARIABLE} cannot be used"))
}

/// The keyring that the environment has: what stands in the file, or that in base64.
pub(super) fn keyring(env: Env<'_>) -> Result<Option<Keyring>> {
    let Some(raw) = env(KEYRING_VARIABLE) else { return Ok(None) };
    // What is wrong is told without its text.
    let text = raw.into_string().map_err(|_| anyhow!("{KEYRING_VARIABLE} is not UTF-8"))?;
    let text = Zeroizing::new(text);
    if text.trim().is_empty() {
        return Ok(None);
    }
    let decoded = if text.contains('[') { None } else { Some(decoded(&text)?) };
    let keyring = Keyring::parse(decoded.as_ref().unwrap_or(&text));
    keyring.map(Some).with_context(|| format!("the keyring in {KEYRING_VARIABLE} cannot be used"))
}

/// RFC 4648 §4 or §5, in lines or not.
fn decoded(text: &str) -> Result<Zeroizing<String>> {
    let plain = |c: char| match c {
        '+' => '-',
        '/' => '_',
        other => other,
    };
    let text: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !c.is_ascii_whitespace()).map(plain).collect());
    let bytes = base64url(&text).map(String::from_utf8);
    let wrong = || {
        anyhow!(
            "{KEYRING_VARIABLE} is neither what stands in a keyring.toml nor that in base64, as `base64 -w0` makes it"
        )
    };
    Ok(Zeroizing::new(bytes.ok_or_else(wrong)?.map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::layer::Layer;

    fn read(text: &str) -> Result<Option<Keyring>> {
        keyring(&|name: &str| (name == KEYRING_VARIABLE).then(|| OsString::from(text)))
    }

    /// Standard base64 with lines of 76 characters, as `base64` writes it.
    fn base64(text: &str) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut encoded = String::new();
        for three in text.as_bytes().chunks(3) {
            let bits =
                three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
            let four = (0..4).map(|place| char::from(ALPHABET[bits >> (18 - 6 * place) & 63]));
            encoded.extend(four.take(three.len() + 1).chain("==".chars().take(3 - three.len())));
            if encoded.len() % 77 == 76 {
                encoded.push('\n');
            }
        }
        encoded
    }

    #[test]
    fn the_key_of_a_keyring_in_the_store_is_in_one_place() {
        let key = SealingKey::generate().unwrap().to_text();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, format!("{}\n", *key)).unwrap();
        let at = file.to_str().unwrap();
        let read = |in_store: &str, path: &str, variable: &str| {
            let given = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
            let (keyring_in_store, keyring_key_file) = (given(in_store), given(path));
            let flags = Layer { keyring_in_store, keyring_key_file, ..Layer::default() };
            let layers = Layers { flags, env: Layer::default(), file: None };
            let found =
                sealing(&layers, &|name| (name == SEALING_KEY_VARIABLE).then(|| OsString::from(variable)));
            found?.map(|it| it.read()).transpose()
        };
        let sealing = read("true", at, "").unwrap().unwrap();
        assert_eq!((sealing.key.to_text(), sealing.exposed().is_some()), (key.clone(), true));
        assert!(sealing.given_by.contains("--keyring-key-file") && sealing.given_by.contains(at));
        assert!(!format!("{sealing:?}").contains(&key[..8]));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read("true", at, " ").unwrap().unwrap().exposed().is_none());
        assert_eq!(read("true", "", &key).unwrap().unwrap().key.to_text(), key);
        for (in_store, path, variable) in [("", "", ""), ("false", "", ""), ("false", at, &key[..])] {
            assert!(read(in_store, path, variable).unwrap().is_none());
        }
        for (in_store, path, variable, hints) in [
            ("true", "", "", ["--keyring-in-store:", "--keyring-key-file", "new-key"]),
            ("true", at, &key[..], ["--keyring-key-file:", SEALING_KEY_VARIABLE, "leave one"]),
            ("", at, "", ["--keyring-key-file:", "--keyring-in-store", "leave this out"]),
            ("true", &key, "", ["--keyring-key-file:", "that is a key", "not a file's name"]),
            ("", "", &key, [SEALING_KEY_VARIABLE, "--keyring-in-store", "leave this out"]),
            ("true", "", "5ecret", [SEALING_KEY_VARIABLE, "cannot be used", "64 hex digits"]),
            ("true", "/nowhere", "", ["--keyring-key-file:", "/nowhere", "No such file"]),
            ("true", "/proc/version", "", ["--keyring-key-file:", "/proc/version", "64 hex digits"]),
        ] {
            let error = format!("{:#}", read(in_store, path, variable).unwrap_err());
            assert!(hints.iter().all(|hint| error.contains(hint)), "{error} lacks one of {hints:?}");
            assert!(!error.contains("5ecret") && !error.contains(&key[..8]), "{error}");
        }
    }

    #[test]
    fn it_is_what_stands_in_the_file_or_that_in_base64() {
        let mut keyring = Keyring::generate(1_700_000_000).unwrap();
        keyring.rotate(1_700_000_100).unwrap();
        let text = keyring.to_text();
        assert_eq!(read(&text).unwrap(), Some(keyring.clone()));
        assert_eq!(read(&base64(&text)).unwrap(), Some(keyring));
        for unset in ["", " \n"] {
            assert_eq!(read(unset).unwrap(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_no_secret() {
        let text = Keyring::generate(1_700_000_000).unwrap().to_text();
        let secret = text.split("secret = \"").nth(1).unwrap().split('"').next().unwrap();
        let cut = text.replace(&secret[64..], "");
        for (given, hint) in [
            ("s3cret!", "base64"),
            ("s3cret", "base64"),
            (&base64("s3cret")[..], "line 1"),
            ("[[key]]\nid = \"s3cret\"", "line"),
            ("[x]\n# =", "line"),
            (&cut, "128 hex digits"),
            (&base64(&cut), "128 hex digits"),
        ] {
            let error = format!("{:#}", read(given).unwrap_err());
            assert!(error.contains(KEYRING_VARIABLE) && error.contains(hint), "{error} lacks {hint}");
            assert!(!error.contains("s3cret") && !error.contains(&secret[..16]), "{error}");
        }
    }
}
