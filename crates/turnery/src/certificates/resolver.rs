//! Which certificate a client is shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certified;

/// RFC 8737 §3: what a certificate authority asks for that checks who answers at a name.
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// What can be shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) certified: Vec<Arc<Certified>>,
    /// By name, in lower case.
    pub(super) challenges: BTreeMap<String, Arc<CertifiedKey>>,
}

pub(super) struct Resolver(ArcSwap<Shown>);

impl Resolver {
    pub(super) fn new(certified: Vec<Arc<Certified>>) -> Self {
        Self(ArcSwap::from_pointee(Shown { certified, ..Shown::default() }))
    }

    pub(super) fn load(&self) -> Guard<Arc<Shown>> {
        self.0.load()
    }

    /// Not for two at once: one of the changes would be lost.
    pub(super) fn change(&self, change: impl FnOnce(&mut Shown)) {
        let mut shown = Shown::clone(&self.0.load());
        change(&mut shown);
        self.0.store(Arc::new(shown));
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.load().certified.len()).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.load();
        // RFC 8737 §3: acme-tls/1 is the only protocol that the authority offers.
        let is_challenge = || hello.alpn().is_some_and(|offered| offered.eq([ACME_TLS]));
        if !shown.challenges.is_empty() && is_challenge() {
            return shown.challenges.get(&hello.server_name()?.to_ascii_lowercase()).map(Arc::clone);
        }
        let can_sign =
            |it: &&Arc<Certified>| it.signing.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            shown.certified.iter().filter(can_sign).find(|it| fits(it, &name))
        });
        // Clients that come by address name none; what a client makes of another's name is its own matter.
        let found = named.or_else(|| shown.certified.iter().find(can_sign)).or(shown.certified.first());
        found.map(|certified| Arc::clone(&certified.signing))
    }
}

fn fits(certified: &Certified, name: &ServerName<'_>) -> bool {
    let parsed = certified.chain.first().and_then(|first| ParsedCertificate::try_from(first).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}
