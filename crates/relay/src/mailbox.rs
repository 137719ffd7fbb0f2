//! What reaches a worker from other threads: commands for all of them, and letters from one worker to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use turn::{Client, Command, FiveTuple, Note, WorkerId};

use crate::link::Link;
use crate::sys::Wake;
use crate::worker::Move;

/// Messages that may wait for one worker. Whoever gives the next command waits; a letter is handed back.
const INBOX: usize = 1_024;

/// Packets among them, and their bytes together: whoever floods an old path leaves room for all else.
const PARCELS: usize = 256;
const PARCEL_BYTES: usize = 4 << 20;

/// Messages that a worker reads before it looks at its sockets again.
const MESSAGES_PER_ROUND: usize = 256;

/// What is told to a worker.
#[derive(Debug)]
pub(crate) enum Message {
    Command(Command),
    /// Begin to serve clients.
    Admit,
    Stop,
    /// From another worker.
    Letter(Letter),
}

/// What one worker has for another: it owns all that it names, so a letter that is never read loses nothing but
/// itself.
#[derive(Debug)]
pub(crate) enum Letter {
    /// Between servers.
    Note(Note),
    /// An allocation with its sockets.
    Move(Move),
    /// What a client has sent to worker `from`, for an allocation that has moved on; or the same, passed back.
    FromClient { from: WorkerId, client: Client, parcel: Parcel, is_back: bool },
    /// For a client on a stream, from where its allocation has moved to.
    ToClient { from: WorkerId, client: Client, parcel: Parcel },
    /// A client's connection that brought a ConnectionBind for one of your allocations: the request and what was read
    /// behind it. RFC 6062 §5.4.
    Connection { link: Box<Link>, client: FiveTuple, bytes: Vec<u8> },
}

/// How many packets are under way to one worker, and their bytes.
#[derive(Debug, Default)]
struct Parcels {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// A packet on its way to another worker, counted until it is read.
#[derive(Debug)]
pub(crate) struct Parcel {
    bytes: Box<[u8]>,
    counted: usize,
    under_way: Arc<Parcels>,
}

impl Parcel {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.under_way.count.fetch_sub(1, Ordering::Relaxed);
        self.under_way.bytes.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    inbox: SyncSender<Message>,
    parcels: Arc<Parcels>,
    wake: Arc<Wake>,
}

impl Mailbox {
    /// A mailbox, and what its worker reads it with.
    pub(crate) fn new() -> std::io::Result<(Self, Inbox)> {
        let (inbox, messages) = sync_channel(INBOX);
        let wake = Arc::new(Wake::new()?);
        Ok((Self { inbox, parcels: Arc::default(), wake: Arc::clone(&wake) }, Inbox { messages, wake }))
    }

    /// Puts a message in, and waits while the box is full. Not for workers: two that wait for each other never end.
    pub(crate) fn send(&self, message: Message) {
        // It fails only when the worker has ended, and then there is nobody left to tell.
        if self.inbox.send(message).is_ok() {
            self.wake.wake();
        }
    }

    fn parcel(&self, bytes: &[u8]) -> Option<Parcel> {
        let count = self.parcels.count.fetch_add(1, Ordering::Relaxed);
        let held = self.parcels.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let under_way = Arc::clone(&self.parcels);
        let empty = Parcel { bytes: Box::default(), counted: bytes.len(), under_way };
        let fits = count < PARCELS && held + bytes.len() <= PARCEL_BYTES;
        fits.then(|| {
            let mut parcel = empty;
            parcel.bytes = bytes.into();
            parcel
        })
    }

    fn post(&self, letter: Letter) -> Result<(), Letter> {
        match self.inbox.try_send(Message::Letter(letter)) {
            Ok(()) => {
                self.wake.wake();
                Ok(())
            }
            Err(
                TrySendError::Full(Message::Letter(letter))
                | TrySendError::Disconnected(Message::Letter(letter)),
            ) => Err(letter),
            Err(_) => Ok(()),
        }
    }
}

/// A worker's end of its mailbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    messages: Receiver<Message>,
    /// Readable when there may be a message.
    pub(crate) wake: Arc<Wake>,
}

impl Inbox {
    /// What one round reads. When there may be more, the worker is woken again.
    pub(crate) fn round(&self) -> Vec<Message> {
        self.wake.clear();
        let messages: Vec<Message> = self.messages.try_iter().take(MESSAGES_PER_ROUND).collect();
        if messages.len() == MESSAGES_PER_ROUND {
            self.wake.wake();
        }
        messages
    }
}

/// The ways to every worker of the process, by its number.
#[derive(Debug, Clone)]
pub(crate) struct Colleagues(Arc<[Mailbox]>);

impl Colleagues {
    pub(crate) fn new(mailboxes: &[Mailbox]) -> Self {
        Self(mailboxes.into())
    }

    /// Packs a packet for a worker; `None` when too many are under way to it already.
    pub(crate) fn parcel(&self, to: WorkerId, bytes: &[u8]) -> Option<Parcel> {
        self.0.get(usize::from(to.0))?.parcel(bytes)
    }

    /// Gives a letter to a worker without ever waiting.
    ///
    /// # Errors
    /// Hands the letter back when there is no such worker, it has ended, or its mailbox is full.
    pub(crate) fn post(&self, to: WorkerId, letter: Letter) -> Result<(), Letter> {
        match self.0.get(usize::from(to.0)) {
            Some(mailbox) => mailbox.post(letter),
            None => Err(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Epoll, Interest};

    #[test]
    fn packets_leave_room_for_all_else() {
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let colleagues = Colleagues::new(std::slice::from_ref(&mailbox));
        let pack = |size: usize| colleagues.parcel(WorkerId(0), &vec![0; size]);
        for size in [0, 65_536] {
            let most = if size == 0 { 256 } else { 64 };
            let mut parcels: Vec<_> = (0..most).map(|_| pack(size).unwrap()).collect();
            for _ in 0..3 {
                assert!(pack(size).is_none(), "one too many of {size} bytes");
            }
            parcels.pop();
            assert!(pack(size).is_some(), "there is room again");
        }
        assert!(colleagues.parcel(WorkerId(1), b"x").is_none(), "nobody is there");
        // What is not a packet has the rest.
        for _ in 0..INBOX {
            mailbox.send(Message::Admit);
        }
        assert_eq!(inbox.round().len(), MESSAGES_PER_ROUND);
    }

    #[test]
    fn who_is_flooded_looks_up_after_each_round() {
        let (mailbox, inbox) = Mailbox::new().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&*inbox.wake, 1, Interest::Read).unwrap();
        let is_woken = || {
            let mut events = Vec::new();
            epoll.wait(&mut events, Some(0)).unwrap();
            !events.is_empty()
        };
        for _ in 0..=MESSAGES_PER_ROUND {
            mailbox.send(Message::Admit);
        }
        assert!(is_woken());
        assert_eq!(inbox.round().len(), MESSAGES_PER_ROUND);
        assert!(is_woken(), "there is more");
        assert_eq!(inbox.round().len(), 1);
        assert!(!is_woken());
    }
}
