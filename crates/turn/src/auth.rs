//! The long-term credential mechanism. RFC 8489 §9.2, RFC 8656 §5.

use std::collections::BTreeSet;

use credentials::{
    CredentialId, CustomIdentifier, DenySet, Issued, Keyring, SharedSecret, Subject, TimeLimited, TurnKeyId,
};
use stun::{AttributeType, Integrity, IntegrityAlgorithm, LongTermKey, Message, Method, PasswordAlgorithm};

use crate::shared_secrets::{MAX_TRIED_BYTES, Payer, SecretRef, SharedSecrets, blocks};
use crate::verified::{Sealed, Verified};
use crate::{DropReason, FiveTuple, NonceKey, Refusal, Time};

/// A request whose integrity is verified, and whose credential is neither expired nor denied.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated {
    pub(crate) key: LongTermKey,
    /// What the response's integrity is made with.
    pub(crate) response: IntegrityAlgorithm,
    pub(crate) credential: CredentialId,
    pub(crate) turn_key: TurnKeyId,
    /// Of a sealed credential.
    pub(crate) issued: Option<Issued>,
    /// The shared secret that a time-limited username was signed with.
    pub(crate) shared_secret: Option<SecretRef>,
    /// Whom a sealed credential was minted for.
    pub(crate) custom_identifier: CustomIdentifier,
    /// Unix seconds.
    pub(crate) expires_at: u64,
}

impl Authenticated {
    fn subject(&self) -> Subject {
        Subject { key: self.turn_key, credential: self.credential, issued: self.issued }
    }
}

/// Why a request is not authenticated.
#[derive(Debug)]
pub(crate) enum Unproven {
    Refused(Refusal),
    Dropped(DropReason),
}

impl From<Refusal> for Unproven {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whose username it is, as far as the username says.
enum User<'m> {
    /// With the key, if a request was signed with it lately.
    Sealed(Sealed, Option<LongTermKey>),
    TimeLimited(TimeLimited<'m>),
}

/// What the key of a request is made of, and what its integrity is checked with.
#[derive(Clone, Copy)]
struct Check<'m> {
    message: &'m Message<'m>,
    username: &'m [u8],
    realm: &'m [u8],
    algorithm: PasswordAlgorithm,
    integrity: IntegrityAlgorithm,
}

impl Check<'_> {
    /// The key that this password makes, if the request was signed with it.
    fn verify(&self, password: &[u8]) -> Option<LongTermKey> {
        let key = LongTermKey::with_algorithm(self.algorithm, self.username, self.realm, password);
        self.is_signed_with(&key).then_some(key)
    }

    fn is_signed_with(&self, key: &LongTermKey) -> bool {
        self.message.integrity_by(self.integrity, key) == Integrity::Verified
    }
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
            | A::CONNECTION_ID
    )
}

/// Requests that a client makes on several connections with one nonce: each of its data connections is another one than
/// that which it allocates on. RFC 6062 §4.
fn is_about_connections(method: Method) -> bool {
    matches!(method, Method::CONNECT | Method::CONNECTION_BIND)
}

/// Whom the nonce of an answer to this method is good for: a data connection's is for all connections of the client.
pub(crate) fn nonce_holder(method: Method, client: FiveTuple) -> FiveTuple {
    if method == Method::CONNECTION_BIND { client.any_port() } else { client }
}

/// What authentication is checked against.
pub(crate) struct Authority<'s> {
    pub(crate) keyring: &'s Keyring,
    pub(crate) verified: &'s mut Verified,
    pub(crate) shared_secrets: &'s mut SharedSecrets,
    /// The one that the client's live allocation was made with: tried first, and mostly the only one.
    pub(crate) known_secret: Option<SecretRef>,
    pub(crate) username_lifetime_secs: u32,
    pub(crate) denials: &'s DenySet,
    pub(crate) suspended: &'s BTreeSet<TurnKeyId>,
    pub(crate) nonces: &'s NonceKey,
    pub(crate) nonce_lifetime_secs: u32,
    pub(crate) offers_algorithms: bool,
    pub(crate) realm: &'s str,
}

