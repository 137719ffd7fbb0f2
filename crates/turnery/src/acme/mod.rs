//! Certificates from an ACME authority (RFC 8555): obtained, renewed ahead of their expiry, and kept in the store, which
//! the nodes of a deployment share. One of them at a time obtains; all show what it has obtained.

mod answers;
mod hook;
mod order;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use control::HttpChallenges;
use control::store::Store;
use control::store::acme::{AcmeCertificate, AcmeChallenge, AcmeId, ObtainedCertificate};
use credentials::Keyring;
use instant_acme::{CertificateIdentifier, Error};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::certificates::{Certificates, Certified, renewal_id};
use crate::config::AcmeSettings;
use crate::keyring_file::unix_now;
use hook::Record;
use order::{Fault, Issued};
use schedule::{Cause, pause_secs, question_secs, random, renewal, suggested};

/// How often the store is looked at for what other nodes have done.
const POLL: Duration = Duration::from_secs(1);
/// How long a claim lasts unless it is renewed, and how often it is.
const CLAIM_SECS: i64 = 60;
const CLAIM_RENEWAL: Duration = Duration::from_secs(15);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_mins(15);
/// How often the authority is asked when to renew, if it does not say.
const QUESTION_SECS: i64 = 6 * 3_600;
const QUESTION: Duration = Duration::from_secs(30);
/// What nobody has used for so long is forgotten.
const KEPT_SECS: i64 = 30 * 86_400;
/// So much of an error is kept.
const MAX_ERROR_CHARS: usize = 1_000;

/// What obtains the certificate of one set of names, and shows it.
pub(crate) struct Acme {
    settings: AcmeSettings,
    id: AcmeId,
    store: Store,
    keyring: Arc<ArcSwap<Keyring>>,
    certificates: Arc<Certificates>,
    http: HttpChallenges,
    /// Where HTTP-01 is answered beside the API, until it is served.
    listener: Mutex<Option<TcpListener>>,
    /// What this process is called where claims are concerned.
    claimant: String,
    /// The version that is shown; 0: none.
    version: Mutex<i64>,
    /// The answers that are given.
    shown: Mutex<Vec<AcmeChallenge>>,
    /// What was put into the DNS.
    records: Mutex<Vec<Record>>,
}

/// Unix seconds.
fn now() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}

fn id(settings: &AcmeSettings) -> AcmeId {
    let mut names = settings.names.clone();
    names.sort();
    AcmeId { directory: settings.directory.clone(), names: names.join(",") }
}

fn certified(stored: &AcmeCertificate, keyring: &Keyring) -> Result<Option<Certified>> {
    let key = stored.key(keyring).context("the certificate's key in the store cannot be opened")?;
    let (Some(chain), Some(key)) = (&stored.chain, key) else { return Ok(None) };
    Certified::from_pem(chain, PrivateKeyDer::Pkcs8(key.to_vec().into())).map(Some)
}

/// What is shown at the start: the certificate in the store, or one that nobody trusts until there is one.
///
/// # Errors
/// When the store fails. What is in it and cannot be used is told, and obtained anew.
pub(crate) async fn certificates(
    settings: &AcmeSettings,
    store: &Store,
    keyring: &Keyring,
) -> Result<Certificates> {
    let stored = store.acme_certificate(&id(settings)).await?;
    let found = certified(&stored, keyring).unwrap_or_else(|error| {
        tracing::error!("{error:#}; it is obtained anew");
        None
    });
    let shown = match found {
        Some(found) => found,
        None => Certified::placeholder(settings.public_host().unwrap_or("localhost"))?,
    };
    Ok(Certificates::new(vec![Arc::new(shown)])?.renewed())
}

impl Acme {
    pub(crate) fn new(
        settings: AcmeSettings,
        store: Store,
        keyring: Arc<ArcSwap<Keyring>>,
        certificates: Arc<Certificates>,
        listener: Option<TcpListener>,
    ) -> Self {
        Self {
            id: id(&settings),
            settings,
            store,
            keyring,
            certificates,
            http: HttpChallenges::default(),
            listener: Mutex::new(listener),
            claimant: format!("{:016x}{:016x}", random(), random()),
            version: Mutex::new(0),
            shown: Mutex::default(),
            records: Mutex::default(),
        }
    }

    /// What HTTP-01 is answered with.
    pub(crate) fn http(&self) -> HttpChallenges {
        self.http.clone()
    }

    /// Obtains, renews and shows for as long as it is polled.
    pub(crate) async fn run(&self) -> ! {
        tokio::select! {
            never = self.give_answers() => never,
            never = self.keep_certificate() => never,
            never = self.serve_answers() => never,
        }
    }

    async fn serve_answers(&self) -> ! {
        if let Some(listener) = self.listener.lock().await.take() {
            self.http.serve(listener).await;
        }
        std::future::pending().await
    }

    async fn give_answers(&self) -> ! {
        let mut looks = self.store.looks(POLL);
        loop {
            if let Err(error) = self.show_answers().await {
                tracing::debug!("answers to ACME authorities: {error:#}");
            }
            looks.next(None).await;
        }
    }

