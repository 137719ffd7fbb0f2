//! What must come out of a server, and whether it did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use stun::{
    AttributeType as A, Class, ErrorCode, Fingerprint, LongTermKey, Message, Method, address, channel_data,
};
use turn::{Action, Client, RelayId, Reply, Time};

use super::requests::is_signed_as;
use super::{Allocation, Model};

/// What must come of one input.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Nothing.
    Silence,
    /// Nothing, or 401.
    SilenceOrChallenge,
    /// An error response.
    Refused {
        /// With one of these codes.
        codes: BTreeSet<u16>,
        /// Protected with this key.
        key: Option<LongTermKey>,
        /// With these in UNKNOWN-ATTRIBUTES when it is 420.
        unknown: Vec<u16>,
    },
    /// A Binding response.
    Mapped {
        /// With this address.
        mapped: SocketAddr,
    },
    /// A new allocation.
    Allocated {
        /// On this address, any free port.
        ip: IpAddr,
        /// With this LIFETIME.
        lifetime_secs: u64,
        /// Ending then.
        expires_ms: u64,
        /// Made by this user.
        username: String,
        /// Protected with this key.
        key: LongTermKey,
    },
    /// The answer that was given before.
    AllocatedAgain {
        /// With this address.
        relayed: SocketAddr,
        /// And this LIFETIME.
        lifetime_secs: u64,
        /// Protected with this key.
        key: LongTermKey,
    },
    /// A Refresh response.
    Refreshed {
        /// With this LIFETIME.
        lifetime_secs: u64,
        /// Protected with this key.
        key: LongTermKey,
    },
    /// A success response that says nothing more.
    Done {
        /// Protected with this key.
        key: LongTermKey,
    },
    /// The data goes to a peer.
    ToPeer {
        /// From this socket.
        relay: RelayId,
        /// To this peer.
        peer: SocketAddr,
        /// All of it.
        data: Vec<u8>,
    },
    /// The data goes to a client.
    ToClient {
        /// To this one.
        client: Client,
        /// Said to come from this peer.
        peer: SocketAddr,
        /// Through this channel, or in a Data indication.
        channel: Option<u16>,
        /// All of it.
        data: Vec<u8>,
    },
}

