//! Allocate. RFC 8656 §7.

use std::net::{IpAddr, SocketAddr};

use rand_chacha::rand_core::Rng;
use stun::{AttributeType, Message};

use crate::allocation::{Allocation, Relayed};
use crate::auth::Authenticated;
use crate::port::Parity;
use crate::quota::{Meter, Quota};
use crate::reply::{Allocated, Answer};
use crate::reservation::{self, Due, Reservation, Reserved, Room, Token};
use crate::server::Server;
use crate::sockets::{OpenError, RelaySockets};
use crate::{Client, Config, Refusal, RelayAddress, Time, Transport};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// How many ports are tried when the system says that one is in use although no allocation has it. Where other programs
/// have two ports of three, all of these are theirs once in 10^11 times.
const PORT_TRIES: usize = 64;

/// An address family. RFC 8656 §18.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self::of_ip(address.ip())
    }

    pub(crate) fn of_ip(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What is relayed: the protocol between server and peer. RFC 8656 §18.8, RFC 6062 §4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

/// What an Allocate asks for beside a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One(Family, Parity),
    /// IPv4 and, if it can be had, IPv6.
    Both(Parity),
    Reserved(Token),
}

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
                let ticket = held.mobility.as_ref().map(|mobility| mobility.first);
                return Ok(Answer::Allocated(held.answer(), ticket));
            }
            return Err(Refusal::AllocationExists);
        }
        let protocol = requested_transport(&self.config, message, client.five_tuple.transport)?;
        let wanted = wanted(message)?;
        let is_mobile = self.wants_mobility(message, protocol)?;
        let requested_lifetime = requested_lifetime(message)?;
        // What is reserved is here, and was promised when its pair was let in.
        if !matches!(wanted, Wanted::Reserved(_)) {
            self.expect_admission(client)?;
        }
        if self.are_denials_stale {
            return Err(Refusal::DenialsStale);
        }
        let (lifetime_secs, expires_ms) = lifetime(&self.config, now, requested_lifetime, identity);
        // An expired allocation of this client may still wait for its timer.
        self.end_expired(now);
        if self.allocations.len() >= self.config.limits.allocations {
            return Err(Refusal::TooManyAllocations);
        }
        let mut answer = Allocated { relayed: [None; 2], lifetime_secs, reservation: None, failed: None };
        let (relays, quota) = self.open_relays(now, (protocol, wanted), identity, sockets, &mut answer)?;
        answer.relayed = relays.each_ref().map(|relay| relay.as_ref().map(|relay| relay.address));
        let meter = Meter::new(self.key_limits(identity.turn_key), &quota);
        let session = self.session(now, message, identity, protocol);
        let id = self.allocations.insert(Allocation::new(
            client,
            (protocol, relays),
            expires_ms,
            identity,
            message.transaction(),
            answer,
            (quota, meter, session),
        ));
        // RFC 8016 §3.1.2: an Allocate that asked for mobility is answered with a ticket.
        let ticket = is_mobile.then(|| self.make_mobile(id));
        Ok(Answer::Allocated(answer, ticket))
    }

    /// The sockets of a new allocation, and its place in the counts; what else the answer has to say is written into it.
    fn open_relays(
        &mut self,
        now: Time,
        (protocol, wanted): (Protocol, Wanted),
        identity: &Authenticated,
        sockets: &mut impl RelaySockets,
        answer: &mut Allocated,
    ) -> Result<([Option<Relayed>; 2], Quota), Refusal> {
        match wanted {
            Wanted::Reserved(token) => {
                let (relay, quota) = self.open_reserved(token, identity, sockets)?;
                Ok(([Some(relay), None], quota))
            }
            Wanted::One(family, parity) => {
                let address = self.relay_address(family)?;
                let quota = self.take_quota(now, identity)?;
                let promise =
                    (parity == Parity::EvenAndNext).then(|| self.promise(now, identity)).transpose()?;
                let (relay, next) = self.open_relay(address, (protocol, parity), sockets)?;
                answer.reservation = promise
                    .zip(next)
                    .map(|(promise, next)| self.reserve(now, promise, (address, next), identity));
                Ok(([Some(relay), None], quota))
            }
            Wanted::Both(parity) => {
                let quota = self.take_quota(now, identity)?;
                let mut open = |family| {
                    let address = self.relay_address(family)?;
                    self.open_relay(address, (protocol, parity), sockets).map(|(relay, _)| relay)
                };
                // RFC 8656 §7.2: of two families one is enough; ADDRESS-ERROR-CODE says why the other is missing.
                match [Family::V4, Family::V6].map(|family| (family, open(family))) {
                    [(_, Ok(v4)), (_, Ok(v6))] => Ok(([Some(v4), Some(v6)], quota)),
                    [(_, Ok(relay)), (family, Err(refusal))] | [(family, Err(refusal)), (_, Ok(relay))] => {
                        answer.failed = Some((family, refusal));
                        Ok(([Some(relay), None], quota))
                    }
                    [(_, Err(refusal)), (_, Err(_))] => Err(refusal),
                }
            }
        }
    }

    fn take_quota(&self, now: Time, identity: &Authenticated) -> Result<Quota, Refusal> {
        let limits = self.key_limits(identity.turn_key);
        self.shared.quotas.take(now.monotonic_ms, limits, identity.turn_key, identity.credential)
    }

    /// Room for a reservation, which counts like the allocation that it is kept for: a client could hold more ports than
    /// its quota else.
    fn promise(&self, now: Time, identity: &Authenticated) -> Result<(Room, Quota), Refusal> {
        let quota = self.take_quota(now, identity)?;
        // RFC 8656 §7.2: an EVEN-PORT that cannot be satisfied is 508.
        let limit = self.config.limits.reservations;
        let room = self.shared.reservations.room(limit).ok_or(Refusal::TooManyReservations)?;
        Ok((room, quota))
    }

    fn relay_address(&self, family: Family) -> Result<RelayAddress, Refusal> {
        let mut addresses = self.config.relay_addresses.iter();
        // RFC 8656 §7.2: a family that the server has no address of is 440.
        addresses
            .find(|address| Family::of_ip(address.local) == family)
            .copied()
            .ok_or(Refusal::FamilyUnsupported)
    }

    fn open_relay(
        &mut self,
        address: RelayAddress,
        (protocol, parity): (Protocol, Parity),
        sockets: &mut impl RelaySockets,
    ) -> Result<(Relayed, Option<Reserved>), Refusal> {
        for _ in 0..PORT_TRIES {
            let random = self.rng.next_u32();
            let taken = self.shared.ports.take(address.local, parity, random);
            let (port, next) = taken.ok_or(Refusal::NoRelayPort)?;
            // The second first: what is only reserved can be given up again.
            let next = next.map(|port| sockets.reserve(port.local()).map(|socket| Reserved { socket, port }));
            let opened = next.transpose().and_then(|next| {
                let id = match protocol {
                    Protocol::Udp => sockets.open(port.local()),
                    // RFC 6062 §5.1: the relayed transport address is a TCP one.
                    Protocol::Tcp => sockets.listen(port.local()),
                };
                Ok((id?, next))
            });
            match opened {
                Ok((id, next)) => return Ok((Relayed::new(id, port, address), next)),
                Err(OpenError::InUse) => {}
                Err(OpenError::Failed) => break,
            }
        }
        Err(Refusal::NoRelayPort)
    }

    /// RFC 8656 §7.2: EVEN-PORT with the R bit reserves the next port, and the answer carries a token for it.
    fn reserve(
        &mut self,
        now: Time,
        (room, quota): (Room, Quota),
        (address, reserved): (RelayAddress, Reserved),
        identity: &Authenticated,
    ) -> Token {
        let mut token = Token::default();
        self.rng.fill_bytes(&mut token);
        let reservation = Reservation { address, reserved, quota, credential: identity.credential };
        self.shared.reservations.keep(token, reservation);
        let at_ms = now.after_secs(reservation::LIFETIME_SECS);
        self.reservations_due.push_back(Due { at_ms, token, _room: room });
        token
    }

    /// RFC 8656 §7.2: a token that names no reservation is 508.
    fn open_reserved(
        &mut self,
        token: Token,
        identity: &Authenticated,
        sockets: &mut impl RelaySockets,
    ) -> Result<(Relayed, Quota), Refusal> {
        let claimed = self.shared.reservations.claim(token, identity.credential);
        let Reservation { address, reserved, quota, .. } = claimed.ok_or(Refusal::ReservationUnknown)?;
        let Reserved { socket, port } = reserved;
        match sockets.open_reserved(socket) {
            Ok(id) => Ok((Relayed::new(id, port, address), quota)),
            Err(OpenError::InUse | OpenError::Failed) => Err(Refusal::NoRelayPort),
        }
    }
}

