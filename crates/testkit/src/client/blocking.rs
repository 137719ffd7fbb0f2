//! The client over real sockets, one call at a time.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::SockRef;
use stun::{ChannelNumber, ErrorCode};
use turn::{Icmp, Transport};

use super::dtls::{DtlsSocket, DtlsVersion};
use super::{Client, Config, Event, Family, Frames};
use crate::tls;

/// How long a call waits for its answer, unless [`BlockingClient::set_patience`] says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Room for bursts that arrive while nobody reads.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Why a call failed.
#[derive(Debug)]
pub enum Error {
    /// The server answered with this error code.
    Refused(ErrorCode),
    /// The server did not answer in time.
    TimedOut,
    /// The server closed the connection.
    Closed,
    /// The socket failed.
    Io(io::Error),
}

impl Error {
    /// The STUN error code, if that is what came.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(code) => Some(code.code()),
            Self::TimedOut | Self::Closed | Self::Io(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => write!(f, "refused with {} {}", code.code(), code.reason()),
            Self::TimedOut => f.write_str("the server did not answer in time"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Io(_) => f.write_str("the socket failed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Refused(_) | Self::TimedOut | Self::Closed => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream, Frames),
    Dtls(Box<DtlsSocket>),
}

impl Socket {
    /// A socket, and the client's end of it as the server sees it.
    fn open(server: SocketAddr, transport: Transport) -> Result<(Self, SocketAddr), Error> {
        let socket = match transport {
            Transport::Udp => {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(server)?;
                SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
                Self::Udp(socket)
            }
            Transport::Dtls => {
                let session = DtlsSocket::connect(server, DtlsVersion::Either)?;
                SockRef::from(session.socket()).set_recv_buffer_size(RECEIVE_BUFFER)?;
                Self::Dtls(Box::new(session))
            }
            Transport::Tcp => {
                let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream, Frames::default())
            }
            Transport::Tls => {
                let secured = tls::connect(server)?;
                return Ok((Self::Tcp(secured.stream, Frames::default()), secured.local));
            }
        };
        let local = match &socket {
            Self::Udp(socket) => socket.local_addr()?,
            Self::Tcp(stream, _) => stream.local_addr()?,
            Self::Dtls(session) => session.socket().local_addr()?,
        };
        Ok((socket, local))
    }
}

/// A TURN client over a socket of its own. What arrives between calls waits in the socket until the next call.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    socket: Socket,
    server: SocketAddr,
    local: SocketAddr,
    buffer: Vec<u8>,
    start: Instant,
    patience: Duration,
    received: VecDeque<(SocketAddr, Vec<u8>)>,
    undelivered: VecDeque<(SocketAddr, Icmp)>,
    /// Peers that have connected.
    attempts: VecDeque<(u32, SocketAddr)>,
    replies: VecDeque<Event>,
}

impl BlockingClient {
    /// A client of this server, from a fresh local port. Nothing is sent over UDP yet; TCP is connected.
    ///
    /// # Errors
    /// When the socket cannot be made or connected.
    pub fn connect(
        server: SocketAddr,
        transport: Transport,
        username: &str,
        password: &str,
    ) -> Result<Self, Error> {
        Self::with_config(server, Config::new(username, password, transport))
    }

    /// The same with all settings.
    ///
    /// # Errors
    /// When the socket cannot be made or connected.
    pub fn with_config(server: SocketAddr, config: Config) -> Result<Self, Error> {
        let (socket, local) = Socket::open(server, config.transport)?;
        Ok(Self::over(socket, (server, local), config))
    }

    /// A client within a DTLS session that is open.
    ///
    /// # Errors
    /// When the system does not say where it ends.
    pub fn within(session: DtlsSocket, username: &str, password: &str) -> Result<Self, Error> {
        let config = Config::new(username, password, Transport::Dtls);
        let ends = (session.socket().peer_addr()?, session.socket().local_addr()?);
        Ok(Self::over(Socket::Dtls(Box::new(session)), ends, config))
    }

    fn over(socket: Socket, (server, local): (SocketAddr, SocketAddr), config: Config) -> Self {
        Self {
            client: Client::new(config, fresh_seed()),
            socket,
            server,
            local,
            buffer: vec![0; 1 << 16],
            start: Instant::now(),
            patience: PATIENCE,
            received: VecDeque::new(),
            undelivered: VecDeque::new(),
            attempts: VecDeque::new(),
            replies: VecDeque::new(),
        }
    }

