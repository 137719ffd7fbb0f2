//! Mobility, within a worker and between two.

use credentials::{Credential, Denial};
use stun::{AttributeType as A, Method, TransactionId};
use testkit::message;
use turn::{Action, Client, Command, DropReason, EndReason, Output, RelayId, Transport};

use crate::fixture::{Fixture, KEY, Outcome, PEER, alice, client, code, lifetime, udp, value};

/// Where alice goes.
pub(crate) fn elsewhere() -> Client {
    client(Transport::Udp, "82.0.0.9:5555")
}

pub(crate) fn third() -> Client {
    client(Transport::Tcp, "83.0.0.9:6666")
}

pub(crate) fn allocate(fixture: &mut Fixture, at: Client, credential: &Credential) -> Vec<u8> {
    let reply = fixture.ask(at, credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::MOBILITY_TICKET, &[]);
    });
    assert_eq!(code(&reply), 0);
    value(&reply, A::MOBILITY_TICKET).unwrap()
}

/// Alice with a permission and a channel, and her ticket.
pub(crate) fn ticketed(fixture: &mut Fixture) -> (Credential, Vec<u8>) {
    let credential = fixture.mint(3_600);
    let ticket = allocate(fixture, alice(), &credential);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, PEER), 0);
    (credential, ticket)
}

pub(crate) fn request(
    fixture: &mut Fixture,
    at: Client,
    credential: &Credential,
    ticket: &[u8],
    secs: Option<u32>,
) -> Vec<u8> {
    fixture.signed(at, credential, Method::REFRESH, |writer| {
        secs.map(|secs| writer.attribute_u32(A::LIFETIME, secs));
        writer.attribute(A::MOBILITY_TICKET, ticket);
    })
}

pub(crate) fn refresh(fixture: &mut Fixture, at: Client, credential: &Credential, ticket: &[u8]) -> Vec<u8> {
    let request = request(fixture, at, credential, ticket, None);
    fixture.give(at, &request).reply()
}

/// A move that succeeds: the new ticket.
fn moves(fixture: &mut Fixture, to: Client, credential: &Credential, ticket: &[u8]) -> Vec<u8> {
    let reply = refresh(fixture, to, credential, ticket);
    assert_eq!((code(&reply), lifetime(&reply)), (0, 600));
    value(&reply, A::MOBILITY_TICKET).unwrap()
}

pub(crate) fn sends_on_channel(fixture: &mut Fixture, at: Client) -> bool {
    let channel = stun::ChannelNumber::MIN;
    let packet = message::channel_data(at.five_tuple.transport, channel, b"data");
    fixture.give(at, &packet) == Outcome::ToPeer(PEER.parse().unwrap(), b"data".to_vec())
}

/// Whom a peer's data reaches.
pub(crate) fn heard_by(fixture: &mut Fixture) -> Option<Client> {
    let relay = RelayId(*fixture.sockets.open.keys().next().unwrap());
    match fixture.hear_on(relay, PEER, b"data") {
        Outcome::ToClient(client, _) => Some(client),
        _ => None,
    }
}

/// Carries one worker's posts to the other: all that is there now. The late replies.
pub(crate) fn carry(from: &mut Fixture, to: &mut Fixture) -> Vec<Vec<u8>> {
    let now = to.now();
    let mut replies = vec![];
    for post in std::mem::take(&mut from.posts) {
        match post {
            Output::Tell { note, .. } => to.server.told(now, note),
            Output::Depart { mut traveller, .. } => {
                hand_over(from, to, &mut traveller);
                to.server.arrived(now, traveller);
            }
            Output::Reply { bytes, .. } => replies.push(bytes),
            Output::Ended { .. } | Output::Report(_) | Output::Message { .. } | Output::Disconnect { .. } => {
                unreachable!("the fixture takes it")
            }
        }
    }
    to.timeout();
    replies
}

pub(crate) fn hand_over(from: &mut Fixture, to: &mut Fixture, traveller: &mut turn::Traveller) {
    for relay in traveller.relays_mut() {
        let local = from.sockets.open.remove(&relay.0).unwrap();
        relay.0 = (100..1_000).find(|id| !to.sockets.open.contains_key(id)).unwrap();
        to.sockets.open.insert(relay.0, local);
    }
}

