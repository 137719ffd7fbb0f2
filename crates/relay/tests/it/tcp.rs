//! TCP allocations on real sockets: RFC 6062.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use credentials::{Credential, Denial};
use testkit::client::BlockingClient;
use turn::Command;

use crate::fixture::{LONG, Running, SHORT, config, unix_now};

const TCP: &str = "tcp://127.0.0.1:0";
const MEGABYTE: usize = 1 << 20;

/// A relay, a client with a TCP allocation, and the relayed address.
pub(crate) fn allocated(workers: usize) -> (Running, Credential, BlockingClient, SocketAddr) {
    let mut config = config(&[TCP]);
    config.workers = workers;
    let running = Running::start(config);
    let credential = running.credential(600);
    let mut client = running.connect(0, &credential);
    let relayed = client.allocate_tcp().unwrap();
    (running, credential, client, relayed)
}

pub(crate) fn peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// A data connection and the peer's end.
pub(crate) fn connected(client: &mut BlockingClient) -> (TcpStream, TcpStream) {
    let (listener, address) = peer();
    let connection = client.connect_peer(address).unwrap();
    let (far, _) = listener.accept().unwrap();
    let (near, early) = client.data_connection(connection).unwrap();
    assert!(early.is_empty());
    (patient(near), patient(far))
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(0) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        _ => false,
    }
}

pub(crate) fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|place| u8::try_from((place * 31 + place / 251 + seed) % 256).unwrap()).collect()
}

