//! Relay sockets: how they are named, and how a server has them opened. RFC 8656 §7.2.

use std::net::SocketAddr;

use crate::ReservedSocket;

/// A relay socket, by the number the caller gave it: small and dense, for tables are indexed by it. The number
/// may be used again once the socket's [`crate::Output::Ended`] has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u32);

impl RelayId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The one thing a server asks for while it handles a request: so that Allocate is one step without a pending state.
/// RFC 8656 §7.2.
pub trait RelaySockets {
    /// Opens a UDP socket bound to exactly this local address.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process has the port: the server then tries another.
    fn open(&mut self, local: SocketAddr) -> Result<RelayId, OpenError>;

    /// Opens a TCP socket bound to exactly this local address and listening, of which peers' connections are told to
    /// [`crate::Server::accepted`]. RFC 6062 §5.1.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process has the port: the server then tries another.
    fn listen(&mut self, local: SocketAddr) -> Result<RelayId, OpenError>;

    /// Binds a UDP socket to exactly this local address, to be opened later, by this worker or another one.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when another process has the port: the server then tries another.
    fn reserve(&mut self, local: SocketAddr) -> Result<ReservedSocket, OpenError>;

    /// Opens a socket that was reserved.
    ///
    /// # Errors
    /// [`OpenError::Failed`] when it cannot be waited for.
    fn open_reserved(&mut self, socket: ReservedSocket) -> Result<RelayId, OpenError>;
}

/// Why a relay socket could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The port is taken.
    InUse,
    /// Anything else, such as no more file descriptors.
    Failed,
}
