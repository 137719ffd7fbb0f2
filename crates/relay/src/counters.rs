use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One worker's counters. Only the worker writes, so an addition is a plain load and store.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// Counters at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn totals(&self) -> Totals {
                Totals { $($name: self.$name.value(),)* }
            }
        }

        impl Sum for Totals {
            fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
                totals.fold(Self::default(), |a, b| Self { $($name: a.$name.wrapping_add(b.$name),)* })
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
    /// Datagrams sent to peers.
    packets_to_peers,
    /// Bytes of application data sent to peers.
    bytes_to_peers,
    /// Packets of peers' data sent to clients.
    packets_to_clients,
    /// Bytes of peers' data sent to clients, with their ChannelData or Data headers.
    bytes_to_clients,
    /// Sessions whose end found no room to wait in until it is recorded.
    reports_lost,
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
