//! Counts and rates: who may have one more of what.

use std::collections::BTreeSet;
use std::net::IpAddr;

use credentials::TurnKeyId;
use turn::{Allowance, Client, ConnectionId, Direction, KeyLimits, Rate, RelayId, Time, Transport};

use super::expected::Expected;
use super::{Account, Allocation, Model};

const SECOND_NS: u64 = 1_000_000_000;

/// Something that is paid back over time. Exact for rates that divide a second into whole nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Debt {
    ns: u64,
    since_ms: u64,
}

impl Debt {
    /// This much more, if it is not too much.
    pub(super) fn more(self, now: Time, rate: u64, burst_ns: u64, units: u64) -> Option<Self> {
        let paid_ns = (now.monotonic_ms - self.since_ms) * 1_000_000;
        let left_ns = self.ns.saturating_sub(paid_ns);
        let cost_ns = (units * SECOND_NS).checked_div(rate)?;
        let fits = left_ns + cost_ns.min(burst_ns) <= burst_ns;
        fits.then_some(Self { ns: left_ns + cost_ns, since_ms: now.monotonic_ms })
    }

    /// This much more, too much or not.
    fn charged(self, now: Time, limit: Option<u64>, units: u64) -> Self {
        let Some(cost_ns) = limit.and_then(|rate| (units * SECOND_NS).checked_div(rate)) else { return self };
        let paid_ns = (now.monotonic_ms - self.since_ms) * 1_000_000;
        Self { ns: self.ns.saturating_sub(paid_ns) + cost_ns, since_ms: now.monotonic_ms }
    }

    /// When it is no longer more than what comes in a second, if it is.
    fn excess_until_ms(self, now: Time, limit: Option<u64>) -> Option<u64> {
        let until_ms = match limit? {
            0 => u64::MAX,
            _ => self.since_ms + self.ns.saturating_sub(SECOND_NS).div_ceil(1_000_000),
        };
        (until_ms > now.monotonic_ms).then_some(until_ms)
    }
}

/// What was relayed in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    packets: Debt,
    bits: Debt,
}

impl Used {
    fn charged(self, now: Time, rate: Rate, bytes: usize) -> Self {
        let (packets, bits) = (bytes.div_ceil(1_460) as u64, bytes as u64 * 8);
        Self {
            packets: self.packets.charged(now, rate.packets_per_second, packets),
            bits: self.bits.charged(now, rate.bits_per_second, bits),
        }
    }

    fn excess_until_ms(self, now: Time, rate: Rate) -> Option<u64> {
        let packets = self.packets.excess_until_ms(now, rate.packets_per_second);
        packets.max(self.bits.excess_until_ms(now, rate.bits_per_second))
    }
}

/// What is read of a stream at once: what comes in a tenth of a second.
fn portion(rate: Rate) -> usize {
    let tenth = |limit: Option<u64>, parts: u64| {
        limit.map(|limit| usize::try_from((limit / parts).max(1)).unwrap_or(usize::MAX))
    };
    let of_packets = tenth(rate.packets_per_second, 10).map_or(usize::MAX, |packets| packets * 1_460);
    of_packets.min(tenth(rate.bits_per_second, 80).unwrap_or(usize::MAX))
}

fn more(debt: Debt, now: Time, limit: Option<u64>, units: u64) -> Option<Debt> {
    limit.map_or(Some(debt), |rate| debt.more(now, rate, SECOND_NS, units))
}

/// Which way data goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    ToPeer,
    ToClient,
}

impl Way {
    fn of(self, [to_peers, to_clients]: &[Used; 2]) -> &Used {
        match self {
            Self::ToPeer => to_peers,
            Self::ToClient => to_clients,
        }
    }

    fn of_mut(self, [to_peers, to_clients]: &mut [Used; 2]) -> &mut Used {
        match self {
            Self::ToPeer => to_peers,
            Self::ToClient => to_clients,
        }
    }
}

impl Model {
    /// Limits of one key, or again those of all.
    pub fn limit_key(&mut self, key: TurnKeyId, limits: Option<KeyLimits>) {
        match limits {
            Some(limits) => drop(self.key_limits.insert(key, limits)),
            None => drop(self.key_limits.remove(&key)),
        }
    }

    pub(super) fn limits_of(&self, key: TurnKeyId) -> KeyLimits {
        self.key_limits.get(&key).copied().unwrap_or(self.rules.key_limits)
    }

    fn key_of_user(&self, username: &str) -> Option<TurnKeyId> {
        self.accounts.get(username).map(|account| account.turn_key)
    }

    /// How many allocations, reserved ports among them, these users have.
    fn count(&self, now: Time, is_theirs: impl Fn(&str) -> bool) -> usize {
        // What has run out at another worker counts until that is told the time.
        let counts = |held: &&Allocation| held.is_live(now) || !self.is_here(held);
        let held = self.allocations.iter().filter(counts).filter(|held| is_theirs(&held.username));
        held.count() + self.reservations.values().filter(|held| is_theirs(&held.username)).count()
    }

    /// Whether this user may have so many allocations more.
    pub(super) fn has_quota(&self, now: Time, account: &Account, more: usize) -> bool {
        let limits = self.limits_of(account.turn_key);
        let fits =
            |count: usize, limit: Option<u32>| limit.is_none_or(|limit| count + more <= limit as usize);
        let of_key = self.count(now, |username| self.key_of_user(username) == Some(account.turn_key));
        fits(of_key, limits.allocations)
            && fits(self.count(now, |name| name == account.username), limits.allocations_per_credential)
    }

