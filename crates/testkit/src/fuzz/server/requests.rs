//! Requests that get past authentication, or nearly.

use stun::{
    AttributeType, IntegrityAlgorithm, LongTermKey, Message, MessageWriter, Method, PasswordAlgorithm,
    TransactionId,
};

use super::super::bytes::Bytes;
use super::world::{PEERS, World, address};
use crate::message::{self, FAMILY_IPV6, REQUESTED_TCP, REQUESTED_UDP, Signature};

const METHODS: [Method; 12] = [
    Method::ALLOCATE,
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::CHANNEL_BIND,
    Method::BINDING,
    Method::CONNECT,
    Method::CONNECTION_BIND,
    Method::SEND,
    Method(0xFFF),
];

/// Bits of a request's first byte: what is not as usual.
const FINGERPRINT: u8 = 0x01;
const BARE: u8 = 0x02;
const DAMAGED: u8 = 0x04;
/// All of them: somebody else's password, realm or nonce.
const UNTRUE: u8 = 0x38;
/// Of a ticket's.
const STRANGER: u8 = 0x02;
const LIFETIME: u8 = 0x08;
const FAMILY: u8 = 0x10;
const SHA256: u8 = 0x40;
const TCP: u8 = 0x80;

/// A signed request of a client, with the attributes its method needs and whatever else.
pub(super) fn signed(world: &mut World, bytes: &mut Bytes<'_>) {
    let (client, account, method) = (world.client(bytes), world.account(bytes), bytes.pick(&METHODS));
    let flags = bytes.byte();
    let nonce = world.nonce(client);
    let mut signature = Signature::new(&account.username, &account.password, &world.realm, &nonce);
    if flags & UNTRUE == UNTRUE {
        spoil(&mut signature, bytes);
    }
    let token = world.token;
    let connection = if method == Method::CONNECTION_BIND { world.connection(bytes).0 } else { 0 };
    let mut packet = message::request(method, bytes.transaction(), |writer| {
        if flags & BARE == 0 {
            needed(method, (flags & TCP != 0, connection), writer, bytes);
        }
        for _ in 0..bytes.byte() % 4 {
            attribute(writer, token, bytes);
        }
        if flags & SHA256 == 0 {
            signature.sign(writer);
        } else {
            sign_sha256(&signature, account.password.as_bytes(), writer, bytes);
        }
        if flags & FINGERPRINT != 0 {
            writer.fingerprint();
        }
    });
    if flags & DAMAGED != 0 {
        let place = usize::from(bytes.u16()) % packet.len();
        packet.get_mut(place).into_iter().for_each(|byte| *byte = bytes.byte());
    }
    debug_assert!(flags & DAMAGED != 0 || Message::parse(&packet).is_ok());
    world.give(client, &packet);
}

/// A client comes with a ticket: the last one that was told, or an older one.
pub(super) fn travel(world: &mut World, bytes: &mut Bytes<'_>) {
    let (client, place, flags) = (world.client(bytes), usize::from(bytes.byte()), bytes.byte());
    let found = world.tickets.get(place % world.tickets.len().max(1)).cloned();
    let Some((mut ticket, owner)) = found else { return };
    let account = if flags & STRANGER == 0 { owner } else { None };
    let account = account.unwrap_or_else(|| world.account(bytes));
    let nonce = world.nonce(client);
    let signature = Signature::new(&account.username, &account.password, &world.realm, &nonce);
    if flags & DAMAGED != 0 {
        let place = usize::from(bytes.byte()) % ticket.len();
        ticket.get_mut(place).into_iter().for_each(|byte| *byte ^= 1 | bytes.byte());
    }
    // The answer may come late, and has to be known by its transaction: each ticket has its own.
    let mut transaction = [bytes.byte(); 12];
    transaction.iter_mut().zip(&ticket).for_each(|(to, byte)| *to ^= byte);
    let packet = message::request(Method::REFRESH, TransactionId::from_bytes(transaction), |writer| {
        if flags & LIFETIME != 0 {
            lifetime(writer, bytes);
        }
        if flags & FAMILY != 0 {
            writer.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[bytes.byte() % 4, 0, 0, 0]);
        }
        writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
        signature.sign(writer);
        if flags & FINGERPRINT != 0 {
            writer.fingerprint();
        }
    });
    world.give(client, &packet);
}

/// A client wants an allocation that it can take along.
pub(super) fn allocate_mobile(world: &mut World, bytes: &mut Bytes<'_>) {
    let (client, account, flags) = (world.client(bytes), world.account(bytes), bytes.byte());
    let nonce = world.nonce(client);
    let signature = Signature::new(&account.username, &account.password, &world.realm, &nonce);
    let packet = message::request(Method::ALLOCATE, bytes.transaction(), |writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &REQUESTED_UDP);
        writer.attribute(AttributeType::MOBILITY_TICKET, &[]);
        if flags & LIFETIME != 0 {
            lifetime(writer, bytes);
        }
        if flags & FAMILY != 0 {
            writer.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &FAMILY_IPV6);
        }
        signature.sign(writer);
    });
    world.give(client, &packet);
}

