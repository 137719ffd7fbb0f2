//! Certificates from an ACME authority: for which names, from whom, and how it is shown that the names are ours.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use relay::Listener;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use turn::Transport;
use zeroize::Zeroizing;

use super::layer::{Layers, fault};
use super::{address, switch};

/// Let's Encrypt.
const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// As many as public authorities put into one certificate.
const MAX_NAMES: usize = 100;

/// How an authority is shown who answers at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChallengeKind {
    /// RFC 8737: a certificate, within TLS on port 443.
    TlsAlpn01,
    /// RFC 8555 §8.3: a file, over HTTP on port 80.
    Http01,
    /// RFC 8555 §8.4: a TXT record.
    Dns01,
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
        })
    }
}

/// What ties an account to one that its owner has with the authority elsewhere. RFC 8555 §7.3.4.
#[derive(Clone)]
pub(crate) struct ExternalAccount {
    /// What the authority calls the key.
    pub(crate) key_id: String,
    /// The key.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// Never shows the key.
impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What the operator says of ACME.
#[derive(Debug, Clone)]
pub(crate) struct AcmeSettings {
    /// At least one, in lower case, each once, in the operator's order; `*.` may stand before one with DNS-01.
    pub(crate) names: Vec<String>,
    /// Whom the authority writes to.
    pub(crate) email: Option<String>,
    /// How it is shown who answers.
    pub(crate) challenge: ChallengeKind,
    /// The authority's directory, an https URL.
    pub(crate) directory: String,
    /// A PEM file with the certificate that the authority's own leads to; `None`: the system's.
    pub(crate) root_ca: Option<PathBuf>,
    /// What puts records into the DNS; there is one with DNS-01.
    pub(crate) dns_hook: Option<PathBuf>,
    /// Where HTTP-01 is answered, beside the API.
    pub(crate) http_listen: Option<SocketAddr>,
    /// What ties the account to another.
    pub(crate) external_account: Option<ExternalAccount>,
}

impl AcmeSettings {
    /// The name that URLs have by default.
    pub(crate) fn public_host(&self) -> Option<&str> {
        self.names.iter().find(|name| !name.starts_with("*.")).map(String::as_str)
    }
}

/// What there is to say of ACME; `None`: nothing, and no certificate comes from there.
pub(super) fn settings(layers: &Layers, dev: bool) -> Result<Option<AcmeSettings>> {
    let Some(given) = layers.first("acme_domain", |layer| &layer.acme_domain) else {
        return ensure_nothing_else(layers).map(|()| None);
    };
    let challenge = challenge(layers)?;
    let mut names: Vec<String> = Vec::new();
    for name in given.read_each(|text| name(text, challenge))? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    given.read(|_| {
        ensure!((1..=MAX_NAMES).contains(&names.len()), "one certificate has 1 to {MAX_NAMES} names");
        ensure!(!dev, "--dev makes its certificate itself; leave one of the two out");
        let files = layers.first("tls_cert", |layer| &layer.tls_cert);
        ensure!(files.is_none(), "certificates come from --tls-cert or from an authority; leave one out");
        Ok(())
    })?;
    let directory = directory(layers)?;
    let is_agreed = switch(layers.first("acme_accept_terms", |layer| &layer.acme_accept_terms), false)?;
    ensure!(
        is_agreed,
        "--acme-accept-terms is missing: the authority at {directory} issues no certificate to who does not agree \
         to its terms of service; read them, then give it"
    );
    Ok(Some(AcmeSettings {
        names,
        email: email(layers)?,
        challenge,
        directory,
        root_ca: root_ca(layers)?,
        dns_hook: dns_hook(layers, challenge)?,
        http_listen: http_listen(layers, challenge)?,
        external_account: external_account(layers)?,
    }))
}

/// What else is said of ACME means nothing without a name, and a mistyped one is not to go unnoticed.
fn ensure_nothing_else(layers: &Layers) -> Result<()> {
    let others = [
        layers.first("acme_email", |layer| &layer.acme_email),
        layers.first("acme_challenge", |layer| &layer.acme_challenge),
        layers.first("acme_directory", |layer| &layer.acme_directory),
        layers.first("acme_root_ca", |layer| &layer.acme_root_ca),
        layers.first("acme_dns_hook", |layer| &layer.acme_dns_hook),
        layers.first("acme_http_listen", |layer| &layer.acme_http_listen),
        layers.first("acme_eab_key_id", |layer| &layer.acme_eab_key_id),
        layers.first("acme_eab_key_file", |layer| &layer.acme_eab_key_file),
    ];
    match others.into_iter().flatten().next() {
        Some(given) => given.read(|_| bail!("means nothing without --acme-domain NAME; give that, too")),
        None => Ok(()),
    }
}

fn name(text: &str, challenge: ChallengeKind) -> Result<String> {
    let name = text.to_ascii_lowercase();
    let (is_wildcard, base) = name.strip_prefix("*.").map_or((false, &*name), |base| (true, base));
    let is_host = address::host(base).is_ok() && base.parse::<std::net::IpAddr>().is_err();
    ensure!(
        is_host && base.contains('.') && !base.starts_with('['),
        "{text:?} is not a name that is known in the DNS, such as turn.example.org"
    );
    ensure!(
        !is_wildcard || challenge == ChallengeKind::Dns01,
        "{text:?} stands for many names, which can be shown to be ours with --acme-challenge dns-01 only"
    );
    Ok(name)
}

fn challenge(layers: &Layers) -> Result<ChallengeKind> {
    let Some(given) = layers.first("acme_challenge", |layer| &layer.acme_challenge) else {
        return Ok(ChallengeKind::TlsAlpn01);
    };
    given.read(|text| match text.as_str() {
        "tls-alpn-01" => Ok(ChallengeKind::TlsAlpn01),
        "http-01" => Ok(ChallengeKind::Http01),
        "dns-01" => Ok(ChallengeKind::Dns01),
        other => bail!("{other:?} is not tls-alpn-01, http-01 or dns-01"),
    })
}

fn directory(layers: &Layers) -> Result<String> {
    let Some(given) = layers.first("acme_directory", |layer| &layer.acme_directory) else {
        return Ok(DEFAULT_DIRECTORY.to_owned());
    };
    given.read(|text| {
        let rest = text.strip_prefix("https://").unwrap_or_default();
        let is_url = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic());
        ensure!(is_url, "{text:?} is not the https URL of a directory, such as {DEFAULT_DIRECTORY}");
        Ok(text.clone())
    })
}

