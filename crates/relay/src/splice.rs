//! Connections with peers, and the pairs that they and clients' data connections are spliced to: bytes in on one side,
//! the same bytes out on the other, never waiting, never more of them held than one read brings, and none read while a
//! rate is used up. RFC 6062 §4.5.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, TcpStream};

use slab::Slab;
use socket2::{Domain, SockAddr};
use turn::{Allowance, ConnectFailed, ConnectionId, Direction};

use crate::StreamLimits;
use crate::held::{Held, Hold};
use crate::link::{Link, is_transient};
use crate::relayed_tcp::relay_socket;
use crate::sys::{Epoll, Event, Interest};
use crate::tls::Records;
use crate::worker::Token;

/// The most that is read at once, and so the most that waits for either side of a pair: 512 MiB when all pairs that a
/// worker may have wait on both sides.
pub(crate) const CHUNK: usize = 16 << 10;
/// Reads from one side before the worker looks at other sockets again.
const READS_PER_ROUND: usize = 4;

/// The connections with peers of one worker.
#[derive(Debug)]
pub(crate) struct Splices {
    slab: Slab<Splice>,
    by_id: HashMap<ConnectionId, usize>,
    /// When to look at a pair's deadline; entries may outlive their pair.
    checks: BTreeSet<(u64, usize)>,
    closed: Vec<usize>,
    held: Held,
    limits: StreamLimits,
}

#[derive(Debug)]
struct Splice {
    id: ConnectionId,
    peer: End,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The peer has not answered yet.
    Connecting,
    /// Nobody looks at it. RFC 6062 §5.3: what the peer sends stays in the system's buffer, whose room is told as the
    /// window.
    Waiting,
    Open(Box<Pair>),
    /// Until the end of the round: events of it may be on their way, and its number must not be another's by then.
    Closed,
}

/// What a data connection adds to a connection with a peer.
#[derive(Debug)]
struct Pair {
    client: End,
    to_peer: Flow,
    to_client: Flow,
    /// When bytes went through last, or one side ended.
    moved_ms: u64,
    /// When its deadline is looked at next.
    check_ms: u64,
}

/// One side.
#[derive(Debug)]
struct End {
    link: Link,
    token: Token,
    /// What was read of it before it became a side: to be read first.
    early: Vec<u8>,
    /// What epoll waits for; `None`: it does not look at it.
    watched: Option<Interest>,
    /// Both ways are closed, and epoll would say so for ever; what was received can still be read.
    is_hung: bool,
    /// Nothing more can be read or written.
    is_dead: bool,
}

/// One direction. Costs no buffer while nothing waits.
#[derive(Debug, Default)]
struct Flow {
    waiting: Vec<u8>,
    /// How much of `waiting` is sent.
    sent: usize,
    /// No more will be read.
    is_ended: bool,
    /// And all that was read is sent, and the other side told so.
    is_done: bool,
    /// A rate is used up until this moment, in monotonic milliseconds.
    used_up_until_ms: Option<u64>,
    /// While it is.
    hold: Option<Hold>,
    /// See [`Hold`].
    turn: Option<u64>,
}

/// How many bytes went which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moved {
    pub(crate) to_peer: u64,
    pub(crate) to_client: u64,
}

/// What an event brought about.
#[derive(Debug)]
pub(crate) enum Progress {
    Nothing,
    /// A connection was made, or could not be.
    Connected(ConnectionId, Result<(), ConnectFailed>),
    Moved(ConnectionId, Moved),
    /// The same, and the pair is over.
    Over(ConnectionId, Moved),
}

/// Which side of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Peer,
    Client,
}

/// What moving needs: a buffer as long as a record, room for records, and the time.
#[derive(Debug)]
pub(crate) struct Room<'r> {
    pub(crate) buffer: &'r mut [u8],
    pub(crate) records: &'r mut Records,
    pub(crate) now_ms: u64,
}

impl End {
    fn new(link: Link, token: Token) -> Self {
        Self { link, token, early: Vec::new(), watched: None, is_hung: false, is_dead: false }
    }

