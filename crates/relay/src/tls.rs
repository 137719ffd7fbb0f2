//! TLS below a connection's frames: records in and out of its worker's buffers, never waiting, and no buffer of its own
//! while no record is half received. RFC 8446, RFC 5246.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use crate::link::Frames;

/// The longest record, its header included. RFC 5246 §6.2.3: 2^14 bytes and at most 2,048 of encryption.
pub(crate) const MAX_RECORD: usize = 5 + (1 << 14) + 2_048;
/// What a handshake message and the records before it may take up. A ClientHello with a post-quantum key share and a
/// ticket is about 2,500 bytes.
const MAX_HANDSHAKE: usize = 8 << 10;
/// What is read from the system at once.
const INCOMING: usize = 64 << 10;
/// Room for the longest frame in records, and for a handshake's flight with a long chain of certificates.
const OUTGOING: usize = 128 << 10;
/// Bytes that a record adds to its content, at most: a header, and an explicit nonce and a tag. RFC 5288 §3.
const RECORD_OVERHEAD: usize = 5 + 8 + 16;
const MAX_CONTENT: usize = 1 << 14;
/// How often a session may change its state for the records of one read.
const MAX_STEPS: usize = 4_096;

/// Room for the records of whichever connection is read from or written to.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) incoming: Box<[u8]>,
    pub(crate) outgoing: Box<[u8]>,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self { incoming: vec![0; INCOMING].into(), outgoing: vec![0; OUTGOING].into() }
    }
}

/// The TLS of one connection.
pub(crate) struct Session {
    tls: UnbufferedServerConnection,
    /// Records received whose last one is incomplete. The library has looked at them: they are shown to it each time.
    kept: Vec<u8>,
    /// While the handshake goes on, when it began; then, when the record began whose rest has not come yet.
    since_ms: Option<u64>,
    /// The handshake is over.
    is_open: bool,
    /// The client sends no more.
    is_ended: bool,
}

/// What records brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Opened {
    /// Bytes of records that are used up.
    pub(crate) used: usize,
    /// Bytes within them.
    pub(crate) content: usize,
    /// Bytes to send because of them.
    pub(crate) answer: usize,
    /// Whether the session has failed; the answer says so.
    pub(crate) failed: bool,
}

impl Session {
    /// A session that has received these bytes.
    ///
    /// # Errors
    /// When they are too many, or the configuration cannot be used.
    pub(crate) fn begin(config: Arc<ServerConfig>, received: &[u8], now_ms: u64) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        if received.len() > MAX_HANDSHAKE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let kept = received.to_vec();
        Ok(Self { tls, kept, since_ms: Some(now_ms), is_open: false, is_ended: false })
    }

    /// Whether frames can go through it.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the client has said that it sends no more.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Since when the rest of a record, or of the handshake, is waited for.
    pub(crate) fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Opens records: their content goes to `content`, which is no shorter than they are, answers to `answer`.
    pub(crate) fn open(&mut self, records: &mut [u8], content: &mut [u8], answer: &mut [u8]) -> Opened {
        let mut opened = Opened::default();
        for _ in 0..MAX_STEPS {
            let rest = records.get_mut(opened.used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let room = content.get_mut(opened.content..).unwrap_or_default();
                        let Some(room) = room.get_mut(..record.payload.len()) else {
                            opened.failed = true;
                            return opened;
                        };
                        room.copy_from_slice(record.payload);
                        opened.content += record.payload.len();
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    match data.encode(answer.get_mut(opened.answer..).unwrap_or_default()) {
                        Ok(count) => opened.answer += count,
                        Err(_) => opened.failed = true,
                    }
                }
                // It is sent in this order, behind what was sent before.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    opened.used += discard;
                    self.is_open = true;
                    return opened;
                }
                Ok(ConnectionState::BlockedHandshake) => {
                    opened.used += discard;
                    return opened;
                }
                Ok(ConnectionState::Closed) => {
                    self.is_ended = true;
                    opened.used += discard;
                    return opened;
                }
                Err(_) => {
                    opened.used += discard;
                    let rest = records.get_mut(opened.used..).unwrap_or_default();
                    opened.answer += self.alert(rest, answer.get_mut(opened.answer..).unwrap_or_default());
                    opened.failed = true;
                    return opened;
                }
                // Early data is not offered.
                Ok(_) => opened.failed = true,
            }
            opened.used += discard;
            if opened.failed {
                return opened;
            }
        }
        opened.failed = true;
        opened
    }

    /// The alert that says why the session has failed: how many bytes it has.
    fn alert(&mut self, records: &mut [u8], answer: &mut [u8]) -> usize {
        let mut length = 0;
        let mut used = 0;
        for _ in 0..MAX_STEPS {
            let rest = records.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(rest);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    match data.encode(answer.get_mut(length..).unwrap_or_default()) {
                        Ok(count) => length += count,
                        Err(_) => return length,
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return length,
            }
            used += discard;
        }
        length
    }

    /// Keeps what is left of records until more comes; `false`: it is more than a record or a handshake can be.
    pub(crate) fn keep(&mut self, rest: &[u8], completed: bool, now_ms: u64) -> bool {
        if rest.is_empty() {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
            self.kept.extend_from_slice(rest);
        }
        if self.is_open {
            if rest.is_empty() {
                self.since_ms = None;
            } else if completed || self.since_ms.is_none() {
                self.since_ms = Some(now_ms);
            }
        }
        rest.len() <= if self.is_open { MAX_RECORD } else { MAX_HANDSHAKE }
    }

    /// The most that `length` bytes in so many frames can become in records.
    pub(crate) fn sealed(length: usize, frames: usize) -> usize {
        length + (length / MAX_CONTENT + frames) * RECORD_OVERHEAD
    }

    /// Seals frames, each in records of its own; how long those are.
    ///
    /// # Errors
    /// When the session is not open, or its keys are used up.
    pub(crate) fn seal(&mut self, frames: Frames<'_>, records: &mut [u8]) -> io::Result<usize> {
        self.write(records, |state, room| match state {
            ConnectionState::WriteTraffic(mut traffic) => frames.iter().try_fold(0, |length, frame| {
                let room = room.get_mut(length..).unwrap_or_default();
                traffic.encrypt(frame, room).ok().map(|count| length + count)
            }),
            _ => None,
        })
    }

    /// Says that no more will be sent; how long the record is.
    ///
    /// # Errors
    /// When the session is not open.
    pub(crate) fn close(&mut self, records: &mut [u8]) -> io::Result<usize> {
        self.write(records, |state, room| match state {
            ConnectionState::WriteTraffic(mut traffic) => traffic.queue_close_notify(room).ok(),
            _ => None,
        })
    }

    fn write(
        &mut self,
        records: &mut [u8],
        write: impl Fn(ConnectionState<'_, '_, ServerConnectionData>, &mut [u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        let mut length = 0;
        for _ in 0..MAX_STEPS {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(&mut self.kept);
            let room = records.get_mut(length..).unwrap_or_default();
            let done = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    length += data.encode(room).map_err(io::Error::other)?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_ended = true;
                    false
                }
                Ok(state @ ConnectionState::WriteTraffic(_)) => {
                    length += write(state, room).ok_or(io::ErrorKind::OutOfMemory)?;
                    true
                }
                // Whole records were opened when they came.
                Ok(_) | Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            self.kept.drain(..discard.min(self.kept.len()));
            if done {
                return Ok(length);
            }
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}
