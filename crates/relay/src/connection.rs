//! One client on a TCP connection: bytes in, frames out of them, frames out, never waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use turn::Client;

use crate::config::Takes;
use crate::link::{Frames, Link, Written, is_transient};
use crate::splice::CHUNK;
use crate::tls::{MAX_RECORD, Records};

/// A connection costs no buffer while nothing is half read or unsent.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    pub(crate) client: Client,
    pub(crate) stage: Stage,
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// When the last whole frame came.
    pub(crate) heard_ms: u64,
    /// When the frame in `partial` began.
    pub(crate) partial_since_ms: Option<u64>,
    /// Up to when it is known to have had an allocation, or when it was opened.
    pub(crate) allocated_until_ms: u64,
    /// When its deadlines are looked at next.
    pub(crate) check_ms: u64,
    /// Its place among those that wait for the next step of their handshake.
    pub(crate) place: Option<u64>,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It comes from a proxy that has not said yet whose it is.
    Unnamed(Takes),
    /// Its first byte, which tells whether TLS is spoken, has not come yet.
    Unopened(Takes),
    /// Frames come, within TLS or not.
    Framed,
}

impl Connection {
    pub(crate) fn new(link: Link, client: Client, stage: Stage, now_ms: u64) -> Self {
        Self {
            link,
            client,
            stage,
            partial: Vec::new(),
            heard_ms: now_ms,
            partial_since_ms: None,
            allocated_until_ms: now_ms,
            check_ms: now_ms,
            place: None,
        }
    }

    /// Reads what is there behind the frame begun before; the number of bytes in `buffer`. `None` at the end of
    /// the stream.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        is_stranger: bool,
        records: &mut Records,
        now_ms: u64,
    ) -> io::Result<Option<usize>> {
        let held = self.partial.len();
        // What comes behind a ConnectionBind may have to wait for the peer: no more of it than of other data.
        let most = match (is_stranger, self.link.is_secured()) {
            (false, _) => buffer.len(),
            (true, false) => CHUNK,
            (true, true) => held + MAX_RECORD,
        };
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let (front, room) = buffer.split_at_mut_checked(held).ok_or(io::ErrorKind::OutOfMemory)?;
        front.copy_from_slice(&self.partial);
        match self.link.read(room, records, now_ms) {
            Ok(count) => Ok(count.map(|count| held + count)),
            Err(error) if is_transient(&error) => Ok(Some(held)),
            Err(error) => Err(error),
        }
    }

    /// Keeps the beginning of a frame for the next read; it began now if a frame was completed before it.
    pub(crate) fn keep(&mut self, rest: &[u8], completed: bool, now_ms: u64) {
        if rest.is_empty() {
            self.partial = Vec::new();
            self.partial_since_ms = None;
            return;
        }
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        if completed || self.partial_since_ms.is_none() {
            self.partial_since_ms = Some(now_ms);
        }
    }

    /// Sends whole frames, or queues what the system does not take, within `limit` bytes.
    pub(crate) fn write(
        &mut self,
        frames: Frames<'_>,
        limit: usize,
        records: &mut Records,
    ) -> io::Result<Written> {
        self.link.write(frames, limit, records)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
