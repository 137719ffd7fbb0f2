//! TURN within DTLS: RFC 7350.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use relay::DtlsLimits;
use stun::{Class, MessageWriter, Method, TransactionId};
use testkit::client::BlockingClient;
use testkit::client::dtls::{DtlsSocket, DtlsVersion};
use turn::StrangerLimit;

use crate::fixture::{LONG, Running, SHORT, config, peer, receive};

const TRANSACTION: [u8; 12] = [7; 12];

/// A Binding request, and whether this is its answer.
pub(crate) fn binding() -> Vec<u8> {
    let mut buffer = vec![0; 64];
    let transaction = TransactionId::from_bytes(TRANSACTION);
    let length =
        MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, transaction).finish().unwrap();
    buffer.truncate(length);
    buffer
}

fn is_answered(session: &mut DtlsSocket) -> bool {
    session.send(&binding()).unwrap();
    let answer = session.receive(LONG).unwrap();
    answer.is_some_and(|answer| answer[..2] == [1, 1] && answer[8..20] == TRANSACTION)
}

/// The first datagram of a client that never goes on.
fn first_hello(version: DtlsVersion) -> Vec<u8> {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    own.connect(silent.local_addr().unwrap()).unwrap();
    DtlsSocket::begin(own, version).unwrap();
    receive(&silent).0
}

fn client(running: &Running) -> BlockingClient {
    running.connect(0, &running.credential(600))
}

#[test]
fn rfc7350_3_datagrams_are_relayed_within_dtls() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut client = client(&running);
    let relayed = client.allocate().unwrap();
    client.create_permission(&[to]).unwrap();
    for round in 0..2 {
        for length in [0usize, 1, 3, 4, 160, 1_199, 1_200, 9_000, 16_300] {
            let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            client.send_to(to, &data).unwrap();
            assert_eq!(receive(&peer), (data.clone(), relayed));
            peer.send_to(&data, relayed).unwrap();
            assert_eq!(client.recv(LONG).unwrap().unwrap(), (to, data));
        }
        if round == 0 {
            // What no record can hold is lost whole, and nothing else with it.
            peer.send_to(&vec![1; 16_400], relayed).unwrap();
            running.wait_for("it is lost", |totals| totals.send_failures == 1);
            client.channel_bind(to).unwrap();
        }
    }
    assert_eq!(client.refresh(0).unwrap(), 0);
}

#[test]
fn rfc6347_4_2_1_and_rfc9147_5_1_both_versions_are_spoken_behind_a_cookie() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let server = running.listeners[0].address;
    for (offered, spoken) in [
        (DtlsVersion::V12, DtlsVersion::V12),
        (DtlsVersion::V13, DtlsVersion::V13),
        (DtlsVersion::Either, DtlsVersion::V13),
    ] {
        let mut session = DtlsSocket::connect(server, offered).unwrap();
        assert_eq!(session.version(), spoken, "{offered:?}");
        assert!(is_answered(&mut session));
        // Several records in one datagram.
        session.send_together(&[&binding(), &binding(), &binding()]).unwrap();
        for _ in 0..3 {
            assert!(session.receive(LONG).unwrap().is_some());
        }
    }
    assert_eq!(running.relay().totals().sessions, 3);
}

#[test]
fn one_port_takes_udp_and_dtls() {
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (udp, dtls) = (format!("udp://{probe}"), format!("dtls://{probe}"));
    let running = Running::start(config(&[&udp, &dtls]));
    for listener in [0, 1] {
        let mut client = running.connect(listener, &running.credential(600));
        client.allocate().unwrap();
        assert_eq!(client.binding().unwrap().port(), client.local_address().unwrap().port());
    }
    let plain = Running::start(config(&["udp://127.0.0.1:0"]));
    let hello = first_hello(DtlsVersion::V12);
    assert_eq!(answer_to(plain.listeners[0].address, &hello), None, "a port for UDP alone");
    let secured = Running::start(config(&["dtls://127.0.0.1:0"]));
    assert_eq!(answer_to(secured.listeners[0].address, &binding()), None, "a port for DTLS alone");
}

fn answer_to(server: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.send_to(datagram, server).unwrap();
    let mut buffer = [0; 2_048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

#[test]
fn hellos_without_a_cookie_leave_nothing_behind() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let server = running.listeners[0].address;
    for version in [DtlsVersion::V12, DtlsVersion::V13] {
        let hello = first_hello(version);
        for _ in 0..50 {
            let answer = answer_to(server, &hello).unwrap();
            assert!(answer.len() < hello.len(), "{} for {}", answer.len(), hello.len());
        }
    }
    assert_eq!(running.relay().totals().sessions, 0);
    let mut session = DtlsSocket::connect(server, DtlsVersion::Either).unwrap();
    assert!(is_answered(&mut session));
    assert_eq!(running.relay().totals().sessions, 1);
}

/// The pages of this process that are in memory, in KiB.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4 * statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
}

