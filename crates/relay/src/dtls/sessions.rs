//! The DTLS sessions of one worker: begun within bounds, found by 5-tuple, ended when their time has come.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use slab::Slab;
use stun::dtls::{Admission, is_plaintext};
use turn::{Client, FiveTuple, WorkerId};

use super::identity::HANDSHAKE_MS;
use super::{DtlsIdentity, Over, Polled, Session};
use crate::DtlsLimits;
use crate::stream::{handle, number, place};

/// How often a session's deadlines are looked at, in milliseconds: how late one may be noticed.
const CHECK_MS: u64 = 2_500;
/// The type of records with data in DTLS 1.2. RFC 5246 §6.2.1.
const APPLICATION_DATA: u8 = 23;

#[derive(Debug)]
pub(crate) struct Sessions {
    worker: WorkerId,
    /// What new ones are begun with; none where DTLS is not spoken.
    identity: Option<Arc<ArcSwap<DtlsIdentity>>>,
    slab: Slab<Entry>,
    /// Whoever receives at his address can begin one, so the hashes are keyed.
    five_tuples: HashMap<FiveTuple, usize>,
    per_address: HashMap<IpAddr, usize>,
    /// One entry for each session: when it has to be looked at.
    due: BTreeSet<(u64, usize)>,
    /// Handshakes that are not complete.
    handshakes: usize,
    /// The worker's time zero.
    start: Instant,
    /// The time of the worker's round, in milliseconds.
    pub(crate) now_ms: u64,
    limits: DtlsLimits,
}

#[derive(Debug)]
struct Entry {
    client: Client,
    /// The number of the socket that it came through.
    listener: u32,
    current: Box<Session>,
    /// The handshake of a client that has begun again, which takes the session's place when it is complete.
    next: Option<Box<Session>>,
    /// When something last came that only the client can have sent, or when it began.
    heard_ms: u64,
    /// Up to when it is known to have had an allocation, or when it began.
    allocated_until_ms: u64,
    /// When its deadlines are looked at next.
    check_ms: u64,
    /// Where it is in the order of what is due.
    due_ms: u64,
}

/// Of the sessions that a 5-tuple has while its client begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one in which data is sent.
    Current,
    /// The one that is begun.
    Next,
}