fn requested_transport(
    config: &Config,
    message: &Message<'_>,
    transport: Transport,
) -> Result<Protocol, Refusal> {
    use AttributeType as A;
    // RFC 8656 §7.2: without REQUESTED-TRANSPORT it is 400, with one that is not supported 442.
    let value = message.attribute(A::REQUESTED_TRANSPORT).ok_or(Refusal::TransportMissing)?;
    match *value {
        [PROTOCOL_UDP, _, _, _] => Ok(Protocol::Udp),
        [PROTOCOL_TCP, _, _, _] if !config.tcp_relay => Err(Refusal::TransportUnsupported),
        // RFC 6062 §5.1: a TCP allocation needs a client on TCP or TLS, or it is 400.
        [PROTOCOL_TCP, _, _, _] if !transport.is_stream() => Err(Refusal::TransportMismatch),
        [PROTOCOL_TCP, _, _, _] => {
            // RFC 6062 §5.1: DONT-FRAGMENT, EVEN-PORT and RESERVATION-TOKEN belong to UDP: with them it is 400.
            let of_udp = [A::DONT_FRAGMENT, A::EVEN_PORT, A::RESERVATION_TOKEN];
            if of_udp.iter().any(|kind| message.attribute(*kind).is_some()) {
                return Err(Refusal::ContradictoryAttributes);
            }
            Ok(Protocol::Tcp)
        }
        [_, _, _, _] => Err(Refusal::TransportUnsupported),
        _ => Err(Refusal::MalformedAttribute),
    }
}

