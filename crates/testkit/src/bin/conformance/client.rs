//! A client with a fresh socket: it sends what a check tells it, and waits no longer than it must.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun::{AttributeType, Class, Message, Method};

use crate::link::{Arrival, Link};
use crate::message::{
    Reply, Request, Signature, channel_data_bytes, describe, read_channel_data, read_data, transaction,
};
use crate::outcome::{Outcome, Verdict, ensure, fail};
use crate::target::{Target, Transport, User};

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing may come for it to count as silence.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);
/// When a request over UDP is sent again.
const RETRANSMISSION: Duration = Duration::from_millis(900);

#[derive(Debug)]
pub(crate) struct Client<'t> {
    pub(crate) target: &'t Target,
    pub(crate) link: Link,
    /// Frames that came while an answer was waited for.
    inbox: VecDeque<Vec<u8>>,
    signature: Option<Signature>,
    /// The relayed address, once there is one.
    relayed: Option<SocketAddr>,
    /// The server closed the connection when an answer was waited for.
    closed: bool,
}

impl<'t> Client<'t> {
    /// A client that has said nothing yet.
    pub(crate) fn open(target: &'t Target) -> Result<Self, Verdict> {
        let link = Link::open(target.server, target.transport)?;
        Ok(Self { target, link, inbox: VecDeque::new(), signature: None, relayed: None, closed: false })
    }

    /// A client that has been told realm and nonce.
    pub(crate) fn challenged(target: &'t Target) -> Result<Self, Verdict> {
        let mut client = Self::open(target)?;
        let reply = client.answer(&Request::allocate().bytes())?;
        reply.refused("an Allocate without integrity", &[401])?;
        client.learn(&reply)?;
        Ok(client)
    }

    /// A client with a UDP allocation.
    pub(crate) fn allocated(target: &'t Target) -> Result<Self, Verdict> {
        let mut client = Self::challenged(target)?;
        client.allocate(&Request::allocate())?;
        Ok(client)
    }

    /// Takes realm and nonce from a response.
    pub(crate) fn learn(&mut self, reply: &Reply) -> Outcome {
        let value = |kind: AttributeType| match reply.attribute(kind) {
            Some(value) => Ok(value.to_vec()),
            None => fail(format!("expected {kind:?} in the response, got {reply} without it")),
        };
        let user = &self.target.user;
        self.signature = Some(Signature {
            username: user.name.clone().into_bytes(),
            password: user.password.clone().into_bytes(),
            realm: value(AttributeType::REALM)?,
            nonce: value(AttributeType::NONCE)?,
        });
        Ok(())
    }

    /// Sends a request that refers to another client's allocation or connection, from a socket of its own and with
    /// the other's nonce, as real clients do; a server may refuse that nonce once, and gives another.
    pub(crate) fn ask_anew(&mut self, signature: Signature, request: &Request) -> Result<Reply, Verdict> {
        let reply = self.answer(&request.signed(&signature))?;
        let fresh = reply.attribute(AttributeType::NONCE).map(<[u8]>::to_vec);
        let (Some(401 | 438), Some(nonce)) = (reply.code(), fresh) else {
            self.signature = Some(signature);
            return Ok(reply);
        };
        let signature = Signature { nonce, ..signature };
        let again = Request { transaction: transaction(), ..request.clone() };
        let reply = self.answer(&again.signed(&signature))?;
        self.signature = Some(signature);
        Ok(reply)
    }

    /// Its user's signature.
    pub(crate) fn signature(&self) -> Signature {
        self.signature.clone().expect("the client was challenged before")
    }

    /// Another user's signature, with this client's nonce.
    pub(crate) fn signature_of(&self, user: &User) -> Signature {
        Signature {
            username: user.name.clone().into_bytes(),
            password: user.password.clone().into_bytes(),
            ..self.signature()
        }
    }

    /// The relayed address.
    pub(crate) fn relayed(&self) -> SocketAddr {
        self.relayed.expect("the client has allocated before")
    }

    /// Sends an Allocate and expects it to succeed.
    pub(crate) fn allocate(&mut self, request: &Request) -> Result<Reply, Verdict> {
        let reply = self.ask(request)?;
        self.adopt(&reply)?;
        Ok(reply)
    }

    /// The response that made its allocation.
    pub(crate) fn adopt(&mut self, reply: &Reply) -> Outcome {
        reply.success("Allocate")?;
        self.relayed = reply.address(AttributeType::XOR_RELAYED_ADDRESS);
        ensure(self.relayed.is_some(), "Allocate: expected XOR-RELAYED-ADDRESS in the response, got none")
    }

