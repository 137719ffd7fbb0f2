//! A system that refuses to send, for tests: no device is needed that cannot do what this one can.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::datagram::read_address;
use super::set_option;

/// A message that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) to: SocketAddr,
    /// Whether it is a train.
    pub(crate) is_train: bool,
    /// The size of its first packet.
    pub(crate) size: usize,
}

/// The error that a message is refused with, if it is.
type Refuse = Box<dyn FnMut(Attempt) -> Option<i32>>;

thread_local! {
    static REFUSE: RefCell<Option<Refuse>> = const { RefCell::new(None) };
}

/// From now on this thread's messages are refused when `refuse` says so.
pub(crate) fn refuse(refuse: impl FnMut(Attempt) -> Option<i32> + 'static) {
    REFUSE.set(Some(Box::new(refuse)));
}

/// Has the system itself refuse this socket's trains: it cuts none whose checksums nobody wants.
pub(crate) fn refuse_trains(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, &on).unwrap();
}

/// The messages before the first that is refused; the error when that is the first of all. So does the system.
pub(super) fn before(messages: &mut [libc::mmsghdr]) -> io::Result<&mut [libc::mmsghdr]> {
    REFUSE.with_borrow_mut(|refuse| {
        let Some(refuse) = refuse else { return Ok(&mut *messages) };
        for index in 0..messages.len() {
            let header = &messages[index].msg_hdr;
            // SAFETY: the caller is about to send what these point to.
            let (name, first) = unsafe { (&*header.msg_name.cast(), &*header.msg_iov) };
            let to = read_address(name).unwrap();
            let attempt = Attempt { to, is_train: header.msg_iovlen > 1, size: first.iov_len };
            match (refuse(attempt), index) {
                (None, _) => {}
                (Some(code), 0) => return Err(io::Error::from_raw_os_error(code)),
                // What is wrong with it is told by the next call, for which it is the first; it is asked for again.
                (Some(_), _) => return Ok(&mut messages[..index]),
            }
        }
        Ok(&mut *messages)
    })
}
