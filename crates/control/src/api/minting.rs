//! The short way to the calls that mint.
//!
//! They are asked for more often than all others together, and a router boxes and copies a request several times. What
//! is answered is the same: a path that is spelled in another way, percent-encoded, goes through the router.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Bytes, HttpBody};
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use credentials::TurnKeyId;
use futures_util::FutureExt;

use crate::api::auth::KeyHolder;
use crate::api::body::Fields;
use crate::api::credentials::{self as handlers, Form};
use crate::api::origin::{Origin, Peer};
use crate::api::{ApiError, around};
use crate::control::Shared;
use crate::metrics::Path;

/// A request to mint, but for its headers and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Minting {
    key: TurnKeyId,
    form: Form,
}

/// Hex digits of a TURN key's id.
const KEY_CHARS: usize = 32;

impl Minting {
    /// That this is one.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() != Method::POST {
            return None;
        }
        let rest = request.uri().path().strip_prefix("/v1/turn/keys/")?;
        let (key, rest) = rest.split_at_checked(KEY_CHARS)?;
        let form = match rest {
            "/credentials/generate" => Form::One,
            "/credentials/generate-ice-servers" => Form::List,
            _ => return None,
        };
        Some(Self { key: key.parse().ok()?, form })
    }

    /// Its answer.
    pub(crate) async fn answered<B>(
        self,
        shared: Arc<Shared>,
        peer: Peer,
        request: Request<B>,
    ) -> Result<Response, Infallible>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let shared = &*shared;
        let path = Path::Known(match self.form {
            Form::One => handlers::GENERATE,
            Form::List => handlers::GENERATE_ICE_SERVERS,
        });
        let answer = around::answered(shared, Some(peer), path, request, |request, origin| {
            let minted = self.minted(shared, request, origin);
            minted.map(|minted| minted.unwrap_or_else(IntoResponse::into_response))
        });
        Ok(answer.await)
    }

    async fn minted<B>(
        self,
        shared: &Shared,
        request: Request<B>,
        origin: Origin,
    ) -> Result<Response, ApiError>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let holder = KeyHolder::of(shared, self.key, request.headers(), origin).await?;
        let fields = Fields::of(request.into_body()).await?;
        handlers::minted(shared, &holder, &fields, self.form).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// It is moved several times on its way, which took longer than the hashing once.
    #[test]
    fn a_request_to_mint_is_small() {
        fn size<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(Minting::answered::<axum::body::Body>);
        assert!(bytes <= 4_000, "{bytes} bytes");
    }

    #[test]
    fn only_the_usual_spelling_is_taken() {
        const KEY: &str = "/v1/turn/keys/00112233445566778899aabbccddeeff";
        let check = |method: Method, path: &str, form: Option<Form>| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            assert_eq!(Minting::of(&request).map(|it| it.form), form, "{path}");
        };
        check(Method::POST, &format!("{KEY}/credentials/generate"), Some(Form::One));
        check(Method::POST, &format!("{KEY}/credentials/generate-ice-servers"), Some(Form::List));
        check(Method::POST, &format!("{KEY}/credentials/generate?x=y"), Some(Form::One));
        check(Method::GET, &format!("{KEY}/credentials/generate"), None);
        check(Method::POST, &format!("{KEY}/credentials/generate/"), None);
        check(Method::POST, &format!("{KEY}/credentials/revoke"), None);
        check(Method::POST, &format!("{KEY}/credentials/%67enerate"), None);
        check(Method::POST, "/v1/turn/keys/00112233445566778899aabbccddeef/credentials/generate", None);
        check(Method::POST, "/v1/turn/keys/00112233445566778899aabbccddeefé/credentials/generate", None);
        check(Method::POST, "/v1/turn/keys/0011223344556677889gaabbccddeeff/credentials/generate", None);
    }
}
