//! What is under way between two workers, or three: allocations that go back, old paths, and what is heard late.

use stun::{AttributeType as A, Method, TransactionId};
use testkit::message;
use turn::{Action, Client, Command, Output, RelayId, Transport};

use crate::fixture::{Fixture, Outcome, PEER, alice, client, code, lifetime, udp};
use crate::mobility::{
    allocate, ask_across, carry, elsewhere, heard_by, move_across, new_ticket, pair, passed, request,
    sends_on_channel, settle, third, ticketed,
};

fn bob() -> Client {
    client(Transport::Udp, "81.0.0.2:4000")
}

#[test]
fn what_could_not_be_sent_keeps_its_ticket() {
    let (mut a, mut b) = pair();
    let credential = a.mint(3_600);
    let places = [(alice(), elsewhere()), (bob(), third())];
    let requests = places.map(|(from, to)| {
        let ticket = allocate(&mut a, from, &credential);
        (to, request(&mut b, to, &credential, &ticket, None))
    });
    for (to, packet) in &requests {
        b.give(*to, packet);
    }
    carry(&mut b, &mut a);
    // They come back in the order they left, and take each other's places in the tables.
    for post in std::mem::take(&mut a.posts) {
        let Output::Depart { traveller, .. } = post else { panic!("they depart") };
        a.server.returned(a.now(), traveller);
    }
    for (to, packet) in &requests {
        b.give(*to, packet);
        assert_eq!(code(&settle(&mut a, &mut b)[0]), 0);
    }
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (0, 2));
}

#[test]
fn an_allocation_that_finds_no_room_goes_back() {
    let mut a = Fixture::configured(|config| config.limits.allocations = 1);
    let mut b = a.sibling();
    let (credential, ticket) = ticketed(&mut a);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    b.give(elsewhere(), &packet);
    b.allocate(third(), &credential);
    let replies = settle(&mut a, &mut b);
    assert_eq!((replies.len(), code(&replies[0])), (1, 508));
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (1, 1));
    assert!(sends_on_channel(&mut a, alice()));
    b.refresh(third(), &credential, 0);
    assert_eq!(code(&ask_across(&mut a, &mut b, elsewhere(), &credential, &ticket)), 0);
}

#[test]
fn who_moves_often_puts_an_end_to_nobody_elses_old_path() {
    let mut a = Fixture::configured(|config| config.limits.allocations = 4);
    let mut b = a.sibling();
    let credential = a.mint(3_600);
    let ticket = allocate(&mut a, bob(), &credential);
    assert_eq!(code(&ask_across(&mut a, &mut b, third(), &credential, &ticket)), 0);
    let (credential, mut ticket) = ticketed(&mut a);
    let signature = a.signature(alice(), &credential);
    for round in 0..20 {
        ticket = move_across(&mut a, &mut b, &credential, &ticket);
        let packet = message::request(Method::REFRESH, TransactionId::from_bytes([round; 12]), |writer| {
            writer.attribute(A::MOBILITY_TICKET, &ticket);
            signature.sign(writer);
        });
        assert_eq!(a.give(alice(), &packet), Outcome::Elsewhere);
        ticket = new_ticket(&settle(&mut b, &mut a)[0]);
        assert!(a.server.has_allocation(&bob().five_tuple), "round {round}");
    }
}

#[test]
fn a_new_allocation_on_an_old_path_is_not_touched_by_the_one_that_had_it() {
    let (mut a, mut b) = pair();
    let credential = a.mint(20_000);
    let ticket = allocate(&mut a, alice(), &credential);
    let ticket = move_across(&mut a, &mut b, &credential, &ticket);
    for _ in 0..2 {
        assert_eq!(lifetime(&b.refresh(elsewhere(), &credential, 3_600)), 3_600);
        a.now_ms += 1_800_000;
        b.now_ms += 1_800_000;
    }
    a.timeout();
    // The path is forgotten, and its place another one's.
    let relayed = a.allocate(alice(), &credential);
    let relay = a.socket_of(relayed).unwrap();
    assert_eq!(a.permit(alice(), &credential, &[PEER]), 0);
    assert_eq!(code(&ask_across(&mut b, &mut a, third(), &credential, &ticket)), 0);
    assert_eq!(a.permit(third(), &credential, &[PEER]), 0);
    for end in [false, true] {
        if end {
            assert_eq!(code(&a.refresh(third(), &credential, 0)), 0);
        } else {
            let moved = RelayId(*a.sockets.open.keys().find(|id| **id != relay.0).unwrap());
            // Until it sends from the third place, its client is where it was last at home.
            let heard = a.hear_on(moved, PEER, b"x");
            assert!(matches!(heard, Outcome::ToClient(to, _) if to == elsewhere()), "{heard:?}");
        }
        assert!(a.sends(alice()));
        assert!(matches!(a.hear_on(relay, PEER, b"x"), Outcome::ToClient(to, _) if to == alice()));
        assert_eq!(code(&a.refresh(alice(), &credential, 600)), 0);
    }
}

