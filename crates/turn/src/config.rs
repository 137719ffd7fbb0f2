use std::net::IpAddr;

use crate::{Discovery, KeyLimits, PeerPolicy, StrangerLimit};

/// Which of a process's workers a server belongs to. It is part of what names an allocation or a connection to
/// clients, so that what arrives at another worker finds its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerId(pub u16);

/// What a server is told when it is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker that runs this server; no two servers that share anything have the same.
    pub worker: WorkerId,
    /// How many workers the process has, numbered from 0: what names a connection of another one is nobody's.
    pub workers: u16,
    /// REALM: ASCII, 1 to 127 characters. It is in every 401, so a short one keeps reflection small.
    pub realm: String,
    /// Where relayed addresses are made: the first of a family serves all requests for it.
    pub relay_addresses: Vec<RelayAddress>,
    /// Where NAT behaviour discovery is offered, at most one of a family; nowhere, and a Binding is answered as
    /// shortly as can be. RFC 5780 §6.
    pub discovery: Vec<Discovery>,
    /// Which peers may be reached.
    pub policy: PeerPolicy,
    /// LIFETIME when the client asks for none or less, in seconds. RFC 8656 §7.2: 600.
    pub default_lifetime_secs: u32,
    /// The longest LIFETIME granted, in seconds. RFC 8656 §7.2: 3600.
    pub max_lifetime_secs: u32,
    /// How long a permission lasts, in seconds. RFC 8656 §9: 300.
    pub permission_lifetime_secs: u32,
    /// How long a channel lasts, in seconds. RFC 8656 §12: 600.
    pub channel_lifetime_secs: u32,
    /// How old a nonce may be, in seconds. RFC 8489 §9.2.
    pub nonce_lifetime_secs: u32,
    /// How far ahead the expiry of a time-limited username may lie, in seconds: whoever holds a shared secret chooses
    /// it. Seven days.
    pub username_lifetime_secs: u32,
    /// Whether a 401 offers SHA-256 keys (PASSWORD-ALGORITHMS, RFC 8489 §9.2). It makes the 401 longer, and so what
    /// a spoofed source can have reflected.
    pub offer_password_algorithms: bool,
    /// Whether channel numbers above 0x4FFF are refused, as RFC 8656 §12 has it, or accepted up to 0x7FFF for clients
    /// that follow RFC 5766.
    pub strict_channels: bool,
    /// What each TURN key may use, unless [`Command::KeyLimits`](crate::Command::KeyLimits) says otherwise.
    pub key_limits: KeyLimits,
    /// How many answers senders get that have not authenticated; `None`: any number.
    pub stranger_limit: Option<StrangerLimit>,
    /// Whether clients may take their allocations along to another address (RFC 8016), or are refused with 405.
    pub mobility: bool,
    /// Whether clients get relays of TCP connections (RFC 6062), or are refused with 442.
    pub tcp_relay: bool,
    /// The bounds of every table.
    pub limits: Limits,
}

/// The bounds of a server's tables: each holds for one worker's server, where it does not say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Allocations that live at once; one more is refused with 508.
    pub allocations: usize,
    /// Permissions of one allocation; one more is refused with 508.
    pub permissions: usize,
    /// Channels of one allocation; one more is refused with 508.
    pub channels: usize,
    /// Ports reserved by EVEN-PORT in 30 seconds, by all workers together; one more is refused with 508.
    pub reservations: usize,
    /// Connections with the peers of one TCP allocation, those that are being made included; one more is refused with
    /// 508, and closed at once where the peer made it. RFC 6062.
    pub connections: usize,
    /// The same of all allocations together.
    pub all_connections: usize,
    /// Denials remembered.
    pub denials: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 65_536,
            permissions: 128,
            channels: 128,
            connections: 16,
            all_connections: 16_384,
            reservations: 4_096,
            denials: 4_000_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            worker: WorkerId::default(),
            workers: 256,
            realm: "turnery".to_owned(),
            relay_addresses: Vec::new(),
            discovery: Vec::new(),
            policy: PeerPolicy::default(),
            default_lifetime_secs: 600,
            max_lifetime_secs: 3_600,
            permission_lifetime_secs: 300,
            channel_lifetime_secs: 600,
            nonce_lifetime_secs: 3_600,
            username_lifetime_secs: 604_800,
            offer_password_algorithms: false,
            strict_channels: true,
            key_limits: KeyLimits::default(),
            stranger_limit: Some(StrangerLimit::default()),
            mobility: true,
            tcp_relay: true,
            limits: Limits::default(),
        }
    }
}

/// An address that peers see and the local one it stands for: the same, unless a NAT maps one to one.
/// RFC 8656 §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// Told to clients in XOR-RELAYED-ADDRESS.
    pub public: IpAddr,
    /// What relay sockets are bound to; of the same family.
    pub local: IpAddr,
}
