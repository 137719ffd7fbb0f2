//! The client without I/O against hand-made responses.

use std::net::SocketAddr;

use stun::{AttributeType, Class, ErrorCode, LongTermKey, Message, Method};
use testkit::client::{Client, Config, Event, RELIABLE_TIMEOUT_MS};
use testkit::message;
use turn::Transport;

fn client(transport: Transport) -> Client {
    Client::new(Config::new("user", "password", transport), 1)
}

fn transmits(client: &mut Client) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| client.poll_transmit()).collect()
}

fn challenge(request: &[u8], code: ErrorCode, nonce: &[u8]) -> Vec<u8> {
    let request = Message::parse(request).unwrap();
    message::write(Class::Error, request.method(), request.transaction(), |writer| {
        writer.error_code(code, "");
        writer.attribute(AttributeType::REALM, b"realm").attribute(AttributeType::NONCE, nonce);
    })
}

fn allocated(request: &[u8], key: &LongTermKey) -> Vec<u8> {
    let request = Message::parse(request).unwrap();
    let address: SocketAddr = "192.0.2.1:50000".parse().unwrap();
    message::write(Class::Success, Method::ALLOCATE, request.transaction(), |writer| {
        writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, address);
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
        writer.attribute_u32(AttributeType::LIFETIME, 600).integrity(key);
    })
}

#[test]
fn rfc8489_6_2_1_an_unanswered_request_is_sent_seven_times_and_given_up() {
    let mut client = client(Transport::Udp);
    client.binding(1_000);
    let mut sent = vec![];
    let mut now = 1_000;
    loop {
        sent.extend(transmits(&mut client).into_iter().map(|packet| (now - 1_000, packet)));
        let Some(next) = client.poll_timeout() else { break };
        now = next;
        client.handle_timeout(now);
    }
    let times: Vec<u64> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert!(sent.iter().all(|(_, packet)| *packet == sent[0].1));
    assert_eq!(now, 40_500);
    assert_eq!(client.poll_event(), Some(Event::TimedOut { method: Method::BINDING }));
}

#[test]
fn rfc8489_6_2_2_over_a_stream_it_is_sent_once() {
    let mut client = client(Transport::Tcp);
    client.binding(0);
    assert_eq!(transmits(&mut client).len(), 1);
    assert_eq!(client.poll_timeout(), Some(RELIABLE_TIMEOUT_MS));
    client.handle_timeout(RELIABLE_TIMEOUT_MS);
    assert_eq!(transmits(&mut client).len(), 0);
    assert_eq!(client.poll_event(), Some(Event::TimedOut { method: Method::BINDING }));
}

#[test]
fn rfc8489_9_2_5_a_challenge_is_followed_and_only_integrity_is_believed() {
    let mut client = client(Transport::Udp);
    client.allocate(0, None);
    let first = transmits(&mut client).remove(0);
    client.handle_packet(1, &challenge(&first, ErrorCode::UNAUTHENTICATED, b"nonce 1"));
    let second = transmits(&mut client).remove(0);
    client.handle_packet(2, &challenge(&first, ErrorCode::UNAUTHENTICATED, b"late"));
    client.handle_packet(2, &challenge(&second, ErrorCode::STALE_NONCE, b"nonce 2"));
    let third = transmits(&mut client).remove(0);
    let message = Message::parse(&third).unwrap();
    assert_eq!(message.attribute(AttributeType::NONCE), Some(&b"nonce 2"[..]));

    let right = LongTermKey::new(b"user", b"realm", b"password");
    let wrong = LongTermKey::new(b"user", b"realm", b"passwort");
    client.handle_packet(3, &allocated(&third, &wrong));
    client.handle_packet(3, &allocated(&second, &right));
    assert_eq!(client.poll_event(), None);
    client.handle_packet(4, &allocated(&third, &right));
    let relayed = "192.0.2.1:50000".parse().unwrap();
    assert_eq!(client.poll_event(), Some(Event::Allocated { relayed, mapped: relayed, lifetime_secs: 600 }));
    assert_eq!((client.pending(), client.poll_timeout()), (0, None));
}

#[test]
fn rfc8489_9_2_5_a_second_401_is_the_end() {
    let mut client = client(Transport::Udp);
    client.allocate(0, None);
    for _ in 0..2 {
        let request = transmits(&mut client).remove(0);
        client.handle_packet(1, &challenge(&request, ErrorCode::UNAUTHENTICATED, b"nonce"));
    }
    let refused = Event::Refused { method: Method::ALLOCATE, code: ErrorCode::UNAUTHENTICATED };
    assert_eq!(client.poll_event(), Some(refused));
    assert!(transmits(&mut client).is_empty());
}

#[test]
fn keep_alive_refreshes_before_the_end() {
    let mut config = Config::new("user", "password", Transport::Udp);
    config.keep_alive = true;
    let mut client = Client::new(config, 1);
    client.allocate(0, None);
    let first = transmits(&mut client).remove(0);
    client.handle_packet(1, &challenge(&first, ErrorCode::UNAUTHENTICATED, b"nonce"));
    let second = transmits(&mut client).remove(0);
    let key = LongTermKey::new(b"user", b"realm", b"password");
    client.handle_packet(2, &allocated(&second, &key));
    assert_eq!(client.poll_timeout(), Some(300_002));
    client.handle_timeout(300_002);
    let refresh = transmits(&mut client).remove(0);
    assert_eq!(Message::parse(&refresh).unwrap().method(), Method::REFRESH);
}
