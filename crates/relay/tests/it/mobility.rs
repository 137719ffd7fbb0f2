//! Clients that change their address, over real sockets and between workers.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use testkit::client::BlockingClient;

use crate::fixture::{LONG, Running, SHORT, config, peer, receive};

/// How often a client moves: half of the moves are to another worker, as the kernel spreads them.
const MOVES: usize = 200;

fn mobile(running: &Running, listener: usize, peer: &UdpSocket) -> BlockingClient {
    let mut client = running.connect(listener, &running.credential(3_600));
    client.ask_for_mobility();
    client.allocate().unwrap();
    client.channel_bind(peer.local_addr().unwrap()).unwrap();
    client
}

/// Data goes both ways, each way several packets, and none is lost.
fn relays(client: &mut BlockingClient, peer: &UdpSocket, round: usize) {
    let address = peer.local_addr().unwrap();
    let sent: Vec<Vec<u8>> = (0..4).map(|n| format!("round {round} packet {n}").into_bytes()).collect();
    for data in &sent {
        client.send_to(address, data).unwrap();
    }
    for data in &sent {
        let (received, from) = receive(peer);
        assert_eq!((&received, Some(from)), (data, client.relayed()));
        peer.send_to(&received, from).unwrap();
    }
    for data in &sent {
        assert_eq!(client.recv(LONG).unwrap(), Some((address, data.clone())), "round {round}");
    }
}

/// Waits until a relayed address's sockets are closed, in every worker.
fn wait_free(relayed: SocketAddr) {
    let deadline = Instant::now() + LONG;
    while let Err(error) = UdpSocket::bind(relayed) {
        assert!(Instant::now() < deadline, "{relayed}: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many descriptors this process has of sockets at these ports, each with its table: "udp" or "tcp".
fn descriptors(ports: &[(&str, u16)]) -> usize {
    let mut sockets = Vec::new();
    for (table, port) in ports {
        let lines = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap();
        for line in lines.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1].ends_with(&format!(":{port:04X}")) {
                sockets.push(format!("socket:[{}]", fields[9]));
            }
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    // Another test's may be closed while they are listed.
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    open.filter(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str())).count()
}

#[test]
fn rfc8016_3_2_2_a_client_moves_many_times_between_ports_transports_and_workers() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let mut client = mobile(&running, 0, &peer);
    let relayed = client.relayed();
    for round in 0..MOVES {
        let listener = running.listeners[usize::from(round % 3 == 2)];
        client.move_to(listener.address, listener.transport).unwrap();
        relays(&mut client, &peer, round);
        assert_eq!(client.relayed(), relayed);
        let totals = running.relay().totals();
        assert_eq!(totals.allocations, 1);
    }
    let moved = running.relay().totals().moves;
    assert!((20..MOVES as u64 - 20).contains(&moved), "{moved} of {MOVES} moves were between workers");
    assert_eq!(client.refresh(0).unwrap(), 0);
    running.wait_for("everything ends", |totals| totals.allocations == 0);
    wait_free(relayed.unwrap());
}

#[test]
fn rfc8016_3_2_2_many_clients_move_and_nothing_is_left() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let at = |listener: usize| running.listeners[listener].address.port();
    let ports = [("udp", at(0)), ("tcp", at(1))];
    let before = descriptors(&ports);
    assert_eq!(before, 4, "two workers' listeners, of two transports");
    let mut relayed = Vec::new();
    for listener in [0, 1] {
        let mut clients: Vec<_> = (0..16).map(|_| mobile(&running, listener, &peer)).collect();
        for client in &mut clients {
            let other = running.listeners[1 - listener];
            client.move_to(other.address, other.transport).unwrap();
            relays(client, &peer, listener);
            relayed.extend(client.relayed());
        }
        let streams = if listener == 0 { clients.len() } else { 0 };
        running.wait_for("each has one way", |totals| totals.connections == streams as u64);
        assert_eq!(descriptors(&ports), before + streams, "what is open is seen");
        for client in &mut clients {
            client.refresh(0).unwrap();
        }
    }
    running.wait_for("everything ends", |totals| totals.allocations == 0 && totals.connections == 0);
    relayed.into_iter().for_each(wait_free);
    assert_eq!(descriptors(&ports), before);
}

