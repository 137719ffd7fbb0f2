//! A client with an allocation and a peer: what most checks of TURN begin with.

use std::net::SocketAddr;

use crate::client::Client;
use crate::message::Request;
use crate::outcome::{Outcome, Verdict};
use crate::peer::Peer;
use crate::target::Target;

#[derive(Debug)]
pub(crate) struct Path<'t> {
    pub(crate) client: Client<'t>,
    pub(crate) peer: Peer,
    /// The peer's address.
    pub(crate) at: SocketAddr,
}

impl<'t> Path<'t> {
    /// No permission yet.
    pub(crate) fn open(target: &'t Target) -> Result<Self, Verdict> {
        let peer = Peer::open(target)?;
        let at = peer.address()?;
        Ok(Self { client: Client::allocated(target)?, peer, at })
    }

    /// With a permission for the peer.
    pub(crate) fn permitted(target: &'t Target) -> Result<Self, Verdict> {
        let mut path = Self::open(target)?;
        path.client.permit(path.at)?;
        Ok(path)
    }

    /// With a channel bound to the peer.
    pub(crate) fn bound(target: &'t Target, number: u16) -> Result<Self, Verdict> {
        let mut path = Self::open(target)?;
        path.client.bind(number, path.at)?;
        Ok(path)
    }

    pub(crate) fn relayed(&self) -> SocketAddr {
        self.client.relayed()
    }

    /// Sends data in a Send indication.
    pub(crate) fn send(&mut self, data: &[u8]) -> Outcome {
        self.client.send(&Request::send(self.at, data).bytes())
    }

    /// The peer sends data to the relayed address.
    pub(crate) fn peer_sends(&self, data: &[u8]) -> Outcome {
        self.peer.send(self.relayed(), data)
    }

    /// Data still goes both ways through indications.
    pub(crate) fn still_relays(&mut self, what: &str) -> Outcome {
        self.send(b"there")?;
        self.peer.expect(what, b"there")?;
        self.peer_sends(b"back")?;
        self.client.expect_data(what, self.at, b"back")
    }
}
