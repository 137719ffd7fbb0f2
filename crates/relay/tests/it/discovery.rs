//! NAT behaviour discovery over real sockets: RFC 5780.

use std::net::{SocketAddr, UdpSocket};

use relay::{Alternate, Bound, Config};
use stun::{AttributeType as A, Message, Method, TransactionId, address};
use testkit::message;
use turn::{RelayAddress, Transport};

use crate::fixture::{LONG, Running, config};

fn same(ip: &str) -> RelayAddress {
    RelayAddress { public: ip.parse().unwrap(), local: ip.parse().unwrap() }
}

fn with_alternate(listen: &str) -> Config {
    let alternate = Alternate { primary: same("127.0.0.1"), other: same("127.0.0.2"), port: 0 };
    Config { alternates: vec![alternate], ..config(&[listen]) }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// The answer to a Binding with this attribute, and where it came from.
fn ask(socket: &UdpSocket, to: SocketAddr, kind: A, value: &[u8]) -> (Vec<u8>, SocketAddr) {
    let request = message::request(Method::BINDING, TransactionId::from_bytes([3; 12]), |writer| {
        writer.attribute(kind, value);
    });
    socket.send_to(&request, to).unwrap();
    let mut buffer = vec![0; 4_096];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

fn told(reply: &[u8], kind: A) -> SocketAddr {
    address::decode(Message::parse(reply).unwrap().attribute(kind).unwrap()).unwrap()
}

#[test]
fn rfc5780_6_1_answers_leave_from_the_address_and_port_asked_for() {
    // On its own address, and on a wildcard that covers both.
    for listen in ["udp://127.0.0.1:0", "udp://0.0.0.0:0"] {
        let running = Running::start(with_alternate(listen));
        let first_port = running.listeners[0].address.port();
        let first = SocketAddr::new([127, 0, 0, 1].into(), first_port);
        let socket = socket();
        let (reply, from) = ask(&socket, first, A::CHANGE_REQUEST, &[0; 4]);
        assert_eq!((from, told(&reply, A::RESPONSE_ORIGIN)), (first, first), "{listen}");
        let other = told(&reply, A::OTHER_ADDRESS);
        assert!(other.ip() != first.ip() && other.port() != first_port, "{listen}: {other}");
        let (ips, ports) = ([first.ip(), other.ip()], [first.port(), other.port()]);
        for (ip, port) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for (flags, other_ip, other_port) in [(0, 0, 0), (2, 0, 1), (4, 1, 0), (6, 1, 1)] {
                let to = SocketAddr::new(ips[ip], ports[port]);
                let wanted = SocketAddr::new(ips[ip ^ other_ip], ports[port ^ other_port]);
                let (reply, from) = ask(&socket, to, A::CHANGE_REQUEST, &[0, 0, 0, flags]);
                assert_eq!(
                    (from, told(&reply, A::RESPONSE_ORIGIN)),
                    (wanted, wanted),
                    "{listen} {to} {flags}"
                );
            }
        }
    }
}

#[test]
fn rfc5780_7_5_the_answer_goes_to_another_port() {
    let running = Running::start(with_alternate("udp://127.0.0.1:0"));
    let (asking, listening) = (socket(), socket());
    let port = listening.local_addr().unwrap().port().to_be_bytes();
    let request = message::request(Method::BINDING, TransactionId::from_bytes([3; 12]), |writer| {
        writer.attribute(A::RESPONSE_PORT, &[port[0], port[1], 0, 0]);
    });
    asking.send_to(&request, running.listeners[0].address).unwrap();
    let mut buffer = [0; 1_024];
    let (length, from) = listening.recv_from(&mut buffer).unwrap();
    assert_eq!(from, running.listeners[0].address);
    assert_eq!(told(&buffer[..length], A::MAPPED_ADDRESS), asking.local_addr().unwrap());
}

#[test]
fn rfc5780_7_6_a_padded_answer_is_longer_than_an_mtu() {
    let running = Running::start(with_alternate("udp://127.0.0.1:0"));
    let (reply, _) = ask(&socket(), running.listeners[0].address, A::PADDING, &[0; 1_500]);
    assert_eq!(reply.len(), 20 + 4 * 12 + 4 + 1_500);
}

#[test]
fn a_second_address_that_cannot_be_opened_is_named_and_nothing_stays_open() {
    let taken = UdpSocket::bind("127.0.0.2:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = Config {
        alternates: vec![Alternate { port, ..with_alternate("udp://127.0.0.1:0").alternates[0] }],
        ..config(&["udp://127.0.0.1:0"])
    };
    let error = Bound::bind(config).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on udp://127.0.0.2:{port}"));
    UdpSocket::bind(("127.0.0.1", port)).expect("the port on the first address is closed again");
}

#[test]
fn the_second_address_is_a_listener_that_no_peer_can_be() {
    let running = Running::start(with_alternate("udp://127.0.0.1:0"));
    let (reply, _) = ask(&socket(), running.listeners[0].address, A::CHANGE_REQUEST, &[0; 4]);
    let other = told(&reply, A::OTHER_ADDRESS);
    let mut client = running.connect(0, &running.credential(600));
    client.allocate().unwrap();
    assert_eq!(client.channel_bind(other).unwrap_err().code(), Some(403));
    // It serves TURN as any listener does.
    let credential = running.credential(600);
    crate::fixture::connect_to(other, Transport::Udp, &credential).allocate().unwrap();
}