/// The relayed address that a server has made for a new allocation, for the caller to find its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// What peers see.
    pub relayed: SocketAddr,
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Model {
    /// Compares what a server did with what it had to do. `input` is the packet it was given, `output` what it made of
    /// it, and `opened` the socket that it opened on the way.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(
        &mut self,
        now: Time,
        client: Option<Client>,
        expected: &Expected,
        (input, action, output): (&[u8], Action, &[u8]),
        opened: Option<RelayId>,
    ) -> Result<Option<Admitted>, String> {
        let result = match (expected, action) {
            (Expected::Silence | Expected::SilenceOrChallenge, Action::Drop(_)) => Ok(None),
            (Expected::ToPeer { relay, peer, data }, Action::ToPeer { relay: from, peer: to, .. }) => {
                ensure((*relay, *peer) == (from, to), "to another peer or from another socket")
                    .and_then(|()| ensure(data == output, "the data was changed"))
                    .map(|()| None)
            }
            (Expected::ToClient { client, peer, channel, data }, Action::ToClient(to)) => {
                ensure(*client == to, "to another client")
                    .and_then(|()| check_data(to, *peer, *channel, data, output))
                    .map(|()| None)
            }
            (_, Action::Reply(reply)) => client
                .ok_or("a peer got a reply".to_owned())
                .and_then(|client| self.check_reply(now, client, expected, (input, reply, output), opened)),
            _ => Err("something else happened".to_owned()),
        };
        result.map_err(|fault| format!("{fault}: expected {expected:?}, got {action:?}"))
    }

    fn check_reply(
        &mut self,
        now: Time,
        client: Client,
        expected: &Expected,
        (input, reply, output): (&[u8], Reply, &[u8]),
        opened: Option<RelayId>,
    ) -> Result<Option<Admitted>, String> {
        let request = Message::parse(input).map_err(|e| format!("answered what is no message ({e})"))?;
        let response = Message::parse(output).map_err(|e| format!("the response is no message ({e})"))?;
        let same = (request.method(), request.transaction()) == (response.method(), response.transaction());
        ensure(same, "the response is to another request")?;
        let marked = request.fingerprint() == Fingerprint::Verified;
        ensure(marked == (response.fingerprint() == Fingerprint::Verified), "FINGERPRINT")?;
        ensure(padding_is_zero(&response), "padding is not zero")?;
        if let Some(nonce) = response.attribute(A::NONCE) {
            self.learn_nonce(now, client, nonce);
        }
        if response.class() == Class::Error {
            return self.check_refusal(expected, reply, &response).map(|()| None);
        }
        ensure(response.class() == Class::Success, "the response is none")?;
        ensure(reply == Reply::Success(request.method()), "the action says otherwise than the response")?;
        let fields = Fields::of(&response);
        match expected {
            Expected::Mapped { mapped } if request.method() == Method::BINDING => {
                ensure(fields == Fields { mapped: Some(*mapped), ..Fields::default() }, "attributes")?;
                ensure(is_signed_as(&response, None), "integrity")?;
                Ok(None)
            }
            Expected::Allocated { lifetime_secs, key, .. }
            | Expected::AllocatedAgain { lifetime_secs, key, .. } => {
                ensure(is_signed_as(&response, Some(key)), "integrity")?;
                ensure(fields.mapped == Some(client.five_tuple.client), "XOR-MAPPED-ADDRESS")?;
                ensure(fields.lifetime_secs == Some(*lifetime_secs), "LIFETIME")?;
                let relayed = fields.relayed.ok_or("XOR-RELAYED-ADDRESS is missing")?;
                self.admit(client, expected, relayed, &request, opened)
            }
            Expected::Refreshed { lifetime_secs, key } => {
                let wanted = Fields { lifetime_secs: Some(*lifetime_secs), ..Fields::default() };
                ensure(is_signed_as(&response, Some(key)), "integrity")?;
                ensure(fields == wanted, "attributes")?;
                Ok(None)
            }
            Expected::Done { key } => {
                ensure(is_signed_as(&response, Some(key)), "integrity")?;
                ensure(fields == Fields::default(), "attributes")?;
                Ok(None)
            }
            _ => Err("it succeeded".to_owned()),
        }
    }

    fn check_refusal(&self, expected: &Expected, reply: Reply, response: &Message<'_>) -> Result<(), String> {
        let Reply::Refused(refusal) = reply else { return Err("the action says success".to_owned()) };
        let code = response.attribute(A::ERROR_CODE).and_then(ErrorCode::parse).map(|(code, _)| code);
        ensure(code == Some(refusal.code()), "the action says another code than the response")?;
        let code = refusal.code().code();
        let challenges = matches!(code, 401 | 438);
        let realm = response.attribute(A::REALM);
        ensure(realm.is_some() == challenges && realm.is_none_or(|realm| self.realm_is(realm)), "REALM")?;
        ensure(response.attribute(A::NONCE).is_some() == challenges, "NONCE")?;
        let listed = response.attribute(A::UNKNOWN_ATTRIBUTES).map(|list| {
            list.chunks(2).map(|kind| kind.iter().fold(0, |k, byte| k << 8 | u16::from(*byte))).collect()
        });
        match expected {
            Expected::SilenceOrChallenge => {
                ensure(code == 401 && is_signed_as(response, None), "code or integrity")
            }
            Expected::Refused { codes, key, unknown } => {
                ensure(codes.contains(&code), "another code")?;
                ensure(is_signed_as(response, key.as_ref()), "integrity")?;
                let unknown: Vec<u16> = unknown.iter().copied().take(32).collect();
                ensure(listed == (code == 420).then_some(unknown), "UNKNOWN-ATTRIBUTES")
            }
            _ => Err("it was refused".to_owned()),
        }
    }

    /// A new allocation is taken into the model's tables once it is seen to be right.
    fn admit(
        &mut self,
        client: Client,
        expected: &Expected,
        relayed: SocketAddr,
        request: &Message<'_>,
        opened: Option<RelayId>,
    ) -> Result<Option<Admitted>, String> {
        match expected {
            Expected::Allocated { ip, lifetime_secs, expires_ms, username, .. } => {
                ensure(relayed.ip() == *ip && self.rules.ports.contains(relayed.port()), "relayed address")?;
                ensure(!self.allocations.values().any(|held| held.relayed == relayed), "given twice")?;
                let relay = opened.ok_or("an allocation without a socket")?;
                let allocation = Allocation {
                    client,
                    relay,
                    relayed,
                    username: username.clone(),
                    expires_ms: *expires_ms,
                    permissions: BTreeMap::new(),
                    channels: BTreeMap::new(),
                    transaction: request.transaction(),
                    first_lifetime_secs: *lifetime_secs,
                    deleted: false,
                };
                let before = self.allocations.insert(relay, allocation);
                ensure(before.is_none(), "a socket for two allocations")?;
                Ok(Some(Admitted { relayed }))
            }
            Expected::AllocatedAgain { relayed: first, .. } => {
                ensure(relayed == *first && opened.is_none(), "another answer than the first")?;
                Ok(None)
            }
            _ => Err("an allocation".to_owned()),
        }
    }
}

