//! What comes out of a server: the return value of a packet, and what is queued.

use std::net::SocketAddr;

use stun::ParseError;

use crate::mobility::{Note, Traveller};
use crate::port::RelayPort;
use crate::usage::Report;
use crate::{Client, ConnectionId, RelayId, Reply, WorkerId};

/// What to do with the packet that was given in, now rewritten. RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Drop(DropReason),
    /// Send it back on the way it came: it is the response.
    Reply(Reply),
    /// Send it this way: it is the response to a Binding that asked to be answered from or to elsewhere. RFC 5780 §6.1.
    ReplyElsewhere(Reply, Client),
    /// Send it from this relay socket to this peer: it is the application's data.
    ToPeer {
        /// From where.
        relay: RelayId,
        /// To whom. For a relayed address of this host, where the host itself reaches it.
        peer: SocketAddr,
        /// With the DF bit: a datagram too long for the path is then lost instead of cut. RFC 8656 §15.
        dont_fragment: bool,
    },
    /// Hand it to [`crate::Server::from_peer`]: the peer is an allocation of this server, so the data need not leave the
    /// process to come back to it.
    ToRelay {
        /// The peer's relay socket.
        relay: RelayId,
        /// The relayed address it comes from.
        from: SocketAddr,
    },
    /// Send it to this client: it is ChannelData or a Data indication.
    ToClient(Client),
    /// Nothing yet: connect from the relay socket's address to this peer and tell [`crate::Server::connected`]. RFC 6062 §5.2.
    Connect {
        /// What the connection is called.
        connection: ConnectionId,
        /// From where.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
    },
    /// Send it back on the way it came: it is the response. From then on all that comes that way, what was read behind
    /// the request included, is data for the peer of this connection, and the other way round. RFC 6062 §5.4.
    Bind(ConnectionId),
    /// Nothing: the way it came belongs to another worker's allocation. Give that worker the way, the packet, and
    /// what was read behind it.
    HandOver(WorkerId),
    /// Give it to this worker, whose server has the client's allocation by now: [`crate::Server::passed`]. RFC 8016 §3.2.2.
    Pass(WorkerId),
    /// Nothing now: another worker has to be asked first, by an output that is queued, and the response comes as an
    /// output, too. RFC 8016 §3.2.2.
    Later,
}

/// Why a packet is answered with nothing. RFC 8489 §6.3, RFC 8656 §11 and §12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Neither STUN nor ChannelData.
    NotStun,
    /// STUN, but broken.
    MalformedStun(ParseError),
    /// FINGERPRINT is there and wrong.
    WrongFingerprint,
    /// A response, or an indication that only servers send.
    UnexpectedClass,
    /// A method this server does not know.
    UnknownMethod,
    /// A request without integrity, and not the one that a client begins with.
    Unauthenticated,
    /// A time-limited username, when more of them came than shared secrets may be tried for: the client will ask again.
    TooManyTrials,
    /// A request of more than 2,048 bytes with a time-limited username that shared secrets would have to be tried for.
    TooLongToTry,
    /// No live allocation for the client or relay socket.
    NoAllocation,
    /// ChannelData with a channel number out of range, or cut.
    MalformedChannelData,
    /// ChannelData on a channel that is not bound.
    NoChannel,
    /// No permission for the peer.
    NoPermission,
    /// The peer may not be reached.
    PeerForbidden,
    /// A Send indication without XOR-PEER-ADDRESS or DATA.
    MissingAttribute,
    /// An indication with an unknown comprehension-required attribute.
    UnknownAttribute,
    /// A request that has not authenticated, from a prefix that got as many answers as it may.
    StrangerRateExceeded,
    /// The allocation relays as much in this direction as it may.
    AllocationRateExceeded,
    /// The allocations of the TURN key together relay as much in this direction as they may.
    KeyRateExceeded,
    /// The client has lost its connection and may come back.
    ClientAway,
    /// An ICMP error of a kind that clients are not told of.
    IcmpNotRelayed,
    /// The client has been told of enough ICMP errors in this second.
    TooManyErrors,
    /// The data and its header fit into no message or not into the buffer.
    NoRoom,
    /// A Connect once more, while the first waits for the peer.
    Connecting,
    /// A peer's connection beyond what the allocation, or the server, may have.
    TooManyConnections,
}

/// What time and commands bring about.
#[derive(Debug)]
pub enum Output {
    /// A relayed address is over, mostly with its allocation: close the relay socket, then drop the output, which
    /// frees the port.
    Ended {
        /// Its client.
        client: Client,
        /// Its socket.
        relay: RelayId,
        /// Its port.
        port: RelayPort,
        /// Why.
        reason: EndReason,
    },
    /// How much an allocation has relayed: after [`crate::Server::report`], and before the end of each allocation.
    Report(Box<Report>),
    /// Something for another worker's server: [`crate::Server::told`].
    Tell {
        /// Whose.
        to: WorkerId,
        /// What.
        note: Note,
    },
    /// An allocation moves to another worker: take its sockets out of this worker's hands and give both to that
    /// one's [`crate::Server::arrived`], or, if it cannot take them, to this one's [`crate::Server::returned`].
    Depart {
        /// To whom.
        to: WorkerId,
        /// The allocation.
        traveller: Box<Traveller>,
    },
    /// The late response to a request that another worker had to be asked about.
    Reply {
        /// Who gets it.
        client: Client,
        /// What it says.
        reply: Reply,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Send this to a client on a stream: the answer to a Connect, or a ConnectionAttempt indication. RFC 6062.
    Message {
        /// To whom.
        client: Client,
        /// What the answer is.
        reply: Option<Reply>,
        /// What is sent.
        message: Vec<u8>,
    },
    /// Close this connection with a peer, or stop making it, and close its data connection. RFC 6062 §5.5.
    Disconnect {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: EndReason,
    },
}

/// Why an allocation, or a connection with a peer, ended. RFC 8656 §6, RFC 6062 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The client refreshed it with a lifetime of zero.
    Deleted,
    /// Its lifetime or its credential ran out.
    Expired,
    /// Its credential was revoked, or its key or shared secret is gone.
    Denied,
    /// The client's connection was closed, and the allocation was not mobile.
    ClientGone,
    /// A connection took too long to be made or bound.
    TimedOut,
    /// The connection's peer may no longer be reached.
    PeerForbidden,
    /// An operator has ended it.
    Terminated,
    /// The process is about to end.
    Stopped,
    /// It could not be taken in by the worker that it was moving to.
    Lost,
}
