//! One client on a TCP connection: bytes in, frames out of them, frames out, never waiting.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use turn::Client;

/// A connection costs no buffer while nothing is half read or unsent.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) client: Client,
    /// It comes from a proxy that has not said yet whose it is.
    pub(crate) is_unnamed: bool,
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
    /// Whole frames, the first perhaps begun, that the client has not read yet.
    outbound: Vec<u8>,
    /// How much of `outbound` is sent.
    sent: usize,
    /// When the last whole frame came.
    pub(crate) heard_ms: u64,
    /// When the frame in `partial` began.
    pub(crate) partial_since_ms: Option<u64>,
    /// Up to when it is known to have had an allocation, or when it was opened.
    pub(crate) allocated_until_ms: u64,
    /// When its deadlines are looked at next.
    pub(crate) check_ms: u64,
}

/// What became of a frame that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// The system has it.
    Sent,
    /// Some of it waits until the client reads: wait for writability.
    Waits,
    /// The client has not read enough of what was sent before; the frame is lost, whole.
    Dropped,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, client: Client, is_unnamed: bool, now_ms: u64) -> Self {
        Self {
            stream,
            client,
            is_unnamed,
            partial: Vec::new(),
            outbound: Vec::new(),
            sent: 0,
            heard_ms: now_ms,
            partial_since_ms: None,
            allocated_until_ms: now_ms,
            check_ms: now_ms,
        }
    }

    /// The stream, and what was not sent yet.
    pub(crate) fn into_stream(mut self) -> (TcpStream, Vec<u8>) {
        self.outbound.drain(..self.sent);
        (self.stream, self.outbound)
    }

    /// Reads what is there behind the frame begun before; the number of bytes in `buffer`. `None` at the end of
    /// the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let held = self.partial.len();
        let (front, room) = buffer.split_at_mut_checked(held).ok_or(io::ErrorKind::OutOfMemory)?;
        front.copy_from_slice(&self.partial);
        match self.stream.read(room) {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(held + count)),
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

    /// Sends a whole frame, or queues what the system does not take, within `limit` bytes.
    pub(crate) fn write(&mut self, frame: &[u8], limit: usize) -> io::Result<Written> {
        if self.outbound.len() > self.sent {
            if self.outbound.len() - self.sent + frame.len() > limit {
                return Ok(Written::Dropped);
            }
            self.outbound.extend_from_slice(frame);
            return Ok(Written::Waits);
        }
        let sent = match self.stream.write(frame) {
            Ok(sent) => sent,
            Err(error) if is_transient(&error) => 0,
            Err(error) => return Err(error),
        };
        match frame.get(sent..) {
            None | Some([]) => Ok(Written::Sent),
            Some(rest) => {
                self.outbound.clear();
                self.outbound.extend_from_slice(rest);
                self.sent = 0;
                Ok(Written::Waits)
            }
        }
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
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
