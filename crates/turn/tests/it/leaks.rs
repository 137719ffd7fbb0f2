//! Whatever happens, in whatever order: every port, every place in a quota and every reservation comes back.

use std::sync::Arc;

use credentials::{Credential, Denial};
use proptest::prelude::*;
use stun::{AttributeType as A, Method};
use testkit::message::{EVEN, EVEN_AND_NEXT, FAMILY_IPV4, FAMILY_IPV6};
use turn::{Client, Command, KeyLimits, Limits, OpenError, Transport};

use crate::fixture::{Fixture, KEY, Outcome, client, udp, value};

const CLIENTS: u8 = 6;
const CREDENTIALS: usize = 3;

/// What an Allocate asks for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    V6,
    Dual,
    Even,
    Pair,
    /// The last token that was told.
    Claim,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Allocate(u8, usize, Kind),
    Refresh(u8, usize, u32),
    DeleteFamily(u8, usize, bool),
    Permit(u8, usize),
    Gone(u8),
    Deny(usize),
    DenyKey,
    Limit(Option<u32>, Option<u32>),
    /// From now on opening sockets fails like this.
    Sockets(Option<OpenError>),
    Wait(u64, bool),
    OtherWorker,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        1 => Just(Kind::Plain),
        1 => Just(Kind::V6),
        1 => Just(Kind::Dual),
        1 => Just(Kind::Even),
        3 => Just(Kind::Pair),
        3 => Just(Kind::Claim),
    ];
    let who = || (0..CLIENTS, 0..CREDENTIALS);
    let few = || prop::option::of(0..4_u32);
    let failure = prop_oneof![
        3 => Just(None),
        1 => Just(Some(OpenError::InUse)),
        1 => Just(Some(OpenError::Failed)),
    ];
    prop_oneof![
        12 => (who(), kind).prop_map(|((client, credential), kind)| Step::Allocate(client, credential, kind)),
        3 => (who(), prop::sample::select(vec![0, 600, 3_600]))
            .prop_map(|((client, credential), secs)| Step::Refresh(client, credential, secs)),
        2 => (who(), any::<bool>()).prop_map(|((client, who), v6)| Step::DeleteFamily(client, who, v6)),
        1 => who().prop_map(|(client, credential)| Step::Permit(client, credential)),
        2 => (0..CLIENTS).prop_map(Step::Gone),
        1 => (0..CREDENTIALS).prop_map(Step::Deny),
        1 => Just(Step::DenyKey),
        2 => (few(), few()).prop_map(|(of_key, each)| Step::Limit(of_key, each)),
        3 => failure.prop_map(Step::Sockets),
        4 => (prop::sample::select(vec![1, 10_000, 29_999, 30_000, 599_999, 600_000, 4_000_000]), any::<bool>())
            .prop_map(|(ms, swept)| Step::Wait(ms, swept)),
        3 => Just(Step::OtherWorker),
    ]
}

fn station(n: u8) -> Client {
    let transport = if n.is_multiple_of(2) { Transport::Udp } else { Transport::Tcp };
    client(transport, &format!("81.0.0.{n}:4000"))
}

/// Two workers of one process and what they are told.
struct Run {
    /// The one that is spoken to first.
    workers: [Fixture; 2],
    credentials: Vec<Credential>,
    token: Vec<u8>,
}

impl Run {
    fn new() -> Self {
        let one = Fixture::with(Limits { reservations: 3, allocations: 4, ..Limits::default() });
        let two = one.sibling();
        let credentials = [300, 3_600, 86_400].map(|ttl_secs| one.mint(ttl_secs)).to_vec();
        Self { workers: [one, two], credentials, token: vec![7; 8] }
    }