/// Which relayed addresses are asked for. RFC 8656 §7.2, steps 5 to 9.
fn wanted(message: &Message<'_>) -> Result<Wanted, Refusal> {
    use AttributeType as A;
    let has = |kind| message.attribute(kind).is_some();
    if let Some(token) = message.attribute(A::RESERVATION_TOKEN) {
        // RFC 8656 §7.2: RESERVATION-TOKEN excludes EVEN-PORT and both family attributes: 400.
        if has(A::EVEN_PORT) || has(A::REQUESTED_ADDRESS_FAMILY) || has(A::ADDITIONAL_ADDRESS_FAMILY) {
            return Err(Refusal::ContradictoryAttributes);
        }
        return Token::try_from(token).map(Wanted::Reserved).map_err(|_| Refusal::MalformedAttribute);
    }
    let parity = even_port(message)?;
    let family = requested_family(message)?;
    let additional = message.attribute(A::ADDITIONAL_ADDRESS_FAMILY);
    match (family, additional) {
        // RFC 8656 §7.2: without a family the relayed address is IPv4.
        (family, None) => Ok(Wanted::One(family.unwrap_or(Family::V4), parity)),
        // RFC 8656 §7.2: both family attributes, or a reserved port beside a second family, are 400.
        (Some(_), Some(_)) => Err(Refusal::ContradictoryAttributes),
        (None, Some(_)) if parity == Parity::EvenAndNext => Err(Refusal::ContradictoryAttributes),
        (None, Some([2, _, _, _])) => Ok(Wanted::Both(parity)),
        // RFC 8656 §7.2: the additional family can only be IPv6, anything else is 400.
        (None, Some(_)) => Err(Refusal::MalformedAttribute),
    }
}

fn even_port(message: &Message<'_>) -> Result<Parity, Refusal> {
    match message.attribute(AttributeType::EVEN_PORT) {
        None => Ok(Parity::Any),
        Some([flags]) if flags & 0x80 != 0 => Ok(Parity::EvenAndNext),
        Some([_]) => Ok(Parity::Even),
        Some(_) => Err(Refusal::MalformedAttribute),
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
