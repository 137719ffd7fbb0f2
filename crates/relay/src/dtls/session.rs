//! One DTLS session: a library's state machine that begins where the gate let its client through.

use std::fmt;
use std::time::Instant;

use dimpl::{Dtls, Output};
use stun::dtls::{Admission, RECORD_HEADER, Version};

use super::identity::{DtlsIdentity, with_cookie};

/// The most that fits into one record. RFC 6347 §4.1, RFC 5246 §6.2.1.
pub(crate) const MAX_RECORD: usize = 1 << 14;

pub(crate) struct Session {
    dtls: Dtls,
    version: Version,
    /// The client's, which tells a repeated hello from another handshake.
    pub(super) random: [u8; 32],
    pub(super) is_open: bool,
    /// The client has sent something with the session's keys: it needs nothing of the handshake again.
    pub(super) is_confirmed: bool,
    /// It has failed.
    is_over: bool,
    /// What the record sequence numbers of the handshake are shifted by.
    shift: u64,
    /// When the library was last told the time, in the worker's milliseconds.
    told_ms: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("dtls", &self.dtls)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

/// The session is over, never began, or cannot carry this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over;

/// What a session wants; ask until it wants to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    /// These many bytes are to be sent to the client.
    Packet(usize),
    /// These many bytes came from the client.
    Data(usize),
    /// The handshake is complete.
    Opened,
    /// It is over: the client has said farewell, or it has failed.
    Closed,
    /// Nothing, unless something comes, or the time that the library wants to be told.
    Wait(Option<Instant>),
}

impl Session {
    /// Begins with the datagram that has the cookie, and is the answer to it.
    pub(crate) fn begin(
        identity: &DtlsIdentity,
        admission: &Admission<'_>,
        datagram: &[u8],
        (now, now_ms): (Instant, u64),
    ) -> Result<Self, Over> {
        let DtlsIdentity { config, certificate } = identity.clone();
        let mut dtls = match admission.version {
            Version::Dtls12 => Dtls::new_12(config, certificate, now),
            Version::Dtls13 => Dtls::new_13(config, certificate, now),
        };
        dtls.handle_timeout(now).map_err(|_| Over)?;
        with_cookie(admission.random, admission.cookie, || {
            replay(&mut dtls, admission)?;
            dtls.handle_packet(datagram).map_err(|error| {
                tracing::debug!(%error, "a DTLS handshake cannot begin");
                Over
            })
        })?;
        // RFC 6347 §4.2.1: the ServerHello has the record sequence number of the ClientHello with the cookie. The
        // library has numbered its answers to the hellos before that one.
        let shift = match admission.version {
            Version::Dtls12 => admission.record_sequence.wrapping_sub(admission.message_sequence.into()),
            Version::Dtls13 => 0,
        };
        let (version, random) = (admission.version, admission.random);
        Ok(Self {
            dtls,
            version,
            random,
            is_open: false,
            is_confirmed: false,
            is_over: false,
            shift,
            told_ms: now_ms,
        })
    }

    /// Takes in a datagram; what comes of it is polled.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: (Instant, u64)) {
        self.tell_time(now);
        if let Err(error) = self.dtls.handle_packet(datagram) {
            tracing::debug!(%error, "a DTLS session fails");
            self.is_over = true;
        }
    }

    /// Goes on where the time has come for something.
    pub(crate) fn tell_time(&mut self, (now, now_ms): (Instant, u64)) {
        if self.told_ms != now_ms {
            self.told_ms = now_ms;
            self.is_over |= self.dtls.handle_timeout(now).is_err();
        }
    }

    /// Puts this into a record that is polled next. Nothing is sent before the session is open.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        if !self.is_open || self.is_over || bytes.len() > MAX_RECORD {
            return Err(Over);
        }
        let sent = self.dtls.send_application_data(bytes);
        self.is_over |= sent.is_err();
        sent.map(|_| ()).map_err(|_| Over)
    }

    /// Says farewell, which is polled next.
    pub(crate) fn close(&mut self) {
        // A session that is not open has nobody to say it to.
        let _ = self.dtls.close();
    }

    /// What is wanted next. The buffer has room for the longest datagram.
    pub(crate) fn poll(&mut self, buffer: &mut [u8]) -> Polled {
        loop {
            if self.is_over {
                return Polled::Closed;
            }
            let length = match self.dtls.poll_output(buffer) {
                Output::Packet(packet) => packet.len(),
                Output::ApplicationData(data) => {
                    self.is_confirmed = true;
                    return Polled::Data(data.len());
                }
                Output::Connected => {
                    self.is_open = true;
                    return Polled::Opened;
                }
                Output::CloseNotify => return Polled::Closed,
                Output::Timeout(at) => return Polled::Wait(Some(at)),
                // The client's certificate is not asked for, nor are keys for SRTP, and the buffer is large enough.
                _ => continue,
            };
            if self.shift != 0 && self.version == Version::Dtls12 && !self.is_confirmed {
                shift_sequence(buffer.get_mut(..length).unwrap_or_default(), self.shift);
            }
            return Polled::Packet(length);
        }
    }
}

/// Brings the library to where it would be if it had seen the hellos without a cookie itself.
fn replay(dtls: &mut Dtls, admission: &Admission<'_>) -> Result<(), Over> {
    let mut hello = admission.first_hello.to_vec();
    for number in 0..admission.message_sequence {
        hello.get_mut(Admission::MESSAGE_SEQUENCE).ok_or(Over)?.copy_from_slice(&number.to_be_bytes());
        dtls.handle_packet(&hello).map_err(|_| Over)?;
        let mut buffer = [0; 2_048];
        let mut answer = None;
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(packet) => answer = Some(packet.len()),
                Output::Timeout(_) => break,
                _ => return Err(Over),
            }
        }
        // What the client was sent is part of what both sign, and has to be the same to the byte.
        let answer = answer.and_then(|length| buffer.get(..length)).ok_or(Over)?;
        if !admission.retry_request.is_empty() && answer != admission.retry_request {
            tracing::error!("the DTLS library asks for a cookie with other words than the gate");
            return Err(Over);
        }
    }
    Ok(())
}

/// Adds to the sequence numbers of plaintext records. Nothing is computed over them.
fn shift_sequence(mut datagram: &mut [u8], shift: u64) {
    while let Some((header, rest)) = datagram.split_at_mut_checked(RECORD_HEADER) {
        let [_, _, _, e0, e1, sequence @ .., l0, l1] = header else { return };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if (*e0, *e1) == (0, 0) {
            let number = sequence.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let [_, _, shifted @ ..] = number.wrapping_add(shift).to_be_bytes();
            sequence.copy_from_slice(&shifted);
        }
        datagram = rest.get_mut(length..).unwrap_or_default();
    }
}
