//! Opening sockets, and what to tell an operator when that fails.

use std::io;
use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use relay::{BindError, Bound};
use tokio::net::TcpListener;

use crate::config::{Role, Settings, fault};

/// Opens the relay's listeners, all or none.
pub(crate) fn relay(config: relay::Config) -> Result<Bound> {
    let asked_for = config.listeners.clone();
    Bound::bind(config).map_err(|error| {
        let BindError { listener, source } = error;
        let flag = if asked_for.contains(&listener) {
            "--turn-listen"
        } else {
            "--alternate-address or --alternate-port"
        };
        let hint = hint(&source, "is another TURN server running? ", flag, listener.address.port());
        anyhow!("cannot listen on {listener}: {}{hint}", fault(&source))
    })
}

/// The listeners that speak HTTP.
pub(crate) struct Http {
    /// `None` where there is no API.
    pub(crate) api: Option<TcpListener>,
    /// Of health and metrics.
    pub(crate) metrics: Option<TcpListener>,
    /// What ACME authorities come to.
    pub(crate) acme: Option<TcpListener>,
}

/// Opens those that the settings name, all or none.
pub(crate) async fn http(settings: &Settings) -> Result<Http> {
    let api = match settings.role {
        Role::All => Some(api(settings.api_listen).await?),
        Role::Relay => None,
    };
    let metrics = match settings.fleet.metrics_listen {
        Some(address) => Some(metrics(address).await?),
        None => None,
    };
    let acme = match settings.acme.as_ref().and_then(|acme| acme.http_listen) {
        Some(address) => Some(acme_authorities(address).await?),
        None => None,
    };
    Ok(Http { api, metrics, acme })
}

/// Opens the listener that ACME authorities come to.
async fn acme_authorities(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = hint(&source, "", "--acme-http-listen", address.port());
        anyhow!("cannot listen on http://{address}: {}{hint}", fault(&source))
    })
}

/// Opens the listener of health and metrics.
async fn metrics(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = hint(&source, "", "--metrics-listen", address.port());
        anyhow!("cannot listen on http://{address}: {}{hint}", fault(&source))
    })
}

/// Opens the API's listener.
async fn api(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = hint(&source, "", "--api-listen", address.port());
        anyhow!("cannot listen on http://{address}: {}{hint}", fault(&source))
    })
}

fn hint(error: &io::Error, suspect: &str, flag: &str, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(" ({suspect}choose another with {flag})"),
        io::ErrorKind::AddrNotAvailable => {
            format!(" (this machine does not have that address; choose another with {flag})")
        }
        io::ErrorKind::PermissionDenied if port < 1024 => {
            format!(" (ports below 1024 need CAP_NET_BIND_SERVICE; choose another with {flag})")
        }
        _ => String::new(),
    }
}
