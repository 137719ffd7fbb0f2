use std::time::Instant;

use credentials::Denial;
use testkit::client::BlockingClient;
use turn::{Command, Transport};

use crate::fixture::{KEY, LONG, Running, SHORT, config, connect_to, peer, receive, unix_now};

/// Both directions, by indication and by channel, in several sizes, and every byte counted as it should be.
fn check_echo(running: &Running, listener: usize, peer_address: &str) {
    let peer = peer(peer_address);
    let to = peer.local_addr().unwrap();
    let mut client = running.connect(listener, &running.credential(600));
    let relayed = client.allocate().unwrap();
    client.create_permission(&[to]).unwrap();
    for round in 0..2 {
        for length in [0usize, 1, 3, 4, 160, 1_199, 1_200, 9_000, 60_000] {
            let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            client.send_to(to, &data).unwrap();
            let (received, from) = receive(&peer);
            assert_eq!((received.len(), from), (length, relayed));
            assert_eq!(received, data);
            peer.send_to(&data, relayed).unwrap();
            assert_eq!(client.recv(LONG).unwrap().unwrap(), (to, data));
        }
        if round == 0 {
            client.channel_bind(to).unwrap();
        }
    }
    assert_eq!(client.refresh(0).unwrap(), 0);
}

#[test]
fn udp_clients_relay() {
    check_echo(&Running::start(config(&["udp://127.0.0.1:0"])), 0, "127.0.0.1:0");
}

#[test]
fn tcp_clients_relay() {
    check_echo(&Running::start(config(&["tcp://127.0.0.1:0"])), 0, "127.0.0.1:0");
}

#[test]
fn ipv6_listeners_and_relayed_addresses() {
    let running = Running::start(config(&["udp://[::1]:0", "tcp://[::1]:0"]));
    for listener in [0, 1] {
        let peer = peer("[::1]:0");
        let to = peer.local_addr().unwrap();
        let mut client = running.connect(listener, &running.credential(600));
        let relayed = client.allocate_family(testkit::client::Family::V6).unwrap();
        assert!(relayed.is_ipv6());
        client.channel_bind(to).unwrap();
        client.send_to(to, b"six").unwrap();
        assert_eq!(receive(&peer), (b"six".to_vec(), relayed));
        peer.send_to(b"back", relayed).unwrap();
        assert_eq!(client.recv(LONG).unwrap().unwrap(), (to, b"back".to_vec()));
    }
}

#[test]
fn a_wildcard_listener_answers_from_the_address_it_was_reached_at() {
    for (listen, hosts) in
        [("udp://0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.1.2.3"][..]), ("udp://[::]:0", &["::1"])]
    {
        let running = Running::start(config(&[listen]));
        for host in hosts {
            let address = (host.parse::<std::net::IpAddr>().unwrap(), running.listeners[0].address.port());
            // The client's socket is connected: an answer from another address would never reach it.
            let mut client = connect_to(address.into(), Transport::Udp, &running.credential(600));
            client.binding().unwrap();
            client.allocate().unwrap();
        }
    }
}

#[test]
fn the_largest_datagrams_pass_whole_or_not_at_all() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let data = vec![0xA5; 65_507];
    // Over TCP a client can send and receive the largest UDP payload.
    let mut tcp = running.connect(1, &running.credential(600));
    let relayed = tcp.allocate().unwrap();
    tcp.channel_bind(to).unwrap();
    tcp.send_to(to, &data).unwrap();
    assert_eq!(receive(&peer), (data.clone(), relayed));
    peer.send_to(&data, relayed).unwrap();
    assert_eq!(tcp.recv(LONG).unwrap().unwrap(), (to, data.clone()));
    // Over UDP the header takes four bytes of it: what fits passes, what does not is dropped whole.
    let mut udp = running.connect(0, &running.credential(600));
    let relayed = udp.allocate().unwrap();
    udp.channel_bind(to).unwrap();
    udp.send_to(to, &data[..65_503]).unwrap();
    assert_eq!(receive(&peer).0.len(), 65_503);
    peer.send_to(&data, relayed).unwrap();
    peer.send_to(&data[..65_503], relayed).unwrap();
    assert_eq!(udp.recv(LONG).unwrap().unwrap().1.len(), 65_503);
    assert_eq!(udp.recv(SHORT).unwrap(), None);
}

