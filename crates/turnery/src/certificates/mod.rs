//! The certificates that the relay and the API show: taken from files, from an authority, or made for trying out, and
//! replaced without dropping a connection.

mod der;
mod fields;
mod files;
mod resolver;
mod source;
mod validity;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use relay::DtlsIdentity;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::CertifiedKey;

pub(crate) use fields::{issuer, renewal_id};
pub(crate) use files::{Files, Pair};
use resolver::{ACME_TLS, Resolver};
pub(crate) use source::{certificates, use_certificates, warn_of_certificates};
pub(crate) use validity::of as validity;

/// RFC 7443 §3: what TURN and STUN are called within TLS.
const RELAY_PROTOCOLS: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];
const API_PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];

/// A chain of certificates, the server's own first, and the key of that one.
#[derive(Debug)]
pub(crate) struct Certified {
    /// DER, as it is sent.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// DER, in one of the forms that PEM files have.
    pub(crate) key: PrivateKeyDer<'static>,
    /// Ready to sign.
    signing: Arc<CertifiedKey>,
    /// When its own certificate begins and ends to be good, in Unix seconds.
    validity: (i64, i64),
    /// Whether it only stands where an authority's will.
    is_placeholder: bool,
}

impl Certified {
    /// Takes a chain and its key.
    ///
    /// # Errors
    /// When they do not belong together, or are of no kind that TLS 1.2 and 1.3 have.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        let first = chain.first().context("there is no certificate")?;
        let validity = validity::of(first).context("the certificate's validity cannot be read")?;
        let signing = CertifiedKey::from_der(chain.clone(), key.clone_key(), &aws_lc_rs::default_provider());
        let signing = Arc::new(signing?);
        Ok(Self { chain, key, signing, validity, is_placeholder: false })
    }

    /// The same of a chain in PEM.
    ///
    /// # Errors
    /// Also when that cannot be read.
    pub(crate) fn from_pem(chain: &str, key: PrivateKeyDer<'static>) -> Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        Self::new(chain.map_err(|error| anyhow!("the chain is no PEM: {error}"))?, key)
    }

    /// One that nobody trusts, until an authority has issued another.
    ///
    /// # Errors
    /// When no key can be made.
    pub(crate) fn placeholder(name: &str) -> Result<Self> {
        Ok(Self { is_placeholder: true, ..self_signed(name, &[])? })
    }

    /// When its own certificate begins and ends to be good, in Unix seconds.
    pub(crate) fn validity(&self) -> (i64, i64) {
        self.validity
    }

    /// When it is good no more, in Unix seconds.
    pub(crate) fn not_after(&self) -> i64 {
        self.validity.1
    }

    /// What an operator should hear about its validity at this time.
    pub(crate) fn warning(&self, now: i64) -> Option<String> {
        const SOON_SECS: i64 = 14 * 86_400;
        let (not_before, not_after) = self.validity;
        // Of one that lives for days only the last quarter, when its successor should be there.
        let soon_secs = SOON_SECS.min((not_after - not_before) / 4);
        let days = (not_after - now) / 86_400;
        match () {
            () if self.is_placeholder => {
                Some("is one that nobody trusts, until the authority has issued another".to_owned())
            }
            () if now < not_before => Some("is not good yet; check this machine's clock".to_owned()),
            () if now >= not_after => Some("has expired; clients refuse it".to_owned()),
            () if not_after - now < soon_secs => Some(format!("expires in {days} days; renew it")),
            () => None,
        }
    }
}

/// What is shown to clients, shared by everyone who speaks TLS.
#[derive(Debug)]
pub(crate) struct Certificates {
    shown: Arc<Resolver>,
    provider: Arc<CryptoProvider>,
    /// One for all configurations and workers, so that a session is resumed wherever its client comes back to.
    tickets: Arc<dyn ProducesTickets>,
    relay: Arc<ArcSwap<ServerConfig>>,
    api: Arc<ArcSwap<ServerConfig>>,
    /// `None` if none of those at the start had a key that DTLS is spoken with.
    dtls: Option<Arc<ArcSwap<DtlsIdentity>>>,
    /// How often an authority was asked in vain since the last time that it was not; `None`: none is asked.
    failures: Option<AtomicU32>,
    /// Held while something is changed.
    changing: Mutex<()>,
}

