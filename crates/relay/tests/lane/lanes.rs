//! The ways that a packet can take through a worker, each with somebody at both ends.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use stun::{AttributeType as A, ChannelNumber, Class, MessageWriter, Method, TransactionId, channel_data};
use testkit::client::{BlockingClient, Family};

use crate::fixture::{LONG, Running, peer};

/// One way: what is sent from where, and where it arrives.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    from: UdpSocket,
    to: Option<SocketAddr>,
    packet: Vec<u8>,
    at: UdpSocket,
    /// Where it is dropped, what is sent behind it and arrives.
    witness: Option<Vec<u8>>,
}

impl Lane {
    /// How many packets are sent for so many.
    pub(crate) fn sent_for(&self, count: usize) -> usize {
        count + usize::from(self.witness.is_some())
    }

    /// Sends so many packets, and waits for all of them where they arrive.
    pub(crate) fn pass(&self, count: usize) {
        for _ in 0..count {
            match self.to {
                Some(to) => self.from.send_to(&self.packet, to).unwrap(),
                None => self.from.send(&self.packet).unwrap(),
            };
        }
        if let Some(witness) = &self.witness {
            self.from.send(witness).unwrap();
        }
        let arrive = if self.witness.is_some() { 1 } else { count };
        for _ in 0..arrive {
            self.at.recv(&mut [0; 2_000]).unwrap();
        }
    }
}

fn socket_of(client: BlockingClient) -> UdpSocket {
    let socket = client.into_udp_socket().unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

fn send_indication(to: SocketAddr) -> Vec<u8> {
    let mut buffer = vec![0; 300];
    let id = TransactionId::from_bytes([7; 12]);
    let length = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, id)
        .xor_address(A::XOR_PEER_ADDRESS, to)
        .attribute(A::DATA, &[7; 160])
        .finish()
        .unwrap();
    buffer.truncate(length);
    buffer
}

/// Every lane over UDP, of one family. Listener 0 is of IPv4, 1 of IPv6.
pub(crate) fn over_udp(running: &Running, family: Family) -> Vec<Lane> {
    let (listener, host) = if family == Family::V4 { (0, "127.0.0.1:0") } else { (1, "[::1]:0") };
    let (bound, permitted) = (peer(host), peer(host));
    let at = |socket: &UdpSocket| socket.local_addr().unwrap();
    let mut clients = [0, 0].map(|_| running.connect(listener, &running.credential(600)));
    let relayed = clients.each_mut().map(|client| client.allocate_family(family).unwrap());
    let [mut client, mut other] = clients;
    let channel = client.channel_bind(at(&bound)).unwrap();
    let to_other = client.channel_bind(relayed[1]).unwrap();
    other.create_permission(&[relayed[0]]).unwrap();
    client.create_permission(&[at(&permitted)]).unwrap();
    let (client, other) = (socket_of(client), socket_of(other));
    let copy = |socket: &UdpSocket| socket.try_clone().unwrap();
    let data = |channel| [&channel_data::header(channel, 160)[..], &[7; 160]].concat();
    let unbound = data(stun::ChannelNumber::new(0x4FFE).unwrap());
    let mut binding = vec![0; 100];
    let id = TransactionId::from_bytes([7; 12]);
    let length = MessageWriter::new(&mut binding, Class::Request, Method::BINDING, id).finish().unwrap();
    binding.truncate(length);
    let from_client = |name, packet, at: &UdpSocket| Lane {
        name,
        from: copy(&client),
        to: None,
        packet,
        at: copy(at),
        witness: None,
    };
    let from_peer = |name, from: &UdpSocket| {
        let (to, packet) = (Some(relayed[0]), vec![7; 160]);
        Lane { name, from: copy(from), to, packet, at: copy(&client), witness: None }
    };
    let dropped = |name, packet| Lane { witness: Some(data(channel)), ..from_client(name, packet, &bound) };
    vec![
        from_client("ChannelData from the client", data(channel), &bound),
        from_peer("ChannelData to the client", &bound),
        from_client("Send indications", send_indication(at(&permitted)), &permitted),
        // Both peers have one address, so it is permitted, and has no channel.
        from_peer("Data indications", &permitted),
        from_client("from relay to relay", data(to_other), &other),
        from_client("Binding requests", binding, &client),
        dropped("ChannelData without a channel", unbound),
        dropped("something else", vec![0xFF; 160]),
    ]
}

/// A client on a stream, with a channel to a peer.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    client: BlockingClient,
    channel: ChannelNumber,
    peer: UdpSocket,
    relayed: SocketAddr,
}

impl Stream {
    /// Sends equal datagrams from the peer, which arrive together, and waits for them at the client.
    pub(crate) fn reach_client(&mut self, count: usize) {
        let bytes = vec![7; count * 160];
        let to: SockaddrStorage = self.relayed.into();
        let (pieces, cut) = ([IoSlice::new(&bytes)], [ControlMessage::UdpGsoSegments(&160)]);
        let sent = sendmsg(self.peer.as_raw_fd(), &pieces, &cut, MsgFlags::empty(), Some(&to)).unwrap();
        assert_eq!(sent, bytes.len());
        for _ in 0..count {
            let (_, data) = self.client.recv(LONG).unwrap().unwrap();
            assert_eq!(data, [7; 160]);
        }
    }

    /// Writes frames with one call, and waits for their payload at the peer.
    pub(crate) fn reach_peer(&mut self, count: usize) {
        let frame = [&channel_data::header(self.channel, 160)[..], &[8; 160]].concat();
        self.client.send_raw(&frame.repeat(count)).unwrap();
        for _ in 0..count {
            let mut buffer = [0; 200];
            let (length, _) = self.peer.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [8; 160]);
        }
    }
}

/// A client over TCP, on listener 2, and one over TLS, on listener 3.
pub(crate) fn over_streams(running: &Running) -> [Stream; 2] {
    [(2, "TCP"), (3, "TLS")].map(|(listener, name)| {
        let peer = peer("127.0.0.1:0");
        let to = peer.local_addr().unwrap();
        let mut client = running.connect(listener, &running.credential(600));
        let relayed = client.allocate().unwrap();
        let channel = client.channel_bind(to).unwrap();
        Stream { name, client, channel, peer, relayed }
    })
}
