//! Requests that wait for their answer. RFC 8489 §6.2.

use stun::{IntegrityAlgorithm, LongTermKey};
use turn::Transport;

use super::Wish;

/// The first retransmission timeout, in milliseconds; it doubles with every transmission. RFC 8489 §6.2.1.
pub const RTO_MS: u64 = 500;
/// How many times a request is sent over UDP in all: Rc. RFC 8489 §6.2.1.
pub const TRANSMISSIONS: u32 = 7;
/// How long is waited after the last transmission, in units of the first timeout: Rm. RFC 8489 §6.2.1.
const LAST_WAIT: u64 = 16;
/// How long an answer may take over a reliable transport, in milliseconds: Ti. RFC 8489 §6.2.2.
pub const RELIABLE_TIMEOUT_MS: u64 = 39_500;

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) wish: Wish,
    pub(super) packet: Vec<u8>,
    /// What the request was signed with, and its response must be.
    pub(super) key: Option<(IntegrityAlgorithm, LongTermKey)>,
    /// How many 438 this wish has met.
    pub(super) stale_nonces: u32,
    /// When to send again or give up.
    pub(super) next_ms: u64,
    sent: u32,
    reliable: bool,
}

impl Pending {
    pub(super) fn new(
        now_ms: u64,
        transport: Transport,
        wish: Wish,
        packet: Vec<u8>,
        key: Option<(IntegrityAlgorithm, LongTermKey)>,
        stale_nonces: u32,
    ) -> Self {
        let reliable = transport.is_stream();
        let next_ms = now_ms + if reliable { RELIABLE_TIMEOUT_MS } else { RTO_MS };
        Self { wish, packet, key, stale_nonces, next_ms, sent: 1, reliable }
    }

    /// Whether the request, now due, is to be sent once more; else it has failed.
    pub(super) fn retransmit(&mut self, now_ms: u64) -> bool {
        if self.reliable || self.sent >= TRANSMISSIONS {
            return false;
        }
        self.sent += 1;
        let wait = if self.sent == TRANSMISSIONS { LAST_WAIT } else { 1 << (self.sent - 1) };
        self.next_ms = now_ms + RTO_MS * wait;
        true
    }
}
