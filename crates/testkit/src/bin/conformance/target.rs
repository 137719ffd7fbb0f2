//! What is tested, and by whom.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::outcome::{Verdict, skip};

/// How clients reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

impl Transport {
    /// Whether frames follow each other on a stream.
    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        })
    }
}

/// Somebody the server knows.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

/// The server under test and what the checks need of its surroundings.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) server: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) user: User,
    pub(crate) other: Option<User>,
    /// Where the peers' sockets are bound: an address the server can reach and lets its clients reach.
    pub(crate) peer_host: IpAddr,
}

impl Target {
    /// Not every server is given a second user.
    pub(crate) fn other(&self) -> Result<&User, Verdict> {
        match &self.other {
            Some(user) => Ok(user),
            None => skip("needs a second user: --alt-user and --alt-password"),
        }
    }

    pub(crate) fn needs(&self, transport: Transport) -> Result<(), Verdict> {
        if self.transport == transport { Ok(()) } else { skip(format!("only with --transport {transport}")) }
    }

    pub(crate) fn needs_a_stream(&self) -> Result<(), Verdict> {
        if self.transport.is_stream() { Ok(()) } else { skip("only with --transport tcp or tls") }
    }
}
