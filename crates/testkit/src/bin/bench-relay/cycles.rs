//! Allocation cycles: Allocate, which is answered with 401, Allocate again, and Refresh with a lifetime of 0.
//!
//! A client begins its next cycle from the address it has: what a server keeps of addresses that are gone would be
//! another comparison. Only where it is told that it has an allocation still, since the server takes its time to delete
//! one, or deleted nothing in a stall, it begins each cycle from another address from then on.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, bail};
use stun::{
    AttributeType, Class, ErrorCode, Integrity, IntegrityAlgorithm, Message, MessageWriter, Method,
    TransactionId,
};
use testkit::message::{REQUESTED_UDP, Signature};

use crate::callers;
use crate::datagrams::{self, Batch};
use crate::sample::{Pace, Sample, Stretch, Tally};
use crate::subject::Server;

/// One of so many cycles has its responses' integrity verified: the load is to cost less than the server.
const VERIFIED: u64 = 16;

/// What a slot waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Challenge,
    Allocation,
    Deletion,
}

/// Addresses that all clients together may come to; there are as many in the loopback network.
const ADDRESSES: usize = 1 << 20;

/// One cycle after the other.
#[derive(Debug)]
struct Slot {
    /// The number of its address: the slot's, and so many more as there are slots.
    address: usize,
    /// Whether each cycle begins from another address.
    moves: bool,
    cycle: u64,
    step: Step,
    /// Of the request that waits.
    number: u64,
    /// What it was told: a nonce may be good for one client only.
    nonce: Vec<u8>,
}

pub(crate) struct Cycles {
    socket: UdpSocket,
    server: SocketAddrV4,
    credential: (String, String),
    /// A bare floor signs nothing.
    verifies: bool,
    slots: Vec<Slot>,
    signature: Option<Signature>,
    batch: Batch,
    buffer: Vec<u8>,
    tally: Tally,
    /// Requests so far.
    number: u64,
}

impl Cycles {
    pub(crate) fn start(server: &Server, clients: usize) -> anyhow::Result<Self> {
        let SocketAddr::V4(address) = server.address else { bail!("servers are measured over IPv4") };
        let slot = |address| Slot {
            address,
            moves: false,
            cycle: 0,
            step: Step::Challenge,
            number: 0,
            nonce: Vec::new(),
        };
        Ok(Self {
            socket: datagrams::socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?,
            server: address,
            credential: (server.username.clone(), server.password.clone()),
            verifies: server.signs(),
            slots: (0..clients).map(slot).collect(),
            signature: None,
            batch: Batch::new(),
            buffer: vec![0; 2_048],
            tally: Tally::begin(),
            number: 0,
        })
    }

    /// Keeps all slots busy for a while; counts cycles.
    pub(crate) fn run(&mut self, server: &Server, pace: Pace) -> anyhow::Result<Sample> {
        let mut stretch = Stretch::begin(pace);
        self.tally = Tally::begin();
        for slot in 0..self.slots.len() {
            self.begin(slot)?;
        }
        let mut sample = loop {
            self.turn(true)?;
            let now = self.tally.last_look();
            if let Some(sample) = stretch.over(now, &self.tally, server)? {
                break sample;
            }
            if now - self.tally.heard > pace.stall {
                // Whatever was on the way is lost: all begin anew.
                self.tally.heard = now;
                self.tally.stalls += 1;
                for slot in 0..self.slots.len() {
                    self.begin(slot)?;
                }
            }
        };
        self.tally.heard = std::time::Instant::now();
        while self.tally.received < self.tally.sent && self.tally.heard.elapsed() < pace.patience {
            self.turn(false)?;
        }
        sample.close(&self.tally);
        Ok(sample)
    }

    /// Takes the responses that have come, and goes on; with `begins` a cycle that ends is followed by another.
    fn turn(&mut self, begins: bool) -> anyhow::Result<()> {
        let found = self.batch.receive(&self.socket)? > 0;
        self.tally.looked(std::time::Instant::now(), found);
        let batch = std::mem::replace(&mut self.batch, Batch::empty());
        for (train, bytes) in batch.trains() {
            let address = callers::index(train.to);
            for packet in bytes.chunks(train.segment) {
                self.response(address, packet, begins)?;
            }
        }
        self.batch = batch;
        Ok(())
    }

