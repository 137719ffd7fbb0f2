//! The names under which reasons are counted: one for each variant, whatever it carries, so that metrics stay few.

use crate::{DropReason, EndReason, Refusal, Transport};

/// Gives an enum's variants their names, and each a place in a table of counters.
macro_rules! labels {
    ($type:ident: $($variant:ident => $label:literal,)*) => {
        impl $type {
            /// The names of all, each at its [`Self::index`].
            pub const LABELS: &'static [&'static str] = &[$($label),*];

            /// The name under which it is counted: lower case, words joined by `_`.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $label,)*
                }
            }

            /// Its place in [`Self::LABELS`].
            pub fn index(self) -> usize {
                enum Place {
                    $($variant,)*
                }
                match self {
                    $(Self::$variant { .. } => Place::$variant as usize,)*
                }
            }
        }
    };
}

labels! { Transport:
    Udp => "udp",
    Tcp => "tcp",
    Tls => "tls",
    Dtls => "dtls",
}

labels! { DropReason:
    NotStun => "not_stun",
    MalformedStun => "malformed_stun",
    WrongFingerprint => "wrong_fingerprint",
    UnexpectedClass => "unexpected_class",
    UnknownMethod => "unknown_method",
    Unauthenticated => "unauthenticated",
    TooManyTrials => "too_many_trials",
    TooLongToTry => "too_long_to_try",
    NoAllocation => "no_allocation",
    MalformedChannelData => "malformed_channel_data",
    NoChannel => "no_channel",
    NoPermission => "no_permission",
    PeerForbidden => "peer_forbidden",
    MissingAttribute => "missing_attribute",
    UnknownAttribute => "unknown_attribute",
    StrangerRateExceeded => "stranger_rate_exceeded",
    AllocationRateExceeded => "allocation_rate_exceeded",
    KeyRateExceeded => "key_rate_exceeded",
    ClientAway => "client_away",
    IcmpNotRelayed => "icmp_not_relayed",
    TooManyErrors => "too_many_errors",
    NoRoom => "no_room",
    Connecting => "connecting",
    TooManyConnections => "too_many_connections",
}

labels! { EndReason:
    Deleted => "deleted",
    Expired => "expired",
    Denied => "denied",
    ClientGone => "client_gone",
    TimedOut => "timed_out",
    PeerForbidden => "peer_forbidden",
    Terminated => "terminated",
    Stopped => "stopped",
    Lost => "lost",
}

labels! { Refusal:
    Unauthenticated => "unauthenticated",
    IncompleteCredentials => "incomplete_credentials",
    PasswordAlgorithmInvalid => "password_algorithm_invalid",
    StaleNonce => "stale_nonce",
    UnknownUsername => "unknown_username",
    WrongPassword => "wrong_password",
    CredentialExpired => "credential_expired",
    ExpiryTooFar => "expiry_too_far",
    CredentialDenied => "credential_denied",
    KeySuspended => "key_suspended",
    WrongCredentials => "wrong_credentials",
    UnknownAttributes => "unknown_attributes",
    AllocationExists => "allocation_exists",
    NoAllocation => "no_allocation",
    TransportMissing => "transport_missing",
    TransportMismatch => "transport_mismatch",
    TransportUnsupported => "transport_unsupported",
    FamilyUnsupported => "family_unsupported",
    MalformedAttribute => "malformed_attribute",
    ContradictoryAttributes => "contradictory_attributes",
    PeerMissing => "peer_missing",
    PeerFamilyMismatch => "peer_family_mismatch",
    PeerForbidden => "peer_forbidden",
    ChannelNumberInvalid => "channel_number_invalid",
    ChannelConflict => "channel_conflict",
    TooManyAllocations => "too_many_allocations",
    KeyQuotaReached => "key_quota_reached",
    CredentialQuotaReached => "credential_quota_reached",
    TooManyNewPeers => "too_many_new_peers",
    TooManyPermissions => "too_many_permissions",
    TooManyChannels => "too_many_channels",
    NoRelayPort => "no_relay_port",
    TooManyReservations => "too_many_reservations",
    ReservationUnknown => "reservation_unknown",
    MobilityForbidden => "mobility_forbidden",
    TicketInvalid => "ticket_invalid",
    TicketUsed => "ticket_used",
    NotMoved => "not_moved",
    TryAlternate => "try_alternate",
    Draining => "draining",
    DenialsStale => "denials_stale",
    OtherProtocol => "other_protocol",
    ConnectionExists => "connection_exists",
    ConnectFailed => "connect_failed",
    TooManyConnections => "too_many_connections",
    ConnectionMissing => "connection_missing",
    ConnectionUnknown => "connection_unknown",
    NoDataConnection => "no_data_connection",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_at_its_place() {
        for labels in [Transport::LABELS, DropReason::LABELS, EndReason::LABELS, Refusal::LABELS] {
            let distinct: BTreeSet<_> = labels.iter().collect();
            assert_eq!(distinct.len(), labels.len());
            let is_plain = |label: &&str| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(labels.iter().all(is_plain), "{labels:?}");
        }
        for reason in [DropReason::NotStun, DropReason::NoPermission, DropReason::TooManyConnections] {
            assert_eq!(DropReason::LABELS[reason.index()], reason.label());
        }
        assert_eq!(Refusal::LABELS[Refusal::NoDataConnection.index()], "no_data_connection");
        assert_eq!(DropReason::MalformedStun(stun::ParseError::Cut).label(), "malformed_stun");
    }
}
