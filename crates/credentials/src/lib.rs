//! Turnery's credentials: sealed, not stored.
//!
//! A *username* is an authenticated, encrypted token that says which TURN key minted it, when, for how long
//! and for whom; its *password* is a MAC of the username. Whoever holds the [`Keyring`] can mint and verify,
//! nobody has to be asked, and nothing is written. Only refusals are stored: see [`Denial`] and [`DenySet`].
//!
//! Where others keep the keyring, it is sealed with a [`SealingKey`].
//!
//! Applications may also mint for themselves, with a [`SharedSecret`] of a TURN key: see [`TimeLimited`].
//!
//! This crate alone knows the usernames' formats. It does no I/O but ask the operating system for randomness
//! when it mints or makes a key.

mod deny;
mod id;
mod keyring;
mod sealed_text;
mod sealing_key;
mod shared_secret;
mod time_limited;
mod token;

pub use deny::{Denial, DenySet, DenySetFull, Issued, Subject};
pub use id::{CredentialId, IdError, IdentifierId, SharedSecretId, TurnKeyId};
pub use keyring::{Keyring, KeyringError};
pub use sealing_key::{SealedKeyringError, SealingKey, SealingKeyError};
pub use shared_secret::{
    MAX_SECRET_BYTES, MIN_SECRET_BYTES, SealedSecret, SecretText, SecretTextError, SharedSecret,
};
pub use time_limited::{MAX_USERNAME_LIFETIME_SECS, TIME_LIMITED_PASSWORD_LEN, TimeLimited};
pub use token::{
    Claims, Credential, CustomIdentifier, CustomIdentifierError, MAX_CUSTOM_IDENTIFIER_BYTES, MAX_TTL_SECS,
    MIN_TTL_SECS, MintError, OpenError, Opened,
};
