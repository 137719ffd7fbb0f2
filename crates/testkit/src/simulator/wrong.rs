//! Packets that are wrong in one way or several, and right ones out of turn.

use stun::{
    AttributeType as A, Class, IntegrityAlgorithm, LongTermKey, MessageWriter, Method, PasswordAlgorithm,
    TransactionId, address, channel_data,
};

use turn::ConnectionId;

use super::world::World;
use crate::message::{self, Signature};
use crate::model::{Account, Allocation};

const METHODS: [Method; 9] = [
    Method::CONNECT,
    Method::CONNECTION_BIND,
    Method::CONNECTION_BIND,
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::BINDING,
    Method::CONNECT,
];

/// An attribute that no RFC names, comprehension required, and one that may be skipped.
const UNKNOWN: A = A(0x7ABC);
const SKIPPED: A = A(0xC001);

impl World {
    /// Any packet that a station could send, but a well-behaved client would not.
    pub(super) fn wrong_packet(&mut self, station: usize) -> Result<Vec<u8>, String> {
        Ok(match self.dice.below(20) {
            ..9 => self.signed_somehow(station)?,
            9 => self.bare_request(),
            // What was sent before comes again, from here or from elsewhere.
            10..12 => self.sent_before(station),
            12 => {
                let other = self.dice.index(self.stations.len());
                self.sent_before(other)
            }
            13..15 => self.damaged(station),
            15 => self.indication(),
            16..18 => self.channel_data_somehow(),
            18 => self.server_message(),
            _ => {
                let length = self.dice.index(60);
                let mut bytes = self.dice.data(length);
                let first = self.dice.pick(&[0, 1, 3, 4, 0x3F, 0x40, 0x4F, 0x50, 0xFF]);
                bytes.iter_mut().take(1).for_each(|byte| *byte = first);
                bytes
            }
        })
    }

