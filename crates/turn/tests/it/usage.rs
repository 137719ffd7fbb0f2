//! What is counted, what is said of it, and sessions that an operator ends.

use credentials::Credential;
use stun::{ChannelNumber, Method, TransactionId};
use testkit::message;
use turn::{Client, Command, EndReason, Ending, Rate, Report, Traffic, Transport, Usage};

use crate::fixture::{Fixture, KEY, Outcome, PEER, alice, client, udp};
use crate::mobility::{allocate, carry, pair, request};

fn usage(ingress: (u64, u64), egress: (u64, u64)) -> Usage {
    let traffic = |(packets, bytes)| Traffic { packets, bytes };
    Usage { ingress: traffic(ingress), egress: traffic(egress) }
}

/// What the server has to say of a whole walk.
fn reports(fixture: &mut Fixture) -> Vec<Report> {
    walk(fixture, true)
}

fn walk(fixture: &mut Fixture, thoroughly: bool) -> Vec<Report> {
    let now = fixture.now();
    assert!(fixture.server.report(now, usize::MAX, thoroughly));
    fixture.drain();
    std::mem::take(&mut fixture.reports)
}

fn send(peer: &str, data: &[u8]) -> Vec<u8> {
    message::send_indication(TransactionId::from_bytes([5; 12]), peer.parse().unwrap(), data)
}

/// Another worker gets a request with this ticket, and the first one is asked.
fn comes(to: &mut Fixture, at: Client, credential: &Credential, ticket: &[u8]) {
    let request = request(to, at, credential, ticket, None);
    assert_eq!(to.give(at, &request), Outcome::Elsewhere);
}

#[test]
fn what_is_relayed_is_counted_with_its_headers_and_nothing_else_is() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let at = Client { five_tuple: turn::FiveTuple { transport, ..alice().five_tuple }, ..alice() };
        let (mut fixture, channel) = (Fixture::new(), ChannelNumber::new(0x4000).unwrap());
        let credential = fixture.mint(3_600);
        fixture.allocate(at, &credential);
        assert_eq!(fixture.permit(at, &credential, &[PEER]), 0);
        let mut sent = vec![send(PEER, b"12345")];
        fixture.give(at, &sent[0]);
        fixture.hear(PEER, b"12345");
        // A header, XOR-PEER-ADDRESS, and DATA with its padding.
        let indication = 20 + 12 + 4 + 8;
        assert_eq!(fixture.bind(at, &credential, 0x4000, PEER), 0);
        sent.push(message::channel_data(transport, channel, b"12345"));
        fixture.give(at, &sent[1]);
        fixture.hear(PEER, b"12345");
        let ingress = sent.iter().map(Vec::len).sum::<usize>() as u64;
        let framed = if transport == Transport::Tcp { 12 } else { 9 };
        // Nothing of these is.
        fixture.give(at, &send("9.9.9.9:1", b"no permission"));
        fixture.give(at, &message::channel_data(transport, ChannelNumber::new(0x4001).unwrap(), b"none"));
        fixture.hear("9.9.9.9:1", b"no permission");
        let expected = usage((2, ingress), (2, indication + framed));
        let said = reports(&mut fixture);
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].usage, said[0].client, said[0].sequence), (expected, at.five_tuple, 1));
        assert_eq!((said[0].session.turn_key, said[0].session.credential), (KEY, credential.id));
        assert_eq!(said[0].session.username, credential.username);
    }
}

#[test]
fn what_a_rate_drops_is_not_counted() {
    let mut fixture = Fixture::configured(|config| {
        config.key_limits.allocation_rate = Rate { packets_per_second: Some(3), bits_per_second: None };
    });
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    fixture.permit(alice(), &credential, &[PEER]);
    for _ in 0..10 {
        fixture.give(alice(), &send(PEER, b""));
        fixture.hear(PEER, b"");
    }
    let said = reports(&mut fixture);
    assert_eq!((said[0].usage.ingress.packets, said[0].usage.egress.packets), (3, 3));
}

#[test]
fn a_report_is_made_of_what_is_new_and_of_the_quiet_now_and_then() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(walk(&mut fixture, false).len(), 1, "it is new");
    fixture.now_ms += 239_999;
    assert_eq!(reports(&mut fixture), []);
    fixture.now_ms += 1;
    assert_eq!(walk(&mut fixture, false), []);
    assert_eq!(reports(&mut fixture).len(), 1, "it lives");
    fixture.permit(alice(), &credential, &[PEER]);
    assert_eq!(reports(&mut fixture), [], "requests are not counted");
    fixture.hear(PEER, b"x");
    let said = walk(&mut fixture, false);
    assert_eq!((said.len(), said[0].sequence, said[0].ended), (1, 3, None));
    fixture.now_ms += 1_000;
    fixture.refresh(alice(), &credential, 600);
    assert_eq!(walk(&mut fixture, false), []);
    let said = reports(&mut fixture);
    assert_eq!(
        (said.len(), said[0].expires_unix_ms),
        (1, fixture.now().unix_ms + 600_000),
        "it lives longer"
    );
    fixture.refresh(alice(), &credential, 0);
    let said = std::mem::take(&mut fixture.reports);
    assert_eq!((said.len(), said[0].sequence, said[0].ended), (1, 5, Some(EndReason::Deleted)));
    assert_eq!(reports(&mut fixture), []);
}