#[test]
fn many_clients_on_all_workers_keep_their_order() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let credential = running.credential(600);
    let mut clients: Vec<_> = (0..40).map(|n| running.connect(n % 2, &credential)).collect();
    let mut relayed = Vec::new();
    for client in &mut clients {
        relayed.push(client.allocate().unwrap());
        client.channel_bind(to).unwrap();
    }
    let mut next = vec![0u8; clients.len()];
    for round in 0..20u8 {
        for client in &mut clients {
            client.send_to(to, &[round]).unwrap();
        }
        for _ in 0..clients.len() {
            let (data, from) = receive(&peer);
            let who = relayed.iter().position(|address| *address == from).unwrap();
            assert_eq!(data, [next[who]], "client {who}");
            next[who] += 1;
            peer.send_to(&data, from).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.recv(LONG).unwrap().unwrap().1, [round]);
        }
    }
    assert_eq!(running.relay().totals().allocations, 40);
    assert_eq!(running.relay().totals().relayed.packets_to_peers, 800);
    drop(clients);
    // The TCP clients are gone with their connections, the UDP ones live on.
    running.wait_for("only UDP allocations are left", |totals| totals.allocations == 20);
}

#[test]
fn a_denial_ends_live_traffic_at_once_on_every_worker() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    peer.set_read_timeout(Some(SHORT)).unwrap();
    let to = peer.local_addr().unwrap();
    let (bad, good) = (running.credential(600), running.credential(600));
    let mut clients: Vec<_> = (0..8)
        .map(|n| {
            let mut client = running.connect(n % 2, if n < 4 { &bad } else { &good });
            let relayed = client.allocate().unwrap();
            client.channel_bind(to).unwrap();
            (client, relayed)
        })
        .collect();
    let until = unix_now() + 600;
    let begun = Instant::now();
    running.relay().command(&Command::Deny(Denial::Credential { id: bad.id, until }));
    running.wait_for("four allocations ended", |totals| totals.allocations == 4);
    assert!(begun.elapsed() < SHORT, "took {:?}", begun.elapsed());
    for (client, relayed) in &mut clients[..4] {
        client.send_to(to, b"after").unwrap();
        peer.send_to(b"after", *relayed).unwrap();
        assert_eq!(client.refresh(600).unwrap_err().code(), Some(401));
        assert_eq!(client.recv(SHORT).unwrap(), None);
    }
    let mut buffer = [0; 16];
    assert!(peer.recv_from(&mut buffer).is_err(), "nothing is relayed for a denied credential");
    for (client, _) in &mut clients[4..] {
        client.send_to(to, b"still").unwrap();
        assert_eq!(receive(&peer).0, b"still");
    }
    running.relay().command(&Command::Deny(Denial::Key { key: KEY, until }));
    running.wait_for("all allocations ended", |totals| totals.allocations == 0);
    assert_eq!(running.connect(0, &good).allocate().unwrap_err().code(), Some(401));
}

#[test]
fn a_credentials_expiry_ends_its_allocation() {
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let mut client = running.connect(0, &running.credential(2));
    client.allocate().unwrap();
    running.wait_for("the allocation ends by itself", |totals| totals.allocations == 0);
    assert_eq!(client.refresh(600).unwrap_err().code(), Some(401));
}

/// Any program may take a port that nobody has bound, and systems hand out those of the relay range to everybody.
#[test]
fn rfc8656_7_2_a_reserved_port_is_nobody_elses_until_it_is_claimed() {
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let credential = running.credential(600);
    let with = |even_port| testkit::client::Config {
        even_port,
        ..testkit::client::Config::new(&credential.username, &credential.password, Transport::Udp)
    };
    let address = running.listeners[0].address;
    let mut first = BlockingClient::with_config(address, with(Some(true))).unwrap();
    let relayed = first.allocate().unwrap();
    let next = std::net::SocketAddr::new(relayed.ip(), relayed.port() + 1);
    let taken = std::net::UdpSocket::bind(next).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}
