//! The error queue of a UDP socket: what the network said of datagrams that it sent.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use turn::Icmp;

use super::datagram::read_address;
use super::{check, set_option, size_of_u32};

/// Room for one extended error with the address of who reports it, and what else the system adds.
#[repr(C, align(8))]
struct Control([u8; 256]);

/// Has the system keep ICMP errors about what this socket sends. From then on such an error also makes the next call
/// on the socket fail once.
pub(crate) fn keep_errors(socket: &impl AsFd, v4: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    if v4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, &on)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &on)
    }
}

/// What is taken from an error queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// An ICMP error about a datagram to this peer.
    Icmp(SocketAddr, Icmp),
    /// An error of another kind.
    Other,
    /// There is none any more.
    Nothing,
}

/// Takes the oldest error from the queue.
pub(crate) fn take_error(socket: &impl AsFd) -> io::Result<Taken> {
    // SAFETY: all of these are plain data for which zeroes (null pointers included) are valid values.
    let (mut header, mut name): (libc::msghdr, libc::sockaddr_storage) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut control = Control([0; 256]);
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_namelen = size_of_u32::<libc::sockaddr_storage>();
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the header points to a name and a control buffer of the lengths given, and to no other memory.
    let taken = unsafe { libc::recvmsg(fd, &raw mut header, flags) };
    match check(libc::c_int::try_from(taken).unwrap_or(0)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
        Err(error) => return Err(error),
    }
    let icmp = read_address(&name).and_then(|peer| Some(Taken::Icmp(peer, read_icmp(&header, peer)?)));
    Ok(icmp.unwrap_or(Taken::Other))
}

fn read_icmp(header: &libc::msghdr, peer: SocketAddr) -> Option<Icmp> {
    let v4 = peer.is_ipv4();
    let kind =
        if v4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    // SAFETY: the header's control buffer and length are those the system has filled in; the message's data is read
    // unaligned, and only where its type says that it is an extended error.
    let error = unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() && ((*control).cmsg_level, (*control).cmsg_type) != kind {
            control = libc::CMSG_NXTHDR(header, control);
        }
        if control.is_null() {
            return None;
        }
        libc::CMSG_DATA(control).cast::<libc::sock_extended_err>().read_unaligned()
    };
    match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            Some(Icmp { kind: error.ee_type, code: error.ee_code, data: error.ee_info })
        }
        // This host would not send it whole: the first link is too narrow already, and nobody else will say so.
        libc::SO_EE_ORIGIN_LOCAL if i32::try_from(error.ee_errno) == Ok(libc::EMSGSIZE) => {
            Some(Icmp::too_big(v4, error.ee_info))
        }
        _ => None,
    }
}
