//! The blocking client over real sockets, against a server of two lines: it answers Binding.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use stun::{AttributeType, Class, Message, Method};
use testkit::client::{BlockingClient, Error};
use testkit::message;
use turn::Transport;

fn answer(request: &[u8], from: SocketAddr) -> Vec<u8> {
    let request = Message::parse(request).unwrap();
    message::write(Class::Success, Method::BINDING, request.transaction(), |writer| {
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, from);
    })
}

#[test]
fn over_udp() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 100];
        // The first one is lost.
        server.recv_from(&mut buffer).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&answer(&buffer[..length], from), from).unwrap();
    });
    let mut client = BlockingClient::connect(address, Transport::Udp, "u", "p").unwrap();
    let mapped = client.binding().unwrap();
    assert_eq!(mapped.port(), client.local_address().unwrap().port());
    thread.join().unwrap();
    client.set_patience(Duration::from_millis(50));
    assert!(matches!(client.binding(), Err(Error::TimedOut)));
    assert_eq!(client.recv(Duration::from_millis(10)).unwrap(), None);
}

#[test]
fn over_tcp_in_pieces() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, from) = server.accept().unwrap();
        let mut request = [0; 20];
        stream.read_exact(&mut request).unwrap();
        for byte in answer(&request, from) {
            stream.write_all(&[byte]).unwrap();
        }
    });
    let mut client = BlockingClient::connect(address, Transport::Tcp, "u", "p").unwrap();
    assert_eq!(client.binding().unwrap(), client.local_address().unwrap());
    thread.join().unwrap();
    assert!(client.wait_closed(Duration::from_secs(5)).unwrap());
    assert!(matches!(client.binding(), Err(Error::Closed)));
}