impl Certificates {
    /// Shows these; the first is shown where no name fits.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn new(certified: Vec<Arc<Certified>>) -> Result<Self> {
        let dtls = identity(&certified).map(|identity| Arc::new(ArcSwap::from_pointee(identity)));
        let shown = Arc::new(Resolver::new(certified));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tickets = aws_lc_rs::Ticketer::new().context("cannot make a key for session tickets")?;
        let config = |protocols: &[&[u8]]| config(&provider, &tickets, &shown, protocols);
        let (relay, api) = (config(&RELAY_PROTOCOLS)?, config(&API_PROTOCOLS)?);
        let (relay, api) = (Arc::new(ArcSwap::from_pointee(relay)), Arc::new(ArcSwap::from_pointee(api)));
        Ok(Self { shown, provider, tickets, relay, api, dtls, failures: None, changing: Mutex::new(()) })
    }

    /// The same where an authority is asked for others.
    pub(crate) fn renewed(self) -> Self {
        Self { failures: Some(AtomicU32::new(0)), ..self }
    }

    /// Says how often an authority was asked in vain since the last time that it was not.
    pub(crate) fn failed(&self, failures: u32) {
        if let Some(place) = &self.failures {
            place.store(failures, Ordering::Relaxed);
        }
    }

    /// How often that was; `None`: none is asked.
    pub(crate) fn failures(&self) -> Option<u32> {
        self.failures.as_ref().map(|failures| failures.load(Ordering::Relaxed))
    }

    /// What the relay speaks TLS with: the same for as long as the process runs, its content changes.
    pub(crate) fn relay(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.relay)
    }

    /// What the API speaks TLS with.
    pub(crate) fn api(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.api)
    }

    /// What the relay speaks DTLS with, if it can.
    pub(crate) fn dtls(&self) -> Option<Arc<ArcSwap<DtlsIdentity>>> {
        self.dtls.clone()
    }

    /// Shows others from now on. Connections that exist go on. Where none of them can be shown within DTLS, the one
    /// before stays there.
    pub(crate) fn install(&self, certified: Vec<Arc<Certified>>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match (&self.dtls, identity(&certified)) {
            (Some(dtls), Some(identity)) => dtls.store(Arc::new(identity)),
            (Some(_), None) => tracing::error!("no certificate has an ECDSA key; DTLS shows the one before"),
            (None, _) => {}
        }
        self.shown.change(|shown| shown.certified = certified);
    }

    /// Answers TLS-ALPN-01 challenges for a name with this certificate, or no more. RFC 8737 §3.
    ///
    /// # Errors
    /// When the configuration cannot be made anew.
    pub(crate) fn challenge(&self, name: &str, answer: Option<Arc<CertifiedKey>>) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_ascii_lowercase();
        self.shown.change(|shown| {
            match answer {
                Some(answer) => shown.challenges.insert(name, answer),
                None => shown.challenges.remove(&name),
            };
        });
        // Offered only while there is a challenge: whoever asks for it otherwise is refused.
        let is_challenged = !self.shown.load().challenges.is_empty();
        for (place, protocols) in [(&self.relay, &RELAY_PROTOCOLS[..]), (&self.api, &API_PROTOCOLS)] {
            let mut protocols = protocols.to_vec();
            protocols.extend(is_challenged.then_some(ACME_TLS));
            place.store(Arc::new(config(&self.provider, &self.tickets, &self.shown, &protocols)?));
        }
        Ok(())
    }

    /// The one shown where no name fits.
    pub(crate) fn first(&self) -> Option<Arc<Certified>> {
        self.shown.load().certified.first().map(Arc::clone)
    }

    /// When the first of them is good no more, in Unix seconds.
    pub(crate) fn soonest_expiry(&self) -> Option<i64> {
        let shown = self.shown.load();
        let of_others = shown.certified.iter().filter(|certified| !certified.is_placeholder);
        of_others.map(|certified| certified.not_after()).min()
    }

    /// What an operator should hear about them at this time.
    pub(crate) fn warnings(&self, now: i64) -> Vec<String> {
        let shown = self.shown.load();
        let number = |(certified, n): (&Arc<Certified>, usize)| Some((n, certified.warning(now)?));
        let warned = shown.certified.iter().zip(1_usize..).filter_map(number);
        warned.map(|(n, warning)| format!("certificate {n} {warning}")).collect()
    }
}

