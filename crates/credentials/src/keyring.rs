use std::fmt;

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha384;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::token::{MAX_TTL_SECS, MintError, OpenError};

/// Key ids keep the high bit free: a later token format will set it.
const IDS: u8 = 128;
/// How many keys a ring may hold. With rotation no faster than this many times in 49 hours it is never reached.
const MAX_KEYS: usize = 64;
/// A superseded key is kept for the longest life of a credential and an hour for clocks that disagree.
const RETIRE_AFTER_SECS: u64 = MAX_TTL_SECS as u64 + 3_600;
const SECRET_BYTES: usize = 64;

const FILE_HEADER: &str = "\
# The Turnery keyring. Whoever has it can mint valid credentials: keep it secret, back it up, and give every
# node of a deployment the same file. `turnery keyring rotate` adds a key; keys leave when nothing minted with
# them can still be valid.
";

/// The deployment's secret keys: one mints, all that may have live credentials open.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    /// Oldest first; the last is current. Never empty.
    keys: Vec<Key>,
}

#[derive(Clone, ZeroizeOnDrop)]
struct Key {
    #[zeroize(skip)]
    id: u8,
    #[zeroize(skip)]
    created_at: u64,
    #[zeroize(skip)]
    superseded_at: Option<u64>,
    /// 32 bytes for AES-128-SIV, then 32 for the password's MAC.
    secret: [u8; SECRET_BYTES],
    /// The password's MAC with its key taken in, which is half of its work. It overwrites itself when dropped.
    #[zeroize(skip)]
    mac: Hmac<Sha384>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let parts = |key: &Self| (key.id, key.created_at, key.superseded_at, key.secret);
        parts(self) == parts(other)
    }
}

impl Eq for Key {}

/// What is wrong with a keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The text does not parse.
    #[error("the keyring is not valid TOML of the expected shape: {0}")]
    Syntax(String),
    /// A value is out of its range.
    #[error("the keyring's key {id}: {fault}")]
    Key {
        /// The key's id as written.
        id: u64,
        /// What is wrong and what would be right.
        fault: &'static str,
    },
    /// There is no key in it.
    #[error("the keyring holds no key; `turnery keyring rotate` makes one")]
    Empty,
    /// More keys than can be in use at once.
    #[error("the keyring holds {MAX_KEYS} keys that may still have live credentials; rotate less often")]
    Full,
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed: {0}")]
    Randomness(getrandom::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<FileKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    id: u64,
    created_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_at: Option<u64>,
    secret: String,
}