#[test]
fn rfc8016_3_2_2_the_old_path_serves_until_the_new_one_is_used() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let address = peer.local_addr().unwrap();
    // Over and over, so that both same-worker and cross-worker moves are seen, from UDP and from TCP.
    for round in 0..24 {
        let mut old = mobile(&running, round % 2, &peer);
        relays(&mut old, &peer, round);
        let mut new = old.fork(running.listeners[0].address, running.listeners[0].transport).unwrap();
        assert_eq!(new.refresh_with_ticket().unwrap(), 600);
        // Both ways over the old one, not a packet lost.
        relays(&mut old, &peer, round);
        // Until the new one is heard.
        new.send_to(address, b"here").unwrap();
        let (_, relayed) = receive(&peer);
        peer.send_to(b"there", relayed).unwrap();
        assert_eq!(new.recv(LONG).unwrap(), Some((address, b"there".to_vec())));
        relays(&mut new, &peer, round);
        old.send_to(address, b"late").unwrap();
        peer.set_read_timeout(Some(SHORT / 6)).unwrap();
        assert!(peer.recv_from(&mut [0; 10]).is_err(), "round {round}");
        peer.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(new.refresh(0).unwrap(), 0);
    }
}

#[test]
fn rfc8016_3_2_2_a_client_comes_back_after_its_connection_broke() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    for round in 0..8 {
        let old = mobile(&running, 1, &peer);
        let listener = running.listeners[round % 2];
        let mut new = old.fork(listener.address, listener.transport).unwrap();
        let streams = u64::from(listener.transport.is_stream());
        running.wait_for("both are there", |totals| totals.connections == 1 + streams);
        drop(old);
        running.wait_for("the connection is closed", |totals| totals.connections == streams);
        assert_eq!(running.relay().totals().allocations, 1, "and the allocation lives");
        assert_eq!(new.refresh_with_ticket().unwrap(), 600);
        relays(&mut new, &peer, round);
        new.refresh(0).unwrap();
        drop(new);
        running.wait_for("all is over", |totals| totals.allocations == 0 && totals.connections == 0);
    }
}

#[test]
fn packets_of_the_old_path_arrive_after_their_allocation() {
    const PACKETS: usize = 100;
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    let address = peer.local_addr().unwrap();
    for round in 0..24 {
        let mut old = mobile(&running, 0, &peer);
        let mut new = old.fork(running.listeners[0].address, running.listeners[0].transport).unwrap();
        // Before the move, in the very batch that it is in, and after it.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..PACKETS).for_each(|_| old.send_to(address, b"steady").unwrap()));
            assert_eq!(new.refresh_with_ticket().unwrap(), 600);
        });
        for n in 0..PACKETS {
            assert_eq!(receive(&peer).0, b"steady", "round {round} packet {n}");
        }
        // Requests, too.
        old.create_permission(&[address]).unwrap();
        new.refresh(0).unwrap();
    }
    assert!(running.relay().totals().moves > 0);
    assert_eq!(running.relay().totals().drops, 0);
}

#[test]
fn the_old_path_leads_to_allocations_of_the_new_worker() {
    let running = Running::start(config(&["udp://127.0.0.1:0"]));
    let peer = peer("127.0.0.1:0");
    // Some at each worker, as the kernel spreads them: all have the same IP address, so one permission each.
    let mut others: Vec<_> = (0..6)
        .map(|_| {
            let mut other = running.connect(0, &running.credential(600));
            let relayed = other.allocate().unwrap();
            other.create_permission(&[relayed]).unwrap();
            (other, relayed)
        })
        .collect();
    for round in 0..24u8 {
        let mut old = mobile(&running, 0, &peer);
        let relayed = old.relayed().unwrap();
        let mut new = old.fork(running.listeners[0].address, running.listeners[0].transport).unwrap();
        assert_eq!(new.refresh_with_ticket().unwrap(), 600);
        for (other, address) in &mut others {
            old.send_to(*address, &[round]).unwrap();
            assert_eq!(other.recv(LONG).unwrap(), Some((relayed, vec![round])));
            other.send_to(relayed, b"back").unwrap();
            assert_eq!(old.recv(LONG).unwrap(), Some((*address, b"back".to_vec())));
        }
        new.refresh(0).unwrap();
    }
    assert!(running.relay().totals().moves > 0);
}