/// The first that DTLS can be spoken with, alone: RSA keys and chains are not for DTLS here.
fn identity(certified: &[Arc<Certified>]) -> Option<DtlsIdentity> {
    certified.iter().find_map(|it| DtlsIdentity::new(it.chain.first()?, it.key.secret_der()).ok())
}

/// RFC 9325 §3.1 and §4.2: TLS 1.2 and 1.3, suites with forward secrecy and AEAD: the library has no others.
fn config(
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
    shown: &Arc<Resolver>,
    protocols: &[&[u8]],
) -> Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(shown) as _);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // A session is kept by its client: nothing here grows with their number.
    config.ticketer = Arc::clone(tickets);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A certificate that nobody trusts, for trying out.
///
/// # Errors
/// When a name cannot stand in a certificate, or no key can be made.
pub(crate) fn self_signed(public_host: &str, addresses: &[IpAddr]) -> Result<Certified> {
    let mut names: Vec<String> = [public_host, "localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(addresses.iter().map(IpAddr::to_string));
    names.sort();
    names.dedup();
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Certified::new(vec![made.cert.der().clone()], key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_shown_until_another_is_installed() {
        let made = || Arc::new(self_signed("turn.example.org", &[]).unwrap());
        let (one, two) = (made(), made());
        let certificates = Certificates::new(vec![Arc::clone(&one)]).unwrap();
        assert_eq!(certificates.first().unwrap().chain, one.chain);
        certificates.install(vec![Arc::clone(&two)]);
        assert!(certificates.dtls().is_some(), "its key is an ECDSA key");
        assert_eq!(certificates.first().unwrap().chain, two.chain);
        assert_eq!(certificates.soonest_expiry(), Some(two.not_after()));
    }

    #[test]
    fn a_challenge_is_offered_while_there_is_one() {
        let certified = Arc::new(self_signed("turn.example.org", &[]).unwrap());
        let certificates = Certificates::new(vec![Arc::clone(&certified)]).unwrap();
        let offered = || certificates.relay().load().alpn_protocols.contains(&ACME_TLS.to_vec());
        assert!(!offered());
        certificates.challenge("Turn.Example.org", Some(Arc::clone(&certified.signing))).unwrap();
        assert!(offered());
        certificates.challenge("turn.example.org", None).unwrap();
        assert!(!offered());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let made = || self_signed("localhost", &[]).unwrap();
        let (one, two) = (made(), made());
        assert!(Certified::new(one.chain, two.key).is_err());
    }

    #[test]
    fn operators_are_warned_in_time() {
        let mut certified = self_signed("localhost", &[]).unwrap();
        certified.validity = (1_000, 100 * 86_400);
        for (day, hint) in
            [(0, Some("not good yet")), (80, None), (90, Some("in 10 days")), (100, Some("expired"))]
        {
            let warning = certified.warning(day * 86_400);
            assert_eq!(warning.is_some(), hint.is_some(), "{day}: {warning:?}");
            assert!(hint.is_none_or(|hint| warning.unwrap().contains(hint)), "{day}");
        }
        // One for six days is warned of when its successor is late.
        certified.validity = (0, 6 * 86_400);
        assert!(certified.warning(4 * 86_400).is_none() && certified.warning(5 * 86_400).is_some());
    }

    #[test]
    fn a_placeholder_is_told_and_its_expiry_is_not() {
        let made = Certified::placeholder("turn.example.org").unwrap();
        assert!(made.warning(1_800_000_000).unwrap().contains("nobody trusts"));
        let certificates = Certificates::new(vec![Arc::new(made)]).unwrap().renewed();
        assert_eq!((certificates.soonest_expiry(), certificates.failures()), (None, Some(0)));
        certificates.failed(3);
        assert_eq!(certificates.failures(), Some(3));
    }
}