impl Drop for FileKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Keyring {
    /// A ring of one new key. `now` is unix seconds.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate(now: u64) -> Result<Self, KeyringError> {
        Ok(Self { keys: vec![Key::generate(1, now)?] })
    }

    /// Reads the text that [`Keyring::to_text`] wrote.
    ///
    /// # Errors
    /// Names the key and what is wrong with it; never echoes a secret.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        // toml's message quotes the faulty line, which may hold a secret: only the place is passed on.
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e
                .span()
                .map_or(1, |span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
            KeyringError::Syntax(format!("line {line}"))
        })?;
        if file.key.len() > MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(file.key.len());
        for entry in &file.key {
            let fault = |fault| KeyringError::Key { id: entry.id, fault };
            let id = u8::try_from(entry.id).ok().filter(|id| *id < IDS);
            let id = id.ok_or_else(|| fault("id must be 0 to 127"))?;
            if keys.iter().any(|key| key.id == id) {
                return Err(fault("id occurs twice"));
            }
            let mut secret = [0; SECRET_BYTES];
            hex::decode_to_slice(&entry.secret, &mut secret)
                .map_err(|_| fault("secret must be 128 hex digits"))?;
            keys.push(Key::new(id, entry.created_at, entry.superseded_at, secret));
        }
        match keys.split_last() {
            None => return Err(KeyringError::Empty),
            Some((current, older)) => {
                let fault = |key: &Key, fault| KeyringError::Key { id: key.id.into(), fault };
                if current.superseded_at.is_some() {
                    return Err(fault(
                        current,
                        "the last key is the current one and must have no superseded_at",
                    ));
                }
                if let Some(key) = older.iter().find(|key| key.superseded_at.is_none()) {
                    return Err(fault(key, "superseded_at is missing, and only the last key may lack it"));
                }
            }
        }
        Ok(Self { keys })
    }

    /// The keyring file's contents, to be stored where only the service can read it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let key = self.keys.iter().map(Key::to_file).collect();
        let body = Zeroizing::new(toml::to_string(&File { key }).unwrap_or_default());
        assert!(!body.is_empty(), "numbers and hex digits always serialize");
        Zeroizing::new(format!("{FILE_HEADER}\n{}", *body))
    }

    /// Adds a key that opens and does not seal yet: who has it is ready for the ring that the next rotation makes. There
    /// is at most one; `false` when there is one already. `now` is unix seconds.
    ///
    /// # Errors
    /// Those of [`Keyring::rotate`].
    pub fn prepare(&mut self, now: u64) -> Result<bool, KeyringError> {
        if self.prepared().is_some() {
            return Ok(false);
        }
        let mut fresh = self.fresh_key(now.max(self.current().created_at + 1))?;
        fresh.superseded_at = Some(fresh.created_at);
        self.drop_unneeded(now);
        let before_current = self.keys.len().saturating_sub(1);
        self.keys.insert(before_current, fresh);
        Ok(true)
    }

    /// Where the key is that waits to be the current one: it is younger than that.
    fn prepared(&self) -> Option<usize> {
        let current = self.current().created_at;
        let waits = |key: &Key| key.created_at > current && key.superseded_at == Some(key.created_at);
        self.keys.iter().position(waits)
    }

    fn fresh_key(&self, now: u64) -> Result<Key, KeyringError> {
        if self.keys.iter().filter(|key| key.is_needed(now)).count() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let last = self.prepared().and_then(|place| self.keys.get(place)).unwrap_or(self.current()).id;
        let free =
            (1..IDS).map(|step| (last + step) % IDS).find(|id| self.keys.iter().all(|key| key.id != *id));
        Key::generate(free.ok_or(KeyringError::Full)?, now)
    }

    fn drop_unneeded(&mut self, now: u64) {
        self.keys.retain(|key| key.is_needed(now));
    }

    /// Makes a new current key, or the prepared one current, and drops those that nothing valid can depend on. `now` is
    /// unix seconds.
    ///
    /// # Errors
    /// When the operating system has no randomness or the ring is full of keys that are still needed; the ring
    /// is then unchanged.
    pub fn rotate(&mut self, now: u64) -> Result<(), KeyringError> {
        let fresh = match self.prepared() {
            Some(place) => {
                let mut key = self.keys.remove(place);
                key.superseded_at = None;
                key
            }
            None => self.fresh_key(now)?,
        };
        self.drop_unneeded(now);
        if let Some(current) = self.keys.last_mut() {
            current.superseded_at = Some(now);
        }
        self.keys.push(fresh);
        Ok(())
    }

    /// The ids of the keys held, with the unix seconds each was made at; the last is current, and one that is younger than
    /// that is prepared.
    pub fn key_ids(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.keys.iter().map(|key| (key.id, key.created_at))
    }

    /// Whether some key is in both: of one deployment's keyring at two times that is so unless there is long between them.
    pub fn shares_key_with(&self, other: &Self) -> bool {
        let is_one = |a: &Key, b: &Key| (a.id, a.created_at, a.secret) == (b.id, b.created_at, b.secret);
        self.keys.iter().any(|key| other.keys.iter().any(|its| is_one(key, its)))
    }

    pub(crate) fn current_id(&self) -> u8 {
        self.current().id
    }

    fn current(&self) -> &Key {
        self.keys.last().expect("a keyring is never empty")
    }

    fn key(&self, id: u8) -> Result<&Key, OpenError> {
        self.keys.iter().find(|key| key.id == id).ok_or(OpenError::UnknownKey)
    }

    pub(crate) fn seal(&self, header: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, MintError> {
        self.current().cipher().encrypt([header], plaintext).map_err(|_| MintError::Seal)
    }

    pub(crate) fn unseal(&self, id: u8, header: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.key(id)?.cipher().decrypt([header], sealed).map_err(|_| OpenError::Forged)
    }

    pub(crate) fn mac(&self, id: u8, username: &[u8]) -> Result<[u8; 48], OpenError> {
        let mut mac = self.key(id)?.mac.clone();
        mac.update(username);
        Ok(mac.finalize().into_bytes().into())
    }
}

/// Shows which keys there are, never a secret.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.key_ids()).finish()
    }
}

