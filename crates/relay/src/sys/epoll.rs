//! Waiting: epoll and the eventfd that wakes a worker.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// What an epoll instance waits for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Only errors, which are always told.
    Nothing,
    Read,
    Write,
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Read => libc::EPOLLIN as u32,
            Self::Write => libc::EPOLLOUT as u32,
            Self::ReadWrite => (libc::EPOLLIN | libc::EPOLLOUT) as u32,
        }
    }
}

/// Something is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) token: u64,
    pub(crate) writable: bool,
    /// An error waits to be taken.
    pub(crate) failed: bool,
    /// Closed both ways, or broken.
    pub(crate) hung: bool,
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

    pub(crate) fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_fd().as_raw_fd(), 0, Interest::Read)
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
            let failed = event.events & libc::EPOLLERR as u32 != 0;
            let hung = event.events & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0;
            Event { token: event.u64, writable, failed, hung }
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
