//! What an observer knows of limits: how much may be had, and be relayed, while time stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use credentials::TurnKeyId;
use stun::{AttributeType, Message};
use turn::{KeyLimits, Rate, StrangerLimit, Time};

use super::accounts::Account;
use super::observer::{Held, Observer};
use super::world::{MAX_CHANNELS, MAX_PERMISSIONS};

/// Few enough answers to be met.
pub(super) const FEW_ANSWERS: StrangerLimit = StrangerLimit {
    answers_per_second: 1,
    burst: 4,
    ipv4_prefix: 24,
    ipv6_prefix: 56,
    includes_loopback: false,
};

/// What limits a key may be given.
pub(super) const LIMITS: [Option<KeyLimits>; 4] = [
    None,
    Some(KeyLimits {
        allocations: Some(2),
        allocations_per_credential: Some(1),
        new_peers_per_second: None,
        permissions: None,
        channels: None,
        allocation_rate: Rate { packets_per_second: Some(2), bits_per_second: None },
        key_rate: Rate { packets_per_second: Some(3), bits_per_second: None },
    }),
    Some(KeyLimits {
        allocations: None,
        allocations_per_credential: None,
        new_peers_per_second: Some(1),
        permissions: Some(2),
        channels: Some(1),
        allocation_rate: Rate { packets_per_second: None, bits_per_second: Some(1_000) },
        key_rate: Rate { packets_per_second: None, bits_per_second: None },
    }),
    Some(KeyLimits {
        allocations: Some(0),
        allocations_per_credential: None,
        new_peers_per_second: Some(0),
        permissions: None,
        channels: None,
        allocation_rate: Rate { packets_per_second: Some(0), bits_per_second: None },
        key_rate: Rate { packets_per_second: None, bits_per_second: None },
    }),
];

/// Which way data goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    ToPeer,
    ToClient,
}

/// The limits of all keys that a worker has been told, and when.
#[derive(Debug, Default)]
pub(super) struct Limited(BTreeMap<TurnKeyId, (KeyLimits, u64)>);

/// The limits of a key, and whether they have been others in this moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Current {
    limits: KeyLimits,
    is_new: bool,
}

impl Limited {
    pub(super) fn set(&mut self, key: TurnKeyId, limits: Option<KeyLimits>, now: Time) {
        self.0.insert(key, (limits.unwrap_or_default(), now.monotonic_ms));
    }

    /// A key that is denied has no limits.
    pub(super) fn forget(&mut self, key: TurnKeyId) {
        self.0.remove(&key);
    }

    pub(super) fn of(&self, key: TurnKeyId, now: Time) -> Current {
        let limits = self.0.get(&key);
        limits
            .map(|(limits, at_ms)| Current { limits: *limits, is_new: *at_ms == now.monotonic_ms })
            .unwrap_or_default()
    }
}

/// What an allocation has had in this moment.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    at_ms: u64,
    /// It was somewhere else in this moment.
    is_new: bool,
    to_peers: Used,
    to_clients: Used,
    new_peers: u64,
}

#[derive(Debug, Default)]
struct Used {
    packets: u64,
    bits: u64,
}

impl Relayed {
    pub(super) fn begin_anew(&mut self, now: Time) {
        *self = Self { at_ms: now.monotonic_ms, is_new: true, ..Self::default() };
    }

    fn at(&mut self, now: Time) -> &mut Self {
        if self.at_ms != now.monotonic_ms {
            *self = Self { at_ms: now.monotonic_ms, ..Self::default() };
        }
        self
    }
}

impl Observer {
    /// A datagram was relayed.
    pub(super) fn count(
        &mut self,
        now: Time,
        worker: usize,
        relay: SocketAddr,
        direction: Direction,
        bytes: usize,
    ) {
        let Some((key, number)) = self.held.get(&relay).map(|held| (held.account.turn_key, held.number))
        else {
            return;
        };
        let Current { limits, is_new } = self.known(worker).limits.of(key, now);
        let bits = 8 * bytes as u64;
        // An allocation with two sockets counts for itself on the first of them.
        let Some(held) = self.held.values_mut().find(|held| held.number == number) else { return };
        let relayed = held.relayed.at(now);
        if is_new {
            // What was used counts in some way.
            relayed.is_new = true;
        }
        let is_new = relayed.is_new;
        let used = match direction {
            Direction::ToPeer => &mut relayed.to_peers,
            Direction::ToClient => &mut relayed.to_clients,
        };
        let Rate { packets_per_second, bits_per_second } = limits.allocation_rate;
        let has_packet = packets_per_second.is_none_or(|most| used.packets < most);
        // What is more than a second's bits takes all of them.
        let has_bits = bits_per_second.is_none_or(|most| used.bits + bits.min(most) <= most + 1);
        assert!(is_new || (has_packet && has_bits), "{used:?} and {bits} more of {limits:?}");
        used.packets += 1;
        used.bits += bits;
    }

