//! RFC 8016: an allocation that follows its client to another address.

use stun::AttributeType;

use crate::check::{Check, check};
use crate::client::Client;
use crate::message::{Reply, Request};
use crate::outcome::{Outcome, Verdict, ensure, skip};
use crate::path::Path;
use crate::target::Target;

const TICKET: AttributeType = AttributeType(0x8030);

pub(crate) const CHECKS: &[Check] = &[
    check("rfc8016-3.1.2-ticket-when-asked", |target| ticketed(target).map(drop)),
    check("rfc8016-3.1.2-no-ticket-unless-asked", |target| {
        let reply = Client::challenged(target)?.allocate(&Request::allocate())?;
        ensure(!reply.has(TICKET), "Allocate without MOBILITY-TICKET: expected none in the response")
    }),
    check("rfc8016-3.1.2-allocate-with-a-ticket-in-it-400", |target| {
        ticketed(target)?;
        let request = Request::allocate().with(TICKET, b"not empty");
        Client::challenged(target)?.refused(
            "Allocate with a MOBILITY-TICKET that is not empty",
            &request,
            &[400],
        )
    }),
    check("rfc8016-3.2.2-refresh-with-the-ticket-moves-the-allocation", moves),
    check("rfc8016-3.2.2-permissions-and-channels-move-along", permissions_move),
    check("rfc8016-3.2.2-old-5-tuple-serves-until-the-new-one-sends", old_serves),
    check("rfc8016-3.2.2-old-5-tuple-ends", old_ends),
    check("rfc8016-3.2.2-a-moved-allocation-has-a-new-ticket", new_ticket),
    check("rfc8016-3.2.2-a-ticket-serves-once", serves_once),
    check("rfc8016-3.2.2-a-retransmitted-refresh-is-answered-again", answered_again),
    check("rfc8016-3.2.2-ticket-from-its-own-5-tuple-400", from_its_own),
    check("rfc8016-3.2.2-ticket-of-a-deleted-allocation-437", of_a_deleted),
    check("rfc8016-3.2.2-altered-ticket-400", altered),
    check("rfc8016-3.2.2-another-users-ticket-441", another_user),
    check("rfc8016-5-tickets-show-nothing", tickets_show_nothing),
];

/// A client and peer with a permission, and the allocation's ticket.
fn ticketed(target: &Target) -> Result<(Path<'_>, Vec<u8>), Verdict> {
    let peer = crate::peer::Peer::open(target)?;
    let mut client = Client::challenged(target)?;
    let reply = client.ask(&Request::allocate().with(TICKET, []))?;
    if reply.code() == Some(405) {
        return skip("mobility is forbidden here: 405");
    }
    client.adopt(&reply)?;
    let Some(ticket) = ticket_of(&reply) else { return skip("mobility is not offered: no MOBILITY-TICKET") };
    client.permit(peer.address()?)?;
    let at = peer.address()?;
    Ok((Path { client, peer, at }, ticket))
}

fn ticket_of(reply: &Reply) -> Option<Vec<u8>> {
    reply.attribute(TICKET).filter(|ticket| !ticket.is_empty()).map(<[u8]>::to_vec)
}

fn refresh_with(ticket: &[u8]) -> Request {
    Request::refresh(600).with(TICKET, ticket)
}

/// The allocation's client, from another port.
fn moved<'t>(target: &'t Target, path: &mut Path<'t>, ticket: &[u8]) -> Result<Reply, Verdict> {
    let mut elsewhere = Client::open(target)?;
    let reply = elsewhere.ask_anew(path.client.signature(), &refresh_with(ticket))?;
    reply.success("Refresh with MOBILITY-TICKET from another port")?;
    elsewhere.take_over(&mut path.client);
    path.client = elsewhere;
    Ok(reply)
}

fn moves(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    path.still_relays("before the move")?;
    moved(target, &mut path, &ticket)?;
    path.still_relays("after the move")
}

fn permissions_move(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    path.client.bind(0x4055, path.at)?;
    moved(target, &mut path, &ticket)?;
    path.client.send_on_channel(0x4055, b"moved")?;
    path.peer.expect("a channel after the move", b"moved")?;
    path.peer_sends(b"follow")?;
    path.client.expect_channel_data("a channel after the move", 0x4055, b"follow")
}

