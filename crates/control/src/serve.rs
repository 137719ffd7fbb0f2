//! Connections: accepted, bounded in number and time, and ended in order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

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

pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                // An answer is one small write: nothing is gained by waiting for more. Failing to say so harms nobody.
                let _ = stream.set_nodelay(true);
                let (router, watcher) = (router.clone(), graceful.watcher());
                match &tls {
                    None => tokio::spawn(serve_connection(stream, router, watcher, permit)),
                    Some(tls) => {
                        let acceptor = TlsAcceptor::from(tls.load_full());
                        tokio::spawn(serve_secured(acceptor, stream, router, watcher, permit))
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
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve_secured(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    router: Router,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
) {
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_connection(stream, router, watcher, permit).await,
        Ok(Err(error)) => tracing::trace!(%error, "a TLS handshake failed"),
        Err(_) => tracing::trace!("a TLS handshake took too long"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
    drop(permit);
}

/// Whether accepting will never work again. Anything else is one connection's trouble, or passes.
fn is_listener_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}
