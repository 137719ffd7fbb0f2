//! Packets through a server: in a closed loop, where both ends send as much as they get and never more than a window
//! is on the way, or at a fixed rate, whatever comes back.

use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::callers::{self, Callers};
use crate::datagrams::{self, Batch};
use crate::frames::{Form, Frames, Tag, read_at_client, read_at_peer};
use crate::plan::{Case, Mode};
use crate::sample::{Pace, Sample, Stretch, Tally, histogram, latency};
use crate::stream::Stream;
use crate::subject::Server;

const LOOPBACK: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
const PORTS: usize = 1 << 16;
const READING: Duration = Duration::from_millis(5);

/// Where something is sent from, and what it expects.
#[derive(Debug)]
struct End {
    place: Place,
    /// The end where its packets arrive, and whose packets arrive here.
    partner: usize,
    /// The number of its next packet.
    next: u64,
    /// The number that its partner's next packet has.
    expected: u64,
    /// Those before this number are given up, and were sent anew.
    given_up: u64,
    /// Packets that came and are not answered yet.
    credit: usize,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// The client with this number.
    Client(usize),
    /// The peer, of this relayed address.
    Peer(SocketAddrV4),
}

impl End {
    const fn new(place: Place, partner: usize) -> Self {
        Self { place, partner, next: 0, expected: 0, given_up: 0, credit: 0 }
    }
}

/// How clients reach the server.
enum Front {
    Datagrams { socket: UdpSocket, server: SocketAddrV4 },
    Streams { all: Vec<Stream>, epoll: Epoll, room: Vec<u8> },
}

/// All ends, and what has become of their packets.
struct Ends {
    all: Vec<End>,
    burst: usize,
    /// Ends that have a burst to send.
    ready: Vec<usize>,
    tally: Tally,
    /// What stamps count from, since 1970: the system's clock, by which it also says when a packet came.
    epoch: Duration,
    /// How long packets took that were stamped within this time.
    delays: Option<(std::ops::Range<u64>, Histogram<u64>)>,
}

impl Ends {
    fn now_ns(&self) -> u64 {
        self.stamp(since_1970())
    }