fn old_ends(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    let mut elsewhere = Client::open(target)?;
    let reply = elsewhere.ask_anew(path.client.signature(), &refresh_with(&ticket))?;
    reply.success("Refresh with MOBILITY-TICKET from another port")?;
    let relayed = path.relayed();
    elsewhere.take_over(&mut path.client);
    ensure(elsewhere.relayed() == relayed, "a moved allocation: expected the same relayed address")?;
    // RFC 8016 §3.2.2: the old 5-tuple serves until data comes from the new one.
    elsewhere.send(&Request::send(path.at, b"from the new address").bytes())?;
    path.peer.expect("Send from where the client is now", b"from the new address")?;
    path.client.refused("Refresh from where the client was before", &Request::refresh(600), &[437])?;
    path.send(b"from the old address")?;
    path.peer.expect_nothing("Send from where the client was before")
}

/// The allocation's client, from another port, with a nonce of its own.
fn comes<'t>(target: &'t Target, ticket: &[u8]) -> Result<(Client<'t>, Vec<u8>), Verdict> {
    let elsewhere = Client::challenged(target)?;
    let bytes = refresh_with(ticket).signed(&elsewhere.signature());
    Ok((elsewhere, bytes))
}

fn old_serves(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    let (mut elsewhere, refresh) = comes(target, &ticket)?;
    elsewhere.answer(&refresh)?.success("Refresh with MOBILITY-TICKET from another port")?;
    path.still_relays("the old 5-tuple, before anything came from the new one")
}

fn answered_again(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    let (mut elsewhere, refresh) = comes(target, &ticket)?;
    let first = elsewhere.answer(&refresh)?;
    first.success("Refresh with MOBILITY-TICKET from another port")?;
    let second = elsewhere.answer(&refresh)?;
    second.success("the same Refresh again")?;
    ensure(ticket_of(&first) == ticket_of(&second), "the same Refresh again: expected the same ticket")?;
    elsewhere.take_over(&mut path.client);
    path.client = elsewhere;
    path.still_relays("after a retransmitted Refresh")
}

fn from_its_own(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    path.client.refused("a MOBILITY-TICKET from its own 5-tuple", &refresh_with(&ticket), &[400])?;
    path.still_relays("after a ticket from its own 5-tuple")
}

fn of_a_deleted(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    path.client.delete()?;
    let (mut elsewhere, refresh) = comes(target, &ticket)?;
    elsewhere.answer(&refresh)?.refused("a deleted allocation's MOBILITY-TICKET", &[437])
}

fn tickets_show_nothing(target: &Target) -> Outcome {
    let [(_first, a), (_second, b)] = [ticketed(target)?, ticketed(target)?];
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    let text = format!("{same} of {} bytes are the same in two tickets", a.len());
    ensure(a.len() >= 16 && 2 * same < a.len(), text)
}

fn new_ticket(target: &Target) -> Outcome {
    let (mut path, first) = ticketed(target)?;
    let reply = moved(target, &mut path, &first)?;
    let second = ticket_of(&reply);
    ensure(
        second.is_some() && second.as_ref() != Some(&first),
        "a moved allocation: expected another ticket",
    )?;
    moved(target, &mut path, &second.unwrap_or_default())?;
    path.still_relays("after the second move")
}

fn serves_once(target: &Target) -> Outcome {
    let (mut path, ticket) = ticketed(target)?;
    moved(target, &mut path, &ticket)?;
    path.still_relays("after the move")?;
    let reply = Client::open(target)?.ask_anew(path.client.signature(), &refresh_with(&ticket))?;
    // RFC 8016 §3.2.2: invalid, or the name of a 5-tuple that has been discarded.
    reply.refused("a MOBILITY-TICKET used again", &[400, 437])?;
    path.still_relays("after a ticket was used again")
}

fn altered(target: &Target) -> Outcome {
    let (mut path, mut ticket) = ticketed(target)?;
    if let Some(last) = ticket.last_mut() {
        *last ^= 1;
    }
    let reply = Client::open(target)?.ask_anew(path.client.signature(), &refresh_with(&ticket))?;
    reply.refused("an altered MOBILITY-TICKET", &[400])?;
    path.still_relays("after an altered ticket")
}

fn another_user(target: &Target) -> Outcome {
    let other = target.other()?;
    let (mut path, ticket) = ticketed(target)?;
    let signature = path.client.signature_of(other);
    let reply = Client::open(target)?.ask_anew(signature, &refresh_with(&ticket))?;
    reply.refused("Refresh with another user's MOBILITY-TICKET", &[441])?;
    path.still_relays("after another user tried the ticket")
}
