//! One order with an authority: from the account to the certificate. RFC 8555 §7.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use zeroize::Zeroizing;

use super::Acme;
use super::schedule::Cause;
use crate::config::{AcmeSettings, ChallengeKind};

/// How often, and how long, the authority is asked how far it is.
const RETRIES: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_mins(4));
/// RFC 8555 §6.7.
const NO_SUCH_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

/// Why there is no certificate: for people, and for when to try again.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    pub(super) text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Fault {
    pub(super) fn new(cause: Cause, text: impl fmt::Display) -> Self {
        Self { cause, text: text.to_string() }
    }

    /// What the authority said, or that it said nothing.
    fn from_acme(doing: &str, settings: &AcmeSettings, error: Error) -> Self {
        let directory = &settings.directory;
        match error {
            Error::Api(problem) => {
                let cause = match problem.r#type.as_deref() {
                    Some(RATE_LIMITED) => Cause::TooMany,
                    // RFC 8555 §6.5: nothing is wrong but the moment.
                    Some(BAD_NONCE) => Cause::Unreachable,
                    _ => Cause::Refused,
                };
                Self::new(
                    cause,
                    format!("the authority at {directory} refused to {doing}: {}", told(&problem)),
                )
            }
            Error::Json(_) => Self::new(
                Cause::Refused,
                format!(
                    "what answers at {directory} is no ACME authority ({error}); look at --acme-directory"
                ),
            ),
            Error::Timeout(_) => Self::new(
                Cause::Unreachable,
                format!("the authority at {directory} was too slow to {doing}; it is asked again later"),
            ),
            error => {
                let error = anyhow::Error::new(error);
                Self::new(
                    Cause::Unreachable,
                    format!(
                        "cannot {doing} with the authority at {directory}: {error:#}; look at --acme-directory, at \
                         this machine's way there, and at --acme-root-ca if it is a private one"
                    ),
                )
            }
        }
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Cause::Refused, format!("{error:#}"))
    }
}

/// A problem as its authority words it.
fn told(problem: &Problem) -> String {
    let detail = problem.detail.as_deref().unwrap_or("it does not say why");
    let kind = problem.r#type.as_deref().and_then(|kind| kind.rsplit(':').next());
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    let more: Vec<String> = problem.subproblems.iter().map(ToString::to_string).collect();
    let more = if more.is_empty() { String::new() } else { format!(": {}", more.join(", ")) };
    format!("{detail}{kind}{more}")
}

/// A certificate and its key.
pub(super) struct Issued {
    /// PEM.
    pub(super) chain: String,
    /// PKCS #8.
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl Acme {
    /// The account, made where there is none that the keyring opens.
    pub(super) async fn account(&self) -> Result<Account, Fault> {
        let settings = &self.settings;
        let failed = |doing: &'static str| move |error| Fault::from_acme(doing, settings, error);
        let builder = match &settings.root_ca {
            Some(path) => Account::builder_with_root(path),
            None => Account::builder(),
        };
        let builder = builder.map_err(failed("speak TLS"))?;
        let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contacts: Vec<&str> = contact.as_deref().into_iter().collect();
        let stored = self.store.acme_account(&settings.directory).await.context("the store failed")?;
        let credentials = stored.as_ref().and_then(|stored| {
            let text = stored.open(&self.keyring.load()).ok()?;
            serde_json::from_slice::<AccountCredentials>(&text).ok()
        });
        let known = stored.map(|stored| stored.contact);
        let now = contact.clone().unwrap_or_default();
        if let Some(credentials) = credentials {
            let text = serialized(&credentials)?;
            let account = builder.from_credentials(credentials).await.map_err(failed("begin"))?;
            if known.as_ref() != Some(&now) {
                account.update_contacts(&contacts).await.map_err(failed("change --acme-email"))?;
                self.keep_account(&now, &text).await?;
            }
            return Ok(account);
        }
        let binding = settings.external_account.as_ref();
        let binding = binding.map(|it| ExternalAccountKey::new(it.key_id.clone(), &it.key));
        let new =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&new, settings.directory.clone(), binding.as_ref()).await;
        let (account, credentials) = made.map_err(failed("make an account"))?;
        self.keep_account(&now, &serialized(&credentials)?).await?;
        tracing::info!(directory = settings.directory, "an ACME account was made");
        Ok(account)
    }

    async fn keep_account(&self, contact: &str, text: &[u8]) -> Result<(), Fault> {
        let keyring = self.keyring.load_full();
        let kept = self.store.set_acme_account(&keyring, &self.settings.directory, contact, text).await;
        Ok(kept.context("the ACME account cannot be stored")?)
    }