#[test]
fn an_old_path_is_found_again_after_the_allocation_went_on() {
    for back_first in [true, false] {
        let (mut a, mut b) = pair();
        let mut c = b.sibling();
        let (credential, ticket) = ticketed(&mut a);
        let ticket = move_across(&mut a, &mut b, &credential, &ticket);
        let packet = request(&mut c, third(), &credential, &ticket, None);
        assert_eq!(c.give(third(), &packet), Outcome::Elsewhere);
        carry(&mut c, &mut b);
        carry(&mut b, &mut c);
        // Alice's packet is under way to where her allocation was.
        let (from_b, to_c) = (b.server.worker(), c.server.worker());
        let data =
            message::send_indication(TransactionId::from_bytes([2; 12]), PEER.parse().unwrap(), b"old");
        assert_eq!(a.give(alice(), &data), Outcome::Elsewhere);
        assert_eq!((passed(&mut b, &a, &data), b.last_passed), (Outcome::Elsewhere, Some(a.server.worker())));
        if back_first {
            a.pass_back(from_b, alice(), &data);
            carry(&mut c, &mut a);
        } else {
            carry(&mut c, &mut a);
            assert_eq!(a.pass_back(from_b, alice(), &data), Outcome::Elsewhere, "it goes on, too");
        }
        assert_eq!((a.give(alice(), &data), a.last), (Outcome::Elsewhere, Some(Action::Pass(to_c))));
        assert!(matches!(passed(&mut c, &a, &data), Outcome::ToPeer(..)));
    }
}

#[test]
fn a_lost_word_about_a_closed_connection_is_said_again() {
    let (mut a, mut b) = pair();
    let credential = a.mint(3_600);
    let ticket = allocate(&mut a, third(), &credential);
    a.permit(third(), &credential, &[PEER]);
    move_across(&mut a, &mut b, &credential, &ticket);
    a.command(Command::ClientGone(third().five_tuple));
    a.posts.clear();
    assert_eq!(heard_by(&mut b), Some(third()));
    a.server.unreachable(&third().five_tuple, b.server.worker());
    a.drain();
    settle(&mut a, &mut b);
    assert_eq!(heard_by(&mut b), Some(elsewhere()));
    // A late word ends nothing that is new.
    b.allocate(third(), &credential);
    a.server.unreachable(&third().five_tuple, b.server.worker());
    a.drain();
    settle(&mut a, &mut b);
    assert_eq!((b.server.allocation_count(), b.ends.len()), (2, 0));
}

#[test]
fn a_new_allocation_on_an_old_path_is_not_made_where_the_old_one_has_run_out() {
    let (mut a, mut b) = pair();
    let credential = a.mint(3_600);
    let ticket = allocate(&mut a, third(), &credential);
    move_across(&mut a, &mut b, &credential, &ticket);
    a.now_ms += 600_000;
    b.now_ms += 600_000;
    // Its worker has not looked at the clock yet.
    assert_eq!(b.server.allocation_count(), 1);
    let packet = b.signed(third(), &credential, Method::ALLOCATE, udp);
    assert_eq!(a.give(third(), &packet), Outcome::Elsewhere);
    let now = b.now();
    assert_eq!(b.pass(now, a.server.worker(), third(), &packet), Outcome::Elsewhere);
    assert_eq!(b.last_passed, Some(a.server.worker()));
    assert_eq!(a.pass_back(b.server.worker(), third(), &packet).code(), 0);
    b.timeout();
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (1, 0));
    // RFC 8656 §6: it ends with its connection, which is here.
    a.command(Command::ClientGone(third().five_tuple));
    assert_eq!((a.server.allocation_count(), a.ports.taken()), (0, 0));
}

#[test]
fn an_old_path_serves_as_long_as_its_client_refreshes_there() {
    let (mut a, mut b) = pair();
    let credential = a.mint(20_000);
    let ticket = allocate(&mut a, alice(), &credential);
    move_across(&mut a, &mut b, &credential, &ticket);
    for round in 0..20 {
        let packet = b.signed(alice(), &credential, Method::REFRESH, |_| {});
        assert_eq!(a.give(alice(), &packet), Outcome::Elsewhere, "round {round}");
        let reply = passed(&mut b, &a, &packet).reply();
        assert_eq!(lifetime(&reply), 600);
        a.now_ms += 500_000;
        b.now_ms += 500_000;
        a.timeout();
        b.timeout();
    }
    // And is forgotten when it does so no more.
    a.now_ms += 3_600_000;
    a.timeout();
    assert!(!a.server.has_allocation(&alice().five_tuple));
}
