//! The running relay: commands to it, and what it has to say.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use control::{KeySettings, News};
use relay::{Bound, Breakdown, Relay, Reports, Totals};
use turn::Command;

use crate::usage::ending;

/// The running relay, shared by those who command it; gone once it is stopped.
#[derive(Debug, Clone)]
pub(crate) struct RelayHandle(Arc<Mutex<Option<Relay>>>);

impl RelayHandle {
    pub(crate) fn start(bound: Bound) -> Result<Self> {
        let relay = bound.start().context("cannot start the relay's workers")?;
        Ok(Self(Arc::new(Mutex::new(Some(relay)))))
    }

    pub(crate) fn admit(&self) {
        if let Some(relay) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            relay.admit();
        }
    }

    pub(crate) fn command(&self, command: &Command) {
        if let Some(relay) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            relay.command(command);
        }
    }

    /// What the relay has counted; `None` once it is stopped.
    pub(crate) fn counters(&self) -> Option<(Totals, Breakdown)> {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        relay.as_ref().map(|relay| (relay.totals(), relay.breakdown()))
    }

    /// Whether every worker works.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Relay::is_whole)
    }

    /// `of_all` are the limits of keys that have none of their own.
    pub(crate) fn hear(&self, news: &News, of_all: &turn::KeyLimits) {
        match news {
            News::Denied(denial) => self.command(&Command::Deny(*denial)),
            News::Settings(KeySettings { key, shared_secrets, limits, suspended, refuses_new, .. }) => {
                let secrets = shared_secrets.as_slice().into();
                self.command(&Command::SharedSecrets { key: *key, secrets });
                let limits = limits.map(key_limits);
                let limits = if *refuses_new {
                    Some(turn::KeyLimits { allocations: Some(0), ..limits.unwrap_or(*of_all) })
                } else {
                    limits
                };
                self.command(&Command::KeyLimits { key: *key, limits });
                self.command(&Command::Suspend { key: *key, suspended: *suspended });
            }
            News::End(order) => self.command(&Command::End(ending(order))),
        }
    }

    /// What it has to say, `most` of each worker at most.
    pub(crate) fn reports(&self, most: usize) -> Reports {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        relay.as_ref().map(|relay| relay.take_reports(most)).unwrap_or_default()
    }

    /// What it has to say at the end.
    pub(crate) fn stop(&self) -> Reports {
        let relay = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        relay.map(Relay::stop).unwrap_or_default()
    }
}

/// What the store calls a key's limits, in the relay's words.
fn key_limits(limits: control::store::KeyLimits) -> turn::KeyLimits {
    let rate = |packets: Option<u32>, bits_per_second| turn::Rate {
        packets_per_second: packets.map(u64::from),
        bits_per_second,
    };
    turn::KeyLimits {
        allocations: limits.allocations,
        allocations_per_credential: limits.allocations_per_credential,
        new_peers_per_second: limits.new_peers_per_second,
        permissions: limits.permissions,
        channels: limits.channels,
        allocation_rate: rate(limits.allocation_packets_per_second, limits.allocation_bits_per_second),
        key_rate: rate(limits.key_packets_per_second, limits.key_bits_per_second),
    }
}
