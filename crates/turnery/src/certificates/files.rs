//! Certificates in PEM files, and whether those have changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Certified;
use crate::config::fault;
use crate::keyring_file::Stamp;

/// Where a chain of certificates and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The server's own certificate first, then those that lead to its authority.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Pairs of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Vec<Pair>);

impl Files {
    pub(crate) fn new(pairs: Vec<Pair>) -> Self {
        Self(pairs)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What changes whenever one of the files does.
    pub(crate) fn stamp(&self) -> Vec<Option<Stamp>> {
        self.0.iter().flat_map(|pair| [Stamp::of(&pair.certificate), Stamp::of(&pair.key)]).collect()
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(crate) fn read(&self) -> Result<Vec<Arc<Certified>>> {
        self.0.iter().map(|pair| pair.read().map(Arc::new)).collect()
    }
}

impl Pair {
    fn read(&self) -> Result<Certified> {
        let text = read(&self.certificate, "certificate")?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| unreadable(&self.certificate, &error))?;
        ensure!(!chain.is_empty(), "{}: there is no certificate in it", self.certificate.display());
        let text = read(&self.key, "key")?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            pem::Error::NoItemsFound => {
                anyhow!("{}: there is no private key in it that is not encrypted", self.key.display())
            }
            error => unreadable(&self.key, &error),
        })?;
        Certified::new(chain, key).with_context(|| {
            format!("{} and {} cannot be used together", self.certificate.display(), self.key.display())
        })
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| anyhow!("cannot read the {what} {}: {}", path.display(), fault(&error)))
}

fn unreadable(path: &Path, error: &pem::Error) -> anyhow::Error {
    anyhow!("{}: not a PEM file: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::super::self_signed;
    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        use std::fmt::Write as _;
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in der.chunks(3) {
            let bits = chunk
                .iter()
                .chain(&[0, 0])
                .take(3)
                .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
            for place in 0..4 {
                let sextet = char::from(ALPHABET[bits >> (18 - 6 * place) & 0x3F]);
                text.push(if place <= chunk.len() { sextet } else { '=' });
            }
        }
        let mut lines = format!("-----BEGIN {label}-----\n");
        for line in text.as_bytes().chunks(64) {
            writeln!(lines, "{}", std::str::from_utf8(line).unwrap()).unwrap();
        }
        lines + &format!("-----END {label}-----\n")
    }

    #[test]
    fn pairs_are_read_and_wrong_ones_explained() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (self_signed("a.example", &[]).unwrap(), self_signed("b.example", &[]).unwrap());
        let place = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        place("one.pem", &pem("CERTIFICATE", &one.chain[0]));
        place("chain.pem", &(pem("CERTIFICATE", &one.chain[0]) + &pem("CERTIFICATE", &two.chain[0])));
        place("one.key", &pem("PRIVATE KEY", one.key.secret_der()));
        place("two.key", &pem("PRIVATE KEY", two.key.secret_der()));
        place("empty", "");
        place("encrypted.key", &pem("ENCRYPTED PRIVATE KEY", b"x"));
        place("bad.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
        let read = |certificate: &str, key: &str| {
            let pair = Pair { certificate: dir.path().join(certificate), key: dir.path().join(key) };
            Files::new(vec![pair]).read()
        };
        assert_eq!(read("one.pem", "one.key").unwrap()[0].chain, one.chain);
        assert_eq!(read("chain.pem", "one.key").unwrap()[0].chain.len(), 2);
        for (certificate, key, hint) in [
            ("none.pem", "one.key", "none.pem: No such file"),
            ("one.pem", "none.key", "cannot read the key"),
            ("one.pem", "two.key", "cannot be used together"),
            ("empty", "one.key", "no certificate"),
            ("one.pem", "empty", "no private key"),
            ("one.pem", "encrypted.key", "not encrypted"),
            ("bad.pem", "one.key", "not a PEM file"),
        ] {
            let error = format!("{:#}", read(certificate, key).unwrap_err());
            assert!(error.contains(hint), "{hint}: {error}");
        }
    }
}
