//! The one place where responses are written.

use std::net::SocketAddr;

use stun::{
    AttributeType, Class, ErrorCode, Fingerprint, IntegrityAlgorithm, LongTermKey, Message, MessageWriter,
    Method, Overflow, PasswordAlgorithm, TransactionId, address,
};

use crate::allocate::Family;
use crate::connection::ConnectionId;
use crate::discovery::{Discovered, MAX_PADDING};
use crate::nonce::Nonce;
use crate::reservation::Token;
use crate::ticket::Sealed;
use crate::{Forbidden, RelayId, WorkerId};

/// What a request was answered with. RFC 8489 §6.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The success response of this method.
    Success(Method),
    /// An error response.
    Refused(Refusal),
}

/// Why a request was refused: finer than its error code, for metrics and tests. RFC 8489 §14.8, RFC 8656 §19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No MESSAGE-INTEGRITY: the first step of every client.
    Unauthenticated,
    /// MESSAGE-INTEGRITY without USERNAME, REALM or NONCE.
    IncompleteCredentials,
    /// PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS do not fit what was offered.
    PasswordAlgorithmInvalid,
    /// The nonce is too old, another client's, or forged.
    StaleNonce,
    /// The username is neither one that this deployment sealed nor a time-limited one.
    UnknownUsername,
    /// MESSAGE-INTEGRITY does not verify.
    WrongPassword,
    /// The credential's time is over.
    CredentialExpired,
    /// A time-limited username whose expiry is too far ahead.
    ExpiryTooFar,
    /// The credential was revoked or its key deleted.
    CredentialDenied,
    /// The credential's TURN key is suspended.
    KeySuspended,
    /// Another credential made the allocation.
    WrongCredentials,
    /// Comprehension-required attributes that this server does not know.
    UnknownAttributes,
    /// The 5-tuple has an allocation already.
    AllocationExists,
    /// The 5-tuple has no allocation.
    NoAllocation,
    /// REQUESTED-TRANSPORT is missing.
    TransportMissing,
    /// A TCP allocation asked for over UDP.
    TransportMismatch,
    /// REQUESTED-TRANSPORT names a protocol that is not relayed.
    TransportUnsupported,
    /// No relay address of the requested family, or no such family.
    FamilyUnsupported,
    /// An attribute's value has the wrong form.
    MalformedAttribute,
    /// Attributes that exclude each other.
    ContradictoryAttributes,
    /// XOR-PEER-ADDRESS is missing.
    PeerMissing,
    /// The peer's family is not the allocation's.
    PeerFamilyMismatch,
    /// The peer may not be reached.
    PeerForbidden(Forbidden),
    /// CHANNEL-NUMBER is missing or out of range.
    ChannelNumberInvalid,
    /// The channel is bound to another peer, or the peer to another channel.
    ChannelConflict,
    /// The server holds as many allocations as it may.
    TooManyAllocations,
    /// The TURN key has as many allocations as it may.
    KeyQuotaReached,
    /// The credential has as many allocations as it may.
    CredentialQuotaReached,
    /// The allocation names new peers faster than it may.
    TooManyNewPeers,
    /// The allocation holds as many permissions as it may.
    TooManyPermissions,
    /// The allocation holds as many channels as it may.
    TooManyChannels,
    /// No relay port is free, or none could be opened.
    NoRelayPort,
    /// As many ports are reserved as may be.
    TooManyReservations,
    /// RESERVATION-TOKEN names no reservation of this credential.
    ReservationUnknown,
    /// Mobility is switched off, or not to be had for such an allocation.
    MobilityForbidden,
    /// MOBILITY-TICKET was not sealed here, or is in Allocate, where it has to be empty.
    TicketInvalid,
    /// The allocation has moved with this ticket already.
    TicketUsed,
    /// A ticket from the 5-tuple that it was made for.
    NotMoved,
    /// This server takes no new allocations: another one does.
    TryAlternate(SocketAddr),
    /// This server takes no new allocations because it is about to end, and knows of no other one.
    Draining,
    /// This server takes no new allocations because it has not heard for long what is denied.
    DenialsStale,
    /// The request is for the other kind of allocation: one that relays TCP, or one that relays UDP.
    OtherProtocol,
    /// The allocation has a connection with the peer, or is making one.
    ConnectionExists,
    /// The connection to the peer failed or took too long.
    ConnectFailed,
    /// The allocation, or the server, has as many connections with peers as it may.
    TooManyConnections,
    /// CONNECTION-ID is missing.
    ConnectionMissing,
    /// CONNECTION-ID names no connection that waits to be bound.
    ConnectionUnknown,
    /// A data connection has to be a stream of its own.
    NoDataConnection,
}