#[test]
fn a_walk_goes_on_where_the_last_one_paused() {
    let mut fixture = Fixture::new();
    for port in 1..=5 {
        let credential = fixture.mint(3_600);
        fixture.allocate(client(Transport::Udp, &format!("192.0.2.1:{port}")), &credential);
    }
    let now = fixture.now();
    let mut rounds = 1;
    while !fixture.server.report(now, 2, false) {
        rounds += 1;
        fixture.drain();
        assert!(fixture.reports.len() <= 2 * rounds);
    }
    fixture.drain();
    let names: std::collections::BTreeSet<_> = fixture.reports.iter().map(|said| said.session.id).collect();
    assert_eq!((fixture.reports.len(), names.len()), (5, 5));
    assert!(rounds >= 3);
}

#[test]
fn a_session_and_its_totals_move_with_the_allocation() {
    let (mut a, mut b) = pair();
    let credential = a.mint(3_600);
    let ticket = allocate(&mut a, alice(), &credential);
    a.permit(alice(), &credential, &[PEER]);
    a.hear(PEER, b"before");
    let before = reports(&mut a).remove(0);
    let there = client(Transport::Udp, "192.0.2.77:7");
    comes(&mut b, there, &credential, &ticket);
    carry(&mut b, &mut a);
    carry(&mut a, &mut b);
    assert_eq!(reports(&mut b), [], "nothing is new");
    b.now_ms += 240_000;
    let after = reports(&mut b).remove(0);
    assert_eq!((after.session, after.usage, after.sequence), (before.session, before.usage, 2));
    assert_eq!(reports(&mut a), []);
}

#[test]
fn sessions_end_at_once_and_may_begin_anew() {
    let check = |ending: fn(&Report) -> Ending, ends: bool| {
        let mut fixture = Fixture::new();
        let credential = fixture.mint(3_600);
        fixture.allocate(alice(), &credential);
        let said = reports(&mut fixture).remove(0);
        let ending = ending(&said);
        fixture.command(Command::End(ending.clone()));
        assert_eq!(fixture.ends, vec![EndReason::Terminated; usize::from(ends)], "{ending:?}");
        assert_eq!(fixture.ports.taken(), usize::from(!ends));
        assert_eq!(fixture.reports.iter().filter(|it| it.ended.is_some()).count(), usize::from(ends));
        if ends {
            fixture.allocate(alice(), &credential);
            let again = reports(&mut fixture).pop().unwrap();
            assert_ne!(again.session.id, said.session.id);
        }
    };
    check(|said| Ending::Session(said.session.id), true);
    check(|said| Ending::Credential(said.session.credential), true);
    check(|said| Ending::Key(said.session.turn_key), true);
    check(|_| Ending::CustomIdentifier { turn_key: KEY, custom_identifier: "".into() }, true);
    check(|_| Ending::CustomIdentifier { turn_key: KEY, custom_identifier: "x".into() }, false);
    check(|_| Ending::Session(turn::SessionId([0; 16])), false);
    check(|_| Ending::Key(credentials::TurnKeyId::from_bytes([0; 16])), false);
}

#[test]
fn who_is_on_the_way_between_workers_is_ended_on_arrival() {
    for session_began_first in [true, false] {
        let (mut a, mut b) = pair();
        let credential = a.mint(3_600);
        if !session_began_first {
            b.command(Command::End(Ending::Key(KEY)));
            a.now_ms += 1;
            b.now_ms += 1;
        }
        let ticket = allocate(&mut a, alice(), &credential);
        let there = client(Transport::Udp, "192.0.2.77:7");
        comes(&mut b, there, &credential, &ticket);
        carry(&mut b, &mut a);
        if session_began_first {
            for worker in [&mut a, &mut b] {
                worker.command(Command::End(Ending::Key(KEY)));
            }
        }
        carry(&mut a, &mut b);
        let ends = vec![EndReason::Terminated; usize::from(session_began_first)];
        assert_eq!((a.ends, b.ends, a.ports.taken()), (vec![], ends, usize::from(!session_began_first)));
    }
}

#[test]
fn the_end_of_the_process_is_the_end_of_every_session() {
    let mut fixture = Fixture::new();
    for port in 1..=3 {
        let credential = fixture.mint(3_600);
        let at = client(Transport::Udp, &format!("192.0.2.1:{port}"));
        fixture.ask(at, &credential, Method::ALLOCATE, udp);
    }
    let now = fixture.now();
    fixture.server.stop(now);
    fixture.drain();
    assert_eq!((fixture.ends.clone(), fixture.ports.taken()), (vec![EndReason::Stopped; 3], 0));
    assert!(fixture.reports.iter().all(|said| said.ended == Some(EndReason::Stopped)));
}