    /// An allocation was made.
    pub(super) fn check_quota(&mut self, worker: usize, request: &Message<'_>, account: &Account) {
        // Whoever has a reservation has its place, too.
        if request.attribute(AttributeType::RESERVATION_TOKEN).is_some() {
            return;
        }
        let limits = self.known(worker).limits.0.get(&account.turn_key).map(|(limits, _)| *limits);
        let limits = limits.unwrap_or_default();
        let count = |is_theirs: &dyn Fn(&Account) -> bool| {
            let theirs = self.held.values().filter(|held| is_theirs(&held.account));
            theirs.map(|held| held.number).collect::<BTreeSet<u64>>().len()
        };
        let of_key = count(&|held| held.turn_key == account.turn_key);
        let of_credential = count(&|held| held.id == account.id);
        let fits = |limit: Option<u32>, count: usize| limit.is_none_or(|limit| count <= limit as usize);
        assert!(fits(limits.allocations, of_key), "{of_key} allocations of a key");
        assert!(fits(limits.allocations_per_credential, of_credential), "{of_credential} of a credential");
    }
}

impl Held {
    /// These peers may get permissions.
    pub(super) fn check_room(&mut self, now: Time, peers: impl Iterator<Item = IpAddr>, current: Current) {
        let Current { limits, is_new } = current;
        let new: BTreeSet<IpAddr> = peers.filter(|peer| !self.permits(*peer, now)).collect();
        let live = self.permissions.values().filter(|until| now.monotonic_ms < **until).count();
        let most = limits.permissions.map_or(MAX_PERMISSIONS, |most| MAX_PERMISSIONS.min(most as usize));
        let fits = new.is_empty() || live + new.len() <= most;
        assert!(fits || self.is_vague, "{live} permissions and {new:?}");
        let is_vague = self.is_vague;
        let relayed = self.relayed.at(now);
        relayed.is_new |= is_new;
        let (count, before) = (new.len() as u64, relayed.new_peers);
        let fits = |most: u32| before + count <= most.into();
        let paced = limits.new_peers_per_second.is_none_or(fits);
        relayed.new_peers += count;
        assert!(paced || new.is_empty() || relayed.is_new || is_vague, "{new:?} are too many new peers");
    }

    /// A channel was bound that was not before.
    pub(super) fn check_channels(&self, now: Time, current: Current) {
        let live = self.channels.values().filter(|(_, until)| now.monotonic_ms < *until).count();
        let most = current.limits.channels.map_or(MAX_CHANNELS, |most| MAX_CHANNELS.min(most as usize));
        assert!(live <= most || self.is_vague, "{live} channels");
    }
}

/// How many answers each prefix had in this moment that has not authenticated.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Whether they are few.
    is_limited: bool,
    at_ms: u64,
    answers: BTreeMap<(IpAddr, bool), u32>,
}

impl Strangers {
    pub(super) fn new(is_limited: bool) -> Self {
        Self { is_limited, ..Self::default() }
    }

    pub(super) fn answered(&mut self, now: Time, client: IpAddr, is_signed: bool) {
        if self.at_ms != now.monotonic_ms {
            self.answers.clear();
            self.at_ms = now.monotonic_ms;
        }
        let prefix = match client {
            IpAddr::V4(ip) => (ip.to_bits() & 0xFFFF_FF00).to_be_bytes().into(),
            IpAddr::V6(_) => client,
        };
        let answers = self.answers.entry((prefix, is_signed)).or_default();
        *answers += 1;
        // Each prefix has two buckets and needs only one of them.
        assert!(!self.is_limited || *answers <= 2 * FEW_ANSWERS.burst, "{answers} answers to {prefix}");
    }
}
