//! The rates of data connections, in virtual time.

use credentials::Credential;
use turn::{Allowance, Client, Command, ConnectionId, Direction, KeyLimits, Rate, STREAM_PACKET_BYTES};

use crate::fixture::{Fixture, KEY, NOW, Outcome, PEER};
use crate::tcp::data;

const WAYS: [Direction; 2] = [Direction::ToPeer, Direction::ToClient];
const UNLIMITED: Allowance = Allowance::Bytes(usize::MAX);
const NEVER: Allowance = Allowance::Until(u64::MAX);

fn bits(rate: u64) -> Rate {
    Rate { bits_per_second: Some(rate), ..Rate::default() }
}

fn packets(rate: u64) -> Rate {
    Rate { packets_per_second: Some(rate), ..Rate::default() }
}

fn own(allocation_rate: Rate) -> KeyLimits {
    KeyLimits { allocation_rate, ..KeyLimits::default() }
}

fn shared(key_rate: Rate) -> KeyLimits {
    KeyLimits { key_rate, ..KeyLimits::default() }
}

/// A connection that carries data.
fn bound(fixture: &mut Fixture, credential: &Credential, peer: &str, from: Client) -> ConnectionId {
    let (connection, _) = fixture.connected(credential, peer);
    let bound = fixture.bind_connection(from, credential, connection);
    assert!(matches!(bound, Outcome::Bind(..)), "{bound:?}");
    connection
}

fn ready(limits: KeyLimits) -> (Fixture, Credential, ConnectionId) {
    let mut fixture = Fixture::configured(|config| config.key_limits = limits);
    let credential = fixture.mint(3_600);
    fixture.allocate_tcp(&credential);
    let connection = bound(&mut fixture, &credential, PEER, data());
    (fixture, credential, connection)
}

impl Fixture {
    fn ask_rate(&mut self, connection: ConnectionId, way: Direction) -> Allowance {
        self.server.relayed(self.now(), connection, way, 0)
    }

    /// Reads as much as may be read, up to a chunk at once, for so long; how much.
    fn read_for(&mut self, connection: ConnectionId, way: Direction, chunk: usize, ms: u64) -> usize {
        let end_ms = self.now_ms + ms;
        let mut read = 0;
        loop {
            match self.ask_rate(connection, way) {
                Allowance::Bytes(most) => {
                    assert!(most > 0);
                    let next = self.server.relayed(self.now(), connection, way, most.min(chunk));
                    assert_eq!(next, self.ask_rate(connection, way), "to ask costs nothing");
                    read += most.min(chunk);
                }
                Allowance::Until(until_ms) if until_ms <= end_ms => {
                    assert!(until_ms > self.now_ms);
                    self.now_ms = until_ms;
                }
                Allowance::Until(_) => {
                    self.now_ms = end_ms;
                    return read;
                }
            }
        }
    }
}

#[test]
fn a_stream_flows_at_the_rate_whatever_is_read_at_once() {
    for (limits, per_second) in [
        (own(bits(80_000)), 10_000),
        (shared(bits(80_000)), 10_000),
        (own(bits(80_000_000)), 10_000_000),
        (shared(packets(100)), 100 * STREAM_PACKET_BYTES),
        (own(bits(8)), 1),
    ] {
        for chunk in [16_384, 8 * STREAM_PACKET_BYTES] {
            for way in WAYS {
                let (mut fixture, _, connection) = ready(limits);
                // A second's worth at once, then what comes in, and at most one read more.
                let read = fixture.read_for(connection, way, chunk, 10_000);
                let most = 11 * per_second + chunk.min(per_second / 10).max(1);
                let packet = if limits.key_rate.packets_per_second.is_some() { chunk } else { 0 };
                assert!((11 * per_second..=most + packet).contains(&read), "{limits:?} {chunk}: {read}");
                let read = fixture.read_for(connection, way, chunk, 10_000);
                let least = 10 * per_second - chunk.min(per_second / 10).max(1) - packet;
                assert!((least..=most).contains(&read), "{limits:?} {chunk}: {read}");
            }
        }
    }
}

