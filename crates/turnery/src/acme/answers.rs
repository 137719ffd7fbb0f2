//! What authorities are answered with. It lies in the store, and each node gives the answers that it finds there: the
//! authority comes to whichever the name leads it to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use control::store::acme::AcmeChallenge;
use instant_acme::KeyAuthorization;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tokio::time::{sleep, timeout};

use super::hook::{self, Action, Record};
use super::{Acme, now};
use crate::config::ChallengeKind;

/// How long an answer stands at most.
const ANSWER_SECS: i64 = 15 * 60;
/// In which time every node has seen it: two looks at the store.
const SPREAD: Duration = Duration::from_secs(2);
/// How long taking a record out may take when the service ends.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl Acme {
    /// Has an answer given until [`Acme::end_answers`].
    pub(super) async fn put_answer(
        &self,
        domain: &str,
        token: &str,
        authorization: &KeyAuthorization,
    ) -> Result<()> {
        let (subject, answer) = match self.settings.challenge {
            ChallengeKind::TlsAlpn01 => (domain.to_owned(), authorization.digest().as_ref().to_vec()),
            ChallengeKind::Http01 => (token.to_owned(), authorization.as_str().as_bytes().to_vec()),
            ChallengeKind::Dns01 => {
                let record = Record {
                    domain: domain.to_owned(),
                    // RFC 8555 §8.4: where the record belongs.
                    name: format!("_acme-challenge.{domain}"),
                    value: authorization.dns_value(),
                };
                let hook = self.settings.dns_hook.as_deref().context("there is no --acme-dns-hook")?;
                // Before it is there: what fails half-way is cleaned up, too.
                self.records.lock().await.push(record.clone());
                return hook::run(hook, Action::Set, &record).await;
            }
        };
        let challenge = AcmeChallenge { kind: self.settings.challenge.to_string(), subject, answer };
        let until = now() + ANSWER_SECS;
        self.store.answer_acme(&challenge, &self.claimant, until).await.context("the store failed")
    }

    /// Waits until every node gives the answers.
    pub(super) async fn spread(&self) -> Result<()> {
        if self.settings.challenge != ChallengeKind::Dns01 {
            self.show_answers().await?;
            sleep(SPREAD).await;
        }
        Ok(())
    }

    /// Takes back what was answered.
    pub(super) async fn end_answers(&self) {
        if let Err(error) = self.store.end_acme_challenges(&self.claimant).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "answers to an ACME authority stay a while"
            );
        }
        let records = std::mem::take(&mut *self.records.lock().await);
        if let Some(hook) = self.settings.dns_hook.as_deref() {
            for record in records {
                if let Err(error) = hook::run(hook, Action::CleanUp, &record).await {
                    tracing::warn!("{error:#}; the record {} may be left in the DNS", record.name);
                }
            }
        }
    }

    /// What is under way ends with the service: another node, or the next start, may begin again at once.
    pub(crate) async fn stop(&self) {
        let _ = timeout(LAST_WAIT, self.end_answers()).await;
        if let Err(error) = self.store.release_acme(&self.claimant).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the claim on a certificate stays a while"
            );
        }
    }

    /// Gives the answers that lie in the store, and no others.
    pub(super) async fn show_answers(&self) -> Result<()> {
        let mut shown = self.shown.lock().await;
        let found = self.store.acme_challenges(now()).await.context("the store failed")?;
        if found == *shown {
            return Ok(());
        }
        let of = |challenges: &[AcmeChallenge], kind: ChallengeKind| -> BTreeMap<String, Vec<u8>> {
            let kind = kind.to_string();
            let those = challenges.iter().filter(|it| it.kind == kind);
            those.map(|it| (it.subject.clone(), it.answer.clone())).collect()
        };
        self.http.set(of(&found, ChallengeKind::Http01));
        let (before, after) = (of(&shown, ChallengeKind::TlsAlpn01), of(&found, ChallengeKind::TlsAlpn01));
        for (name, digest) in &after {
            if before.get(name) != Some(digest) {
                self.certificates.challenge(name, Some(Arc::new(tls_answer(name, digest)?)))?;
            }
        }
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.certificates.challenge(name, None)?;
        }
        *shown = found;
        Ok(())
    }
}

/// RFC 8737 §3: a certificate for this name alone, with the digest in the critical extension `acmeIdentifier`.
fn tls_answer(name: &str, digest: &[u8]) -> Result<CertifiedKey> {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).context("the name is none")?;
    // The digest is SHA-256's, which the encoding relies on.
    anyhow::ensure!(digest.len() == 32, "an answer in the store is of {} bytes, not 32", digest.len());
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate().context("cannot make a key")?;
    let certificate = params.self_signed(&key).context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).context("cannot use a key")?;
    // Not `from_der`, which refuses the extension.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8737_3_the_answer_has_the_name_and_the_digest_in_a_critical_extension() {
        let digest: Vec<u8> = (100..132).collect();
        let answer = tls_answer("turn.example.org", &digest).unwrap();
        let der = answer.cert[0].to_vec();
        // 1.3.6.1.5.5.7.1.31, TRUE, and an octet string of an octet string of 32 bytes.
        let mut extension = vec![0x06, 8, 0x2B, 6, 1, 5, 5, 7, 1, 31, 0x01, 1, 0xFF, 0x04, 34, 0x04, 32];
        extension.extend_from_slice(&digest);
        assert!(der.windows(extension.len()).any(|it| it == extension));
        // RFC 8737 §3: the one name is a dNSName.
        let mut name = vec![0x82, 16];
        name.extend_from_slice(b"turn.example.org");
        assert!(der.windows(name.len()).any(|it| it == name));
        assert!(tls_answer("turn.example.org", &digest[1..]).is_err());
    }
}
