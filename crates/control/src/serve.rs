//! Connections: accepted, bounded in number and time, and ended in order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::Request;
use futures_util::future::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::api::{Minting, Peer, counted_as};
use crate::control::Shared;
use crate::patience::Patient;

/// Most connections at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// In which time a request's head must be there, the pause before it on a kept connection included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// In which time a TLS handshake must be over.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long running requests are waited for at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait when no connection can be accepted, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot accept.
    #[error("the API listener failed")]
    Listener(#[source] io::Error),
}

/// What TLS is spoken with; each connection takes what is there when it comes.
pub type Tls = Arc<ArcSwap<ServerConfig>>;

/// What answers requests.
#[derive(Clone)]
pub(crate) struct Answers {
    /// Everything.
    pub(crate) router: Router,
    /// Where there is an API, its short way to minting.
    pub(crate) minting: Option<Arc<Shared>>,
}

/// How many connections an address may hold at once; `None`: as many as it likes.
pub(crate) type Places<'p> = &'p (dyn Fn(IpAddr) -> Option<usize> + Sync);

pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    (answers, places): (&Answers, Places<'_>),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let crowd = Arc::new(Crowd::default());
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                let Some(place) = Crowd::enter(&crowd, places, peer.ip().to_canonical()) else { continue };
                // An answer is one small write: nothing is gained by waiting for more. Failing to say so harms nobody.
                let _ = stream.set_nodelay(true);
                let parts = (answers.clone(), graceful.watcher(), (permit, place));
                match &tls {
                    None => tokio::spawn(serve_connection(stream, Peer(peer), parts)),
                    Some(tls) => {
                        let acceptor = TlsAcceptor::from(tls.load_full());
                        tokio::spawn(serve_secured(acceptor, stream, Peer(peer), parts))
                    }
                };
            }
            Err(error) if is_listener_gone(&error) => return Err(ServeError::Listener(error)),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection was accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that did not end in time were cut off");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

/// What serves a connection: what answers, what waits for its end, and its places in the counts.
type Parts = (Answers, Watcher, (OwnedSemaphorePermit, Place));

async fn serve_secured(acceptor: TlsAcceptor, stream: TcpStream, peer: Peer, parts: Parts) {
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_connection(stream, peer, parts).await,
        Ok(Err(error)) => tracing::trace!(%error, "a TLS handshake failed"),
        Err(_) => tracing::trace!("a TLS handshake took too long"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    (Answers { router, minting }, watcher, places): Parts,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let minted = minting.as_ref().and_then(|shared| Some((shared, Minting::of(&request)?)));
        if let Some((shared, call)) = minted {
            return Either::Left(call.answered(Arc::clone(shared), peer, request));
        }
        request.extensions_mut().insert(peer);
        Either::Right(router.call(request))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
    drop(places);
}

/// How many connections each address has, of those whose connections are counted.
#[derive(Debug, Default)]
struct Crowd(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place in the count, until it is dropped.
#[derive(Debug)]
struct Place(Option<(Arc<Crowd>, IpAddr)>);

impl Crowd {
    /// A place for one more connection of this address, if it may have one.
    fn enter(crowd: &Arc<Self>, places: Places<'_>, address: IpAddr) -> Option<Place> {
        let Some(most) = places(address) else { return Some(Place(None)) };
        let address = counted_as(address);
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most.max(1) {
            tracing::debug!(%address, "a connection was closed: the address has too many");
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(crowd), address))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((crowd, address)) = self.0.take() else { return };
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Whether accepting will never work again. Anything else is one connection's trouble, or passes.
fn is_listener_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}
