//! Messages as a client writes them, right ones and, for tests, wrong ones.

use std::net::{IpAddr, SocketAddr};

use stun::{
    AttributeType, ChannelNumber, Class, HEADER_LEN, IntegrityAlgorithm, LongTermKey, MessageWriter, Method,
    PasswordAlgorithm, TransactionId, channel_data,
};
use turn::Transport;

/// REQUESTED-TRANSPORT's value for UDP. RFC 8656 §18.8.
pub const REQUESTED_UDP: [u8; 4] = [17, 0, 0, 0];
/// REQUESTED-TRANSPORT's value for TCP. RFC 6062 §4.1.
pub const REQUESTED_TCP: [u8; 4] = [6, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY's value for IPv4. RFC 8656 §18.6.
pub const FAMILY_IPV4: [u8; 4] = [1, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY's value for IPv6. RFC 8656 §18.6.
pub const FAMILY_IPV6: [u8; 4] = [2, 0, 0, 0];
/// EVEN-PORT's value without the R bit. RFC 8656 §18.7.
pub const EVEN: [u8; 1] = [0];
/// EVEN-PORT's value with the R bit, which reserves the next port too. RFC 8656 §18.7.
pub const EVEN_AND_NEXT: [u8; 1] = [0x80];

/// What a client puts into a request besides what it asks for. RFC 8489 §9.2.
#[derive(Debug, Clone)]
pub struct Signature {
    /// USERNAME.
    pub username: Vec<u8>,
    /// REALM, as the server said.
    pub realm: Vec<u8>,
    /// NONCE, as the server said.
    pub nonce: Vec<u8>,
    /// What the integrity is made with.
    pub key: LongTermKey,
    /// Which integrity.
    pub integrity: IntegrityAlgorithm,
    /// PASSWORD-ALGORITHMS, as the server said.
    pub offered: Option<Vec<u8>>,
    /// PASSWORD-ALGORITHM.
    pub chosen: Option<Vec<u8>>,
}

impl Signature {
    /// The signature of whoever knows this password.
    pub fn new(username: &str, password: &str, realm: &[u8], nonce: &[u8]) -> Self {
        Self {
            username: username.as_bytes().to_vec(),
            realm: realm.to_vec(),
            nonce: nonce.to_vec(),
            key: LongTermKey::new(username.as_bytes(), realm, password.as_bytes()),
            integrity: IntegrityAlgorithm::Sha1,
            offered: None,
            chosen: None,
        }
    }

    /// The same with this password algorithm of those offered, and SHA-256 integrity. RFC 8489 §9.2.3.
    #[must_use]
    pub fn choosing(self, algorithm: PasswordAlgorithm, password: &str, offered: &[u8]) -> Self {
        Self {
            key: LongTermKey::with_algorithm(algorithm, &self.username, &self.realm, password.as_bytes()),
            integrity: IntegrityAlgorithm::Sha256,
            offered: Some(offered.to_vec()),
            chosen: Some(algorithm.to_attribute().to_vec()),
            ..self
        }
    }

    /// Adds USERNAME, REALM, NONCE, what is said about password algorithms, and the integrity.
    pub fn sign(&self, writer: &mut MessageWriter<'_>) {
        writer.attribute(AttributeType::USERNAME, &self.username);
        writer.attribute(AttributeType::REALM, &self.realm);
        writer.attribute(AttributeType::NONCE, &self.nonce);
        if let Some(offered) = &self.offered {
            writer.attribute(AttributeType::PASSWORD_ALGORITHMS, offered);
        }
        if let Some(chosen) = &self.chosen {
            writer.attribute(AttributeType::PASSWORD_ALGORITHM, chosen);
        }
        writer.integrity_by(self.integrity, &self.key);
    }
}

/// One message of this class and method, with the attributes that `fill` writes.
///
/// # Panics
/// When it would be longer than a message can be.
pub fn write(
    class: Class,
    method: Method,
    transaction: TransactionId,
    fill: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_LEN + usize::from(u16::MAX)];
    let mut writer = MessageWriter::new(&mut buffer, class, method, transaction);
    fill(&mut writer);
    let length = writer.finish().expect("a test's message is not longer than messages can be");
    buffer.truncate(length);
    buffer.shrink_to_fit();
    buffer
}

/// A request.
pub fn request(
    method: Method,
    transaction: TransactionId,
    fill: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    write(Class::Request, method, transaction, fill)
}

/// A Send indication. RFC 8656 §11.1.
pub fn send_indication(transaction: TransactionId, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    write(Class::Indication, Method::SEND, transaction, |writer| {
        writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        writer.attribute(AttributeType::DATA, data);
    })
}

/// A ChannelData message, padded on a stream. RFC 8656 §12.5.
///
/// # Panics
/// When the data is longer than 65,535 bytes.
pub fn channel_data(transport: Transport, channel: ChannelNumber, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("ChannelData carries at most 65,535 bytes");
    let mut bytes = channel_data::header(channel, length).to_vec();
    bytes.extend_from_slice(data);
    if transport.is_stream() {
        bytes.resize(bytes.len() + channel_data::stream_padding(data.len()), 0);
    }
    bytes
}

/// A PROXY header of version 1 that names this client.
pub fn proxy_v1(client: SocketAddr) -> Vec<u8> {
    let (family, server) = if client.is_ipv4() { ("TCP4", "192.0.2.9") } else { ("TCP6", "2001:db8::9") };
    format!("PROXY {family} {} {server} {} 3478\r\n", client.ip(), client.port()).into_bytes()
}

/// A PROXY header of version 2 that names this client and has these TLVs behind.
///
/// # Panics
/// When it would be longer than a header can be.
pub fn proxy_v2(client: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let (family, ips) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [192, 0, 2, 9]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
    };
    let ports = [client.port().to_be_bytes(), 3_478_u16.to_be_bytes()].concat();
    proxy_v2_block(0x21, family, &[&ips[..], &ports, tlvs].concat())
}

/// A PROXY header of version 2 with this command and family, right or wrong.
///
/// # Panics
/// When the block is longer than 65,535 bytes.
pub fn proxy_v2_block(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a block's length fits").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
}
