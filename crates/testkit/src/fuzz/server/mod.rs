//! A server given any sequence of packets, commands and time: nothing it does may surprise an observer who knows
//! only what went in and what came out.

mod accounts;
mod commands;
mod grants;
mod letters;
mod limits;
mod observer;
mod requests;
mod sockets;
mod tickets;
mod world;

use std::net::IpAddr;

use credentials::{Denial, Issued};
use stun::{AttributeType, ChannelNumber, Method, TransactionId};
use turn::{AlternateServer, Command, Icmp, Transport};

use super::bytes::Bytes;
use crate::message;
use accounts::KEYS;
use world::{PEERS, WORKERS, World, address};

/// How much data fits into a Send indication beside an IPv6 peer's address, or nearly.
const MAX_SEND: usize = 65_400;
/// No input does more than this.
const MAX_STEPS: usize = 250;
/// How long time stands still between two steps, in milliseconds.
const WAITS_MS: [u64; 10] = [1, 999, 1_000, 60_000, 299_999, 300_000, 599_999, 600_000, 3_599_999, 3_600_000];
/// When every credential is over, in unix seconds.
const LONG_AFTER: u64 = 1_900_000_000;
/// How long credentials are good for, in seconds.
const TTLS_SECS: [u32; 6] = [1, 60, 301, 3_600, 172_800, 604_801];
/// How much data a packet carries.
const DATA_LENGTHS: [usize; 8] = [0, 1, 2, 3, 4, 100, 1_200, 65_507];

/// Lets clients, peers, the clock and the control plane do what the bytes say.
///
/// # Panics
/// When the server does something that it must not.
pub fn server(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut world = World::new(bytes.byte());
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        step(&mut world, &mut bytes);
        world.after_step();
    }
    world.close();
}

fn step(world: &mut World, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 24 {
        0..=4 => requests::signed(world, bytes),
        5 => raw(world, bytes),
        6 => {
            let (client, peer) = (world.client(bytes), address(bytes.pick(&PEERS)));
            let (transaction, mut data) = (bytes.transaction(), payload(bytes));
            data.truncate(MAX_SEND);
            world.give(client, &message::send_indication(transaction, peer, &data));
        }
        7 => channel_data(world, bytes),
        8 | 9 => {
            let (relay, peer) = (world.relay(bytes), address(bytes.pick(&PEERS)));
            world.hear(relay, peer, &payload(bytes));
        }
        10 | 11 => world.wait(bytes.pick(&WAITS_MS)),
        12 => (0..WORKERS).for_each(|worker| world.handle_timeout(worker)),
        13 => deny(world, bytes),
        14 => {
            let (client, next) = (world.client(bytes), bytes.byte());
            world.client_gone(client, next.into());
        }
        15 => other(world, bytes),
        16..=18 => requests::travel(world, bytes),
        19 => requests::allocate_mobile(world, bytes),
        20 | 21 => _ = world.read(bytes.byte().into()),
        22 => world.handle_timeout(usize::from(bytes.byte()) % WORKERS),
        _ => rare(world, bytes),
    }
}

fn payload(bytes: &mut Bytes<'_>) -> Vec<u8> {
    vec![bytes.byte(); bytes.pick(&DATA_LENGTHS)]
}

/// Any bytes at all, or what somebody has sent before.
fn raw(world: &mut World, bytes: &mut Bytes<'_>) {
    let client = world.client(bytes);
    let length = bytes.byte();
    if length < 16 {
        let again = world.sent(length.into());
        world.give(client, &again);
    } else {
        world.give(client, bytes.take(length.into()));
    }
}

fn channel_data(world: &mut World, bytes: &mut Bytes<'_>) {
    let client = world.client(bytes);
    let number = ChannelNumber::new(0x4000 + u16::from(bytes.byte() % 8)).unwrap_or(ChannelNumber::MAX);
    let transport = bytes.pick(&[Transport::Udp, Transport::Tcp]);
    let mut packet = message::channel_data(transport, number, &payload(bytes));
    if let Some(length) = packet.get_mut(2..4).filter(|_| bytes.byte() == 255) {
        length.copy_from_slice(&bytes.array::<2>());
    }
    world.give(client, &packet);
}

