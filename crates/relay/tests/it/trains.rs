//! Datagrams that the system hands up together, and lets leave together: none is lost, cut, merged or reordered.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stun::{AttributeType, Class, Message, MessageWriter, Method, TransactionId, channel_data};

use crate::fixture::{LONG, Running, config, peer, receive};

/// Sends bytes that the system cuts into datagrams of `size`; the last may be shorter.
pub(crate) fn send_train(socket: &UdpSocket, bytes: &[u8], size: usize, to: Option<SocketAddr>) {
    try_send_train(socket, bytes, size, to).unwrap();
}

pub(crate) fn try_send_train(
    socket: &UdpSocket,
    bytes: &[u8],
    size: usize,
    to: Option<SocketAddr>,
) -> nix::Result<()> {
    let size = u16::try_from(size).unwrap();
    let control = [ControlMessage::UdpGsoSegments(&size)];
    let to = to.map(SockaddrStorage::from);
    let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), to.as_ref())?;
    assert_eq!(sent, bytes.len());
    Ok(())
}

fn received_by_client(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// A run of packets to one of two peers: how many, of what size, and how short the last is.
fn trains() -> impl Strategy<Value = Vec<(usize, usize, usize, usize)>> {
    proptest::collection::vec((0usize..2, 1usize..30, 1usize..1_400, 1usize..1_400), 1..12)
}

#[test]
fn trains_of_any_shape_pass_in_both_directions() {
    let mut config = config(&["udp://127.0.0.1:0"]);
    config.workers = 1;
    let running = Running::start(config);
    let peers = [peer("127.0.0.1:0"), peer("127.0.0.1:0")];
    let mut client = running.connect(0, &running.credential(600));
    let relayed = client.allocate().unwrap();
    let channels = [0, 1].map(|index| client.channel_bind(peers[index].local_addr().unwrap()).unwrap());
    let socket = client.into_udp_socket().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();

    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let counter = std::cell::Cell::new(0u8);
    runner
        .run(&trains(), |trains| {
            let mut expected: [Vec<Vec<u8>>; 2] = [vec![], vec![]];
            let mut from_peers: Vec<(usize, Vec<u8>)> = vec![];
            for (to, count, size, last) in trains {
                // Small enough that no socket's buffer overflows: a loss would be ours.
                let count = count.min(1 + 20_000 / (size + 4));
                let (mut frames, mut datagrams) = (vec![], vec![]);
                for index in 0..count {
                    let length = if index + 1 == count { last.min(size) } else { size };
                    counter.set(counter.get().wrapping_add(1));
                    let data = vec![counter.get(); length];
                    frames.extend(channel_data::header(channels[to], u16::try_from(length).unwrap()));
                    frames.extend(&data);
                    datagrams.extend(&data);
                    from_peers.push((to, data.clone()));
                    expected[to].push(data);
                }
                send_train(&socket, &frames, size + 4, None);
                send_train(&peers[to], &datagrams, size, Some(relayed));
                // Both directions of a train are taken before the next is sent.
                for (to, expected) in expected.iter_mut().enumerate() {
                    for data in expected.drain(..) {
                        prop_assert_eq!(receive(&peers[to]), (data, relayed));
                    }
                }
                for (from, data) in from_peers.drain(..) {
                    let frame = received_by_client(&socket);
                    prop_assert_eq!(channel_data::parse(&frame), Some((channels[from], data.len())));
                    prop_assert_eq!(&frame[4..], &data[..]);
                }
            }
            Ok(())
        })
        .unwrap();
    let totals = running.relay().totals();
    assert_eq!((totals.drops, totals.send_failures), (0, 0));
}

#[test]
fn requests_and_indications_may_come_in_trains_too() {
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(running.listeners[0].address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut train = vec![];
    for n in 0..40u8 {
        let mut buffer = [0; 100];
        let id = TransactionId::from_bytes([n; 12]);
        let length = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).finish().unwrap();
        train.extend(&buffer[..length]);
    }
    // The answers are longer than the requests: they must not be written over the requests behind them.
    send_train(&socket, &train, 20, None);
    for n in 0..40u8 {
        let answer = received_by_client(&socket);
        let message = Message::parse(&answer).unwrap();
        assert_eq!((message.class(), message.transaction().as_bytes()), (Class::Success, &[n; 12]));
    }

    // Data indications are longer than what peers send: the same the other way.
    let peer = peer("127.0.0.1:0");
    let mut client = running.connect(0, &running.credential(600));
    let relayed = client.allocate().unwrap();
    client.create_permission(&[peer.local_addr().unwrap()]).unwrap();
    let data: Vec<u8> = (0..40u8).flat_map(|n| [n; 10]).collect();
    send_train(&peer, &data, 10, Some(relayed));
    for n in 0..40u8 {
        let (from, data) = client.recv(LONG).unwrap().unwrap();
        assert_eq!((from, data), (peer.local_addr().unwrap(), vec![n; 10]));
    }
    let socket = client.into_udp_socket().unwrap();
    let mut train = vec![];
    for n in 0..40u8 {
        let mut buffer = [0; 100];
        let id = TransactionId::from_bytes([n; 12]);
        let length = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.local_addr().unwrap())
            .attribute(AttributeType::DATA, &[n; 7])
            .finish()
            .unwrap();
        train.extend(&buffer[..length]);
    }
    send_train(&socket, &train, 44, None);
    for n in 0..40u8 {
        assert_eq!(receive(&peer), (vec![n; 7], relayed));
    }
}
