//! Certificates from ACME authorities (RFC 8555), and what it takes to obtain them: shared by all nodes, of which one
//! at a time obtains. Private keys are sealed before they reach the database. Times are Unix seconds.

use std::fmt;

use credentials::{Keyring, OpenError, SealedSecret};
use zeroize::Zeroizing;

use super::{Backend, Resealed, Store, StoreError};

/// Most challenges that are read; an order has at most one for each of its names.
pub const MAX_ACME_CHALLENGES: u32 = 1_000;

/// Which certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeId {
    /// The authority's directory, a URL.
    pub directory: String,
    /// Names, sorted and separated by commas.
    pub names: String,
}

/// What is known of a certificate: the one that there is, and what became of attempts to have the next.
#[derive(Clone)]
pub struct AcmeCertificate {
    /// Which.
    pub id: AcmeId,
    /// How many were obtained so far.
    pub version: i64,
    /// PEM, the server's own first; `None` before the first.
    pub chain: Option<String>,
    /// When it is good no more.
    pub not_after: Option<i64>,
    /// When the next is to be obtained.
    pub renew_at: i64,
    /// When the authority is to be asked whether that is right.
    pub ask_at: i64,
    /// Until when somebody is at it, if anybody is.
    pub claimed_until: Option<i64>,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Why the last of them did, one line.
    pub last_error: Option<String>,
    /// Not before this is the next.
    pub next_try: i64,
    pub(super) sealed_key: Option<Vec<u8>>,
}

/// A certificate that was just obtained.
#[derive(Clone, Copy)]
pub struct ObtainedCertificate<'a> {
    /// PEM, the server's own first.
    pub chain: &'a str,
    /// Its private key.
    pub key: &'a [u8],
    /// When it is good no more.
    pub not_after: i64,
    /// When the next is to be obtained.
    pub renew_at: i64,
}

/// What an authority is answered with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcmeChallenge {
    /// The challenge's type, as `http-01`.
    pub kind: String,
    /// What it asks for: a name or a token.
    pub subject: String,
    /// What it wants to see.
    pub answer: Vec<u8>,
}

/// An account with an authority.
#[derive(Clone)]
pub struct AcmeAccount {
    /// Whom the authority writes to; may be empty.
    pub contact: String,
    sealed: Vec<u8>,
    directory: String,
}

impl AcmeCertificate {
    /// The private key of the one that there is.
    ///
    /// # Errors
    /// When the keyring cannot open it.
    pub fn key(&self, keyring: &Keyring) -> Result<Option<Zeroizing<Vec<u8>>>, OpenError> {
        self.sealed_key.as_ref().map(|sealed| keyring.open_text(&key_context(&self.id), sealed)).transpose()
    }
}

impl AcmeAccount {
    pub(super) fn stored(directory: &str, contact: String, sealed: Vec<u8>) -> Self {
        Self { contact, sealed, directory: directory.to_owned() }
    }

    /// What was stored, its private key included.
    ///
    /// # Errors
    /// When the keyring cannot open it.
    pub fn open(&self, keyring: &Keyring) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        keyring.open_text(&account_context(&self.directory), &self.sealed)
    }
}

impl Store {
    /// What is known of a certificate; from now on there is such a row.
    pub async fn acme_certificate(&self, id: &AcmeId) -> Result<AcmeCertificate, StoreError> {
        match on_backend!(self, db => db.acme_certificate(id))? {
            Some(found) => Ok(found),
            None => on_backend!(self, db => db.insert_acme_certificate(id)),
        }
    }

    /// All of them.
    pub async fn acme_certificates(&self) -> Result<Vec<AcmeCertificate>, StoreError> {
        on_backend!(self, db => db.acme_certificates())
    }

    /// Takes it upon `claimant` to obtain a certificate, if that is due `now` and nobody else is at it.
    pub async fn claim_acme(
        &self,
        id: &AcmeId,
        claimant: &str,
        now: i64,
        until: i64,
    ) -> Result<bool, StoreError> {
        on_backend!(self, db => db.claim_acme(id, claimant, now, until))
    }

    /// Stays at it. `false`: somebody else is by now.
    pub async fn keep_acme_claim(&self, id: &AcmeId, claimant: &str, until: i64) -> Result<bool, StoreError> {
        on_backend!(self, db => db.keep_acme_claim(id, claimant, until))
    }

    /// Gives up whatever `claimant` is at, and what it answers authorities with.
    pub async fn release_acme(&self, claimant: &str) -> Result<(), StoreError> {
        on_backend!(self, db => db.release_acme(claimant))
    }

    /// Stores what `claimant` has obtained, and ends its claim. `false`: it had lost that, and nothing is stored.
    pub async fn acme_obtained(
        &self,
        keyring: &Keyring,
        id: &AcmeId,
        claimant: &str,
        new: ObtainedCertificate<'_>,
    ) -> Result<bool, StoreError> {
        let sealed = keyring.seal_text(&key_context(id), new.key).map_err(|_| StoreError::Seal)?;
        on_backend!(self, db => db.acme_obtained(id, claimant, new, &sealed))
    }