#[test]
fn small_reads_are_packets_of_their_own() {
    let (mut fixture, _, connection) = ready(own(packets(10)));
    assert_eq!(fixture.ask_rate(connection, Direction::ToPeer), Allowance::Bytes(STREAM_PACKET_BYTES));
    let read = fixture.read_for(connection, Direction::ToPeer, 100, 5_000);
    assert!((60 * 100..=61 * 100).contains(&read), "{read}");
    assert_eq!(
        fixture.ask_rate(connection, Direction::ToClient),
        Allowance::Bytes(STREAM_PACKET_BYTES),
        "each way has its own bucket"
    );
}

#[test]
fn without_limits_nothing_is_held_and_what_is_not_bound_is_not_read() {
    let (mut fixture, credential, connection) = ready(KeyLimits::default());
    for way in WAYS {
        assert_eq!(fixture.server.relayed(fixture.now(), connection, way, 1 << 30), UNLIMITED);
        assert_eq!(fixture.ask_rate(ConnectionId(connection.0 ^ 1), way), NEVER);
    }
    let (waiting, _) = fixture.connected(&credential, "8.8.8.8:7000");
    assert_eq!(fixture.ask_rate(waiting, Direction::ToClient), NEVER);
    // Not a byte after the end, swept or not.
    fixture.now_ms += 600_000;
    assert_eq!(fixture.ask_rate(connection, Direction::ToPeer), NEVER);
}

#[test]
fn limits_changed_live_hold_and_release_streams() {
    let (mut fixture, _, connection) = ready(KeyLimits::default());
    let way = Direction::ToPeer;
    assert_eq!(fixture.ask_rate(connection, way), UNLIMITED);
    let limit = |fixture: &mut Fixture, limits| fixture.command(Command::KeyLimits { key: KEY, limits });
    limit(&mut fixture, Some(own(bits(80_000))));
    assert_eq!(fixture.ask_rate(connection, way), Allowance::Bytes(1_000));
    assert_eq!(fixture.server.relayed(fixture.now(), connection, way, 20_000), {
        // Ten thousand bytes were there; the others take a second.
        Allowance::Until(fixture.now_ms + 1_000)
    });
    limit(&mut fixture, Some(own(bits(0))));
    assert_eq!(fixture.ask_rate(connection, way), NEVER);
    limit(&mut fixture, None);
    assert_eq!(fixture.ask_rate(connection, way), UNLIMITED);
    limit(&mut fixture, Some(own(bits(80_000))));
    assert_eq!(fixture.ask_rate(connection, way), Allowance::Until(fixture.now_ms + 1_000), "still owed");
    fixture.now_ms += 1_000;
    assert_eq!(fixture.ask_rate(connection, way), Allowance::Bytes(1_000));
}

#[test]
fn streams_and_datagrams_of_a_key_share_its_rate_over_all_workers() {
    let (mut fixture, credential, connection) = ready(shared(bits(80_000)));
    let second = bound(
        &mut fixture,
        &credential,
        "8.8.8.8:7000",
        crate::fixture::client(turn::Transport::Tcp, "81.0.0.1:4002"),
    );
    let mut sibling = fixture.sibling();
    let other = sibling.mint(3_600);
    let alice = crate::fixture::alice();
    sibling.allocate(alice, &other);
    assert_eq!(sibling.permit(alice, &other, &[PEER]), 0);
    assert!(sibling.hears());
    let now = fixture.now();
    assert_eq!(now.unix_secs(), NOW);
    let after = fixture.server.relayed(now, connection, Direction::ToClient, 10_496);
    assert_eq!(after, Allowance::Until(fixture.now_ms + 50), "ten thousand, and what the datagram had taken");
    assert_eq!(fixture.ask_rate(second, Direction::ToClient), after);
    assert!(!sibling.hears() && sibling.sends(alice), "and the datagrams wait for the stream to be paid");
    for (worker, passes) in [(49, false), (50, false), (51, true)] {
        sibling.now_ms = fixture.now_ms + worker;
        assert_eq!(sibling.hears(), passes, "{worker}");
    }
}
