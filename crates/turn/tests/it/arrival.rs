//! Allocations that arrive at a worker where something has happened meanwhile.

use turn::{Command, EndReason, Output};

use crate::fixture::{PEER, alice, code};
use crate::mobility::{
    ask_across, carry, elsewhere, hand_over, heard_by, move_across, pair, request, settle, third, ticketed,
};

#[test]
fn an_old_path_that_is_heard_here_again_is_passed_on_no_longer() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let ticket = move_across(&mut a, &mut b, &credential, &ticket);
    // From a third place it comes back to where its old path is heard, without having used the second.
    let reply = ask_across(&mut b, &mut a, third(), &credential, &ticket);
    assert_eq!(code(&reply), 0);
    assert_eq!(a.permit(alice(), &credential, &[PEER]), 0);
    assert_eq!(heard_by(&mut a), Some(alice()));
}

#[test]
fn what_has_run_out_is_in_nobodys_way() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    assert_eq!(code(&a.refresh(alice(), &credential, 1_200)), 0);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    b.give(elsewhere(), &packet);
    b.allocate(elsewhere(), &credential);
    a.now_ms += 600_000;
    b.now_ms += 600_000;
    // The one at the new place has run out, and nobody has told the server the time.
    let now = b.now();
    carry(&mut b, &mut a);
    let Some(Output::Depart { mut traveller, .. }) = a.posts.pop() else { panic!("it departs") };
    hand_over(&mut a, &mut b, &mut traveller);
    b.server.arrived(now, traveller);
    b.drain();
    let replies = settle(&mut a, &mut b);
    assert_eq!((replies.len(), code(&replies[0]), b.server.allocation_count()), (1, 0, 1));
    assert_eq!(b.ends, [EndReason::Expired]);
}

#[test]
fn whoever_has_lost_its_old_path_to_another_is_where_it_was_going_to() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let ticket = move_across(&mut a, &mut b, &credential, &ticket);
    // A connection from where alice was is at the first worker again, and one from elsewhere has come to it with her
    // newest ticket, where there is no place any more.
    let packet = request(&mut a, third(), &credential, &ticket, None);
    a.give(third(), &packet);
    a.command(Command::ClientGone(alice().five_tuple));
    a.allocate(alice(), &credential);
    a.allocate(third(), &credential);
    a.posts.retain(|post| !format!("{post:?}").contains("Gone"));
    let replies = settle(&mut a, &mut b);
    assert_eq!((replies.len(), code(&replies[0])), (1, 437));
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (2, 1));
    assert_eq!(heard_by(&mut b), Some(elsewhere()));
}