    /// A moment as a stamp.
    fn stamp(&self, at: Duration) -> u64 {
        u64::try_from(at.saturating_sub(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// One packet arrives at an end; `tag` is none when it is not what it should be.
    fn arrive(&mut self, index: usize, tag: Option<Tag>, now_ns: u64) {
        let (Some(end), Some(tag)) = (self.all.get_mut(index), tag) else {
            self.tally.wrong += 1;
            return;
        };
        if tag.sender as usize != end.partner {
            self.tally.wrong += 1;
            return;
        }
        self.tally.received += 1;
        // What is missing in front of this one is sent anew, so that the window stays as wide as it was; should it
        // come after all, it counts, but is not sent again.
        let credit = (tag.number + 1).saturating_sub(end.expected.max(end.given_up));
        if tag.number < end.expected {
            self.tally.reordered += 1;
        }
        end.expected = end.expected.max(tag.number + 1);
        if let Some((counted, delays)) = &mut self.delays {
            if counted.contains(&tag.stamp_ns) {
                delays.saturating_record(now_ns.saturating_sub(tag.stamp_ns));
            }
            return;
        }
        end.credit += usize::try_from(credit).unwrap_or(0);
        while end.credit >= self.burst {
            end.credit -= self.burst;
            self.ready.push(index);
        }
    }
}

pub(crate) struct Load {
    ends: Ends,
    front: Front,
    /// Whose packets are those of all even ends, in the modes that have it.
    peer: Option<UdpSocket>,
    /// Which end a relayed port's packets arrive at.
    of_port: Vec<Option<u32>>,
    batch: Batch,
    form: Form,
    payload: u16,
    from_client: Frames,
    from_peer: Frames,
    /// Packets that each flow keeps on the way.
    share: usize,
}

impl Load {
    /// Allocates, and binds channels or permits peers, as the mode needs it.
    pub(crate) fn start(server: &Server, mode: Mode, case: Case, window: u32) -> anyhow::Result<Self> {
        let form = match mode {
            Mode::Indications => Form::Indication,
            Mode::Binding => Form::Binding,
            _ if server.transport.is_stream() => Form::PaddedChannelData,
            _ => Form::ChannelData,
        };
        let has_peer = !matches!(mode, Mode::Binding | Mode::RelayToRelay);
        let peer = has_peer.then(|| datagrams::socket(LOOPBACK)).transpose()?;
        let at = match &peer {
            Some(peer) => v4(peer.local_addr()?)?,
            None => LOOPBACK,
        };
        let (front, relayed) = if server.transport.is_stream() {
            connect_streams(server, case.clients, at)?
        } else {
            let mut callers = Callers::new(server, case.clients)?;
            let relayed = prepare(&mut callers, mode, at).context("preparing the clients")?;
            (Front::Datagrams { socket: callers.socket, server: callers.server }, relayed)
        };
        let mut of_port = vec![None; PORTS];
        let mut all = Vec::new();
        for index in 0..case.clients {
            let partner = match mode {
                Mode::Binding => index,
                Mode::RelayToRelay => index ^ 1,
                _ => index * 2 + 1,
            };
            all.push(End::new(Place::Client(index), partner));
            if let (true, Some(relayed)) = (has_peer, relayed.get(index)) {
                let end = u32::try_from(all.len())?;
                *of_port.get_mut(usize::from(relayed.port())).context("a port")? = Some(end);
                all.push(End::new(Place::Peer(*relayed), index * 2));
            }
        }
        let tally = Tally::begin();
        let ends =
            Ends { all, burst: case.burst, ready: Vec::new(), tally, epoch: since_1970(), delays: None };
        let share = (window as usize / case.clients).max(case.burst);
        Ok(Self {
            ends,
            front,
            peer,
            of_port,
            batch: Batch::new(),
            form,
            payload: case.payload,
            from_client: Frames::of_client(form, case.payload, at),
            from_peer: Frames::of_peer(case.payload),
            share: share - share % case.burst,
        })
    }

    /// Keeps the loop going for a while and says what it cost the server.
    pub(crate) fn run(&mut self, server: &Server, pace: Pace) -> anyhow::Result<Sample> {
        let mut stretch = Stretch::begin(pace);
        self.ends.tally = Tally::begin();
        self.fill()?;
        let mut sample = loop {
            self.turn(true)?;
            let now = self.ends.tally.last_look();
            if let Some(sample) = stretch.over(now, &self.ends.tally, server)? {
                break sample;
            }
            if now - self.ends.tally.heard > pace.stall {
                self.begin_anew(now)?;
            }
        };
        self.drain(pace)?;
        sample.close(&self.ends.tally);
        Ok(sample)
    }

    /// Sends this many packets a second, both directions together, each at its moment; says how long they took until the
    /// system had them for their receiver. Between any two looks at a socket what is due is sent.
    pub(crate) fn run_at(&mut self, rate: u64, server: &Server, pace: Pace) -> anyhow::Result<Sample> {
        if let Front::Datagrams { socket, .. } = &self.front {
            datagrams::time_arrivals(socket)?;
        }
        if let Some(peer) = &self.peer {
            datagrams::time_arrivals(peer)?;
        }
        let mut stretch = Stretch::begin(pace);
        self.ends.tally = Tally::begin();
        let begun_ns = self.ends.now_ns();
        // Reading what has been taken so far, at the end of the warm time, makes the load itself late.
        let counted = begun_ns + u64::try_from((pace.warm + READING).as_nanos())?..u64::MAX;
        self.ends.delays = Some((counted.clone(), histogram()?));
        let mut due = Due { rate, begun_ns, counted_ns: counted.start, sent: 0, late: histogram()? };
        let mut sample = loop {
            let before = self.ends.tally.received + self.ends.tally.wrong;
            self.send_due(&mut due)?;
            self.receive_at_clients()?;
            self.send_due(&mut due)?;
            self.receive_at_peer()?;
            let found = self.ends.tally.received + self.ends.tally.wrong > before;
            self.ends.tally.looked(Instant::now(), found);
            if let Some(sample) = stretch.over(self.ends.tally.last_look(), &self.ends.tally, server)? {
                break sample;
            }
        };
        self.drain(pace)?;
        sample.close(&self.ends.tally);
        if let Some((_, delays)) = &self.ends.delays {
            sample.latency = Some(latency(delays, &due.late));
        }
        Ok(sample)
    }

    /// Sends what should have gone by now.
    fn send_due(&mut self, due: &mut Due) -> anyhow::Result<()> {
        let now_ns = self.ends.now_ns();
        loop {
            let due_ns = due.begun_ns + due.sent * 1_000_000_000 / due.rate;
            if due_ns > now_ns {
                return Ok(());
            }
            let end = usize::try_from(due.sent)? % self.ends.all.len();
            if due_ns >= due.counted_ns {
                due.late.saturating_record(self.ends.now_ns().saturating_sub(due_ns));
            }
            self.send(end, 1, due_ns)?;
            due.sent += 1;
        }
    }

    /// Nothing comes: what is missing is given up, and as much sent again.
    fn begin_anew(&mut self, now: Instant) -> anyhow::Result<()> {
        let all = &mut self.ends.all;
        let sent: Vec<u64> =
            all.iter().map(|end| all.get(end.partner).map_or(0, |partner| partner.next)).collect();
        for (end, given_up) in all.iter_mut().zip(sent) {
            (end.given_up, end.credit) = (given_up, 0);
        }
        self.ends.tally.heard = now;
        self.ends.tally.stalls += 1;
        self.fill()
    }

    /// Sends nothing any more, and takes what is still on the way.
    fn drain(&mut self, pace: Pace) -> anyhow::Result<()> {
        self.ends.tally.heard = Instant::now();
        while self.ends.tally.received < self.ends.tally.sent {
            self.turn(false)?;
            if self.ends.tally.heard.elapsed() > pace.patience {
                break;
            }
        }
        Ok(())
    }

    /// Every client sends its share, a burst at a time; of two that send to each other, the first.
    fn fill(&mut self) -> anyhow::Result<()> {
        for index in 0..self.ends.all.len() {
            let is_first = self.ends.all.get(index).is_some_and(|end| index <= end.partner);
            for _ in 0..if is_first { self.share / self.ends.burst } else { 0 } {
                self.send(index, self.ends.burst, 0)?;
            }
        }
        Ok(())
    }

    /// Takes what has come, and with `answers` sends as much again. Polling keeps the load from sleeping: it has its
    /// core to itself.
    fn turn(&mut self, answers: bool) -> anyhow::Result<()> {
        let before = self.ends.tally.received + self.ends.tally.wrong;
        self.receive_at_clients()?;
        self.receive_at_peer()?;
        let now = Instant::now();
        let found = self.ends.tally.received + self.ends.tally.wrong > before;
        self.ends.tally.looked(now, found);
        let mut ready = std::mem::take(&mut self.ends.ready);
        for index in ready.drain(..) {
            if answers {
                self.send(index, self.ends.burst, 0)?;
            }
        }
        self.ends.ready = ready;
        Ok(())
    }

    fn receive_at_clients(&mut self) -> anyhow::Result<()> {
        let Self { ends, front, batch, form, payload, peer, .. } = self;
        // Ends of clients are two apart where peers' are between.
        let step = if peer.is_some() { 2 } else { 1 };
        match front {
            Front::Datagrams { socket, .. } => {
                batch.receive(socket)?;
                let now_ns = ends.now_ns();
                for (train, bytes) in batch.trains() {
                    let now_ns = train.at.map_or(now_ns, |at| ends.stamp(at));
                    let end = callers::index(train.to) * step;
                    for packet in bytes.chunks(train.segment) {
                        ends.arrive(end, read_at_client(*form, *payload, packet), now_ns);
                    }
                }
            }
            Front::Streams { all, epoll, room } => {
                let mut events = [EpollEvent::empty(); 64];
                let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
                for event in events.iter().take(count) {
                    let index = usize::try_from(event.data())?;
                    let stream = all.get_mut(index).context("a stream")?;
                    stream.receive(room, |frame| {
                        let now_ns = ends.now_ns();
                        ends.arrive(index * step, read_at_client(*form, *payload, frame), now_ns);
                    })?;
                }
            }
        }
        Ok(())
    }

    fn receive_at_peer(&mut self) -> anyhow::Result<()> {
        let Self { ends, batch, payload, peer, of_port, .. } = self;
        let Some(peer) = peer else { return Ok(()) };
        batch.receive(peer)?;
        let now_ns = ends.now_ns();
        for (train, bytes) in batch.trains() {
            let now_ns = train.at.map_or(now_ns, |at| ends.stamp(at));
            let end = of_port.get(usize::from(train.from.port())).copied().flatten();
            let end = end.map_or(usize::MAX, |end| end as usize);
            for packet in bytes.chunks(train.segment) {
                ends.arrive(end, read_at_peer(*payload, packet), now_ns);
            }
        }
        Ok(())
    }

    /// An end sends a train.
    fn send(&mut self, index: usize, count: usize, stamp_ns: u64) -> anyhow::Result<()> {
        let end = self.ends.all.get_mut(index).context("an end")?;
        let mut left = count;
        while left > 0 {
            let tag = Tag { sender: u32::try_from(index)?, number: end.next, stamp_ns };
            let frames = match end.place {
                Place::Client(_) => &mut self.from_client,
                Place::Peer(_) => &mut self.from_peer,
            };
            let (now, size) = (left.min(frames.most()), frames.size);
            let bytes = frames.train(now, tag)?;
            let pieces = [IoSlice::new(bytes)];
            match (end.place, &mut self.front, &self.peer) {
                (Place::Client(client), Front::Datagrams { socket, server }, _) => {
                    let source = Some(callers::address(client));
                    datagrams::send(socket, &pieces, now, size, source, *server)?;
                }
                (Place::Client(client), Front::Streams { all, .. }, _) => {
                    all.get_mut(client).context("a stream")?.send(bytes, size)?;
                }
                (Place::Peer(relayed), _, Some(peer)) => {
                    datagrams::send(peer, &pieces, now, size, None, relayed)?;
                }
                (Place::Peer(_), _, None) => bail!("there is no peer in this mode"),
            }
            end.next += now as u64;
            self.ends.tally.sent += now as u64;
            left -= now;
        }
        Ok(())
    }
}

/// Packets at a fixed rate.
struct Due {
    rate: u64,
    begun_ns: u64,
    /// From when it counts how late they go.
    counted_ns: u64,
    sent: u64,
    late: Histogram<u64>,
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn v4(address: SocketAddr) -> anyhow::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("servers are measured over IPv4"),
    }
}

/// Gives all clients what the mode needs; their relayed addresses.
fn prepare(callers: &mut Callers, mode: Mode, peer: SocketAddrV4) -> anyhow::Result<Vec<SocketAddrV4>> {
    if mode == Mode::Binding {
        return Ok(Vec::new());
    }
    callers.allocate()?;
    let relayed = callers.relayed()?;
    match mode {
        Mode::Indications => callers.create_permission(|_| peer)?,
        // The one's relayed address is the other's peer.
        Mode::RelayToRelay => {
            callers.channel_bind(|index| relayed.get(index ^ 1).copied().unwrap_or(peer))?;
        }
        _ => callers.channel_bind(|_| peer)?,
    }
    Ok(relayed)
}

fn connect_streams(
    server: &Server,
    count: usize,
    peer: SocketAddrV4,
) -> anyhow::Result<(Front, Vec<SocketAddrV4>)> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let (mut all, mut relayed) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (stream, address) = server.connect_stream(peer.into(), index as u64)?;
        epoll.add(&stream.socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        all.push(stream);
        relayed.push(v4(address)?);
    }
    Ok((Front::Streams { all, epoll, room: vec![0; 1 << 16] }, relayed))
}
