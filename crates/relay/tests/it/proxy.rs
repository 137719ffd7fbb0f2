//! Clients behind a proxy that says who they are, with the PROXY protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use relay::StreamLimits;
use stun::{AttributeType, Message, Method, TransactionId, address};
use testkit::message::{self, proxy_v1, proxy_v2, proxy_v2_block};

use crate::fixture::{LONG, Running, config, peer, receive};

const CLIENT: &str = "203.0.113.7:4000";
const CLIENT6: &str = "[2001:db8::7]:4000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A relay on which loopback is a proxy, or is not.
fn running(proxies: &[&str], limits: StreamLimits) -> Running {
    let mut config = config(&["tcp://127.0.0.1:0"]);
    config.workers = 1;
    config.proxies = proxies.iter().map(|cidr| cidr.parse().unwrap()).collect();
    config.stream_limits = limits;
    Running::start(config)
}

fn trusting() -> Running {
    running(&["127.0.0.0/8"], StreamLimits::default())
}

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.listeners[0].address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn binding() -> Vec<u8> {
    message::request(Method::BINDING, TransactionId::from_bytes([5; 12]), |_| {})
}

/// The client's address in the answer to a Binding; `None` when the connection is closed instead.
fn mapped(stream: &mut TcpStream) -> Option<SocketAddr> {
    let mut buffer = [0; 256];
    let mut length = 0;
    loop {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => return None,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
        if let Ok(answer) = Message::parse(&buffer[..length]) {
            let value = answer.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
            return address::decode_xor(value, answer.transaction());
        }
    }
}

#[test]
fn the_client_is_whom_the_header_names() {
    let running = trusting();
    for client in [at(CLIENT), at(CLIENT6)] {
        for header in [proxy_v1(client), proxy_v2(client, &[]), proxy_v2(client, &[1, 0, 2, b'h', b'2'])] {
            // With the first request in one segment, and byte by byte.
            let bytes = [&header[..], &binding()].concat();
            let mut stream = connect(&running);
            stream.write_all(&bytes).unwrap();
            assert_eq!(mapped(&mut stream), Some(client));
            drop(stream);
            running.wait_for("it is closed", |totals| totals.connections == 0);
            let mut stream = connect(&running);
            for byte in bytes {
                stream.write_all(&[byte]).unwrap();
                std::thread::yield_now();
            }
            assert_eq!(mapped(&mut stream), Some(client));
            drop(stream);
            running.wait_for("it is closed", |totals| totals.connections == 0);
        }
    }
}

#[test]
fn without_a_name_it_is_the_proxys_own_connection() {
    let running = trusting();
    let headers = [
        vec![],
        b"PROXY UNKNOWN\r\n".to_vec(),
        proxy_v2_block(0x20, 0x00, &[]),
        proxy_v2_block(0x20, 0x11, &[1; 12]),
        proxy_v2_block(0x21, 0x00, &[]),
        proxy_v2_block(0x21, 0x31, &[b'/'; 216]),
    ];
    for header in headers {
        let mut stream = connect(&running);
        stream.write_all(&[&header[..], &binding()].concat()).unwrap();
        assert_eq!(mapped(&mut stream), Some(stream.local_addr().unwrap()), "{header:?}");
        // A header comes once, and first.
        stream.write_all(&proxy_v1(at(CLIENT))).unwrap();
        assert_eq!(mapped(&mut stream), None);
    }
}

#[test]
fn a_header_from_anybody_else_closes_the_connection() {
    for proxies in [&[][..], &["10.0.0.0/8", "127.0.0.2", "::1"]] {
        let running = running(proxies, StreamLimits::default());
        for header in [proxy_v1(at(CLIENT)), proxy_v2(at(CLIENT), &[]), proxy_v2_block(0x20, 0, &[])] {
            let mut stream = connect(&running);
            stream.write_all(&[header, binding()].concat()).unwrap();
            assert_eq!(mapped(&mut stream), None);
        }
        let mut stream = connect(&running);
        stream.write_all(&binding()).unwrap();
        assert_eq!(mapped(&mut stream), Some(stream.local_addr().unwrap()));
    }
}