    /// The allocation's new peers, if it may name them.
    pub(super) fn new_peers(
        now: Time,
        limits: &KeyLimits,
        held: &Allocation,
        peers: impl IntoIterator<Item = IpAddr>,
    ) -> Option<Debt> {
        let new: BTreeSet<IpAddr> = peers.into_iter().filter(|peer| !held.permits(*peer, now)).collect();
        match limits.new_peers_per_second {
            Some(rate) if !new.is_empty() => {
                let more = || held.new_peers.more(now, rate.into(), SECOND_NS, new.len() as u64);
                (new.len() <= rate as usize).then(more).flatten()
            }
            _ => Some(held.new_peers),
        }
    }

    /// Counts data; whether it may pass.
    pub(super) fn pass(&mut self, now: Time, relay: RelayId, way: Way, bytes: usize) -> bool {
        let Some(place) = self.allocations.iter().position(|held| held.has(relay)) else { return false };
        let Some(held) = self.allocations.get(place) else { return false };
        let Some(key) = self.key_of_user(&held.username) else { return false };
        let KeyLimits { allocation_rate: own, key_rate: shared, .. } = self.limits_of(key);
        let bits = bytes as u64 * 8;
        let take = |used: Used, rate: Rate| {
            let packets = more(used.packets, now, rate.packets_per_second, 1);
            (packets, more(used.bits, now, rate.bits_per_second, bits))
        };
        let (Some(packets), Some(own_bits)) = take(*way.of(&held.used), own) else { return false };
        let of_key = way.of_mut(self.key_used.entry(key).or_default());
        match take(*of_key, shared) {
            (Some(packets), Some(bits)) => *of_key = Used { packets, bits },
            // Bits are asked for first, and not given back.
            (None, Some(bits)) => {
                of_key.bits = bits;
                return false;
            }
            (_, None) => return false,
        }
        if let Some(held) = self.allocations.get_mut(place) {
            *way.of_mut(&mut held.used) = Used { packets, bits: own_bits };
        }
        true
    }

    /// So many bytes were read of a data connection: how much may be read next.
    pub fn streamed(
        &mut self,
        now: Time,
        connection: ConnectionId,
        direction: Direction,
        bytes: usize,
    ) -> Allowance {
        let never = Allowance::Until(u64::MAX);
        let way = match direction {
            Direction::ToPeer => Way::ToPeer,
            Direction::ToClient => Way::ToClient,
        };
        let Some(relay) = self.bound_to(connection) else { return never };
        let held = self.allocations.iter().position(|held| held.has(relay) && held.is_live(now));
        let Some(held) = held.and_then(|place| self.allocations.get_mut(place)) else { return never };
        let Some(account) = self.accounts.get(&held.username) else { return never };
        let limits = self.key_limits.get(&account.turn_key).copied().unwrap_or(self.rules.key_limits);
        let own = way.of_mut(&mut held.used);
        *own = own.charged(now, limits.allocation_rate, bytes);
        let of_key = way.of_mut(self.key_used.entry(account.turn_key).or_default());
        *of_key = of_key.charged(now, limits.key_rate, bytes);
        let own_until_ms = own.excess_until_ms(now, limits.allocation_rate);
        match own_until_ms.max(of_key.excess_until_ms(now, limits.key_rate)) {
            Some(until_ms) => Allowance::Until(until_ms),
            None => Allowance::Bytes(portion(limits.allocation_rate).min(portion(limits.key_rate))),
        }
    }

    /// Whether an answer goes to someone who has not authenticated, and is counted for its prefix.
    fn stranger(&self, client: Client, expected: &Expected) -> Option<Vec<u8>> {
        let is_stale = matches!(expected, Expected::Refused { codes, .. } if codes.contains(&438));
        let counted = match expected {
            Expected::Mapped { .. } | Expected::SilenceOrChallenge => true,
            // Who signs, with an old nonce, for an allocation that he has.
            Expected::Refused { proof: None, .. } => !(is_stale && self.holds(client)),
            _ => false,
        };
        let prefix = match client.five_tuple.client.ip() {
            IpAddr::V4(ip) => ip.octets().get(..3).map(<[u8]>::to_vec),
            IpAddr::V6(ip) => ip.octets().get(..7).map(<[u8]>::to_vec),
        };
        // Who signs is counted apart.
        let prefix = prefix.map(|prefix| [&[u8::from(is_stale)], &prefix[..]].concat());
        prefix.filter(|_| counted && client.five_tuple.transport == Transport::Udp)
    }

    fn stranger_debt(&self, now: Time, prefix: &[u8]) -> Option<Debt> {
        let debt = self.strangers.get(prefix).copied().unwrap_or_default();
        let Some(limit) = self.rules.stranger_limit else { return Some(debt) };
        let (rate, burst) = (u64::from(limit.answers_per_second), u64::from(limit.burst));
        debt.more(now, rate, burst * SECOND_NS / rate, 1)
    }

    /// What is expected, or silence if that is an answer too many.
    pub(super) fn answer_to_stranger(&self, now: Time, client: Client, expected: Expected) -> Expected {
        match self.stranger(client, &expected) {
            Some(prefix) if self.stranger_debt(now, &prefix).is_none() => Expected::Silence,
            _ => expected,
        }
    }

    /// There was an answer.
    pub(super) fn answered(&mut self, now: Time, client: Client, expected: &Expected) {
        if let Some(prefix) = self.stranger(client, expected)
            && let Some(debt) = self.stranger_debt(now, &prefix)
        {
            self.strangers.insert(prefix, debt);
        }
    }
}