/// With a key and an integrity of SHA-256, or one of them.
fn sign_sha256(
    signature: &Signature,
    password: &[u8],
    writer: &mut MessageWriter<'_>,
    bytes: &mut Bytes<'_>,
) {
    let Signature { username, realm, nonce, .. } = signature;
    let algorithm = bytes.pick(&[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]);
    writer.attribute(AttributeType::USERNAME, username).attribute(AttributeType::REALM, realm);
    writer.attribute(AttributeType::NONCE, nonce);
    writer.attribute(AttributeType::PASSWORD_ALGORITHMS, &PasswordAlgorithm::OFFER);
    writer.attribute(AttributeType::PASSWORD_ALGORITHM, &algorithm.to_attribute());
    let key = LongTermKey::with_algorithm(algorithm, username, realm, password);
    writer.integrity_by(bytes.pick(&[IntegrityAlgorithm::Sha256, IntegrityAlgorithm::Sha1]), &key);
}

fn spoil(signature: &mut Signature, bytes: &mut Bytes<'_>) {
    match bytes.byte() % 4 {
        0 => signature.key = LongTermKey::new(&signature.username, &signature.realm, b"guessed"),
        1 => signature.realm = b"elsewhere".to_vec(),
        2 => signature.nonce = bytes.take(24).to_vec(),
        _ => signature.username = bytes.take(120).to_vec(),
    }
}

fn needed(
    method: Method,
    (relays_tcp, connection): (bool, u32),
    writer: &mut MessageWriter<'_>,
    bytes: &mut Bytes<'_>,
) {
    match method {
        Method::ALLOCATE => {
            let transport = if relays_tcp { REQUESTED_TCP } else { REQUESTED_UDP };
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &transport);
        }
        Method::CONNECTION_BIND => _ = writer.attribute_u32(AttributeType::CONNECTION_ID, connection),
        Method::REFRESH => lifetime(writer, bytes),
        Method::CREATE_PERMISSION | Method::CONNECT => peer(writer, bytes),
        Method::CHANNEL_BIND => {
            channel(writer, bytes);
            peer(writer, bytes);
        }
        _ => {}
    }
}

fn lifetime(writer: &mut MessageWriter<'_>, bytes: &mut Bytes<'_>) {
    let lifetime_secs = bytes.pick(&[0, 1, 600, 601, 3_600, 3_601, u32::MAX]);
    writer.attribute_u32(AttributeType::LIFETIME, lifetime_secs);
}

fn peer(writer: &mut MessageWriter<'_>, bytes: &mut Bytes<'_>) {
    writer.xor_address(AttributeType::XOR_PEER_ADDRESS, address(bytes.pick(&PEERS)));
}

fn channel(writer: &mut MessageWriter<'_>, bytes: &mut Bytes<'_>) {
    let number: u16 = bytes.pick(&[0x4000, 0x4001, 0x4002, 0x4003, 0x4FFF, 0x5000, 0x3FFF, 0]);
    let [high, low] = number.to_be_bytes();
    writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
}

/// One more attribute, mostly of the right form.
fn attribute(writer: &mut MessageWriter<'_>, token: [u8; 8], bytes: &mut Bytes<'_>) {
    use AttributeType as A;
    match bytes.byte() % 13 {
        0 => lifetime(writer, bytes),
        1 | 2 => peer(writer, bytes),
        3 => channel(writer, bytes),
        4 => _ = writer.attribute(A::REQUESTED_ADDRESS_FAMILY, &[bytes.byte() % 4, 0, 0, 0]),
        5 => _ = writer.attribute(A::ADDITIONAL_ADDRESS_FAMILY, &[bytes.byte() % 4, 0, 0, 0]),
        6 => _ = writer.attribute(A::EVEN_PORT, &[bytes.byte() & 0x80]),
        7 => _ = writer.attribute(A::RESERVATION_TOKEN, &token),
        8 => _ = writer.attribute(A::DONT_FRAGMENT, &[]),
        9 => _ = writer.attribute(A::REQUESTED_TRANSPORT, &[bytes.pick(&[17, 6, 1]), 0, 0, 0]),
        10 => _ = writer.attribute(A::DATA, bytes.take(5)),
        11 => {
            let length = bytes.byte() & 1;
            writer.attribute(A::MOBILITY_TICKET, bytes.take(length.into()));
        }
        _ => {
            let (kind, length) = (AttributeType(bytes.u16()), bytes.byte() % 24);
            writer.attribute(kind, bytes.take(length.into()));
        }
    }
}
