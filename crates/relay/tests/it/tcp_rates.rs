//! The rates of data connections, on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use turn::{Command, KeyLimits, Rate};

use crate::fixture::{KEY, Running, SHORT};
use crate::tcp::{allocated, connected, patient, pattern, peer};

fn limit(running: &Running, bits_of_allocation: Option<u64>, bits_of_key: Option<u64>) {
    let rate = |bits_per_second| Rate { bits_per_second, ..Rate::default() };
    let limits = KeyLimits {
        allocation_rate: rate(bits_of_allocation),
        key_rate: rate(bits_of_key),
        ..KeyLimits::default()
    };
    running.relay().command(&Command::KeyLimits { key: KEY, limits: Some(limits) });
}

/// Writes as much as it can until it is told to stop or nobody reads any more.
fn flood(mut to: TcpStream, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        to.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let chunk = [7; 10_000];
        while !stop.load(Ordering::Relaxed) {
            match to.write(&chunk) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
}

/// How much arrives in so long.
fn arrives(from: &mut TcpStream, time: Duration) -> usize {
    let (begun, mut total, mut buffer) = (Instant::now(), 0, vec![0; 50_000]);
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while begun.elapsed() < time {
        match from.read(&mut buffer) {
            Ok(0) => return total,
            Ok(length) => total += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    total
}

/// What comes at a rate of so many bytes in this time: never more than that, what a second brings at once, and two
/// reads; and 70 % at least, for who is waited for may be late.
fn assert_rate(total: usize, per_second: usize, begun: Instant, name: &str) {
    let at_rate = brought(per_second, begun.elapsed());
    let most = at_rate + per_second + 2 * 16_384;
    assert!((at_rate * 7 / 10..most).contains(&total), "{name}: {total} bytes, at the rate {at_rate}");
}

/// What a rate of so many bytes a second brings in this time.
fn brought(per_second: usize, time: Duration) -> usize {
    per_second * usize::try_from(time.as_millis()).unwrap() / 1_000
}

#[test]
fn both_ways_flow_at_the_rate_of_their_allocation() {
    for is_own in [true, false] {
        let (running, _, mut client, _) = allocated(2);
        let rate = Some(4_000_000);
        limit(&running, rate.filter(|_| is_own), rate.filter(|_| !is_own));
        let (near, far) = connected(&mut client);
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let senders = [&near, &far].map(|end| flood(end.try_clone().unwrap(), &stop));
        let readers = [("to the client", near), ("to the peer", far)].map(|(name, mut end)| {
            std::thread::spawn(move || {
                let total = arrives(&mut end, Duration::from_millis(2_500));
                assert_rate(total, 500_000, begun, name);
            })
        });
        for reader in readers {
            reader.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap();
        }
        running.wait_for("it is counted", |totals| totals.rate_holds > 10);
        assert_eq!(running.relay().totals().rate_drops, 0, "nothing of a stream is dropped");
    }
}

#[test]
fn a_limit_takes_hold_of_a_connection_that_lives_and_releases_it() {
    let (running, _, mut client, _) = allocated(1);
    let (mut near, mut far) = connected(&mut client);
    let data = pattern(40_000, 3);
    let mut heard = vec![0; data.len()];
    for round in 0..3 {
        near.write_all(&data).unwrap();
        patient(far.try_clone().unwrap()).read_exact(&mut heard).unwrap();
        assert!(heard == data, "without a limit, {round}");
        limit(&running, Some(0), None);
        // Whoever answers has read what it was told before.
        assert!(client.refresh(600).unwrap() > 0);
        near.write_all(&data).unwrap();
        assert_eq!(arrives(&mut far, SHORT), 0, "held, {round}");
        // One that lets a second's worth through at once, and another that lets all of it.
        limit(&running, Some(80_000), None);
        let begun = Instant::now();
        let first = arrives(&mut far, SHORT);
        let most = 10_000 + brought(10_000, begun.elapsed()) + 1_010;
        // What was used of it in the round before counts.
        let least = if round == 0 { 8_000 } else { 2_000 };
        assert!((least..most).contains(&first), "{first} bytes, {round}");
        limit(&running, None, None);
        let begun = Instant::now();
        patient(far.try_clone().unwrap()).read_exact(&mut heard[first..]).unwrap();
        assert!(heard[first..] == data[first..], "released, {round}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{round}: {:?}", begun.elapsed());
    }
}

#[test]
fn connections_of_a_key_have_their_share_each() {
    let (running, _, mut client, _) = allocated(2);
    limit(&running, None, Some(4_000_000));
    let pairs: Vec<_> = (0..4).map(|_| connected(&mut client)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let (senders, readers): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .map(|(near, mut far)| {
            let read = std::thread::spawn(move || arrives(&mut far, Duration::from_millis(2_500)));
            (flood(near, &stop), read)
        })
        .unzip();
    let totals: Vec<usize> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
    assert_rate(totals.iter().sum(), 500_000, begun, "together");
    // The first may have had all of the first second.
    assert!(totals.iter().all(|total| *total > 150_000), "{totals:?}");
}

#[test]
fn what_is_held_is_not_lost_when_its_sender_has_gone() {
    for is_hung in [false, true] {
        let (running, _, mut client, _) = allocated(1);
        limit(&running, Some(1_600_000), None);
        let (mut near, mut far) = connected(&mut client);
        if is_hung {
            // Both ways are closed then: nothing is left to wait for on that side but the rate.
            far.shutdown(Shutdown::Write).unwrap();
            assert_eq!(near.read(&mut [0; 16]).unwrap(), 0);
        }
        let data = pattern(400_000, 4);
        let begun = Instant::now();
        near.write_all(&data).unwrap();
        drop(near);
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).unwrap();
        assert!(heard == data, "{} bytes", heard.len());
        assert!(begun.elapsed() > Duration::from_millis(850), "{:?}", begun.elapsed());
        drop(far);
        running.wait_for("the pair is over", |totals| totals.peer_connections == 0);
        assert_eq!(running.relay().totals().relayed.bytes_to_peers, 400_000);
    }
}

#[test]
fn data_behind_the_bind_is_counted_like_other_data() {
    let (running, credential, mut client, _) = allocated(4);
    limit(&running, Some(8_000), None);
    let (listener, address) = peer();
    let connection = client.connect_peer(address).unwrap();
    let mut far = patient(listener.accept().unwrap().0);
    let mut other = running.connect(0, &credential);
    other.allocate().unwrap();
    other.refresh(0).unwrap();
    let signature = other.client().signature().unwrap().clone();
    let transaction = stun::TransactionId::from_bytes([1; 12]);
    let mut bytes = testkit::message::request(stun::Method::CONNECTION_BIND, transaction, |writer| {
        writer.attribute_u32(stun::AttributeType::CONNECTION_ID, connection);
        signature.sign(writer);
    });
    let data = pattern(2_000, 5);
    bytes.extend_from_slice(&data);
    let begun = Instant::now();
    other.send_raw(&bytes).unwrap();
    let mut heard = vec![0; data.len()];
    far.read_exact(&mut heard).unwrap();
    assert!(heard == data);
    assert!(begun.elapsed() > Duration::from_millis(850), "{:?}", begun.elapsed());
}
