//! Where a request comes from, and what it is called in logs and in the audit log.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use crate::api::ApiError;
use crate::control::Shared;
use crate::store::{Actor, ActorKind};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Longest id that is taken from a caller.
const MAX_REQUEST_ID_BYTES: usize = 128;

tokio::task_local! {
    static REQUEST: Arc<str>;
}

/// The id of the request that this task answers; empty where it answers none.
///
/// Errors are logged with it. A span would bring it to every line, but is made and ended for every request.
pub(crate) fn request_id() -> Arc<str> {
    REQUEST.try_with(Arc::clone).unwrap_or_default()
}

/// What `answer` says, which is about the request of this id.
pub(super) fn within<T>(request_id: Arc<str>, answer: impl Future<Output = T>) -> impl Future<Output = T> {
    REQUEST.scope(request_id, answer)
}

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Who is behind a request, as far as its connection tells.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The client's address; of a trusted proxy's request, whom the proxy names.
    pub(crate) address: Option<IpAddr>,
    pub(crate) request_id: Arc<str>,
}

impl Origin {
    /// Of this request, which keeps the id that it came with if it can be logged.
    pub(super) fn of(peer: Option<Peer>, headers: &HeaderMap, shared: &Shared) -> Self {
        let is_proxy = |address: IpAddr| shared.config.proxies.iter().any(|proxy| proxy.contains(address));
        let peer = peer.map(|Peer(peer)| peer.ip().to_canonical());
        Self {
            address: peer.map(|peer| forwarded_for(peer, headers, is_proxy)),
            request_id: given_id(headers).unwrap_or_else(new_request_id),
        }
    }

    pub(crate) fn actor(&self, kind: ActorKind, id: impl Into<String>, name: impl Into<String>) -> Actor {
        let request_id = Some(self.request_id.to_string());
        Actor { address: self.address, request_id, ..Actor::new(kind, id, name) }
    }
}

/// There is always one: see [`super::around`].
impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let held = parts.extensions.get::<Self>().cloned();
        Ok(held.unwrap_or_else(|| Self { address: None, request_id: new_request_id() }))
    }
}

/// That the address, if it is known, has not called too often.
pub(super) fn admit(shared: &Shared, address: Option<IpAddr>) -> Result<(), ApiError> {
    let Some(address) = address else { return Ok(()) };
    let Some(rates) = shared.address_rates.as_ref().filter(|_| !shared.is_trusted(address)) else {
        return Ok(());
    };
    rates
        .take(&counted_as(address), Instant::now())
        .map_err(|retry_after_secs| ApiError::RateLimited { retry_after_secs })
}

/// The address that stands for this one where addresses are counted.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        // Whoever has one address of a /64 has them all.
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The id that a caller gave: letters, digits and a few signs, so that it can be logged.
fn given_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
    ((1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(allowed)).then(|| id.into())
}

/// Drawn once for this process, and a number: ids are to be told apart, not to be kept from being guessed.
fn new_request_id() -> Arc<str> {
    static PROCESS: OnceLock<[u8; 8]> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process = PROCESS.get_or_init(|| {
        let mut bytes = [0; 8];
        // An id that is not random is better than no answer.
        let _ = getrandom::fill(&mut bytes);
        bytes
    });
    let count = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut bytes = [0; 16];
    let (first, last) = bytes.split_at_mut(8);
    first.copy_from_slice(process);
    last.copy_from_slice(&count);
    let mut text = hex::Buffer::<16>::new();
    Arc::from(&*text.format(&bytes))
}

/// Whom a trusted proxy names: of `X-Forwarded-For` the last that is no trusted proxy itself, since whatever stands before
/// it the client may have written.
fn forwarded_for(peer: IpAddr, headers: &HeaderMap, is_proxy: impl Fn(IpAddr) -> bool) -> IpAddr {
    if !is_proxy(peer) {
        return peer;
    }
    let lines = headers.get_all(FORWARDED_FOR);
    let named: Vec<&str> =
        lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).collect();
    let mut last = peer;
    for text in named.iter().rev() {
        let Some(address) = address(text.trim()) else { break };
        last = address;
        if !is_proxy(address) {
            break;
        }
    }
    last
}

/// An address, as proxies write it: perhaps in brackets, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_word() {
        let check = |peer: &str, lines: &[&'static str], want: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let is_proxy = |address: IpAddr| address.to_string().starts_with("10.");
            let found = forwarded_for(peer.parse().unwrap(), &headers, is_proxy);
            assert_eq!(found, want.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        };
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1");
        check("10.0.0.1", &["2001:db8::1"], "2001:db8::1");
        check("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7:80"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7, garbage"], "10.0.0.1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
    }

    #[test]
    fn an_id_that_can_be_logged_is_kept() {
        let check = |id: &'static str, kept: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(id));
            assert_eq!(given_id(&headers).is_some(), kept, "{id}");
        };
        check("7b1c-9_a.b:c/d+e=", true);
        check("", false);
        check("a b", false);
        check("a\"b", false);
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(&"a".repeat(129)).unwrap())]);
        assert_eq!(given_id(&headers), None);
        assert_ne!(new_request_id(), new_request_id());
    }
}
