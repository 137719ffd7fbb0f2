//! The long-term credential mechanism. RFC 8489 §9.2, RFC 8656 §5.

use credentials::{CredentialId, DenySet, Keyring, TurnKeyId};
use stun::{AttributeType, Integrity, IntegrityAlgorithm, LongTermKey, Message, PasswordAlgorithm};

use crate::{FiveTuple, NonceKey, Refusal, Time};

/// A request whose integrity is verified, and whose credential is neither expired nor denied.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) key: LongTermKey,
    /// What the response's integrity is made with.
    pub(crate) response: IntegrityAlgorithm,
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
            | A::MESSAGE_INTEGRITY_SHA256
            | A::PASSWORD_ALGORITHM
            | A::EVEN_PORT
            | A::DONT_FRAGMENT
            | A::RESERVATION_TOKEN
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
    pub(crate) offers_algorithms: bool,
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
        // RFC 8489 §9.2.4: without integrity the answer is 401 with REALM and NONCE.
        let integrity = integrity_algorithm(message).ok_or(Refusal::Unauthenticated)?;
        // RFC 8489 §9.2.4: with it but without USERNAME, REALM or NONCE it is 400.
        let required = |kind| message.attribute(kind).ok_or(Refusal::IncompleteCredentials);
        let username = required(AttributeType::USERNAME)?;
        let realm = required(AttributeType::REALM)?;
        let nonce = required(AttributeType::NONCE)?;
        let (algorithm, response) = self.password_algorithm(message)?;
        // RFC 8489 §9.2.4: an unknown username is 401. Nobody is known in another realm.
        let opened = self.keyring.open(username).map_err(|_| Refusal::UnknownUsername)?;
        let password = self.keyring.password(username).map_err(|_| Refusal::UnknownUsername)?;
        if realm != self.realm.as_bytes() {
            return Err(Refusal::UnknownUsername);
        }
        // RFC 8489 §9.2.4: integrity that does not verify is 401.
        let key = LongTermKey::with_algorithm(algorithm, username, realm, password.as_bytes());
        if message.integrity_by(integrity, &key) != Integrity::Verified {
            return Err(Refusal::WrongPassword);
        }
        let claims = &opened.claims;
        if claims.expires_at() <= now.unix_secs() {
            return Err(Refusal::CredentialExpired);
        }
        if self.denials.denies(claims.key, opened.id) {
            return Err(Refusal::CredentialDenied);
        }
        // RFC 8489 §9.2.4: last, a nonce that is no longer valid is 438.
        if !self.nonces.accepts(nonce, now, client, self.offers_algorithms, self.nonce_lifetime_secs) {
            return Err(Refusal::StaleNonce);
        }
        Ok(Authenticated {
            key,
            response,
            credential: opened.id,
            turn_key: claims.key,
            expires_at: claims.expires_at(),
        })
    }

    /// How the request's key is made, and what the response's integrity is made with.
    fn password_algorithm(
        &self,
        message: &Message<'_>,
    ) -> Result<(PasswordAlgorithm, IntegrityAlgorithm), Refusal> {
        let list = message.attribute(AttributeType::PASSWORD_ALGORITHMS);
        let choice = message.attribute(AttributeType::PASSWORD_ALGORITHM);
        match (list, choice) {
            // RFC 8489 §9.2.4: the two count only where the nonce says that algorithms are offered.
            _ if !self.offers_algorithms => Ok((PasswordAlgorithm::Md5, IntegrityAlgorithm::Sha1)),
            // RFC 8489 §9.2.4: a client that names none uses MD5, and is answered with MESSAGE-INTEGRITY.
            (None, None) => Ok((PasswordAlgorithm::Md5, IntegrityAlgorithm::Sha1)),
            // RFC 8489 §9.2.4: both, the list as it was offered and one of it, or it is 400: a list that was changed
            // on the way is a bid-down attack. The answer then has MESSAGE-INTEGRITY-SHA256.
            (Some(list), Some(choice)) if list == PasswordAlgorithm::OFFER => {
                let algorithm = PasswordAlgorithm::parse(choice).ok_or(Refusal::PasswordAlgorithmInvalid)?;
                Ok((algorithm, IntegrityAlgorithm::Sha256))
            }
            _ => Err(Refusal::PasswordAlgorithmInvalid),
        }
    }
}

/// The stronger of the integrity attributes that a message has.
pub(crate) fn integrity_algorithm(message: &Message<'_>) -> Option<IntegrityAlgorithm> {
    // RFC 8489 §9.2.4: MESSAGE-INTEGRITY-SHA256 counts where both are there.
    [IntegrityAlgorithm::Sha256, IntegrityAlgorithm::Sha1]
        .into_iter()
        .find(|algorithm| message.attribute(algorithm.attribute()).is_some())
}