fn email(layers: &Layers) -> Result<Option<String>> {
    let Some(given) = layers.first("acme_email", |layer| &layer.acme_email) else { return Ok(None) };
    given.read(|text| {
        let is_address = text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
        });
        ensure!(is_address, "{text:?} is not an address such as admin@example.org");
        Ok(Some(text.clone()))
    })
}

fn root_ca(layers: &Layers) -> Result<Option<PathBuf>> {
    let Some(given) = layers.first("acme_root_ca", |layer| &layer.acme_root_ca) else { return Ok(None) };
    given.read(|path| {
        let pem = std::fs::read(path).map_err(|error| anyhow!("cannot read {path:?}: {}", fault(&error)))?;
        let read = CertificateDer::from_pem_slice(&pem);
        read.map_err(|_| anyhow!("{path:?} holds no certificate; give the authority's root in PEM"))?;
        Ok(Some(PathBuf::from(path)))
    })
}

fn dns_hook(layers: &Layers, challenge: ChallengeKind) -> Result<Option<PathBuf>> {
    let Some(given) = layers.first("acme_dns_hook", |layer| &layer.acme_dns_hook) else {
        ensure!(
            challenge != ChallengeKind::Dns01,
            "--acme-challenge dns-01 needs a command that puts records into the DNS: name it with --acme-dns-hook"
        );
        return Ok(None);
    };
    given.read(|text| {
        ensure!(challenge == ChallengeKind::Dns01, "{text:?} is run with --acme-challenge dns-01 only");
        let path = Path::new(text);
        ensure!(path.is_absolute(), "{text:?} is not an absolute path of a program");
        let metadata = path.metadata().map_err(|error| anyhow!("{text:?}: {}", fault(&error)))?;
        let is_program = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
        ensure!(is_program, "{text:?} is not a program; chmod +x it");
        Ok(Some(path.to_owned()))
    })
}

