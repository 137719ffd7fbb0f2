//! Allocate. RFC 8656 §7.

use std::net::SocketAddr;

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Message};

use crate::allocation::Allocation;
use crate::auth::Authenticated;
use crate::reply::Answer;
use crate::server::{OpenError, RelaySockets, Server};
use crate::{Client, Config, Refusal, RelayAddress, Time, Transport};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// How many ports are tried when the system says that one is in use although no allocation has it.
const PORT_TRIES: usize = 16;

impl Server {
    pub(crate) fn allocate(
        &mut self,
        now: Time,
        client: Client,
        message: &Message<'_>,
        identity: &Authenticated,
        sockets: &mut impl RelaySockets,
    ) -> Result<Answer, Refusal> {
        if let Some((_, held)) = self.allocations.of_client(&client.five_tuple, now.monotonic_ms) {
            // RFC 8656 §7.2: a retransmitted request is answered as before, any other on a live 5-tuple with 437.
            if held.transaction == message.transaction() && held.credential == identity.credential {
                return Ok(Answer::Allocated {
                    relayed: held.relayed,
                    lifetime_secs: held.first_lifetime_secs,
                });
            }
            return Err(Refusal::AllocationExists);
        }
        requested_transport(message, client.five_tuple.transport)?;
        let address = requested_address(message, &self.config)?;
        let (lifetime_secs, expires_ms) = lifetime(&self.config, now, requested_lifetime(message)?, identity);
        // An expired allocation of this client may still wait for its timer.
        self.end_expired(now);
        if self.allocations.len() >= self.config.limits.allocations {
            return Err(Refusal::TooManyAllocations);
        }
        let (relay, port) = self.open_relay(address, sockets)?;
        let relayed = SocketAddr::new(address.public, port.local().port());
        self.allocations.insert(Allocation::new(
            client,
            relay,
            port,
            relayed,
            expires_ms,
            (identity.turn_key, identity.credential),
            message.transaction(),
            lifetime_secs,
        ));
        Ok(Answer::Allocated { relayed, lifetime_secs })
    }

    fn open_relay(
        &mut self,
        address: RelayAddress,
        sockets: &mut impl RelaySockets,
    ) -> Result<(crate::RelayId, crate::port::RelayPort), Refusal> {
        for _ in 0..PORT_TRIES {
            let random = self.rng.next_u32();
            let port = self.shared.ports.take(address.local, random).ok_or(Refusal::NoRelayPort)?;
            match sockets.open(port.local()) {
                Ok(relay) => return Ok((relay, port)),
                Err(OpenError::InUse) => {}
                Err(OpenError::Failed) => break,
            }
        }
        Err(Refusal::NoRelayPort)
    }
}

fn requested_transport(message: &Message<'_>, transport: Transport) -> Result<(), Refusal> {
    // RFC 8656 §7.2: without REQUESTED-TRANSPORT it is 400, with one that is not supported 442.
    let value = message.attribute(AttributeType::REQUESTED_TRANSPORT).ok_or(Refusal::TransportMissing)?;
    match (value, transport) {
        (&[PROTOCOL_UDP, _, _, _], _) => Ok(()),
        // RFC 6062 §5.1: a TCP allocation needs a client on TCP or TLS.
        (&[PROTOCOL_TCP, _, _, _], Transport::Udp) => Err(Refusal::TransportMismatch),
        (&[_, _, _, _], _) => Err(Refusal::TransportUnsupported),
        _ => Err(Refusal::MalformedAttribute),
    }
}

/// The address family that REQUESTED-ADDRESS-FAMILY names. RFC 8656 §18.6.
pub(crate) fn requested_family(message: &Message<'_>) -> Result<Option<Family>, Refusal> {
    match message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY) {
        None => Ok(None),
        Some([1, _, _, _]) => Ok(Some(Family::V4)),
        Some([2, _, _, _]) => Ok(Some(Family::V6)),
        // RFC 8656 §7.2: a family that is not supported is 440.
        Some([_, _, _, _]) => Err(Refusal::FamilyUnsupported),
        Some(_) => Err(Refusal::MalformedAttribute),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

fn requested_address(message: &Message<'_>, config: &Config) -> Result<RelayAddress, Refusal> {
    // RFC 8656 §7.2: without REQUESTED-ADDRESS-FAMILY the relayed address is IPv4.
    let v4 = requested_family(message)?.unwrap_or(Family::V4) == Family::V4;
    let found = config.relay_addresses.iter().find(|address| address.local.is_ipv4() == v4);
    found.copied().ok_or(Refusal::FamilyUnsupported)
}

/// The LIFETIME asked for. RFC 8656 §18.2.
pub(crate) fn requested_lifetime(message: &Message<'_>) -> Result<Option<u32>, Refusal> {
    let Some(value) = message.attribute(AttributeType::LIFETIME) else { return Ok(None) };
    let value = <[u8; 4]>::try_from(value).map_err(|_| Refusal::MalformedAttribute)?;
    Ok(Some(u32::from_be_bytes(value)))
}

/// The lifetime granted, in seconds, and the moment it ends, in monotonic milliseconds.
pub(crate) fn lifetime(
    config: &Config,
    now: Time,
    requested: Option<u32>,
    identity: &Authenticated,
) -> (u32, u64) {
    // RFC 8656 §7.2: no less than the default, no more than the maximum; and here never past the credential's end.
    let granted = requested
        .unwrap_or(config.default_lifetime_secs)
        .max(config.default_lifetime_secs)
        .min(config.max_lifetime_secs);
    let credential_ends_ms = now.monotonic_at_unix_secs(identity.expires_at);
    let expires_ms = now.after_secs(granted).min(credential_ends_ms);
    let left_secs = (expires_ms - now.monotonic_ms).div_ceil(1_000);
    (u32::try_from(left_secs).unwrap_or(granted), expires_ms)
}