/// Until nothing is under way: the replies to what was asked at `b`.
pub(crate) fn settle(a: &mut Fixture, b: &mut Fixture) -> Vec<Vec<u8>> {
    let mut replies = vec![];
    while !(a.posts.is_empty() && b.posts.is_empty()) {
        replies.extend(carry(b, a));
        replies.extend(carry(a, b));
    }
    replies
}

/// The one reply to a Refresh that `b` has to ask `a` about.
pub(crate) fn ask_across(
    a: &mut Fixture,
    b: &mut Fixture,
    at: Client,
    credential: &Credential,
    ticket: &[u8],
) -> Vec<u8> {
    let request = request(b, at, credential, ticket, None);
    assert_eq!((b.give(at, &request), b.last), (Outcome::Elsewhere, Some(Action::Later)));
    let replies = settle(a, b);
    let [reply] = <[Vec<u8>; 1]>::try_from(replies).unwrap();
    reply
}

pub(crate) fn move_across(
    a: &mut Fixture,
    b: &mut Fixture,
    credential: &Credential,
    ticket: &[u8],
) -> Vec<u8> {
    let reply = ask_across(a, b, elsewhere(), credential, ticket);
    assert_eq!((code(&reply), lifetime(&reply)), (0, 600));
    value(&reply, A::MOBILITY_TICKET).unwrap()
}

#[test]
fn rfc8016_3_1_2_an_empty_ticket_is_answered_with_one() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let ticket = allocate(&mut fixture, alice(), &credential);
    assert!((16..=64).contains(&ticket.len()), "{}", ticket.len());
    let reply = fixture.ask(elsewhere(), &credential, Method::ALLOCATE, udp);
    assert_eq!(value(&reply, A::MOBILITY_TICKET), None, "nobody asked");
}

#[test]
fn rfc8016_3_1_2_a_ticket_that_is_not_empty_is_400() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    for ticket in [&b"x"[..], &ticket] {
        let reply = fixture.ask(elsewhere(), &credential, Method::ALLOCATE, |writer| {
            udp(writer);
            writer.attribute(A::MOBILITY_TICKET, ticket);
        });
        assert_eq!(code(&reply), 400);
    }
    assert_eq!(fixture.server.allocation_count(), 1);
}

#[test]
fn rfc8016_3_1_2_a_forbidden_one_is_405() {
    let mut fixture = Fixture::configured(|config| config.mobility = false);
    let credential = fixture.mint(3_600);
    let reply = fixture.ask(alice(), &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::MOBILITY_TICKET, &[]);
    });
    assert_eq!((code(&reply), fixture.server.allocation_count()), (405, 0));
}

#[test]
fn rfc8016_3_2_2_where_mobility_is_off_a_ticket_is_405() {
    let mut fixture = Fixture::configured(|config| config.mobility = false);
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(code(&refresh(&mut fixture, elsewhere(), &credential, &[1; 50])), 405);
}

#[test]
fn rfc8016_3_1_2_a_retransmitted_allocate_gets_the_same_ticket() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let packet = fixture.signed(alice(), &credential, Method::ALLOCATE, |writer| {
        udp(writer);
        writer.attribute(A::MOBILITY_TICKET, &[]);
    });
    let [first, second] = [(); 2].map(|()| fixture.give(alice(), &packet).reply());
    assert_eq!(value(&first, A::MOBILITY_TICKET), value(&second, A::MOBILITY_TICKET));
    assert!(value(&first, A::MOBILITY_TICKET).is_some());
}

#[test]
fn rfc8016_3_2_2_an_allocation_follows_its_client() {
    for to in [elsewhere(), third()] {
        let mut fixture = Fixture::new();
        let (credential, ticket) = ticketed(&mut fixture);
        let second = moves(&mut fixture, to, &credential, &ticket);
        assert_ne!(second, ticket, "a new ticket is another one");
        assert!(sends_on_channel(&mut fixture, to) && fixture.sends(to), "permission and channel follow");
        assert_eq!(heard_by(&mut fixture), Some(to));
        assert_eq!((fixture.server.allocation_count(), fixture.ports.taken()), (1, 1));
        moves(&mut fixture, alice(), &credential, &second);
        assert!(sends_on_channel(&mut fixture, alice()));
    }
}

