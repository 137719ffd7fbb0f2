//! A client's end of DTLS over a UDP socket, one call at a time. The server's certificate is not checked.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dimpl::{Dtls, DtlsCertificate, Output};

use super::blocking::PATIENCE;

/// Which versions a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsVersion {
    /// DTLS 1.2 alone.
    V12,
    /// DTLS 1.3 alone.
    V13,
    /// Both; the server chooses.
    Either,
}

/// A DTLS session over a UDP socket.
pub struct DtlsSocket {
    socket: UdpSocket,
    dtls: Dtls,
    /// When the library wants to be told the time.
    due: Instant,
    is_open: bool,
    is_closed: bool,
    /// The server's certificate, in DER.
    certificate: Vec<u8>,
    received: VecDeque<Vec<u8>>,
    buffer: Vec<u8>,
}

impl fmt::Debug for DtlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsSocket")
            .field("socket", &self.socket)
            .field("dtls", &self.dtls)
            .finish_non_exhaustive()
    }
}

/// The library wants every end to have a certificate, also one that is never asked for it.
fn certificate() -> DtlsCertificate {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, private_key) = MADE.get_or_init(|| self_signed("client")).clone();
    DtlsCertificate { certificate, private_key }
}

/// A certificate of its own making for this name, and its P-256 key, both in DER.
///
/// # Panics
/// When the system gives no randomness.
pub fn self_signed(name: &str) -> (Vec<u8>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    (made.cert.der().to_vec(), made.signing_key.serialize_der())
}

impl DtlsSocket {
    /// Opens a session with a server from a fresh local port.
    ///
    /// # Errors
    /// When it is not open in [`PATIENCE`], or the server wants none.
    pub fn connect(server: SocketAddr, version: DtlsVersion) -> io::Result<Self> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Self::over(socket, version)
    }

    /// The same over a connected socket.
    ///
    /// # Errors
    /// When it is not open in [`PATIENCE`], or the server wants none.
    pub fn over(socket: UdpSocket, version: DtlsVersion) -> io::Result<Self> {
        Self::over_within(socket, version, PATIENCE)
    }

    /// The same, waiting no longer than this.
    ///
    /// # Errors
    /// When it is not open by then, or the server wants none.
    pub fn over_within(socket: UdpSocket, version: DtlsVersion, patience: Duration) -> io::Result<Self> {
        let mut session = Self::begin(socket, version)?;
        let deadline = Instant::now() + patience;
        while !session.is_open {
            let left = deadline.saturating_duration_since(Instant::now());
            if session.is_closed || left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            session.read(left)?;
        }
        Ok(session)
    }

    /// Sends the first ClientHello, and waits for nothing.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn begin(socket: UdpSocket, version: DtlsVersion) -> io::Result<Self> {
        let config = dimpl::Config::builder().max_queue_tx(64).build().map_err(io::Error::other)?;
        let (config, now) = (Arc::new(config), Instant::now());
        let mut dtls = match version {
            DtlsVersion::V12 => Dtls::new_12(config, certificate(), now),
            DtlsVersion::V13 => Dtls::new_13(config, certificate(), now),
            DtlsVersion::Either => Dtls::new_auto(config, certificate(), now),
        };
        dtls.set_active(true);
        dtls.handle_timeout(now).map_err(io::Error::other)?;
        let mut session = Self {
            socket,
            dtls,
            due: now,
            is_open: false,
            is_closed: false,
            certificate: vec![],
            received: VecDeque::new(),
            buffer: vec![0; 1 << 16],
        };
        session.poll()?;
        Ok(session)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// When the session is over or the socket fails.
    pub fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.dtls.send_application_data(data).map_err(io::Error::other)?;
        self.poll()
    }

    /// Sends datagrams in records that follow each other in as few UDP datagrams as hold them.
    ///
    /// # Errors
    /// When the session is over or the socket fails.
    pub fn send_together(&mut self, data: &[&[u8]]) -> io::Result<()> {
        for data in data {
            self.dtls.send_application_data(data).map_err(io::Error::other)?;
        }
        self.poll()
    }

    /// Waits for a datagram; `None` when none came in time.
    ///
    /// # Errors
    /// When the session is over or the socket fails.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(data) = self.received.pop_front() {
                return Ok(Some(data));
            }
            if self.is_closed {
                return Err(ErrorKind::ConnectionReset.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.read(left)?;
        }
    }

    /// Says farewell.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close(&mut self) -> io::Result<()> {
        self.dtls.close().map_err(io::Error::other)?;
        self.poll()
    }

    /// Whether the server has said farewell.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The version that was agreed on.
    pub fn version(&self) -> DtlsVersion {
        match self.dtls.protocol_version() {
            Some(dimpl::ProtocolVersion::DTLS1_3) => DtlsVersion::V13,
            _ => DtlsVersion::V12,
        }
    }

    /// The server's certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The socket below.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Reads one datagram of the socket, or lets some time pass.
    fn read(&mut self, timeout: Duration) -> io::Result<()> {
        let until_due = self.due.saturating_duration_since(Instant::now());
        self.socket.set_read_timeout(Some(timeout.min(until_due).max(Duration::from_millis(1))))?;
        let read = self.socket.recv(&mut self.buffer);
        self.dtls.handle_timeout(Instant::now()).map_err(io::Error::other)?;
        match read {
            Ok(length) => {
                let datagram = self.buffer.get(..length).unwrap_or_default();
                self.dtls.handle_packet(datagram).map_err(io::Error::other)?;
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted
                | ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            },
        }
        self.poll()
    }

    fn poll(&mut self) -> io::Result<()> {
        loop {
            match self.dtls.poll_output(&mut self.buffer) {
                Output::Packet(packet) => match self.socket.send(packet) {
                    // An ICMP error about an earlier datagram.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    sent => drop(sent?),
                },
                Output::ApplicationData(data) => self.received.push_back(data.to_vec()),
                Output::PeerCert(certificate) => self.certificate = certificate.to_vec(),
                Output::Connected => self.is_open = true,
                Output::CloseNotify => self.is_closed = true,
                Output::Timeout(at) => {
                    self.due = at;
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}