    /// Reads at most so many bytes.
    fn read(&mut self, most: usize, room: &mut Room<'_>) -> io::Result<Option<usize>> {
        let most = most.clamp(1, CHUNK);
        if !self.early.is_empty() {
            let count = most.min(self.early.len());
            room.buffer.iter_mut().zip(self.early.drain(..count)).for_each(|(to, byte)| *to = byte);
            if self.early.is_empty() {
                self.early = Vec::new();
            }
            return Ok(Some(count));
        }
        if !self.link.is_secured() {
            let buffer = room.buffer.get_mut(..most).unwrap_or_default();
            return self.link.read(buffer, room.records, room.now_ms);
        }
        let Some(count) = self.link.read(room.buffer, room.records, room.now_ms)? else { return Ok(None) };
        // A record is opened whole, however little of it may be read.
        self.early.extend_from_slice(room.buffer.get(most..count).unwrap_or_default());
        Ok(Some(count.min(most)))
    }

    /// Whether there is something to read that no event will tell of.
    fn has_more(&self) -> bool {
        !self.early.is_empty() || self.link.is_ended()
    }

    /// Has epoll wait for this and nothing else.
    fn watch(&mut self, epoll: &Epoll, wanted: Option<Interest>) -> io::Result<()> {
        let wanted = wanted.filter(|_| !self.is_hung && !self.is_dead);
        if self.watched == wanted {
            return Ok(());
        }
        match (self.watched, wanted) {
            (None, Some(interest)) => epoll.add(&self.link, self.token.pack(), interest)?,
            (Some(_), Some(interest)) => epoll.modify(&self.link, self.token.pack(), interest)?,
            (_, None) => epoll.remove(&self.link)?,
        }
        self.watched = wanted;
        Ok(())
    }
}

impl Flow {
    fn is_waiting(&self) -> bool {
        self.waiting.len() > self.sent
    }

    /// Sends `bytes` and keeps what the system does not take; how much it took.
    fn write(&mut self, bytes: &[u8], to: &mut End, records: &mut Records) -> usize {
        match to.link.offer(bytes, records) {
            Ok(sent) => {
                self.waiting.extend_from_slice(bytes.get(sent..).unwrap_or_default());
                sent
            }
            Err(error) if is_transient(&error) => {
                self.waiting.extend_from_slice(bytes);
                0
            }
            Err(_) => {
                to.is_dead = true;
                0
            }
        }
    }

    /// Sends what waits; how much.
    fn flush(&mut self, to: &mut End, records: &mut Records) -> usize {
        let before = self.sent;
        match to.link.flush() {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(_) => {
                to.is_dead = true;
                return 0;
            }
        }
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match to.link.offer(rest, records) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.sent - before,
                Err(_) => {
                    to.is_dead = true;
                    return self.sent - before;
                }
            }
        }
        let flushed = self.sent - before;
        (self.waiting, self.sent) = (Vec::new(), 0);
        flushed
    }

    /// Moves what can be moved from one side to the other; how many bytes went out. `pass` is told what is read, and
    /// says how much may be read next. RFC 6062 §5.4: data goes on as it is.
    fn pump(
        &mut self,
        from: &mut End,
        to: &mut End,
        room: &mut Room<'_>,
        mut pass: impl FnMut(usize) -> Allowance,
    ) -> u64 {
        let mut moved = 0;
        let mut reads = 0;
        let mut allowance = None;
        while !self.is_done {
            moved += self.flush(to, room.records);
            if to.is_dead {
                (self.waiting, self.sent) = (Vec::new(), 0);
                (self.is_ended, self.is_done) = (true, true);
            } else if self.is_waiting() || to.link.is_waiting() {
                break;
            } else if self.is_ended || (from.is_dead && from.early.is_empty()) {
                // RFC 6062 §5.5: when one side is closed, so is the other, behind all that came before. It fails where
                // that side is gone.
                let _ = to.link.end();
                (self.is_ended, self.is_done) = (true, true);
            } else if self.hold.is_some() {
                break;
            } else if let Allowance::Until(until_ms) = *allowance.get_or_insert_with(|| pass(0)) {
                self.used_up_until_ms = Some(until_ms);
                break;
            } else if reads >= READS_PER_ROUND && !from.is_hung && !from.has_more() {
                break;
            } else {
                reads += 1;
                let Some(Allowance::Bytes(most)) = allowance.take() else { break };
                match from.read(most, room) {
                    Ok(None) => self.is_ended = true,
                    Ok(Some(0)) => {}
                    Ok(Some(count)) => {
                        allowance = Some(pass(count));
                        self.turn = None;
                        let bytes = room.buffer.get(..count).unwrap_or_default();
                        moved += self.write(bytes, to, room.records);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_transient(&error) && !from.is_hung => break,
                    Err(_) => from.is_dead = true,
                }
            }
        }
        moved as u64
    }
}

