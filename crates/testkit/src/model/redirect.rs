//! Sending new clients elsewhere. RFC 8489 §10.

use turn::{AlternateServer, Client};

use super::Model;

/// Whether new allocations are taken, and who takes them instead.
#[derive(Debug, Default)]
pub(super) struct Redirect {
    to: Vec<AlternateServer>,
    draining: bool,
    stale: bool,
}

impl Redirect {
    /// Whether the client is sent to another server.
    pub(super) fn elsewhere(&self, client: &Client) -> bool {
        let path = client.five_tuple;
        self.to.iter().any(|server| {
            server.transport == path.transport && server.address.is_ipv4() == path.client.is_ipv4()
        })
    }

    /// Whether it is taken nowhere.
    pub(super) fn nowhere(&self, client: &Client) -> bool {
        self.draining && !self.elsewhere(client)
    }
}

impl Model {
    /// New clients are sent to these servers from now on.
    pub fn redirect(&mut self, to: Vec<AlternateServer>, draining: bool) {
        (self.redirect.to, self.redirect.draining) = (to, draining);
    }

    /// Nothing new is allocated from now on, because denials may be missing; or it is again.
    pub fn denials_stale(&mut self, stale: bool) {
        self.redirect.stale = stale;
    }

    /// Whether denials may be missing.
    pub fn are_denials_stale(&self) -> bool {
        self.redirect.stale
    }

    /// Whether some of them may be sent away.
    pub fn redirects(&self) -> bool {
        self.redirect.draining || !self.redirect.to.is_empty()
    }
}
