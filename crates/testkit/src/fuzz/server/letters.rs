//! What workers tell each other, and what all of them are told: late, in the order in which each pair writes, and
//! not at all when a mailbox is full.

use std::collections::VecDeque;
use std::net::SocketAddr;

use turn::{Client, Command, FiveTuple, Note, RelayId, Traveller, WorkerId};

use super::world::{WORKERS, World};

/// Whoever tells commands; its letters are never refused.
const OPERATOR: usize = WORKERS;
/// No letter, and no packet, causes more than this.
const MAX_LETTERS: usize = 16;

#[derive(Debug)]
pub(super) enum Letter {
    Note(Note),
    /// An allocation with its sockets.
    Move {
        sockets: Vec<SocketAddr>,
        traveller: Box<Traveller>,
    },
    FromClient {
        client: Client,
        bytes: Vec<u8>,
        is_back: bool,
    },
    ToClient(Client),
    /// A client's connection, and what was read from it.
    Connection {
        client: FiveTuple,
        bytes: Vec<u8>,
    },
    Command(Command),
}

pub(super) fn worker_id(worker: usize) -> WorkerId {
    WorkerId(u16::try_from(worker).unwrap_or(u16::MAX))
}

pub(super) fn number(worker: WorkerId) -> usize {
    assert!(usize::from(worker.0) < WORKERS, "there is such a worker");
    worker.0.into()
}

impl World {
    /// How many allocations are under way, and with how many sockets.
    pub(super) fn under_way(&self) -> (usize, usize) {
        let letters = self.letters.values().flatten();
        letters.fold((0, 0), |(allocations, sockets), letter| match letter {
            Letter::Move { sockets: held, .. } => (allocations + 1, sockets + held.len()),
            _ => (allocations, sockets),
        })
    }

    pub(super) fn post(&mut self, from: usize, to: WorkerId, letter: Letter) -> Result<(), Letter> {
        let to = number(to);
        assert_ne!(from, to, "nobody writes to itself");
        if self.refusing > 0 {
            self.refusing -= 1;
            return Err(letter);
        }
        self.letters.entry((from, to)).or_default().push_back(letter);
        Ok(())
    }

    /// A command for all: the first worker hears it now, the others in their time.
    pub(super) fn tell_all(&mut self, first: usize, command: &Command) {
        for worker in (0..WORKERS).filter(|worker| *worker != first) {
            let letter = Letter::Command(command.clone());
            self.letters.entry((OPERATOR, worker)).or_default().push_back(letter);
        }
        self.command(first, command.clone());
    }

    /// Somebody reads the next letter of somebody.
    pub(super) fn read(&mut self, choice: usize) -> bool {
        let pairs: Vec<(usize, usize)> =
            self.letters.iter().filter(|(_, letters)| !letters.is_empty()).map(|(pair, _)| *pair).collect();
        let Some(pair) = pairs.get(choice % pairs.len().max(1)).copied() else { return false };
        let letter = self.letters.get_mut(&pair).and_then(VecDeque::pop_front);
        let ((from, worker), Some(letter)) = (pair, letter) else { return false };
        match letter {
            Letter::Note(note) => {
                let now = self.now();
                self.server(worker).told(now, note);
                self.settle();
            }
            Letter::Move { sockets, traveller } => self.take_in(worker, &sockets, traveller, false),
            Letter::FromClient { client, bytes, is_back } => {
                self.give_by((worker, Some((from, is_back))), client, &bytes);
            }
            Letter::ToClient(client) => {
                // Another connection from there is another client.
                let is_there = self.clients.iter().any(|path| path.client == client && path.worker == worker);
                if !is_there {
                    self.server(worker).unreachable(&client.five_tuple, worker_id(from));
                    self.settle();
                }
            }
            Letter::Connection { client, bytes } => {
                if let Some(path) = self.clients.iter_mut().find(|path| path.client.five_tuple == client)
                    && std::mem::take(&mut path.is_handed_over)
                {
                    path.connect_to(worker);
                    let client = path.client;
                    self.give_by((worker, None), client, &bytes);
                }
            }
            Letter::Command(command) => self.command(worker, command),
        }
        true
    }

    /// Everybody reads all that there is.
    pub(super) fn read_all(&mut self) {
        let unread: usize = self.letters.values().map(VecDeque::len).sum();
        let mut read = 0;
        while self.read(0) {
            read += 1;
            assert!(read <= MAX_LETTERS * (unread + 1), "the workers come to an end");
        }
    }

    /// All letters are lost, as when the process ends.
    pub(super) fn lose_all(&mut self) {
        for (_, letter) in std::mem::take(&mut self.letters)
            .into_iter()
            .flat_map(|((_, to), all)| all.into_iter().map(move |letter| (to, letter)))
        {
            if let Letter::Move { sockets, .. } = &letter {
                self.observer.lost(sockets);
            }
            drop(letter);
        }
        self.settle();
    }

    /// An allocation leaves a worker, unless the other one's mailbox is full.
    pub(super) fn depart(&mut self, worker: usize, to: WorkerId, mut traveller: Box<Traveller>) {
        let relays: Vec<RelayId> = traveller.relays_mut().map(|relay| *relay).collect();
        let sockets: Vec<SocketAddr> =
            relays.iter().map(|relay| self.sockets(worker).remove(*relay)).collect();
        let now = self.now();
        self.observer.moves(now, &sockets, None);
        let posted = self.post(worker, to, Letter::Move { sockets, traveller });
        if let Err(Letter::Move { sockets, traveller }) = posted {
            self.take_in(worker, &sockets, traveller, true);
        }
    }

    /// An allocation comes to a worker, or stays. What the system gives no room is lost.
    fn take_in(
        &mut self,
        worker: usize,
        sockets: &[SocketAddr],
        mut traveller: Box<Traveller>,
        is_returned: bool,
    ) {
        let now = self.now();
        let held = self.sockets(worker);
        let mut numbers = Vec::new();
        for local in sockets {
            match held.adopt(*local) {
                Ok(relay) => numbers.push(relay),
                Err(_) => {
                    numbers.into_iter().map(|relay| held.remove(relay)).for_each(drop);
                    self.observer.lost(sockets);
                    drop(traveller);
                    return self.settle();
                }
            }
        }
        traveller.relays_mut().zip(numbers).for_each(|(relay, number)| *relay = number);
        self.observer.moves(now, sockets, Some(worker));
        if is_returned {
            // The rest of what it has to tell follows.
            self.server(worker).returned(now, traveller);
        } else {
            self.server(worker).arrived(now, traveller);
            self.settle();
        }
    }
}
