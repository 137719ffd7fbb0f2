//! What DTLS sessions are made from: the certificate, the key, and what is spoken.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider, aws_lc_rs};
use dimpl::{Config, CryptoError, DtlsCertificate};
use stun::dtls::COOKIE_LEN;

/// The longest datagram of a handshake, in bytes: what IPv6 lets pass everywhere, less its headers and some more.
/// RFC 8200 §5.
const HANDSHAKE_DATAGRAM: usize = 1_200;
/// How long a client may take for the whole handshake.
pub(crate) const HANDSHAKE_MS: u64 = 15_000;

/// The certificate and the key that DTLS sessions are begun with.
#[derive(Clone)]
pub struct DtlsIdentity {
    pub(super) config: Arc<Config>,
    pub(super) certificate: DtlsCertificate,
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsIdentity").finish_non_exhaustive()
    }
}

/// DTLS cannot be offered with this key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// RSA and Ed25519 are not spoken here.
    #[error("DTLS needs an ECDSA key on P-256 or P-384")]
    Key,
    /// The library refuses what is asked of it.
    #[error("DTLS cannot be set up: {0}")]
    Setup(String),
}

impl DtlsIdentity {
    /// Takes a certificate in DER and its key in DER, PKCS #8 or SEC 1. The certificate is sent alone: of a chain only
    /// the first one, as the library knows no others.
    ///
    /// # Errors
    /// When the key is none that DTLS can be spoken with here.
    pub fn new(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let own = aws_lc_rs::default_provider();
        own.key_provider.load_private_key(key).map_err(|_| IdentityError::Key)?;
        // RFC 7350 §3: DTLS 1.2 or later, and suites with forward secrecy and AEAD; the library has no others.
        let config = Config::builder()
            .with_crypto_provider(CryptoProvider { hmac_provider: &CookieHmac, ..own })
            .require_client_certificate(false)
            .mtu(HANDSHAKE_DATAGRAM)
            // What is sent in answer to one datagram waits here until all of it is read.
            .max_queue_tx(64)
            .handshake_timeout(Duration::from_millis(HANDSHAKE_MS))
            .build()
            .map_err(|error| IdentityError::Setup(error.to_string()))?;
        let certificate = DtlsCertificate { certificate: certificate.to_vec(), private_key: key.to_vec() };
        Ok(Self { config: Arc::new(config), certificate })
    }
}

thread_local! {
    /// The random of the hello that is being replayed, and the cookie that its client was given.
    static GIVEN: Cell<Option<([u8; 32], [u8; COOKIE_LEN])>> = const { Cell::new(None) };
}

/// Does something while the library takes this cookie for its own.
pub(super) fn with_cookie<T>(random: [u8; 32], cookie: [u8; COOKIE_LEN], act: impl FnOnce() -> T) -> T {
    GIVEN.set(Some((random, cookie)));
    let done = act();
    GIVEN.set(None);
    done
}

/// The library makes its cookies by HMAC over the client's random, with a key that each session has for itself; here
/// they are made before there is a session. All else is the library's own HMAC.
#[derive(Debug)]
struct CookieHmac;

impl HmacProvider for CookieHmac {
    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        if let Some((random, cookie)) = GIVEN.get()
            && data == random
            && let Some(place) = out.first_chunk_mut()
        {
            *place = cookie;
            return Ok(COOKIE_LEN);
        }
        aws_lc_rs::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}
