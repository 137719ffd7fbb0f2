//! What an observer learns from responses: what was granted, to whom, and that it may be.

use std::collections::BTreeMap;

use std::net::SocketAddr;
use stun::{
    AttributeType, ChannelNumber, Class, Integrity, IntegrityAlgorithm, LongTermKey, Message, Method,
    PasswordAlgorithm,
};
use turn::{Client, FiveTuple, Reply, Time, Transport};

use super::accounts::{Account, USERNAME_LIFETIME_SECS};
use super::limits::Relayed;
use super::observer::{Held, Observer, peers};
use super::world::REALM;

/// An answer to somebody unknown is at most this many tenths of the question.
const MAX_TENTHS: usize = 34;

/// A response and what it is the response to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered<'a> {
    pub(super) worker: usize,
    pub(super) client: Client,
    pub(super) request: &'a [u8],
    pub(super) reply: Reply,
    pub(super) response: &'a [u8],
    /// It came later than the request, from another worker's words.
    pub(super) is_late: bool,
}

impl Observer {
    /// A response went out; for it these sockets were opened.
    pub(super) fn reply(
        &mut self,
        now: Time,
        answered: Answered<'_>,
        opened: &[SocketAddr],
        accounts: &[Account],
    ) {
        let Answered { worker, client, reply, is_late, .. } = answered;
        let request = Message::parse(answered.request).expect("only messages are answered");
        let response = Message::parse(answered.response).expect("a response is a message");
        super::super::message(answered.response);
        assert_eq!(request.class(), Class::Request, "only requests are answered");
        assert_eq!((response.transaction(), response.method()), (request.transaction(), request.method()));
        let class = if matches!(reply, Reply::Success(_)) { Class::Success } else { Class::Error };
        assert_eq!(response.class(), class);
        assert_eq!(response.attribute(AttributeType::ERROR_CODE).is_some(), class == Class::Error);
        if algorithm_of(&response).is_none() {
            self.unsigned(now, client, &request, &response);
        }
        let Reply::Success(method) = reply else {
            assert!(opened.is_empty(), "no socket is opened for a refusal");
            return;
        };
        if method == Method::BINDING {
            return;
        }
        let account = signer(&request, &response, accounts);
        let lifetime =
            response.attribute(AttributeType::LIFETIME).and_then(|it| <[u8; 4]>::try_from(it).ok());
        let lifetime_secs = u32::from_be_bytes(lifetime.unwrap_or_default());
        // What was deleted at another worker was deleted before.
        if !is_late || lifetime_secs > 0 {
            assert!(self.is_valid(worker, account, now), "a credential that is over is good for nothing");
        }
        let farthest = now.unix_secs() + u64::from(USERNAME_LIFETIME_SECS);
        assert!(account.secret.is_none() || account.expires_at <= farthest, "a username says too much");
        if method == Method::REFRESH && request.attribute(AttributeType::MOBILITY_TICKET).is_some() {
            let by = (worker, client.five_tuple);
            self.refreshed_by_ticket(now, by, (&request, &response), (lifetime_secs, account.id, is_late));
        } else if method != Method::CONNECTION_BIND {
            // A data connection has no allocation of its own.
            let account = account.clone();
            self.granted(
                now,
                (worker, client.five_tuple),
                (&request, &response, lifetime_secs),
                opened,
                &account,
            );
        }
    }

    /// An answer that anybody may have asked for, in anybody's name.
    fn unsigned(&mut self, now: Time, client: Client, request: &Message<'_>, response: &Message<'_>) {
        let (asked, answered) = (request.as_bytes().len(), response.as_bytes().len());
        let length = |message: &Message<'_>| message.attribute(AttributeType::PADDING).map_or(0, <[u8]>::len);
        assert!(
            length(response) <= length(request).next_multiple_of(4),
            "no more padding than was asked for"
        );
        let is_small = 10 * answered <= MAX_TENTHS * asked;
        assert!(self.offers_algorithms || is_small, "{answered} bytes for {asked}");
        if client.five_tuple.transport == Transport::Udp {
            let code = response.attribute(AttributeType::ERROR_CODE);
            // 438: whoever has an allocation is told the new nonce whatever others do.
            let is_signed = code.is_some_and(|code| code.get(2..4) == Some(&[4, 38]));
            let is_exempt =
                is_signed && self.held.values().any(|held| held.paths.contains(&client.five_tuple));
            if !is_exempt {
                self.strangers.answered(now, client.five_tuple.client.ip(), is_signed);
            }
        }
    }

    /// The answer to a Binding went another way than its request came.
    pub(super) fn elsewhere(client: Client, route: Client, (request, response): (&[u8], &[u8])) {
        let (from, to) = (client.five_tuple, route.five_tuple);
        assert_eq!((from.transport, to.transport), (Transport::Udp, Transport::Udp));
        assert_eq!(from.client.ip(), to.client.ip(), "nobody else is answered");
        let (request, response) = [request, response].map(|it| Message::parse(it).expect("a message")).into();
        assert_eq!(request.method(), Method::BINDING);
        let origin = response.attribute(AttributeType::RESPONSE_ORIGIN);
        let origin = origin.and_then(stun::address::decode);
        assert_eq!(origin, Some(to.server), "it says where it comes from");
        assert_eq!(from.server != to.server, client.via != route.via, "from there");
    }