#[test]
fn broken_and_overlong_headers_close_it_at_once_and_half_ones_after_a_deadline() {
    let limits = StreamLimits { partial_frame_ms: 500, ..StreamLimits::default() };
    let running = running(&["127.0.0.1"], limits);
    for header in [
        format!("PROXY UNKNOWN {}", "x".repeat(100)).into_bytes(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n".to_vec(),
        proxy_v2_block(0x21, 0x00, &[0; 2_049]),
        proxy_v2_block(0x2F, 0x00, &[]),
        proxy_v2_block(0x21, 0x11, &[0; 11]),
    ] {
        let (mut stream, begun) = (connect(&running), Instant::now());
        stream.write_all(&header).unwrap();
        assert_eq!(mapped(&mut stream), None, "{header:?}");
        assert!(begun.elapsed() < Duration::from_millis(450), "{header:?}");
    }
    for header in [proxy_v1(at(CLIENT)), proxy_v2(at(CLIENT), &[])] {
        let (mut stream, begun) = (connect(&running), Instant::now());
        stream.write_all(&header[..header.len() - 1]).unwrap();
        assert_eq!(mapped(&mut stream), None);
        assert!(begun.elapsed() > Duration::from_millis(450));
    }
}

#[test]
fn nobody_comes_in_under_a_name_that_is_taken() {
    let running = trusting();
    let credential = running.credential(600);
    let peer = peer("127.0.0.1:0");
    let to = peer.local_addr().unwrap();
    let mut first = running.connect(0, &credential);
    first.send_raw(&proxy_v2(at(CLIENT), &[])).unwrap();
    first.allocate().unwrap();
    let channel = first.channel_bind(to).unwrap();
    // If it were let in, ChannelData would go through the other's allocation, for it has no integrity.
    let mut second = connect(&running);
    let data = message::channel_data(turn::Transport::Tcp, channel, b"stolen");
    second.write_all(&[proxy_v1(at(CLIENT)), data].concat()).unwrap();
    assert_eq!(mapped(&mut second), None);
    first.send_to(to, b"mine").unwrap();
    assert_eq!(receive(&peer).0, b"mine");
    assert_eq!(running.relay().totals().relayed.packets_to_peers, 1);
    // Another port is another client; and the name is free once its holder is gone.
    let mut other = connect(&running);
    other.write_all(&[proxy_v1(at("203.0.113.7:4001")), binding()].concat()).unwrap();
    assert_eq!(mapped(&mut other), Some(at("203.0.113.7:4001")));
    drop(first);
    running.wait_for("its allocation ends with the connection", |totals| totals.allocations == 0);
    let mut again = connect(&running);
    again.write_all(&[proxy_v1(at(CLIENT)), binding()].concat()).unwrap();
    assert_eq!(mapped(&mut again), Some(at(CLIENT)));
}

#[test]
fn connections_count_for_the_address_that_is_named() {
    let limits = StreamLimits { connections_per_address: 2, ..StreamLimits::default() };
    let running = running(&["127.0.0.1"], limits);
    let ask = |client: &str| {
        let mut stream = connect(&running);
        stream.write_all(&[proxy_v1(at(client)), binding()].concat()).unwrap();
        let found = mapped(&mut stream);
        (stream, found)
    };
    // More than two connections come from the proxy.
    let _held = [
        "203.0.113.7:1",
        "203.0.113.7:2",
        "203.0.113.8:1",
        "203.0.113.8:2",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
    ]
    .map(|client| {
        let (stream, found) = ask(client);
        assert_eq!(found, Some(at(client)));
        stream
    });
    for crowded in ["203.0.113.7:3", "203.0.113.8:3", "[2001:db8::3]:1"] {
        assert_eq!(ask(crowded).1, None, "{crowded}");
    }
    assert_eq!(ask("203.0.113.9:1").1, Some(at("203.0.113.9:1")));
}