/// No session is begun: a bound is reached, or the library will have none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl Sessions {
    pub(crate) fn new(
        worker: WorkerId,
        identity: Option<Arc<ArcSwap<DtlsIdentity>>>,
        limits: DtlsLimits,
        start: Instant,
    ) -> Self {
        Self {
            worker,
            identity,
            slab: Slab::new(),
            five_tuples: HashMap::new(),
            per_address: HashMap::new(),
            due: BTreeSet::new(),
            handshakes: 0,
            start,
            now_ms: 0,
            limits,
        }
    }

    /// Whether DTLS is spoken.
    pub(crate) fn are_begun(&self) -> bool {
        self.identity.is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The session of this 5-tuple.
    pub(crate) fn find(&self, five_tuple: &FiveTuple) -> Option<usize> {
        self.five_tuples.get(five_tuple).copied()
    }

    /// The session of this client, if it is still the one that the handle meant.
    pub(crate) fn of_client(&self, client: &Client) -> Option<usize> {
        let id = number(client) as usize;
        self.slab.get(id).filter(|entry| entry.client == *client).map(|_| id)
    }

    /// A session's client, and the number of the socket that it came through.
    pub(crate) fn client(&self, id: usize) -> Option<(Client, u32)> {
        self.slab.get(id).map(|entry| (entry.client, entry.listener))
    }

    /// Takes in the hello of a client that has shown where it is; which session it is for. `may_begin` is asked before
    /// another is begun: a hello can be sent many times while its cookie is good, and each time costs a signature.
    pub(crate) fn admit(
        &mut self,
        (five_tuple, listener): (FiveTuple, u32),
        admission: &Admission<'_>,
        datagram: &[u8],
        may_begin: impl FnOnce() -> bool,
    ) -> Result<usize, Refused> {
        let now = self.instant();
        let known = self.find(&five_tuple);
        if let Some((id, session)) = known.and_then(|id| Some((id, self.repeated(id, admission)?))) {
            session.receive(datagram, now);
            return Ok(id);
        }
        let is_crowded = || {
            let open = self.per_address.get(&place(five_tuple.client.ip())).copied().unwrap_or(0);
            self.slab.len() >= self.limits.sessions || open >= self.limits.sessions_per_address
        };
        if self.handshakes >= self.limits.handshakes || (known.is_none() && is_crowded()) || !may_begin() {
            return Err(Refused);
        }
        let identity = self.identity.as_ref().ok_or(Refused)?.load();
        let session = Session::begin(&identity, admission, datagram, now).map_err(|Over| Refused)?;
        let session = Box::new(session);
        let Some(id) = known else { return self.insert(five_tuple, listener, session) };
        let entry = self.slab.get_mut(id).ok_or(Refused)?;
        if entry.current.is_open {
            // Whoever has only learnt the cookie, and not the old session's keys, may be an impostor on the path: the
            // old one lives until the new one has proved itself as far as a handshake can.
            self.handshakes += usize::from(entry.next.is_none());
            entry.next = Some(session);
        } else {
            entry.current = session;
        }
        Ok(id)
    }

    /// The session that was begun with this very hello.
    fn repeated(&mut self, id: usize, admission: &Admission<'_>) -> Option<&mut Session> {
        let Entry { current, next, .. } = self.slab.get_mut(id)?;
        let mut both = [Some(current), next.as_mut()].into_iter().flatten();
        both.find(|session| session.random == admission.random).map(|session| &mut **session)
    }

    fn insert(
        &mut self,
        five_tuple: FiveTuple,
        listener: u32,
        current: Box<Session>,
    ) -> Result<usize, Refused> {
        let now_ms = self.now_ms;
        let id = self.slab.vacant_key();
        let client = Client { five_tuple, via: handle(self.worker, id).ok_or(Refused)? };
        let check_ms = now_ms + CHECK_MS;
        self.slab.insert(Entry {
            client,
            listener,
            current,
            next: None,
            heard_ms: now_ms,
            allocated_until_ms: now_ms,
            check_ms,
            due_ms: check_ms,
        });
        self.due.insert((check_ms, id));
        self.five_tuples.insert(five_tuple, id);
        *self.per_address.entry(place(five_tuple.client.ip())).or_default() += 1;
        self.handshakes += 1;
        Ok(id)
    }

    /// Takes in a datagram for a session.
    pub(crate) fn receive(&mut self, id: usize, datagram: &[u8]) {
        let now = self.instant();
        let Some(Entry { current, next, .. }) = self.slab.get_mut(id) else { return };
        let for_current = match (is_plaintext(datagram), &next) {
            // What anyone can send does nothing to a session whose client needs nothing of its handshake again.
            (true, None) => !current.is_confirmed,
            (true, Some(_)) => false,
            // The new session's first record is of its handshake, which the old one's keys would not open.
            (false, Some(_)) => datagram.first() != Some(&22),
            (false, None) => true,
        };
        if for_current {
            current.receive(datagram, now);
        }
        // Before the handshake is complete there is no data.
        if let Some(next) = next
            && datagram.first() != Some(&APPLICATION_DATA)
        {
            next.receive(datagram, now);
        }
    }

    /// Puts data for the client into a record, which is polled next.
    pub(crate) fn send(&mut self, id: usize, data: &[u8]) -> Result<(), Over> {
        self.slab.get_mut(id).ok_or(Over)?.current.send(data)
    }

    /// What a session wants next; call until it wants to wait.
    pub(crate) fn poll(&mut self, id: usize, which: Which, buffer: &mut [u8]) -> Polled {
        let Some(entry) = self.slab.get_mut(id) else { return Polled::Wait(None) };
        let session = match which {
            Which::Current => Some(&mut entry.current),
            Which::Next => entry.next.as_mut(),
        };
        let Some(session) = session else { return Polled::Wait(None) };
        let polled = session.poll(buffer);
        match polled {
            Polled::Data(_) => entry.heard_ms = self.now_ms,
            Polled::Opened => self.handshakes -= 1,
            Polled::Closed if which == Which::Next => {
                entry.next = None;
                self.handshakes -= 1;
            }
            Polled::Wait(at) => self.schedule(id, at),
            Polled::Packet(_) | Polled::Closed => {}
        }
        polled
    }

    /// The new session takes the old one's place.
    pub(crate) fn replace(&mut self, id: usize) {
        if let Some(entry) = self.slab.get_mut(id)
            && let Some(next) = entry.next.take()
        {
            entry.current = next;
            entry.heard_ms = self.now_ms;
            entry.allocated_until_ms = self.now_ms;
        }
    }

    /// Whether the client of a session has begun another.
    pub(crate) fn has_next(&self, id: usize) -> bool {
        self.slab.get(id).is_some_and(|entry| entry.next.is_some())
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<usize> {
        self.slab.iter().map(|(id, _)| id).collect()
    }

    /// Says farewell, which is polled next.
    pub(crate) fn close(&mut self, id: usize) {
        if let Some(entry) = self.slab.get_mut(id) {
            entry.current.close();
        }
    }

    /// Forgets a session; its client.
    pub(crate) fn remove(&mut self, id: usize) -> Option<FiveTuple> {
        let entry = self.slab.try_remove(id)?;
        let five_tuple = entry.client.five_tuple;
        self.handshakes -= usize::from(!entry.current.is_open) + usize::from(entry.next.is_some());
        self.due.remove(&(entry.due_ms, id));
        self.five_tuples.remove(&five_tuple);
        let address = place(five_tuple.client.ip());
        if let Some(count) = self.per_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&address);
            }
        }
        Some(five_tuple)
    }

    /// When a session has to be looked at next.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A session that has to be polled, and its deadlines to be looked at; call until there is none.
    pub(crate) fn take_due(&mut self) -> Option<usize> {
        let now_ms = self.now_ms;
        let (at, id) = self.due.first().copied().filter(|(at, _)| *at <= now_ms)?;
        self.due.remove(&(at, id));
        let now = self.instant();
        let entry = self.slab.get_mut(id)?;
        entry.current.tell_time(now);
        if let Some(next) = &mut entry.next {
            next.tell_time(now);
        }
        if entry.check_ms <= now_ms {
            entry.check_ms = now_ms + CHECK_MS;
        }
        entry.due_ms = entry.check_ms;
        self.due.insert((entry.due_ms, id));
        Some(id)
    }

    /// Whether a session's time is over.
    pub(crate) fn is_expired(&mut self, id: usize, is_allocated: impl Fn(&FiveTuple) -> bool) -> bool {
        let now_ms = self.now_ms;
        let Some(entry) = self.slab.get_mut(id) else { return false };
        let since = |ms: u64| now_ms.saturating_sub(ms);
        if !entry.current.is_open {
            return since(entry.heard_ms) >= HANDSHAKE_MS;
        }
        if is_allocated(&entry.client.five_tuple) {
            entry.allocated_until_ms = now_ms;
            return false;
        }
        since(entry.heard_ms) >= self.limits.unallocated_idle_ms
            || since(entry.allocated_until_ms) >= self.limits.unallocated_total_ms
    }

    /// Notes when the library wants to be told the time.
    fn schedule(&mut self, id: usize, at: Option<Instant>) {
        let Some(entry) = self.slab.get_mut(id) else { return };
        let Some(at) = at.map(|at| at.saturating_duration_since(self.start).as_millis()) else { return };
        // Rounded up, and later than now, so that the worker does not spin.
        let at = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1).max(self.now_ms + 1);
        if at < entry.due_ms {
            self.due.remove(&(entry.due_ms, id));
            entry.due_ms = at;
            self.due.insert((at, id));
        }
    }

    fn instant(&self) -> (Instant, u64) {
        (self.start + Duration::from_millis(self.now_ms), self.now_ms)
    }
}