    fn response(&mut self, address: usize, packet: &[u8], begins: bool) -> anyhow::Result<()> {
        let index = address % self.slots.len();
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let message = Message::parse(packet).ok();
        let message = message.filter(|it| it.transaction() == transaction(slot.number));
        let Some(message) = message else {
            self.tally.wrong += 1;
            return Ok(());
        };
        let verifies = self.verifies && slot.cycle.is_multiple_of(VERIFIED);
        let is_signed = |signature: Option<&Signature>| {
            let key = signature.map(|signature| &signature.key);
            !verifies
                || key.is_some_and(|key| {
                    message.integrity_by(IntegrityAlgorithm::Sha1, key) == Integrity::Verified
                })
        };
        let code =
            message.attribute(AttributeType::ERROR_CODE).and_then(ErrorCode::parse).map(|(code, _)| code);
        let nonce = message.attribute(AttributeType::NONCE);
        match (slot.step, message.class(), message.method()) {
            (Step::Challenge, Class::Error, Method::ALLOCATE) if code == Some(ErrorCode::UNAUTHENTICATED) => {
                let told = (message.attribute(AttributeType::REALM), nonce);
                let (Some(realm), Some(nonce)) = told else { bail!("a 401 without realm or nonce") };
                let (username, password) = &self.credential;
                self.signature.get_or_insert_with(|| Signature::new(username, password, realm, nonce));
                nonce.clone_into(&mut slot.nonce);
                slot.step = Step::Allocation;
                self.ask(index)
            }
            (Step::Allocation, Class::Success, Method::ALLOCATE) if is_signed(self.signature.as_ref()) => {
                message.attribute(AttributeType::XOR_RELAYED_ADDRESS).context("a relayed address")?;
                slot.step = Step::Deletion;
                self.ask(index)
            }
            (Step::Deletion, Class::Success, Method::REFRESH) if is_signed(self.signature.as_ref()) => {
                self.tally.received += 1;
                if begins { self.begin(index) } else { Ok(()) }
            }
            (Step::Challenge | Step::Allocation, Class::Error, Method::ALLOCATE)
                if code == Some(ErrorCode::ALLOCATION_MISMATCH) =>
            {
                self.tally.wrong += 1;
                slot.moves = true;
                self.ask_first(index)
            }
            (step, class, method) => bail!("{class:?} of {method:?} while waiting for {step:?}: {code:?}"),
        }
    }

    /// A client begins a cycle.
    fn begin(&mut self, index: usize) -> anyhow::Result<()> {
        self.slots.get_mut(index).context("a slot")?.cycle += 1;
        self.tally.sent += 1;
        self.ask_first(index)
    }

    /// Sends a cycle's first request.
    fn ask_first(&mut self, index: usize) -> anyhow::Result<()> {
        let slots = self.slots.len();
        let slot = self.slots.get_mut(index).context("a slot")?;
        if slot.moves {
            slot.address += slots;
            if slot.address >= ADDRESSES {
                slot.address = index;
            }
        }
        slot.step = Step::Challenge;
        self.ask(index)
    }

    /// Sends the request that the slot's step waits for.
    fn ask(&mut self, index: usize) -> anyhow::Result<()> {
        let slot = self.slots.get_mut(index).context("a slot")?;
        self.number += 1;
        slot.number = self.number;
        let method = if slot.step == Step::Deletion { Method::REFRESH } else { Method::ALLOCATE };
        let transaction = transaction(slot.number);
        let mut writer = MessageWriter::new(&mut self.buffer, Class::Request, method, transaction);
        match slot.step {
            Step::Challenge | Step::Allocation => {
                writer.attribute(AttributeType::REQUESTED_TRANSPORT, &REQUESTED_UDP);
            }
            Step::Deletion => _ = writer.attribute_u32(AttributeType::LIFETIME, 0),
        }
        if slot.step != Step::Challenge {
            let signature = self.signature.as_mut().context("a challenge came before")?;
            slot.nonce.clone_into(&mut signature.nonce);
            signature.sign(&mut writer);
        }
        let length = writer.finish()?;
        let bytes = self.buffer.get(..length).context("a message's length")?;
        let source = Some(callers::address(slot.address));
        datagrams::send(&self.socket, &[IoSlice::new(bytes)], 1, length, source, self.server)
    }
}

/// A request's transaction id, by its number.
fn transaction(number: u64) -> TransactionId {
    let mut id = [0; 12];
    if let Some(end) = id.last_chunk_mut() {
        *end = number.to_be_bytes();
    }
    TransactionId::from_bytes(id)
}