// RFC 6062 §3: while one side cannot be written to, the other is not read.
/// What to wait for on a side: reading while nothing waits for the other side and no rate is used up, writing while
/// something waits for it.
fn interest((inward, to): (&Flow, &Link), (outward, own): (&Flow, &Link)) -> Interest {
    let reads = !inward.is_ended && !inward.is_waiting() && !to.is_waiting() && inward.hold.is_none();
    match (reads, outward.is_waiting() || own.is_waiting()) {
        (true, true) => Interest::ReadWrite,
        (true, false) => Interest::Read,
        (false, true) => Interest::Write,
        (false, false) => Interest::Nothing,
    }
}

impl Splices {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self {
            slab: Slab::new(),
            by_id: HashMap::new(),
            checks: BTreeSet::new(),
            closed: Vec::new(),
            held: Held::default(),
            limits,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn insert(&mut self, id: ConnectionId, stream: TcpStream, stage: Stage) -> io::Result<usize> {
        let entry = self.slab.vacant_entry();
        let index = entry.key();
        let number = u32::try_from(index).map_err(|_| io::ErrorKind::OutOfMemory)?;
        entry.insert(Splice { id, peer: End::new(Link::new(stream), Token::Peer(number)), stage });
        self.by_id.insert(id, index);
        Ok(index)
    }

