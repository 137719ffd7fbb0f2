//! UDP sockets: the listeners that clients send to, and the relay sockets that peers send to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use turn::{OpenError, RelayId, RelaySockets};

use crate::Listener;
use crate::sys::{Epoll, Interest, keep_errors, path_mtu_discovery, receive_coalesced, receive_destination};
use crate::worker::Token;

#[derive(Debug)]
pub(crate) struct UdpListener {
    socket: Socket,
    pub(crate) address: SocketAddr,
    /// Bound to a wildcard address: replies must name the address they come from.
    pub(crate) is_wildcard: bool,
}

impl UdpListener {
    pub(crate) fn new(socket: Socket, listener: Listener) -> io::Result<Self> {
        let is_wildcard = listener.address.ip().is_unspecified();
        if is_wildcard {
            receive_destination(&socket, listener.address.is_ipv4())?;
        }
        receive_coalesced(&socket);
        Ok(Self { socket, address: listener.address, is_wildcard })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The relay sockets of one worker: an allocation each.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    sockets: Slab<Socket>,
}

impl Relays {
    pub(crate) fn socket(&self, relay: RelayId) -> Option<&Socket> {
        self.sockets.get(relay.0 as usize)
    }

    /// Takes a relay socket out of this worker's hands.
    pub(crate) fn take(&mut self, relay: RelayId) -> Option<Socket> {
        self.sockets.try_remove(relay.0 as usize)
    }

    /// Closes a relay socket, and says what its descriptor was; epoll forgets it with its last descriptor.
    pub(crate) fn close(&mut self, relay: RelayId) -> Option<RawFd> {
        self.sockets.try_remove(relay.0 as usize).map(|socket| socket.as_raw_fd())
    }
}

/// The capability that a server opens relay sockets with: the sockets, and the epoll instance that waits for them.
pub(crate) struct Opener<'w> {
    pub(crate) relays: &'w mut Relays,
    pub(crate) epoll: &'w Epoll,
}

impl RelaySockets for Opener<'_> {
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => OpenError::InUse,
            _ => {
                tracing::debug!(%error, "cannot open a relay socket");
                OpenError::Failed
            }
        };
        let domain = Domain::for_address(local);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP));
        let socket = socket.map_err(failed)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true).map_err(failed)?;
        }
        receive_coalesced(&socket);
        keep_errors(&socket, local.is_ipv4()).map_err(failed)?;
        socket.bind(&SockAddr::from(local)).map_err(failed)?;
        self.adopt(socket).map_err(failed)
    }
}

impl Opener<'_> {
    /// Makes an open relay socket one of this worker's.
    pub(crate) fn adopt(&mut self, socket: Socket) -> io::Result<RelayId> {
        let entry = self.relays.sockets.vacant_entry();
        let id = RelayId(u32::try_from(entry.key()).map_err(io::Error::other)?);
        self.epoll.add(&socket, Token::Relay(id).pack(), Interest::Read)?;
        entry.insert(socket);
        Ok(id)
    }
}

/// Sends one datagram with the DF bit set: it is lost where it does not fit, and not cut. RFC 8656 §15.
pub(crate) fn send_whole(socket: &Socket, bytes: &[u8], peer: SocketAddr) -> io::Result<()> {
    let is_v4 = peer.is_ipv4();
    // An error about an earlier datagram is not this one's; its ICMP message stays in the queue.
    let _ = socket.take_error();
    path_mtu_discovery(socket, is_v4, true)?;
    let sent = socket.send_to(bytes, &SockAddr::from(peer));
    path_mtu_discovery(socket, is_v4, false)?;
    sent.map(|_| ())
}
