//! What the system offers and the standard library does not: epoll, eventfd, batched datagrams.
#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of system structures are small")]
fn size_of_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// 32 bytes from the system's generator.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // SAFETY: the pointer and length are those of `bytes`.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(read) == Ok(bytes.len()) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open files to the hard one: every allocation has a socket.
pub(crate) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls; neither keeps the pointer.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn set_option<T>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let value: *const T = value;
    // SAFETY: `value` points to a `T` and its size is given.
    check(unsafe { libc::setsockopt(fd, level, name, value.cast(), size_of_u32::<T>()) }).map(|_| ())
}

/// Asks for a receive buffer, beyond the system's maximum where the process may.
pub(crate) fn set_receive_buffer(socket: &socket2::Socket, bytes: usize) {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &wanted).is_err() {
        // A smaller buffer is still a buffer.
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// Has the system say which local address each datagram came to.
pub(crate) fn receive_destination(socket: &socket2::Socket, v4: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    if v4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)
    }
}

/// What an epoll instance waits for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        match self {
            Self::Read => libc::EPOLLIN as u32,
            Self::ReadWrite => (libc::EPOLLIN | libc::EPOLLOUT) as u32,
        }
    }
}

/// Something is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) token: u64,
    pub(crate) writable: bool,
}

/// A level-triggered epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` is valid for the call, which does not keep the pointer.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) }).map(|_| ())
    }

    /// Waits for a descriptor until it is closed.
    pub(crate) fn add(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_fd().as_raw_fd(), token, interest)
    }

    pub(crate) fn modify(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_fd().as_raw_fd(), token, interest)
    }

    /// Waits until something is ready or the timeout passes; fills `events`.
    pub(crate) fn wait(&self, events: &mut Vec<Event>, timeout_ms: Option<u64>) -> io::Result<()> {
        const MOST: usize = 256;
        let mut raw = [const { MaybeUninit::<libc::epoll_event>::uninit() }; MOST];
        let timeout = timeout_ms.map_or(-1, |ms| libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX));
        events.clear();
        // SAFETY: `raw` has room for the number of events given.
        let ready =
            check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), raw.as_mut_ptr().cast(), 256, timeout) });
        let ready = match ready {
            Ok(ready) => usize::try_from(ready).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        events.extend(raw.iter().take(ready).map(|event| {
            // SAFETY: the system has written the first `ready` events.
            let event = unsafe { event.assume_init() };
            let writable = event.events & libc::EPOLLOUT as u32 != 0;
            Event { token: event.u64, writable }
        }));
        Ok(())
    }
}

/// Wakes a worker from another thread.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`. It fails only when the counter is full: the wake is pending then.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub(crate) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for an IPv6 destination address in a control message.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// Where a datagram came from, and to which local address if the socket was asked to tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes from the slot's start.
    pub(crate) length: usize,
    pub(crate) from: SocketAddr,
    pub(crate) destination: Option<IpAddr>,
}

/// A datagram to send: bytes of a slot, to whom, and from which local address if the socket has several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'d> {
    pub(crate) bytes: &'d [u8],
    pub(crate) to: SocketAddr,
    pub(crate) source: Option<IpAddr>,
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
            vectors: vec![vector; count].into(),
            names: vec![name; count].into(),
            controls: vec![Control([0; 64]); count].into(),
        }
    }

    /// Receives datagrams without waiting, one into each of the slots, until the slots or the datagrams run out.
    /// A datagram longer than its slot is reported with length `None`.
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
            let from = read_address(name).filter(|_| whole);
            each(
                index,
                from.map(|from| Received {
                    length: header.msg_len as usize,
                    from,
                    destination: read_destination(&header.msg_hdr),
                }),
            );
        }
        Ok(received)
    }

    /// Sends datagrams from one socket, in order; how many the system would not take.
    pub(crate) fn send<'d>(&mut self, socket: RawFd, datagrams: impl Iterator<Item = Datagram<'d>>) -> usize {
        let mut count = 0usize;
        let parts =
            self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names).zip(&mut self.controls);
        for ((((header, vector), name), control), datagram) in parts.zip(datagrams) {
            vector.iov_base = datagram.bytes.as_ptr().cast_mut().cast();
            vector.iov_len = datagram.bytes.len();
            header.msg_hdr.msg_namelen = write_address(datagram.to, name);
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_flags = 0;
            header.msg_hdr.msg_controllen = write_source(datagram.source, control);
            header.msg_hdr.msg_control = match header.msg_hdr.msg_controllen {
                0 => ptr::null_mut(),
                _ => control.0.as_mut_ptr().cast(),
            };
            count += 1;
        }
        let mut done = 0;
        let mut failed = 0;
        while let Some(rest) = self.headers.get_mut(done..count).filter(|rest| !rest.is_empty()) {
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            // SAFETY: the headers point to names, controls and bytes that outlive the call; sending writes to none.
            let sent =
                check(unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), length, libc::MSG_DONTWAIT) });
            match sent {
                Ok(sent) => done += usize::try_from(sent).unwrap_or(0),
                // The first of the rest cannot be sent: no route, too long, no buffer. UDP loses it; the others go on.
                Err(_) => {
                    done += 1;
                    failed += 1;
                }
            }
        }
        failed
    }
}

fn read_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
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
            // SAFETY: sockaddr_storage is large enough and aligned for a sockaddr_in; all of it is initialised.
            let v4 = unsafe { &mut *name.cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = address.ip().to_bits().to_be();
            size_of_u32::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: sockaddr_storage is large enough and aligned for a sockaddr_in6; all of it is initialised.
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

/// The local address that a PKTINFO control message names.
fn read_destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the header's control buffer and length are those the system has filled in; each control message's
    // data is read unaligned and only when its type says what it is.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => control = libc::CMSG_NXTHDR(header, control),
            }
        }
    }
    None
}

/// Writes a PKTINFO control message that names the source address to use; its length.
fn write_source(source: Option<IpAddr>, control: &mut Control) -> usize {
    fn write<T>(control: &mut Control, level: libc::c_int, kind: libc::c_int, info: T) -> usize {
        // SAFETY: the buffer is aligned for a cmsghdr and, with 64 bytes, larger than the header and any PKTINFO.
        unsafe {
            let header = ptr::from_mut(control).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size_of_u32::<T>()) as usize;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
            libc::CMSG_SPACE(size_of_u32::<T>()) as usize
        }
    }
    match source {
        None => 0,
        Some(IpAddr::V4(ip)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: ip.to_bits().to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        Some(IpAddr::V6(ip)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            write(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

// SAFETY: the raw pointers inside are set and used within one call; between calls they are never followed.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Messages({})", self.headers.len())
    }
}