    /// Begins to connect from a relayed address to a peer; what comes of it is told by [`Splices::ready`].
    pub(crate) fn connect(
        &mut self,
        id: ConnectionId,
        local: &SockAddr,
        peer: SocketAddr,
        epoll: &Epoll,
    ) -> io::Result<()> {
        let socket = relay_socket(Domain::for_address(peer))?;
        socket.set_reuse_port(true)?;
        // RFC 6062 §5.2: the local endpoint is the relayed transport address.
        socket.bind(local)?;
        match socket.connect(&SockAddr::from(peer)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let index = self.insert(id, socket.into(), Stage::Connecting)?;
        let watched = match self.slab.get_mut(index) {
            Some(splice) => splice.peer.watch(epoll, Some(Interest::Write)),
            None => Ok(()),
        };
        watched.inspect_err(|_| self.close(id))
    }

    /// Keeps a connection that a peer has made until it is bound.
    pub(crate) fn hold(&mut self, id: ConnectionId, stream: TcpStream) -> io::Result<()> {
        self.insert(id, stream, Stage::Waiting).map(|_| ())
    }

    /// Makes a pair of a connection with a peer and a client's connection. `data` came behind the request.
    ///
    /// # Errors
    /// When the client's connection cannot be used; the other one is as it was.
    pub(crate) fn bind(
        &mut self,
        id: ConnectionId,
        link: Link,
        data: &[u8],
        epoll: &Epoll,
        now_ms: u64,
    ) -> io::Result<usize> {
        let index = self.by_id.get(&id).copied().ok_or(io::ErrorKind::NotFound)?;
        let token = Token::Data(u32::try_from(index).map_err(|_| io::ErrorKind::OutOfMemory)?);
        let splice = self.slab.get_mut(index).ok_or(io::ErrorKind::NotFound)?;
        let mut client = End::new(link, token);
        // So far it is waited for as what it was before.
        epoll.modify(&client.link, token.pack(), Interest::Nothing)?;
        client.watched = Some(Interest::Nothing);
        client.early = data.to_vec();
        let to_client = Flow::default();
        let check_ms = now_ms.saturating_add(self.limits.pair_idle_ms);
        let to_peer = Flow::default();
        let pair = Pair { client, to_peer, to_client, moved_ms: now_ms, check_ms };
        splice.stage = Stage::Open(Box::new(pair));
        self.checks.insert((check_ms, index));
        Ok(index)
    }

    /// Does what an event, the making of a pair, or a rate that is regained allows. `pass` is told what is read, and
    /// says how much may be read next.
    pub(crate) fn ready(
        &mut self,
        index: usize,
        event: Option<(Side, Event)>,
        epoll: &Epoll,
        room: &mut Room<'_>,
        pass: &mut impl FnMut(ConnectionId, Direction, usize) -> Allowance,
    ) -> Progress {
        let now_ms = room.now_ms;
        let Some(Splice { id, peer, stage }) = self.slab.get_mut(index) else { return Progress::Nothing };
        let id = *id;
        let pair = match stage {
            Stage::Connecting => {
                let made = {
                    let stream = peer.link.stream();
                    matches!(stream.take_error(), Ok(None)) && stream.peer_addr().is_ok()
                };
                let made = made && peer.watch(epoll, None).is_ok();
                if made {
                    *stage = Stage::Waiting;
                } else {
                    self.close(id);
                }
                return Progress::Connected(id, if made { Ok(()) } else { Err(ConnectFailed) });
            }
            Stage::Waiting | Stage::Closed => return Progress::Nothing,
            Stage::Open(pair) => pair,
        };
        if let Some((side, Event { hung: true, .. })) = event {
            pair.hang_up(peer, side);
        }
        let was_half_open = pair.is_half_open();
        let moved = pair.pump(peer, room, &mut |direction, bytes| pass(id, direction, bytes));
        pair.hold(index, now_ms, &mut self.held);
        let ends_now = pair.is_half_open() && !was_half_open;
        if moved != Moved::default() || ends_now {
            pair.moved_ms = now_ms;
        }
        let watched = pair.watch(peer, epoll);
        if watched.is_err() || (pair.to_peer.is_done && pair.to_client.is_done) {
            self.close(id);
            return Progress::Over(id, moved);
        }
        if ends_now {
            pair.check_ms = now_ms.saturating_add(self.limits.pair_half_open_ms);
            self.checks.insert((pair.check_ms, index));
        }
        Progress::Moved(id, moved)
    }

    /// Closes a connection with a peer, and its data connection, at the end of the round.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        if let Some(index) = self.by_id.remove(&id) {
            if let Some(splice) = self.slab.get_mut(index) {
                if let Stage::Open(pair) = &mut splice.stage {
                    pair.let_go(index, &mut self.held);
                }
                splice.stage = Stage::Closed;
            }
            self.closed.push(index);
        }
    }

    /// Forgets what is closed.
    pub(crate) fn sweep(&mut self) {
        for index in self.closed.drain(..) {
            self.slab.try_remove(index);
        }
    }

    /// When a pair has to be looked at next.
    pub(crate) fn next_check(&self) -> Option<u64> {
        let check = self.checks.first().map(|(at, _)| *at);
        check.into_iter().chain(self.held.next_ms()).min()
    }

    /// A pair of which a rate is regained: [`Splices::ready`] without an event is next. Call until there is none.
    pub(crate) fn resumed(&mut self, now_ms: u64) -> Option<usize> {
        let (index, direction) = self.held.pop(now_ms)?;
        if let Some(flow) = self.flow(index, direction) {
            flow.hold = None;
        }
        Some(index)
    }

    /// Limits have changed: what is held is asked about again, in the same order.
    pub(crate) fn reconsider(&mut self, now_ms: u64) {
        for (index, direction) in self.held.pop_all() {
            if let Some(turn) = self.flow(index, direction).and_then(|flow| flow.turn) {
                let hold = self.held.insert((index, direction), (0, now_ms), Some(turn));
                self.flow(index, direction).into_iter().for_each(|flow| flow.hold = Some(hold));
            }
        }
    }

