//! Who clients say they are.

use std::sync::{Arc, LazyLock};

use credentials::{
    Claims, CredentialId, CustomIdentifier, Issued, Keyring, SharedSecret, SharedSecretId, Subject,
    TimeLimited, TurnKeyId,
};

/// The TURN keys.
pub(super) const KEYS: [TurnKeyId; 2] = [TurnKeyId::from_bytes([0; 16]), TurnKeyId::from_bytes([1; 16])];
/// What a sealed credential may be good for, in seconds.
const MAX_TTL_SECS: u32 = 172_800;
/// The shared secrets of either.
const SECRETS: [&str; 2] = ["the first secret that is shared", "the second secret that is shared"];

static KEYRINGS: LazyLock<[Arc<Keyring>; 2]> =
    LazyLock::new(|| [1, 2].map(|id| Arc::new(super::super::keyring(id))));

/// One of the two keyrings.
pub(super) fn keyring(second: bool) -> Arc<Keyring> {
    let [first, other] = &*KEYRINGS;
    Arc::clone(if second { other } else { first })
}

/// A credential.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) id: CredentialId,
    pub(super) turn_key: TurnKeyId,
    /// What its time-limited username was signed with.
    pub(super) secret: Option<SharedSecretId>,
    /// Unix seconds.
    pub(super) expires_at: u64,
    /// Of a sealed one.
    pub(super) issued: Option<Issued>,
}

/// How far ahead the expiry of a time-limited username may lie, in seconds.
pub(super) const USERNAME_LIFETIME_SECS: u32 = 604_800;

impl Account {
    /// Sealed by a keyring; `number` tells it from others.
    pub(super) fn sealed(ring: &Keyring, number: u8, now_secs: u64, ttl_secs: u32) -> Self {
        let [first, second] = KEYS;
        let claims = Claims {
            key: if number.is_multiple_of(2) { first } else { second },
            issued_at: now_secs,
            ttl_secs: ttl_secs.min(MAX_TTL_SECS),
            custom_identifier: CustomIdentifier::try_from(if number % 4 < 2 { "" } else { "a" })
                .expect("it is short"),
        };
        let minted = ring.mint_with_salt(&claims, [number; 8]).expect("the claims are in range");
        Self {
            username: minted.username,
            password: minted.password,
            id: minted.id,
            turn_key: claims.key,
            secret: None,
            expires_at: minted.expires_at,
            issued: Some(claims.issued()),
        }
    }

    /// Signed with a shared secret, as an application does.
    pub(super) fn time_limited(turn_key: TurnKeyId, which: bool, now_secs: u64, ttl_secs: u32) -> Self {
        let secret = shared_secret(turn_key, which);
        let username = format!("{}:somebody", now_secs + u64::from(ttl_secs));
        let parsed = TimeLimited::parse(username.as_bytes()).expect("it has the form");
        let password = String::from_utf8(parsed.password(&secret.text).to_vec()).expect("base64 is ASCII");
        let (id, expires_at) = (parsed.id(turn_key), parsed.expires_at);
        Self { username, password, id, turn_key, secret: Some(secret.id), expires_at, issued: None }
    }

    /// What a denial is held against.
    pub(super) fn subject(&self) -> Subject {
        Subject { key: self.turn_key, credential: self.id, issued: self.issued }
    }
}

/// The shared secrets of a key of which these bits are set.
pub(super) fn shared_secrets(key: TurnKeyId, bits: u8) -> Arc<[SharedSecret]> {
    let chosen = [false, true].into_iter().filter(|which| bits & (1 << u8::from(*which)) != 0);
    chosen.map(|which| shared_secret(key, which)).collect()
}

fn shared_secret(key: TurnKeyId, which: bool) -> SharedSecret {
    let [first, second] = SECRETS;
    let [number, ..] = *key.as_bytes();
    let text = format!("{} of key {number}", if which { second } else { first });
    let id = SharedSecretId::from_bytes([2 * number + u8::from(which); 16]);
    SharedSecret { id, text: text.parse().expect("it is printable") }
}
