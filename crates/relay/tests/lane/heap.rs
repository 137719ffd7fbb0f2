//! A worker asks the heap for nothing while it relays.

use std::net::UdpSocket;

use testkit::client::{BlockingClient, Family};
use testkit::sys::CountingHeap;

use crate::fixture::{LONG, Running, peer};
use crate::lanes::{over_streams, over_udp};
use crate::{alone, start, unreported};

const BURST: usize = 32;
const WARM_UP: usize = 20;
const ROUNDS: usize = 100;

/// What the worker has asked of the heap while `load` ran.
fn heap_calls(running: &Running, mut load: impl FnMut()) -> u64 {
    unreported(running, || {
        let before = CountingHeap::calls();
        load();
        CountingHeap::calls() - before
    })
}

#[test]
fn no_packet_over_udp_costs_a_heap_allocation() {
    let _alone = alone();
    let running = start();
    assert!(heap_calls(&running, || drop(over_udp(&running, Family::V4))) > 0, "allocations are counted");
    for family in [Family::V4, Family::V6] {
        for lane in over_udp(&running, family) {
            let pass = |rounds| (0..rounds).for_each(|_| lane.pass(BURST));
            pass(WARM_UP);
            let calls = heap_calls(&running, || pass(ROUNDS));
            assert_eq!(calls, 0, "{} {family:?}: {} packets", lane.name, ROUNDS * BURST);
        }
    }
}

/// There and back, one after the other, so that each is a frame, or a record, by itself.
fn talk(client: &mut BlockingClient, peer: &UdpSocket, rounds: usize) {
    let to = peer.local_addr().unwrap();
    for _ in 0..rounds {
        client.send_to(to, &[7; 160]).unwrap();
        let (length, from) = peer.recv_from(&mut [0; 200]).unwrap();
        peer.send_to(&[7; 160][..length], from).unwrap();
        assert!(client.recv(LONG).unwrap().is_some());
    }
}

#[test]
fn no_packet_over_tcp_costs_a_heap_allocation_and_a_record_costs_one() {
    let _alone = alone();
    let running = start();
    // rustls takes a buffer for each record that it seals or opens, and gives it back: one there and one back.
    for (listener, name, most) in [(2, "TCP", 0), (3, "TLS", 2 * 2 * ROUNDS as u64)] {
        let peer = peer("127.0.0.1:0");
        let to = peer.local_addr().unwrap();
        let mut client = running.connect(listener, &running.credential(600));
        client.allocate().unwrap();
        client.create_permission(&[to]).unwrap();
        for with_channel in [false, true] {
            if with_channel {
                client.channel_bind(to).unwrap();
            }
            talk(&mut client, &peer, WARM_UP);
            let calls = heap_calls(&running, || talk(&mut client, &peer, ROUNDS));
            assert!(
                calls <= most,
                "{name}, with a channel: {with_channel}: {calls} for {ROUNDS} there and back"
            );
        }
    }
}

#[test]
fn no_burst_over_tcp_costs_a_heap_allocation_and_a_record_costs_one() {
    let _alone = alone();
    let running = start();
    // A record for each frame to the client; the client's frames came in one.
    for (mut stream, most) in over_streams(&running).into_iter().zip([0, 2 * ROUNDS * (BURST + 1)]) {
        let mut pass = |rounds| {
            for _ in 0..rounds {
                stream.reach_client(BURST);
                stream.reach_peer(BURST);
            }
        };
        pass(WARM_UP);
        let calls = heap_calls(&running, || pass(ROUNDS));
        assert!(
            calls <= most as u64,
            "{}: {calls} for {ROUNDS} bursts of {BURST} there and back",
            stream.name
        );
    }
}
