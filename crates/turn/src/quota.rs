//! What a TURN key and each of its allocations may use at most. RFC 8656 §7.2, step 10, leaves it to the server.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use credentials::{CredentialId, TurnKeyId};

use crate::pace::Pace;
use crate::{DropReason, Limits, Refusal};

/// The limits of one TURN key. `None`, the default of each, is no limit. RFC 8656 §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyLimits {
    /// Allocations of the key that live at once, on all workers; one more is refused with 486. A port reserved for a second
    /// allocation counts as one.
    pub allocations: Option<u32>,
    /// Allocations of one credential that live at once, on all workers, counted alike; one more is refused with 486.
    pub allocations_per_credential: Option<u32>,
    /// New peer addresses of one allocation in a second, and at once: those a CreatePermission, ChannelBind or Connect
    /// names that have no permission. More are refused with 508, the whole request.
    pub new_peers_per_second: Option<u32>,
    /// Permissions of one allocation; [`Limits::permissions`](crate::Limits) holds beside it.
    pub permissions: Option<u32>,
    /// Channels of one allocation; [`Limits::channels`](crate::Limits) holds beside it.
    pub channels: Option<u32>,
    /// What one allocation may relay.
    pub allocation_rate: Rate,
    /// What all allocations of the key may relay together, on all workers.
    pub key_rate: Rate,
}

/// How much may be relayed in a second, in each of the two directions for itself. Of datagrams more is dropped; a
/// stream is read no faster. What comes in one second may come at once. `None`, the default of both, is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Datagrams a second; of a stream, for each that is read at once, so many times [`STREAM_PACKET_BYTES`] bytes,
    /// rounded up.
    pub packets_per_second: Option<u64>,
    /// Bits of application data a second, without headers.
    pub bits_per_second: Option<u64>,
}

/// Bytes of a stream that count as one packet, as many as a segment mostly holds; fewer, read at once, count as one,
/// too.
pub const STREAM_PACKET_BYTES: usize = 1_460;

impl Rate {
    fn is_limited(self) -> bool {
        self != Self::default()
    }

    /// How many bytes of a stream are read at once: what comes in a tenth of a second, so that it flows evenly and
    /// never owes much, but at least a byte or packet.
    fn portion(self) -> usize {
        let bytes = |limit: Option<u64>, in_a_tenth: u64, of_each: usize| {
            let tenth = limit.map(|limit| usize::try_from(limit / in_a_tenth).unwrap_or(usize::MAX));
            tenth.map_or(usize::MAX, |tenth| tenth.max(1).saturating_mul(of_each))
        };
        let of_packets = bytes(self.packets_per_second, 10, STREAM_PACKET_BYTES);
        of_packets.min(bytes(self.bits_per_second, 80, 1))
    }
}

/// How much may be read next from one side of a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// At most so many bytes, and at least one; `usize::MAX` where nothing is limited.
    Bytes(usize),
    /// Nothing before this moment, in monotonic milliseconds, unless limits change; `u64::MAX`: never.
    Until(u64),
}

/// What bounds the permissions and channels of one allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocationLimits {
    pub(crate) permissions: usize,
    pub(crate) channels: usize,
    pub(crate) new_peers: Option<Pace>,
}

impl AllocationLimits {
    pub(crate) fn new(of_key: &KeyLimits, of_all: &Limits) -> Self {
        let least = |limit: Option<u32>, most: usize| limit.map_or(most, |limit| most.min(limit as usize));
        Self {
            permissions: least(of_key.permissions, of_all.permissions),
            channels: least(of_key.channels, of_all.channels),
            new_peers: of_key.new_peers_per_second.map(|rate| Pace::per_second(rate.into())),
        }
    }
}

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the client.
    ToPeer,
    /// From a peer.
    ToClient,
}

/// How many allocations each key and credential have, over all workers. Touched when an allocation begins or ends, never
/// for a packet; as large as there are allocations, and 65,536 keys whose rate is not regained yet. RFC 8656 §7.2.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    keys: BTreeMap<TurnKeyId, (u32, Arc<KeyBuckets>)>,
    credentials: BTreeMap<CredentialId, u32>,
    /// Keys without allocations whose buckets are not full, by when they will be, in monotonic milliseconds: with its
    /// buckets a key would lose what it has used, and have a new burst with each allocation that it makes anew.
    resting: BTreeSet<(u64, TurnKeyId)>,
}

/// Resting keys remembered; of more than that, the next that would be full is forgotten.
const MAX_RESTING: usize = 65_536;

impl Counts {
    /// Lets go of the resting keys whose buckets are full.
    fn forget_full(&mut self, now_ms: u64) {
        while self.resting.first().is_some_and(|(full_ms, _)| *full_ms <= now_ms) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.resting.pop_first()
            && self.keys.get(&key).is_some_and(|(count, _)| *count == 0)
        {
            self.keys.remove(&key);
        }
    }

