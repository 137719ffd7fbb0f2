//! What the network says of datagrams to peers that are not there: RFC 8656 §11.5, on real sockets.

use std::net::{SocketAddr, UdpSocket};

use testkit::client::Family;
use turn::Icmp;

use crate::fixture::{LONG, Running, SHORT, config, peer, receive};

/// An address on which nobody listens, though somebody did.
fn closed(host: &str) -> SocketAddr {
    UdpSocket::bind(host).unwrap().local_addr().unwrap()
}

#[test]
fn rfc8656_11_5_a_closed_port_is_told() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    for (listener, family, host, kind, code) in [
        (0, Family::V4, "127.0.0.1:0", 3, 3),
        (1, Family::V4, "127.0.0.1:0", 3, 3),
        (0, Family::V6, "[::1]:0", 1, 4),
    ] {
        let nobody = closed(host);
        let mut client = running.connect(listener, &running.credential(600));
        client.allocate_family(family).unwrap();
        client.create_permission(&[nobody]).unwrap();
        client.send_to(nobody, b"anybody?").unwrap();
        let told = client.undelivered(LONG).unwrap();
        assert_eq!(told, Some((nobody, Icmp { kind, code, data: 0 })), "{host}");
    }
}

#[test]
fn errors_about_one_peer_lose_nothing_of_another() {
    let mut config = config(&["udp://127.0.0.1:0"]);
    config.workers = 1;
    let running = Running::start(config);
    let (peer, nobody) = (peer("127.0.0.1:0"), closed("127.0.0.1:0"));
    let there = peer.local_addr().unwrap();
    let mut client = running.connect(0, &running.credential(600));
    let relayed = client.allocate().unwrap();
    client.channel_bind(there).unwrap();
    client.channel_bind(nobody).unwrap();
    let mut told = 0;
    for round in 0..100u8 {
        // Both orders, in one batch and over several; every datagram to nobody brings an error.
        for n in 0..8u8 {
            client.send_to(nobody, b"anybody?").unwrap();
            client.send_to(there, &[round, n, 0]).unwrap();
            client.send_to(there, &[round, n, 1]).unwrap();
        }
        for n in 0..8u8 {
            assert_eq!(receive(&peer), (vec![round, n, 0], relayed));
            assert_eq!(receive(&peer), (vec![round, n, 1], relayed));
        }
        peer.send_to(&[round], relayed).unwrap();
        assert_eq!(client.recv(LONG).unwrap(), Some((there, vec![round])));
    }
    while let Some((about, icmp)) = client.undelivered(SHORT).unwrap() {
        assert_eq!((about, icmp.kind, icmp.code), (nobody, 3, 3));
        told += 1;
    }
    assert!(told >= 16, "{told}");
    assert_eq!(running.relay().totals().send_failures, 0);
}

#[test]
fn trains_lose_nothing_while_errors_come_in() {
    let mut config = config(&["udp://127.0.0.1:0"]);
    config.workers = 1;
    let running = Running::start(config);
    let (peer, nobody) = (peer("127.0.0.1:0"), closed("127.0.0.1:0"));
    let there = peer.local_addr().unwrap();
    let mut client = running.connect(0, &running.credential(600));
    client.allocate().unwrap();
    client.channel_bind(there).unwrap();
    client.channel_bind(nobody).unwrap();
    for round in 0..20u8 {
        client.send_to(nobody, b"anybody?").unwrap();
        for n in 0..30u8 {
            client.send_to(there, &[[round, n].as_slice(), &[7; 998]].concat()).unwrap();
        }
        for n in 0..30u8 {
            assert_eq!(receive(&peer).0[..2], [round, n]);
        }
    }
    assert_eq!(running.relay().totals().send_failures, 0);
}