impl Authority<'_> {
    /// Authenticates a request, in the order of RFC 8489 §9.2.4.
    pub(crate) fn authenticate(
        mut self,
        now: Time,
        client: &FiveTuple,
        message: &Message<'_>,
    ) -> Result<Authenticated, Unproven> {
        // RFC 8489 §9.2.4: without integrity the answer is 401 with REALM and NONCE.
        let integrity = integrity_algorithm(message).ok_or(Refusal::Unauthenticated)?;
        // RFC 8489 §9.2.4: with it but without USERNAME (or USERHASH), REALM or NONCE it is 400.
        let required = |kind| message.attribute(kind).ok_or(Refusal::IncompleteCredentials);
        let realm = required(AttributeType::REALM)?;
        let nonce = required(AttributeType::NONCE)?;
        let Some(username) = message.attribute(AttributeType::USERNAME) else {
            required(AttributeType::USERHASH)?;
            // Users are sealed, not stored, so nobody is found by a hash. The nonce of a 401 does not offer it.
            return Err(Refusal::UnknownUsername.into());
        };
        let (algorithm, response) = self.password_algorithm(message)?;
        // RFC 8489 §9.2.4: an unknown username is 401. Nobody is known in another realm.
        let user = self.user(username, algorithm).ok_or(Refusal::UnknownUsername)?;
        if realm != self.realm.as_bytes() {
            return Err(Refusal::UnknownUsername.into());
        }
        let (nonces, offers, lifetime_secs) = (self.nonces, self.offers_algorithms, self.nonce_lifetime_secs);
        let is_for = |client: &FiveTuple| nonces.accepts(nonce, now, client, offers, lifetime_secs);
        let accepts =
            || is_for(client) || (is_about_connections(message.method()) && is_for(&client.any_port()));
        // RFC 8489 §9.2.4: integrity that does not verify is 401.
        let check = Check { message, username, realm, algorithm, integrity };
        let (authenticated, has_nonce) = match user {
            User::Sealed(sealed, key) => (self.verify_sealed((sealed, key), check, response)?, accepts()),
            User::TimeLimited(user) => {
                // Asked before, it says who pays; the answer still judges it last.
                let has_nonce = accepts();
                (self.verify_time_limited(now, has_nonce, user, check, response)?, has_nonce)
            }
        };
        if authenticated.expires_at <= now.unix_secs() {
            return Err(Refusal::CredentialExpired.into());
        }
        let farthest = now.unix_secs().saturating_add(self.username_lifetime_secs.into());
        if authenticated.shared_secret.is_some() && authenticated.expires_at > farthest {
            return Err(Refusal::ExpiryTooFar.into());
        }
        if self.denials.denies(&authenticated.subject()) {
            return Err(Refusal::CredentialDenied.into());
        }
        if self.suspended.contains(&authenticated.turn_key) {
            return Err(Refusal::KeySuspended.into());
        }
        // RFC 8489 §9.2.4: last, a nonce that is no longer valid is 438.
        if !has_nonce {
            return Err(Refusal::StaleNonce.into());
        }
        Ok(authenticated)
    }

    fn user<'m>(&self, username: &'m [u8], algorithm: PasswordAlgorithm) -> Option<User<'m>> {
        if let Some((sealed, key)) = self.verified.find(username, algorithm) {
            return Some(User::Sealed(sealed.clone(), Some(key.clone())));
        }
        match self.keyring.open(username) {
            Ok(opened) => Some(User::Sealed(opened.into(), None)),
            Err(_) if self.shared_secrets.is_empty() => None,
            Err(_) => TimeLimited::parse(username).map(User::TimeLimited),
        }
    }

    fn verify_sealed(
        &mut self,
        (sealed, known): (Sealed, Option<LongTermKey>),
        check: Check<'_>,
        response: IntegrityAlgorithm,
    ) -> Result<Authenticated, Refusal> {
        let key = if let Some(key) = known {
            Some(key).filter(|key| check.is_signed_with(key)).ok_or(Refusal::WrongPassword)?
        } else {
            let password = self.keyring.password(check.username).map_err(|_| Refusal::UnknownUsername)?;
            let key = check.verify(password.as_bytes()).ok_or(Refusal::WrongPassword)?;
            self.verified.remember(check.username, check.algorithm, &sealed, &key);
            key
        };
        let Sealed { credential, turn_key, issued, custom_identifier, expires_at } = sealed;
        Ok(Authenticated {
            key,
            response,
            credential,
            turn_key,
            issued: Some(issued),
            shared_secret: None,
            expires_at,
            custom_identifier,
        })
    }

    fn verify_time_limited(
        &mut self,
        now: Time,
        has_nonce: bool,
        user: TimeLimited<'_>,
        check: Check<'_>,
        response: IntegrityAlgorithm,
    ) -> Result<Authenticated, Unproven> {
        let try_one = |(turn_key, secret): (TurnKeyId, &SharedSecret)| {
            let key = check.verify(&*user.password(&secret.text))?;
            Some((key, (turn_key, secret.id)))
        };
        let known = self.known_secret.and_then(|known| Some((known.0, self.shared_secrets.secret(known)?)));
        let mut found = known.and_then(try_one);
        if found.is_none() {
            let length = check.message.as_bytes().len();
            if length > MAX_TRIED_BYTES {
                return Err(Unproven::Dropped(DropReason::TooLongToTry));
            }
            let payer = if has_nonce { Payer::Answered } else { Payer::Anyone };
            if !self.shared_secrets.spend(now, payer, blocks(length, check.username.len())) {
                return Err(Unproven::Dropped(DropReason::TooManyTrials));
            }
            // To the end also when one fits: the time taken does not say which.
            for secret in self.shared_secrets.iter() {
                let fits = try_one(secret);
                found = found.or(fits);
            }
        }
        let (key, shared_secret) = found.ok_or(Refusal::WrongPassword)?;
        let (turn_key, _) = shared_secret;
        Ok(Authenticated {
            key,
            response,
            credential: user.id(turn_key),
            turn_key,
            issued: None,
            shared_secret: Some(shared_secret),
            expires_at: user.expires_at,
            custom_identifier: CustomIdentifier::default(),
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