fn deny(world: &mut World, bytes: &mut Bytes<'_>) {
    let account = world.account(bytes);
    let kind = bytes.byte();
    let first = usize::from(kind / 2) % WORKERS;
    let (key, until) = (account.turn_key, LONG_AFTER);
    let denial = match (kind, account.issued) {
        (192..208, Some(issued)) => Denial::Issued { key, before: issued.at + 1, until },
        (208..224, Some(Issued { at, identifier })) => {
            Denial::Identifier { key, identifier, before: at + 1, until }
        }
        (224.., _) => {
            return world.tell_all(first, &Command::Suspend { key, suspended: kind.is_multiple_of(2) });
        }
        _ if kind.is_multiple_of(2) => Denial::Credential { id: account.id, until: account.expires_at },
        _ => Denial::Key { key, until },
    };
    world.deny(first, denial);
}

fn other(world: &mut World, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 11 {
        7 => {
            let connection = world.connection(bytes);
            world.connected(connection, !bytes.byte().is_multiple_of(4));
        }
        8 | 9 => {
            let (relay, peer) = (world.relay(bytes), address(bytes.pick(&PEERS)));
            world.accepted(relay, peer);
        }
        10 => {
            let connection = world.connection(bytes);
            world.disconnected(connection);
        }
        0 => world.mint(bytes.pick(&TTLS_SECS)),
        1 => world.set_keyring(bytes.byte() % 2 + 1),
        2 => {
            let which = bytes.byte();
            world.set_policy(usize::from(which / 2) % WORKERS, which % 2 == 1);
        }
        3 => {
            let times = bytes.byte();
            world.sockets(usize::from(times / 20) % WORKERS).failing = times % 20;
        }
        // What never answers: a Binding is answered to anybody.
        4 => {
            let client = world.client(bytes);
            let packet = message::request(Method::BINDING, TransactionId::from_bytes(bytes.array()), |_| {});
            world.give(client, &packet);
        }
        5 => {
            let which = bytes.byte();
            if which >= 192 {
                return world.tell_all(0, &Command::DenialsStale(which % 2 == 1));
            }
            let domain = (which / 4 % 2 == 1).then(|| "b.example".into());
            let server =
                |address| AlternateServer { transport: Transport::Udp, address, domain: domain.clone() };
            let to = if which % 2 == 1 { PEERS.map(address).map(server).to_vec() } else { Vec::new() };
            world.tell_all(0, &Command::Redirect { to, draining: which / 2 % 2 == 1 });
        }
        _ => {
            let (relay, from) = (world.relay(bytes), IpAddr::from(bytes.array::<4>()));
            world.hear(relay, (from, bytes.u16()).into(), &payload(bytes));
        }
    }
}

fn rare(world: &mut World, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 7 {
        0 | 1 => {
            let (key, which) = (bytes.pick(&KEYS), bytes.byte());
            world.set_limits(usize::from(which / 4) % WORKERS, key, which % 4);
        }
        2 => {
            let (key, which) = (bytes.pick(&KEYS), bytes.byte());
            world.set_secrets(usize::from(which / 4) % WORKERS, key, which % 4);
        }
        3 => {
            let (key, which) = (bytes.pick(&KEYS), bytes.byte() % 2 == 1);
            world.mint_time_limited(key, which, bytes.pick(&TTLS_SECS));
        }
        4 => world.refusing = bytes.byte() % 4,
        5 => discover(world, bytes),
        _ => {
            let (relay, peer) = (world.relay(bytes), address(bytes.pick(&PEERS)));
            let [kind, code] = bytes.array();
            world.hear_error(relay, peer, Icmp { kind: kind % 16, code, data: bytes.u32() });
        }
    }
}

/// A Binding that asks where else it can be answered from. RFC 5780.
fn discover(world: &mut World, bytes: &mut Bytes<'_>) {
    let (client, what) = (world.client(bytes), bytes.byte());
    let (port, padding) = (bytes.array::<2>(), bytes.pick(&[0, 1, 4, 1_499, 1_500, 1_504, 4_000]));
    let packet = message::request(Method::BINDING, bytes.transaction(), |writer| {
        if what & 1 != 0 {
            writer.attribute(AttributeType::CHANGE_REQUEST, &[0, 0, 0, what]);
        }
        if what & 8 != 0 {
            writer.attribute(AttributeType::RESPONSE_PORT, &port);
        }
        if what & 16 != 0 {
            writer.attribute(AttributeType::PADDING, &vec![what; padding]);
        }
    });
    world.give(client, &packet);
}
