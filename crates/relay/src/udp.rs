//! UDP sockets: the listeners that clients send to, and the relay sockets that peers send to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use turn::{OpenError, RelayId, RelaySockets, ReservedSocket};

use crate::config::Takes;
use crate::relayed_tcp;
use crate::sys::{Epoll, Interest, keep_errors, path_mtu_discovery, receive_coalesced, receive_destination};
use crate::worker::Token;

#[derive(Debug)]
pub(crate) struct UdpListener {
    socket: Socket,
    pub(crate) address: SocketAddr,
    pub(crate) takes: Takes,
    /// Bound to a wildcard address: replies must name the address they come from.
    pub(crate) is_wildcard: bool,
}

impl UdpListener {
    pub(crate) fn new(socket: Socket, address: SocketAddr, takes: Takes) -> io::Result<Self> {
        let is_wildcard = address.ip().is_unspecified();
        if is_wildcard {
            receive_destination(&socket, address.is_ipv4())?;
        }
        receive_coalesced(&socket);
        Ok(Self { socket, address, takes, is_wildcard })
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
        self.add(open_datagrams(local), Token::Relay)
    }

    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError> {
        self.add(relayed_tcp::listen(local), Token::RelayListener)
    }

    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError> {
        open_datagrams(local).map(ReservedSocket::new).map_err(|error| failed(&error))
    }

    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError> {
        self.adopt(socket.into_socket().ok_or(OpenError::Failed)?).map_err(|error| failed(&error))
    }
}

impl Opener<'_> {
    fn add(
        &mut self,
        opened: io::Result<Socket>,
        token: impl FnOnce(RelayId) -> Token,
    ) -> Result<RelayId, OpenError> {
        opened.and_then(|socket| self.register(socket, token)).map_err(|error| failed(&error))
    }

    /// Makes an open relay socket one of this worker's.
    pub(crate) fn adopt(&mut self, socket: Socket) -> io::Result<RelayId> {
        self.register(socket, Token::Relay)
    }

    fn register(&mut self, socket: Socket, token: impl FnOnce(RelayId) -> Token) -> io::Result<RelayId> {
        let entry = self.relays.sockets.vacant_entry();
        let id = RelayId(u32::try_from(entry.key()).map_err(io::Error::other)?);
        self.epoll.add(&socket, token(id).pack(), Interest::Read)?;
        entry.insert(socket);
        Ok(id)
    }
}

fn failed(error: &io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return OpenError::InUse;
    }
    tracing::debug!(%error, "cannot open a relay socket");
    OpenError::Failed
}

fn open_datagrams(local: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(local);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    receive_coalesced(&socket);
    keep_errors(&socket, local.is_ipv4())?;
    socket.bind(&SockAddr::from(local))?;
    Ok(socket)
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
