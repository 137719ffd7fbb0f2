//! A closed loop over kept connections: each has one request on the way, and sends the next when the answer is there.
//!
//! The load never sleeps: a load that does has to be woken for each answer, which the server would pay for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024;
/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a load saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// From a request to its answer, microseconds, in order of size.
    latencies_us: Vec<u32>,
}

impl Seen {
    /// The latency that this share of the requests did not exceed, in microseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = self.latencies_us.len().saturating_sub(1) * percent / 100;
        self.latencies_us.get(index).copied().map_or(f64::NAN, f64::from)
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    sent: Instant,
}

/// Connections to a server that wait for nothing.
#[derive(Debug)]
pub(crate) struct Load {
    connections: Vec<Connection>,
    epoll: Epoll,
    request: Vec<u8>,
}

impl Load {
    pub(crate) fn connect(server: SocketAddr, connections: u16, request: &str) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut held = Vec::new();
        for index in 0..connections {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index.into()))?;
            held.push(Connection { stream, answer: Vec::with_capacity(MAX_ANSWER), sent: Instant::now() });
        }
        Ok(Self { connections: held, epoll, request: request.as_bytes().to_vec() })
    }

    /// Asks for so long, and waits for the last answers.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<Seen> {
        let begun = Instant::now();
        let mut on_the_way = 0;
        let mut latencies_us = Vec::new();
        for connection in &mut self.connections {
            connection.send(&self.request)?;
            on_the_way += 1;
        }
        let mut events = vec![EpollEvent::empty(); self.connections.len()];
        let mut heard = Instant::now();
        while on_the_way > 0 {
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            let now = Instant::now();
            if ready > 0 {
                heard = now;
            }
            ensure!(now - heard < PATIENCE, "no answer for {PATIENCE:?}");
            for event in events.iter().take(ready) {
                let index = usize::try_from(event.data())?;
                let connection = self.connections.get_mut(index).context("an event of no connection")?;
                if !connection.receive()? {
                    continue;
                }
                latencies_us.push(u32::try_from((now - connection.sent).as_micros()).unwrap_or(u32::MAX));
                on_the_way -= 1;
                if now - begun < duration {
                    connection.send(&self.request)?;
                    on_the_way += 1;
                }
            }
        }
        latencies_us.sort_unstable();
        let requests = latencies_us.len() as u64;
        Ok(Seen { requests, seconds: begun.elapsed().as_secs_f64(), latencies_us })
    }
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.answer.clear();
        self.sent = Instant::now();
        // A request is far smaller than a socket's buffer, which is empty.
        self.stream.write_all(request).context("sending a request")
    }

    /// Takes what has come; whether the answer is whole.
    fn receive(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(length) => self.answer.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("receiving an answer"),
        }
        ensure!(self.answer.len() <= MAX_ANSWER, "an answer is longer than {MAX_ANSWER} bytes");
        is_whole(&self.answer)
    }
}

/// Whether this is one whole answer, which has to tell of success.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())?;
    ensure!(head.starts_with("HTTP/1.1 2"), "the server answers {head:?}");
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|it| it.1).next();
    let length: usize = length.context("an answer without a length")?.trim().parse()?;
    let whole = end + 4 + length;
    ensure!(answer.len() <= whole, "more came than was asked for");
    Ok(answer.len() == whole)
}
