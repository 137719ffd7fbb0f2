//! Where a request comes from, and what it is called in logs and in the audit log.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::api::{ApiError, with_common_headers};
use crate::control::Shared;
use crate::store::{Actor, ActorKind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Longest id that is taken from a caller.
const MAX_REQUEST_ID_BYTES: usize = 128;

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
    pub(crate) fn actor(&self, kind: ActorKind, id: impl Into<String>, name: impl Into<String>) -> Actor {
        let request_id = Some(self.request_id.to_string());
        Actor { address: self.address, request_id, ..Actor::new(kind, id, name) }
    }
}

/// There is always one: see [`identify`].
impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let held = parts.extensions.get::<Self>().cloned();
        Ok(held.unwrap_or_else(|| Self { address: None, request_id: new_request_id() }))
    }
}

/// Gives a request its id, or keeps the one it came with, and says it in the answer and in the log.
pub(super) async fn identify(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_canonical());
    let is_proxy = |address: IpAddr| shared.config.proxies.iter().any(|proxy| proxy.contains(address));
    let address = peer.map(|peer| forwarded_for(peer, request.headers(), is_proxy));
    let request_id = given_id(request.headers()).unwrap_or_else(new_request_id);
    let refused = address.and_then(|address| admit(&shared, address).err());
    let header = HeaderValue::from_str(&request_id);
    let method = request.method().clone();
    let span = tracing::info_span!("request", id = %request_id);
    request.extensions_mut().insert(Origin { address, request_id });
    let mut response = async {
        let response = match refused {
            Some(refusal) => with_common_headers(refusal.into_response()).await,
            None => next.run(request).await,
        };
        tracing::debug!(%method, status = response.status().as_u16(), "answered");
        response
    }
    .instrument(span)
    .await;
    if let Ok(value) = header {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// That the address has not called too often.
fn admit(shared: &Shared, address: IpAddr) -> Result<(), ApiError> {
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

fn new_request_id() -> Arc<str> {
    let mut bytes = [0; 16];
    // An id that is not random is better than no answer.
    let _ = getrandom::fill(&mut bytes);
    hex::encode(bytes).into()
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
