//! Messages as the checks write them, right and wrong, and responses as they read them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;

use stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, Fingerprint, HEADER_LEN, Integrity, Kind, LongTermKey,
    Message, MessageWriter, Method, TransactionId, address, channel_data,
};

use crate::outcome::{Outcome, Verdict, ensure, fail};

/// REQUESTED-TRANSPORT: UDP.
pub(crate) const UDP: [u8; 4] = [17, 0, 0, 0];
/// REQUESTED-TRANSPORT: TCP.
pub(crate) const TCP: [u8; 4] = [6, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY: IPv4.
pub(crate) const IPV4: [u8; 4] = [1, 0, 0, 0];
/// REQUESTED-ADDRESS-FAMILY: IPv6.
pub(crate) const IPV6: [u8; 4] = [2, 0, 0, 0];
/// A comprehension-required type that nobody has assigned.
pub(crate) const UNKNOWN_REQUIRED: AttributeType = AttributeType(0x7FF1);
/// A comprehension-optional type that nobody has assigned.
pub(crate) const UNKNOWN_OPTIONAL: AttributeType = AttributeType(0xFFF1);

/// Ninety-six bits nobody used before.
pub(crate) fn transaction() -> TransactionId {
    let random = || RandomState::new().build_hasher().finish().to_be_bytes();
    let mut id = [0; 12];
    id.iter_mut().zip(random().into_iter().chain(random())).for_each(|(to, from)| *to = from);
    TransactionId::from_bytes(id)
}

/// What a request proves who sent it with.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    pub(crate) username: Vec<u8>,
    pub(crate) password: Vec<u8>,
    pub(crate) realm: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
}

impl Signature {
    pub(crate) fn key(&self) -> LongTermKey {
        LongTermKey::new(&self.username, &self.realm, &self.password)
    }
}

/// A request or an indication in the making.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) class: Class,
    pub(crate) method: Method,
    pub(crate) transaction: TransactionId,
    pub(crate) attributes: Vec<(AttributeType, Vec<u8>)>,
}

impl Request {
    pub(crate) fn new(method: Method) -> Self {
        Self { class: Class::Request, method, transaction: transaction(), attributes: Vec::new() }
    }

    pub(crate) fn of_class(class: Class, method: Method) -> Self {
        Self { class, ..Self::new(method) }
    }

    /// An Allocate for a UDP relay.
    pub(crate) fn allocate() -> Self {
        Self::new(Method::ALLOCATE).with(AttributeType::REQUESTED_TRANSPORT, UDP)
    }

    /// A Refresh that asks for this many seconds.
    pub(crate) fn refresh(lifetime_secs: u32) -> Self {
        Self::new(Method::REFRESH).lifetime(lifetime_secs)
    }

    /// A CreatePermission for these peers.
    pub(crate) fn permission(peers: &[SocketAddr]) -> Self {
        peers.iter().fold(Self::new(Method::CREATE_PERMISSION), |request, peer| request.peer(*peer))
    }

    /// A ChannelBind.
    pub(crate) fn channel_bind(number: u16, peer: SocketAddr) -> Self {
        Self::new(Method::CHANNEL_BIND).channel(number).peer(peer)
    }

    /// A Send indication.
    pub(crate) fn send(peer: SocketAddr, data: &[u8]) -> Self {
        Self::of_class(Class::Indication, Method::SEND).peer(peer).with(AttributeType::DATA, data)
    }

    pub(crate) fn with(mut self, kind: AttributeType, value: impl AsRef<[u8]>) -> Self {
        self.attributes.push((kind, value.as_ref().to_vec()));
        self
    }

    pub(crate) fn peer(self, peer: SocketAddr) -> Self {
        let value = address::encode_xor(peer, self.transaction);
        self.with(AttributeType::XOR_PEER_ADDRESS, value.as_bytes())
    }

    pub(crate) fn lifetime(self, secs: u32) -> Self {
        self.with(AttributeType::LIFETIME, secs.to_be_bytes())
    }

    pub(crate) fn channel(self, number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        self.with(AttributeType::CHANNEL_NUMBER, [high, low, 0, 0])
    }

    /// USERNAME, REALM and NONCE.
    pub(crate) fn identity(self, signature: &Signature) -> Self {
        self.with(AttributeType::USERNAME, &signature.username)
            .with(AttributeType::REALM, &signature.realm)
            .with(AttributeType::NONCE, &signature.nonce)
    }

    /// The bytes, with whatever `finish` adds behind the attributes.
    pub(crate) fn bytes_then(&self, finish: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = vec![0; HEADER_LEN + usize::from(u16::MAX)];
        let mut writer = MessageWriter::new(&mut buffer, self.class, self.method, self.transaction);
        for (kind, value) in &self.attributes {
            writer.attribute(*kind, value);
        }
        finish(&mut writer);
        let length = writer.finish().expect("no check writes more than a message can hold");
        buffer.truncate(length);
        buffer
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_then(|_| {})
    }

    /// The bytes with MESSAGE-INTEGRITY, and nothing else that authentication needs.
    pub(crate) fn sealed(&self, key: &LongTermKey) -> Vec<u8> {
        self.bytes_then(|writer| {
            writer.integrity(key);
        })
    }

    /// The bytes with all that long-term credentials need.
    pub(crate) fn signed(&self, signature: &Signature) -> Vec<u8> {
        self.clone().identity(signature).sealed(&signature.key())
    }

