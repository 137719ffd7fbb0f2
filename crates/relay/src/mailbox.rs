//! What reaches a worker from other threads: commands for all of them, and letters from one worker to another.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use turn::{Client, Command, FiveTuple, Note, WorkerId};

use crate::sys::Wake;
use crate::worker::Move;

/// Messages that may wait for one worker. Whoever gives the next command waits; a letter is handed back.
const INBOX: usize = 1_024;

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
    FromClient { from: WorkerId, client: Client, bytes: Vec<u8>, is_back: bool },
    /// For a client on a stream, from where its allocation has moved to.
    ToClient { client: Client, bytes: Vec<u8> },
    /// A client's connection that brought a ConnectionBind for one of your allocations: the request and what was read
    /// behind it. RFC 6062 §5.4.
    Connection { stream: TcpStream, client: FiveTuple, bytes: Vec<u8> },
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    inbox: SyncSender<Message>,
    wake: Arc<Wake>,
}

impl Mailbox {
    /// A mailbox, and what its worker reads it with.
    pub(crate) fn new() -> std::io::Result<(Self, Inbox)> {
        let (inbox, messages) = sync_channel(INBOX);
        let wake = Arc::new(Wake::new()?);
        Ok((Self { inbox, wake: Arc::clone(&wake) }, Inbox { messages, wake }))
    }

    /// Puts a message in, and waits while the box is full. Not for workers: two that wait for each other never end.
    pub(crate) fn send(&self, message: Message) {
        // It fails only when the worker has ended, and then there is nobody left to tell.
        if self.inbox.send(message).is_ok() {
            self.wake.wake();
        }
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
    pub(crate) messages: Receiver<Message>,
    /// Readable when there may be a message.
    pub(crate) wake: Arc<Wake>,
}

/// The ways to every worker of the process, by its number.
#[derive(Debug, Clone)]
pub(crate) struct Colleagues(Arc<[Mailbox]>);

impl Colleagues {
    pub(crate) fn new(mailboxes: &[Mailbox]) -> Self {
        Self(mailboxes.into())
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
