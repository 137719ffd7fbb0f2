//! Whatever comes in leaves as it came, whatever the system refuses: nothing is lost, merged, cut or reordered.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, getsockopt, sendmsg, setsockopt, sockopt};
use testkit::dice::Dice;

use super::*;
use crate::sys::refusals::{self, Attempt};
use crate::sys::{receive_coalesced, receive_destination};

const LONG: Duration = Duration::from_secs(5);
/// What a buffer is charged for a datagram beside twice its bytes, at most.
const OVERHEAD: usize = 1_280;
const SIZES: [usize; 16] =
    [0, 1, 4, 20, 160, 999, 1_000, 1_016, 1_200, 1_300, 1_448, 1_451, 1_452, 1_453, 9_000, 65_467];

/// What the system does with messages to one address.
#[derive(Debug, Clone, Copy)]
enum Way {
    Free,
    /// Trains are refused with this error.
    Uncut(i32),
    /// Trains of larger packets than this are refused with this error.
    Narrow(usize, i32),
    /// Everything is.
    Forbidden,
}

/// What a worker does with a packet.
#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    /// As of ChannelData.
    Strip,
    /// As to ChannelData and Data indications: so many bytes in front.
    Prepend(usize),
}

/// Packets of one sender to one socket, as they were sent or are to arrive.
type Flows<K> = BTreeMap<K, VecDeque<Vec<u8>>>;

struct Sockets {
    senders: Vec<UdpSocket>,
    /// They receive, and packets leave by them.
    between: Vec<UdpSocket>,
    receivers: Vec<UdpSocket>,
    /// What all the packets of one case may be charged with.
    room: usize,
}

impl Sockets {
    fn new(coalesced: bool, cut: bool) -> Self {
        let open = |ip: Ipv4Addr| {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            // Beyond the system's maximum where the test may.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let many = |count| (0..count).map(|_| open(Ipv4Addr::LOCALHOST)).collect();
        let mut between: Vec<UdpSocket> = many(2);
        between.push(open(Ipv4Addr::UNSPECIFIED));
        receive_destination(&between[2].try_clone().unwrap().into(), true).unwrap();
        for socket in &between {
            assert!(!coalesced || receive_coalesced(socket));
        }
        if !cut {
            refusals::refuse_trains(&between[1]);
        }
        let room = getsockopt(&between[0], sockopt::RcvBuf).unwrap();
        Self { senders: many(3), between, receivers: many(4), room }
    }
}

fn address(socket: &UdpSocket) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port()))
}

/// Sends bursts of all senders, trains and single packets; what each socket is sent by whom.
fn send_all(sockets: &Sockets, dice: &mut Dice) -> Flows<(usize, SocketAddr)> {
    let mut sent = Flows::new();
    let mut charged = 0;
    for _ in 0..dice.index(60) {
        let (sender, to) = (&sockets.senders[dice.index(3)], dice.index(3));
        let size = if dice.permille(500) { dice.pick(&SIZES) } else { dice.index(1_500) };
        let is_train = size > 0 && size <= 1_452 && dice.permille(700);
        let most = if is_train { (MAX_TRAIN_BYTES / size).min(MAX_TRAIN_PACKETS) } else { 4 };
        let mut count = 1 + dice.index(most);
        if dice.permille(300) {
            count = most;
        }
        charged += count * (OVERHEAD + 2 * size);
        if charged > sockets.room {
            break;
        }
        let mut packets: Vec<Vec<u8>> = (0..count).map(|_| dice.data(size)).collect();
        if dice.permille(300)
            && let Some(last) = packets.last_mut()
        {
            last.truncate(1 + dice.index(size));
        }
        let target = address(&sockets.between[to]);
        if is_train {
            let size = u16::try_from(size).unwrap();
            let control = [ControlMessage::UdpGsoSegments(&size)];
            let control = if count > 1 { &control[..] } else { &[] };
            let to = SockaddrStorage::from(target);
            let bytes = packets.concat();
            sendmsg(sender.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::empty(), Some(&to))
                .unwrap();
        } else {
            for packet in &packets {
                sender.send_to(packet, target).unwrap();
            }
        }
        sent.entry((to, address(sender))).or_default().extend(packets);
    }
    sent
}

/// Has messages of this thread refused; how many trains were let through.
fn refuse(ways: BTreeMap<SocketAddr, Way>, mut dice: Dice) -> Rc<Cell<usize>> {
    let trains = Rc::new(Cell::new(0));
    let count = Rc::clone(&trains);
    let mut was_interrupted = false;
    refusals::refuse(move |Attempt { to, is_train, size }| {
        // An error about an earlier datagram may hit any call, but it is told once only.
        was_interrupted = !was_interrupted && dice.permille(50);
        if was_interrupted {
            return Some(libc::ECONNREFUSED);
        }
        let refused = match ways[&to] {
            Way::Uncut(error) if is_train => Some(error),
            Way::Narrow(widest, error) if is_train && size > widest => Some(error),
            Way::Forbidden => Some(libc::EPERM),
            _ => None,
        };
        count.set(count.get() + usize::from(is_train && refused.is_none()));
        refused
    });
    trains
}

/// What a case has learned so far.
struct Case<'s> {
    sockets: &'s Sockets,
    batch: Batch,
    dice: Dice,
    ways: BTreeMap<SocketAddr, Way>,
    /// What has been sent to the sockets between and was not received yet.
    sent: Flows<(usize, SocketAddr)>,
    /// What is to arrive, by receiver and the socket that it left by.
    due: Flows<(usize, SocketAddr)>,
    forbidden: usize,
    failed: usize,
}

