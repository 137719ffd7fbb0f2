//! Opening sockets, and what to tell an operator when that fails.

use std::io;
use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use relay::{BindError, Bound};
use tokio::net::TcpListener;

use crate::config::fault;

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

/// Opens the listener that ACME authorities come to.
pub(crate) async fn acme(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = hint(&source, "", "--acme-http-listen", address.port());
        anyhow!("cannot listen on http://{address}: {}{hint}", fault(&source))
    })
}

/// Opens the API's listener.
pub(crate) async fn api(address: SocketAddr) -> Result<TcpListener> {
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