    fn ask(
        &mut self,
        from: u8,
        credential: usize,
        method: Method,
        fill: impl FnOnce(&mut stun::MessageWriter<'_>),
    ) {
        let credential = self.credentials[credential].clone();
        let [worker, _] = &mut self.workers;
        let request = worker.signed(station(from), &credential, method, fill);
        if let Outcome::Reply(reply) = worker.give(station(from), &request)
            && let Some(token) = value(&reply, A::RESERVATION_TOKEN)
        {
            self.token = token;
        }
    }

    fn tell(&mut self, command: &Command) {
        self.workers.iter_mut().for_each(|worker| worker.command(command.clone()));
    }

    fn go(&mut self, step: Step) {
        let until = self.workers[0].now().unix_secs() + 100_000;
        match step {
            Step::Allocate(from, credential, kind) => {
                let token = self.token.clone();
                self.ask(from, credential, Method::ALLOCATE, |writer| {
                    udp(writer);
                    match kind {
                        Kind::Plain => {}
                        Kind::V6 => drop(writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &FAMILY_IPV6)),
                        Kind::Dual => drop(writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6)),
                        Kind::Even => drop(writer.attribute(A::EVEN_PORT, &EVEN)),
                        Kind::Pair => drop(writer.attribute(A::EVEN_PORT, &EVEN_AND_NEXT)),
                        Kind::Claim => drop(writer.attribute(A::RESERVATION_TOKEN, &token)),
                    }
                });
            }
            Step::Refresh(from, credential, secs) => {
                self.ask(from, credential, Method::REFRESH, |writer| {
                    writer.attribute_u32(A::LIFETIME, secs);
                });
            }
            Step::DeleteFamily(from, credential, v6) => {
                self.ask(from, credential, Method::REFRESH, |writer| {
                    let family = if v6 { FAMILY_IPV6 } else { FAMILY_IPV4 };
                    writer.attribute_u32(A::LIFETIME, 0);
                    writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &family);
                });
            }
            Step::Permit(from, credential) => {
                self.ask(from, credential, Method::CREATE_PERMISSION, |writer| {
                    writer.xor_address(A::XOR_PEER_ADDRESS, "8.8.8.8:1".parse().unwrap());
                });
            }
            Step::Gone(from) => {
                let [worker, _] = &mut self.workers;
                worker.command(Command::ClientGone(station(from).five_tuple));
            }
            Step::Deny(credential) => {
                let id = self.credentials[credential].id;
                self.tell(&Command::Deny(Denial::Credential { id, until }));
            }
            Step::DenyKey => self.tell(&Command::Deny(Denial::Key { key: KEY, until })),
            Step::Limit(allocations, allocations_per_credential) => {
                let limits = KeyLimits { allocations, allocations_per_credential, ..KeyLimits::default() };
                self.tell(&Command::KeyLimits { key: KEY, limits: Some(limits) });
            }
            Step::Sockets(failure) => self.workers[0].sockets.failure = failure,
            Step::Wait(ms, swept) => {
                for worker in &mut self.workers {
                    worker.now_ms += ms;
                    if swept {
                        worker.timeout();
                    }
                }
            }
            Step::OtherWorker => self.workers.swap(0, 1),
        }
        self.check();
    }

    /// What is counted is what there is, after every step.
    fn check(&self) {
        let [one, two] = &self.workers;
        let allocations = one.server.allocation_count() + two.server.allocation_count();
        let sockets = one.sockets.open_count() + two.sockets.open_count();
        let kept = one.reservations.kept();
        assert_eq!(one.quotas.held(), allocations + kept);
        assert_eq!(one.quotas.held_by(KEY), allocations + kept);
        assert_eq!(one.quotas.held_by_credentials(), allocations + kept);
        assert_eq!(one.ports.taken(), sockets + kept);
    }

    /// All time passes.
    fn close(&mut self) {
        for worker in &mut self.workers {
            worker.now_ms += 90_000_000;
            worker.timeout();
            assert_eq!((worker.server.allocation_count(), worker.server.poll_timeout()), (0, None));
            assert_eq!(worker.sockets.open_count(), 0);
        }
        self.check();
        let [one, _] = &self.workers;
        assert_eq!((one.ports.taken(), one.quotas.held(), one.reservations.kept()), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_port_and_every_place_comes_back(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in steps {
            run.go(step);
        }
        run.close();
    }

    /// A server that is dropped with all it has gives it back, too.
    #[test]
    fn a_dropped_server_keeps_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in steps {
            run.go(step);
        }
        let [one, _] = &run.workers;
        let (ports, quotas) = (Arc::clone(&one.ports), Arc::clone(&one.quotas));
        drop(run);
        prop_assert_eq!((ports.taken(), quotas.held(), quotas.held_by_credentials()), (0, 0, 0));
    }
}
