use std::net::{TcpListener, UdpSocket};

use relay::Bound;

use crate::fixture::{Running, config};

#[test]
fn a_taken_port_is_named_and_nothing_stays_open() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", tcp.local_addr().unwrap());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let free = udp.local_addr().unwrap();
    drop(udp);
    let error = Bound::bind(config(&[&format!("udp://{free}"), &taken])).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {taken}"));
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    UdpSocket::bind(free).expect("the first listener is closed again");
}

#[test]
fn another_relay_on_the_port_is_noticed() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    for listener in &running.listeners {
        let error = Bound::bind(config(&[&listener.to_string()])).unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse, "{listener}");
    }
}

#[test]
fn ports_are_free_again_after_a_stop() {
    let running = Running::start(config(&["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]));
    let listeners: Vec<String> = running.listeners.iter().map(ToString::to_string).collect();
    running.connect(1, &running.credential(600)).allocate().unwrap();
    drop(running);
    let again = Running::start(config(&listeners.iter().map(String::as_str).collect::<Vec<_>>()));
    again.connect(0, &again.credential(600)).allocate().unwrap();
}