    fn flow(&mut self, index: usize, direction: Direction) -> Option<&mut Flow> {
        match (&mut self.slab.get_mut(index)?.stage, direction) {
            (Stage::Open(pair), Direction::ToPeer) => Some(&mut pair.to_peer),
            (Stage::Open(pair), Direction::ToClient) => Some(&mut pair.to_client),
            _ => None,
        }
    }

    /// How often a flow was held because a rate was used up.
    pub(crate) fn hold_count(&self) -> u64 {
        self.held.count()
    }

    /// A pair that has to be closed because a deadline has passed; call until there is none.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Option<ConnectionId> {
        while let Some((at, index)) = self.checks.first().copied()
            && at <= now_ms
        {
            self.checks.remove(&(at, index));
            let Some(Splice { id, stage: Stage::Open(pair), .. }) = self.slab.get_mut(index) else {
                continue;
            };
            if pair.check_ms != at {
                continue;
            }
            let StreamLimits { pair_half_open_ms, pair_idle_ms, .. } = self.limits;
            let allowed_ms = if pair.is_half_open() { pair_half_open_ms } else { pair_idle_ms };
            let due_ms = pair.moved_ms.saturating_add(allowed_ms);
            if due_ms <= now_ms {
                return Some(*id);
            }
            pair.check_ms = due_ms;
            self.checks.insert((due_ms, index));
        }
        None
    }
}

impl Pair {
    fn is_half_open(&self) -> bool {
        self.to_peer.is_ended || self.to_client.is_ended
    }

    /// A side is closed both ways: what was received can be read, and no more.
    fn hang_up(&mut self, peer: &mut End, side: Side) {
        let (end, inward) = match side {
            Side::Peer => (peer, &self.to_client),
            Side::Client => (&mut self.client, &self.to_peer),
        };
        end.is_hung = true;
        end.is_dead |= inward.is_ended;
    }

    /// Moves what can be moved, until neither side turns out to be dead.
    fn pump(
        &mut self,
        peer: &mut End,
        room: &mut Room<'_>,
        pass: &mut impl FnMut(Direction, usize) -> Allowance,
    ) -> Moved {
        let mut moved = Moved::default();
        loop {
            let before = (peer.is_dead, self.client.is_dead);
            let Self { client, to_peer, to_client, .. } = self;
            moved.to_peer += to_peer.pump(client, peer, room, |bytes| pass(Direction::ToPeer, bytes));
            moved.to_client += to_client.pump(peer, client, room, |bytes| pass(Direction::ToClient, bytes));
            if before == (peer.is_dead, self.client.is_dead) {
                return moved;
            }
        }
    }

    fn flows(&mut self) -> [(Direction, &mut Flow); 2] {
        [(Direction::ToPeer, &mut self.to_peer), (Direction::ToClient, &mut self.to_client)]
    }

    /// Holds what has used up a rate.
    fn hold(&mut self, index: usize, now_ms: u64, held: &mut Held) {
        for (direction, flow) in self.flows() {
            if let Some(until_ms) = flow.used_up_until_ms.take() {
                let hold = held.insert((index, direction), (until_ms, now_ms), flow.turn);
                (flow.hold, flow.turn) = (Some(hold), Some(hold.turn));
            }
        }
    }

    /// Holds nothing any more.
    fn let_go(&mut self, index: usize, held: &mut Held) {
        for (direction, flow) in self.flows() {
            if let Some(hold) = flow.hold.take() {
                held.remove((index, direction), hold);
            }
        }
    }

    /// Waits for what can happen next on either side.
    fn watch(&mut self, peer: &mut End, epoll: &Epoll) -> io::Result<()> {
        let of_peer = interest((&self.to_client, &self.client.link), (&self.to_peer, &peer.link));
        let of_client = interest((&self.to_peer, &peer.link), (&self.to_client, &self.client.link));
        peer.watch(epoll, Some(of_peer))?;
        self.client.watch(epoll, Some(of_client))
    }
}

#[cfg(test)]
mod tests;
