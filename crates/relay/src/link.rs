//! The bytes of one TCP connection, as they are or within TLS; never waiting.

use std::io::{self, Read, Write};
use std::iter;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::ServerConfig;

use crate::tls::{Records, Session};

/// Costs no buffer while nothing waits.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    /// Boxed, for most connections have none.
    tls: Option<Box<Session>>,
    /// What the system has not taken yet.
    outbound: Vec<u8>,
    /// How much of `outbound` it has taken since.
    sent: usize,
}

/// What became of bytes that were to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// The system has them.
    Sent,
    /// Some of them wait until the other side reads: wait for writability.
    Waits,
    /// The other side has not read enough of what was sent before; they are lost, all of them.
    Dropped,
}

/// Frames that go to one connection together, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frames<'f> {
    pub(crate) bytes: &'f [u8],
    /// Where the frames that others follow end.
    pub(crate) cuts: &'f [usize],
}

impl<'f> Frames<'f> {
    pub(crate) fn one(bytes: &'f [u8]) -> Self {
        Self { bytes, cuts: &[] }
    }

    pub(crate) fn count(self) -> usize {
        self.cuts.len() + 1
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'f [u8]> {
        let starts = iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain(iter::once(self.bytes.len()));
        starts.zip(ends).map(move |(start, end)| self.bytes.get(start..end).unwrap_or_default())
    }
}

pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Link {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, tls: None, outbound: Vec::new(), sent: 0 }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The client has begun a handshake with these bytes; [`Link::read`] goes on with it.
    ///
    /// # Errors
    /// When they are no beginning of one.
    pub(crate) fn secure(
        &mut self,
        config: Arc<ServerConfig>,
        received: &[u8],
        now_ms: u64,
    ) -> io::Result<()> {
        self.tls = Some(Box::new(Session::begin(config, received, now_ms)?));
        Ok(())
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a handshake goes on.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_open())
    }

    /// Whether the other side has said within TLS that it sends no more.
    pub(crate) fn is_ended(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_ended())
    }

    /// Since when the rest of a record, or of a handshake, is waited for.
    pub(crate) fn record_since_ms(&self) -> Option<u64> {
        self.tls.as_ref().and_then(|tls| tls.since_ms())
    }

    /// Reads what is there: the number of bytes, and `None` at the end. Within TLS they may be none although something
    /// came; `room` must be as long as a record.
    ///
    /// # Errors
    /// When nothing is there, or the connection has failed.
    pub(crate) fn read(
        &mut self,
        room: &mut [u8],
        records: &mut Records,
        now_ms: u64,
    ) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else {
            return match self.stream.read(room) {
                Ok(0) => Ok(None),
                Ok(count) => Ok(Some(count)),
                Err(error) => Err(error),
            };
        };
        if tls.is_ended() {
            return Ok(None);
        }
        let Records { incoming, outgoing } = records;
        let held = tls.kept().len();
        // What comes out of records is shorter than they are.
        let most = room.len().min(incoming.len());
        let incoming = incoming.get_mut(..most).unwrap_or_default();
        let (front, free) = incoming.split_at_mut_checked(held).ok_or(io::ErrorKind::OutOfMemory)?;
        front.copy_from_slice(tls.kept());
        let count = match self.stream.read(free) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            // What the handshake began with may not have been looked at.
            Err(error) if is_transient(&error) && !tls.is_open() => 0,
            Err(error) => return Err(error),
        };
        let incoming = incoming.get_mut(..held + count).unwrap_or_default();
        let opened = tls.open(incoming, room, outgoing);
        let rest = incoming.get(opened.used..).unwrap_or_default();
        let kept = tls.keep(rest, opened.used > 0, now_ms);
        self.send(outgoing.get(..opened.answer).unwrap_or_default())?;
        if opened.failed || !kept {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some(opened.content))
    }

    /// Sends frames in one call, all or none, and queues what the system does not take, within `limit` bytes. Within TLS
    /// each is a record of its own: some clients take a record for a message.
    pub(crate) fn write(
        &mut self,
        frames: Frames<'_>,
        limit: usize,
        records: &mut Records,
    ) -> io::Result<Written> {
        let length = frames.bytes.len();
        let sealed = if self.is_secured() { Session::sealed(length, frames.count()) } else { length };
        if self.is_waiting() && self.waiting() + sealed > limit {
            return Ok(Written::Dropped);
        }
        let bytes = match &mut self.tls {
            None => frames.bytes,
            Some(tls) => {
                let length = tls.seal(frames, &mut records.outgoing)?;
                records.outgoing.get(..length).unwrap_or_default()
            }
        };
        self.send(bytes)?;
        Ok(if self.is_waiting() { Written::Waits } else { Written::Sent })
    }

    /// Sends as many of these bytes as can be sent now; within TLS all of them, and what the system does not take of
    /// their records waits.
    ///
    /// # Errors
    /// When none can be sent now, or the connection has failed.
    pub(crate) fn offer(&mut self, bytes: &[u8], records: &mut Records) -> io::Result<usize> {
        if self.is_waiting() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes) };
        let length = tls.seal(Frames::one(bytes), &mut records.outgoing)?;
        self.send(records.outgoing.get(..length).unwrap_or_default())?;
        Ok(bytes.len())
    }

    /// How many bytes wait for the system to take them.
    pub(crate) fn waiting(&self) -> usize {
        self.outbound.len() - self.sent
    }

    /// Sends bytes as they are, or queues them.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_waiting() {
            self.outbound.extend_from_slice(bytes);
            return Ok(());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if is_transient(&error) => 0,
            Err(error) => return Err(error),
        };
        if let Some(rest @ [_, ..]) = bytes.get(sent..) {
            self.outbound.clear();
            self.outbound.extend_from_slice(rest);
            self.sent = 0;
        }
        Ok(())
    }

    /// Whether the system has not taken all that was written.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// Sends what waits; whether nothing waits any more.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.outbound.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.outbound.drain(..self.sent);
                    self.sent = 0;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.outbound = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// Says within TLS that no more will come, if that can be said at once. RFC 8446 §6.1.
    pub(crate) fn say_goodbye(&mut self) {
        // RFC 8446 §6.1: each party sends close_notify before it closes its side, unless it has sent an error alert.
        if let Some(tls) = &mut self.tls
            && tls.is_open()
            && self.outbound.len() <= self.sent
        {
            let mut record = [0; 64];
            if let Ok(length) = tls.close(&mut record) {
                // Whoever is gone need not know.
                let _ = self.stream.write(record.get(..length).unwrap_or_default());
            }
        }
    }

    /// Ends its own side.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.say_goodbye();
        self.stream.shutdown(Shutdown::Write)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
