//! Sockets and threads around the sans-IO TURN server: one worker per core, each with its own sockets
//! (SO_REUSEPORT), its own [`turn::Server`] and its own buffers. No lock and no shared cache line is on the
//! packet's way, and no async runtime.
//!
//! All `unsafe` of the project is in this crate's `sys` module.

mod batch;
mod clock;
mod config;
mod connection;
mod counters;
mod dtls;
mod held;
mod link;
mod mailbox;
mod opening;
mod relayed_tcp;
mod reports;
mod splice;
mod stream;
mod sys;
mod tls;
mod udp;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use turn::{Command, Discovery, NonceKey, PeerPolicy, PortRange, RelayAddress, RelayPorts, Shared, WorkerId};

pub use config::{Alternate, BindError, Config, DtlsLimits, Listener, ListenerError, StreamLimits};
pub use counters::{Breakdown, Totals, Traffic};
pub use dtls::{DtlsIdentity, IdentityError};
pub use reports::Reports;

use counters::Counters;
use dtls::Sessions;
use mailbox::{Colleagues, Mailbox, Message};
use opening::Opening;
use reports::Outbox;
use stream::Connections;
use worker::{Sockets, Worker};

/// Every listener open, nothing served yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listeners: Vec<Listener>,
    discovery: Vec<Discovery>,
    workers: Vec<Sockets>,
}

/// A running relay. Dropping it leaves the workers running; [`Relay::stop`] ends them.
#[derive(Debug)]
pub struct Relay {
    workers: Vec<Handle>,
    own: OwnAddresses,
}

/// What every policy has to know of this server.
#[derive(Debug)]
struct OwnAddresses {
    listeners: Vec<SocketAddr>,
    relay_addresses: Vec<RelayAddress>,
    relay_ports: PortRange,
}

impl OwnAddresses {
    fn tell(&self, policy: PeerPolicy) -> PeerPolicy {
        policy.with_own_addresses(&self.listeners, &self.relay_addresses, self.relay_ports)
    }
}

#[derive(Debug)]
struct Handle {
    mailbox: Mailbox,
    counters: Arc<Counters>,
    outbox: Arc<Outbox>,
    thread: JoinHandle<()>,
}

impl Bound {
    /// Opens every listener for every worker. Port 0 takes any free port, the same for all workers.
    ///
    /// # Errors
    /// Names the listener that cannot be opened; none is left open then.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        let workers = config.workers.max(1);
        let mut opening =
            Opening { workers: (0..workers).map(|_| Sockets::default()).collect(), udp: vec![] };
        let mut listeners = Vec::new();
        for wanted in &config.listeners {
            listeners.push(opening.open(*wanted)?);
        }
        if config.tls.is_some() {
            opening.secure_streams();
        }
        if config.dtls.is_some() {
            opening.secure_datagrams();
        }
        let discovery = config.alternates.iter().map(|alternate| opening.discovery(alternate));
        let discovery = discovery.collect::<Result<_, _>>()?;
        Ok(Self { config, listeners, discovery, workers: opening.workers })
    }

    /// The listeners, with the ports that are really open.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Where NAT behaviour discovery is offered, with the ports that are really open.
    pub fn discovery(&self) -> &[Discovery] {
        &self.discovery
    }

    /// Everything that is listened on, under each of its names.
    fn own_listeners(&self) -> Vec<SocketAddr> {
        let sources = self.discovery.iter().flat_map(|discovery| discovery.sources.concat());
        let named = sources.flat_map(|source| [source.local, source.public]);
        self.listeners.iter().map(|listener| listener.address).chain(named).collect()
    }

    /// Starts the workers. They carry out commands, and serve clients after [`Relay::admit`].
    ///
    /// # Errors
    /// When the system gives no thread, descriptor or randomness.
    pub fn start(self) -> io::Result<Relay> {
        sys::raise_open_files();
        let listeners = self.own_listeners();
        let Config { mut turn, relay_ports, keyring, proxies, stream_limits, tls, dtls, dtls_limits, .. } =
            self.config;
        let own = OwnAddresses { listeners, relay_addresses: turn.relay_addresses.clone(), relay_ports };
        turn.policy = own.tell(turn.policy);
        turn.discovery = self.discovery;
        let local = turn.relay_addresses.iter().map(|address| address.local);
        let nonces = NonceKey::new(sys::random()?);
        let shared = Shared::new(keyring, nonces, RelayPorts::new(relay_ports, local));
        let clock = clock::Clock::begin();
        let boxes = self.workers.iter().map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let (mailboxes, inboxes): (Vec<Mailbox>, Vec<_>) = boxes.into_iter().unzip();
        let colleagues = Colleagues::new(&mailboxes);
        turn.workers = u16::try_from(self.workers.len()).unwrap_or(u16::MAX);
        let mut workers = Vec::new();
        for (((sockets, mailbox), inbox), index) in
            self.workers.into_iter().zip(mailboxes).zip(inboxes).zip(0..)
        {
            let counters = Arc::new(Counters::default());
            let outbox = Arc::new(Outbox::default());
            let config = turn::Config { worker: WorkerId(index), ..turn.clone() };
            let server = turn::Server::new(config, shared.clone(), sys::random()?);
            let worker = Worker::new(
                server,
                sockets,
                (
                    Connections::new(WorkerId(index), stream_limits, proxies.clone(), tls.clone()),
                    Sessions::new(WorkerId(index), dtls.clone(), dtls_limits, clock.start()),
                ),
                clock,
                (inbox, colleagues.clone()),
                (Arc::clone(&counters), Arc::clone(&outbox)),
            )?;
            let thread = std::thread::Builder::new()
                .name(format!("relay-{index}"))
                .spawn(move || run_or_abort(worker))?;
            workers.push(Handle { mailbox, counters, outbox, thread });
        }
        Ok(Relay { workers, own })
    }
}

