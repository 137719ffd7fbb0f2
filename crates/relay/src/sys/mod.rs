//! What the system offers and the standard library does not: epoll, eventfd, batched datagrams.
#![expect(unsafe_code, reason = "system calls")]

mod datagram;
mod epoll;
mod errors;
#[cfg(test)]
pub(crate) mod refusals;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

pub(crate) use datagram::{
    MAX_TRAIN_BYTES, MAX_TRAIN_PACKETS, Messages, Received, Train, may_be_about_another,
};
pub(crate) use epoll::{Epoll, Event, Interest, Wake};
pub(crate) use errors::{Taken, keep_errors, take_error};

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

/// Has the allocator give the system what it keeps for later. It stops other threads' allocations meanwhile.
pub(crate) fn give_back_memory() {
    // SAFETY: it has no precondition.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
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

/// Has the system hand up datagrams of one sender together, where it received them so; whether it does.
pub(crate) fn receive_coalesced(socket: &impl AsFd) -> bool {
    let on: libc::c_int = 1;
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, &on).is_ok()
}

/// Whether a socket's datagrams carry the DF bit and are refused where they do not fit, or may be cut.
pub(crate) fn path_mtu_discovery(socket: &impl AsFd, v4: bool, on: bool) -> io::Result<()> {
    if v4 {
        let mode = if on { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_WANT };
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &mode)
    } else {
        let mode = if on { libc::IPV6_PMTUDISC_DO } else { libc::IPV6_PMTUDISC_WANT };
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &mode)
    }
}
