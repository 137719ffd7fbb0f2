//! Opening every listener for every worker.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use turn::{Discovery, Source, Transport};

use crate::config::{Alternate, BindError, Listener, Takes};
use crate::stream::StreamListener;
use crate::worker::Sockets;
use crate::{sys, udp};

/// What is asked for as a listener's receive buffer; the system may give less.
const LISTENER_BUFFER_BYTES: usize = 8 << 20;
const TCP_BACKLOG: i32 = 1_024;

/// The listeners opened so far; all are closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Opening {
    /// One set of sockets for each worker.
    pub(crate) workers: Vec<Sockets>,
    /// The UDP sockets, in each worker's order.
    pub(crate) udp: Vec<SocketAddr>,
}

impl Opening {
    /// Opens a listener for every worker; the listener with the port that was really opened.
    pub(crate) fn open(&mut self, wanted: Listener) -> Result<Listener, BindError> {
        let failed = |source| BindError { listener: wanted, source };
        if self.share(wanted) {
            return Ok(wanted);
        }
        // Without SO_REUSEPORT first: with it, another Turnery on this port would go unnoticed.
        let probe = open(wanted, false).map_err(failed)?;
        let address = probe.local_addr().map_err(failed)?.as_socket().unwrap_or(wanted.address);
        drop(probe);
        let listener = Listener { address, ..wanted };
        for worker in &mut self.workers {
            let socket = open(listener, true).map_err(failed)?;
            let takes = Takes::of(listener.transport);
            if listener.transport.is_datagram() {
                worker.udp.push(udp::UdpListener::new(socket, address, takes).map_err(failed)?);
            } else {
                socket.listen(TCP_BACKLOG).map_err(failed)?;
                worker.tcp.push(StreamListener { socket: socket.into(), address, takes });
            }
        }
        if listener.transport.is_datagram() {
            self.udp.push(address);
        }
        Ok(listener)
    }

    /// Lets the socket that is open at this address take what this listener wants, too; whether there is one.
    fn share(&mut self, wanted: Listener) -> bool {
        let takes = Takes::of(wanted.transport);
        let mut found = false;
        for worker in &mut self.workers {
            let there = if wanted.transport.is_datagram() {
                let at = worker.udp.iter_mut().find(|it| it.address == wanted.address);
                at.map(|listener| &mut listener.takes)
            } else {
                let at = worker.tcp.iter_mut().find(|it| it.address == wanted.address);
                at.map(|listener| &mut listener.takes)
            };
            // The same listener twice is a mistake, which the system tells.
            let there = there.filter(|there| there.or(takes) != **there);
            if let Some(there) = there {
                *there = there.or(takes);
                found = true;
            }
        }
        found
    }

    /// Opens what is missing of the four addresses of NAT behaviour discovery.
    pub(crate) fn discovery(&mut self, alternate: &Alternate) -> Result<Discovery, BindError> {
        let Alternate { primary, other, port } = *alternate;
        // RFC 5780 §6: the same two ports on both of two addresses. A wildcard listener is on both already.
        let covers = |address: &&SocketAddr| {
            address.ip() == primary.local
                || (address.ip().is_unspecified() && address.is_ipv4() == primary.local.is_ipv4())
        };
        let Some(first) = self.plain().find(|address| covers(&address)) else {
            let listener = udp_at(primary.local, 0);
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no UDP listener there");
            return Err(BindError { listener, source });
        };
        let (wildcard, first_port) = (first.ip().is_unspecified(), first.port());
        let on = |ip: IpAddr| if wildcard { first.ip() } else { ip };
        let second_port = match port {
            0 => self.open(udp_at(on(primary.local), 0))?.address.port(),
            port => port,
        };
        let mut source = |ip: turn::RelayAddress, port| -> Result<Source, BindError> {
            let via = self.index(SocketAddr::new(on(ip.local), port))?;
            let (local, public) = (SocketAddr::new(ip.local, port), SocketAddr::new(ip.public, port));
            Ok(Source { local, public, via })
        };
        let sources = [
            [source(primary, first_port)?, source(primary, second_port)?],
            [source(other, first_port)?, source(other, second_port)?],
        ];
        Ok(Discovery { sources })
    }

    /// Lets every TCP socket take TLS, too.
    pub(crate) fn secure_streams(&mut self) {
        for listener in self.workers.iter_mut().flat_map(|worker| &mut worker.tcp) {
            listener.takes.secured = true;
        }
    }

    /// Lets every UDP socket take DTLS, too.
    pub(crate) fn secure_datagrams(&mut self) {
        for listener in self.workers.iter_mut().flat_map(|worker| &mut worker.udp) {
            listener.takes.secured = true;
        }
    }

    /// The UDP sockets that take messages outside of DTLS.
    fn plain(&self) -> impl Iterator<Item = SocketAddr> {
        let sockets = self.workers.first().map_or(&[][..], |worker| &worker.udp);
        sockets.iter().filter(|listener| listener.takes.plain).map(|listener| listener.address)
    }

    /// The number of the UDP listener on exactly this address, which is opened if there is none.
    fn index(&mut self, address: SocketAddr) -> Result<u32, BindError> {
        if !self.plain().any(|plain| plain == address) {
            self.open(udp_at(address.ip(), address.port()))?;
        }
        let index = self.udp.iter().position(|open| *open == address);
        Ok(index.and_then(|index| u32::try_from(index).ok()).unwrap_or_default())
    }
}

fn udp_at(ip: IpAddr, port: u16) -> Listener {
    Listener { transport: Transport::Udp, address: SocketAddr::new(ip, port) }
}

fn open(listener: Listener, reuse_port: bool) -> io::Result<Socket> {
    let (kind, protocol) = if listener.transport.is_datagram() {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    let domain = Domain::for_address(listener.address);
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if domain == Domain::IPV6 {
        // An IPv6 listener is an IPv6 listener: the IPv4 one has its own socket.
        socket.set_only_v6(true)?;
    }
    if listener.transport.is_stream() {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    if listener.transport.is_datagram() {
        sys::set_receive_buffer(&socket, LISTENER_BUFFER_BYTES);
    }
    socket.bind(&SockAddr::from(listener.address))?;
    Ok(socket)
}
