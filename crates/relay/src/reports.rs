//! What a worker has to say of its sessions, kept until somebody takes it: of each session the newest report only.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use turn::{Report, SessionId};

/// Sessions of one worker that may wait to be taken: its live ones, and those that have ended meanwhile.
const MAX_WAITING: usize = 262_144;

/// Reports that are taken while the worker, should it put one in, has to wait: a few microseconds.
const TAKEN_AT_ONCE: usize = 16;

/// Reports as a worker has made them, one by one: each is some 300 bytes and changes hands several times.
pub type Reports = Vec<Box<Report>>;

/// The reports of one worker that wait. The worker puts them in between two rounds, never for a packet.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    reports: BTreeMap<SessionId, Box<Report>>,
    /// The session whose report was taken last: the next in order is the next to be taken, so that none waits for long
    /// where fewer are taken than are put in.
    taken: Option<SessionId>,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a report in the place of an older one of the same session. `false` when there is no room: a session that
    /// lives will be reported again.
    pub(crate) fn put(&self, report: Box<Report>) -> bool {
        let reports = &mut self.waiting().reports;
        if reports.len() >= MAX_WAITING && !reports.contains_key(&report.session.id) {
            return false;
        }
        // It may have gone to another worker and come back.
        if reports.get(&report.session.id).is_none_or(|held| held.sequence < report.sequence) {
            reports.insert(report.session.id, report);
        }
        true
    }

    /// What waits, `most` at most, each session in its turn.
    pub(crate) fn take(&self, most: usize) -> Reports {
        let mut in_turn = Vec::new();
        loop {
            let mut waiting = self.waiting();
            let Waiting { reports, taken } = &mut *waiting;
            for _ in 0..TAKEN_AT_ONCE {
                let after = taken.map_or(Bound::Unbounded, Bound::Excluded);
                let next = reports.range((after, Bound::Unbounded)).next().or_else(|| reports.iter().next());
                let Some(id) = next.map(|(id, _)| *id).filter(|_| in_turn.len() < most) else {
                    return in_turn;
                };
                in_turn.extend(reports.remove(&id));
                *taken = Some(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use credentials::{CredentialId, TurnKeyId};
    use turn::{FiveTuple, Session, Time, Transport, Usage};

    use super::*;

    fn report(id: u32, sequence: u64) -> Box<Report> {
        let at = Time { monotonic_ms: 0, unix_ms: 0 };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        let session = Session {
            id: SessionId(bytes),
            turn_key: TurnKeyId::from_bytes([1; 16]),
            credential: CredentialId::from_bytes([2; 16]),
            username: String::new(),
            custom_identifier: String::new(),
            relays_tcp: false,
            started: at,
        };
        let address = "192.0.2.1:1".parse().unwrap();
        Box::new(Report {
            session: Arc::new(session),
            sequence,
            at,
            client: FiveTuple { transport: Transport::Udp, client: address, server: address },
            relayed: [None; 2],
            usage: Usage::default(),
            expires_unix_ms: 0,
            ended: None,
        })
    }

    #[test]
    fn the_newest_report_of_a_session_waits() {
        let outbox = Outbox::default();
        for sequence in [2, 3, 1] {
            assert!(outbox.put(report(7, sequence)));
        }
        assert!(outbox.put(report(6, 1)));
        let taken: Vec<u64> = outbox.take(usize::MAX).iter().map(|report| report.sequence).collect();
        assert_eq!(taken, [1, 3]);
        assert_eq!(outbox.take(usize::MAX).len(), 0);
    }

    #[test]
    fn what_waits_is_bounded_and_old_acquaintances_have_their_place() {
        let outbox = Outbox::default();
        let most = u32::try_from(MAX_WAITING).unwrap();
        assert!((0..most).all(|id| outbox.put(report(id, 1))));
        assert!(!outbox.put(report(most, 1)));
        assert!(outbox.put(report(0, 2)));
        assert_eq!(outbox.take(usize::MAX).len(), MAX_WAITING);
        assert!(outbox.put(report(most, 1)));
    }

    #[test]
    fn each_session_has_its_turn_where_fewer_are_taken_than_are_put_in() {
        let outbox = Outbox::default();
        let mut taken = Vec::new();
        for sequence in 1..=4 {
            assert!((1..=5).all(|id| outbox.put(report(id, sequence))));
            taken.extend(outbox.take(3).iter().map(|report| (report.session.id.0[3], report.sequence)));
        }
        let in_turn = [
            (1, 1),
            (2, 1),
            (3, 1), //
            (4, 2),
            (5, 2),
            (1, 2), //
            (2, 3),
            (3, 3),
            (4, 3), //
            (5, 4),
            (1, 4),
            (2, 4),
        ];
        assert_eq!(taken, in_turn);
    }
}