    /// Says why an attempt of `claimant` failed, and ends its claim.
    pub async fn acme_failed(
        &self,
        id: &AcmeId,
        claimant: &str,
        error: &str,
        next_try: i64,
    ) -> Result<(), StoreError> {
        on_backend!(self, db => db.acme_failed(id, claimant, error, next_try))
    }

    /// Has every certificate obtained anew, now. How many that are.
    pub async fn renew_acme(&self) -> Result<u64, StoreError> {
        on_backend!(self, db => db.renew_acme())
    }

    /// Takes it upon the caller to ask the authority when to renew, if that is due `now`; next at `ask_at`.
    pub async fn claim_acme_question(&self, id: &AcmeId, now: i64, ask_at: i64) -> Result<bool, StoreError> {
        on_backend!(self, db => db.claim_acme_question(id, now, ask_at))
    }

    /// Says when this version is to be renewed.
    pub async fn set_acme_renewal(
        &self,
        id: &AcmeId,
        version: i64,
        (renew_at, ask_at): (i64, i64),
    ) -> Result<(), StoreError> {
        on_backend!(self, db => db.set_acme_renewal(id, version, renew_at, ask_at))
    }

    /// Forgets certificates that expired, or were tried for the last time, before this.
    pub async fn purge_acme(&self, before: i64) -> Result<u64, StoreError> {
        on_backend!(self, db => db.purge_acme(before))
    }

    /// The account with an authority.
    pub async fn acme_account(&self, directory: &str) -> Result<Option<AcmeAccount>, StoreError> {
        on_backend!(self, db => db.acme_account(directory))
    }

    /// Stores an account in place of the one before.
    pub async fn set_acme_account(
        &self,
        keyring: &Keyring,
        directory: &str,
        contact: &str,
        account: &[u8],
    ) -> Result<(), StoreError> {
        let sealed = keyring.seal_text(&account_context(directory), account).map_err(|_| StoreError::Seal)?;
        let account = AcmeAccount::stored(directory, contact.to_owned(), sealed);
        on_backend!(self, db => db.set_acme_account(directory, &account.contact, &account.sealed))
    }

    /// Forgets the account with an authority, which does not know it.
    pub async fn forget_acme_account(&self, directory: &str) -> Result<(), StoreError> {
        on_backend!(self, db => db.delete_acme_account(directory))
    }

    /// Has every node answer so, until `until`, unless `claimant` gives up before.
    pub async fn answer_acme(
        &self,
        challenge: &AcmeChallenge,
        claimant: &str,
        until: i64,
    ) -> Result<(), StoreError> {
        on_backend!(self, db => db.insert_acme_challenge(challenge, claimant, until))
    }

    /// What authorities are to be answered with `now`, in order.
    pub async fn acme_challenges(&self, now: i64) -> Result<Vec<AcmeChallenge>, StoreError> {
        on_backend!(self, db => db.acme_challenges(now, MAX_ACME_CHALLENGES))
    }

    /// Takes back what `claimant` answers.
    pub async fn end_acme_challenges(&self, claimant: &str) -> Result<(), StoreError> {
        on_backend!(self, db => db.delete_acme_challenges(claimant))
    }

    /// Seals accounts and private keys with the keyring's current key that an older one has sealed. Those that the
    /// keyring cannot open stay as they are.
    pub async fn reseal_acme(&self, keyring: &Keyring) -> Result<Resealed, StoreError> {
        let mut resealed = Resealed::default();
        for certificate in self.acme_certificates().await? {
            let Some(old) = &certificate.sealed_key else { continue };
            if let Some(new) = again(keyring, &key_context(&certificate.id), old, &mut resealed) {
                on_backend!(self, db => db.set_acme_key(&certificate.id, old, &new))?;
            }
        }
        for account in on_backend!(self, db => db.acme_accounts())? {
            let context = account_context(&account.directory);
            if let Some(new) = again(keyring, &context, &account.sealed, &mut resealed) {
                on_backend!(self, db => db.reseal_acme_account(&account.directory, &account.sealed, &new))?;
            }
        }
        Ok(resealed)
    }
}

/// The same text sealed with the current key, if another one has sealed it.
fn again(keyring: &Keyring, context: &[u8], sealed: &[u8], resealed: &mut Resealed) -> Option<Vec<u8>> {
    if keyring.sealed_currently(&SealedSecret::from_bytes(sealed.to_vec())) {
        return None;
    }
    let opened = keyring.open_text(context, sealed).ok();
    let new = opened.and_then(|text| keyring.seal_text(context, &text).ok());
    *if new.is_some() { &mut resealed.count } else { &mut resealed.unreadable } += 1;
    new
}

fn key_context(id: &AcmeId) -> Vec<u8> {
    format!("acme key\n{}\n{}", id.directory, id.names).into_bytes()
}

fn account_context(directory: &str) -> Vec<u8> {
    format!("acme account\n{directory}").into_bytes()
}

impl fmt::Debug for AcmeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeCertificate")
            .field("id", &self.id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ObtainedCertificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObtainedCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl fmt::Debug for AcmeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeAccount").field("directory", &self.directory).finish_non_exhaustive()
    }
}
