//! The stream clients of one worker: accepted within bounds, looked at again before a deadline can be missed by much.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use slab::Slab;
use stun::framing::Opening;
use stun::proxy_protocol::{self, BadHeader};
use turn::{Cidr, Client, FiveTuple, Transport, WorkerId};

use crate::StreamLimits;
use crate::config::Takes;
use crate::connection::{Connection, Stage};
use crate::link::Link;
use crate::sys::{Epoll, Interest};
use crate::worker::Token;

/// How often a connection's deadlines are looked at, in milliseconds: how late one may be noticed.
const CHECK_MS: u64 = 2_500;
/// Connections taken from a listener before its worker looks at other sockets again.
const ACCEPTS_PER_ROUND: usize = 64;

/// How many bits of the handle of a client on a stream or on DTLS name its connection or session; those above name the
/// worker that has it.
const CONNECTION_BITS: u32 = 20;

/// A socket at which stream clients come in.
#[derive(Debug)]
pub(crate) struct StreamListener {
    pub(crate) socket: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) takes: Takes,
}

#[derive(Debug)]
pub(crate) struct Connections {
    worker: WorkerId,
    slab: Slab<Connection>,
    /// Anyone can connect, so the hash is keyed.
    per_address: HashMap<IpAddr, usize>,
    /// The 5-tuple of each connection: what a proxy says could be another's, and a 5-tuple has one allocation.
    five_tuples: HashSet<FiveTuple>,
    /// Who is believed when it says whose a connection is.
    proxies: Vec<Cidr>,
    /// What TLS is spoken with.
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// Whose handshakes wait for their next step, in the order in which they do.
    shaking: BTreeMap<u64, usize>,
    next_place: u64,
    /// One entry for each connection: when to look at its deadlines.
    checks: BTreeSet<(u64, usize)>,
    pub(crate) limits: StreamLimits,
}

/// What a look at a listener brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Accepted {
    /// Connections closed at once because a bound was reached.
    pub(crate) refused: usize,
    /// Whether nothing can be accepted for now, although something waits.
    pub(crate) is_starved: bool,
}