#[test]
fn rfc8016_3_2_2_the_old_5_tuple_serves_until_the_new_one_sends() {
    for by_indication in [false, true] {
        let mut fixture = Fixture::new();
        let (credential, ticket) = ticketed(&mut fixture);
        moves(&mut fixture, elsewhere(), &credential, &ticket);
        // Data goes to the old 5-tuple and comes from it, and requests are answered at both.
        assert_eq!(heard_by(&mut fixture), Some(alice()));
        assert!(sends_on_channel(&mut fixture, alice()) && fixture.sends(alice()));
        for at in [alice(), elsewhere()] {
            assert_eq!(fixture.permit(at, &credential, &[PEER]), 0);
            assert_eq!(code(&fixture.refresh(at, &credential, 600)), 0);
        }
        assert_eq!(heard_by(&mut fixture), Some(alice()));
        assert!(if by_indication {
            fixture.sends(elsewhere())
        } else {
            sends_on_channel(&mut fixture, elsewhere())
        });
        assert_eq!(heard_by(&mut fixture), Some(elsewhere()));
        assert!(!sends_on_channel(&mut fixture, alice()) && !fixture.sends(alice()));
        assert_eq!(code(&fixture.refresh(alice(), &credential, 600)), 437);
        // The old 5-tuple is free for another allocation.
        fixture.allocate(alice(), &credential);
    }
}

#[test]
fn rfc8016_3_2_2_the_end_of_the_old_connection_ends_the_move() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let ticket = allocate(&mut fixture, third(), &credential);
    fixture.permit(third(), &credential, &[PEER]);
    moves(&mut fixture, elsewhere(), &credential, &ticket);
    assert_eq!(heard_by(&mut fixture), Some(third()));
    fixture.command(Command::ClientGone(third().five_tuple));
    assert_eq!(heard_by(&mut fixture), Some(elsewhere()));
    assert!(fixture.ends.is_empty());
}

#[test]
fn rfc8016_3_2_2_a_client_that_lost_its_connection_comes_back() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    let ticket = allocate(&mut fixture, third(), &credential);
    fixture.permit(third(), &credential, &[PEER]);
    fixture.command(Command::ClientGone(third().five_tuple));
    assert_eq!(fixture.hear(PEER, b"x"), Outcome::Silence(DropReason::ClientAway));
    assert_eq!(code(&fixture.refresh(third(), &credential, 600)), 437, "only with the ticket");
    // Even from the same 5-tuple: it is another connection.
    let ticket = moves(&mut fixture, third(), &credential, &ticket);
    assert_eq!(heard_by(&mut fixture), Some(third()));
    fixture.command(Command::ClientGone(third().five_tuple));
    moves(&mut fixture, elsewhere(), &credential, &ticket);
    assert_eq!(heard_by(&mut fixture), Some(elsewhere()), "there is no old path to wait for");
    // Whoever does not come back loses it in time.
    fixture.command(Command::ClientGone(elsewhere().five_tuple));
    fixture.now_ms += 600_000;
    fixture.timeout();
    assert_eq!((fixture.ends, fixture.ports.taken()), (vec![EndReason::Expired], 0));
}

#[test]
fn an_allocation_that_is_not_mobile_ends_with_its_connection() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(third(), &credential);
    fixture.command(Command::ClientGone(third().five_tuple));
    assert_eq!(fixture.ends, [EndReason::ClientGone]);
}

#[test]
fn rfc8016_3_2_2_a_retransmitted_refresh_is_answered_again() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let packet = request(&mut fixture, elsewhere(), &credential, &ticket, None);
    let first = fixture.give(elsewhere(), &packet).reply();
    assert_eq!(fixture.give(elsewhere(), &packet).reply(), first);
    assert!(sends_on_channel(&mut fixture, elsewhere()));
    fixture.now_ms += 30_000;
    assert_eq!(fixture.give(elsewhere(), &packet).reply(), first, "for 30 seconds at least");
}

#[test]
fn rfc8016_3_2_2_a_used_ticket_is_400() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    moves(&mut fixture, elsewhere(), &credential, &ticket);
    for at in [third(), elsewhere(), alice()] {
        assert_eq!(code(&refresh(&mut fixture, at, &credential, &ticket)), 400);
    }
    assert!(sends_on_channel(&mut fixture, elsewhere()));
    assert_eq!(code(&refresh(&mut fixture, third(), &credential, &ticket)), 400);
    assert_eq!(heard_by(&mut fixture), Some(elsewhere()));
}

