//! Revocation where ten thousand allocations live and relay: how long its credential's packets still pass.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stun::{ChannelNumber, channel_data};
use turn::Transport;

use crate::fixture::{Key, Minted, Server, revoke_path, start, text};

/// Allocations that live at once.
const CROWD: usize = 10_000;
/// Credentials revoked one by one, each with one allocation.
const SINGLES: usize = 200;
/// Credentials revoked at once, each with one allocation.
const IN_BULK: usize = 1_000;
/// Allocations are asked for by so many threads.
const ASKING: usize = 4;
/// So often a few of the crowd send, and each that is watched, or as many of these as it takes turns.
const INTERVAL: Duration = Duration::from_millis(5);
const CROWD_AT_ONCE: usize = 10;
const WATCHED_AT_ONCE: usize = 50;
/// Those revoked one by one go on sending until so many more are, which takes longer than [`CUT_WITHIN`].
const STILL_SENDING: usize = 40;
/// Packets that must have arrived before a credential is revoked.
const ALIVE: u64 = 10;
/// What is promised, and how long a flow goes on sending after it was revoked.
const CUT_WITHIN: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_millis(1_500);

/// A client whose channel is bound.
#[derive(Debug)]
struct Member {
    socket: UdpSocket,
    channel: ChannelNumber,
}

impl Member {
    fn join(server: &Server, minted: &Minted, peer: SocketAddr) -> Self {
        let mut client = server.client(Transport::Udp, minted);
        client.allocate().unwrap();
        let channel = client.channel_bind(peer).unwrap();
        Self { socket: client.into_udp_socket().unwrap(), channel }
    }

    fn send(&self, index: usize) {
        let packet = [&channel_data::header(self.channel, 8)[..], &(index as u64).to_be_bytes()].concat();
        // Where its allocation is gone, nobody answers.
        let _ = self.socket.send(&packet);
    }
}

/// What the peer of all has heard of one member: how many packets, and when the last came, in microseconds.
#[derive(Debug, Default)]
struct Heard {
    count: AtomicU64,
    last_us: AtomicU64,
}

#[derive(Debug)]
struct Crowd {
    members: Vec<Member>,
    heard: Vec<Heard>,
    /// Those that send at every interval.
    watched: Mutex<Vec<usize>>,
    peer: UdpSocket,
    begun: Instant,
    stop: AtomicBool,
}

impl Crowd {
    /// All of them, in the order of these credentials; those that are left over share the last one.
    fn gather(server: &Server, credentials: &[Minted]) -> Self {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(INTERVAL)).unwrap();
        let to = peer.local_addr().unwrap();
        let join = |index: usize| Member::join(server, &credentials[index.min(credentials.len() - 1)], to);
        let members = std::thread::scope(|scope| {
            let portions: Vec<_> = (0..ASKING)
                .map(|portion| {
                    let range = portion * CROWD / ASKING..(portion + 1) * CROWD / ASKING;
                    scope.spawn(move || range.map(join).collect::<Vec<_>>())
                })
                .collect();
            portions.into_iter().flat_map(|portion| portion.join().unwrap()).collect()
        });
        Self {
            members,
            heard: std::iter::repeat_with(Heard::default).take(CROWD).collect(),
            watched: Mutex::default(),
            peer,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap()
    }