    /// Sends a signed request; its response.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, Verdict> {
        self.answer(&request.signed(&self.signature()))
    }

    /// Sends a signed request that must succeed.
    pub(crate) fn succeed(&mut self, request: &Request) -> Result<Reply, Verdict> {
        let reply = self.ask(request)?;
        reply.success(&format!("{:?}", request.method))?;
        Ok(reply)
    }

    /// Sends a signed request that must be refused with one of these codes.
    pub(crate) fn refused(&mut self, what: &str, request: &Request, codes: &[u16]) -> Outcome {
        self.ask(request)?.refused(what, codes)
    }

    /// Creates a permission.
    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Outcome {
        self.succeed(&Request::permission(&[peer])).map(drop)
    }

    /// Binds a channel.
    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr) -> Outcome {
        self.succeed(&Request::channel_bind(number, peer)).map(drop)
    }

    /// Sends these bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Outcome {
        self.link.send(bytes)
    }

    /// Sends data on a channel, padded where it must be.
    pub(crate) fn send_on_channel(&mut self, number: u16, data: &[u8]) -> Outcome {
        let padded = self.target.transport.is_stream();
        self.send(&channel_data_bytes(number, data, padded))
    }

    /// Sends a request and waits for the response with its transaction id.
    pub(crate) fn answer(&mut self, request: &[u8]) -> Result<Reply, Verdict> {
        match self.try_answer(request, PATIENCE)? {
            Some(reply) => Ok(reply),
            None if self.closed => {
                fail(format!("{}: expected an answer, the connection was closed", describe(request)))
            }
            None => fail(format!("{}: expected an answer, got silence", describe(request))),
        }
    }

    /// The same, but silence (or a closed connection) is `None`.
    pub(crate) fn try_answer(&mut self, request: &[u8], wait: Duration) -> Result<Option<Reply>, Verdict> {
        let id = request.get(8..20).unwrap_or_default().to_vec();
        self.link.send(request)?;
        let deadline = Instant::now() + wait;
        let mut again = Instant::now() + RETRANSMISSION;
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            if now >= again && self.target.transport == Transport::Udp {
                self.link.send(request)?;
            }
            if now >= again {
                again = now + RETRANSMISSION;
            }
            match self.link.receive(again.min(deadline).saturating_duration_since(now))? {
                Arrival::Closed => {
                    self.closed = true;
                    return Ok(None);
                }
                Arrival::Nothing => {}
                Arrival::Frame(frame) if is_response(&frame) => {
                    if frame.get(8..20) == Some(&id) {
                        return Reply::new(frame).map(Some);
                    }
                }
                Arrival::Frame(frame) => self.inbox.push_back(frame),
            }
        }
    }

    /// The next frame that is no response.
    pub(crate) fn next_frame(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, Verdict> {
        if let Some(frame) = self.inbox.pop_front() {
            return Ok(Some(frame));
        }
        match self.link.receive(patience)? {
            Arrival::Frame(frame) => Ok(Some(frame)),
            Arrival::Nothing => Ok(None),
            Arrival::Closed => fail("the server closed the connection"),
        }
    }

    /// Sends bytes that must be answered with nothing, and sees that the server still lives. A stream may also be
    /// closed by them.
    pub(crate) fn silent(&mut self, what: &str, bytes: &[u8]) -> Outcome {
        self.link.send(bytes)?;
        match self.link.receive(SILENCE)? {
            Arrival::Frame(frame) => fail(format!("{what}: expected silence, got {}", describe(&frame))),
            Arrival::Closed => Ok(()),
            Arrival::Nothing => self.still_answered(what),
        }
    }

    /// A Binding request is answered: the server lives and reads this socket.
    pub(crate) fn still_answered(&mut self, after: &str) -> Outcome {
        let request = Request::new(Method::BINDING).bytes();
        let alive = match self.try_answer(&request, PATIENCE)? {
            Some(_) => true,
            // A stream whose framing was lost is rightly closed or mute.
            None => self.target.transport.is_stream(),
        };
        ensure(alive, format!("{after}: the server no longer answers Binding requests afterwards"))
    }

    /// Waits for a Data indication with this data from this peer.
    pub(crate) fn expect_data(&mut self, what: &str, peer: SocketAddr, data: &[u8]) -> Outcome {
        let Some(frame) = self.next_frame(PATIENCE)? else {
            return fail(format!("{what}: expected a Data indication, got nothing"));
        };
        let Some((from, got)) = read_data(&frame) else {
            return fail(format!("{what}: expected a Data indication, got {}", describe(&frame)));
        };
        ensure(from == peer, format!("{what}: expected data from {peer}, got it from {from}"))?;
        ensure(
            got == data,
            format!("{what}: expected {} bytes as sent, got {} others", data.len(), got.len()),
        )
    }

    /// Waits for ChannelData with this data.
    pub(crate) fn expect_channel_data(&mut self, what: &str, number: u16, data: &[u8]) -> Outcome {
        let Some(frame) = self.next_frame(PATIENCE)? else {
            return fail(format!("{what}: expected ChannelData, got nothing"));
        };
        let Some((channel, got)) = read_channel_data(&frame) else {
            return fail(format!("{what}: expected ChannelData, got {}", describe(&frame)));
        };
        let number_got = channel.number();
        ensure(number_got == number, format!("{what}: expected channel {number:#x}, got {number_got:#x}"))?;
        ensure(
            got == data,
            format!("{what}: expected {} bytes as sent, got {} others", data.len(), got.len()),
        )
    }

    /// Nothing comes from any peer.
    pub(crate) fn expect_nothing(&mut self, what: &str) -> Outcome {
        match self.next_frame(SILENCE)? {
            None => Ok(()),
            Some(frame) => fail(format!("{what}: expected nothing to arrive, got {}", describe(&frame))),
        }
    }

    /// The other client's allocation has moved to this one.
    pub(crate) fn take_over(&mut self, from: &mut Self) {
        self.relayed = from.relayed.take();
    }

    /// Deletes the allocation.
    pub(crate) fn delete(&mut self) -> Result<Reply, Verdict> {
        let reply = self.succeed(&Request::refresh(0))?;
        self.relayed = None;
        Ok(reply)
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        if let (Some(_), Some(signature)) = (self.relayed, &self.signature) {
            let _ = self.link.send(&Request::refresh(0).signed(signature));
        }
    }
}

fn is_response(frame: &[u8]) -> bool {
    let class = Message::parse(frame).map(|message| message.class());
    // What cannot be parsed but has a response's type bits is one too: `Reply::new` will say what is wrong with it.
    matches!(class, Ok(Class::Success | Class::Error))
        || (class.is_err() && frame.first().is_some_and(|byte| *byte < 4 && byte & 1 == 1))
}