    /// Sends a right request in the name of an allocation's owner, past the network.
    pub(super) fn ask_as_owner(
        &mut self,
        allocation: &Allocation,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Result<(), String> {
        let station = self.stations.iter().position(|station| station.id == allocation.client);
        let found = self.lockstep.model.accounts().find(|a| a.username == allocation.username).cloned();
        let (Some(station), Some(account)) = (station, found) else { return Ok(()) };
        self.ask_as(station, &account, method, fill)
    }

    /// Sends a right request in the name of this account, past the network.
    pub(super) fn ask_as(
        &mut self,
        station: usize,
        account: &Account,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Result<(), String> {
        let packet = self.signed(station, account, method, fill)?;
        self.give(station, &packet)
    }

    /// A right request in the name of this account.
    pub(super) fn signed(
        &mut self,
        station: usize,
        account: &Account,
        method: Method,
        fill: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Result<Vec<u8>, String> {
        let signature = self.signature(station, account)?;
        let transaction = self.dice.transaction();
        Ok(message::request(method, transaction, |writer| {
            fill(writer);
            signature.sign(writer);
        }))
    }

    /// What this account signs with from this station: with a nonce that the server tells now.
    pub(super) fn signature(&mut self, station: usize, account: &Account) -> Result<Signature, String> {
        let transaction = self.dice.transaction();
        self.give(station, &message::request(Method::ALLOCATE, transaction, |_| {}))?;
        let nonce = self.nonces(station).pop().unwrap_or_default();
        let realm = self.scenario.config.realm.as_bytes();
        let signature = Signature::new(&account.username, &account.password, realm, &nonce);
        Ok(match self.dice.below(4) {
            0 => signature.choosing(PasswordAlgorithm::Sha256, &account.password, &PasswordAlgorithm::OFFER),
            1 => signature.choosing(PasswordAlgorithm::Md5, &account.password, &PasswordAlgorithm::OFFER),
            _ => signature,
        })
    }

    fn nonces(&self, station: usize) -> Vec<Vec<u8>> {
        let id = self.stations.get(station).map(|station| station.id.five_tuple);
        id.map(|five_tuple| self.lockstep.model.nonces_of(&five_tuple)).unwrap_or_default()
    }

    fn some_account(&mut self, station: usize) -> Account {
        let own = self.stations.get(station).map(|station| station.account.clone());
        let unix_ms = self.now().unix_ms;
        let model = &self.lockstep.model;
        let valid = |a: &&Account| unix_ms < a.expires_at * 1_000 && !model.is_refused(a);
        let pick_valid = self.dice.permille(800);
        let all: Vec<&Account> = model.accounts().filter(|a| !pick_valid || valid(a)).collect();
        let any = all.get(self.dice.index(all.len())).map(|account| (*account).clone());
        let chosen = if self.dice.permille(600) { own.clone() } else { any.or(own) };
        chosen.expect("every station has an account")
    }

    /// A request that is signed, rightly or not.
    fn signed_somehow(&mut self, station: usize) -> Result<Vec<u8>, String> {
        let account = self.some_account(station);
        let mut signature = self.signature(station, &account)?;
        let nonces = self.nonces(station);
        let other = self.dice.index(self.stations.len());
        let foreign = self.nonces(other);
        let mut leave_out = None;
        match self.dice.below(36) {
            0 => signature.key = LongTermKey::new(b"user", b"realm", b"wrong password"),
            1 => signature.username = b"nobody".to_vec(),
            2 => signature.username.push(b'0'),
            3 if !nonces.is_empty() => {
                signature.nonce.clone_from(nonces.get(self.dice.index(nonces.len())).unwrap_or(&vec![]));
            }
            4 if !foreign.is_empty() => {
                signature.nonce.clone_from(foreign.get(self.dice.index(foreign.len())).unwrap_or(&vec![]));
            }
            5 => {
                let place = self.dice.index(signature.nonce.len());
                signature.nonce.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1);
            }
            6 => {
                let Account { username, password, .. } = &account;
                signature = Signature::new(username, password, b"elsewhere", &signature.nonce);
            }
            7 => leave_out = Some(self.dice.pick(&[A::USERNAME, A::REALM, A::NONCE])),
            8 => signature.nonce.clear(),
            9 => drop(signature.nonce.drain(..signature.nonce.len().min(13))),
            10 => signature.offered = None,
            11 => signature.chosen = None,
            12 => signature.offered = Some(self.dice.pick(&[[0, 1, 0, 0], [0, 2, 0, 0]]).to_vec()),
            13 => signature.chosen = Some(vec![0, self.dice.pick(&[1, 2, 3]), 0, 0]),
            14 => {
                signature.integrity = self.dice.pick(&[IntegrityAlgorithm::Sha1, IntegrityAlgorithm::Sha256]);
            }
            _ => {}
        }
        let method = self.dice.pick(&METHODS);
        let odd = self.dice.permille(350);
        let late = self.dice.permille(50);
        let transaction = self.dice.transaction();
        let mark = self.dice.below(20);
        let mut attributes = self.attributes(method, transaction, odd);
        let behind = self.attributes(method, transaction, true);
        if self.dice.permille(30) {
            attributes.push((A::MESSAGE_INTEGRITY_SHA256, vec![7; 32]));
        }
        Ok(message::request(method, transaction, |writer| {
            put(writer, &attributes);
            for (kind, value) in [
                (A::USERNAME, &signature.username),
                (A::REALM, &signature.realm),
                (A::NONCE, &signature.nonce),
            ] {
                if leave_out != Some(kind) {
                    writer.attribute(kind, value);
                }
            }
            for (kind, value) in
                [(A::PASSWORD_ALGORITHMS, &signature.offered), (A::PASSWORD_ALGORITHM, &signature.chosen)]
            {
                if let Some(value) = value {
                    writer.attribute(kind, value);
                }
            }
            writer.integrity_by(signature.integrity, &signature.key);
            if late {
                // RFC 8489 §14.5: what follows the integrity does not count.
                put(writer, &behind);
            }
            mark_somehow(writer, mark);
        }))
    }

    /// What a request of this method asks for, with something odd in it or not.
    fn attributes(&mut self, method: Method, transaction: TransactionId, odd: bool) -> Vec<(A, Vec<u8>)> {
        let mut list: Vec<(A, Vec<u8>)> = Vec::new();
        let four = |number: u32| number.to_be_bytes().to_vec();
        match method {
            Method::ALLOCATE => {
                let transports = [message::REQUESTED_UDP, message::REQUESTED_UDP, message::REQUESTED_TCP];
                list.push((A::REQUESTED_TRANSPORT, self.dice.pick(&transports).to_vec()));
                match self.dice.below(10) {
                    ..3 => {}
                    3 => list.push((A::REQUESTED_ADDRESS_FAMILY, message::FAMILY_IPV4.to_vec())),
                    4 => list.push((A::REQUESTED_ADDRESS_FAMILY, message::FAMILY_IPV6.to_vec())),
                    5 => list.push((A::EVEN_PORT, message::EVEN.to_vec())),
                    6..8 => list.push((A::EVEN_PORT, message::EVEN_AND_NEXT.to_vec())),
                    _ => list.push((A::ADDITIONAL_ADDRESS_FAMILY, message::FAMILY_IPV6.to_vec())),
                }
                if self.dice.permille(400) {
                    list.push((A::MOBILITY_TICKET, vec![]));
                }
            }
            Method::REFRESH => {
                let lifetime = self.some_lifetime();
                list.push((A::LIFETIME, four(lifetime)));
                let family = self.dice.pick(&[None, Some(message::FAMILY_IPV4), Some(message::FAMILY_IPV6)]);
                list.extend(family.map(|family| (A::REQUESTED_ADDRESS_FAMILY, family.to_vec())));
            }
            Method::BINDING => self.discovery_attributes(&mut list),
            Method::CHANNEL_BIND => {
                list.push((A::CHANNEL_NUMBER, self.some_channel().to_attribute().to_vec()));
            }
            Method::CONNECTION_BIND => {
                let connection = self.some_connection();
                list.push((A::CONNECTION_ID, connection.0.to_be_bytes().to_vec()));
            }
            _ => {}
        }
        let peers = match method {
            Method::CREATE_PERMISSION => 1 + self.dice.below(3),
            Method::CHANNEL_BIND | Method::CONNECT => 1,
            _ => 0,
        };
        for _ in 0..peers {
            let peer = address::encode_xor(self.some_peer(), transaction);
            list.push((A::XOR_PEER_ADDRESS, peer.as_bytes().to_vec()));
        }
        if odd {
            // In front it is the one that counts.
            let place = if self.dice.permille(700) { 0 } else { self.dice.index(list.len() + 1) };
            list.insert(place, self.odd_attribute());
            if self.dice.permille(300) {
                list.pop();
            }
        }
        list
    }

    /// What a Binding asks of NAT behaviour discovery, rightly or not.
    fn discovery_attributes(&mut self, list: &mut Vec<(A, Vec<u8>)>) {
        let length = self.dice.index(9);
        let flags = self.dice.pick(&[0, 2, 2, 4, 4, 6, 6, 0xFF]);
        let port: u16 = self.dice.pick(&[0, 1, 4_000, 4_001]);
        match self.dice.below(10) {
            ..4 => list.push((A::CHANGE_REQUEST, vec![0, 0, 0, flags])),
            4 => list.push((A::CHANGE_REQUEST, self.dice.data(length))),
            5 => list.push((A::RESPONSE_PORT, self.dice.data(length))),
            6 => list.push((A::RESPONSE_PORT, port.to_be_bytes().to_vec())),
            _ => {}
        }
        match self.dice.below(10) {
            0 => list.push((A::PADDING, self.dice.data(length))),
            1 => list.push((A::PADDING, vec![7; self.dice.pick(&[1_499, 1_500, 1_501, 4_000])])),
            2 => list.push((A::RESPONSE_PORT, [port.to_be_bytes(), [0, 0]].concat())),
            _ => {}
        }
    }

    fn odd_attribute(&mut self) -> (A, Vec<u8>) {
        let four = |number: u32| number.to_be_bytes().to_vec();
        let channel = self.dice.pick(&[0x3FFF_0000, 0x4000_0000, 0x4FFF_0000, 0x5000_0000, 0xFFFF_0000]);
        let length = self.dice.index(9);
        match self.dice.below(31) {
            30 => (A::MOBILITY_TICKET, self.some_ticket().unwrap_or_default().0),
            26 => (A::CONNECTION_ID, self.dice.data(length)),
            27 => (A::CONNECTION_ID, self.some_connection().0.to_be_bytes().to_vec()),
            16 => (A::EVEN_PORT, vec![self.dice.pick(&[0, 0x7F, 0x80, 0xFF])]),
            17 => (A::EVEN_PORT, self.dice.data(length)),
            18 => (A::RESERVATION_TOKEN, self.some_token()),
            19 => (A::RESERVATION_TOKEN, self.dice.data(length)),
            20 => (A::ADDITIONAL_ADDRESS_FAMILY, vec![self.dice.pick(&[0, 1, 2, 2, 3]), 0, 0, 0]),
            21 => (A::ADDITIONAL_ADDRESS_FAMILY, self.dice.data(length)),
            0 => (UNKNOWN, vec![1, 2, 3]),
            1 => (SKIPPED, vec![1, 2, 3]),
            2 | 12 | 13 | 22..26 => {
                (A::REQUESTED_TRANSPORT, vec![self.dice.pick(&[0, 6, 99, 99, 99]), 0, 0, 0])
            }
            3 => (A::REQUESTED_ADDRESS_FAMILY, vec![self.dice.pick(&[0, 1, 2, 3]), 0, 0, 0]),
            4 | 14 | 15 => (A::CHANNEL_NUMBER, four(channel)),
            5 => (A::LIFETIME, four(self.some_lifetime())),
            6 => (A::LIFETIME, self.dice.data(length)),
            7 => (A::REQUESTED_TRANSPORT, self.dice.data(length)),
            8 => (A::XOR_PEER_ADDRESS, self.dice.data(length)),
            9 => (A::USERHASH, vec![7; 32]),
            10 => (A::DONT_FRAGMENT, vec![]),
            // With this, no shared secret is tried for the request, or only just.
            28 | 29 => (SKIPPED, vec![0; 1_800 + self.dice.index(300)]),
            _ => (A::CHANNEL_NUMBER, self.dice.data(length)),
        }
    }

    /// A token that names a reservation, if there is one.
    fn some_token(&mut self) -> Vec<u8> {
        let tokens: Vec<Vec<u8>> =
            self.lockstep.model.reservations().map(|(token, _)| token.clone()).collect();
        tokens.get(self.dice.index(tokens.len())).cloned().unwrap_or_else(|| vec![7; 8])
    }

    /// A connection that there is, or that there is not.
    pub(super) fn some_connection(&mut self) -> ConnectionId {
        let all: Vec<ConnectionId> = self.lockstep.model.links().map(|link| link.connection).collect();
        match all.get(self.dice.index(all.len())) {
            Some(connection) if self.dice.permille(850) => *connection,
            _ => ConnectionId(self.dice.pick(&[0, 1, 0x0100_0000, u32::MAX])),
        }
    }

    /// A request without integrity.
    fn bare_request(&mut self) -> Vec<u8> {
        let method = self.dice.pick(&METHODS);
        let odd = self.dice.permille(200);
        let transaction = self.dice.transaction();
        let attributes = self.attributes(method, transaction, odd);
        let mark = self.dice.below(20);
        message::request(method, transaction, |writer| {
            put(writer, &attributes);
            mark_somehow(writer, mark);
        })
    }

    fn sent_before(&mut self, station: usize) -> Vec<u8> {
        let sent = self.stations.get(station).map(|station| station.sent.clone()).unwrap_or_default();
        sent.get(self.dice.index(sent.len())).cloned().unwrap_or_default()
    }

    /// A packet with a few bytes changed, cut off or too many.
    fn damaged(&mut self, station: usize) -> Vec<u8> {
        let mut bytes = self.sent_before(station);
        for _ in 0..=self.dice.below(3) {
            let place = self.dice.index(bytes.len());
            match self.dice.below(6) {
                0 => bytes.truncate(place),
                1 => bytes.push(0),
                2 => bytes.extend([0; 4]),
                _ => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << (place % 8)),
            }
        }
        bytes
    }

    /// A Send indication, not always with all it needs.
    fn indication(&mut self) -> Vec<u8> {
        let (peer, data) = (self.some_peer(), self.payload());
        let data = data.get(..data.len().min(1_200)).unwrap_or_default().to_vec();
        let what = self.dice.below(8);
        let mark = self.dice.below(12);
        let transaction = self.dice.transaction();
        message::write(Class::Indication, Method::SEND, transaction, |writer| {
            match what {
                0 => drop(writer.attribute(A::DATA, &data).fingerprint()),
                1 => drop(writer.xor_address(A::XOR_PEER_ADDRESS, peer).fingerprint()),
                2 => drop(writer.attribute(UNKNOWN, b"?").xor_address(A::XOR_PEER_ADDRESS, peer)),
                3 => drop(writer.attribute(A::XOR_PEER_ADDRESS, b"malformed")),
                4 => drop(writer.attribute(A::DONT_FRAGMENT, b"")),
                _ => drop(writer.attribute(SKIPPED, b"!")),
            }
            if what > 1 {
                writer.xor_address(A::XOR_PEER_ADDRESS, peer).attribute(A::DATA, &data);
                mark_somehow(writer, mark);
            }
        })
    }

    fn channel_data_somehow(&mut self) -> Vec<u8> {
        let channel = self.some_channel();
        let length = self.dice.index(20);
        let data = self.dice.data(length);
        let claimed = match self.dice.below(8) {
            0 => 0xFFFF,
            1 => length + 1,
            2 => length / 2,
            _ => length,
        };
        let mut bytes = channel_data::header(channel, u16::try_from(claimed).unwrap_or(u16::MAX)).to_vec();
        bytes.extend_from_slice(&data);
        if self.dice.permille(100) {
            bytes.truncate(self.dice.index(4));
        }
        bytes
    }

    /// What only servers send.
    fn server_message(&mut self) -> Vec<u8> {
        let class = self.dice.pick(&[Class::Success, Class::Error, Class::Indication]);
        let method = self.dice.pick(&[Method::DATA, Method::ALLOCATE, Method::BINDING, Method(0x7FF)]);
        let (peer, transaction) = (self.some_peer(), self.dice.transaction());
        message::write(class, method, transaction, |writer| {
            writer.xor_address(A::XOR_PEER_ADDRESS, peer).attribute(A::DATA, b"data");
        })
    }
}

fn put(writer: &mut MessageWriter<'_>, attributes: &[(A, Vec<u8>)]) {
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
}

/// Ends a message with a FINGERPRINT, with a wrong one, or with none.
fn mark_somehow(writer: &mut MessageWriter<'_>, mark: u64) {
    match mark {
        0 => drop(writer.attribute(A::FINGERPRINT, &[1, 2, 3, 4])),
        1..4 => drop(writer.fingerprint()),
        _ => {}
    }
}