impl Case<'_> {
    fn receive(&mut self, index: usize) {
        if self.batch.is_full() {
            self.failed += self.batch.flush();
        }
        self.batch.receive(&self.sockets.between[index], SLOTS).unwrap();
        let mut next = 0;
        while let Some((slot, received)) = self.batch.received(next) {
            next += 1;
            for place in Batch::packets(slot, &received) {
                let flow = self.sent.get_mut(&(index, received.from)).unwrap();
                assert_eq!(Some(self.batch.peek(place)), flow.pop_front().as_deref());
                if self.batch.is_crowded() || self.dice.permille(2) {
                    self.failed += self.batch.send_queued();
                }
                self.forward(index, place);
            }
        }
    }

    fn forward(&mut self, index: usize, place: Place) {
        // Mostly the same for a flow, as clients talk to one peer for a while.
        let usual = self.dice.permille(900);
        let (to, by) =
            if usual { (index, (index + 1) % 3) } else { (self.dice.index(4), self.dice.index(3)) };
        let change = [Change::Nothing, Change::Strip, Change::Prepend(4), Change::Prepend(36)];
        let change = if usual { change[index] } else { self.dice.pick(&change) };
        let range = match change {
            Change::Nothing => place.range(),
            Change::Strip => place.start + place.length.min(4)..place.start + place.length,
            Change::Prepend(header) => {
                let place = self.batch.with_room(place, 0);
                let start = place.start - header;
                self.batch.memory[start..place.start].copy_from_slice(&self.dice.data(header));
                start..place.start + place.length
            }
        };
        let target = address(&self.sockets.receivers[to]);
        let way_out = &self.sockets.between[by];
        let source = (by == 2).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if matches!(self.ways[&target], Way::Forbidden) {
            self.forbidden += 1;
        } else {
            let bytes = self.batch.bytes(range.clone()).to_vec();
            self.due.entry((to, address(way_out))).or_default().push_back(bytes);
        }
        self.batch.send(way_out.as_raw_fd(), range, target, source);
    }

    /// Takes what has arrived, and compares it.
    fn take(&mut self) {
        let mut buffer = vec![0; 66_000];
        for (index, receiver) in self.sockets.receivers.iter().enumerate() {
            while let Ok((length, from)) = receiver.recv_from(&mut buffer) {
                let expected = self.due.get_mut(&(index, from)).and_then(VecDeque::pop_front);
                // Not `assert_eq`, which would print them.
                let is_expected = expected.as_deref() == Some(&buffer[..length]);
                assert!(
                    is_expected,
                    "{length} and not {:?} bytes to {index} from {from}",
                    expected.map(|it| it.len())
                );
            }
        }
    }
}

fn is_empty<K>(flows: &Flows<K>) -> bool {
    flows.values().all(VecDeque::is_empty)
}

/// One mixture; how many packets it had, and how many trains left.
fn check_mixture(sockets: &Sockets, seed: u64) -> (usize, usize) {
    let mut dice = Dice::new(seed);
    let sent = send_all(sockets, &mut dice);
    let packets = sent.values().map(VecDeque::len).sum();
    let way = |dice: &mut Dice| match dice.index(8) {
        4 => Way::Uncut(libc::EINVAL),
        5 if seed.is_multiple_of(4) => Way::Uncut(libc::EIO),
        6 => Way::Narrow(dice.index(1_500), dice.pick(&[libc::EMSGSIZE, libc::EINVAL])),
        7 => Way::Forbidden,
        _ => Way::Free,
    };
    let ways: BTreeMap<_, _> = sockets.receivers.iter().map(|to| (address(to), way(&mut dice))).collect();
    let trains = refuse(ways.clone(), Dice::new(seed));
    let batch = Batch::new();
    let mut case = Case { sockets, batch, dice, ways, sent, due: Flows::new(), forbidden: 0, failed: 0 };
    let deadline = Instant::now() + LONG;
    while !is_empty(&case.sent) || !is_empty(&case.due) {
        (0..3).for_each(|index| case.receive(index));
        case.failed += case.batch.flush();
        case.take();
        assert!(Instant::now() < deadline, "lost: {:?} {:?}", case.sent.len(), case.due.len());
    }
    assert_eq!(case.failed, case.forbidden, "what the system would not take is counted, nothing else");
    (packets, trains.get())
}

#[test]
fn any_mixture_leaves_as_it_came() {
    for (coalesced, cut) in [(true, true), (true, false), (false, true)] {
        let sockets = Sockets::new(coalesced, cut);
        let (mut packets, mut trains) = (0, 0);
        for seed in 0..40 {
            println!("seed {seed}");
            let (of_case, left) = check_mixture(&sockets, seed);
            (packets, trains) = (packets + of_case, trains + left);
        }
        println!("{packets} packets, {trains} trains");
        assert!(packets > 1_000 && trains > 50, "{packets} packets in {trains} trains test nothing");
    }
}

#[test]
fn reads_ask_for_one_until_more_than_one_waits() {
    let mut depth = Depth::default();
    // What is told of sixteen reads, the first of which asked for all.
    let mut reads = |waiting: usize| -> Vec<usize> {
        let one = |_| {
            let most = depth.most();
            depth.found(waiting.min(most));
            most
        };
        (0..16).map(one).collect()
    };
    let alone: Vec<usize> = [SLOTS].into_iter().chain([1; 15]).collect();
    assert_eq!(reads(1), alone);
    assert_eq!(reads(0), alone);
    assert_eq!(reads(2), [SLOTS; 16]);
    assert_eq!(reads(1), [SLOTS; 16].into_iter().take(1).chain([1; 15]).collect::<Vec<_>>());
}
