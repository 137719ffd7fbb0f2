//! What is told to a server from outside its packets: denials, keys and secrets, policies, limits.

use std::sync::Arc;

use credentials::{Denial, DenySetFull, Keyring, SharedSecret, TurnKeyId};

use crate::quota::AllocationLimits;
use crate::redirect::{AlternateServer, Redirection};
use crate::server::{EndReason, Server};
use crate::verified::Verified;
use crate::{Ending, FiveTuple, KeyLimits, PeerPolicy, Time};

/// How many TURN keys may have limits of their own.
const MAX_LIMITED_KEYS: usize = 65_536;

/// How many TURN keys may be suspended.
const MAX_SUSPENDED_KEYS: usize = 65_536;

/// What is told to a server from outside its packets.
#[derive(Debug, Clone)]
pub enum Command {
    /// Refuse this credential or key from now on, and end its allocations.
    Deny(Denial),
    /// Verify with this keyring from now on.
    Keyring(Arc<Keyring>),
    /// These are a TURN key's shared secrets from now on, all of them. Allocations made with one that is not among
    /// them end.
    SharedSecrets {
        /// Which key's.
        key: TurnKeyId,
        /// None: the key's time-limited usernames are refused.
        secrets: Arc<[SharedSecret]>,
    },
    /// Apply this policy to every permission, channel and Send from now on.
    Policy(Arc<PeerPolicy>),
    /// The client's connection is closed.
    ClientGone(FiveTuple),
    /// Answer every new Allocate with 300 and one of these servers, in turn, that has the client's transport and address
    /// family. Where none has, it is served here, unless this server drains: then it is refused with 508. At most 256
    /// are remembered; none, and not draining: take new allocations again.
    Redirect {
        /// Other servers.
        to: Vec<AlternateServer>,
        /// Whether this server is about to end.
        draining: bool,
    },
    /// Whether what is denied was not heard for so long that each new Allocate is refused with 508, unless
    /// [`Command::Redirect`] names another server that it is sent to. What is allocated goes on.
    DenialsStale(bool),
    /// These are the limits of this TURN key from now on, for allocations that live, too; `None`: those of
    /// [`crate::Config::key_limits`]. An allocation beyond a lowered limit stays.
    KeyLimits {
        /// Whose.
        key: TurnKeyId,
        /// Which.
        limits: Option<KeyLimits>,
    },
    /// End these sessions now. Who still has a good credential may allocate again.
    End(Ending),
    /// Refuse every credential of this TURN key and end its allocations, or accept them again.
    Suspend {
        /// Which key.
        key: TurnKeyId,
        /// Whether it is, from now on.
        suspended: bool,
    },
}

/// A command was not carried out in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A denial cannot be remembered; its live allocations are ended all the same.
    #[error("a denial is lost")]
    Denial(#[from] DenySetFull),
    /// Too many TURN keys have limits of their own; this one has those of all.
    #[error("the limits of a TURN key are lost: {MAX_LIMITED_KEYS} keys have some of their own")]
    KeyLimits,
    /// Too many TURN keys are suspended; this one's live allocations are ended all the same.
    #[error("the suspension of a TURN key is lost: {MAX_SUSPENDED_KEYS} keys are suspended")]
    Suspension,
}

impl Server {
    /// Carries out a command. Outputs may follow.
    ///
    /// # Errors
    /// When there is no room to remember what was told.
    pub fn command(&mut self, now: Time, command: Command) -> Result<(), CommandError> {
        match command {
            Command::Deny(denial) => {
                if let Denial::Key { key, .. } = denial {
                    self.shared_secrets.set(key, Arc::default());
                }
                for id in self.allocations.denied_by(&denial) {
                    self.end(now, id, EndReason::Denied);
                }
                if let Denial::Key { key, .. } = denial {
                    self.key_limits.remove(&key);
                    self.suspended.remove(&key);
                }
                self.denials.insert(denial, now.unix_secs())?;
            }
            Command::Keyring(keyring) => {
                self.shared.keyring = keyring;
                // What another keyring opened this one may not.
                self.verified = Verified::default();
            }
            Command::SharedSecrets { key, secrets } => {
                self.shared_secrets.set(key, secrets);
                for id in self.allocations.without_secret(key, &self.shared_secrets) {
                    self.end(now, id, EndReason::Denied);
                }
            }
            Command::Policy(policy) => {
                self.config.policy = PeerPolicy::clone(&policy);
                self.end_forbidden();
            }
            Command::Redirect { to, draining } => self.redirection = Redirection::new(to, draining),
            Command::DenialsStale(are) => self.are_denials_stale = are,
            Command::KeyLimits { key, limits } => self.limit_key(key, limits)?,
            Command::Suspend { key, suspended } => self.suspend(now, key, suspended)?,
            Command::ClientGone(five_tuple) => {
                self.client_gone(now, &five_tuple, self.config.worker);
            }
            Command::End(ending) => self.end_sessions(now, ending),
        }
        Ok(())
    }

    fn suspend(&mut self, now: Time, key: TurnKeyId, suspended: bool) -> Result<(), CommandError> {
        if !suspended {
            self.suspended.remove(&key);
            return Ok(());
        }
        let all: Vec<_> = self.allocations.all_of_turn_key(key).collect();
        for id in all {
            self.end(now, id, EndReason::Denied);
        }
        if self.suspended.len() >= MAX_SUSPENDED_KEYS && !self.suspended.contains(&key) {
            return Err(CommandError::Suspension);
        }
        self.suspended.insert(key);
        Ok(())
    }

    /// The limits that hold for an allocation of this key now.
    pub(crate) fn limits_of(&self, key: TurnKeyId) -> AllocationLimits {
        AllocationLimits::new(self.key_limits(key), &self.config.limits)
    }

    pub(crate) fn key_limits(&self, key: TurnKeyId) -> &KeyLimits {
        self.key_limits.get(&key).unwrap_or(&self.config.key_limits)
    }

    fn limit_key(&mut self, key: TurnKeyId, limits: Option<KeyLimits>) -> Result<(), CommandError> {
        match limits {
            Some(_) if self.key_limits.len() >= MAX_LIMITED_KEYS && !self.key_limits.contains_key(&key) => {
                return Err(CommandError::KeyLimits);
            }
            Some(limits) => drop(self.key_limits.insert(key, limits)),
            None => drop(self.key_limits.remove(&key)),
        }
        let limits = limits.unwrap_or(self.config.key_limits);
        self.allocations.of_turn_key(key, |allocation| allocation.limit(&limits));
        Ok(())
    }
}
