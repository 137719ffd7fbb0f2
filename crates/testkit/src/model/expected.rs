//! What must come out of a server, and whether it did.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use stun::{
    AttributeType as A, Class, ErrorCode, Fingerprint, IntegrityAlgorithm, Message, Method, address,
    channel_data,
};
use turn::{Action, Client, ConnectionId, FiveTuple, Icmp, RelayId, Reply, Time, WorkerId};

use super::requests::is_signed_as;
use super::tcp::Answer;
use super::{Claim, Discovered, Model, Ports, Proof, Told};

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
        /// Protected like this.
        proof: Option<Proof>,
        /// With these in UNKNOWN-ATTRIBUTES when it is 420.
        unknown: Vec<u16>,
    },
    /// A Binding response.
    Mapped {
        /// With this address.
        mapped: SocketAddr,
        /// Where discovery is offered, with this too.
        discovered: Option<Discovered>,
    },
    /// A new allocation.
    Allocated {
        /// This one.
        new: NewAllocation,
        /// Protected like this.
        proof: Proof,
    },
    /// The answer that was given before.
    AllocatedAgain {
        /// What it said.
        told: Told,
        /// Protected like this.
        proof: Proof,
    },
    /// A Refresh response.
    Refreshed {
        /// To one that deletes one of two families.
        one_family: bool,
        /// With this LIFETIME.
        lifetime_secs: u64,
        /// Protected like this.
        proof: Proof,
    },
    /// A Refresh response with a new ticket.
    Moved {
        /// For this allocation.
        allocation: u64,
        /// That had waited for its client.
        waited: bool,
        /// With this LIFETIME.
        lifetime_secs: u64,
        /// Protected like this.
        proof: Proof,
    },
    /// The same as before.
    MovedAgain {
        /// With this LIFETIME.
        lifetime_secs: u64,
        /// And this ticket.
        ticket: Vec<u8>,
        /// Protected like this.
        proof: Proof,
    },
    /// Nothing yet: another worker has to be asked.
    Asked {
        /// About this.
        claim: Box<Claim>,
    },
    /// A success response that says nothing more.
    Done {
        /// Protected like this.
        proof: Proof,
    },
    /// Nothing yet: a connection to a peer.
    Connect {
        /// From this socket.
        relay: RelayId,
        /// To this peer.
        peer: SocketAddr,
        /// Which is reached there.
        to: SocketAddr,
        /// What it is answered then.
        answer: Answer,
    },
    /// The answer to a Connect, once more.
    Connected {
        /// With this CONNECTION-ID.
        connection: ConnectionId,
        /// Protected like this.
        proof: Proof,
    },
    /// The client's connection becomes a data connection.
    Bound {
        /// Of this one.
        connection: ConnectionId,
        /// Protected like this.
        proof: Proof,
    },
    /// Another worker's.
    HandOver {
        /// That one.
        worker: WorkerId,
    },
    /// The data goes to a peer.
    ToPeer {
        /// From this socket.
        relay: RelayId,
        /// To this peer.
        peer: SocketAddr,
        /// With the DF bit.
        dont_fragment: bool,
        /// All of it.
        data: Vec<u8>,
    },
    /// The data goes to another allocation of this server, without a way through the network.
    ToRelay {
        /// To this socket's allocation.
        relay: RelayId,
        /// From this relayed address.
        from: SocketAddr,
        /// All of it.
        data: Vec<u8>,
    },
    /// A client is told that a datagram did not arrive.
    Undelivered {
        /// This one.
        client: Client,
        /// At this peer.
        peer: SocketAddr,
        /// For this reason.
        icmp: Icmp,
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

impl Expected {
    /// The rarer features that this is an example of.
    pub fn features(&self) -> Vec<&'static str> {
        let named = |features: &[(bool, &'static str)]| {
            features.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect()
        };
        match self {
            Self::Allocated { new, proof } => named(&[
                (new.ips.len() == 2, "dual"),
                (new.failed.is_some(), "half_a_dual"),
                (new.ports == Some(Ports::Even), "even_port"),
                (new.ports == Some(Ports::Pair), "reserved"),
                (new.port.is_some(), "claimed"),
                (proof.integrity == IntegrityAlgorithm::Sha256, "sha256"),
                (new.username.contains(':'), "time_limited"),
                (new.tcp, "tcp"),
                (new.tcp && new.ips.len() == 2, "dual_tcp"),
                (new.mobile, "mobile"),
            ]),
            Self::Connected { .. } => vec!["connected_again"],
            Self::HandOver { .. } => vec!["handed_over"],
            Self::AllocatedAgain { told, .. } => named(&[(told.token.is_some(), "token_again")]),
            Self::Refreshed { one_family: true, .. } => vec!["one_family_deleted"],
            Self::Undelivered { icmp, .. } => named(&[(true, "icmp"), (icmp.data > 0, "too_big")]),
            Self::Moved { waited, .. } => named(&[(true, "moved"), (*waited, "waited")]),
            Self::MovedAgain { .. } => vec!["moved_again"],
            Self::Asked { .. } => vec!["asked"],
            Self::ToPeer { dont_fragment: true, .. } => vec!["dont_fragment"],
            Self::ToRelay { .. } => vec!["relay_to_relay"],
            Self::Mapped { mapped, discovered: Some(discovered) } => named(&[
                (discovered.origin.ip() == discovered.other.ip(), "change_ip"),
                (discovered.origin.port() == discovered.other.port(), "change_port"),
                (discovered.to != *mapped, "response_port"),
                (discovered.padding.is_some(), "padding"),
            ]),
            _ => vec![],
        }
    }
}

/// An allocation that is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewAllocation {
    /// On these addresses.
    pub ips: Vec<IpAddr>,
    /// Of TCP connections, not of datagrams.
    pub tcp: bool,
    /// On such ports; `None`: on this one.
    pub ports: Option<Ports>,
    /// The port that was reserved.
    pub port: Option<u16>,
    /// The family that could not be had, and why.
    pub failed: Option<(u8, u16)>,
    /// With this LIFETIME.
    pub lifetime_secs: u64,
    /// Ending then.
    pub expires_ms: u64,
    /// Made by this user.
    pub username: String,
    /// Told a ticket.
    pub mobile: bool,
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Model {
    /// Compares what a server did with what it had to do. `input` is the packet it was given, `output` what it made of
    /// it, and `opened` the sockets that it opened on the way. Says
    /// whether there is a new allocation.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(
        &mut self,
        now: Time,
        client: Option<Client>,
        expected: &Expected,
        (input, action, output): (&[u8], Action, &[u8]),
        opened: &[RelayId],
    ) -> Result<bool, String> {
        if let (Some(client), Action::Reply(_) | Action::ReplyElsewhere(..)) = (client, action) {
            self.answered(now, client, expected);
        }
        let result = match (expected, action) {
            (Expected::Silence | Expected::SilenceOrChallenge, Action::Drop(_))
            | (Expected::Asked { .. }, Action::Later) => Ok(false),
            (
                Expected::ToPeer { relay, peer, dont_fragment, data },
                Action::ToPeer { relay: from, peer: to, dont_fragment: df },
            ) => ensure(
                (*relay, *peer, *dont_fragment) == (from, to, df),
                "to another peer or from another socket",
            )
            .and_then(|()| ensure(data == output, "the data was changed"))
            .map(|()| false),
            (Expected::ToRelay { relay, from, data }, Action::ToRelay { relay: to, from: source }) => {
                ensure((*relay, *from) == (to, source), "to another relayed address or from another one")
                    .and_then(|()| ensure(data == output, "the data was changed"))
                    .map(|()| false)
            }
            (Expected::ToClient { client, peer, channel, data }, Action::ToClient(to)) => {
                ensure(*client == to, "to another client")
                    .and_then(|()| check_data(to, *peer, *channel, data, output))
                    .map(|()| false)
            }
            (Expected::Undelivered { client, peer, icmp }, Action::ToClient(to)) => {
                ensure(*client == to, "to another client")
                    .and_then(|()| check_undelivered(*peer, *icmp, output))
                    .map(|()| false)
            }
            (
                Expected::Connect { relay, peer, to, answer },
                Action::Connect { connection, relay: from, peer: at },
            ) => ensure((*relay, *to) == (from, at), "to another peer or from another socket")
                .and_then(|()| ensure(input == output, "the request was changed"))
                .and_then(|()| self.connecting(now, connection, (*relay, *peer), answer))
                .map(|()| false),
            (Expected::HandOver { worker }, Action::HandOver(to)) => {
                ensure((*worker, input) == (to, output), "to another worker, or changed").map(|()| false)
            }
            (Expected::Bound { connection, .. }, Action::Bind(bound)) => {
                let reply = Reply::Success(Method::CONNECTION_BIND);
                ensure(*connection == bound, "another connection")
                    .and_then(|()| client.ok_or("a peer got a reply".to_owned()))
                    .and_then(|client| {
                        self.check_reply(now, client, expected, (input, reply, output), opened)
                    })
            }
            (Expected::Bound { .. }, Action::Reply(Reply::Success(_))) => Err("a mere reply".to_owned()),
            (_, Action::Reply(reply) | Action::ReplyElsewhere(reply, _)) => client
                .ok_or("a peer got a reply".to_owned())
                .and_then(|client| check_route(client, expected, action).map(|()| client))
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
        opened: &[RelayId],
    ) -> Result<bool, String> {
        let request = Message::parse(input).map_err(|e| format!("answered what is no message ({e})"))?;
        let response = Message::parse(output).map_err(|e| format!("the response is no message ({e})"))?;
        let same = (request.method(), request.transaction()) == (response.method(), response.transaction());
        ensure(same, "the response is to another request")?;
        let marked = request.fingerprint() == Fingerprint::Verified;
        ensure(marked == (response.fingerprint() == Fingerprint::Verified), "FINGERPRINT")?;
        ensure(padding_is_zero(&response), "padding is not zero")?;
        if let Some(nonce) = response.attribute(A::NONCE) {
            self.learn_nonce(now, client, request.method(), nonce);
        }
        if response.class() == Class::Error {
            return self.check_refusal(expected, reply, &response).map(|()| false);
        }
        ensure(response.class() == Class::Success, "the response is none")?;
        ensure(reply == Reply::Success(request.method()), "the action says otherwise than the response")?;
        let fields = Fields::of(&response);
        match expected {
            Expected::Mapped { mapped, discovered } if request.method() == Method::BINDING => {
                ensure(fields == Fields { mapped: Some(*mapped), ..Fields::default() }, "attributes")?;
                check_discovered(*mapped, discovered.as_ref(), &response)?;
                ensure(is_signed_as(&response, None), "integrity")?;
                Ok(false)
            }
            Expected::Allocated { new, proof } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                ensure(fields.mapped == Some(client.five_tuple.client), "XOR-MAPPED-ADDRESS")?;
                let told = fields.told.ok_or("no Allocate response")?;
                self.admit(now, client, new, (&request, told), opened)?;
                Ok(true)
            }
            Expected::AllocatedAgain { told, proof } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                ensure(fields.mapped == Some(client.five_tuple.client), "XOR-MAPPED-ADDRESS")?;
                let same = fields.told.as_ref() == Some(told) && opened.is_empty();
                ensure(same, "another answer than the first")?;
                Ok(false)
            }
            Expected::Refreshed { lifetime_secs, proof, .. } => {
                let wanted = Fields { lifetime_secs: Some(*lifetime_secs), ..Fields::default() };
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                ensure(fields == wanted, "attributes")?;
                Ok(false)
            }
            Expected::Moved { allocation, lifetime_secs, proof, .. } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                let ticket = fields.ticket.clone().ok_or("no new ticket")?;
                let lifetime_secs = Some(*lifetime_secs);
                ensure(fields == Fields { lifetime_secs, ..fields_of_ticket(&ticket) }, "attributes")?;
                self.learn_ticket(*allocation, &ticket)?;
                Ok(false)
            }
            Expected::MovedAgain { lifetime_secs, ticket, proof } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                let lifetime_secs = Some(*lifetime_secs);
                ensure(fields == Fields { lifetime_secs, ..fields_of_ticket(ticket) }, "attributes")?;
                Ok(false)
            }
            Expected::Done { proof } | Expected::Bound { proof, .. } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                ensure(fields == Fields::default(), "attributes")?;
                Ok(false)
            }
            Expected::Connected { connection, proof } => {
                ensure(is_signed_as(&response, Some(proof)), "integrity")?;
                ensure(
                    fields == Fields { connection: Some(*connection), ..Fields::default() },
                    "attributes",
                )?;
                Ok(false)
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
        let nonce = response.attribute(A::NONCE);
        ensure(nonce.is_some() == challenges, "NONCE")?;
        // RFC 8489 §9.2.4: the offer is in the nonce and beside it.
        let offers = challenges && self.rules.offers_algorithms;
        let says_so = nonce.is_some_and(|nonce| nonce.starts_with(b"obMatJos2gAAB"));
        let list = response.attribute(A::PASSWORD_ALGORITHMS);
        ensure(says_so == offers && list == offers.then_some(&[0, 2, 0, 0, 0, 1, 0, 0]), "the offer")?;
        let listed = response.attribute(A::UNKNOWN_ATTRIBUTES).map(|list| {
            list.chunks(2).map(|kind| kind.iter().fold(0, |k, byte| k << 8 | u16::from(*byte))).collect()
        });
        match expected {
            Expected::SilenceOrChallenge => {
                ensure(code == 401 && is_signed_as(response, None), "code or integrity")
            }
            Expected::Refused { codes, proof, unknown } => {
                ensure(codes.contains(&code), "another code")?;
                ensure(is_signed_as(response, proof.as_ref()), "integrity")?;
                let unknown: Vec<u16> = unknown.iter().copied().take(32).collect();
                ensure(listed == (code == 420).then_some(unknown), "UNKNOWN-ATTRIBUTES")
            }
            _ => Err("it was refused".to_owned()),
        }
    }
}

