//! Many datagrams per call: `recvmmsg` with UDP_GRO, `sendmmsg` with UDP_SEGMENT.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;

use super::{check, size_of_u32};

/// The most packets that the system cuts one message into.
pub(crate) const MAX_TRAIN_PACKETS: usize = 64;
/// The most bytes of all packets of one message.
pub(crate) const MAX_TRAIN_BYTES: usize = 65_000;
/// Pieces that one call can gather.
const VECTORS: usize = 1_024;

/// Room for the control messages of one datagram: PKTINFO and a segment size.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 96]);

/// What one slot was filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes from the slot's start.
    pub(crate) length: usize,
    pub(crate) from: SocketAddr,
    /// The local address it came to, if the socket was asked to tell.
    pub(crate) destination: Option<IpAddr>,
    /// When the slot holds several datagrams: the size of each but the last, which may be shorter.
    pub(crate) segment: Option<usize>,
}

/// Packets that leave a socket as one message: to one address, all of one size but the last, which may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Train {
    pub(crate) to: SocketAddr,
    /// From which local address, if the socket has several.
    pub(crate) source: Option<IpAddr>,
    /// The size that the system cuts at; `None` for a single packet.
    pub(crate) segment: Option<u16>,
}

/// The system structures for one batched call, made once and used again.
pub(crate) struct Messages {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
}

impl Messages {
    pub(crate) fn new(count: usize) -> Self {
        // SAFETY: all of these are plain data for which zeroes (null pointers included) are valid values.
        let (header, vector, name) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        Self {
            headers: vec![header; count].into(),
            vectors: vec![vector; VECTORS.max(count)].into(),
            names: vec![name; count].into(),
            controls: vec![Control([0; 96]); count].into(),
        }
    }

