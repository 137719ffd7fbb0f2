//! Clients on TCP that are slow, silent, greedy or no clients at all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use relay::StreamLimits;

use crate::fixture::{LONG, Running, config, peer, receive};

const FAST: StreamLimits = StreamLimits {
    connections: 6,
    connections_per_address: 4,
    outbound_bytes: 64 << 10,
    unallocated_frame_bytes: 2_048,
    partial_frame_ms: 500,
    unallocated_idle_ms: 500,
    unallocated_total_ms: 120_000,
    pair_idle_ms: 2_000,
    pair_half_open_ms: 500,
};

fn running() -> Running {
    let mut config = config(&["tcp://127.0.0.1:0"]);
    config.workers = 1;
    config.stream_limits = FAST;
    Running::start(config)
}

/// How long the server lets this connection live.
fn closed_after(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(0) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        other => panic!("expected the connection to be closed, got {other:?}"),
    }
    begun.elapsed()
}

#[test]
fn what_is_no_stun_is_closed_at_once() {
    let running = running();
    for garbage in [
        &b"POST / HTTP/1.1\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x16, 3, 1, 2, 0],
        &[0x40, 0, 0xFF, 0xFF],
        &[0, 1, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42],
    ] {
        let mut stream = TcpStream::connect(running.listeners[0].address).unwrap();
        stream.write_all(garbage).unwrap();
        assert!(closed_after(stream) < Duration::from_millis(400), "{garbage:?}");
    }
}

#[test]
fn silent_and_half_spoken_connections_are_closed() {
    let running = running();
    for begun in [&[][..], &[0], &[0, 1, 0, 0, 0x21, 0x12]] {
        let mut stream = TcpStream::connect(running.listeners[0].address).unwrap();
        stream.write_all(begun).unwrap();
        let lived = closed_after(stream);
        assert!(lived > Duration::from_millis(400) && lived < Duration::from_secs(5), "{begun:?}: {lived:?}");
    }
    // With an allocation silence is fine, half a frame is not.
    let mut client = running.connect(0, &running.credential(600));
    client.allocate().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    client.refresh(600).unwrap();
    client.send_raw(&[0x40, 0, 0, 100, 1, 2, 3]).unwrap();
    assert!(client.wait_closed(LONG).unwrap());
    running.wait_for("its allocation ends with the connection", |totals| totals.allocations == 0);
}

#[test]
fn connections_are_bounded_per_address_and_come_back() {
    let running = running();
    let held: Vec<_> = (0..4).map(|_| TcpStream::connect(running.listeners[0].address).unwrap()).collect();
    running.wait_for("four are open", |totals| totals.connections == 4);
    assert!(
        closed_after(TcpStream::connect(running.listeners[0].address).unwrap()) < Duration::from_millis(400)
    );
    drop(held);
    running.wait_for("all are closed", |totals| totals.connections == 0);
    running.connect(0, &running.credential(600)).allocate().unwrap();
}

#[test]
fn a_client_that_does_not_read_loses_data_and_stalls_nobody() {
    let running = running();
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut deaf = running.connect(0, &running.credential(600));
    let relayed = deaf.allocate().unwrap();
    deaf.channel_bind(to).unwrap();
    let mut other = running.connect(0, &running.credential(600));
    other.allocate().unwrap();
    other.channel_bind(to).unwrap();
    // Until more is sent than every buffer on the way holds, the system's own included.
    let mut bursts = 0;
    while running.relay().totals().send_failures == 0 {
        bursts += 1;
        assert!(bursts < 20_000, "nothing is dropped: {:?}", running.relay().totals());
        for _ in 0..20 {
            peer.send_to(&[7; 1_200], relayed).unwrap();
        }
        if bursts % 20 == 0 {
            other.send_to(to, b"alive").unwrap();
            assert_eq!(receive(&peer).0, b"alive");
        }
    }
    // What was queued comes out in whole frames once it reads.
    let mut frames = 0;
    while let Some((from, data)) = deaf.recv(Duration::from_millis(500)).unwrap() {
        assert_eq!((from, data), (to, vec![7; 1_200]));
        frames += 1;
    }
    assert!(frames > 0);
    deaf.refresh(600).unwrap();
}

#[test]
fn frames_may_come_in_any_pieces() {
    let running = running();
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut client = running.connect(0, &running.credential(600));
    client.allocate().unwrap();
    let channel = client.channel_bind(to).unwrap().number().to_be_bytes();
    let mut stream = Vec::new();
    for length in 0..20u8 {
        stream.extend([channel[0], channel[1], 0, length]);
        stream.extend(std::iter::repeat_n(length, length.into()));
        stream.resize(stream.len().next_multiple_of(4), 0);
    }
    for piece in [1, 2, 3, 5, 7, 64, stream.len()] {
        for bytes in stream.chunks(piece) {
            client.send_raw(bytes).unwrap();
            if piece < 4 {
                std::thread::yield_now();
            }
        }
        for length in 0..20u8 {
            assert_eq!(receive(&peer).0, vec![length; length.into()], "pieces of {piece}");
        }
    }
}