fn http_listen(layers: &Layers, challenge: ChallengeKind) -> Result<Option<SocketAddr>> {
    let is_asked = challenge == ChallengeKind::Http01;
    let Some(given) = layers.first("acme_http_listen", |layer| &layer.acme_http_listen) else {
        return Ok(is_asked.then_some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80))));
    };
    given.read(|text| {
        ensure!(is_asked, "{text:?} is opened with --acme-challenge http-01 only");
        if text == "none" {
            return Ok(None);
        }
        let address = text.parse();
        address.map(Some).map_err(|_| anyhow!("{text:?} is neither IP:PORT, such as 0.0.0.0:80, nor none"))
    })
}

fn external_account(layers: &Layers) -> Result<Option<ExternalAccount>> {
    let key_id = layers.first("acme_eab_key_id", |layer| &layer.acme_eab_key_id);
    let file = layers.first("acme_eab_key_file", |layer| &layer.acme_eab_key_file);
    let (key_id, file) = match (key_id, file) {
        (None, None) => return Ok(None),
        (Some(key_id), Some(file)) => (key_id.value, file),
        _ => bail!("--acme-eab-key-id and --acme-eab-key-file go together; the authority gives both"),
    };
    let key = file.read(|path| {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| anyhow!("cannot read {path:?}: {}", fault(&error)))?;
        let key = base64url(text.trim()).filter(|key| !key.is_empty());
        key.map(Zeroizing::new).with_context(|| format!("{path:?} holds no key in base64url"))
    })?;
    Ok(Some(ExternalAccount { key_id, key }))
}

/// RFC 4648 §5; padding may be there.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(sextet);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

/// What is likely to keep the authority from finding its answer.
pub(super) fn warning(
    acme: &AcmeSettings,
    turn_listen: &[Listener],
    api: (SocketAddr, bool),
) -> Option<String> {
    let (api_listen, api_tls) = api;
    match acme.challenge {
        ChallengeKind::TlsAlpn01 => {
            let speaks_tls = |it: &&Listener| {
                matches!(it.transport, Transport::Tls | Transport::Tcp) && it.address.port() == 443
            };
            let is_there =
                turn_listen.iter().any(|it| speaks_tls(&it)) || (api_tls && api_listen.port() == 443);
            (!is_there).then(|| {
                "nothing listens on port 443, where the authority looks for its answer to tls-alpn-01: add \
                 --turn-listen tls://0.0.0.0:443, or have what listens there pass TLS on unopened"
                    .to_owned()
            })
        }
        ChallengeKind::Http01 => {
            let is_there = acme.http_listen.is_some_and(|it| it.port() == 80) || api_listen.port() == 80;
            (!is_there).then(|| {
                "nothing listens on port 80, where the authority looks for its answer to http-01: give \
                 --acme-http-listen 0.0.0.0:80, or have what listens there pass /.well-known/acme-challenge/ on"
                    .to_owned()
            })
        }
        ChallengeKind::Dns01 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_read() {
        assert_eq!(base64url("").unwrap(), b"");
        assert_eq!(base64url("Zg").unwrap(), b"f");
        assert_eq!(base64url("Zm9vYg==").unwrap(), b"foob");
        assert_eq!(base64url("-_-_").unwrap(), [0xFB, 0xFF, 0xBF]);
        assert_eq!(base64url("Zm+v"), None);
    }
}