    /// The same, and `finish` adds something behind MESSAGE-INTEGRITY.
    pub(crate) fn signed_then(
        &self,
        signature: &Signature,
        finish: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        self.clone().identity(signature).bytes_then(|writer| {
            writer.integrity(&signature.key());
            finish(writer);
        })
    }
}

/// A ChannelData message; `padded` for streams.
pub(crate) fn channel_data_bytes(number: u16, data: &[u8], padded: bool) -> Vec<u8> {
    let [c0, c1] = number.to_be_bytes();
    let [l0, l1] = u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = vec![c0, c1, l0, l1];
    bytes.extend_from_slice(data);
    if padded {
        bytes.resize(bytes.len() + channel_data::stream_padding(data.len()), 0);
    }
    bytes
}

/// Writes over a message's own length field.
pub(crate) fn set_length(bytes: &mut [u8], length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    bytes.iter_mut().skip(2).zip(length).for_each(|(to, from)| *to = from);
}

/// What a frame is, in words.
pub(crate) fn describe(frame: &[u8]) -> String {
    match (Kind::of(frame), Message::parse(frame), channel_data::parse(frame)) {
        (Kind::Stun, Ok(message), _) => match error_of(&message) {
            Some((code, reason)) => {
                // Some servers pad the phrase with zeroes.
                let reason = reason.trim_end_matches(|c: char| c.is_control() || c == ' ');
                format!("{:?} error {} {reason}", message.method(), code.code()).trim_end().to_owned()
            }
            None => match message.class() {
                Class::Success => format!("{:?} success", message.method()),
                Class::Error => format!("{:?} error without ERROR-CODE", message.method()),
                Class::Indication => format!("{:?} indication", message.method()),
                Class::Request => format!("{:?} request", message.method()),
            },
        },
        (Kind::ChannelData, _, Some((number, length))) => {
            format!("ChannelData on {number:?} with {length} bytes")
        }
        _ => {
            let front: Vec<String> = frame.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
            format!("{} bytes that are neither STUN nor ChannelData ({} …)", frame.len(), front.join(" "))
        }
    }
}

fn error_of<'m>(message: &Message<'m>) -> Option<(ErrorCode, &'m str)> {
    ErrorCode::parse(message.attribute(AttributeType::ERROR_CODE)?)
}

/// A response whose structure is right and whose transaction id is the request's.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, Verdict> {
        match Message::parse(&bytes) {
            Ok(_) => Ok(Self { bytes }),
            Err(error) => fail(format!("the server sent a broken message: {error}")),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("it was parsed when it came")
    }

    pub(crate) fn attribute(&self, kind: AttributeType) -> Option<&[u8]> {
        self.message().attribute(kind)
    }

    pub(crate) fn has(&self, kind: AttributeType) -> bool {
        self.attribute(kind).is_some()
    }

    pub(crate) fn code(&self) -> Option<u16> {
        let message = self.message();
        if message.class() == Class::Error { error_of(&message).map(|(code, _)| code.code()) } else { None }
    }

    pub(crate) fn reason(&self) -> String {
        error_of(&self.message()).map(|(_, reason)| reason.to_owned()).unwrap_or_default()
    }

    pub(crate) fn address(&self, kind: AttributeType) -> Option<SocketAddr> {
        let message = self.message();
        address::decode_xor(message.attribute(kind)?, message.transaction())
    }

    /// Every address of this type, in order.
    pub(crate) fn addresses(&self, kind: AttributeType) -> Vec<SocketAddr> {
        let message = self.message();
        let values = message.attributes().filter(|attribute| attribute.kind == kind);
        values.filter_map(|a| address::decode_xor(a.value, message.transaction())).collect()
    }

    pub(crate) fn number(&self, kind: AttributeType) -> Option<u32> {
        self.attribute(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn lifetime(&self) -> Result<u32, Verdict> {
        match self.number(AttributeType::LIFETIME) {
            Some(secs) => Ok(secs),
            None => fail(format!("expected LIFETIME in the response, got {self} without it")),
        }
    }

    /// Whether MESSAGE-INTEGRITY is there and made with this key.
    pub(crate) fn is_sealed_with(&self, key: &LongTermKey) -> bool {
        self.message().integrity(key) == Integrity::Verified
    }

    pub(crate) fn has_right_fingerprint(&self) -> bool {
        self.message().fingerprint() == Fingerprint::Verified
    }

    pub(crate) fn success(&self, to: &str) -> Outcome {
        let is = self.message().class() == Class::Success;
        ensure(is, format!("{to}: expected success, got {self}"))
    }

    pub(crate) fn refused(&self, to: &str, codes: &[u16]) -> Outcome {
        let wanted: Vec<String> = codes.iter().map(u16::to_string).collect();
        let is = self.code().is_some_and(|code| codes.contains(&code));
        ensure(is, format!("{to}: expected error {}, got {self}", wanted.join(" or ")))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&describe(&self.bytes))
    }
}

/// The channel and data of a ChannelData message.
pub(crate) fn read_channel_data(frame: &[u8]) -> Option<(ChannelNumber, &[u8])> {
    let (number, length) = channel_data::parse(frame)?;
    Some((number, frame.get(channel_data::HEADER_LEN..)?.get(..length)?))
}

/// The peer and data of a Data indication.
pub(crate) fn read_data(frame: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let message = Message::parse(frame).ok()?;
    if (message.class(), message.method()) != (Class::Indication, Method::DATA) {
        return None;
    }
    let peer = message.attribute(AttributeType::XOR_PEER_ADDRESS)?;
    Some((address::decode_xor(peer, message.transaction())?, message.attribute(AttributeType::DATA)?))
}