#[test]
fn rfc8016_3_2_2_a_ticket_from_its_own_5_tuple_is_400() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    assert_eq!(code(&refresh(&mut fixture, alice(), &credential, &ticket)), 400);
    moves(&mut fixture, elsewhere(), &credential, &ticket);
}

#[test]
fn rfc8016_3_2_2_an_invalid_ticket_is_400_and_one_of_the_past_437() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let mut forged = ticket.clone();
    forged[20] ^= 1;
    for ticket in [&b""[..], b"x", &forged, &ticket[1..]] {
        assert_eq!(code(&refresh(&mut fixture, elsewhere(), &credential, ticket)), 400);
    }
    assert_eq!(code(&fixture.refresh(alice(), &credential, 0)), 0);
    assert_eq!(code(&refresh(&mut fixture, elsewhere(), &credential, &ticket)), 437);
    // Another allocation in its place is not the one.
    allocate(&mut fixture, alice(), &credential);
    assert_eq!(code(&refresh(&mut fixture, elsewhere(), &credential, &ticket)), 437);
}

#[test]
fn rfc8016_3_2_2_another_users_ticket_is_441() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let mallory = fixture.mint(3_600);
    assert_eq!(code(&refresh(&mut fixture, elsewhere(), &mallory, &ticket)), 441);
    moves(&mut fixture, elsewhere(), &credential, &ticket);
}

#[test]
fn rfc8656_2_a_5_tuple_has_one_allocation_also_after_a_move() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    fixture.allocate(elsewhere(), &credential);
    assert_eq!(code(&refresh(&mut fixture, elsewhere(), &credential, &ticket)), 437);
    moves(&mut fixture, third(), &credential, &ticket);
    // Both of its 5-tuples are taken.
    for at in [alice(), third()] {
        assert_eq!(code(&fixture.ask(at, &credential, Method::ALLOCATE, udp)), 437);
    }
}

#[test]
fn rfc8016_3_2_1_a_client_that_has_moved_may_delete() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let packet = request(&mut fixture, elsewhere(), &credential, &ticket, Some(0));
    let reply = fixture.give(elsewhere(), &packet).reply();
    assert_eq!((code(&reply), lifetime(&reply)), (0, 0));
    assert_eq!(value(&reply, A::MOBILITY_TICKET), None);
    assert_eq!((fixture.ends, fixture.ports.taken()), (vec![EndReason::Deleted], 0));
}

#[test]
fn rfc8016_3_2_2_a_second_move_before_the_first_is_over() {
    let mut fixture = Fixture::new();
    let (credential, ticket) = ticketed(&mut fixture);
    let ticket = moves(&mut fixture, elsewhere(), &credential, &ticket);
    let ticket = moves(&mut fixture, third(), &credential, &ticket);
    assert_eq!(heard_by(&mut fixture), Some(alice()), "where data came from last");
    assert!(!sends_on_channel(&mut fixture, elsewhere()));
    // Back to where it was.
    moves(&mut fixture, alice(), &credential, &ticket);
    assert!(!sends_on_channel(&mut fixture, third()));
    assert!(sends_on_channel(&mut fixture, alice()));
    assert_eq!(heard_by(&mut fixture), Some(alice()));
}

#[test]
fn rfc8016_3_2_2_an_allocation_moves_to_another_worker() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let second = move_across(&mut a, &mut b, &credential, &ticket);
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (0, 1));
    assert_eq!((a.sockets.open.len(), b.sockets.open.len(), a.ports.taken()), (0, 1, 1));
    // The old path goes on, through both.
    assert_eq!(heard_by(&mut b), Some(alice()));
    let packet = message::send_indication(TransactionId::from_bytes([2; 12]), PEER.parse().unwrap(), b"old");
    assert_eq!(a.give(alice(), &packet), Outcome::Elsewhere);
    let Some(Action::Pass(to)) = a.last else { panic!("{:?}", a.last) };
    assert_eq!(to, b.server.worker());
    assert_eq!(passed(&mut b, &a, &packet), Outcome::ToPeer(PEER.parse().unwrap(), b"old".to_vec()));
    assert!(a.server.has_allocation(&alice().five_tuple));
    // Until the new one is heard.
    assert!(sends_on_channel(&mut b, elsewhere()));
    assert_eq!(heard_by(&mut b), Some(elsewhere()));
    settle(&mut a, &mut b);
    assert_eq!(a.give(alice(), &packet), Outcome::Silence(DropReason::NoAllocation));
    assert!(!a.server.has_allocation(&alice().five_tuple));
    // And back, to a worker that has forgotten it.
    let reply = ask_across(&mut b, &mut a, third(), &credential, &second);
    assert_eq!(code(&reply), 0);
    assert!(sends_on_channel(&mut a, third()));
    settle(&mut a, &mut b);
    assert_eq!((a.server.allocation_count(), b.server.allocation_count(), a.ports.taken()), (1, 0, 1));
    assert!(!b.server.has_allocation(&elsewhere().five_tuple));
}

