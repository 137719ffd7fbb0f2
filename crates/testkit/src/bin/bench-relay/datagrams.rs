//! Datagrams in trains: many of one sender in one buffer (UDP_GRO), many to one receiver in one call (UDP_SEGMENT).

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt,
    sockopt,
};

/// The most packets that the system cuts one message into.
pub(crate) const MAX_TRAIN: usize = 64;
/// The most bytes of all packets of one message.
const MAX_TRAIN_BYTES: usize = 65_507;
/// Messages taken from a socket in one call.
const BATCH: usize = 16;
const RECEIVE_BUFFER: usize = 8 << 20;

/// A socket that is handed trains, and is told at which of its addresses they came.
///
/// # Errors
/// When the address cannot be bound, or the system is too old.
pub(crate) fn socket(at: SocketAddrV4) -> anyhow::Result<UdpSocket> {
    let socket = leg(at)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    widen(&socket)?;
    Ok(socket)
}

/// Gives a socket that many send to room for all of them.
///
/// # Errors
/// When the system refuses.
pub(crate) fn widen(socket: &UdpSocket) -> anyhow::Result<()> {
    // Root may have more than the system's limit for others.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket2::SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    Ok(())
}

/// Has the system say of what comes to a socket when it came.
///
/// # Errors
/// When it cannot.
pub(crate) fn time_arrivals(socket: &UdpSocket) -> anyhow::Result<()> {
    Ok(setsockopt(socket, sockopt::ReceiveTimestampns, &true)?)
}

/// A socket that is handed trains.
///
/// # Errors
/// When the address cannot be bound, or the system is too old.
pub(crate) fn leg(at: SocketAddrV4) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

/// A train that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) from: SocketAddrV4,
    /// At which address of this machine.
    pub(crate) to: Ipv4Addr,
    /// When it came, since 1970, where the system says so.
    pub(crate) at: Option<Duration>,
    length: usize,
    /// The size of each packet but the last, which may be shorter.
    pub(crate) segment: usize,
}

/// Room for what one call takes.
pub(crate) struct Batch {
    headers: MultiHeaders<SockaddrIn>,
    buffers: Vec<Vec<u8>>,
    received: Vec<Received>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            headers: fresh_headers(),
            buffers: vec![vec![0; 1 << 16]; BATCH],
            received: Vec::with_capacity(BATCH),
        }
    }

    /// Without room, to stand in for one that is being read.
    pub(crate) fn empty() -> Self {
        Self { headers: MultiHeaders::preallocate(0, None), buffers: Vec::new(), received: Vec::new() }
    }

    /// Takes what is there, without waiting; how many trains.
    ///
    /// # Errors
    /// When the socket fails; an ICMP error about an earlier packet is none.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> anyhow::Result<usize> {
        self.received.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = socket.as_raw_fd();
        let messages = recvmmsg(fd, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        let messages = match messages {
            Ok(messages) => messages,
            Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        for message in messages {
            let Some(from) = message.address.map(SocketAddrV4::from) else { continue };
            let length = message.bytes;
            let (to, segment) = (Ipv4Addr::UNSPECIFIED, length.max(1));
            let mut train = Received { from, to, at: None, length, segment };
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        train.to = Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr));
                    }
                    ControlMessageOwned::UdpGroSegments(size) => {
                        train.segment = usize::try_from(size)?.clamp(1, length.max(1));
                    }
                    ControlMessageOwned::ScmTimestampns(at) => train.at = Some(at.into()),
                    _ => {}
                }
            }
            self.received.push(train);
        }
        // The system has written into them how much room it used, and would take that for what there is.
        self.headers = fresh_headers();
        Ok(self.received.len())
    }

    /// What came last, with its packets in a row.
    pub(crate) fn trains(&self) -> impl Iterator<Item = (Received, &[u8])> {
        let parts = self.received.iter().zip(&self.buffers);
        parts.map(|(train, buffer)| (*train, buffer.get(..train.length).unwrap_or_default()))
    }
}

/// Few enough that making them costs less than a system call.
fn fresh_headers() -> MultiHeaders<SockaddrIn> {
    MultiHeaders::preallocate(
        BATCH,
        Some(cmsg_space!(nix::libc::in_pktinfo, nix::libc::c_int, nix::libc::timespec)),
    )
}

/// How many packets of this size one message carries at most.
pub(crate) fn most(size: usize) -> usize {
    (MAX_TRAIN_BYTES / size.max(1)).clamp(1, MAX_TRAIN)
}

/// Sends one message that the system cuts into packets of `segment` bytes, from this address of the machine if one is
/// given. What does not go out is lost, as on any network.
///
/// # Errors
/// When the socket fails.
pub(crate) fn send(
    socket: &UdpSocket,
    pieces: &[IoSlice<'_>],
    packets: usize,
    segment: usize,
    source: Option<Ipv4Addr>,
    to: SocketAddrV4,
) -> anyhow::Result<()> {
    let size = u16::try_from(segment)?;
    let info = nix::libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: nix::libc::in_addr { s_addr: source.map_or(0, Ipv4Addr::to_bits).to_be() },
        ipi_addr: nix::libc::in_addr { s_addr: 0 },
    };
    let both = [ControlMessage::Ipv4PacketInfo(&info), ControlMessage::UdpGsoSegments(&size)];
    // A single packet need not be cut, and without a source the system chooses.
    let control = match (source, packets) {
        (Some(_), 2..) => &both[..],
        (Some(_), _) => &both[..1],
        (None, 2..) => &both[1..],
        (None, _) => &[],
    };
    let to = SockaddrIn::from(to);
    match sendmsg(socket.as_raw_fd(), pieces, control, MsgFlags::MSG_DONTWAIT, Some(&to)) {
        Ok(_) | Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::ENOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