    /// Says farewell, where that is done, and closes the socket.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close(self) -> Result<(), Error> {
        match self.socket {
            Socket::Dtls(mut session) => Ok(session.close()?),
            Socket::Udp(_) | Socket::Tcp(..) => Ok(()),
        }
    }

    /// A client with the same ticket, credential, relayed address and channels, from a fresh local port: it has asked
    /// for nothing yet, and this one goes on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn fork(&self, server: SocketAddr, transport: Transport) -> Result<Self, Error> {
        let config = Config { transport, ..self.client.config.clone() };
        let mut fork = Self::with_config(server, config)?;
        fork.client.adopt(&self.client);
        Ok(fork)
    }

    /// Asks for its allocation with its ticket, from where it is; the lifetime granted in seconds.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn refresh_with_ticket(&mut self) -> Result<u32, Error> {
        self.client.move_to(self.now_ms(), self.client.config.transport);
        self.wait_refreshed()
    }

    fn wait_refreshed(&mut self) -> Result<u32, Error> {
        self.wait(|event| match event {
            Event::Refreshed { lifetime_secs } => Some(lifetime_secs),
            _ => None,
        })
    }

    /// Asks for a ticket to move with from now on.
    pub fn ask_for_mobility(&mut self) {
        self.client.config.mobility = true;
    }

    /// Goes on from a fresh local port, with its ticket; the old socket is kept open until the answer is there, and
    /// then closed. The lifetime granted in seconds.
    ///
    /// # Errors
    /// When refused or not answered, or the socket cannot be made.
    pub fn move_to(&mut self, server: SocketAddr, transport: Transport) -> Result<u32, Error> {
        let (socket, local) = Socket::open(server, transport)?;
        let old = std::mem::replace(&mut self.socket, socket);
        (self.server, self.local) = (server, local);
        self.client.move_to(self.now_ms(), transport);
        let lifetime_secs = self.wait_refreshed();
        drop(old);
        lifetime_secs
    }

    /// How long calls wait for their answer from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The socket of a UDP client, for a caller that goes on by itself: the allocation lives until it expires.
    pub fn into_udp_socket(self) -> Option<UdpSocket> {
        match self.socket {
            Socket::Udp(socket) => Some(socket),
            Socket::Tcp(..) | Socket::Dtls(_) => None,
        }
    }

    /// Its own end of the socket.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> Result<SocketAddr, Error> {
        Ok(match &self.socket {
            // Its address may be another one since it is connected.
            Socket::Udp(socket) => socket.local_addr()?,
            Socket::Tcp(..) => self.local,
            Socket::Dtls(session) => session.socket().local_addr()?,
        })
    }

    /// The relayed address, while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.client.relayed()
    }

    /// The state machine inside, to look at.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for the client's own address as the server sees it.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn binding(&mut self) -> Result<SocketAddr, Error> {
        self.client.binding(self.now_ms());
        self.wait(|event| match event {
            Event::Mapped { mapped } => Some(mapped),
            _ => None,
        })
    }

    /// Allocates; the relayed address.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn allocate(&mut self) -> Result<SocketAddr, Error> {
        self.allocate_for(None).map(|(relayed, _)| relayed)
    }

    /// Allocates an address of this family.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn allocate_family(&mut self, family: Family) -> Result<SocketAddr, Error> {
        self.client.config.family = Some(family);
        self.allocate()
    }

    /// Allocates for this many seconds; the relayed address and the lifetime granted in seconds.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn allocate_for(&mut self, lifetime_secs: Option<u32>) -> Result<(SocketAddr, u32), Error> {
        self.client.allocate(self.now_ms(), lifetime_secs);
        self.wait(|event| match event {
            Event::Allocated { relayed, lifetime_secs, .. } => Some((relayed, lifetime_secs)),
            _ => None,
        })
    }

    /// Refreshes the allocation, or with 0 deletes it; the lifetime granted in seconds.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn refresh(&mut self, lifetime_secs: u32) -> Result<u32, Error> {
        self.client.refresh(self.now_ms(), Some(lifetime_secs));
        self.wait_refreshed()
    }

    /// Creates or refreshes permissions for these peers' addresses.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn create_permission(&mut self, peers: &[SocketAddr]) -> Result<(), Error> {
        self.client.create_permission(self.now_ms(), peers);
        self.wait(|event| matches!(event, Event::Permitted { .. }).then_some(()))
    }

    /// Binds a channel to this peer; later sends use it.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn channel_bind(&mut self, peer: SocketAddr) -> Result<ChannelNumber, Error> {
        let channel = self.client.channel_bind(self.now_ms(), peer);
        self.wait(|event| matches!(event, Event::ChannelBound { .. }).then_some(channel))
    }

    /// Binds this very channel to this peer, whatever the client knows of them.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn channel_bind_as(&mut self, channel: ChannelNumber, peer: SocketAddr) -> Result<(), Error> {
        self.client.channel_bind_as(self.now_ms(), channel, peer);
        self.wait(|event| matches!(event, Event::ChannelBound { .. }).then_some(()))
    }

    /// Allocates a relay of TCP connections; the relayed address.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn allocate_tcp(&mut self) -> Result<SocketAddr, Error> {
        self.client.config.relays_tcp = true;
        self.allocate()
    }

    /// Has the server connect to this peer; the connection's CONNECTION-ID.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn connect_peer(&mut self, peer: SocketAddr) -> Result<u32, Error> {
        self.client.connect(self.now_ms(), peer);
        self.wait(|event| match event {
            Event::Connected { connection, .. } => Some(connection),
            _ => None,
        })
    }

    /// The next peer that has connected, with its CONNECTION-ID; `None` when none does within `timeout`.
    ///
    /// # Errors
    /// When the connection is closed or the socket fails.
    pub fn attempt(&mut self, timeout: Duration) -> Result<Option<(u32, SocketAddr)>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(attempt) = self.attempts.pop_front() {
                return Ok(Some(attempt));
            }
            if !self.step(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Makes this very connection, which has no allocation, the data connection of a CONNECTION-ID: the stream, and what
    /// came behind the answer.
    ///
    /// # Errors
    /// When refused or not answered.
    pub fn into_data_connection(mut self, connection: u32) -> Result<(TcpStream, Vec<u8>), Error> {
        self.client.connection_bind(self.now_ms(), connection);
        self.wait(|event| matches!(event, Event::ConnectionBound { .. }).then_some(()))?;
        match self.socket {
            Socket::Tcp(stream, frames) => {
                stream.set_read_timeout(None)?;
                Ok((stream, frames.into_rest()))
            }
            Socket::Udp(_) | Socket::Dtls(_) => Err(Error::Io(ErrorKind::Unsupported.into())),
        }
    }

    /// Opens a data connection for a CONNECTION-ID, from a new connection to the same server.
    ///
    /// # Errors
    /// When the connection cannot be made, or is refused or not answered.
    pub fn data_connection(&self, connection: u32) -> Result<(TcpStream, Vec<u8>), Error> {
        let other = Self::with_config(self.server, self.client.config.clone())?;
        other.into_data_connection(connection)
    }

    /// Sends data to a peer: through its channel if one is bound, else in a Send indication.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_to(&mut self, peer: SocketAddr, data: &[u8]) -> Result<(), Error> {
        self.client.send(peer, data);
        self.flush()
    }

    /// Sends these bytes to the server as they are.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = match &mut self.socket {
            Socket::Udp(socket) => socket.send(bytes).map(drop),
            Socket::Tcp(stream, _) => stream.write_all(bytes),
            Socket::Dtls(session) => session.send(bytes),
        };
        match sent.map_err(|error| (error.kind(), error)) {
            // ConnectionRefused is an ICMP error about an earlier datagram: both were lost, no more.
            Ok(()) | Err((ErrorKind::ConnectionRefused, _)) => Ok(()),
            Err((ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, _)) => Err(Error::Closed),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// The next data from a peer, and which peer; `None` when none arrives within `timeout`.
    ///
    /// # Errors
    /// When the connection is closed or the socket fails.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<(SocketAddr, Vec<u8>)>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(received) = self.received.pop_front() {
                return Ok(Some(received));
            }
            if !self.step(deadline)? {
                return Ok(None);
            }
        }
    }

    /// The next peer that a datagram did not reach, and what the network said; `None` when nothing of the kind is told
    /// within `timeout`.
    ///
    /// # Errors
    /// When the connection is closed or the socket fails.
    pub fn undelivered(&mut self, timeout: Duration) -> Result<Option<(SocketAddr, Icmp)>, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(undelivered) = self.undelivered.pop_front() {
                return Ok(Some(undelivered));
            }
            if !self.step(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits for the connection to be closed by the server, and says whether it was within `timeout`. A datagram
    /// socket is never closed by its other end.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait_closed(&mut self, timeout: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.step(deadline) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(Error::Closed) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wait<T>(&mut self, wanted: impl Fn(Event) -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + self.patience;
        self.replies.clear();
        loop {
            while let Some(event) = self.replies.pop_front() {
                match event {
                    Event::Refused { code, .. } => return Err(Error::Refused(code)),
                    Event::TimedOut { .. } => return Err(Error::TimedOut),
                    event => {
                        if let Some(answer) = wanted(event) {
                            return Ok(answer);
                        }
                    }
                }
            }
            if !self.step(deadline)? {
                self.client.abandon_requests();
                return Err(Error::TimedOut);
            }
        }
    }

    /// Sends what is to be sent, waits for one read or timer, and sorts the events; false when `deadline` has passed.
    fn step(&mut self, deadline: Instant) -> Result<bool, Error> {
        self.flush()?;
        if !self.read_buffered()? {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            let timer = self.client.poll_timeout().map(|at_ms| self.start + Duration::from_millis(at_ms));
            let until = timer.map_or(deadline, |timer| timer.min(deadline));
            self.read_socket(until.saturating_duration_since(now).max(Duration::from_millis(1)))?;
            self.client.handle_timeout(self.now_ms());
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Data { peer, bytes, .. } => self.received.push_back((peer, bytes)),
                Event::Undelivered { peer, icmp } => self.undelivered.push_back((peer, icmp)),
                Event::ConnectionAttempt { connection, peer } => self.attempts.push_back((connection, peer)),
                event => self.replies.push_back(event),
            }
        }
        self.flush()?;
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), Error> {
        while let Some(packet) = self.client.poll_transmit() {
            self.send_raw(&packet)?;
        }
        Ok(())
    }

    /// Handles a frame that was read earlier; whether there was one.
    fn read_buffered(&mut self) -> Result<bool, Error> {
        let now_ms = self.now_ms();
        let Socket::Tcp(_, frames) = &mut self.socket else { return Ok(false) };
        let frame = frames.next_frame().map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        let Some(frame) = frame else { return Ok(false) };
        self.client.handle_packet(now_ms, &frame);
        Ok(true)
    }

    fn read_socket(&mut self, timeout: Duration) -> Result<(), Error> {
        let read = match &mut self.socket {
            Socket::Dtls(session) => {
                if let Some(datagram) = session.receive(timeout).map_err(closed)? {
                    let now_ms = self.now_ms();
                    self.client.handle_packet(now_ms, &datagram);
                }
                return Ok(());
            }
            Socket::Udp(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                socket.recv(&mut self.buffer)
            }
            Socket::Tcp(stream, _) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.read(&mut self.buffer)
            }
        };
        let length = match read {
            Ok(length) => length,
            Err(error) => {
                return match error.kind() {
                    // ConnectionRefused is an ICMP error about an earlier datagram: it was lost, no more.
                    ErrorKind::WouldBlock
                    | ErrorKind::TimedOut
                    | ErrorKind::Interrupted
                    | ErrorKind::ConnectionRefused => Ok(()),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(Error::Closed),
                    _ => Err(error.into()),
                };
            }
        };
        let now_ms = self.now_ms();
        let bytes = self.buffer.get(..length).unwrap_or_default();
        match &mut self.socket {
            Socket::Udp(_) | Socket::Dtls(_) => self.client.handle_packet(now_ms, bytes),
            Socket::Tcp(..) if length == 0 => return Err(Error::Closed),
            Socket::Tcp(_, frames) => frames.push(bytes),
        }
        Ok(())
    }
}

fn closed(error: io::Error) -> Error {
    if error.kind() == ErrorKind::ConnectionReset { Error::Closed } else { error.into() }
}

/// Transaction ids must differ between clients and runs; they need not be secret here.
fn fresh_seed() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let time = u64::try_from(time & u128::from(u64::MAX)).unwrap_or(0);
    time.rotate_left(20) ^ u64::from(std::process::id()) << 32 ^ COUNT.fetch_add(1, Ordering::Relaxed)
}