/// Two workers.
pub(crate) fn pair() -> (Fixture, Fixture) {
    let a = Fixture::new();
    let b = a.sibling();
    (a, b)
}

/// What comes of alice's packet that worker `a` has passed on.
pub(crate) fn passed(b: &mut Fixture, a: &Fixture, bytes: &[u8]) -> Outcome {
    let now = b.now();
    let from = a.server.worker();
    b.pass(now, from, alice(), bytes)
}

#[test]
fn rfc8016_3_2_2_a_move_back_before_the_new_path_was_used() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let signature = a.signature(alice(), &credential);
    let ticket = move_across(&mut a, &mut b, &credential, &ticket);
    // Alice's other requests go to where her allocation is, this one brings it back.
    let packet = message::request(Method::REFRESH, TransactionId::from_bytes([3; 12]), |writer| {
        writer.attribute(A::MOBILITY_TICKET, &ticket);
        signature.sign(writer);
    });
    assert_eq!((a.give(alice(), &packet), a.last), (Outcome::Elsewhere, Some(Action::Later)));
    assert_eq!(code(&settle(&mut b, &mut a)[0]), 0);
    assert!(sends_on_channel(&mut a, alice()));
    assert_eq!(heard_by(&mut a), Some(alice()));
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (1, 0));
    assert_eq!(code(&b.refresh(elsewhere(), &credential, 600)), 437);
}

#[test]
fn rfc8016_3_2_2_a_refresh_is_retransmitted_to_another_worker() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    // Three times before anybody answers.
    for _ in 0..3 {
        assert_eq!(b.give(elsewhere(), &packet), Outcome::Elsewhere);
    }
    let replies = settle(&mut a, &mut b);
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(|reply| code(reply) == 0 && *reply == replies[0]));
    assert_eq!(b.give(elsewhere(), &packet).reply(), replies[0]);
    // With another request it is a used ticket.
    assert_eq!(code(&refresh(&mut b, elsewhere(), &credential, &ticket)), 400);
    // From where its allocation is known no more, it names none.
    assert_eq!(code(&refresh(&mut a, third(), &credential, &ticket)), 437);
    assert_eq!(code(&ask_across(&mut b, &mut a, third(), &credential, &new_ticket(&replies[0]))), 0);
}

pub(crate) fn new_ticket(reply: &[u8]) -> Vec<u8> {
    value(reply, A::MOBILITY_TICKET).unwrap()
}

#[test]
fn refusals_come_from_the_other_worker_too() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let mallory = a.mint(3_600);
    assert_eq!(code(&ask_across(&mut a, &mut b, elsewhere(), &mallory, &ticket)), 441);
    assert_eq!(a.server.allocation_count(), 1, "another one's claim moves nothing");
    let packet = request(&mut b, elsewhere(), &credential, &ticket, Some(0));
    b.give(elsewhere(), &packet);
    let replies = settle(&mut a, &mut b);
    assert_eq!((code(&replies[0]), lifetime(&replies[0])), (0, 0));
    assert_eq!(a.ends, [EndReason::Deleted]);
    assert_eq!(code(&ask_across(&mut a, &mut b, elsewhere(), &credential, &ticket)), 437);
    assert_eq!(a.ports.taken(), 0);
}

#[test]
fn a_denial_reaches_an_allocation_between_two_workers() {
    for which in 0..3 {
        let (mut a, mut b) = pair();
        let (credential, ticket) = ticketed(&mut a);
        let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
        b.give(elsewhere(), &packet);
        carry(&mut b, &mut a);
        assert_eq!(a.server.allocation_count(), 0, "under way");
        let until = credential.expires_at;
        let command = match which {
            0 => Command::Deny(Denial::Credential { id: credential.id, until }),
            1 => Command::Deny(Denial::Issued { key: KEY, before: until, until }),
            _ => Command::Suspend { key: KEY, suspended: true },
        };
        a.command(command.clone());
        b.command(command);
        assert_eq!((b.ends.len(), a.ports.taken()), (0, 1));
        let replies = settle(&mut a, &mut b);
        assert_eq!((&b.ends[..], a.ports.taken()), (&[EndReason::Denied][..], 0));
        assert_eq!(code(&replies[0]), 401);
        assert!(b.sockets.open.is_empty() && a.sockets.open.is_empty());
    }
}

