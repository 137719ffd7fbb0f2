//! Two clients of one server, each the other's peer.

use std::net::{SocketAddr, UdpSocket};

use stun::channel_data;
use testkit::client::BlockingClient;
use turn::RelayAddress;

use crate::fixture::{LONG, Running, config};
use crate::trains::send_train;

/// Behind a one-to-one NAT that sends nothing back: no packet for the public address arrives anywhere.
fn behind_nat() -> Running {
    let mut config = config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]);
    let relay = RelayAddress { public: "203.0.113.7".parse().unwrap(), local: "127.0.0.1".parse().unwrap() };
    config.turn.relay_addresses = vec![relay];
    Running::start(config)
}

fn check_both_ways(clients: [&mut BlockingClient; 2], relayed: [SocketAddr; 2], round: u8) {
    let [a, b] = clients;
    for length in [0usize, 1, 160, 1_199, 9_000] {
        let data = vec![round; length];
        a.send_to(relayed[1], &data).unwrap();
        assert_eq!(b.recv(LONG).unwrap().unwrap(), (relayed[0], data.clone()));
        b.send_to(relayed[0], &data).unwrap();
        assert_eq!(a.recv(LONG).unwrap().unwrap(), (relayed[1], data));
    }
}

#[test]
fn any_two_clients_reach_each_other_on_one_worker_or_two() {
    let running = behind_nat();
    let mut packets = 0;
    for round in 0..24u8 {
        let mut clients = [usize::from(round) / 2 % 2, usize::from(round) % 2]
            .map(|listener| running.connect(listener, &running.credential(600)));
        let relayed = clients.each_mut().map(|client| client.allocate().unwrap());
        assert!(relayed.iter().all(|address| address.ip().to_string() == "203.0.113.7"));
        let [a, b] = &mut clients;
        a.create_permission(&[relayed[1]]).unwrap();
        b.create_permission(&[relayed[0]]).unwrap();
        check_both_ways([a, b], relayed, round);
        a.channel_bind(relayed[1]).unwrap();
        check_both_ways([a, b], relayed, round);
        b.channel_bind(relayed[0]).unwrap();
        check_both_ways([a, b], relayed, round);
        packets += 30;
    }
    // Counted as if it had left: once to a peer, once to a client.
    running.wait_for("every packet is counted", |totals| totals.relayed.packets_to_clients == packets);
    let totals = running.relay().totals();
    assert_eq!(
        (totals.relayed.packets_to_peers, totals.relayed.bytes_to_peers),
        (packets, packets / 5 * 10_360)
    );
    assert_eq!((totals.drops, totals.send_failures), (0, 0));
}

/// Packets of a train have no room for another header: they must not be written over each other.
#[test]
fn trains_are_handed_over_whole() {
    let mut config = config(&["udp://127.0.0.1:0"]);
    config.workers = 1;
    let running = Running::start(config);
    let mut clients = [0, 0].map(|listener| running.connect(listener, &running.credential(600)));
    let relayed = clients.each_mut().map(|client| client.allocate().unwrap());
    let [mut a, mut b] = clients;
    let channel = a.channel_bind(relayed[1]).unwrap();
    b.create_permission(&[relayed[0]]).unwrap();
    let socket: UdpSocket = a.into_udp_socket().unwrap();
    for round in 0..20u8 {
        let size = 20 + 4 * usize::from(round);
        let mut train = vec![];
        for n in 0..30u8 {
            train.extend(channel_data::header(channel, u16::try_from(size).unwrap()));
            train.extend(vec![n; size]);
        }
        send_train(&socket, &train, size + 4, None);
        // Data indications, longer than what was sent; in the second half ChannelData, as long.
        for n in 0..30u8 {
            assert_eq!(b.recv(LONG).unwrap().unwrap(), (relayed[0], vec![n; size]), "round {round}");
        }
        if round == 10 {
            b.channel_bind(relayed[0]).unwrap();
        }
    }
    let totals = running.relay().totals();
    assert_eq!((totals.relayed.packets_to_clients, totals.drops, totals.send_failures), (600, 0, 0));
}