/// What a success response says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    mapped: Option<SocketAddr>,
    relayed: Option<SocketAddr>,
    lifetime_secs: Option<u64>,
}

impl Fields {
    fn of(message: &Message<'_>) -> Self {
        let address = |kind| address::decode_xor(message.attribute(kind)?, message.transaction());
        let lifetime = message.attribute(A::LIFETIME).and_then(|value| value.try_into().ok());
        Self {
            mapped: address(A::XOR_MAPPED_ADDRESS),
            relayed: address(A::XOR_RELAYED_ADDRESS),
            lifetime_secs: lifetime.map(|value| u32::from_be_bytes(value).into()),
        }
    }
}

fn check_data(
    client: Client,
    peer: SocketAddr,
    channel: Option<u16>,
    data: &[u8],
    output: &[u8],
) -> Result<(), String> {
    if let Some(channel) = channel {
        let mut wanted = channel.to_be_bytes().to_vec();
        wanted.extend(u16::try_from(data.len()).map_err(|e| e.to_string())?.to_be_bytes());
        wanted.extend(data);
        if client.five_tuple.transport.is_stream() {
            wanted.resize(wanted.len() + channel_data::stream_padding(data.len()), 0);
        }
        return ensure(wanted == output, "ChannelData differs");
    }
    let message = Message::parse(output).map_err(|e| format!("the Data indication is no message ({e})"))?;
    let from = message.attribute(A::XOR_PEER_ADDRESS);
    let from = from.and_then(|value| address::decode_xor(value, message.transaction()));
    ensure((message.class(), message.method()) == (Class::Indication, Method::DATA), "no Data indication")?;
    ensure(from == Some(peer), "XOR-PEER-ADDRESS")?;
    ensure(message.attribute(A::DATA) == Some(data), "DATA")?;
    ensure(message.attributes().count() == 2 && padding_is_zero(&message), "padding or more attributes")
}

/// Nothing of the buffer's past leaves in the bytes between attributes.
fn padding_is_zero(message: &Message<'_>) -> bool {
    message.attributes().all(|attribute| {
        let end = attribute.offset + 4 + attribute.value.len();
        let padding = message.as_bytes().get(end..end.next_multiple_of(4)).unwrap_or_default();
        padding.iter().all(|byte| *byte == 0)
    })
}