/// What a success response says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    mapped: Option<SocketAddr>,
    /// LIFETIME, where nothing is relayed.
    lifetime_secs: Option<u64>,
    /// MOBILITY-TICKET, where nothing is relayed.
    ticket: Option<Vec<u8>>,
    told: Option<Told>,
    connection: Option<ConnectionId>,
}

fn fields_of_ticket(ticket: &[u8]) -> Fields {
    Fields { ticket: Some(ticket.to_vec()), ..Fields::default() }
}

impl Fields {
    fn of(message: &Message<'_>) -> Self {
        let address = |value| address::decode_xor(value, message.transaction());
        let lifetime = message.attribute(A::LIFETIME).and_then(|value| value.try_into().ok());
        let lifetime_secs = lifetime.map(|value| u32::from_be_bytes(value).into());
        let relayed = message.attributes().filter(|attribute| attribute.kind == A::XOR_RELAYED_ADDRESS);
        let relayed: Vec<SocketAddr> = relayed.filter_map(|attribute| address(attribute.value)).collect();
        let failed = match message.attribute(A::ADDRESS_ERROR_CODE) {
            Some(&[family, _, class, number, ..]) => {
                Some((family, u16::from(class & 7) * 100 + u16::from(number)))
            }
            _ => None,
        };
        let ticket = message.attribute(A::MOBILITY_TICKET).map(<[u8]>::to_vec);
        let told = (!relayed.is_empty()).then(|| Told {
            relayed,
            lifetime_secs: lifetime_secs.unwrap_or_default(),
            token: message.attribute(A::RESERVATION_TOKEN).map(<[u8]>::to_vec),
            ticket: ticket.clone(),
            failed,
        });
        let mapped = message.attribute(A::XOR_MAPPED_ADDRESS).and_then(address);
        let connection = message.attribute(A::CONNECTION_ID).and_then(|value| value.try_into().ok());
        let connection = connection.map(|id| ConnectionId(u32::from_be_bytes(id)));
        let lifetime_secs = lifetime_secs.filter(|_| told.is_none());
        Self { mapped, lifetime_secs, ticket: ticket.filter(|_| told.is_none()), told, connection }
    }
}