/// Sends on one end and reads, slowly, on the other; what arrived.
fn through(mut from: TcpStream, mut to: TcpStream, data: &[u8]) -> Vec<u8> {
    let data = data.to_vec();
    let sender = std::thread::spawn(move || {
        from.write_all(&data).unwrap();
        from.shutdown(Shutdown::Write).unwrap();
    });
    // Until every buffer on the way is full.
    std::thread::sleep(SHORT);
    let mut arrived = Vec::new();
    let mut buffer = vec![0; 50_000];
    loop {
        match to.read(&mut buffer).unwrap() {
            0 => break,
            length => arrived.extend_from_slice(&buffer[..length]),
        }
        if arrived.len() % 7 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    sender.join().unwrap();
    arrived
}

#[test]
fn rfc6062_4_3_a_connection_comes_from_the_relayed_address() {
    let (running, _, mut client, relayed) = allocated(1);
    let (listener, address) = peer();
    let connection = client.connect_peer(address).unwrap();
    let (mut far, from) = listener.accept().unwrap();
    assert_eq!(from, relayed);
    // Said before anybody listens.
    far.write_all(b"early").unwrap();
    let (near, early) = client.data_connection(connection).unwrap();
    let (mut near, mut far) = (patient(near), patient(far));
    let mut got = early;
    while got.len() < 5 {
        let mut buffer = [0; 16];
        let length = near.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(got, b"early");
    near.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    far.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    // Data is not looked at, whatever it looks like.
    let stun = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    near.write_all(&stun).unwrap();
    let mut buffer = [0; 20];
    far.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, stun);
    running.wait_for("it is counted", |totals| {
        (totals.relayed.bytes_to_peers, totals.relayed.bytes_to_clients) == (25, 5)
    });
    // Two connections to two peers from the same address at the same time.
    let (_near, second) = connected(&mut client);
    assert_eq!(second.peer_addr().unwrap(), relayed);
}

#[test]
fn rfc6062_5_3_a_permitted_peer_connects_and_another_is_closed() {
    let (running, _, mut client, relayed) = allocated(1);
    assert!(is_closed(&mut patient(TcpStream::connect(relayed).unwrap())), "without a permission");
    client.create_permission(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    let mut far = patient(TcpStream::connect(relayed).unwrap());
    far.write_all(b"first words").unwrap();
    let (connection, from) = client.attempt(LONG).unwrap().unwrap();
    assert_eq!(from, far.local_addr().unwrap());
    assert_eq!(client.attempt(SHORT).unwrap(), None, "nobody is told of the other");
    let (near, mut got) = client.data_connection(connection).unwrap();
    let mut near = patient(near);
    while got.len() < 11 {
        let mut buffer = [0; 16];
        let length = near.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(got, b"first words");
    near.write_all(b"answer").unwrap();
    let mut buffer = [0; 6];
    far.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"answer");
    drop(near);
    assert!(is_closed(&mut far));
    drop(far);
    running.wait_for("no connection is left", |totals| totals.peer_connections == 0);
}

#[test]
fn rfc6062_5_2_a_peer_that_refuses_is_447() {
    let (running, _, mut client, _) = allocated(1);
    let (listener, address) = peer();
    drop(listener);
    assert_eq!(client.connect_peer(address).unwrap_err().code(), Some(447));
    running.wait_for("no connection is left", |totals| totals.peer_connections == 0);
    let own = running.listeners[0].address;
    assert_eq!(client.connect_peer(own).unwrap_err().code(), Some(403), "the server's own listener");
}

#[test]
fn rfc6062_5_4_ten_megabytes_arrive_whole_each_way_past_slow_readers() {
    let (running, _, mut client, _) = allocated(1);
    let (there, back) = (pattern(10 * MEGABYTE, 1), pattern(10 * MEGABYTE, 2));
    let (near, far) = connected(&mut client);
    let way = {
        let (near, far, there) = (near.try_clone().unwrap(), far.try_clone().unwrap(), there.clone());
        std::thread::spawn(move || assert!(through(near, far, &there) == there, "to the peer"))
    };
    assert!(through(far, near, &back) == back, "to the client");
    way.join().unwrap();
    let length = 10 * MEGABYTE as u64;
    running.wait_for("it is counted", |all| {
        (all.relayed.bytes_to_peers, all.relayed.bytes_to_clients) == (length, length)
    });
    running.wait_for("the pair is over", |totals| totals.peer_connections == 0);
}

#[test]
fn rfc6062_3_a_side_that_does_not_read_stops_the_other_and_nobody_else() {
    let (running, _, mut client, _) = allocated(1);
    let (mut near, far) = connected(&mut client);
    near.set_nonblocking(true).unwrap();
    let chunk = vec![7; 1 << 16];
    let mut sent = 0_u64;
    let mut stalled_since = Instant::now();
    // Until nothing has gone out for a while: the buffers on the way are full.
    while stalled_since.elapsed() < SHORT {
        match near.write(&chunk) {
            Ok(length) => {
                sent += length as u64;
                stalled_since = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 << 20, "nothing stops it");
    }
    let (mut other, mut other_far) = connected(&mut client);
    other.write_all(b"alive").unwrap();
    let mut buffer = [0; 5];
    other_far.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"alive");
    // What was taken is delivered, also when the sender closes now.
    drop(near);
    let mut far = far;
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() as u64, sent);
    drop(far);
    running.wait_for("one is left", |totals| totals.peer_connections == 1);
}

#[test]
fn one_side_can_end_and_still_hear_the_other() {
    let (running, _, mut client, _) = allocated(1);
    let (mut near, mut far) = connected(&mut client);
    near.write_all(b"question").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    far.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    far.write_all(b"answer").unwrap();
    drop(far);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    running.wait_for("the pair is over", |totals| totals.peer_connections == 0);
}

#[test]
fn rfc6062_5_5_a_broken_side_ends_the_other() {
    let (running, _, mut client, _) = allocated(1);
    for breaks_client in [true, false] {
        let (near, far) = connected(&mut client);
        let (broken, mut other) = if breaks_client { (near, far) } else { (far, near) };
        socket2::SockRef::from(&broken).set_linger(Some(Duration::ZERO)).unwrap();
        drop(broken);
        assert!(is_closed(&mut other), "{breaks_client}");
    }
    running.wait_for("no pair is left", |totals| totals.peer_connections == 0);
}

#[test]
fn rfc6062_5_5_half_open_and_idle_pairs_are_closed() {
    let mut config = config(&[TCP]);
    config.workers = 1;
    config.stream_limits.pair_idle_ms = 1_500;
    config.stream_limits.pair_half_open_ms = 300;
    let running = Running::start(config);
    let mut client = running.connect(0, &running.credential(600));
    client.allocate_tcp().unwrap();
    let (near, mut far) = connected(&mut client);
    let (_idle, mut idle_far) = connected(&mut client);
    near.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(&mut far), "the end is passed on");
    let begun = Instant::now();
    running.wait_for("half open is over", |totals| totals.peer_connections == 1);
    assert!(begun.elapsed() < Duration::from_millis(1_200));
    running.wait_for("idle is over", |totals| totals.peer_connections == 0);
    assert!(begun.elapsed() > Duration::from_millis(800));
    assert!(is_closed(&mut idle_far));
}