    /// The key has no allocation any more. Nobody takes from its buckets now.
    fn rest(&mut self, key: TurnKeyId, full_ms: u64) {
        if full_ms == 0 {
            self.keys.remove(&key);
            return;
        }
        self.resting.insert((full_ms, key));
        while self.resting.len() > MAX_RESTING {
            self.forget_first();
        }
    }
}

/// The buckets of [`KeyLimits::key_rate`]; touched for a packet only where such a limit is set.
#[derive(Debug, Default)]
pub(crate) struct KeyBuckets {
    to_peers: SharedBuckets,
    to_clients: SharedBuckets,
}

impl KeyBuckets {
    /// When all are full, in monotonic milliseconds; zero when none was used.
    fn full_at_ms(&self) -> u64 {
        let both = [&self.to_peers, &self.to_clients];
        let all = both.into_iter().flat_map(|buckets| [&buckets.packets, &buckets.bits]);
        all.map(|bucket| Pace::is_full_at_ms(bucket.load(Ordering::Relaxed))).max().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct SharedBuckets {
    packets: AtomicU64,
    bits: AtomicU64,
}

/// One allocation's place in the counts: given back when this is dropped, so it cannot leak and is never returned
/// twice. It is a part of the allocation and goes where that goes.
#[derive(Debug)]
pub(crate) struct Quota {
    quotas: Arc<Quotas>,
    turn_key: TurnKeyId,
    credential: CredentialId,
    buckets: Arc<KeyBuckets>,
}

impl Quotas {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing between two changes of the counts can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many allocations all keys have.
    pub fn held(&self) -> usize {
        self.counts().keys.values().map(|(count, _)| *count as usize).sum()
    }

    /// How many allocations all credentials have: as many.
    pub fn held_by_credentials(&self) -> usize {
        self.counts().credentials.values().map(|count| *count as usize).sum()
    }

    /// How many allocations this key has.
    pub fn held_by(&self, key: TurnKeyId) -> usize {
        self.counts().keys.get(&key).map_or(0, |(count, _)| *count as usize)
    }

    /// Lets go of keys without allocations whose rate is regained.
    pub(crate) fn forget_full(&self, now_ms: u64) {
        self.counts().forget_full(now_ms);
    }

    /// How many keys are known, those included that have no allocation and wait for their rate.
    pub fn keys_known(&self) -> usize {
        self.counts().keys.len()
    }

    /// Counts one more allocation, if the limits leave room for it.
    pub(crate) fn take(
        self: &Arc<Self>,
        now_ms: u64,
        limits: &KeyLimits,
        turn_key: TurnKeyId,
        credential: CredentialId,
    ) -> Result<Quota, Refusal> {
        let is_full = |count: u32, limit: Option<u32>| count >= limit.unwrap_or(u32::MAX);
        let mut counts = self.counts();
        counts.forget_full(now_ms);
        let of_key = counts.keys.get(&turn_key).map_or(0, |(count, _)| *count);
        let of_credential = counts.credentials.get(&credential).copied().unwrap_or(0);
        // RFC 8656 §7.2: whoever is at the quota is refused with 486; it goes by the username, not by the address.
        if is_full(of_key, limits.allocations) {
            return Err(Refusal::KeyQuotaReached);
        }
        if is_full(of_credential, limits.allocations_per_credential) {
            return Err(Refusal::CredentialQuotaReached);
        }
        counts.credentials.insert(credential, of_credential + 1);
        let (count, buckets) = counts.keys.entry(turn_key).or_default();
        *count += 1;
        let buckets = Arc::clone(buckets);
        if of_key == 0 {
            counts.resting.remove(&(buckets.full_at_ms(), turn_key));
        }
        drop(counts);
        Ok(Quota { quotas: Arc::clone(self), turn_key, credential, buckets })
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let mut counts = self.quotas.counts();
        let mut was_counted = false;
        if let Entry::Occupied(mut entry) = counts.keys.entry(self.turn_key) {
            entry.get_mut().0 -= 1;
            was_counted = true;
            if entry.get().0 == 0 {
                let full_ms = self.buckets.full_at_ms();
                counts.rest(self.turn_key, full_ms);
            }
        }
        if let Entry::Occupied(mut entry) = counts.credentials.entry(self.credential) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        drop(counts);
        assert!(was_counted, "an allocation that is held is counted");
    }
}

/// One allocation's rates: only an allocation that has a limit has a meter.
#[derive(Debug)]
pub(crate) struct Meter {
    rate: Rate,
    key_rate: Rate,
    to_peers: Buckets,
    to_clients: Buckets,
    key: Arc<KeyBuckets>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Buckets {
    packets: u64,
    bits: u64,
}

impl Meter {
    /// A meter, if the limits make one needed.
    pub(crate) fn new(limits: &KeyLimits, quota: &Quota) -> Option<Box<Self>> {
        let KeyLimits { allocation_rate: rate, key_rate, .. } = *limits;
        (rate.is_limited() || key_rate.is_limited()).then(|| {
            let (to_peers, to_clients) = (Buckets::default(), Buckets::default());
            Box::new(Self { rate, key_rate, to_peers, to_clients, key: Arc::clone(&quota.buckets) })
        })
    }

    /// Other limits from now on; what was used counts.
    pub(crate) fn limit(&mut self, limits: &KeyLimits) {
        (self.rate, self.key_rate) = (limits.allocation_rate, limits.key_rate);
    }

    /// Counts a datagram with this many bytes of data.
    ///
    /// # Errors
    /// When it is one too many; then it is not counted.
    pub(crate) fn pass(&mut self, direction: Direction, now_ms: u64, bytes: usize) -> Result<(), DropReason> {
        let bits = bytes as u64 * 8;
        let (own, key) = match direction {
            Direction::ToPeer => (&mut self.to_peers, &self.key.to_peers),
            Direction::ToClient => (&mut self.to_clients, &self.key.to_clients),
        };
        let after = own.take(self.rate, now_ms, bits).ok_or(DropReason::AllocationRateExceeded)?;
        if self.key_rate.is_limited() && !key.take(self.key_rate, now_ms, bits) {
            return Err(DropReason::KeyRateExceeded);
        }
        *own = after;
        Ok(())
    }

    /// How much of a stream may be read.
    pub(crate) fn allowance(&self, direction: Direction, now_ms: u64) -> Allowance {
        let (own, key) = match direction {
            Direction::ToPeer => (self.to_peers, &self.key.to_peers),
            Direction::ToClient => (self.to_clients, &self.key.to_clients),
        };
        let debts =
            [own.in_debt_until_ms(self.rate, now_ms), key.now().in_debt_until_ms(self.key_rate, now_ms)];
        let portion = || Allowance::Bytes(self.rate.portion().min(self.key_rate.portion()));
        debts.into_iter().flatten().max().map_or_else(portion, Allowance::Until)
    }

    /// Counts what was read of a stream: afterwards, for a stream can lose none of it.
    pub(crate) fn charge(&mut self, direction: Direction, now_ms: u64, bytes: usize) {
        let (packets, bits) = (bytes.div_ceil(STREAM_PACKET_BYTES) as u64, bytes as u64 * 8);
        let (own, key) = match direction {
            Direction::ToPeer => (&mut self.to_peers, &self.key.to_peers),
            Direction::ToClient => (&mut self.to_clients, &self.key.to_clients),
        };
        let charge = |limit: Option<u64>, bucket: &mut u64, units| {
            *bucket = limit.map_or(*bucket, |limit| Pace::per_second(limit).charge(*bucket, now_ms, units));
        };
        charge(self.rate.packets_per_second, &mut own.packets, packets);
        charge(self.rate.bits_per_second, &mut own.bits, bits);
        let charge = |limit: Option<u64>, bucket, units| {
            limit.map(|limit| Pace::per_second(limit).charge_shared(bucket, now_ms, units))
        };
        charge(self.key_rate.packets_per_second, &key.packets, packets);
        charge(self.key_rate.bits_per_second, &key.bits, bits);
    }
}

impl Buckets {
    fn in_debt_until_ms(self, rate: Rate, now_ms: u64) -> Option<u64> {
        let until = |limit: Option<u64>, bucket| Pace::per_second(limit?).in_debt_until_ms(bucket, now_ms);
        until(rate.packets_per_second, self.packets).max(until(rate.bits_per_second, self.bits))
    }

    fn take(self, rate: Rate, now_ms: u64, bits: u64) -> Option<Self> {
        let take = |limit: Option<u64>, bucket, units| match limit {
            Some(limit) => Pace::per_second(limit).take(bucket, now_ms, units),
            None => Some(bucket),
        };
        let packets = take(rate.packets_per_second, self.packets, 1)?;
        Some(Self { packets, bits: take(rate.bits_per_second, self.bits, bits)? })
    }
}

impl SharedBuckets {
    fn now(&self) -> Buckets {
        let [packets, bits] = [&self.packets, &self.bits].map(|bucket| bucket.load(Ordering::Relaxed));
        Buckets { packets, bits }
    }

    fn take(&self, rate: Rate, now_ms: u64, bits: u64) -> bool {
        let take = |limit: Option<u64>, bucket: &AtomicU64, units| {
            limit.is_none_or(|limit| Pace::per_second(limit).take_shared(bucket, now_ms, units))
        };
        // What the first has given when the second refuses is not put back: that key is over a limit either way.
        take(rate.bits_per_second, &self.bits, bits) && take(rate.packets_per_second, &self.packets, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resting_keys_are_bounded_and_the_next_that_is_full_goes_first() {
        let mut counts = Counts::default();
        let key = |n: u64| TurnKeyId::from_bytes(u128::from(n).to_be_bytes());
        let most = MAX_RESTING as u64;
        for n in 0..most + 3 {
            counts.keys.entry(key(n)).or_default();
            counts.rest(key(n), 10_000 + n);
        }
        assert_eq!((counts.keys.len(), counts.resting.len()), (MAX_RESTING, MAX_RESTING));
        assert!(!counts.keys.contains_key(&key(2)) && counts.keys.contains_key(&key(3)));
        counts.forget_full(10_000 + most);
        assert_eq!((counts.keys.len(), counts.resting.len()), (2, 2));
    }
}
