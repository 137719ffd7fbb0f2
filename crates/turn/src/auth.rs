//! The long-term credential mechanism. RFC 8489 §9.2, RFC 8656 §5.

use credentials::{CredentialId, DenySet, Keyring, TurnKeyId};
use stun::{AttributeType, Integrity, LongTermKey, Message};

use crate::{FiveTuple, NonceKey, Refusal, Time};

/// A request whose integrity is verified, and whose credential is neither expired nor denied.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) key: LongTermKey,
    pub(crate) credential: CredentialId,
    pub(crate) turn_key: TurnKeyId,
    /// Unix seconds.
    pub(crate) expires_at: u64,
}

/// The comprehension-required attributes this server understands, in any message.
pub(crate) fn is_known(kind: AttributeType) -> bool {
    use AttributeType as A;
    matches!(
        kind,
        A::MAPPED_ADDRESS
            | A::USERNAME
            | A::MESSAGE_INTEGRITY
            | A::ERROR_CODE
            | A::UNKNOWN_ATTRIBUTES
            | A::CHANNEL_NUMBER
            | A::LIFETIME
            | A::XOR_PEER_ADDRESS
            | A::DATA
            | A::REALM
            | A::NONCE
            | A::XOR_RELAYED_ADDRESS
            | A::REQUESTED_ADDRESS_FAMILY
            | A::REQUESTED_TRANSPORT
            | A::XOR_MAPPED_ADDRESS
    )
}

/// What authentication is checked against.
pub(crate) struct Authority<'s> {
    pub(crate) keyring: &'s Keyring,
    pub(crate) denials: &'s DenySet,
    pub(crate) nonces: &'s NonceKey,
    pub(crate) nonce_lifetime_secs: u32,
    pub(crate) realm: &'s str,
}

impl Authority<'_> {
    /// Authenticates a request, in the order of RFC 8489 §9.2.4.
    pub(crate) fn authenticate(
        &self,
        now: Time,
        client: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<Authenticated, Refusal> {
        // RFC 8489 §9.2.4: without MESSAGE-INTEGRITY the answer is 401 with REALM and NONCE.
        if message.attribute(AttributeType::MESSAGE_INTEGRITY).is_none() {
            return Err(Refusal::Unauthenticated);
        }
        // RFC 8489 §9.2.4: with it but without USERNAME, REALM or NONCE it is 400.
        let required = |kind| message.attribute(kind).ok_or(Refusal::IncompleteCredentials);
        let username = required(AttributeType::USERNAME)?;
        required(AttributeType::REALM)?;
        let nonce = required(AttributeType::NONCE)?;
        // RFC 8489 §9.2.4: a nonce that is no longer valid is 438.
        if !self.nonces.accepts(nonce, now, client, self.nonce_lifetime_secs) {
            return Err(Refusal::StaleNonce);
        }
        // RFC 8489 §9.2.4: an unknown username is 401.
        let opened = self.keyring.open(username).map_err(|_| Refusal::UnknownUsername)?;
        let password = self.keyring.password(username).map_err(|_| Refusal::UnknownUsername)?;
        // RFC 8489 §9.2.4: integrity that does not verify is 401. The key is made with our realm, so a request
        // for another realm does not verify.
        let key = LongTermKey::new(username, self.realm.as_bytes(), password.as_bytes());
        if message.integrity(&key) != Integrity::Verified {
            return Err(Refusal::WrongPassword);
        }
        let claims = &opened.claims;
        if claims.expires_at() <= now.unix_secs() {
            return Err(Refusal::CredentialExpired);
        }
        if self.denials.denies(claims.key, opened.id) {
            return Err(Refusal::CredentialDenied);
        }
        Ok(Authenticated {
            key,
            credential: opened.id,
            turn_key: claims.key,
            expires_at: claims.expires_at(),
        })
    }
}