/// The answer goes back on the way the request came, unless discovery says where else.
fn check_route(client: Client, expected: &Expected, action: Action) -> Result<(), String> {
    let FiveTuple { transport, server, client: address } = client.five_tuple;
    let (from, to) = match expected {
        Expected::Mapped { discovered: Some(discovered), .. } => (discovered.from, discovered.to),
        _ => (server, address),
    };
    let route = FiveTuple { transport, server: from, client: to };
    match action {
        Action::ReplyElsewhere(_, other) => {
            ensure(other.five_tuple == route && other != client, "the answer goes another way")
        }
        _ => ensure(client.five_tuple == route, "the answer goes back the same way"),
    }
}

fn check_discovered(
    mapped: SocketAddr,
    discovered: Option<&Discovered>,
    response: &Message<'_>,
) -> Result<(), String> {
    let address = |kind| response.attribute(kind).map(address::decode);
    let padding = response.attribute(A::PADDING).map(<[u8]>::len);
    let told = [A::MAPPED_ADDRESS, A::RESPONSE_ORIGIN, A::OTHER_ADDRESS].map(address);
    let wanted = discovered.map(|it| [mapped, it.origin, it.other]);
    ensure(told == wanted.map_or([None; 3], |all| all.map(|it| Some(Some(it)))), "what discovery tells")?;
    ensure(padding == discovered.and_then(|it| it.padding), "PADDING")
}

fn check_undelivered(peer: SocketAddr, icmp: Icmp, output: &[u8]) -> Result<(), String> {
    let message = Message::parse(output).map_err(|e| format!("the Data indication is no message ({e})"))?;
    let about = message.attribute(A::XOR_PEER_ADDRESS);
    let about = about.and_then(|value| address::decode_xor(value, message.transaction()));
    ensure((message.class(), message.method()) == (Class::Indication, Method::DATA), "no Data indication")?;
    ensure(about == Some(peer), "XOR-PEER-ADDRESS")?;
    let [a, b, c, d] = icmp.data.to_be_bytes();
    ensure(message.attribute(A::ICMP) == Some(&[0, 0, icmp.kind, icmp.code, a, b, c, d]), "ICMP")?;
    ensure(message.attributes().count() == 2, "more attributes")
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