impl Refusal {
    /// The error code it is answered with. RFC 8489 §14.8, RFC 8656 §19.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Unauthenticated
            | Self::UnknownUsername
            | Self::WrongPassword
            | Self::CredentialExpired
            | Self::ExpiryTooFar
            | Self::CredentialDenied
            | Self::KeySuspended => ErrorCode::UNAUTHENTICATED,
            Self::IncompleteCredentials
            | Self::PasswordAlgorithmInvalid
            | Self::ContradictoryAttributes
            | Self::TransportMissing
            | Self::TransportMismatch
            | Self::MalformedAttribute
            | Self::PeerMissing
            | Self::ChannelNumberInvalid
            | Self::ConnectionMissing
            | Self::ConnectionUnknown
            | Self::NoDataConnection
            | Self::ChannelConflict
            | Self::TicketInvalid
            | Self::TicketUsed
            | Self::NotMoved => ErrorCode::BAD_REQUEST,
            Self::MobilityForbidden => ErrorCode::MOBILITY_FORBIDDEN,
            Self::StaleNonce => ErrorCode::STALE_NONCE,
            Self::WrongCredentials => ErrorCode::WRONG_CREDENTIALS,
            Self::UnknownAttributes => ErrorCode::UNKNOWN_ATTRIBUTE,
            Self::ConnectionExists => ErrorCode::CONNECTION_ALREADY_EXISTS,
            Self::ConnectFailed => ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE,
            Self::AllocationExists | Self::NoAllocation | Self::OtherProtocol => {
                ErrorCode::ALLOCATION_MISMATCH
            }
            Self::TransportUnsupported => ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL,
            Self::FamilyUnsupported => ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
            Self::PeerFamilyMismatch => ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH,
            Self::PeerForbidden(_) => ErrorCode::FORBIDDEN,
            Self::KeyQuotaReached | Self::CredentialQuotaReached => ErrorCode::ALLOCATION_QUOTA_REACHED,
            // RFC 8656 §10.2 and §12.2: what a limit keeps from being done is 508; 486 is for Allocate alone.
            Self::TooManyAllocations
            | Self::Draining
            // RFC 8656 §7.4: with 508 a client comes again after a minute or goes elsewhere; 486 would say that its user has too
            // much, 401 that its credential is wrong.
            | Self::DenialsStale
            | Self::TooManyNewPeers
            | Self::TooManyPermissions
            | Self::TooManyChannels
            | Self::TooManyConnections
            | Self::NoRelayPort
            | Self::TooManyReservations
            | Self::ReservationUnknown => ErrorCode::INSUFFICIENT_CAPACITY,
            Self::TryAlternate(_) => ErrorCode::TRY_ALTERNATE,
        }
    }
}

/// What a success response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Binding(Option<Discovered>),
    /// With a ticket, if the allocation is mobile.
    Allocated(Allocated, Option<Sealed>),
    /// With a ticket, if the allocation has moved.
    Refreshed {
        lifetime_secs: u32,
        ticket: Option<Sealed>,
    },
    /// A peer connection is made, and waits to be bound.
    Connected(ConnectionId),
    /// The client's connection carries this peer connection's data from now on.
    Bound(ConnectionId),
    /// No answer yet: the caller has to connect first.
    Connect {
        connection: ConnectionId,
        relay: RelayId,
        peer: SocketAddr,
    },
    /// No answer yet: the same request is being worked on.
    Connecting,
    /// No answer from here: another worker has the allocation.
    HandOver(WorkerId),
    Done,
    /// Another worker has to be asked first.
    Later,
}

