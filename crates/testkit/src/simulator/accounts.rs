//! Keyrings and credentials that come from the seed.

use std::fmt::Write;
use std::sync::Arc;

use credentials::{Claims, CustomIdentifier, Keyring, SharedSecret, SharedSecretId, TimeLimited, TurnKeyId};

use crate::dice::Dice;
use crate::model::{Account, Minter};

/// Unix seconds at which the keyring's keys were made.
const MADE_AT: u64 = 1_700_000_000;

/// The deployment's keys in every state of a rotation.
#[derive(Debug)]
pub(super) struct Keyrings {
    secrets: [String; 2],
    turn_keys: [TurnKeyId; 3],
    /// The shared secrets of each.
    shared_secrets: [Vec<SharedSecret>; 3],
}

impl Keyrings {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let mut secret = || {
            dice.bytes::<64>().iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").expect("a string takes all");
                text
            })
        };
        let secrets = [secret(), secret()];
        let turn_keys = [0; 3].map(|_: u8| TurnKeyId::from_bytes(dice.bytes()));
        Self { secrets, turn_keys, shared_secrets: Default::default() }
    }

    /// The TURN keys that there are.
    pub(super) fn turn_keys(&self) -> [TurnKeyId; 3] {
        self.turn_keys
    }

    /// The ring of these keys (of 1 and 2), the last of them current.
    pub(super) fn ring(&self, ids: &[u8]) -> Arc<Keyring> {
        let mut text = String::new();
        for (place, id) in ids.iter().enumerate() {
            let [first, second] = &self.secrets;
            let secret = if *id == 1 { first } else { second };
            let superseded =
                if place + 1 < ids.len() { format!("superseded_at = {MADE_AT}\n") } else { String::new() };
            write!(text, "[[key]]\nid = {id}\ncreated_at = {MADE_AT}\n{superseded}secret = \"{secret}\"\n\n")
                .expect("a string takes all");
        }
        Arc::new(Keyring::parse(&text).expect("the text is a keyring"))
    }

    /// This TURN key is deleted; another takes its place.
    pub(super) fn forget(&mut self, deleted: TurnKeyId, dice: &mut Dice) {
        for (key, secrets) in self.turn_keys.iter_mut().zip(&mut self.shared_secrets) {
            if *key == deleted {
                *key = TurnKeyId::from_bytes(dice.bytes());
                secrets.clear();
            }
        }
    }

    /// Some TURN key loses a shared secret or gets another: the key, and all that it has then.
    pub(super) fn change_secrets(&mut self, dice: &mut Dice) -> (TurnKeyId, Vec<SharedSecret>) {
        let place = dice.index(self.turn_keys.len());
        let key = self.turn_keys.get(place).copied().expect("the place is one of theirs");
        let secrets = self.shared_secrets.get_mut(place).expect("the place is one of theirs");
        if secrets.len() >= 3 || (!secrets.is_empty() && dice.permille(400)) {
            secrets.remove(dice.index(secrets.len()));
        } else {
            let text = format!("shared secret {:016x}", dice.number());
            let text = text.parse().expect("it is printable");
            secrets.push(SharedSecret { id: SharedSecretId::from_bytes(dice.bytes()), text });
        }
        (key, secrets.clone())
    }

    /// A new time-limited username, as an application mints it; `None` when the TURN key has no shared secret.
    pub(super) fn mint_time_limited(
        &self,
        dice: &mut Dice,
        unix_secs: u64,
        ttl_secs: u32,
    ) -> Option<Account> {
        let place = dice.index(self.turn_keys.len());
        let (turn_key, secrets) = (*self.turn_keys.get(place)?, self.shared_secrets.get(place)?);
        let secret = secrets.get(dice.index(secrets.len().max(1)))?;
        let expires_at = unix_secs + u64::from(ttl_secs);
        let username = format!("{expires_at}:@{:016x}:example.org", dice.number());
        let parsed = TimeLimited::parse(username.as_bytes()).expect("it has the form");
        let password = String::from_utf8(parsed.password(&secret.text).to_vec()).expect("base64 is ASCII");
        let id = parsed.id(turn_key);
        Some(Account {
            username,
            password,
            custom_identifier: String::new(),
            id,
            turn_key,
            expires_at,
            issued: None,
            minted_with: Minter::SharedSecret(secret.id),
        })
    }

    /// A new credential, sealed by this key.
    pub(super) fn mint(&self, dice: &mut Dice, sealed_by: u8, unix_secs: u64, ttl_secs: u32) -> Account {
        let turn_key = dice.pick(&self.turn_keys);
        let custom = if dice.permille(500) { "" } else { "somebody" };
        let claims = Claims {
            key: turn_key,
            issued_at: unix_secs,
            ttl_secs,
            custom_identifier: CustomIdentifier::try_from(custom).expect("it is short"),
        };
        let minted = self.ring(&[sealed_by]).mint_with_salt(&claims, dice.bytes());
        let minted = minted.expect("the claims are in range");
        Account {
            username: minted.username,
            password: minted.password,
            custom_identifier: custom.to_owned(),
            id: minted.id,
            turn_key,
            expires_at: minted.expires_at,
            issued: Some(claims.issued()),
            minted_with: Minter::Keyring(sealed_by),
        }
    }
}
