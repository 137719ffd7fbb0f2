//! Which addresses are relayed addresses of this host: what goes there need not take the way out and back.

use std::net::SocketAddr;

use crate::allocate::Family;
use crate::allocation::Source;
use crate::server::{Action, Server};
use crate::{PortRange, RelayAddress};

#[derive(Debug)]
pub(crate) struct OwnRelays {
    addresses: Vec<RelayAddress>,
    ports: PortRange,
}

impl OwnRelays {
    pub(crate) fn new(addresses: &[RelayAddress], ports: PortRange) -> Self {
        // The first of a family serves all requests for it: the others have no relayed addresses.
        let mut first: Vec<RelayAddress> = Vec::new();
        for address in addresses {
            if first.iter().all(|held| Family::of_ip(held.local) != Family::of_ip(address.local)) {
                first.push(*address);
            }
        }
        Self { addresses: first, ports }
    }

    /// Whether an allocation of this host may have this relayed address.
    pub(crate) fn contain(&self, peer: SocketAddr) -> bool {
        self.ports.contains(peer.port()) && self.addresses.iter().any(|address| address.public == peer.ip())
    }

    /// Where this host reaches a peer: its own relayed addresses behind a one-to-one NAT at their local side, for
    /// few NATs send back what was sent to their outside.
    pub(crate) fn local(&self, peer: SocketAddr) -> SocketAddr {
        let own = self.addresses.iter().find(|address| address.public == peer.ip());
        own.map_or(peer, |address| SocketAddr::new(address.local, peer.port()))
    }

    /// What the others know a peer by: the other way round.
    pub(crate) fn public(&self, peer: SocketAddr) -> SocketAddr {
        if !self.ports.contains(peer.port()) {
            return peer;
        }
        let own = self.addresses.iter().find(|address| address.local == peer.ip());
        own.map_or(peer, |address| SocketAddr::new(address.public, peer.port()))
    }
}

impl Server {
    /// What becomes of data for a peer that [`OwnRelays`] contain.
    pub(crate) fn to_own_relay(&self, from: Source, peer: SocketAddr, dont_fragment: bool) -> Action {
        match self.allocations.relay_at(peer) {
            Some(relay) => Action::ToRelay { relay, from: from.address },
            // Another worker's, or nobody's.
            None => Action::ToPeer { relay: from.relay, peer: self.own_relays.local(peer), dont_fragment },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_nat_each_side_gets_the_address_that_it_knows() {
        let address = |public: &str, local: &str| RelayAddress {
            public: public.parse().unwrap(),
            local: local.parse().unwrap(),
        };
        let relays = [
            address("192.0.2.1", "10.0.0.1"),
            address("192.0.2.9", "10.0.0.9"),
            address("2001:db8::1", "2001:db8::1"),
        ];
        let own = OwnRelays::new(&relays, PortRange::new(50_000, 50_009).unwrap());
        for (public, local, contained) in [
            ("192.0.2.1:50000", "10.0.0.1:50000", true),
            ("[2001:db8::1]:50009", "[2001:db8::1]:50009", true),
            ("192.0.2.9:50000", "192.0.2.9:50000", false),
            ("192.0.2.2:50000", "192.0.2.2:50000", false),
        ] {
            let [public, local]: [SocketAddr; 2] = [public, local].map(|text| text.parse().unwrap());
            assert_eq!(own.contain(public), contained, "{public}");
            assert_eq!(own.local(public), local);
            assert_eq!(own.public(local), public);
        }
        // Another service of this host is no relay.
        let service: SocketAddr = "10.0.0.1:53".parse().unwrap();
        assert_eq!(own.public(service), service);
        assert!(!own.contain("192.0.2.1:53".parse().unwrap()));
    }
}
