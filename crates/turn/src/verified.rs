//! Sealed credentials that requests were signed with lately: a client makes several requests within a second, and opening
//! its username and deriving its key takes longer than all the rest of one.

use credentials::{CredentialId, CustomIdentifier, Issued, Opened, TurnKeyId};
use stun::{LongTermKey, PasswordAlgorithm};

/// How many are remembered. Each takes about half a kilobyte.
const PLACES: usize = 1_024;

/// What a sealed username says. Whether it has expired or is denied is for the caller to check, each time.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) credential: CredentialId,
    pub(crate) turn_key: TurnKeyId,
    pub(crate) issued: Issued,
    pub(crate) custom_identifier: CustomIdentifier,
    /// Unix seconds.
    pub(crate) expires_at: u64,
}

impl From<Opened> for Sealed {
    fn from(opened: Opened) -> Self {
        let Opened { claims, id } = opened;
        Self {
            credential: id,
            turn_key: claims.key,
            issued: claims.issued(),
            expires_at: claims.expires_at(),
            custom_identifier: claims.custom_identifier,
        }
    }
}

#[derive(Debug)]
struct Entry {
    username: Box<[u8]>,
    algorithm: PasswordAlgorithm,
    sealed: Sealed,
    key: LongTermKey,
}

/// What is remembered, each credential in the one place that its username has; whoever comes later takes it over.
#[derive(Debug)]
pub(crate) struct Verified(Box<[Option<Box<Entry>>]>);

impl Default for Verified {
    fn default() -> Self {
        Self((0..PLACES).map(|_| None).collect())
    }
}

impl Verified {
    /// What this username says and the key that its password makes, if it is remembered.
    pub(crate) fn find(
        &self,
        username: &[u8],
        algorithm: PasswordAlgorithm,
    ) -> Option<(&Sealed, &LongTermKey)> {
        let entry = self.0.get(place(username))?.as_ref()?;
        let is_it = *entry.username == *username && entry.algorithm == algorithm;
        is_it.then_some((&entry.sealed, &entry.key))
    }

    /// Remembers a credential that a request was signed with: nobody fills this with others.
    pub(crate) fn remember(
        &mut self,
        username: &[u8],
        algorithm: PasswordAlgorithm,
        sealed: &Sealed,
        key: &LongTermKey,
    ) {
        if let Some(there) = self.0.get_mut(place(username)) {
            let (sealed, key) = (sealed.clone(), key.clone());
            *there = Some(Box::new(Entry { username: username.into(), algorithm, sealed, key }));
        }
    }

    /// Forgets what has expired.
    pub(crate) fn purge(&mut self, now_unix_secs: u64) {
        for place in &mut self.0 {
            place.take_if(|entry| entry.sealed.expires_at <= now_unix_secs);
        }
    }
}

/// Behind the two digits that name the keyring's key there is the tag, which looks random: no two that were minted are
/// likely to begin alike, and nobody can have them minted so.
fn place(username: &[u8]) -> usize {
    let tag = username.get(2..).and_then(<[u8]>::first_chunk::<8>);
    let bits = tag.map_or(0, |tag| u64::from_le_bytes(*tag));
    // Half of a digit's bits are the same for all; the product's upper bits depend on all of them.
    (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use credentials::{Claims, Keyring};

    use super::*;

    #[test]
    fn what_is_remembered_is_found_as_it_was_until_it_expires() {
        let keyring = Keyring::generate(1_000).unwrap();
        let mut verified = Verified::default();
        let minted: Vec<String> = (0..100_u32)
            .map(|n| {
                let identifier = CustomIdentifier::try_from(format!("user {n}")).unwrap();
                let key = TurnKeyId::from_bytes([1; 16]);
                let claims =
                    Claims { key, issued_at: 1_000, ttl_secs: 10 + n, custom_identifier: identifier };
                keyring.mint(&claims).unwrap().username
            })
            .collect();
        let key = |name: &str| LongTermKey::new(name.as_bytes(), b"realm", b"password");
        for name in &minted {
            let name = name.as_bytes();
            let sealed = Sealed::from(keyring.open(name).unwrap());
            assert!(verified.find(name, PasswordAlgorithm::Md5).is_none());
            verified.remember(
                name,
                PasswordAlgorithm::Md5,
                &sealed,
                &key(std::str::from_utf8(name).unwrap()),
            );
            let (found, _) = verified.find(name, PasswordAlgorithm::Md5).unwrap();
            assert_eq!(found.custom_identifier, sealed.custom_identifier);
            assert!(verified.find(name, PasswordAlgorithm::Sha256).is_none(), "another key");
        }
        let found = |verified: &Verified| {
            let finds = |name: &&String| match verified.find(name.as_bytes(), PasswordAlgorithm::Md5) {
                Some((_, found)) => *found == key(name),
                None => false,
            };
            minted.iter().filter(finds).count()
        };
        assert!(found(&verified) > 80, "usernames have places of their own: {}", found(&verified));
        verified.purge(1_000 + 60);
        assert!((30..50).contains(&found(&verified)), "those with 61 s and more are left");
        verified.purge(1_000 + 110);
        assert!(verified.0.iter().all(Option::is_none));
    }
}
