//! The virtual network keeps to its links' settings.

use std::net::SocketAddr;

use testkit::dice::Dice;
use testkit::network::{Delivery, Link, Network};

fn addresses() -> (SocketAddr, SocketAddr) {
    ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap())
}

/// Sends 1,000 numbered datagrams, one each millisecond; when each arrived and its number.
fn thousand(seed: u64, link: Link) -> Vec<(u64, u32)> {
    let (from, to) = addresses();
    let mut network = Network::new(seed, Link::PERFECT);
    network.set_link(from, to, link);
    for number in 0..1_000_u32 {
        network.send(number.into(), from, to, &number.to_be_bytes());
    }
    let mut arrived = vec![];
    while let Some(now) = network.poll_timeout() {
        while let Some(delivery) = network.poll_delivery(now) {
            let Delivery::Datagram { bytes, .. } = delivery else { panic!("{delivery:?}") };
            arrived.push((now, u32::from_be_bytes(bytes.try_into().unwrap())));
        }
    }
    arrived
}

#[test]
fn a_perfect_link_delivers_at_once_and_in_order() {
    let expected: Vec<(u64, u32)> = (0..1_000).map(|number| (number.into(), number)).collect();
    assert_eq!(thousand(1, Link::PERFECT), expected);
}

#[test]
fn links_delay_lose_double_and_reorder() {
    let numbers = |link| thousand(1, link).into_iter().map(|(_, number)| number).collect::<Vec<_>>();
    let late = thousand(1, Link { delay_ms: 50, jitter_ms: 20, ..Link::PERFECT });
    assert!(late.iter().all(|(at, number)| (50..=70).contains(&(at - u64::from(*number)))));
    assert!(late.iter().map(|(_, number)| *number).eq(0..1_000), "jitter alone reorders nothing");
    let lossy = numbers(Link { loss_permille: 300, ..Link::PERFECT }).len();
    assert!((600..800).contains(&lossy), "{lossy}");
    let doubled = numbers(Link { duplicate_permille: 300, ..Link::PERFECT }).len();
    assert!((1_200..1_400).contains(&doubled), "{doubled}");
    let shuffled = numbers(Link { jitter_ms: 20, reorder_permille: 500, ..Link::PERFECT });
    assert!(!shuffled.is_sorted() && shuffled.len() == 1_000);
}

#[test]
fn a_seed_decides_all() {
    let link = Link {
        delay_ms: 5,
        jitter_ms: 50,
        loss_permille: 100,
        duplicate_permille: 100,
        reorder_permille: 500,
    };
    assert_eq!(thousand(7, link), thousand(7, link));
    assert_ne!(thousand(7, link), thousand(8, link));
}

#[test]
fn a_stream_loses_nothing_and_is_cut_and_joined_anywhere() {
    let (from, to) = addresses();
    let link = Link { jitter_ms: 30, loss_permille: 1_000, ..Link::PERFECT };
    let mut network = Network::new(1, link);
    let mut dice = Dice::new(2);
    let writes: Vec<Vec<u8>> = (0..200).map(|n| dice.data(1 + n % 70)).collect();
    for (at, bytes) in (0..).zip(&writes) {
        network.write(at, from, to, bytes);
    }
    let mut segments = vec![];
    while let Some(now) = network.poll_timeout() {
        while let Some(Delivery::Segment { bytes, .. }) = network.poll_delivery(now) {
            segments.push(bytes);
        }
    }
    assert_eq!(segments.concat(), writes.concat());
    let lengths = |parts: &[Vec<u8>]| parts.iter().map(Vec::len).collect::<Vec<_>>();
    assert_ne!(lengths(&segments), lengths(&writes));
    assert!(segments.iter().any(|segment| segment.len() > 70), "some are joined");
}

#[test]
fn a_closed_stream_forgets_what_was_under_way() {
    let (from, to) = addresses();
    let mut network = Network::new(1, Link { delay_ms: 10, ..Link::PERFECT });
    network.write(0, from, to, b"old");
    network.close(to, from);
    network.write(5, from, to, b"new");
    let mut arrived = vec![];
    while let Some(Delivery::Segment { bytes, .. }) = network.poll_delivery(100) {
        arrived.extend(bytes);
    }
    assert_eq!(arrived, b"new");
}