    /// Orders a certificate, shows who answers at its names, and fetches it.
    pub(super) async fn issue(&self, replaced: Option<&CertificateIdentifier<'_>>) -> Result<Issued, Fault> {
        let mut order = self.begin_order(replaced).await?;
        self.answer(&mut order).await?;
        let failed = |doing: &'static str| move |error| Fault::from_acme(doing, &self.settings, error);
        let mut params = rcgen::CertificateParams::new(self.settings.names.clone())
            .context("the names cannot stand in a request")?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        let request = params.serialize_request(&key).context("cannot make a request")?;
        order.finalize_csr(request.der()).await.map_err(failed("issue"))?;
        let chain = order.poll_certificate(&RETRIES).await.map_err(failed("issue"))?;
        Ok(Issued { chain, key: Zeroizing::new(key.serialize_der()) })
    }

    async fn begin_order(&self, replaced: Option<&CertificateIdentifier<'_>>) -> Result<Order, Fault> {
        let names: Vec<_> = self.settings.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
        let mut account = self.account().await?;
        // RFC 9773 §5: what is replaced may spare a limit. Not every authority knows the word.
        if let Some(replaced) = replaced
            && let Ok(order) = account.new_order(&NewOrder::new(&names).replaces(replaced.clone())).await
        {
            return Ok(order);
        }
        let mut ordered = account.new_order(&NewOrder::new(&names)).await;
        if let Err(Error::Api(problem)) = &ordered
            && problem.r#type.as_deref() == Some(NO_SUCH_ACCOUNT)
        {
            tracing::warn!(
                directory = self.settings.directory,
                "the ACME authority does not know the account"
            );
            let forgotten = self.store.forget_acme_account(&self.settings.directory).await;
            forgotten.context("the store failed")?;
            account = self.account().await?;
            ordered = account.new_order(&NewOrder::new(&names)).await;
        }
        ordered.map_err(|error| Fault::from_acme("take an order", &self.settings, error))
    }

    /// Gives the answers that the authority asks for, and waits until it has seen them.
    async fn answer(&self, order: &mut Order) -> Result<(), Fault> {
        let kind = self.settings.challenge;
        let failed = |doing: &'static str| move |error| Fault::from_acme(doing, &self.settings, error);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed("say what it asks for"))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let challenge = authorization.challenge(kind.into()).ok_or_else(|| {
                let text = format!(
                    "the authority does not offer {kind} for {name}; choose another --acme-challenge"
                );
                Fault::new(Cause::Refused, text)
            })?;
            let Identifier::Dns(domain) = challenge.identifier().identifier else { continue };
            self.put_answer(domain, &challenge.token, &challenge.key_authorization()).await?;
        }
        self.spread().await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed("say what it asks for"))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            if let Some(mut challenge) = authorization.challenge(kind.into()) {
                challenge.set_ready().await.map_err(failed("look at the answer"))?;
            }
        }
        let outcome = order.poll_ready(&RETRIES).await;
        if let Ok(OrderStatus::Ready) = outcome {
            return Ok(());
        }
        // What was wrong stands with the challenge.
        let why = self.why(order).await;
        match (outcome, why) {
            (Err(error), None) => Err(failed("look at the answer")(error)),
            (Ok(_), None) => Err(Fault::new(Cause::Refused, "the authority does not say why it refused")),
            (_, Some(why)) => Err(Fault::new(Cause::Refused, why)),
        }
    }

    /// What the authority found at the first name whose answer was wrong.
    async fn why(&self, order: &mut Order) -> Option<String> {
        let kind = self.settings.challenge;
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() {
                return None;
            }
            let name = authorization.identifier().to_string();
            if let Some(challenge) = authorization.challenge(kind.into())
                && let Some(problem) = &challenge.error
            {
                let hint = match kind {
                    ChallengeKind::TlsAlpn01 => {
                        "it connects to port 443 of the addresses that the name has in the DNS, and TLS must get \
                         from there to this server unopened"
                    }
                    ChallengeKind::Http01 => {
                        "it asks over HTTP on port 80 of the addresses that the name has in the DNS, and that must \
                         get from there to --acme-http-listen or the API"
                    }
                    ChallengeKind::Dns01 => {
                        "it asks the DNS for the TXT record, which the DNS hook has to wait for until it can be seen"
                    }
                };
                let told = told(problem);
                return Some(format!(
                    "the authority could not see that {name} is ours: {told}; with {kind} {hint}"
                ));
            }
        }
        None
    }
}

fn serialized(credentials: &AccountCredentials) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let text = serde_json::to_vec(credentials).context("the ACME account cannot be written down")?;
    Ok(Zeroizing::new(text))
}

impl From<ChallengeKind> for ChallengeType {
    fn from(kind: ChallengeKind) -> Self {
        match kind {
            ChallengeKind::TlsAlpn01 => Self::TlsAlpn01,
            ChallengeKind::Http01 => Self::Http01,
            ChallengeKind::Dns01 => Self::Dns01,
        }
    }
}
