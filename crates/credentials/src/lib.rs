//! Turnery's credentials: sealed, not stored.
//!
//! A *username* is an authenticated, encrypted token that says which TURN key minted it, when, for how long
//! and for whom; its *password* is a MAC of the username. Whoever holds the [`Keyring`] can mint and verify,
//! nobody has to be asked, and nothing is written. Only refusals are stored: see [`Denial`] and [`DenySet`].
//!
//! This crate alone knows the token's format. It does no I/O but ask the operating system for randomness
//! when it mints or makes a key.

mod deny;
mod id;
mod keyring;
mod token;

pub use deny::{Denial, DenySet, DenySetFull};
pub use id::{CredentialId, IdError, TurnKeyId};
pub use keyring::{Keyring, KeyringError};
pub use token::{
    Claims, Credential, CustomIdentifier, CustomIdentifierError, MAX_CUSTOM_IDENTIFIER_BYTES, MAX_TTL_SECS,
    MIN_TTL_SECS, MintError, OpenError, Opened,
};