#[test]
fn data_connections_find_their_worker() {
    let (running, _, mut client, _) = allocated(4);
    for round in 0..60_u8 {
        let (listener, address) = peer();
        let connection = client.connect_peer(address).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(LONG)).unwrap();
        far.write_all(&[round; 100]).unwrap();
        let (near, mut got) = client.data_connection(connection).unwrap();
        let mut near = patient(near);
        near.write_all(&[round; 10]).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, [round; 10]);
        drop(far);
        near.read_to_end(&mut got).unwrap();
        assert_eq!(got, [round; 100]);
    }
    running.wait_for("no connection is left", |totals| totals.peer_connections == 0);
    assert_eq!(running.relay().totals().connections, 1, "only the control connection is left");
}

#[test]
fn rfc6062_5_4_data_behind_the_bind_in_one_write_is_not_lost() {
    let (running, credential, mut client, _) = allocated(4);
    for round in 0..30_u8 {
        let (listener, address) = peer();
        let connection = client.connect_peer(address).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(LONG)).unwrap();
        // A connection that knows its nonce, so that the bind needs one packet.
        let mut other = running.connect(0, &credential);
        other.allocate().unwrap();
        other.refresh(0).unwrap();
        let signature = other.client().signature().unwrap().clone();
        let transaction = stun::TransactionId::from_bytes([round; 12]);
        let mut bytes = testkit::message::request(stun::Method::CONNECTION_BIND, transaction, |writer| {
            writer.attribute_u32(stun::AttributeType::CONNECTION_ID, connection);
            signature.sign(writer);
        });
        bytes.extend_from_slice(&[round; 3_000]);
        other.send_raw(&bytes).unwrap();
        let mut heard = vec![0; 3_000];
        far.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [round; 3_000]);
    }
}

#[test]
fn rfc6062_5_5_connections_end_with_their_allocation_within_a_second() {
    type End = fn(&Running, &Credential, &mut Option<BlockingClient>);
    let ends: [(&str, End); 3] = [
        ("deleted", |_, _, client| assert_eq!(client.as_mut().unwrap().refresh(0).unwrap(), 0)),
        ("denied", |running, credential, _| {
            let denial = Denial::Credential { id: credential.id, until: unix_now() + 600 };
            running.relay().command(&Command::Deny(denial));
        }),
        ("gone", |_, _, client| drop(client.take())),
    ];
    for (name, end) in ends {
        let (running, credential, mut client, relayed) = allocated(2);
        let pairs: Vec<_> = (0..3).map(|_| connected(&mut client)).collect();
        let mut client = Some(client);
        let begun = Instant::now();
        end(&running, &credential, &mut client);
        for (mut near, mut far) in pairs {
            assert!(is_closed(&mut near) && is_closed(&mut far), "{name}");
        }
        running.wait_for("all are closed", |totals| totals.peer_connections == 0);
        assert!(begun.elapsed() < Duration::from_secs(1), "{name}: {:?}", begun.elapsed());
        assert!(TcpStream::connect(relayed).is_err(), "{name}: the relayed address is closed");
    }
}

#[test]
fn connections_of_an_allocation_are_bounded() {
    let mut config = config(&[TCP]);
    config.workers = 1;
    config.turn.limits.connections = 2;
    let running = Running::start(config);
    let mut client = running.connect(0, &running.credential(600));
    let relayed = client.allocate_tcp().unwrap();
    client.create_permission(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    let first = connected(&mut client);
    let _second = connected(&mut client);
    let (_listener, address) = peer();
    assert_eq!(client.connect_peer(address).unwrap_err().code(), Some(508));
    assert!(is_closed(&mut patient(TcpStream::connect(relayed).unwrap())), "a third one");
    drop(first);
    running.wait_for("there is room again", |totals| totals.peer_connections == 1);
    let _third = connected(&mut client);
}