    /// A request succeeded: what it asked for may happen from now on.
    fn granted(
        &mut self,
        now: Time,
        (worker, client): (usize, FiveTuple),
        (request, response, lifetime_secs): (&Message<'_>, &Message<'_>, u32),
        opened: &[SocketAddr],
        account: &Account,
    ) {
        let method = request.method();
        let expires_ms = now.monotonic_ms + 1_000 * u64::from(lifetime_secs);
        assert!(opened.is_empty() || method == Method::ALLOCATE, "only Allocate opens sockets");
        if method == Method::ALLOCATE {
            self.allocated(worker, client, (request, response, expires_ms), opened, account);
        }
        let number = request.attribute(AttributeType::CHANNEL_NUMBER).and_then(ChannelNumber::from_attribute);
        let limits = self.known(worker).limits.of(account.turn_key, now);
        let (mut found, mut owned) = (false, false);
        for held in self.held.values_mut().filter(|held| held.at == Some(worker)) {
            if !held.paths.contains(&client) {
                continue;
            }
            found = true;
            // Another one whose path has ended may have been heard from there.
            assert!(held.is_vague || held.account.id == account.id, "an allocation is its credential's");
            if held.account.id != account.id {
                continue;
            }
            owned = true;
            match method {
                // What is still there after a deletion is the other address of a dual allocation.
                Method::REFRESH if expires_ms == now.monotonic_ms => {}
                Method::REFRESH => held.expires_ms = expires_ms,
                Method::CREATE_PERMISSION => {
                    held.check_room(now, peers(request).map(|peer| peer.ip()), limits);
                    peers(request).for_each(|peer| held.permit(peer, now));
                }
                Method::CHANNEL_BIND => {
                    let (number, peer) = number.zip(peers(request).next()).expect("both were there");
                    held.check_room(now, std::iter::once(peer.ip()), limits);
                    let is_new = held.channel(number, now).is_none();
                    held.bind(number, peer, now);
                    if is_new {
                        held.check_channels(now, limits);
                    }
                }
                _ => {}
            }
        }
        assert!(
            found && owned || method == Method::REFRESH,
            "{method:?} succeeds where there is an allocation"
        );
    }

    fn allocated(
        &mut self,
        worker: usize,
        client: FiveTuple,
        (request, response, expires_ms): (&Message<'_>, &Message<'_>, u64),
        opened: &[SocketAddr],
        account: &Account,
    ) {
        self.reserved += usize::from(response.attribute(AttributeType::RESERVATION_TOKEN).is_some());
        let number = self.allocations;
        self.first_ticket((!opened.is_empty()).then_some(number), request, response);
        if opened.is_empty() {
            return;
        }
        self.allocations += 1;
        // Where it was, another one is now.
        self.blur(client);
        for relay in opened {
            let held = Held {
                number,
                at: Some(worker),
                paths: vec![client],
                is_vague: false,
                account: account.clone(),
                expires_ms,
                permissions: BTreeMap::new(),
                channels: BTreeMap::new(),
                relayed: Relayed::default(),
            };
            assert!(self.held.insert(*relay, held).is_none());
        }
        self.check_quota(worker, request, account);
    }
}

impl Observer {
    /// Which of these requests a late response answers: one of its client and transaction that its signer signed. Those
    /// with the same transaction have the same ticket.
    pub(super) fn asked_for<'a>(
        asked: &'a [(FiveTuple, Vec<u8>)],
        client: FiveTuple,
        response: &Message<'_>,
        accounts: &[Account],
    ) -> Option<&'a [u8]> {
        let of_client =
            asked.iter().filter(|(from, _)| *from == client).map(|(_, request)| request.as_slice());
        let is_answered = |request: &&[u8]| {
            let request = Message::parse(request).ok();
            let request = request.filter(|request| request.transaction() == response.transaction());
            request.is_some_and(|request| signs(&request, response, accounts))
        };
        of_client.into_iter().find(is_answered)
    }
}

fn signs(request: &Message<'_>, response: &Message<'_>, accounts: &[Account]) -> bool {
    let Some((_, key)) = key_of(request, accounts) else { return false };
    algorithm_of(response).is_some_and(|by| response.integrity_by(by, &key) == Integrity::Verified)
}

fn key_of<'a>(request: &Message<'_>, accounts: &'a [Account]) -> Option<(&'a Account, LongTermKey)> {
    let username = request.attribute(AttributeType::USERNAME).unwrap_or_default();
    let algorithm = request.attribute(AttributeType::PASSWORD_ALGORITHM).and_then(PasswordAlgorithm::parse);
    let algorithm = algorithm.unwrap_or(PasswordAlgorithm::Md5);
    accounts.iter().filter(|account| account.username.as_bytes() == username).find_map(|account| {
        let password = account.password.as_bytes();
        let key = LongTermKey::with_algorithm(algorithm, username, REALM.as_bytes(), password);
        let by = algorithm_of(request)?;
        (request.integrity_by(by, &key) == Integrity::Verified).then_some((account, key))
    })
}

/// Whose request it was: the response proves that it was checked.
fn signer<'a>(request: &Message<'_>, response: &Message<'_>, accounts: &'a [Account]) -> &'a Account {
    let (account, key) = key_of(request, accounts).expect("only who has a credential is granted anything");
    let by = algorithm_of(response).expect("so the answer is signed, too");
    assert_eq!(response.integrity_by(by, &key), Integrity::Verified);
    account
}

/// The stronger one of those that a message is signed with.
fn algorithm_of(message: &Message<'_>) -> Option<IntegrityAlgorithm> {
    let both = [IntegrityAlgorithm::Sha256, IntegrityAlgorithm::Sha1];
    both.into_iter().find(|algorithm| message.attribute(algorithm.attribute()).is_some())
}
