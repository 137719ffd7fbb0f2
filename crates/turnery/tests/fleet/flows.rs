//! Clients that send all the time, and what their one peer has of each.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use testkit::client::BlockingClient;

use crate::nodes::{peer_address, until};

/// How long the peer waits for a packet before it looks whether it is to end.
const POLL: Duration = Duration::from_millis(50);
/// The peer's, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How long giving an allocation back may take.
const GIVEN_BACK: Duration = Duration::from_millis(500);
/// Who has sent nothing that arrived for so long has stopped: the most that a busy machine is believed.
const STALLED: Duration = Duration::from_secs(3);

/// What the peer has of a flow.
#[derive(Debug, Default)]
struct Heard {
    count: AtomicU64,
    /// When the last one came, in microseconds since the beginning.
    last_us: AtomicU64,
    /// The longest pause between two, in milliseconds.
    pause_ms: AtomicU64,
}

/// All flows.
pub(crate) struct Flows {
    begun: Instant,
    heard: Arc<Vec<Heard>>,
    clients: Arc<Mutex<Vec<Option<BlockingClient>>>>,
    peer: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flows {
    /// Room for so many; each of them sends a packet in each interval.
    pub(crate) fn new(count: usize, interval: Duration) -> Self {
        let socket = UdpSocket::bind(peer_address(0)).unwrap();
        socket.set_read_timeout(Some(POLL)).unwrap();
        // More than the system's bound for everybody: what is lost here would be missing in usage.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
        let peer = socket.local_addr().unwrap();
        let heard: Arc<Vec<Heard>> = Arc::new((0..count).map(|_| Heard::default()).collect());
        let clients = Arc::new(Mutex::new((0..count).map(|_| None).collect::<Vec<Option<BlockingClient>>>()));
        let (stop, begun) = (Arc::<AtomicBool>::default(), Instant::now());
        let receiver = {
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((_, _)) = socket.recv_from(&mut buffer) else { continue };
                    let index = u32::from_be_bytes(buffer[..4].try_into().unwrap());
                    heard[index as usize].hear(begun);
                }
            })
        };
        let sender = {
            let (clients, stop) = (Arc::clone(&clients), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let round = Instant::now();
                    for index in 0..count {
                        if let Some(client) = &mut clients.lock().unwrap()[index] {
                            let mut message = [7; 40];
                            message[..4].copy_from_slice(&u32::try_from(index).unwrap().to_be_bytes());
                            let _ = client.send_to(peer, &message);
                        }
                    }
                    std::thread::sleep(interval.saturating_sub(round.elapsed()));
                }
            })
        };
        Self { begun, heard, clients, peer, stop, threads: vec![receiver, sender] }
    }

    /// Allocates, and goes on sending as this flow.
    pub(crate) fn put(&self, index: usize, mut client: BlockingClient) {
        client.allocate().unwrap_or_else(|error| panic!("flow {index}: {error}"));
        self.put_allocated(index, client);
    }

    pub(crate) fn put_allocated(&self, index: usize, mut client: BlockingClient) {
        client.channel_bind(self.peer).unwrap_or_else(|error| panic!("flow {index}: {error}"));
        self.put_back(index, client);
    }

    /// Goes on with a client that was taken away.
    pub(crate) fn put_back(&self, index: usize, client: BlockingClient) {
        self.clients.lock().unwrap()[index] = Some(client);
    }

    /// Takes a flow's client away.
    pub(crate) fn take(&self, index: usize) -> Option<BlockingClient> {
        self.clients.lock().unwrap()[index].take()
    }

    /// When its last packet came.
    pub(crate) fn last(&self, index: usize) -> Instant {
        self.begun + Duration::from_micros(self.heard[index].last_us.load(Ordering::Relaxed))
    }

    /// How many came of all of them.
    pub(crate) fn count(&self) -> u64 {
        self.heard.iter().map(|heard| heard.count.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn count_of(&self, index: usize) -> u64 {
        self.heard[index].count.load(Ordering::Relaxed)
    }

    /// Waits until each of these has sent something from now on.
    pub(crate) fn expect_alive(&self, which: impl IntoIterator<Item = usize>) {
        let before: Vec<(usize, u64)> =
            which.into_iter().map(|index| (index, self.count_of(index))).collect();
        for (index, before) in before {
            until(&format!("flow {index} flows"), || self.count_of(index) > before);
        }
    }

    /// That none of these has paused for long since it began.
    pub(crate) fn expect_never_stalled(&self, which: impl IntoIterator<Item = usize>) {
        self.expect_never_paused(which, STALLED);
    }

    pub(crate) fn expect_never_paused(&self, which: impl IntoIterator<Item = usize>, most: Duration) {
        let mut longest = 0;
        for index in which {
            let pause = self.heard[index].pause_ms.load(Ordering::Relaxed);
            longest = longest.max(pause);
            assert!(u128::from(pause) <= most.as_millis(), "flow {index} paused for {pause} ms");
        }
        println!("the longest pause of a flow was {longest} ms");
    }

    /// All stop sending; waits until everything has arrived that was sent.
    pub(crate) fn settle(&self) {
        let clients: Vec<_> = self.clients.lock().unwrap().iter_mut().map(Option::take).collect();
        let mut before = u64::MAX;
        until("nothing more arrives", || {
            std::thread::sleep(4 * POLL);
            std::mem::replace(&mut before, self.count()) == self.count()
        });
        for mut client in clients.into_iter().flatten() {
            // Its node may be gone.
            client.set_patience(GIVEN_BACK);
            let _ = client.refresh(0);
        }
    }
}

impl Heard {
    fn hear(&self, begun: Instant) {
        let now_us = u64::try_from(begun.elapsed().as_micros()).unwrap();
        let last_us = self.last_us.swap(now_us, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) > 0 {
            self.pause_ms.fetch_max((now_us - last_us) / 1_000, Ordering::Relaxed);
        }
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
