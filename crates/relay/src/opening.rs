//! Opening every listener for every worker.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use turn::{Discovery, Source, Transport};

use crate::config::{Alternate, BindError, Listener};
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
    /// The UDP listeners, in each worker's order.
    pub(crate) udp: Vec<SocketAddr>,
}

impl Opening {
    /// Opens a listener for every worker; the listener with the port that was really opened.
    pub(crate) fn open(&mut self, wanted: Listener) -> Result<Listener, BindError> {
        let failed = |source| BindError { listener: wanted, source };
        // Without SO_REUSEPORT first: with it, another Turnery on this port would go unnoticed.
        let probe = open(wanted, false).map_err(failed)?;
        let address = probe.local_addr().map_err(failed)?.as_socket().unwrap_or(wanted.address);
        drop(probe);
        let listener = Listener { address, ..wanted };
        for worker in &mut self.workers {
            let socket = open(listener, true).map_err(failed)?;
            match listener.transport {
                Transport::Udp => worker.udp.push(udp::UdpListener::new(socket, listener).map_err(failed)?),
                Transport::Tcp => {
                    socket.listen(TCP_BACKLOG).map_err(failed)?;
                    worker.tcp.push((socket.into(), listener));
                }
            }
        }
        if listener.transport == Transport::Udp {
            self.udp.push(address);
        }
        Ok(listener)
    }

    /// Opens what is missing of the four addresses of NAT behaviour discovery.
    pub(crate) fn discovery(&mut self, alternate: &Alternate) -> Result<Discovery, BindError> {
        let Alternate { primary, other, port } = *alternate;
        // RFC 5780 §6: the same two ports on both of two addresses. A wildcard listener is on both already.
        let covers = |address: &&SocketAddr| {
            address.ip() == primary.local
                || (address.ip().is_unspecified() && address.is_ipv4() == primary.local.is_ipv4())
        };
        let Some(first) = self.udp.iter().find(covers).copied() else {
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

    /// The number of the UDP listener on exactly this address, which is opened if there is none.
    fn index(&mut self, address: SocketAddr) -> Result<u32, BindError> {
        if !self.udp.contains(&address) {
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
    let (kind, protocol) = match listener.transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let domain = Domain::for_address(listener.address);
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if domain == Domain::IPV6 {
        // An IPv6 listener is an IPv6 listener: the IPv4 one has its own socket.
        socket.set_only_v6(true)?;
    }
    if listener.transport == Transport::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(reuse_port)?;
    if listener.transport == Transport::Udp {
        sys::set_receive_buffer(&socket, LISTENER_BUFFER_BYTES);
    }
    socket.bind(&SockAddr::from(listener.address))?;
    Ok(socket)
}