    /// Receives without waiting, into one slot after the other, until the slots or the datagrams run out. What is
    /// longer than its slot, or comes from nowhere, is reported as `None`.
    pub(crate) fn receive<'s>(
        &mut self,
        socket: &impl AsFd,
        slots: impl Iterator<Item = &'s mut [u8]>,
        mut each: impl FnMut(usize, Option<Received>),
    ) -> io::Result<usize> {
        let mut count = 0;
        let parts =
            self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names).zip(&mut self.controls);
        for ((((header, vector), name), control), slot) in parts.zip(slots) {
            vector.iov_base = slot.as_mut_ptr().cast();
            vector.iov_len = slot.len();
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of_u32::<libc::sockaddr_storage>();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len();
            header.msg_hdr.msg_flags = 0;
            count += 1;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` headers point to names, controls and exclusive slots that outlive the call.
        let received = check(unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        })?;
        let received = usize::try_from(received).unwrap_or(0);
        for (index, (header, name)) in self.headers.iter().zip(&self.names).take(received).enumerate() {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            // Nothing can be sent back to port 0: only a forger sends from it.
            let from = read_address(name).filter(|from| whole && from.port() != 0);
            each(index, from.map(|from| read_control(header, from)));
        }
        Ok(received)
    }

    /// Begins to gather messages for one `sendmmsg`.
    pub(crate) fn gather(&mut self) -> Gather<'_, '_> {
        Gather { messages: self, count: 0, vectors: 0, bytes: PhantomData }
    }
}

/// Messages that wait to be sent from one socket.
pub(crate) struct Gather<'m, 'd> {
    messages: &'m mut Messages,
    count: usize,
    vectors: usize,
    bytes: PhantomData<&'d [u8]>,
}

impl<'d> Gather<'_, 'd> {
    /// Whether a train of this many packets would still fit.
    pub(crate) fn has_room(&self, packets: usize) -> bool {
        self.count < self.messages.headers.len() && self.vectors + packets <= self.messages.vectors.len()
    }

    /// Adds one message. Ask [`Gather::has_room`] first: what does not fit is left out.
    pub(crate) fn push(&mut self, train: Train, packets: impl Iterator<Item = &'d [u8]>) {
        let Messages { headers, vectors, names, controls } = self.messages;
        let parts = (headers.get_mut(self.count), names.get_mut(self.count), controls.get_mut(self.count));
        let (Some(header), Some(name), Some(control)) = parts else { return };
        let Some(vectors) = vectors.get_mut(self.vectors..) else { return };
        let mut used = 0;
        for (vector, packet) in vectors.iter_mut().zip(packets) {
            vector.iov_base = packet.as_ptr().cast_mut().cast();
            vector.iov_len = packet.len();
            used += 1;
        }
        header.msg_hdr.msg_namelen = write_address(train.to, name);
        header.msg_hdr.msg_name = ptr::from_mut(name).cast();
        header.msg_hdr.msg_iov = vectors.as_mut_ptr();
        header.msg_hdr.msg_iovlen = used;
        header.msg_hdr.msg_flags = 0;
        header.msg_hdr.msg_controllen = write_control(&train, control);
        header.msg_hdr.msg_control = match header.msg_hdr.msg_controllen {
            0 => ptr::null_mut(),
            _ => control.0.as_mut_ptr().cast(),
        };
        self.vectors += used;
        self.count += 1;
    }

    /// Sends the messages, in order, up to the first that the system would not take.
    ///
    /// An ICMP error about an earlier datagram makes the next call fail, whatever it sends, and is told by that: what
    /// is refused is therefore tried once more.
    ///
    /// # Errors
    /// How many were sent before that one, and what is wrong with it.
    pub(crate) fn send(self, socket: RawFd) -> Result<(), (usize, io::Error)> {
        let (mut done, mut again) = (0, true);
        while let Some(rest) = self.messages.headers.get_mut(done..self.count).filter(|rest| !rest.is_empty())
        {
            // SAFETY: the headers point to names and controls of `messages`, which is borrowed, and to bytes that
            // live for 'd; sending writes to none of them.
            let sent = unsafe { send_messages(socket, rest) };
            match sent {
                Ok(sent) => {
                    done += usize::try_from(sent).unwrap_or(0);
                    again = true;
                }
                Err(error) if again && may_be_about_another(&error) => again = false,
                Err(error) => return Err((done, error)),
            }
        }
        Ok(())
    }
}

/// One `sendmmsg`: how many messages were sent, or what is wrong with the first.
///
/// # Safety
/// The headers point to what is valid for reading as long as the call takes.
unsafe fn send_messages(socket: RawFd, messages: &mut [libc::mmsghdr]) -> io::Result<libc::c_int> {
    #[cfg(test)]
    let messages = super::refusals::before(messages)?;
    let length = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    // SAFETY: what the caller promises; the length is that of the slice.
    check(unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), length, libc::MSG_DONTWAIT) })
}

/// Whether a refusal may be an ICMP error about an earlier datagram: what the system makes of one.
pub(crate) fn may_be_about_another(error: &io::Error) -> bool {
    let made_of_icmp = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EOPNOTSUPP,
        libc::ENOPROTOOPT,
        libc::EPROTO,
        libc::EACCES,
        libc::EMSGSIZE,
    ];
    error.raw_os_error().is_some_and(|code| made_of_icmp.contains(&code))
}

pub(super) fn read_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_address(address: SocketAddr, name: &mut libc::sockaddr_storage) -> u32 {
    let name: *mut libc::sockaddr_storage = name;
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: sockaddr_storage is large enough and aligned for a sockaddr_in, and has been zeroed once.
            let v4 = unsafe { &mut *name.cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = address.ip().to_bits().to_be();
            size_of_u32::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: sockaddr_storage is large enough and aligned for a sockaddr_in6, and has been zeroed once.
            let v6 = unsafe { &mut *name.cast::<libc::sockaddr_in6>() };
            v6.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
            v6.sin6_port = address.port().to_be();
            v6.sin6_flowinfo = 0;
            v6.sin6_addr.s6_addr = address.ip().octets();
            v6.sin6_scope_id = address.scope_id();
            size_of_u32::<libc::sockaddr_in6>()
        }
    }
}

/// What the control messages say of a received datagram.
fn read_control(header: &libc::mmsghdr, from: SocketAddr) -> Received {
    let length = header.msg_len as usize;
    let mut received = Received { length, from, destination: None, segment: None };
    // SAFETY: the header's control buffer and length are those the system has filled in; each control message's
    // data is read unaligned and only when its type says what it is.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // The address of this host that it came in at, also where it was sent to a broadcast address.
                    let ip = Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr));
                    received.destination = Some(ip.into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    received.destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).unwrap_or(0);
                    received.segment = Some(size).filter(|size| (1..length).contains(size));
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(&raw const header.msg_hdr, control);
        }
    }
    received
}

/// Writes what the system has to know about a train; the length written.
fn write_control(train: &Train, control: &mut Control) -> usize {
    let mut used = 0;
    match train.source {
        None => {}
        Some(IpAddr::V4(ip)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: ip.to_bits().to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            used += write_one(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            used += write_one(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    if let Some(segment) = train.segment {
        used += write_one(control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    used
}

fn write_one<T>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, data: T) -> usize {
    // SAFETY: CMSG_SPACE and CMSG_LEN compute sizes only.
    let (space, length) = unsafe {
        (libc::CMSG_SPACE(size_of_u32::<T>()) as usize, libc::CMSG_LEN(size_of_u32::<T>()) as usize)
    };
    assert!(at.is_multiple_of(8) && at + space <= control.0.len(), "control messages fit and are aligned");
    // SAFETY: the buffer is aligned to eight and `at` a multiple of it; the assertion says that all of the message,
    // header and data, lies in the buffer.
    unsafe {
        let header = ptr::from_mut(control).byte_add(at).cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = length;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(data);
    }
    space
}

// SAFETY: the raw pointers inside are set and used within one call; between calls they are never followed.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Messages({})", self.headers.len())
    }
}
