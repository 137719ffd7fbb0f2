//! What the workers of one server tell each other: late, in the order in which each of them is told, and not at all
//! when a mailbox is full.

use turn::{Client, FiveTuple, Note, RelayId, Time, Traveller, WorkerId};

use super::lockstep::{Due, Lockstep, Route, Sent};
use crate::model::{Arrival, Claim, Expected, Verdict};

/// How long a letter lies, in milliseconds.
const WAITS_MS: [u64; 12] = [0, 0, 0, 0, 0, 0, 1, 1, 20, 400, 3_000, 70_000];

/// What a note is about, as far as the model has to know.
#[derive(Debug)]
pub(super) enum About {
    Claim(Claim),
    Answer(Claim, Box<Expected>),
    /// Whose connection was closed, and to which worker it was.
    Gone(FiveTuple, usize),
    /// Whose old path is over.
    Over(FiveTuple),
    Other,
}

#[derive(Debug)]
pub(super) enum Letter {
    Note { note: Note, about: About },
    Move { traveller: Box<Traveller>, claim: Claim, returns: bool },
    FromClient { from: usize, client: Client, bytes: Vec<u8>, is_back: bool },
}

impl Lockstep {
    /// When the next letter is read.
    pub(super) fn next_letter(&self) -> Option<u64> {
        self.inboxes.iter().filter_map(|inbox| inbox.front()).map(|(at_ms, _)| *at_ms).min()
    }

    /// How many allocations lie in mailboxes.
    pub(super) fn travellers(&self) -> usize {
        let letters = self.inboxes.iter().flatten();
        letters.filter(|(_, letter)| matches!(letter, Letter::Move { .. })).count()
    }

    pub(super) fn post(&mut self, now: Time, to: usize, letter: Letter) -> Result<(), Box<Letter>> {
        let wait_ms = self.dice.pick(&WAITS_MS);
        match self.inboxes.get_mut(to) {
            Some(inbox) if !self.mailboxes_full => {
                // Nobody reads what came later first.
                let before = inbox.back().map_or(0, |(at_ms, _)| *at_ms);
                inbox.push_back((before.max(now.monotonic_ms + wait_ms), letter));
                Ok(())
            }
            _ => {
                *self.report.features.entry("not_posted").or_default() += 1;
                Err(Box::new(letter))
            }
        }
    }

    /// Some worker reads a letter that it should have read by now.
    pub(super) fn read_letter(&mut self, now: Time) -> Result<Sent, String> {
        let due = |inbox: &std::collections::VecDeque<(u64, Letter)>| {
            inbox.front().is_some_and(|(at_ms, _)| *at_ms <= now.monotonic_ms)
        };
        let ready: Vec<usize> =
            (0..self.inboxes.len()).filter(|w| self.inboxes.get(*w).is_some_and(due)).collect();
        let Some(worker) = ready.get(self.dice.index(ready.len())).copied() else { return Ok(Sent::Nothing) };
        let letter = self.inboxes.get_mut(worker).and_then(std::collections::VecDeque::pop_front);
        let Some((_, letter)) = letter else { return Ok(Sent::Nothing) };
        self.report.steps += 1;
        self.trace.record(format!("{} worker {worker} reads {letter:?}", now.monotonic_ms), &[]);
        self.model.hear_at(worker);
        match letter {
            Letter::Note { note, about } => {
                match &about {
                    About::Over(client) => _ = self.over.insert((worker, *client)),
                    // A client may have come to here, and gone.
                    _ => self.over.retain(|(at, _)| *at != worker),
                }
                let due = self.due_of(now, about);
                self.server(worker).told(now, note);
                self.take_outputs(now, worker, None, due)?;
            }
            Letter::Move { mut traveller, claim, returns } => {
                self.unpack(&mut traveller);
                let mut due = Due::default();
                if returns {
                    self.model.comes_in(now, &claim);
                } else {
                    match self.model.arrives(now, &claim) {
                        Arrival::Answers(expected) => {
                            let moved = matches!(expected, Expected::Moved { .. });
                            self.count_feature(moved, "moved_between_workers");
                            due.reply = Some((claim, expected));
                        }
                        Arrival::GoesBack(expected) => {
                            self.count_feature(true, "sent_back");
                            due.depart = Some((claim.owner, claim.clone(), true));
                            due.reply = Some((claim, expected));
                        }
                    }
                }
                self.server(worker).arrived(now, traveller);
                self.take_outputs(now, worker, None, due)?;
            }
            Letter::FromClient { from, client, bytes, is_back } => {
                let route = if is_back { Route::Back(from) } else { Route::PassedBy(from) };
                return self.client_packet_by(now, (worker, route), client, &bytes);
            }
        }
        self.verify(now, false)?;
        Ok(Sent::Nothing)
    }

    /// What has to come of a note.
    fn due_of(&mut self, now: Time, about: About) -> Due {
        let mut due = Due::default();
        match about {
            About::Claim(claim) => match self.model.asked(now, &claim) {
                Verdict::Departs => due.depart = Some((claim.worker, claim, false)),
                Verdict::Answers(expected) => {
                    due.tell = Some((claim.worker, About::Answer(claim, Box::new(expected))));
                }
            },
            About::Answer(claim, said) => {
                let expected = self.model.answered_by_owner(now, &claim, *said);
                due.reply = Some((claim, expected));
            }
            About::Gone(client, at) => {
                if !self.model.gone(&client, at) {
                    due.gone = Some((client, at));
                }
            }
            About::Over(_) | About::Other => {}
        }
        due
    }

    /// An allocation leaves a worker, unless the other's mailbox is full.
    pub(super) fn send_off(
        &mut self,
        now: Time,
        (worker, to): (usize, WorkerId),
        mut traveller: Box<Traveller>,
        due: Option<(usize, Claim, bool)>,
    ) -> Result<(), String> {
        self.over.retain(|(at, _)| *at != worker);
        let Some((wanted, claim, returns)) = due else { return Err("an allocation departs".to_owned()) };
        if usize::from(to.0) != wanted {
            return Err(format!("an allocation departs to {to:?}"));
        }
        let relays: Vec<RelayId> = traveller.relays_mut().map(|relay| *relay).collect();
        if relays != self.model.relays_of(&claim) {
            return Err(format!("it departs with the sockets {relays:?}"));
        }
        let letter = Letter::Move { traveller, claim, returns };
        let Err(letter) = self.post(now, wanted, letter) else { return Ok(()) };
        if let Letter::Move { mut traveller, claim, .. } = *letter {
            self.unpack(&mut traveller);
            self.model.hear_at(worker);
            self.model.comes_in(now, &claim);
            self.server(worker).returned(now, traveller);
        }
        Ok(())
    }

    /// Sockets have other numbers at another worker.
    fn unpack(&mut self, traveller: &mut Traveller) {
        for relay in traveller.relays_mut() {
            let before = std::mem::replace(relay, self.sockets.renumber(*relay));
            self.model.renumber(before, *relay);
        }
    }
}
