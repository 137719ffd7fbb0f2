//! Where a webhook's deliveries go. Not to this machine or its private networks, unless the configuration names them: whoever
//! may make a webhook may not look around there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{HeaderValue, Request, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::network::Network;

const MAX_URL_BYTES: usize = 2_048;
const USER_AGENT: &str = concat!("turnery/", env!("CARGO_PKG_VERSION"));

/// An `https` or `http` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    is_tls: bool,
    host: String,
    port: u16,
    /// As it stands in `Host`.
    authority: String,
    path: String,
}

/// The text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook's URL is https://HOST/PATH, or http:// to a host that --webhook-network names")]
pub(crate) struct TargetError;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_URL_BYTES || text.contains('#') {
            return Err(TargetError);
        }
        let uri: Uri = text.parse().map_err(|_| TargetError)?;
        let (is_tls, usual) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(TargetError),
        };
        let authority = uri.authority().filter(|it| !it.as_str().contains('@')).ok_or(TargetError)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(TargetError);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(usual);
        Ok(Self { is_tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

impl Target {
    /// Posts JSON, and says the status. Redirections are not followed.
    ///
    /// # Errors
    /// Says what failed, in a few words for the operator.
    pub(super) async fn post(
        &self,
        networks: &[Network],
        headers: &[(&'static str, &str)],
        body: String,
    ) -> Result<u16, String> {
        let address = self.resolve(networks).await?;
        let stream =
            TcpStream::connect(address).await.map_err(|error| format!("it cannot be reached: {error}"))?;
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(header::CONTENT_LENGTH, body.len());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).map_err(|error| error.to_string())?;
        if !self.is_tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let stream =
            connector()?.connect(name, stream).await.map_err(|error| format!("TLS failed: {error}"))?;
        exchange(stream, request).await
    }

    /// An address of the host that may be reached. The connection goes to this very one: a name that is looked up again
    /// could be another's by then.
    async fn resolve(&self, networks: &[Network]) -> Result<SocketAddr, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<SocketAddr> =
            found.map_err(|error| format!("its name is unknown: {error}"))?.collect();
        let is_named = |ip: IpAddr| networks.iter().any(|network| network.contains(ip));
        let may = |address: &&SocketAddr| {
            let ip = address.ip().to_canonical();
            is_named(ip) || (self.is_tls && is_global(ip))
        };
        found.iter().find(may).copied().ok_or_else(|| {
            "it is on a network that webhooks may not reach, or not https; see --webhook-network".to_owned()
        })
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("the exchange failed: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ended with this future, however that ends.
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    Ok(sender.send_request(request).await.map_err(failed)?.status().as_u16())
}

/// Trusts whom this machine trusts.
fn connector() -> Result<TlsConnector, String> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(TlsConnector::from(Arc::clone(config)));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::clone(CONFIG.get_or_init(|| Arc::new(config)))))
}

/// Whether an address is one of the public internet's, and one machine's.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let is_special = a == 0
        || a >= 224
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    // 2000::/3 without documentation, what is wrapped IPv4 (6to4, Teredo) and what is for special purposes.
    (0x2000..0x4000).contains(&first)
        && first != 0x2002
        && first != 0x3fff
        && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read() {
        let check = |text: &str, want: Option<(&str, u16, &str)>| {
            let read = text.parse::<Target>().ok();
            let read = read.as_ref().map(|it| (it.host.as_str(), it.port, it.path.as_str()));
            assert_eq!(read, want, "{text}");
        };
        check("https://hooks.example/a?b=c", Some(("hooks.example", 443, "/a?b=c")));
        check("https://hooks.example", Some(("hooks.example", 443, "/")));
        check("http://[2001:db8::1]:8080/", Some(("2001:db8::1", 8080, "/")));
        for wrong in
            ["", "ftp://a/", "https://", "/path", "https://user@host/", "https://a/#b", "hooks.example"]
        {
            check(wrong, None);
        }
        check(&format!("https://a/{}", "b".repeat(2_048)), None);
    }

    #[test]
    fn only_the_public_internet_is_global() {
        let check = |ip: &str, global: bool| assert_eq!(is_global(ip.parse().unwrap()), global, "{ip}");
        for ip in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1111", "2001:4860::8888"]
        {
            check(ip, true);
        }
        for ip in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            check(ip, false);
        }
    }

    #[tokio::test]
    async fn private_hosts_are_not_reached_unless_they_are_named() {
        for url in ["https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/", "http://8.8.8.8/"]
        {
            let target: Target = url.parse().unwrap();
            assert!(target.resolve(&[]).await.is_err(), "{url}");
        }
        let target: Target = "http://127.0.0.1:9/".parse().unwrap();
        assert!(target.resolve(&["127.0.0.0/8".parse().unwrap()]).await.is_ok());
        let global: Target = "https://8.8.8.8/".parse().unwrap();
        assert!(global.resolve(&[]).await.is_ok());
    }
}