    async fn keep_certificate(&self) -> ! {
        let mut is_failing = false;
        let mut looks = self.store.looks(POLL);
        loop {
            match self.look().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !is_failing {
                        tracing::error!("{error:#}; certificates are not renewed until that works again");
                    }
                    is_failing = true;
                }
            }
            looks.next(None).await;
        }
    }

    /// Shows what others have obtained, and obtains what is due.
    async fn look(&self) -> Result<()> {
        let known = self.store.acme_certificate(&self.id).await.context("the store failed")?;
        self.certificates.failed(known.failures);
        let mut version = self.version.lock().await;
        if known.version != *version {
            self.show(&known).await?;
            *version = known.version;
        }
        drop(version);
        let now = now();
        let is_claimed = known.claimed_until.is_some_and(|until| until > now);
        if known.renew_at <= now && known.next_try <= now && !is_claimed {
            if self.store.claim_acme(&self.id, &self.claimant, now, now + CLAIM_SECS).await? {
                self.obtain(&known).await?;
            }
        } else if known.chain.is_some() && known.ask_at <= now && known.renew_at > now {
            self.ask(&known).await?;
        }
        Ok(())
    }

    async fn show(&self, known: &AcmeCertificate) -> Result<()> {
        match certified(known, &self.keyring.load()) {
            Ok(Some(certified)) => {
                self.certificates.install(vec![Arc::new(certified)]);
                tracing::info!(names = known.id.names, not_after = known.not_after, "a certificate is shown");
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::error!("{error:#}; it is obtained anew");
                let due = (0, known.ask_at);
                Ok(self.store.set_acme_renewal(&known.id, known.version, due).await?)
            }
        }
    }

    /// Obtains the next certificate, which this process has claimed, and says what became of it.
    async fn obtain(&self, known: &AcmeCertificate) -> Result<()> {
        tracing::info!(names = self.id.names, directory = self.id.directory, "a certificate is asked for");
        let replaced = self.shown_leaf().and_then(|leaf| identifier(&leaf));
        let outcome = tokio::select! {
            done = timeout(ATTEMPT, self.issue(replaced.as_ref())) => Some(done.unwrap_or_else(|_| {
                let minutes = ATTEMPT.as_secs() / 60;
                Err(Fault::new(Cause::Refused, format!("the attempt was given up after {minutes} minutes")))
            })),
            // Somebody else is at it.
            () = self.hold_claim() => None,
        };
        self.end_answers().await;
        match outcome {
            Some(Ok(issued)) => match self.keep(&issued).await {
                Ok(()) => Ok(self.store.purge_acme(now() - KEPT_SECS).await.map(drop)?),
                Err(fault) => self.failed(known, &fault).await,
            },
            Some(Err(fault)) => self.failed(known, &fault).await,
            None => Ok(()),
        }
    }

    async fn failed(&self, known: &AcmeCertificate, fault: &Fault) -> Result<()> {
        let failures = known.failures.saturating_add(1);
        let pause = pause_secs(fault.cause, failures, random());
        let text: String = fault.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text: String = text.chars().take(MAX_ERROR_CHARS).collect();
        tracing::warn!(
            names = self.id.names,
            failures,
            next_try_secs = pause,
            not_after = known.not_after,
            "no certificate: {text}"
        );
        self.certificates.failed(failures);
        Ok(self.store.acme_failed(&self.id, &self.claimant, &text, now() + pause).await?)
    }

    async fn keep(&self, issued: &Issued) -> Result<(), Fault> {
        let key = PrivateKeyDer::Pkcs8(issued.key.to_vec().into());
        let certified =
            Certified::from_pem(&issued.chain, key).context("what the authority issued is no use")?;
        let not_after = certified.not_after();
        let new = ObtainedCertificate {
            chain: &issued.chain,
            key: &issued.key,
            not_after,
            renew_at: renewal(now(), not_after, random()),
        };
        let keyring = self.keyring.load_full();
        let kept = self.store.acme_obtained(&keyring, &self.id, &self.claimant, new).await;
        if !kept.context("the certificate cannot be stored")? {
            tracing::warn!("another node has obtained a certificate meanwhile; this one is not used");
        }
        Ok(())
    }

    /// Returns when the claim is somebody else's.
    async fn hold_claim(&self) {
        loop {
            sleep(CLAIM_RENEWAL).await;
            let until = now() + CLAIM_SECS;
            match self.store.keep_acme_claim(&self.id, &self.claimant, until).await {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the claim on a certificate is not renewed"
                ),
            }
        }
    }

    /// Asks the authority when to renew. RFC 9773 §4.
    async fn ask(&self, known: &AcmeCertificate) -> Result<()> {
        let at = now();
        if !self.store.claim_acme_question(&self.id, at, at + QUESTION_SECS).await? {
            return Ok(());
        }
        let Some(certified) = self.certificates.first() else { return Ok(()) };
        let Some(identifier) = certified.chain.first().and_then(|leaf| identifier(leaf)) else {
            return Ok(());
        };
        let asked = async { Ok::<_, Fault>(self.account().await?.renewal_info(&identifier).await) };
        let (info, wish) = match timeout(QUESTION, asked).await {
            Ok(Ok(Ok(answer))) => answer,
            Err(_) | Ok(Ok(Err(Error::Unsupported(_)))) => return Ok(()),
            Ok(Ok(Err(error))) => {
                tracing::debug!("the authority does not say when to renew: {error}");
                return Ok(());
            }
            Ok(Err(fault)) => {
                tracing::debug!("the authority does not say when to renew: {fault}");
                return Ok(());
            }
        };
        let window =
            (info.suggested_window.start.unix_timestamp(), info.suggested_window.end.unix_timestamp());
        // Zero is an order from the command line.
        let renew_at = suggested(at, window, certified.validity(), random()).max(1);
        let ask_at = at + question_secs(wish.as_secs());
        Ok(self.store.set_acme_renewal(&known.id, known.version, (renew_at, ask_at)).await?)
    }

    fn shown_leaf(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
        self.certificates.first()?.chain.first().cloned()
    }
}

fn identifier(leaf: &rustls::pki_types::CertificateDer<'_>) -> Option<CertificateIdentifier<'static>> {
    let (by, serial) = renewal_id(leaf)?;
    Some(CertificateIdentifier::new(by, serial).into_owned())
}

#[cfg(test)]
mod tests;
