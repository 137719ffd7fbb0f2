//! A server given any sequence of packets, commands and time: nothing it does may surprise an observer who knows
//! only what went in and what came out.

mod observer;
mod requests;
mod world;

use std::net::IpAddr;

use credentials::Denial;
use stun::{ChannelNumber, Method, TransactionId};
use turn::{Command, Transport};

use super::bytes::Bytes;
use crate::message;
use world::{PEERS, World, address};

/// How much data fits into a Send indication beside an IPv6 peer's address, or nearly.
const MAX_SEND: usize = 65_400;
/// No input does more than this.
const MAX_STEPS: usize = 250;
/// How long time stands still between two steps, in milliseconds.
const WAITS_MS: [u64; 10] = [1, 999, 1_000, 60_000, 299_999, 300_000, 599_999, 600_000, 3_599_999, 3_600_000];
/// When every credential is over, in unix seconds.
const LONG_AFTER: u64 = 1_900_000_000;
/// How much data a packet carries.
const DATA_LENGTHS: [usize; 8] = [0, 1, 2, 3, 4, 100, 1_200, 65_507];

/// Lets clients, peers, the clock and the control plane do what the bytes say.
///
/// # Panics
/// When the server does something that it must not.
pub fn server(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    // The first step leaves its high bits unused.
    let mut world = World::new(data.first().is_some_and(|byte| byte & 0x80 != 0));
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            break;
        }
        step(&mut world, &mut bytes);
    }
    world.close();
}

fn step(world: &mut World, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 16 {
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
        12 => world.handle_timeout(),
        13 => deny(world, bytes),
        14 => {
            let client = world.client(bytes);
            world.command(Command::ClientGone(client.five_tuple));
        }
        _ => other(world, bytes),
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
    world.deny(match bytes.byte() % 2 {
        0 => Denial::Credential { id: account.id, until: account.expires_at },
        _ => Denial::Key { key: account.turn_key, until: LONG_AFTER },
    });
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
        0 => world.mint(bytes.pick(&[1, 60, 301, 3_600, 172_800])),
        1 => world.set_keyring(bytes.byte() % 2 + 1),
        2 => world.set_policy(bytes.byte() % 2 == 1),
        3 => world.sockets_fail(bytes.byte() % 20),
        // What never answers: a Binding is answered to anybody.
        4 => {
            let client = world.client(bytes);
            let packet = message::request(Method::BINDING, TransactionId::from_bytes(bytes.array()), |_| {});
            world.give(client, &packet);
        }
        5 => {
            let alternates = [vec![], PEERS.map(address).to_vec()];
            let alternates = alternates.get(usize::from(bytes.byte() % 2)).cloned().unwrap_or_default();
            world.command(Command::Redirect(alternates));
        }
        _ => {
            let (relay, from) = (world.relay(bytes), IpAddr::from(bytes.array::<4>()));
            world.hear(relay, (from, bytes.u16()).into(), &payload(bytes));
        }
    }
}
