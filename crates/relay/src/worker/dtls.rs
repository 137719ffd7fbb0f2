//! What a worker does for clients on DTLS: datagrams of theirs out of records, and records for theirs.

use std::ops::Range;

use stun::dtls::{Verdict, is_client_hello};
use turn::{Client, Command, DropReason, FiveTuple, MAX_REPLY, Time, Transport};

use super::Worker;
use crate::batch::Place;
use crate::dtls::{Over, Polled, Refused, Which};

impl Worker {
    /// Takes in a datagram that begins as DTLS does.
    pub(super) fn read_dtls(&mut self, now: Time, via: Client, place: Place) {
        let five_tuple = FiveTuple { transport: Transport::Dtls, ..via.five_tuple };
        let known = self.sessions.find(&five_tuple);
        let datagram = self.batch.peek(place);
        let verdict = match known {
            Some(_) if !is_client_hello(datagram) => Verdict::Drop,
            None if !self.sessions.are_begun() => Verdict::Drop,
            _ => self.gate.judge(now.monotonic_ms, five_tuple.client, datagram),
        };
        let id = match verdict {
            Verdict::Admit(admission) => {
                let server = &self.server;
                let may_begin = || server.may_answer_anyone(now, via);
                match self.sessions.admit((five_tuple, via.via), &admission, datagram, may_begin) {
                    Ok(id) => id,
                    Err(Refused) => return self.counters.sessions_refused.add(1),
                }
            }
            Verdict::Reply(reply) => {
                if !self.server.may_answer_anyone(now, via) {
                    return self.counters.drop_for(DropReason::StrangerRateExceeded);
                }
                let place = self.batch.put_spare(reply);
                return self.send_datagram(via.via, &five_tuple, place);
            }
            Verdict::Drop => {
                let Some(id) = known else { return self.counters.drop_at_the_gate() };
                self.sessions.receive(id, datagram);
                id
            }
        };
        self.drive(now, id);
    }

    /// Does what a session wants, until it wants to wait.
    fn drive(&mut self, now: Time, id: usize) {
        self.driven = Some(id);
        while self.step(now, id, Which::Current) {}
        if self.sessions.has_next(id) {
            while self.step(now, id, Which::Next) {}
            while self.step(now, id, Which::Current) {}
        }
        self.driven = None;
    }

    fn step(&mut self, now: Time, id: usize, which: Which) -> bool {
        self.make_room();
        let Some((client, listener)) = self.sessions.client(id) else { return false };
        match (self.sessions.poll(id, which, self.batch.spare()), which) {
            (Polled::Packet(length), _) => {
                let place = self.batch.claim(length, 0);
                self.send_datagram(listener, &client.five_tuple, place);
            }
            (Polled::Data(length), Which::Current) => {
                // RFC 7350 §3: what is within is answered as over UDP. An answer may need more room than its request.
                let place = self.batch.claim(length, MAX_REPLY);
                self.handle_client_packet(now, client, place);
            }
            (Polled::Opened, Which::Next) => {
                // Whoever begins again has lost what he had, and the allocation was the old session's.
                let _ = self.server.command(now, Command::ClientGone(client.five_tuple));
                self.sessions.replace(id);
            }
            (Polled::Closed, Which::Current) => {
                self.end_session(now, id);
                return false;
            }
            (Polled::Opened, Which::Current) | (Polled::Data(_), Which::Next) => {}
            (Polled::Wait(_), _) | (Polled::Closed, Which::Next) => return false,
        }
        true
    }

    /// Says farewell and forgets.
    fn end_session(&mut self, now: Time, id: usize) {
        self.sessions.close(id);
        self.send_records(id);
        if let Some(five_tuple) = self.sessions.remove(id) {
            // It cannot fail: only a denial can.
            let _ = self.server.command(now, Command::ClientGone(five_tuple));
        }
    }

    /// Sends what a session has to be sent; whether it is still alive.
    fn send_records(&mut self, id: usize) -> bool {
        let Some((client, listener)) = self.sessions.client(id) else { return false };
        loop {
            self.make_room();
            match self.sessions.poll(id, Which::Current, self.batch.spare()) {
                Polled::Packet(length) => {
                    let place = self.batch.claim(length, 0);
                    self.send_datagram(listener, &client.five_tuple, place);
                }
                Polled::Wait(_) => return true,
                Polled::Closed => return false,
                // What came is handled when it comes.
                Polled::Data(_) | Polled::Opened => {}
            }
        }
    }

    fn send_datagram(&mut self, listener: u32, five_tuple: &FiveTuple, place: Place) {
        let Some(listener) = self.sockets.udp.get(listener as usize) else { return };
        let source = listener.is_wildcard.then(|| five_tuple.server.ip());
        self.batch.send(listener.raw_fd(), place.range(), five_tuple.client, source);
    }

    /// Sends a message to a client on DTLS. A datagram that no record can hold is dropped whole.
    pub(super) fn send_in_record(&mut self, client: &Client, range: Range<usize>) {
        let Some(id) = self.sessions.of_client(client) else {
            let home = crate::stream::Connections::home_of(client);
            return self.send_to_foreign_client(home, client, self.batch.bytes(range));
        };
        if self.sessions.send(id, self.batch.bytes(range)) == Err(Over) {
            self.counters.send_failures.add(1);
        }
        // Whoever drives it polls it next.
        if self.driven != Some(id) && !self.send_records(id) {
            self.broken_sessions.push(id);
        }
    }

    /// Tells sessions the time, and ends those whose own is over.
    pub(super) fn tend_sessions(&mut self, now: Time) {
        while let Some(id) = self.sessions.take_due() {
            self.drive(now, id);
            let server = &self.server;
            if self.sessions.is_expired(id, |five_tuple| server.has_allocation(five_tuple)) {
                self.end_session(now, id);
            }
        }
        while let Some(id) = self.broken_sessions.pop() {
            self.end_session(now, id);
        }
        self.counters.sessions.set(self.sessions.len() as u64);
    }

    /// Says farewell to everyone.
    pub(super) fn end_sessions(&mut self, now: Time) {
        for id in self.sessions.all() {
            self.end_session(now, id);
        }
        self.flush();
    }
}
