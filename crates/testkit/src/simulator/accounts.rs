//! Keyrings and credentials that come from the seed.

use std::fmt::Write;
use std::sync::Arc;

use credentials::{Claims, CustomIdentifier, Keyring, TurnKeyId};

use crate::dice::Dice;
use crate::model::Account;

/// Unix seconds at which the keyring's keys were made.
const MADE_AT: u64 = 1_700_000_000;

/// The deployment's keys in every state of a rotation.
#[derive(Debug)]
pub(super) struct Keyrings {
    secrets: [String; 2],
    turn_keys: [TurnKeyId; 3],
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
        Self { secrets, turn_keys: [0; 3].map(|_: u8| TurnKeyId::from_bytes(dice.bytes())) }
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
        for key in self.turn_keys.iter_mut().filter(|key| **key == deleted) {
            *key = TurnKeyId::from_bytes(dice.bytes());
        }
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
            id: minted.id,
            turn_key,
            expires_at: minted.expires_at,
            sealed_by,
        }
    }
}