/// What the response to an Allocate says; a retransmitted request gets it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// One relayed address, or one of each family.
    pub(crate) relayed: [Option<SocketAddr>; 2],
    pub(crate) lifetime_secs: u32,
    pub(crate) reservation: Option<Token>,
    /// Of two families, the one that could not be had.
    pub(crate) failed: Option<(Family, Refusal)>,
}

/// What a response repeats of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) transaction: TransactionId,
    pub(crate) has_fingerprint: bool,
}

impl Asked {
    pub(crate) fn by(message: &Message<'_>) -> Self {
        Self {
            method: message.method(),
            transaction: message.transaction(),
            has_fingerprint: message.fingerprint() == Fingerprint::Verified,
        }
    }
}

/// What every response to one request needs to know.
pub(crate) struct Response<'r> {
    pub(crate) asked: Asked,
    /// The request, where it is answered at once.
    pub(crate) request: Option<&'r Message<'r>>,
    pub(crate) client: SocketAddr,
    /// Set once the request's integrity is verified: the response is then protected with it.
    pub(crate) key: Option<(IntegrityAlgorithm, &'r LongTermKey)>,
    pub(crate) realm: &'r str,
    /// Where the answer can be a challenge.
    pub(crate) nonce: Option<&'r dyn Fn() -> Nonce>,
    pub(crate) offers_algorithms: bool,
    /// The comprehension-required attributes that the request may have.
    pub(crate) known: fn(AttributeType) -> bool,
    /// The name in the certificate of the server that a 300 names.
    pub(crate) alternate_domain: Option<&'r str>,
}