impl Key {
    /// Whether something that it sealed may still be valid, or it may be put to use.
    fn is_needed(&self, now: u64) -> bool {
        self.superseded_at.is_none_or(|at| at.saturating_add(RETIRE_AFTER_SECS) > now)
    }

    fn new(id: u8, created_at: u64, superseded_at: Option<u64>, secret: [u8; SECRET_BYTES]) -> Self {
        let (_, mac_key) = secret.split_at(SECRET_BYTES / 2);
        let mac = Hmac::new_from_slice(mac_key).expect("HMAC takes a key of any length");
        Self { id, created_at, superseded_at, secret, mac }
    }

    fn generate(id: u8, now: u64) -> Result<Self, KeyringError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(KeyringError::Randomness)?;
        Ok(Self::new(id, now, None, secret))
    }

    fn to_file(&self) -> FileKey {
        FileKey {
            id: self.id.into(),
            created_at: self.created_at,
            superseded_at: self.superseded_at,
            secret: hex::encode(self.secret),
        }
    }

    fn cipher(&self) -> Aes128Siv {
        let (siv_key, _) = self.secret.split_at(SECRET_BYTES / 2);
        Aes128Siv::new_from_slice(siv_key).expect("half of the secret is AES-128-SIV's key size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn text_round_trip_and_rotation() {
        let mut ring = Keyring::generate(NOW).unwrap();
        for day in 1..=10 {
            ring.rotate(NOW + day * 86_400).unwrap();
            assert_eq!(Keyring::parse(&ring.to_text()).unwrap(), ring);
        }
        let ids: Vec<u8> = ring.key_ids().map(|(id, _)| id).collect();
        assert_eq!(ids, [8, 9, 10, 11], "superseded more than 49 hours ago is gone");
    }

    #[test]
    fn a_prepared_key_opens_and_seals_only_after_the_next_rotation() {
        let mut ring = Keyring::generate(NOW).unwrap();
        assert!(ring.prepare(NOW).unwrap());
        assert!(!ring.prepare(NOW + 1).unwrap(), "one is enough");
        assert_eq!((ring.current_id(), ring.key_ids().count()), (1, 2));
        let prepared = Keyring::parse(&ring.to_text()).unwrap();
        assert_eq!(prepared, ring);
        ring.rotate(NOW + 60).unwrap();
        assert_eq!((ring.current_id(), ring.key_ids().count()), (2, 2));
        let minted = ring.seal(b"h", b"what is minted").unwrap();
        assert_eq!(prepared.unseal(2, b"h", &minted).unwrap(), b"what is minted");
        assert_eq!(Keyring::parse(&ring.to_text()).unwrap(), ring);
        ring.rotate(NOW + 120).unwrap();
        assert_eq!((ring.current_id(), ring.key_ids().count()), (3, 3));
    }

    #[test]
    fn ids_wrap_and_a_full_ring_refuses() {
        let mut ring = Keyring::generate(NOW).unwrap();
        for n in 1..300 {
            ring.rotate(NOW + n * 7_200).unwrap();
        }
        assert!(ring.key_ids().all(|(id, _)| id < IDS));
        let mut ring = Keyring::generate(NOW).unwrap();
        let refused = (0..100).find_map(|n| ring.rotate(NOW + n).err());
        assert!(matches!(refused, Some(KeyringError::Full)), "{refused:?}");
        assert_eq!(ring.key_ids().count(), MAX_KEYS);
    }

    #[test]
    fn bad_text_is_named_and_never_echoed() {
        let good = Keyring::generate(NOW).unwrap().to_text();
        let secret = good.split("secret = \"").nth(1).unwrap().get(..128).unwrap().to_owned();
        let table = [
            (String::new(), "holds no key"),
            ("not toml".to_owned(), "line 1"),
            (good.replace("id = 1", "id = 128"), "key 128: id must be 0 to 127"),
            (good.replace(&secret, "abcd"), "secret must be 128 hex digits"),
            (good.replace("secret =", "sekret ="), "line"),
            (format!("{}\n{}", *good, *good), "id occurs twice"),
            (format!("{}superseded_at = 5\n", *good), "must have no superseded_at"),
        ];
        for (text, expected) in table {
            let error = Keyring::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
            assert!(!error.contains(&secret), "{error:?} echoes the secret");
        }
        assert!(!format!("{:?}", Keyring::parse(&good).unwrap()).contains(&secret));
    }
}
