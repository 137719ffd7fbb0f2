//! A TURN server (RFC 8656) as a deterministic state machine: packets, time and commands go in, packets and
//! events come out. It has no socket, clock, thread or source of randomness of its own, so it can be
//! simulated, fuzzed and replayed.
//!
//! There are two lanes. What one packet causes is the return value of [`Server::from_client`] or
//! [`Server::from_peer`]: an [`Action`], with the packet rewritten in place. What time and commands cause is
//! queued, and taken with [`Server::poll_output`].
//!
//! One `Server` belongs to one worker. What workers share, the [`RelayPorts`], is touched only when a relayed
//! address is taken or returned.

#![warn(clippy::iter_over_hash_type)]

mod allocate;
mod allocation;
mod auth;
mod binding;
mod channel;
mod command;
mod config;
mod connection;
mod departed;
mod discovery;
mod five_tuple;
mod icmp;
mod label;
mod mobility;
mod nonce;
mod outcome;
mod own_relays;
mod pace;
mod packet;
mod permission;
mod policy;
mod port;
mod quota;
mod redirect;
mod refresh;
mod reply;
mod reservation;
mod send;
mod server;
mod shared;
mod shared_secrets;
mod sockets;
mod stranger;
mod tcp;
mod ticket;
mod time;
mod usage;
mod verified;

pub use command::{Command, CommandError};
pub use config::{Config, Limits, RelayAddress, WorkerId};
pub use connection::ConnectionId;
pub use discovery::{Discovery, Source};
pub use five_tuple::{Client, FiveTuple, Transport};
pub use icmp::Icmp;
pub use mobility::{Note, Traveller};
pub use nonce::NonceKey;
pub use outcome::{Action, DropReason, EndReason, Output};
pub use packet::{HEADROOM, MAX_REPLY, NoRoom, Packet, TAILROOM};
pub use policy::{Cidr, CidrError, Forbidden, PeerPolicy};
pub use port::{PortRange, PortRangeError, RelayPort, RelayPorts};
pub use quota::{Allowance, Direction, KeyLimits, Quotas, Rate, STREAM_PACKET_BYTES};
pub use redirect::AlternateServer;
pub use reply::{Refusal, Reply};
pub use reservation::{Reservations, ReservedSocket};
pub use server::Server;
pub use shared::Shared;
pub use sockets::{OpenError, RelayId, RelaySockets};
pub use stranger::StrangerLimit;
pub use tcp::ConnectFailed;
pub use time::Time;
pub use usage::{Ending, Report, Session, SessionId, Traffic, Usage};
