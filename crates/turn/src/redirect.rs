//! Sending new clients to other servers: ALTERNATE-SERVER. RFC 8489 §10.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::server::Server;
use crate::{Client, Refusal, Transport};

/// Another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlternateServer {
    /// What it speaks there. RFC 8489 §10: a client goes on with the transport that it has.
    pub transport: Transport,
    /// Where it is.
    pub address: SocketAddr,
    /// The name in its certificate, at most 255 ASCII characters, where it has one that clients may not expect.
    pub domain: Option<Arc<str>>,
}

/// Whether new allocations are taken, and who takes them instead.
#[derive(Debug, Default)]
pub(crate) struct Redirection {
    to: Vec<AlternateServer>,
    is_draining: bool,
    /// So many clients were sent elsewhere.
    count: usize,
}

/// Most other servers that are remembered.
const MAX_ALTERNATES: usize = 256;

impl Redirection {
    pub(crate) fn new(mut to: Vec<AlternateServer>, is_draining: bool) -> Self {
        to.truncate(MAX_ALTERNATES);
        Self { to, is_draining, count: 0 }
    }

    /// The name in the certificate of the server at this address.
    pub(crate) fn domain_of(&self, client: Client, server: SocketAddr) -> Option<&str> {
        let transport = client.five_tuple.transport;
        let known = self.to.iter().find(|it| it.transport == transport && it.address == server);
        known
            .and_then(|it| it.domain.as_deref())
            .filter(|it| transport.is_secured() && it.len() <= 255 && it.is_ascii())
    }
}

impl Server {
    /// Whether a new allocation of this client is taken here; each client that is not is sent to the next of the others.
    pub(crate) fn expect_admission(&mut self, client: Client) -> Result<(), Refusal> {
        let Redirection { to, is_draining, count } = &mut self.redirection;
        let (transport, is_v4) = (client.five_tuple.transport, client.five_tuple.client.is_ipv4());
        let fits = |it: &&AlternateServer| it.transport == transport && it.address.is_ipv4() == is_v4;
        let known = to.iter().filter(fits).count();
        if let Some(place) = count.checked_rem(known)
            && let Some(server) = to.iter().filter(fits).nth(place)
        {
            *count = count.wrapping_add(1);
            return Err(Refusal::TryAlternate(server.address));
        }
        if *is_draining { Err(Refusal::Draining) } else { Ok(()) }
    }
}
