use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use super::*;

/// Two ends of a connection.
fn ends() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    (near, far)
}

/// Whether anything wants to be looked at.
fn is_woken(epoll: &Epoll) -> bool {
    let mut events = Vec::new();
    epoll.wait(&mut events, Some(0)).unwrap();
    !events.is_empty()
}

#[test]
fn a_side_that_is_held_wakes_nobody_until_its_time() {
    let epoll = Epoll::new().unwrap();
    let mut splices = Splices::new(StreamLimits::default());
    let id = ConnectionId(7);
    let ((peer, mut far), (data, mut client)) = (ends(), ends());
    splices.hold(id, peer).unwrap();
    epoll.add(&data, 1, Interest::Read).unwrap();
    client.write_all(&[1; 5_000]).unwrap();
    let index = splices.bind(id, Link::new(data), &[2; 1_000], &epoll, 0).unwrap();
    let (mut buffer, mut records) = (vec![0; CHUNK], Records::new());
    let mut read = 0;
    let mut step = |splices: &mut Splices, now_ms, most: usize| {
        let mut pass = |_, direction, bytes| {
            assert!(direction == Direction::ToPeer || bytes == 0);
            read += bytes;
            if direction == Direction::ToPeer && read >= most {
                return Allowance::Until(100);
            }
            Allowance::Bytes(500)
        };
        let progress = {
            let mut room = Room { buffer: &mut buffer, records: &mut records, now_ms };
            splices.ready(index, None, &epoll, &mut room, &mut pass)
        };
        assert!(matches!(progress, Progress::Moved(..)), "{progress:?}");
        read
    };
    assert_eq!(
        step(&mut splices, 0, 1_400),
        1_500,
        "what was there first, and up to a read more than may be"
    );
    assert_eq!((splices.next_check(), splices.hold_count()), (Some(100), 1));
    assert!(!is_woken(&epoll), "although there is more");
    assert_eq!(step(&mut splices, 99, 9_999), 1_500, "whatever else happens");
    assert_eq!((splices.resumed(99), splices.resumed(100), splices.resumed(100)), (None, Some(index), None));
    assert_eq!(step(&mut splices, 100, 9_999), 3_500);
    assert!(is_woken(&epoll), "and now there is more");
    // Held again, other limits, and then the end.
    assert_eq!(step(&mut splices, 100, 0), 3_500);
    assert!(!is_woken(&epoll));
    splices.reconsider(50);
    assert_eq!((splices.resumed(50), splices.resumed(51)), (None, Some(index)));
    step(&mut splices, 51, 0);
    splices.close(id);
    splices.sweep();
    assert_eq!((splices.resumed(u64::MAX), splices.held.next_ms()), (None, None));
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, [vec![2; 1_000], vec![1; 2_500]].concat(), "in order");
}