impl Response<'_> {
    /// Writes the response to `buffer`; its length.
    pub(crate) fn write(
        &self,
        outcome: Result<Answer, Refusal>,
        buffer: &mut [u8],
    ) -> Result<usize, Overflow> {
        let class = if outcome.is_ok() { Class::Success } else { Class::Error };
        let mut writer = MessageWriter::new(buffer, class, self.asked.method, self.asked.transaction);
        match outcome {
            Ok(answer) => self.write_answer(answer, &mut writer),
            Err(refusal) => self.write_refusal(refusal, &mut writer),
        }
        if let Some((algorithm, key)) = self.key {
            // RFC 8489 §9.2.4: responses to an authenticated request carry integrity.
            writer.integrity_by(algorithm, key);
        }
        if self.asked.has_fingerprint {
            // RFC 8489 §7: a client that uses FINGERPRINT needs it to tell the response from other traffic.
            writer.fingerprint();
        }
        writer.finish()
    }

    fn write_answer(&self, answer: Answer, writer: &mut MessageWriter<'_>) {
        match answer {
            Answer::Binding(discovered) => {
                // RFC 8489 §6.3.1.1: the response carries the source address the server saw.
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, self.client);
                if let Some(discovered) = discovered {
                    self.write_discovered(&discovered, writer);
                }
            }
            Answer::Allocated(allocated, ticket) => {
                // RFC 8656 §7.2: XOR-RELAYED-ADDRESS (two of a dual allocation), LIFETIME, XOR-MAPPED-ADDRESS, and
                // RESERVATION-TOKEN where a port was reserved.
                for relayed in allocated.relayed.into_iter().flatten() {
                    writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed);
                }
                writer.attribute_u32(AttributeType::LIFETIME, allocated.lifetime_secs);
                writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, self.client);
                if let Some(token) = allocated.reservation {
                    writer.attribute(AttributeType::RESERVATION_TOKEN, &token);
                }
                if let Some((family, refusal)) = allocated.failed {
                    writer
                        .attribute(AttributeType::ADDRESS_ERROR_CODE, &address_error(family, refusal.code()));
                }
                ticket.map(|ticket| writer.attribute(AttributeType::MOBILITY_TICKET, &ticket));
            }
            Answer::Refreshed { lifetime_secs, ticket } => {
                writer.attribute_u32(AttributeType::LIFETIME, lifetime_secs);
                ticket.map(|ticket| writer.attribute(AttributeType::MOBILITY_TICKET, &ticket));
            }
            Answer::Connected(connection) => {
                // RFC 6062 §5.2: the success response carries CONNECTION-ID.
                writer.attribute_u32(AttributeType::CONNECTION_ID, connection.0);
            }
            Answer::Done
            | Answer::Later
            | Answer::Bound(_)
            | Answer::Connect { .. }
            | Answer::Connecting
            | Answer::HandOver(_) => {}
        }
    }

    fn write_discovered(&self, discovered: &Discovered, writer: &mut MessageWriter<'_>) {
        // RFC 5780 §6.1: MAPPED-ADDRESS beside XOR-MAPPED-ADDRESS, so that a NAT which rewrites addresses shows;
        // RESPONSE-ORIGIN is where the response is sent from. RFC 5780 §7.4: OTHER-ADDRESS where it could be sent from
        // instead, told only by who has a second address. ALTERNATE-SERVER is in error responses alone.
        for (kind, address) in [
            (AttributeType::MAPPED_ADDRESS, self.client),
            (AttributeType::RESPONSE_ORIGIN, discovered.origin),
            (AttributeType::OTHER_ADDRESS, discovered.other),
        ] {
            writer.attribute(kind, address::encode(address).as_bytes());
        }
        if let Some(padding) = discovered.padding.and_then(|length| [0; MAX_PADDING].get(..length)) {
            writer.attribute(AttributeType::PADDING, padding);
        }
    }

    fn write_refusal(&self, refusal: Refusal, writer: &mut MessageWriter<'_>) {
        let code = refusal.code();
        // A spoofed source gets no byte more than it needs; whoever is authenticated gets the reason in words.
        writer.error_code(code, if self.key.is_some() { code.reason() } else { "" });
        if matches!(code, ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE) {
            // RFC 8489 §9.2.4: 401 and 438 carry REALM and a fresh NONCE.
            writer.attribute(AttributeType::REALM, self.realm.as_bytes());
            if let Some(nonce) = self.nonce {
                writer.attribute(AttributeType::NONCE, nonce().as_bytes());
            }
            if self.offers_algorithms {
                // RFC 8489 §9.2.4: a nonce with the password algorithms bit comes with the list of them.
                writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER);
            }
        }
        if let Refusal::TryAlternate(server) = refusal {
            // RFC 8489 §10: 300 carries ALTERNATE-SERVER, of the family that the client uses.
            writer.attribute(AttributeType::ALTERNATE_SERVER, address::encode(server).as_bytes());
            let is_sha256 = self.key.is_some_and(|(algorithm, _)| algorithm == IntegrityAlgorithm::Sha256);
            if let Some(domain) = self.alternate_domain.filter(|_| is_sha256) {
                // RFC 8489 §10: within TLS or DTLS, and with MESSAGE-INTEGRITY-SHA256, ALTERNATE-DOMAIN has the name of
                // the other server's certificate.
                writer.attribute(AttributeType::ALTERNATE_DOMAIN, domain.as_bytes());
            }
        }
        if refusal == Refusal::UnknownAttributes {
            // RFC 8489 §6.3.1: the unknown comprehension-required attributes are listed.
            let mut list = [0; 64];
            let unknown = self.request.into_iter().flat_map(|request| request.unknown_attributes(self.known));
            let length = list
                .chunks_exact_mut(2)
                .zip(unknown)
                .map(|(to, kind)| to.copy_from_slice(&kind.0.to_be_bytes()))
                .count();
            writer.attribute(AttributeType::UNKNOWN_ATTRIBUTES, list.get(..2 * length).unwrap_or_default());
        }
    }
}

/// The value of an ADDRESS-ERROR-CODE attribute without a reason phrase. RFC 8656 §18.12.
fn address_error(family: Family, code: ErrorCode) -> [u8; 4] {
    let family = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    let [class, number] = [code.code() / 100, code.code() % 100].map(|n| u8::try_from(n).unwrap_or_default());
    [family, 0, class, number]
}