#[test]
fn an_allocation_that_expires_between_two_workers_ends() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    b.give(elsewhere(), &packet);
    carry(&mut b, &mut a);
    a.now_ms += 600_000;
    b.now_ms += 600_000;
    let replies = settle(&mut a, &mut b);
    assert_eq!((&b.ends[..], a.ports.taken(), code(&replies[0])), (&[EndReason::Expired][..], 0, 437));
}

#[test]
fn an_allocation_that_cannot_be_sent_stays() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    b.give(elsewhere(), &packet);
    carry(&mut b, &mut a);
    let Some(Output::Depart { traveller, .. }) = a.posts.pop() else { panic!("it departs") };
    assert_eq!(a.server.allocation_count(), 0);
    a.server.returned(a.now(), traveller);
    assert_eq!(a.server.allocation_count(), 1);
    assert!(sends_on_channel(&mut a, alice()));
    assert_eq!(heard_by(&mut a), Some(alice()));
    // The client sends its request again.
    b.give(elsewhere(), &packet);
    assert_eq!(code(&settle(&mut a, &mut b)[0]), 0);
    assert!(sends_on_channel(&mut b, elsewhere()));
}

#[test]
fn an_allocation_whose_place_is_taken_meanwhile_goes_back() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let packet = request(&mut b, elsewhere(), &credential, &ticket, None);
    b.give(elsewhere(), &packet);
    b.allocate(elsewhere(), &credential);
    let replies = settle(&mut a, &mut b);
    assert_eq!((replies.len(), code(&replies[0])), (1, 437));
    assert_eq!((a.server.allocation_count(), b.server.allocation_count()), (1, 1));
    assert!(sends_on_channel(&mut a, alice()));
    assert_eq!(code(&ask_across(&mut a, &mut b, third(), &credential, &ticket)), 0);
}

#[test]
fn rfc8016_3_2_2_the_old_connection_ends_at_another_worker() {
    let (mut a, mut b) = pair();
    let credential = a.mint(3_600);
    let ticket = allocate(&mut a, third(), &credential);
    a.permit(third(), &credential, &[PEER]);
    let ticket = move_across(&mut a, &mut b, &credential, &ticket);
    assert_eq!(heard_by(&mut b), Some(third()));
    a.command(Command::ClientGone(third().five_tuple));
    settle(&mut a, &mut b);
    assert_eq!(heard_by(&mut b), Some(elsewhere()));
    // A connection of the same 5-tuple may be accepted by any worker.
    b.allocate(third(), &credential);
    let reply = ask_across(&mut b, &mut a, alice(), &credential, &ticket);
    assert_eq!(code(&reply), 0);
    assert!(a.sends(alice()));
}

#[test]
fn what_is_passed_on_too_late_is_passed_back() {
    let (mut a, mut b) = pair();
    let (credential, ticket) = ticketed(&mut a);
    let refresh = a.signed(alice(), &credential, Method::REFRESH, |_| {});
    move_across(&mut a, &mut b, &credential, &ticket);
    assert!(sends_on_channel(&mut b, elsewhere()));
    // The note about that was lost or is late.
    b.posts.clear();
    let packet = message::send_indication(TransactionId::from_bytes([2; 12]), PEER.parse().unwrap(), b"old");
    for bytes in [&packet, &refresh] {
        assert_eq!(a.give(alice(), bytes), Outcome::Elsewhere);
    }
    for bytes in [&packet, &refresh] {
        assert_eq!((passed(&mut b, &a, bytes), b.last_passed), (Outcome::Elsewhere, Some(a.server.worker())));
    }
    assert_eq!(a.pass_back(b.server.worker(), alice(), &packet), Outcome::Silence(DropReason::NoAllocation));
    assert_eq!(
        a.pass_back(b.server.worker(), alice(), &refresh).code(),
        437,
        "over a stream nobody asks twice"
    );
    assert!(!a.server.has_allocation(&alice().five_tuple));
}