/// A worker that panics takes its clients' traffic with it in silence; the process must not go on as if it were well.
fn run_or_abort(mut worker: Worker) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run()));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "a relay worker cannot go on");
            std::process::abort();
        }
        Err(_) => {
            tracing::error!("a relay worker panicked");
            std::process::abort();
        }
    }
}

impl Relay {
    /// Gives a command to every worker. Each wakes and acts on it, at the latest when it is through with the packets
    /// it has at hand. A policy is told the server's own addresses. Waits while inboxes are full.
    pub fn command(&self, command: &Command) {
        let command = match command {
            Command::Policy(policy) => Command::Policy(Arc::new(self.own.tell(PeerPolicy::clone(policy)))),
            command => command.clone(),
        };
        self.tell(|| Message::Command(command.clone()));
    }

    /// Begins to serve clients: whoever was denied by a command before this never gets an allocation.
    pub fn admit(&self) {
        self.tell(|| Message::Admit);
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            worker.mailbox.send(message());
        }
    }

    /// The sums of all workers' counters, as they are now.
    pub fn totals(&self) -> Totals {
        self.workers.iter().map(|worker| worker.counters.totals()).sum()
    }

    /// Whether every worker still runs: one ends only when it is told to, or by a fault.
    pub fn is_whole(&self) -> bool {
        !self.workers.iter().any(|worker| worker.thread.is_finished())
    }

    /// The counters by reason and by transport, as they are now.
    pub fn breakdown(&self) -> Breakdown {
        Breakdown::of(self.workers.iter().map(|worker| &*worker.counters))
    }

    /// What there is to say of sessions and was not taken yet, of each the newest report of a worker: within five
    /// seconds of whatever it is about, at once of the end of a session. What is not taken waits, the older report of a
    /// session giving way to the newer. Each worker gives `most` at most: where a worker may have more, there are at
    /// least so many.
    pub fn take_reports(&self, most: usize) -> Reports {
        self.workers.iter().flat_map(|worker| worker.outbox.take(most)).collect()
    }

    /// Ends the workers, and with them every allocation, and waits for them; their sockets are closed then. What
    /// [`Relay::take_reports`] would have given, the last of every session.
    pub fn stop(self) -> Reports {
        self.tell(|| Message::Stop);
        let outboxes: Vec<Arc<Outbox>> = self.workers.iter().map(|it| Arc::clone(&it.outbox)).collect();
        for worker in self.workers {
            let _ = worker.thread.join();
        }
        outboxes.iter().flat_map(|outbox| outbox.take(usize::MAX)).collect()
    }
}
