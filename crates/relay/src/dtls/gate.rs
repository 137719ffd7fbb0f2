//! The gate with its keys, which it changes as time goes on.

use std::io;
use std::net::SocketAddr;

use stun::dtls::{CookieKeys, Scratch, Verdict, judge};

use crate::sys;

/// How long cookies are made with one key; they are good for once to twice as long.
const KEY_MS: u64 = 60_000;

#[derive(Debug)]
pub(crate) struct Gate {
    keys: CookieKeys,
    since_ms: u64,
    scratch: Box<Scratch>,
}

impl Gate {
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { keys: CookieKeys::new(sys::random()?), since_ms: 0, scratch: Box::default() })
    }

    pub(crate) fn judge(&mut self, now_ms: u64, from: SocketAddr, datagram: &[u8]) -> Verdict<'_> {
        let age = now_ms.saturating_sub(self.since_ms);
        // The one before is then too old, too, if nobody came for long.
        for _ in 0..(age / KEY_MS).min(2) {
            match sys::random() {
                Ok(key) => self.keys.rotate(key),
                // Better an old key than one that can be guessed.
                Err(error) => tracing::error!(%error, "no new key for DTLS cookies"),
            }
            self.since_ms = now_ms;
        }
        judge(&self.keys, from, datagram, &mut self.scratch)
    }
}