#[test]
fn a_flood_of_hellos_leaves_a_client_its_relay() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let server = running.listeners[0].address;
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut client = client(&running);
    let relayed = client.allocate().unwrap();
    client.create_permission(&[to]).unwrap();
    let hellos = [DtlsVersion::V12, DtlsVersion::V13].map(first_hello);
    let before = resident_kib();
    // From 10,000 addresses, none of which goes on.
    for n in 0..10_000_u32 {
        let from = std::net::Ipv4Addr::from_bits(0x7F01_0000 + n);
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(&hellos[n as usize % 2], server).unwrap();
        if n % 1_000 == 0 {
            client.send_to(to, &n.to_be_bytes()).unwrap();
            assert_eq!(receive(&peer), (n.to_be_bytes().to_vec(), relayed));
        }
    }
    // Other tests in this process use memory, too, so it is only shown.
    println!("{} KiB before, {} KiB after", before, resident_kib());
    assert_eq!(running.relay().totals().sessions, 1);
}

#[test]
fn answers_and_handshakes_are_limited_and_sessions_are_not() {
    let mut config = config(&["dtls://127.0.0.1:0"]);
    let limit =
        StrangerLimit { answers_per_second: 1, burst: 4, includes_loopback: true, ..Default::default() };
    config.turn.stranger_limit = Some(limit);
    let running = Running::start(config);
    let server = running.listeners[0].address;
    // An answer without a cookie and a handshake with one.
    let mut session = DtlsSocket::connect(server, DtlsVersion::V13).unwrap();
    let hello = first_hello(DtlsVersion::V12);
    let answered = (0..10).filter(|_| answer_to(server, &hello).is_some()).count();
    assert!(answered < 8, "{answered}");
    assert!(running.relay().totals().stranger_drops > 0);
    for _ in 0..20 {
        assert!(is_answered(&mut session));
    }
}

#[test]
fn a_client_that_begins_again_gives_up_what_it_had() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let server = running.listeners[0].address;
    for version in [DtlsVersion::V12, DtlsVersion::V13] {
        let mut first = DtlsSocket::connect(server, version).unwrap();
        assert!(is_answered(&mut first));
        // Someone else's hello with its address, which is what a hello without a cookie is.
        first.socket().send(&first_hello(version)).unwrap();
        assert!(is_answered(&mut first), "the old session lives on");
        // Nor do plaintext alerts and other records end it.
        for record in [[21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 99, 0, 2, 2, 40], [20; 15], [0x2F; 15], [22; 15]]
        {
            first.socket().send(&record).unwrap();
        }
        assert!(is_answered(&mut first));
        let socket = first.socket().try_clone().unwrap();
        let mut second = DtlsSocket::over(socket, version).unwrap();
        assert!(is_answered(&mut second));
        drop(first);
    }
    assert_eq!(running.relay().totals().sessions, 2);
}

#[test]
fn an_allocation_ends_with_its_session() {
    let running = Running::start(config(&["dtls://127.0.0.1:0"]));
    let credential = running.credential(600);
    let session = DtlsSocket::connect(running.listeners[0].address, DtlsVersion::Either).unwrap();
    let socket = session.socket().try_clone().unwrap();
    let mut client = BlockingClient::within(session, &credential.username, &credential.password).unwrap();
    client.allocate().unwrap();
    assert_eq!(running.relay().totals().allocations, 1);
    // It begins again from the same port.
    let session = DtlsSocket::over(socket, DtlsVersion::Either).unwrap();
    let mut again = BlockingClient::within(session, &credential.username, &credential.password).unwrap();
    running.wait_for("the allocation ends", |totals| totals.allocations == 0);
    again.allocate().unwrap();
    assert_eq!(running.relay().totals().allocations, 1);
    again.close().unwrap();
    running.wait_for("both end", |totals| (totals.allocations, totals.sessions) == (0, 0));
}

#[test]
fn sessions_without_an_allocation_end() {
    let mut config = config(&["dtls://127.0.0.1:0"]);
    config.dtls_limits = DtlsLimits { unallocated_idle_ms: 500, ..DtlsLimits::default() };
    let running = Running::start(config);
    let mut idle = DtlsSocket::connect(running.listeners[0].address, DtlsVersion::V13).unwrap();
    let mut busy = running.connect(0, &running.credential(600));
    busy.allocate().unwrap();
    let ended = idle.receive(Duration::from_secs(10)).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset, "it is told");
    running.wait_for("one is left", |totals| totals.sessions == 1);
    busy.refresh(600).unwrap();
}

#[test]
fn sessions_are_bounded() {
    let mut config = config(&["dtls://127.0.0.1:0"]);
    config.workers = 1;
    config.dtls_limits = DtlsLimits { sessions_per_address: 2, ..DtlsLimits::default() };
    let running = Running::start(config);
    let server = running.listeners[0].address;
    let mut kept: Vec<_> =
        (0..2).map(|_| DtlsSocket::connect(server, DtlsVersion::Either).unwrap()).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    assert!(DtlsSocket::over_within(socket, DtlsVersion::V12, SHORT).is_err());
    assert!(running.relay().totals().sessions_refused > 0);
    assert!(kept.iter_mut().all(is_answered));
    kept.pop().unwrap().close().unwrap();
    running.wait_for("one ends", |totals| totals.sessions == 1);
    assert!(is_answered(&mut DtlsSocket::connect(server, DtlsVersion::V12).unwrap()));
}