/// The connection has to be closed: its proxy's header is malformed, or names a client that cannot be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// What is at the front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front<'b> {
    /// More has to come first.
    Incomplete,
    /// Frames begin.
    Frames(&'b [u8]),
    /// A TLS handshake begins.
    Tls(&'b [u8]),
}

/// The handle of a worker's connection or session, if there are enough bits for it.
pub(crate) fn handle(worker: WorkerId, id: usize) -> Option<u32> {
    let id = u32::try_from(id).ok().filter(|id| *id < 1 << CONNECTION_BITS)?;
    let worker = u32::from(worker.0);
    (worker < 1 << (u32::BITS - CONNECTION_BITS)).then_some(worker << CONNECTION_BITS | id)
}

/// Which of its worker's connections or sessions a client's is.
pub(crate) fn number(client: &Client) -> u32 {
    client.via & ((1 << CONNECTION_BITS) - 1)
}

/// What the connections from one place are counted under: an IPv6 host has a whole /64 of addresses.
pub(crate) fn place(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl Connections {
    pub(crate) fn new(
        worker: WorkerId,
        limits: StreamLimits,
        proxies: Vec<Cidr>,
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
    ) -> Self {
        Self {
            worker,
            slab: Slab::new(),
            per_address: HashMap::new(),
            five_tuples: HashSet::new(),
            proxies,
            tls,
            shaking: BTreeMap::new(),
            next_place: 0,
            checks: BTreeSet::new(),
            limits,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn entry(&mut self, id: usize) -> Option<&mut Connection> {
        self.slab.get_mut(id)
    }

    /// The worker that accepted this client's connection.
    pub(crate) fn home_of(client: &Client) -> WorkerId {
        WorkerId(u16::try_from(client.via >> CONNECTION_BITS).unwrap_or_default())
    }

    pub(crate) fn token(client: &Client) -> Token {
        Token::Connection(number(client))
    }

    /// The connection of this client, if it is still the one that the handle meant.
    pub(crate) fn of_client(&mut self, client: &Client) -> Option<(usize, &mut Connection)> {
        let id = number(client) as usize;
        let connection = self.slab.get_mut(id)?;
        (connection.client == *client).then_some((id, connection))
    }

    /// Accepts what waits on a listener.
    pub(crate) fn accept(&mut self, listener: &StreamListener, epoll: &Epoll, now_ms: u64) -> Accepted {
        let mut accepted = Accepted::default();
        for _ in 0..ACCEPTS_PER_ROUND {
            match listener.socket.accept() {
                Ok((stream, from)) => {
                    let admitted = self.admit(stream, from, listener, epoll, now_ms).unwrap_or(false);
                    accepted.refused += usize::from(!admitted);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The client gave up first.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // No descriptor or no memory: the connection stays in the queue, and would wake the worker for ever.
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    accepted.is_starved = true;
                    break;
                }
            }
        }
        accepted
    }

    fn admit(
        &mut self,
        stream: TcpStream,
        from: SocketAddr,
        listener: &StreamListener,
        epoll: &Epoll,
        now_ms: u64,
    ) -> io::Result<bool> {
        // How many a proxy may have is not asked: they count for those whose they are, once that is known.
        let is_proxy = self.proxies.iter().any(|proxy| proxy.contains(from.ip()));
        if self.slab.len() >= self.limits.connections || (!is_proxy && self.is_crowded(from.ip(), 0)) {
            return Ok(false);
        }
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let server =
            if listener.address.ip().is_unspecified() { stream.local_addr()? } else { listener.address };
        // Until its first byte says otherwise.
        let five_tuple = FiveTuple { transport: Transport::Tcp, client: from, server };
        let takes = listener.takes;
        let stage = if is_proxy { Stage::Unnamed(takes) } else { Stage::Unopened(takes) };
        Ok(self.insert(Link::new(stream), five_tuple, stage, epoll, now_ms)?.is_some())
    }

    fn insert(
        &mut self,
        link: Link,
        five_tuple: FiveTuple,
        stage: Stage,
        epoll: &Epoll,
        now_ms: u64,
    ) -> io::Result<Option<usize>> {
        let id = self.slab.vacant_key();
        let Some(via) = handle(self.worker, id) else { return Ok(None) };
        if self.five_tuples.contains(&five_tuple) {
            return Ok(None);
        }
        let client = Client { five_tuple, via };
        epoll.add(&link, Self::token(&client).pack(), Interest::Read)?;
        let connection = Connection::new(link, client, stage, now_ms);
        let connection = self.slab.vacant_entry().insert(connection);
        connection.check_ms = now_ms + CHECK_MS;
        self.count(five_tuple);
        self.checks.insert((now_ms + CHECK_MS, id));
        Ok(Some(id))
    }

    /// Takes over a connection that another worker accepted; its number, or `None` where a bound is reached.
    pub(crate) fn adopt(
        &mut self,
        link: Link,
        client: FiveTuple,
        epoll: &Epoll,
        now_ms: u64,
    ) -> Option<usize> {
        if self.slab.len() >= self.limits.connections || self.is_crowded(client.client.ip(), 0) {
            return None;
        }
        self.insert(link, client, Stage::Framed, epoll, now_ms).ok().flatten()
    }

    /// Gives a connection away, with what was not sent to it yet.
    pub(crate) fn detach(&mut self, id: usize) -> Option<(FiveTuple, Link)> {
        self.remove(id).map(|connection| (connection.client.five_tuple, connection.link))
    }

    /// Reads past a proxy's header at the front of a connection, if one may be there, and tells by the first byte
    /// behind it what the connection carries.
    pub(crate) fn read_front<'b>(
        &mut self,
        id: usize,
        bytes: &'b [u8],
        now_ms: u64,
    ) -> Result<Front<'b>, Refused> {
        let mut bytes = bytes;
        let Some(connection) = self.slab.get_mut(id) else { return Ok(Front::Incomplete) };
        if let Stage::Unnamed(takes) = connection.stage {
            let (length, named) = match proxy_protocol::read(bytes).map_err(|BadHeader| Refused)? {
                proxy_protocol::Front::Incomplete { .. } => {
                    connection.keep(bytes, false, now_ms);
                    return Ok(Front::Incomplete);
                }
                proxy_protocol::Front::Absent => (0, None),
                proxy_protocol::Front::Header { length, client } => (length, client),
            };
            connection.stage = Stage::Unopened(takes);
            connection.keep(&[], true, now_ms);
            self.name(id, named)?;
            bytes = bytes.get(length..).unwrap_or_default();
        }
        let Some(connection) = self.slab.get_mut(id) else { return Ok(Front::Incomplete) };
        let Stage::Unopened(takes) = connection.stage else { return Ok(Front::Frames(bytes)) };
        let front = match Opening::of(bytes) {
            Opening::Nothing => return Ok(Front::Incomplete),
            Opening::Tls if takes.secured => Front::Tls(bytes),
            // What is neither is told by the frame that it is not.
            _ if takes.plain => Front::Frames(bytes),
            _ => return Err(Refused),
        };
        connection.stage = Stage::Framed;
        Ok(front)
    }

    /// Begins to speak TLS on a connection, which has brought these bytes.
    pub(crate) fn secure(&mut self, id: usize, bytes: &[u8], now_ms: u64) -> Result<(), Refused> {
        let config = self.tls.as_ref().ok_or(Refused)?.load_full();
        let Some(connection) = self.slab.get_mut(id) else { return Err(Refused) };
        let own = connection.client.five_tuple;
        let five_tuple = FiveTuple { transport: Transport::Tls, ..own };
        if self.five_tuples.contains(&five_tuple) {
            return Err(Refused);
        }
        connection.link.secure(config, bytes, now_ms).map_err(|_| Refused)?;
        connection.client.five_tuple = five_tuple;
        self.uncount(own);
        self.count(five_tuple);
        Ok(())
    }

    /// Whether a connection's next bytes are for its handshake.
    pub(crate) fn is_shaking_hands(&self, id: usize) -> bool {
        self.slab.get(id).is_some_and(|connection| connection.link.is_shaking_hands())
    }

    /// Leaves a connection alone until its handshake's turn has come.
    pub(crate) fn line_up(&mut self, id: usize, epoll: &Epoll) -> io::Result<()> {
        let Some(connection) = self.slab.get_mut(id).filter(|connection| connection.place.is_none()) else {
            return Ok(());
        };
        epoll.modify(connection, Self::token(&connection.client).pack(), Interest::Nothing)?;
        connection.place = Some(self.next_place);
        self.shaking.insert(self.next_place, id);
        self.next_place += 1;
        Ok(())
    }

    /// Whether handshakes wait for their turn.
    pub(crate) fn has_line(&self) -> bool {
        !self.shaking.is_empty()
    }

    /// Whether this connection's handshake waits for its turn.
    pub(crate) fn is_in_line(&self, id: usize) -> bool {
        self.slab.get(id).is_some_and(|connection| connection.place.is_some())
    }

    /// The connection whose handshake has its turn; it is looked at again.
    pub(crate) fn next_in_line(&mut self, epoll: &Epoll) -> Option<usize> {
        let (_, id) = self.shaking.pop_first()?;
        if let Some(connection) = self.slab.get_mut(id) {
            connection.place = None;
            // Where that fails its deadline will close it.
            let _ = epoll.modify(connection, Self::token(&connection.client).pack(), Interest::Read);
        }
        Some(id)
    }

    /// The connection is this client's, or the proxy's own, and counts as such.
    fn name(&mut self, id: usize, named: Option<SocketAddr>) -> Result<(), Refused> {
        let Some(own) = self.slab.get(id).map(|connection| connection.client.five_tuple) else {
            return Err(Refused);
        };
        let five_tuple = FiveTuple { client: named.unwrap_or(own.client), ..own };
        // Whoever comes second under a name would send through the first one's allocation.
        if five_tuple != own && self.five_tuples.contains(&five_tuple) {
            return Err(Refused);
        }
        let counted = usize::from(place(five_tuple.client.ip()) == place(own.client.ip()));
        if self.is_crowded(five_tuple.client.ip(), counted) {
            return Err(Refused);
        }
        self.uncount(own);
        self.count(five_tuple);
        if let Some(connection) = self.slab.get_mut(id) {
            connection.client.five_tuple = five_tuple;
        }
        Ok(())
    }

    /// Whether there are as many connections from a place as may be, `own` of them not counted.
    fn is_crowded(&self, address: IpAddr, own: usize) -> bool {
        let open = self.per_address.get(&place(address)).copied().unwrap_or(0);
        open.saturating_sub(own) >= self.limits.connections_per_address
    }

    fn count(&mut self, five_tuple: FiveTuple) {
        self.five_tuples.insert(five_tuple);
        *self.per_address.entry(place(five_tuple.client.ip())).or_default() += 1;
    }

    fn uncount(&mut self, five_tuple: FiveTuple) {
        self.five_tuples.remove(&five_tuple);
        let address = place(five_tuple.client.ip());
        if let Some(count) = self.per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
    }

    /// Closes a connection; its client.
    pub(crate) fn close(&mut self, id: usize) -> Option<FiveTuple> {
        self.remove(id).map(|mut connection| {
            connection.link.say_goodbye();
            connection.client.five_tuple
        })
    }

    fn remove(&mut self, id: usize) -> Option<Connection> {
        let connection = self.slab.try_remove(id)?;
        self.uncount(connection.client.five_tuple);
        if let Some(place) = connection.place {
            self.shaking.remove(&place);
        }
        Some(connection)
    }

    /// Lets go of the room for connections that are no longer there.
    pub(crate) fn shrink(&mut self) {
        self.slab.shrink_to_fit();
        self.per_address.shrink_to_fit();
        self.five_tuples.shrink_to_fit();
    }

    /// When a connection has to be looked at next.
    pub(crate) fn next_check(&self) -> Option<u64> {
        self.checks.first().map(|(at, _)| *at)
    }

    /// A connection that has to be closed because a deadline has passed; call until there is none.
    pub(crate) fn overdue(
        &mut self,
        now_ms: u64,
        is_allocated: impl Fn(&FiveTuple) -> bool,
    ) -> Option<usize> {
        while let Some((at, id)) = self.checks.first().copied()
            && at <= now_ms
        {
            self.checks.remove(&(at, id));
            // An entry may outlive its connection, and its number may be another's by now: that one has its own entry.
            let Some(connection) = self.slab.get_mut(id).filter(|connection| connection.check_ms == at)
            else {
                continue;
            };
            let since = |ms: u64| now_ms.saturating_sub(ms);
            let limits = &self.limits;
            let allocated = is_allocated(&connection.client.five_tuple);
            if allocated {
                connection.allocated_until_ms = now_ms;
            }
            let begun = [connection.partial_since_ms, connection.link.record_since_ms()];
            let slow_frame = begun.into_iter().flatten().any(|ms| since(ms) >= limits.partial_frame_ms);
            let idle = !allocated && since(connection.heard_ms) >= limits.unallocated_idle_ms;
            let useless = !allocated && since(connection.allocated_until_ms) >= limits.unallocated_total_ms;
            if slow_frame || idle || useless {
                return Some(id);
            }
            connection.check_ms = now_ms + CHECK_MS;
            self.checks.insert((connection.check_ms, id));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_connections_leave_no_checks_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let takes = Takes::of(Transport::Tcp);
        let listener = StreamListener { socket: listener, address, takes };
        let epoll = Epoll::new().unwrap();
        let mut connections = Connections::new(WorkerId(3), StreamLimits::default(), vec![], None);
        let mut now_ms = 0;
        // Each takes the number of the one before it.
        for _ in 0..100 {
            let _client = TcpStream::connect(address).unwrap();
            while connections.len() == 0 {
                connections.accept(&listener, &epoll, now_ms);
            }
            now_ms += 100;
            assert_eq!(connections.overdue(now_ms, |_| true), None);
            assert!(connections.checks.len() as u64 <= 1 + CHECK_MS / 100, "{}", connections.checks.len());
            assert!(connections.close(0).is_some());
        }
        assert_eq!(connections.overdue(now_ms + CHECK_MS, |_| true), None);
        assert_eq!((connections.next_check(), connections.len()), (None, 0));
        assert!(connections.per_address.is_empty() && connections.five_tuples.is_empty());
    }
}