    fn listen(&self) {
        let mut packet = [0; 8];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((8, _)) = self.peer.recv_from(&mut packet) {
                let heard = &self.heard[usize::try_from(u64::from_be_bytes(packet)).unwrap()];
                heard.last_us.store(self.now_us(), Ordering::Relaxed);
                heard.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn talk(&self) {
        let mut all = (0..CROWD).cycle();
        while !self.stop.load(Ordering::Relaxed) {
            let mut watched = self.watched.lock().unwrap();
            let at_once = WATCHED_AT_ONCE.min(watched.len());
            watched.rotate_left(at_once);
            let turn: Vec<usize> = watched.iter().rev().take(at_once).copied().collect();
            drop(watched);
            let others = all.by_ref().take(CROWD_AT_ONCE);
            others.chain(turn).for_each(|index| self.members[index].send(index));
            std::thread::sleep(INTERVAL);
        }
    }

    /// Has these send at every interval, and waits until each is heard.
    fn watch(&self, range: std::ops::Range<usize>) {
        let count = |index: usize| self.heard[index].count.load(Ordering::Relaxed);
        let before: Vec<u64> = range.clone().map(count).collect();
        self.watched.lock().unwrap().extend(range.clone());
        let deadline = Instant::now() + Duration::from_secs(30);
        while range.clone().zip(&before).any(|(index, before)| count(index) < before + ALIVE) {
            assert!(Instant::now() < deadline, "they are not heard");
            std::thread::sleep(INTERVAL);
        }
    }

    /// For how long they were heard after what was said at these moments, in microseconds and in order. None of them
    /// may have been silent before.
    fn heard_after(&self, cuts: impl Iterator<Item = (usize, u64)>) -> Vec<u64> {
        let last = |index: usize| self.heard[index].last_us.load(Ordering::Relaxed);
        let mut after: Vec<u64> = cuts
            .map(|(index, cut_us)| {
                assert!(last(index) + 500_000 > cut_us, "{index} was silent before");
                last(index).saturating_sub(cut_us)
            })
            .collect();
        after.sort_unstable();
        after
    }

    fn forget_before(&self, first: usize) {
        self.watched.lock().unwrap().retain(|index| *index >= first);
    }
}

/// Ends the threads of a crowd when it goes out of scope, also where a test has failed.
#[derive(Debug)]
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells the middle and the tail, and asserts what is promised.
fn check(what: &str, sorted_us: &[u64]) {
    let at = |percent: usize| sorted_us[(sorted_us.len() * percent).div_ceil(100) - 1];
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1_000.0;
    let (half, most, last) = (at(50), at(99), at(100));
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, last {:.1} ms", ms(half), ms(most), ms(last));
    assert!(Duration::from_micros(last) <= CUT_WITHIN, "{what}: a packet passed {} ms later", ms(last));
}

fn mint_for(server: &Server, key: &Key, custom_identifier: &str) -> Minted {
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let body = format!(r#"{{"ttl":3600,"customIdentifier":"{custom_identifier}"}}"#);
    let json = server.ask("POST", &path, &key.secret, Some(&body), 201);
    let field = |name: &str| text(&json["iceServers"][name]);
    Minted { username: field("username"), password: field("credential") }
}

#[test]
fn ten_thousand_allocations_and_revocations_among_them() {
    let _alone = crate::alone();
    let server = start();
    let key = server.create_key();
    let singles = (0..SINGLES).map(|_| mint_for(&server, &key, "single"));
    let in_bulk = (0..IN_BULK).map(|_| mint_for(&server, &key, "bulk"));
    let credentials: Vec<Minted> = singles.chain(in_bulk).chain([mint_for(&server, &key, "crowd")]).collect();
    let crowd = Crowd::gather(&server, &credentials);
    std::thread::scope(|scope| {
        scope.spawn(|| crowd.listen());
        scope.spawn(|| crowd.talk());
        let _stop = Stop(&crowd.stop);
        // Of the crowd itself: one that is not revoked goes on.
        crowd.watch(CROWD - 1..CROWD);

        let mut cuts = Vec::new();
        for (index, minted) in credentials.iter().take(SINGLES).enumerate() {
            crowd.watch(index..index + 1);
            crowd.forget_before((index + 1).saturating_sub(STILL_SENDING));
            server.ask("POST", &revoke_path(&key, minted), &key.secret, None, 204);
            cuts.push((index, crowd.now_us()));
        }
        std::thread::sleep(WATCHED);
        check("revoked one by one", &crowd.heard_after(cuts.into_iter()));
        crowd.forget_before(CROWD);

        crowd.watch(SINGLES..SINGLES + IN_BULK);
        let path = format!("/v1/turn/keys/{}/credentials/revoke", key.uid);
        server.ask("POST", &path, &key.secret, Some(r#"{"customIdentifier":"bulk"}"#), 204);
        let cut_us = crowd.now_us();
        std::thread::sleep(WATCHED);
        let cuts = (SINGLES..SINGLES + IN_BULK).map(|index| (index, cut_us));
        check("revoked in bulk", &crowd.heard_after(cuts));

        crowd.forget_before(CROWD);
        crowd.watch(CROWD - 1..CROWD);
    });
}
