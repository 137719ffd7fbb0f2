//! TCP sockets at relayed addresses: one that listens for peers, and those that connect to them. RFC 6062 §5.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Peers' connections to a relayed address that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Opens a listening socket at a relayed address. RFC 6062 §5.1.
pub(crate) fn listen(local: SocketAddr) -> io::Result<Socket> {
    let local = SockAddr::from(local);
    let domain = local.domain();
    // Without SO_REUSEPORT first: with it, somebody else's listener on this port would go unnoticed.
    let probe = relay_socket(domain)?;
    probe.bind(&local)?;
    probe.listen(1)?;
    drop(probe);
    let socket = relay_socket(domain)?;
    // For the connections that are made from here.
    socket.set_reuse_port(true)?;
    socket.bind(&local)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A TCP socket for one end of a relayed address, which it shares with others of the same.
pub(crate) fn relay_socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}
