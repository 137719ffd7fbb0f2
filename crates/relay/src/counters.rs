use std::iter::{Sum, zip};
use std::sync::atomic::{AtomicU64, Ordering};

use turn::{DropReason, EndReason, Refusal, Transport};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One worker's counters. Only the worker writes, so an addition is a plain load and store.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) relayed: [Relayed; Transport::LABELS.len()],
            pub(crate) dropped: Tally<{ DropReason::LABELS.len() }>,
            pub(crate) refused: Tally<{ Refusal::LABELS.len() }>,
            pub(crate) ended: Tally<{ EndReason::LABELS.len() }>,
        }

        /// Counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// What was relayed, for clients of all transports together.
            pub relayed: Traffic,
        }

        impl Counters {
            pub(crate) fn totals(&self) -> Totals {
                let relayed = self.relayed.iter().map(Relayed::traffic).sum();
                Totals { $($name: self.$name.value(),)* relayed }
            }
        }

        impl Sum for Totals {
            fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
                totals.fold(Self::default(), |a, b| Self {
                    $($name: a.$name.wrapping_add(b.$name),)*
                    relayed: [a.relayed, b.relayed].into_iter().sum(),
                })
            }
        }
    };
}

counters! {
    /// Allocations that live now.
    allocations,
    /// Allocations that have come from another worker, after their clients.
    moves,
    /// Stream connections open now.
    connections,
    /// DTLS sessions open, or being begun, now.
    sessions,
    /// Connections with peers of TCP allocations: open, or being made, now.
    peer_connections,
    /// Requests answered with success.
    successes,
    /// Requests answered with an error.
    refusals,
    /// Packets answered with nothing.
    drops,
    /// Datagrams of allocations that were dropped because they came faster than a limit allows; among the drops.
    rate_drops,
    /// Times that one way of a data connection was not read for a while because a limit's rate was used up.
    rate_holds,
    /// Requests without authentication that were dropped because their prefix had its answers; among the drops.
    stranger_drops,
    /// Sessions whose end found no room to wait in until it is recorded.
    reports_lost,
    /// Packets lost because the mailbox of the worker that they were for was full; among the drops.
    mailbox_drops,
    /// Datagrams that begin no DTLS session and belong to none, or are no DTLS where nothing else is taken; among the
    /// drops.
    gate_drops,
    /// Packets that the system would not send, or a client on a stream did not read in time.
    send_failures,
    /// Connections closed because a deadline passed or a bound was reached.
    connections_refused,
    /// DTLS handshakes of clients with a cookie that were not begun: a bound was reached, or nothing is in common.
    sessions_refused,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.set(self.value().wrapping_add(count));
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one thing by reason.
#[derive(Debug)]
pub(crate) struct Tally<const N: usize>([Counter; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Tally<N> {
    /// Counts one more at a reason's place.
    pub(crate) fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.add(1);
        }
    }
}

/// What clients of one transport sent and got.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    packets_to_peers: Counter,
    bytes_to_peers: Counter,
    packets_to_clients: Counter,
    bytes_to_clients: Counter,
}

impl Relayed {
    fn traffic(&self) -> Traffic {
        Traffic {
            packets_to_peers: self.packets_to_peers.value(),
            bytes_to_peers: self.bytes_to_peers.value(),
            packets_to_clients: self.packets_to_clients.value(),
            bytes_to_clients: self.bytes_to_clients.value(),
        }
    }
}

/// Application data that went through. Data connections (RFC 6062) count in bytes, not in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Datagrams sent to peers.
    pub packets_to_peers: u64,
    /// Bytes of application data sent to peers.
    pub bytes_to_peers: u64,
    /// Packets of peers' data sent to clients.
    pub packets_to_clients: u64,
    /// Bytes of peers' data sent to clients, with their ChannelData or Data headers.
    pub bytes_to_clients: u64,
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), |a, b| Self {
            packets_to_peers: a.packets_to_peers.wrapping_add(b.packets_to_peers),
            bytes_to_peers: a.bytes_to_peers.wrapping_add(b.bytes_to_peers),
            packets_to_clients: a.packets_to_clients.wrapping_add(b.packets_to_clients),
            bytes_to_clients: a.bytes_to_clients.wrapping_add(b.bytes_to_clients),
        })
    }
}

/// Counters at one moment, each thing by its labels: those of [`Transport`], [`DropReason`], [`Refusal`] and
/// [`EndReason`]. A label that nothing was counted under is there, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breakdown {
    /// What was relayed, by the client's transport.
    pub relayed: Vec<(&'static str, Traffic)>,
    /// Packets answered with nothing, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Requests answered with an error, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Relayed addresses that are over, by reason.
    pub ended: Vec<(&'static str, u64)>,
}

impl Breakdown {
    pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a Counters>) -> Self {
        let none = |labels: &[&'static str]| labels.iter().map(|label| (*label, 0)).collect();
        let mut sum = Self {
            relayed: Transport::LABELS.iter().map(|label| (*label, Traffic::default())).collect(),
            dropped: none(DropReason::LABELS),
            refused: none(Refusal::LABELS),
            ended: none(EndReason::LABELS),
        };
        for counters in workers {
            for ((_, traffic), relayed) in zip(&mut sum.relayed, &counters.relayed) {
                *traffic = [*traffic, relayed.traffic()].into_iter().sum();
            }
            add(&mut sum.dropped, &counters.dropped.0);
            add(&mut sum.refused, &counters.refused.0);
            add(&mut sum.ended, &counters.ended.0);
        }
        sum
    }
}

fn add(sums: &mut [(&'static str, u64)], counters: &[Counter]) {
    for ((_, sum), counter) in zip(sums, counters) {
        *sum = sum.wrapping_add(counter.value());
    }
}

impl Counters {
    /// Counts a packet that goes to a peer.
    pub(crate) fn to_peer(&self, transport: Transport, bytes: u64) {
        if let Some(relayed) = self.relayed.get(transport.index()) {
            relayed.packets_to_peers.add(1);
            relayed.bytes_to_peers.add(bytes);
        }
    }

    /// Counts a packet that goes to a client.
    pub(crate) fn to_client(&self, transport: Transport, bytes: u64) {
        if let Some(relayed) = self.relayed.get(transport.index()) {
            relayed.packets_to_clients.add(1);
            relayed.bytes_to_clients.add(bytes);
        }
    }

    /// Counts what went through data connections.
    pub(crate) fn spliced(&self, transport: Transport, to_peer: u64, to_client: u64) {
        if let Some(relayed) = self.relayed.get(transport.index()) {
            relayed.bytes_to_peers.add(to_peer);
            relayed.bytes_to_clients.add(to_client);
        }
    }

    /// Counts a packet that nothing became of.
    pub(crate) fn drop_for(&self, reason: DropReason) {
        self.drops.add(1);
        self.dropped.add(reason.index());
        match reason {
            DropReason::AllocationRateExceeded | DropReason::KeyRateExceeded => self.rate_drops.add(1),
            DropReason::StrangerRateExceeded => self.stranger_drops.add(1),
            _ => {}
        }
    }

    /// Counts a datagram that did not come as far as TURN.
    pub(crate) fn drop_at_the_gate(&self) {
        self.drops.add(1);
        self.gate_drops.add(1);
    }

    /// Counts a packet that another worker's mailbox had no room for.
    pub(crate) fn drop_for_mailbox(&self) {
        self.drops.add(1);
        self.mailbox_drops.add(1);
    }
}
